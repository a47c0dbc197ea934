//! Text made for people and for other languages: numbers, dates, phone numbers, and encodings.
//!
//! Invariant: every function gives a text, whatever it is given.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::calendar::{self, DAY_US};
use crate::decimal::SCALE;

/// Most characters that a text is padded to; more is meant for nobody.
const PADDED_MAX: i32 = 100_000;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Digits in groups of three, and so many behind the separator; half away from zero.
pub fn decimal(units: i128, digits: i32, point: &str, group: &str) -> String {
    let magnitude = units.unsigned_abs();
    number(units < 0, (magnitude / WHOLE, magnitude % WHOLE), digits, point, group)
}

/// As [`decimal`], behind a symbol: the sign belongs to the number.
pub fn currency(units: i128, symbol: &str, digits: i32, point: &str, group: &str) -> String {
    String::from(symbol) + &decimal(units, digits, point, group)
}

/// A hundred times the number, which need not be within the range of a Decimal.
pub fn percent(units: i128, digits: i32, point: &str) -> String {
    let magnitude = units.unsigned_abs();
    let parts = (magnitude / (WHOLE / 100), magnitude % (WHOLE / 100) * 100);
    number(units < 0, parts, digits, point, "") + "%"
}

/// One whole, in units of the second part of a number.
const WHOLE: u128 = SCALE as u128;

fn number(negative: bool, parts: (u128, u128), digits: i32, point: &str, group: &str) -> String {
    let digits = digits.clamp(0, 8) as usize;
    let step = 10u128.pow(8 - digits as u32);
    let rounded = (parts.1 + step / 2) / step * step;
    let (whole, fraction) = (parts.0 + rounded / WHOLE, rounded % WHOLE);
    let plain = whole.to_string();
    let mut out = String::from(if negative && (whole, fraction) != (0, 0) { "-" } else { "" });
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            out.push_str(group);
        }
        out.push(digit);
    }
    if digits > 0 {
        out.push_str(point);
        out.push_str(&format!("{fraction:08}")[..digits]);
    }
    out
}

/// The digits of country, area and number, each behind its separator; what has no digits has no separator.
pub fn phone(number: &str, digits: [i32; 3], before: [&str; 3]) -> String {
    let mut rest = number;
    let mut out = String::new();
    for (count, separator) in digits.into_iter().zip(before) {
        let end = rest.char_indices().nth(count.max(0) as usize).map_or(rest.len(), |(at, _)| at);
        let (part, after) = rest.split_at(end);
        if !part.is_empty() {
            out.push_str(separator);
            out.push_str(part);
        }
        rest = after;
    }
    out
}

/// Where a text is in another, in characters, or -1; an empty one is nowhere. The search begins at `start`.
/// From the end, it finds the last one, and a `start` other than 0 is where the text ends.
pub fn index(value: &str, search: &str, start: i32, from_end: bool, any_case: bool) -> i32 {
    if any_case {
        // One character for one, so that places stay what they are.
        let lower =
            |text: &str| -> String { text.chars().map(|c| c.to_lowercase().next().unwrap_or(c)).collect() };
        return index(&lower(value), &lower(search), start, from_end, false);
    }
    let start = start.max(0) as usize;
    let at = value.char_indices().nth(start).map_or(value.len(), |(at, _)| at);
    let found = match (search, from_end) {
        ("", _) => None,
        (_, false) => value[at..].find(search).map(|found| at + found),
        (_, true) => value[..if start == 0 { value.len() } else { at }].rfind(search),
    };
    found.map_or(-1, |at| value[..at].chars().count() as i32)
}

/// Padded to `least` characters and cut to `most`, at the left or at the right.
pub fn fitted(value: &str, least: i32, most: i32, left: bool, padding: &str) -> String {
    let count = value.chars().count();
    let missing = (least.clamp(0, PADDED_MAX) as usize).saturating_sub(count);
    let padding: String = padding.chars().next().into_iter().cycle().take(missing).collect();
    let padded = if left { padding + value } else { String::from(value) + &padding };
    let surplus = padded.chars().count().saturating_sub(most.max(0) as usize);
    if left {
        padded.chars().skip(surplus).collect()
    } else {
        padded.chars().take(most.max(0) as usize).collect()
    }
}

/// A date and time by a pattern of tokens; what is no token stands as it is.
pub fn date_time(us: i64, pattern: &str) -> String {
    let (days, time) = (us.div_euclid(DAY_US) as i32, us.rem_euclid(DAY_US) / 1_000_000);
    let ((year, month, day), (hour, minute, second)) =
        (calendar::civil(days), (time / 3600, time / 60 % 60, time % 60));
    let half = if hour % 12 == 0 { 12 } else { hour % 12 };
    let (weekday, month_name) = (DAYS[calendar::weekday(days) as usize], MONTHS[month as usize - 1]);
    let chars: Vec<char> = pattern.chars().collect();
    let (mut out, mut at) = (String::new(), 0);
    while at < chars.len() {
        let c = chars[at];
        if c == '\\' {
            out.extend(chars.get(at + 1));
            at += 2;
            continue;
        }
        let run = chars[at..].iter().take_while(|next| **next == c).count();
        let (used, text) = match (c, run) {
            ('d', 1) => (1, day.to_string()),
            ('d', 2) => (2, format!("{day:02}")),
            ('d', 3) => (3, weekday[..3].into()),
            ('d', _) => (4, weekday.into()),
            ('M', 1) => (1, month.to_string()),
            ('M', 2) => (2, format!("{month:02}")),
            ('M', 3) => (3, month_name[..3].into()),
            ('M', _) => (4, month_name.into()),
            ('y', 1) => (1, (year % 100).to_string()),
            ('y', 2 | 3) => (2, format!("{:02}", year % 100)),
            ('y', _) => (4, format!("{year:04}")),
            ('h', 1) => (1, half.to_string()),
            ('h', _) => (2, format!("{half:02}")),
            ('H', 1) => (1, hour.to_string()),
            ('H', _) => (2, format!("{hour:02}")),
            ('m', 1) => (1, minute.to_string()),
            ('m', _) => (2, format!("{minute:02}")),
            ('s', 1) => (1, second.to_string()),
            ('s', _) => (2, format!("{second:02}")),
            ('t', 1) => (1, String::from(if hour < 12 { "A" } else { "P" })),
            ('t', _) => (2, String::from(if hour < 12 { "AM" } else { "PM" })),
            _ => (1, c.to_string()),
        };
        out.push_str(&text);
        at += used;
    }
    out
}

/// For the content of an HTML element or attribute.
pub fn html(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\r' => {}
            '\n' => out.push_str("<br/>"),
            c => out.push(c),
        }
    }
    out
}

/// For the inside of a string of JavaScript, also one inside HTML.
pub fn javascript(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\'' | '"' | '<' | '>' | '&' | '\0'..'\u{20}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out
}

/// For a part of a URL's query.
pub fn url(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
}

/// An address as in the head of a mail, with the name in quotes.
pub fn email(name: &str, address: &str) -> String {
    if name.is_empty() {
        return address.into();
    }
    let name = name.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{name}\" <{address}>")
}

/// What a browser takes for an email address (HTML, valid e-mail address).
pub fn is_email(value: &str) -> bool {
    let Some((local, domain)) = value.split_once('@') else { return false };
    let is_local = |c: char| c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let is_label = |label: &str| {
        let inside = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        (1..=63).contains(&label.len()) && inside && !label.starts_with('-') && !label.ends_with('-')
    };
    !local.is_empty() && local.chars().all(is_local) && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decimal::UNITS_MAX;

    #[test]
    fn numbers_are_rounded_once_and_grouped() {
        assert_eq!(decimal(-UNITS_MAX, 2, ".", ","), "-79,228,162,514,264,337,593,543,950,336.00");
        assert_eq!(percent(UNITS_MAX, 1, "."), "7922816251426433759354395033600.0%");
        assert_eq!(percent(1, 8, "."), "0.00000100%");
        assert_eq!(decimal(SCALE - 1, 7, ".", ""), "1.0000000");
        assert_eq!(decimal(-SCALE / 2 + 1, 0, ".", ""), "0"); // no sign without a digit
        assert_eq!(decimal(-SCALE / 2, -3, ".", ""), "-1");
    }

    #[test]
    fn places_are_in_characters_whatever_the_case() {
        assert_eq!(index("İxİX", "X", 0, false, true), 1); // İ has a longer small letter
        assert_eq!(index("ababab", "ab", 4, true, false), 2);
        assert_eq!(index("ababab", "ab", 1, true, false), -1);
        assert_eq!(index("ab", "b", i32::MIN, false, false), 1);
        assert_eq!(index("ab", "b", i32::MAX, true, false), 1);
    }

    #[test]
    fn nothing_is_broken_by_odd_arguments() {
        assert_eq!(fitted("äbc", -1, -1, true, "x"), "");
        assert_eq!(fitted("ä", 3, 2, false, "xy"), "äx");
        assert_eq!(phone("ä1", [1, -1, 9], ["+", "-", "."]), "+ä.1");
        assert_eq!(date_time(0, "\\"), "");
        assert_eq!(date_time(0, "ddddd"), "Thursday1");
        assert!(is_email("a@b") && !is_email("a@b.") && !is_email("ä@b"));
        assert!(!is_email(&(String::from("a@") + &"b".repeat(64))));
    }
}
