//! Dates and times: days since 1970-01-01, microseconds since midnight, microseconds since the epoch (UTC).
//!
//! The civil-from-days arithmetic is Howard Hinnant's; it is exact over the whole range of the types.
//! Invariant: a text that is no date reads as `None`; nothing is guessed.

use alloc::string::String;

/// 1900-01-01, the default Date.
pub const DATE_DEFAULT: i32 = -25_567;
/// Microseconds of one day.
pub const DAY_US: i64 = 86_400_000_000;
/// 3000-12-31, the last Date.
pub const DATE_MAX: i32 = 376_564;

/// Days since 1970-01-01 of a civil date, or `None` when there is no such day in 1900-01-01 ..= 3000-12-31.
pub fn date(year: i32, month: i32, day: i32) -> Option<i32> {
    if !(1900..=3000).contains(&year) || !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468).filter(|days| *days <= DATE_MAX)
}

/// Year, month and day of days since 1970-01-01.
pub fn civil(days: i32) -> (i32, i32, i32) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let mp = (5 * day_of_year + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (year_of_era + era * 400 + i32::from(month <= 2), month, day_of_year - (153 * mp + 2) / 5 + 1)
}

/// Moves a date by months; the last day of the month where it is shorter. `None` outside the range of the type.
pub fn add_months(days: i32, months: i64) -> Option<i32> {
    let (year, month, day) = civil(days);
    let months = i64::from(year) * 12 + i64::from(month) - 1 + months;
    let (year, month) = (i32::try_from(months.div_euclid(12)).ok()?, months.rem_euclid(12) as i32 + 1);
    date(year, month, day.min(days_in(year, month)))
}

/// The day of the week; 0 is Sunday.
pub fn weekday(days: i32) -> i32 {
    (days + 4).rem_euclid(7) // 1970-01-01 was a Thursday
}

/// Microseconds since midnight, or `None` when there is no such time.
pub fn time(hour: i32, minute: i32, second: i32) -> Option<i64> {
    let valid = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    valid.then(|| (i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second)) * 1_000_000)
}

/// Reads `yyyy-MM-dd`, `yyyy/MM/dd` or `yyyy.MM.dd`.
pub fn parse_date(text: &str) -> Option<i32> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != bytes[7] || !matches!(bytes[4], b'-' | b'/' | b'.') {
        return None;
    }
    date(number(&bytes[..4])?, number(&bytes[5..7])?, number(&bytes[8..])?)
}

/// Reads `HH:mm`, `HH:mm:ss` and fractions of a second.
pub fn parse_time(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() < 5 || bytes[2] != b':' {
        return None;
    }
    let (hour, minute) = (number(&bytes[..2])?, number(&bytes[3..5])?);
    let (second, rest) = match bytes.get(5) {
        None => (0, &bytes[5..]),
        Some(b':') if bytes.len() >= 8 => (number(&bytes[6..8])?, &bytes[8..]),
        Some(_) => return None,
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut us = 0;
    if let Some((b'.', digits)) = rest.split_first() {
        if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        for place in 0..6 {
            us = us * 10 + digits.get(place).map_or(0, |d| i64::from(d - b'0'));
        }
    } else if !rest.is_empty() {
        return None;
    }
    Some((i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second)) * 1_000_000 + us)
}

/// Reads a date, or a date and a time with `T` or a space between them, `Z` or `±HH:mm` after. An offset may lead
/// out of the range of the type; then there is no such moment.
pub fn parse_date_time(text: &str) -> Option<i64> {
    let moments = i64::from(DATE_DEFAULT) * DAY_US..(i64::from(DATE_MAX) + 1) * DAY_US;
    parse_moment(text).filter(|moment| moments.contains(moment))
}

fn parse_moment(text: &str) -> Option<i64> {
    let day = i64::from(parse_date(text.get(..10)?)?) * DAY_US;
    let Some(rest) = text.get(10..).filter(|rest| !rest.is_empty()) else { return Some(day) };
    let clock = rest.strip_prefix(['T', ' '])?;
    if let Some(utc) = clock.strip_suffix('Z') {
        return Some(day + parse_time(utc)?);
    }
    match clock.rfind(['+', '-']) {
        None => Some(day + parse_time(clock)?),
        Some(at) => {
            let offset = parse_time(clock.get(at + 1..)?)?;
            let local = day + parse_time(&clock[..at])?;
            Some(if clock.as_bytes()[at] == b'+' { local - offset } else { local + offset })
        }
    }
}

/// `yyyy-MM-dd`.
pub fn format_date(out: &mut String, days: i32) {
    let (year, month, day) = civil(days);
    padded(out, year as u32, 4);
    out.push('-');
    padded(out, month as u32, 2);
    out.push('-');
    padded(out, day as u32, 2);
}

/// `HH:mm:ss`, with microseconds only when there are any.
pub fn format_time(out: &mut String, us: i64) {
    let seconds = us.div_euclid(1_000_000) as u32;
    padded(out, seconds / 3600, 2);
    out.push(':');
    padded(out, seconds / 60 % 60, 2);
    out.push(':');
    padded(out, seconds % 60, 2);
    let fraction = us.rem_euclid(1_000_000) as u32;
    if fraction != 0 {
        out.push('.');
        padded(out, fraction, 6);
    }
}

/// `yyyy-MM-dd`, `between`, `HH:mm:ss`.
pub fn format_date_time(out: &mut String, us: i64, between: char) {
    format_date(out, us.div_euclid(DAY_US) as i32);
    out.push(between);
    format_time(out, us.rem_euclid(DAY_US));
}

fn days_in(year: i32, month: i32) -> i32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0, |n, d| d.is_ascii_digit().then(|| n * 10 + i32::from(d - b'0')))
}

fn padded(out: &mut String, number: u32, width: u32) {
    for place in (0..width).rev() {
        out.push((b'0' + (number / 10u32.pow(place) % 10) as u8) as char);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_round_trip_and_impossible_days_are_refused() {
        for days in (DATE_DEFAULT..DATE_MAX).step_by(17) {
            let (y, m, d) = civil(days);
            assert_eq!(date(y, m, d), Some(days));
        }
        assert_eq!(parse_date("1900-01-01"), Some(DATE_DEFAULT));
        assert_eq!(parse_date("3000-12-31"), Some(DATE_MAX));
        assert_eq!(parse_date("2024/02/29"), date(2024, 2, 29));
        for bad in ["2023-02-29", "2023-13-01", "1899-12-31", "2023-1-1", "2023-01/01", "x"] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn instants_are_read_with_offset_and_written_in_utc() {
        let us = parse_date_time("2026-11-23T15:30:00.5+01:00").unwrap();
        let mut out = String::new();
        format_date_time(&mut out, us, 'T');
        assert_eq!(out, "2026-11-23T14:30:00.500000");
        assert_eq!(parse_date_time("2026-11-23 00:00"), parse_date_time("2026-11-23"));
        assert_eq!(parse_date_time("2026-11-23T24:00:00Z"), None);
        assert_eq!(parse_date_time("1900-01-01T00:00:00+00:01"), None);
        assert_eq!(parse_date_time("3000-12-31T23:59:59-00:01"), None);
        assert!(parse_date_time("3000-12-31T23:59:59Z").is_some());
        assert_eq!(parse_time("23:59:59"), Some(DAY_US - 1_000_000));
    }
}
