//! The built-in functions, from docs/oml/functions.md: what they take, and what they give.
//!
//! Not here: what depends on the clock or the request, and what the page leaves open (`Power` of large or broken
//! numbers, `Index` from the end of a place before the text).

use num_bigint::BigInt;

use super::values::{
    DAY, Ty, Value, civil, date_of, date_text, date_time_text, days, days_of_month, decimal_of, decimal_text,
    fits, time_text, unit,
};

/// What a function takes in one place.
#[derive(Debug)]
pub(crate) enum Arg {
    Of(Ty),
    /// An integer literal in a range: what lies beyond has no meaning that the page tells.
    Between(i32, i32),
    /// One of these texts, or any other.
    Texts(&'static [&'static str]),
    /// One of these texts.
    Only(&'static [&'static str]),
}

#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    pub(crate) args: &'static [Arg],
    /// Those behind may be left out.
    pub(crate) required: usize,
    pub(crate) result: Ty,
}

const BOOL: Arg = Arg::Of(Ty::Bool);
const INT: Arg = Arg::Of(Ty::Int);
const LONG: Arg = Arg::Of(Ty::Long);
const DEC: Arg = Arg::Of(Ty::Dec);
const TEXT: Arg = Arg::Of(Ty::Text);
const DATE: Arg = Arg::Of(Ty::Date);
const TIME: Arg = Arg::Of(Ty::Time);
const MOMENT: Arg = Arg::Of(Ty::DateTime);
const ID: Arg = Arg::Of(Ty::Id);
const NUMBERS: Arg = Arg::Texts(&[
    "7",
    "-7",
    "0",
    "7.5",
    "2147483647",
    "2147483648",
    "9223372036854775807",
    "x",
    "",
    "1,5",
    "-0.00000001",
    "+7",
    " 7 ",
    "1.123456785",
    "1e3",
    "15e-9",
    "2e40",
    "-+1",
    "1e",
]);
const DATES: Arg = Arg::Texts(&[
    "2024-02-29",
    "2023-02-29",
    "2024/02/29",
    "2024.12.31",
    "29.2.2024",
    "1899-12-31",
    "3000-12-31",
    "2024-02-29 10:20:30",
    "2024-02-29T10:20:30+02:00",
    "2024-02-29T23:20:30Z",
    "1900-01-01T00:00:00+02:00",
    "3000-12-31 23:59:59-00:30",
    " 2024-02-29 ",
    "",
]);
const TIMES: Arg = Arg::Texts(&["10:20", "10:20:30", "24:00", "10:60", "x", "1:2"]);
const POINTS: Arg = Arg::Only(&[".", ","]);
const GROUPS: Arg = Arg::Only(&[",", ".", " ", ""]);
const SIGNS: Arg = Arg::Only(&["$", "€ ", ""]);
const PHONES: Arg = Arg::Only(&["43662123456", "4366212345678", "43", ""]);
const SEPARATORS: Arg = Arg::Only(&["+", " ", "/", ""]);
const PADS: Arg = Arg::Only(&["0", " ", "ä", "ab", ""]);
const FORMATS: Arg = Arg::Only(&[
    "d dd ddd dddd|M MM MMM MMMM",
    "y yy yyyy|h hh H HH",
    "m mm|s ss|t tt",
    "\\d\\d yyyy-MM-ddTHH:mm:ss",
    "",
]);
const NAMES: Arg = Arg::Only(&["Ann Lee", "Lee, Ann", "", "Ännchen"]);
const MAILS: Arg = Arg::Texts(&[
    "ann@example.org",
    "a.b+c@d-e.org",
    "a@b",
    "a@",
    "@b",
    "a@-b.c",
    "a@b..c",
    "a b@c.d",
    "a@b@c",
    "",
]);

macro_rules! table {
    ($($name:ident($($arg:expr),* $(; $($more:expr),+)?) -> $result:ident)*) => {
        &[$(Builtin {
            name: stringify!($name),
            args: &[$($arg,)* $($($more,)+)?],
            required: <[&str]>::len(&[$(stringify!($arg)),*]),
            result: Ty::$result,
        }),*]
    };
}

pub(crate) const BUILTINS: &[Builtin] = table! {
    Abs(DEC) -> Dec
    Mod(DEC, DEC) -> Dec
    Power(Arg::Between(0, 30), Arg::Between(0, 30)) -> Dec
    Round(DEC; Arg::Between(0, 9)) -> Dec
    Sqrt(DEC) -> Dec
    Trunc(DEC) -> Dec
    Max(DEC, DEC) -> Dec
    Min(DEC, DEC) -> Dec
    Sign(DEC) -> Int
    Chr(Arg::Between(-2, 130)) -> Text
    Chr(INT) -> Text
    EncodeHtml(TEXT) -> Text
    EncodeJavaScript(TEXT) -> Text
    EncodeSql(TEXT) -> Text
    EncodeUrl(TEXT) -> Text
    Index(TEXT, TEXT; Arg::Between(0, 9), BOOL, BOOL) -> Int
    Index(TEXT, TEXT; INT) -> Int
    Length(TEXT) -> Int
    NewLine() -> Text
    Replace(TEXT, TEXT, TEXT) -> Text
    Substr(TEXT, INT, INT) -> Text
    Substr(TEXT, Arg::Between(0, 5), Arg::Between(0, 9)) -> Text
    ToLower(TEXT) -> Text
    ToUpper(TEXT) -> Text
    Trim(TEXT) -> Text
    TrimEnd(TEXT) -> Text
    TrimStart(TEXT) -> Text
    AddDays(MOMENT, INT) -> DateTime
    AddHours(MOMENT, INT) -> DateTime
    AddMinutes(MOMENT, INT) -> DateTime
    AddMonths(MOMENT, INT) -> DateTime
    AddSeconds(MOMENT, INT) -> DateTime
    AddYears(MOMENT, INT) -> DateTime
    BuildDateTime(DATE, TIME) -> DateTime
    Day(MOMENT) -> Int
    DayOfWeek(MOMENT) -> Int
    DiffDays(MOMENT, MOMENT) -> Int
    DiffHours(MOMENT, MOMENT) -> Int
    DiffMinutes(MOMENT, MOMENT) -> Int
    DiffSeconds(MOMENT, MOMENT) -> Int
    Hour(MOMENT) -> Int
    Minute(MOMENT) -> Int
    Month(MOMENT) -> Int
    NewDate(Arg::Between(1899, 3001), Arg::Between(0, 13), Arg::Between(0, 32)) -> Date
    NewDate(INT, INT, INT) -> Date
    NewDateTime(Arg::Between(1900, 3000), Arg::Between(1, 12), Arg::Between(1, 31), Arg::Between(0, 24), Arg::Between(0, 60), INT) -> DateTime
    NewTime(INT, Arg::Between(0, 60), Arg::Between(0, 60)) -> Time
    Second(MOMENT) -> Int
    Year(MOMENT) -> Int
    BooleanToInteger(BOOL) -> Int
    BooleanToText(BOOL) -> Text
    DateTimeToDate(MOMENT) -> Date
    DateTimeToText(MOMENT) -> Text
    DateTimeToTime(MOMENT) -> Time
    DateToDateTime(DATE) -> DateTime
    DateToText(DATE) -> Text
    DecimalToBoolean(DEC) -> Bool
    DecimalToInteger(DEC) -> Int
    DecimalToIntegerValidate(DEC) -> Bool
    DecimalToLongInteger(DEC) -> Long
    DecimalToLongIntegerValidate(DEC) -> Bool
    DecimalToText(DEC) -> Text
    IdentifierToInteger(ID) -> Int
    IdentifierToLongInteger(ID) -> Long
    IdentifierToText(ID) -> Text
    IntegerToBoolean(INT) -> Bool
    IntegerToDecimal(INT) -> Dec
    IntegerToIdentifier(INT) -> AnyId
    IntegerToText(INT) -> Text
    LongIntegerToIdentifier(LONG) -> AnyId
    LongIntegerToInteger(LONG) -> Int
    LongIntegerToIntegerValidate(LONG) -> Bool
    LongIntegerToText(LONG) -> Text
    NullBinary() -> Bytes
    NullDate() -> Date
    NullIdentifier() -> AnyId
    TextToDate(DATES) -> Date
    TextToDateTime(DATES) -> DateTime
    TextToDateTimeValidate(DATES) -> Bool
    TextToDateValidate(DATES) -> Bool
    TextToDecimal(NUMBERS) -> Dec
    TextToDecimalValidate(NUMBERS) -> Bool
    TextToIdentifier(NUMBERS) -> AnyId
    TextToInteger(NUMBERS) -> Int
    TextToIntegerValidate(NUMBERS) -> Bool
    TextToLongInteger(NUMBERS) -> Long
    TextToLongIntegerValidate(NUMBERS) -> Bool
    TextToTime(TIMES) -> Time
    TextToTimeValidate(TIMES) -> Bool
    TimeToText(TIME) -> Text
    FormatCurrency(DEC, SIGNS, Arg::Between(0, 9), POINTS, GROUPS) -> Text
    FormatDateTime(MOMENT, FORMATS) -> Text
    FormatDecimal(DEC, Arg::Between(0, 9), POINTS, GROUPS) -> Text
    FormatPercent(DEC, Arg::Between(0, 9), POINTS) -> Text
    FormatPhoneNumber(PHONES, Arg::Between(0, 3), Arg::Between(0, 3), Arg::Between(0, 7), SEPARATORS, SEPARATORS, SEPARATORS) -> Text
    FormatText(TEXT, Arg::Between(0, 6), Arg::Between(6, 9), BOOL, PADS) -> Text
    EmailAddressCreate(NAMES, MAILS) -> Text
    EmailAddressValidate(MAILS) -> Bool
    GetAppName() -> Text
    GetOwnerURLPath() -> Text
    GetCurrentLocale() -> Text
};

/// Half to even: what products, quotients and roundings to an integer do.
pub(crate) fn divide_half_even(value: &BigInt, by: &BigInt) -> BigInt {
    let negative = (*value < BigInt::ZERO) != (*by < BigInt::ZERO);
    let (value, by) = (magnitude(value), magnitude(by));
    let (mut quotient, rest) = (&value / &by, &value % &by);
    let twice = rest * 2;
    if twice > by || (twice == by && &quotient % 2 != BigInt::ZERO) {
        quotient += 1;
    }
    if negative { -quotient } else { quotient }
}

fn magnitude(value: &BigInt) -> BigInt {
    if *value < BigInt::ZERO { -value.clone() } else { value.clone() }
}

/// A decimal's whole part, as text: to see whether it fits an integer.
fn whole(value: &BigInt) -> BigInt {
    divide_half_even(value, &unit())
}

/// The arguments, read as what they are.
struct Given<'a>(&'a [Value]);

impl Given<'_> {
    fn bool(&self, at: usize) -> bool {
        matches!(self.0.get(at), Some(Value::Bool(true)))
    }
    fn int(&self, at: usize) -> i64 {
        match self.0.get(at) {
            Some(Value::Int(v)) => i64::from(*v),
            Some(Value::Long(v) | Value::Id(v)) => *v,
            None => 0,
            other => panic!("{other:?} is no integer"),
        }
    }
    fn dec(&self, at: usize) -> BigInt {
        let Value::Dec(v) = &self.0[at] else { panic!("{:?} is no decimal", self.0[at]) };
        v.clone()
    }
    fn text(&self, at: usize) -> &str {
        let Value::Text(v) = &self.0[at] else { panic!("{:?} is no text", self.0[at]) };
        v
    }
    fn seconds(&self, at: usize) -> i64 {
        let (Value::Date(v) | Value::Time(v) | Value::DateTime(v)) = &self.0[at] else {
            panic!("{:?} is no date", self.0[at])
        };
        *v
    }
}

pub(crate) fn call(name: &str, arguments: &[Value]) -> Value {
    let a = Given(arguments);
    let int = |v: i64| Value::Int(i32::try_from(v).unwrap_or(0));
    let dec = |v: BigInt| Value::Dec(if fits(&v) { v } else { BigInt::ZERO });
    let text = |v: &str| Value::text(v);
    let moment = |v: i64| Value::DateTime(if (0..days() * DAY).contains(&v) { v } else { 0 });
    let day = |a: &Given<'_>| a.seconds(0) / DAY;
    match name {
        "Abs" => dec(magnitude(&a.dec(0))),
        "Mod" => dec(if a.dec(1) == BigInt::ZERO { BigInt::ZERO } else { a.dec(0) % a.dec(1) }),
        "Power" => dec(BigInt::from(a.int(0)).pow(a.int(1) as u32) * unit()),
        "Round" => {
            let step = BigInt::from(10).pow(8 - a.int(1).min(8) as u32);
            dec(divide_half_even(&a.dec(0), &step) * step)
        }
        "Sqrt" => {
            let value: BigInt = a.dec(0);
            // Twice as exact as needed, so that rounding sees which side it is on.
            let exact = if value < BigInt::ZERO { BigInt::ZERO } else { (&value * unit() * 4u8).sqrt() };
            dec((exact + 1u8) / 2u8)
        }
        "Trunc" => dec(a.dec(0) / unit() * unit()),
        "Max" => dec(a.dec(0).max(a.dec(1))),
        "Min" => dec(a.dec(0).min(a.dec(1))),
        "Sign" => int(a.dec(0).cmp(&BigInt::ZERO) as i64),
        "Chr" => {
            let found = u32::try_from(a.int(0)).ok().and_then(char::from_u32).filter(|c| *c != '\0');
            text(&found.map(String::from).unwrap_or_default())
        }
        "EncodeHtml" => encoded(a.text(0), |c| match c {
            '&' => "&amp;".into(),
            '<' => "&lt;".into(),
            '>' => "&gt;".into(),
            '"' => "&quot;".into(),
            '\'' => "&#39;".into(),
            '\n' => "<br/>".into(),
            '\r' => String::new(),
            other => other.into(),
        }),
        "EncodeJavaScript" => encoded(a.text(0), |c| match c {
            '\'' | '"' | '<' | '>' | '&' => format!("\\x{:02x}", u32::from(c)),
            '\\' => "\\\\".into(),
            '\n' => "\\n".into(),
            '\r' => "\\r".into(),
            '\t' => "\\t".into(),
            c if c < ' ' => format!("\\x{:02x}", u32::from(c)),
            other => other.into(),
        }),
        "EncodeSql" => text(&a.text(0).replace('\'', "''")),
        "EncodeUrl" => {
            let byte = |b: u8| match b {
                b' ' => "+".to_owned(),
                b if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) => char::from(b).to_string(),
                b => format!("%{b:02x}"),
            };
            text(&a.text(0).bytes().map(byte).collect::<String>())
        }
        "Index" => int(index(&a)),
        "Length" => int(a.text(0).chars().count() as i64),
        "NewLine" => text("\n"),
        "Replace" => match a.text(1) {
            "" => text(""),
            searched => text(&a.text(0).replace(searched, a.text(2))),
        },
        "Substr" => match (a.int(1), a.int(2)) {
            (start, count) if start < 0 || count <= 0 => text(""),
            (start, count) => {
                text(&a.text(0).chars().skip(start as usize).take(count as usize).collect::<String>())
            }
        },
        "ToLower" => text(&a.text(0).to_lowercase()),
        "ToUpper" => text(&a.text(0).to_uppercase()),
        "Trim" => text(a.text(0).trim_matches(' ')),
        "TrimEnd" => text(a.text(0).trim_end_matches(' ')),
        "TrimStart" => text(a.text(0).trim_start_matches(' ')),
        "AddDays" => moment(a.seconds(0) + a.int(1) * DAY),
        "AddHours" => moment(a.seconds(0) + a.int(1) * 3600),
        "AddMinutes" => moment(a.seconds(0) + a.int(1) * 60),
        "AddSeconds" => moment(a.seconds(0) + a.int(1)),
        "AddMonths" => Value::DateTime(add_months(a.seconds(0), a.int(1))),
        "AddYears" => Value::DateTime(add_months(a.seconds(0), a.int(1) * 12)),
        "BuildDateTime" => Value::DateTime(a.seconds(0) * DAY + a.seconds(1)),
        "Day" => int(civil(day(&a)).2),
        "DayOfWeek" => int((day(&a) + 1) % 7), // 1900-01-01 was a Monday
        "DiffDays" => int(a.seconds(1) / DAY - a.seconds(0) / DAY),
        "DiffHours" => int((a.seconds(1) - a.seconds(0)) / 3600),
        "DiffMinutes" => int((a.seconds(1) - a.seconds(0)) / 60),
        "DiffSeconds" => int(a.seconds(1) - a.seconds(0)),
        "Hour" => int(a.seconds(0) % DAY / 3600),
        "Minute" => int(a.seconds(0) / 60 % 60),
        "Month" => int(civil(day(&a)).1),
        "NewDate" => Value::Date(date_of(a.int(0), a.int(1), a.int(2)).unwrap_or(0)),
        "NewDateTime" => {
            let date = date_of(a.int(0), a.int(1), a.int(2));
            let time = time_of(a.int(3), a.int(4), a.int(5));
            Value::DateTime(date.zip(time).map_or(0, |(date, time)| date * DAY + time))
        }
        "NewTime" => Value::Time(time_of(a.int(0), a.int(1), a.int(2)).unwrap_or(0)),
        "Second" => int(a.seconds(0) % 60),
        "Year" => int(civil(day(&a)).0),
        "BooleanToInteger" => int(i64::from(a.bool(0))),
        "BooleanToText" => text(if a.bool(0) { "True" } else { "False" }),
        "DateTimeToDate" => Value::Date(day(&a)),
        "DateTimeToText" => text(&date_time_text(a.seconds(0), " ")),
        "DateTimeToTime" => Value::Time(a.seconds(0) % DAY),
        "DateToDateTime" => Value::DateTime(a.seconds(0) * DAY),
        "DateToText" => text(&date_text(a.seconds(0))),
        "DecimalToBoolean" => Value::Bool(a.dec(0) != BigInt::ZERO),
        "DecimalToInteger" => Value::Int(i32::try_from(whole(&a.dec(0))).unwrap_or(0)),
        "DecimalToIntegerValidate" => Value::Bool(i32::try_from(whole(&a.dec(0))).is_ok()),
        "DecimalToLongInteger" => Value::Long(i64::try_from(whole(&a.dec(0))).unwrap_or(0)),
        "DecimalToLongIntegerValidate" => Value::Bool(i64::try_from(whole(&a.dec(0))).is_ok()),
        "DecimalToText" => text(&decimal_text(&a.dec(0))),
        "IdentifierToInteger" | "LongIntegerToInteger" => int(a.int(0)),
        "IdentifierToLongInteger" => Value::Long(a.int(0)),
        "IdentifierToText" | "IntegerToText" | "LongIntegerToText" => text(&a.int(0).to_string()),
        "IntegerToBoolean" => Value::Bool(a.int(0) != 0),
        "IntegerToDecimal" => dec(BigInt::from(a.int(0)) * unit()),
        "IntegerToIdentifier" | "LongIntegerToIdentifier" => Value::Id(a.int(0)),
        "LongIntegerToIntegerValidate" => Value::Bool(i32::try_from(a.int(0)).is_ok()),
        "NullBinary" => Value::Bytes([].into()),
        "NullDate" => Value::Date(0),
        "NullIdentifier" => Value::Id(0),
        "TextToDate" => Value::Date(read_date(a.text(0).trim()).unwrap_or(0)),
        "TextToDateTime" => Value::DateTime(read_date_time(a.text(0).trim()).unwrap_or(0)),
        "TextToDateTimeValidate" => Value::Bool(read_date_time(a.text(0).trim()).is_some()),
        "TextToDateValidate" => Value::Bool(read_date(a.text(0).trim()).is_some()),
        "TextToDecimal" => dec(decimal_of(a.text(0).trim()).unwrap_or_default()),
        "TextToDecimalValidate" => Value::Bool(decimal_of(a.text(0).trim()).is_some()),
        "TextToIdentifier" => Value::Id(a.text(0).trim().parse().unwrap_or(0)),
        "TextToInteger" => Value::Int(a.text(0).trim().parse().unwrap_or(0)),
        "TextToIntegerValidate" => Value::Bool(a.text(0).trim().parse::<i32>().is_ok()),
        "TextToLongInteger" => Value::Long(a.text(0).trim().parse().unwrap_or(0)),
        "TextToLongIntegerValidate" => Value::Bool(a.text(0).trim().parse::<i64>().is_ok()),
        "TextToTime" => Value::Time(read_time(a.text(0).trim()).unwrap_or(0)),
        "TextToTimeValidate" => Value::Bool(read_time(a.text(0).trim()).is_some()),
        "TimeToText" => text(&time_text(a.seconds(0))),
        "FormatCurrency" => {
            let number = formatted(&a.dec(0), a.int(2), a.text(3), a.text(4));
            text(&format!("{}{number}", a.text(1)))
        }
        "FormatDateTime" => text(&format_date_time(a.seconds(0), a.text(1))),
        "FormatDecimal" => text(&formatted(&a.dec(0), a.int(1), a.text(2), a.text(3))),
        "FormatPercent" => text(&format!("{}%", formatted(&(a.dec(0) * 100), a.int(1), a.text(2), ""))),
        "FormatPhoneNumber" => {
            let (mut out, mut rest) = (String::new(), a.text(0));
            for part in 0..3 {
                let (digits, left) = rest.split_at((a.int(1 + part) as usize).min(rest.len()));
                if !digits.is_empty() {
                    out.push_str(a.text(4 + part));
                    out.push_str(digits);
                }
                rest = left;
            }
            text(&out)
        }
        "FormatText" => text(&format_text(&a)),
        "EmailAddressCreate" => match (a.text(0), a.text(1)) {
            ("", address) => text(address),
            (name, address) => text(&format!("\"{name}\" <{address}>")),
        },
        "EmailAddressValidate" => Value::Bool(is_email(a.text(0))),
        "GetAppName" => text("D"),
        "GetOwnerURLPath" => text("/D"),
        "GetCurrentLocale" => text("en-US"),
        other => panic!("no function {other}"),
    }
}

fn encoded(text: &str, letter: impl Fn(char) -> String) -> Value {
    Value::text(&text.chars().map(letter).collect::<String>())
}

fn time_of(hour: i64, minute: i64, second: i64) -> Option<i64> {
    let valid = (0..24).contains(&hour) && (0..60).contains(&minute) && (0..60).contains(&second);
    valid.then_some(hour * 3600 + minute * 60 + second)
}

fn add_months(moment: i64, months: i64) -> i64 {
    let (year, month, day) = civil(moment / DAY);
    let months = year * 12 + month - 1 + months;
    let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
    let date = if (1900..=3000).contains(&year) {
        date_of(year, month, day.min(days_of_month(year, month)))
    } else {
        None
    };
    date.map_or(0, |date| date * DAY + moment % DAY)
}

fn index(a: &Given<'_>) -> i64 {
    let lower = |text: &str| if a.bool(4) { text.to_lowercase() } else { text.to_owned() };
    let text: Vec<char> = lower(a.text(0)).chars().collect();
    let searched: Vec<char> = lower(a.text(1)).chars().collect();
    let place = a.int(2).max(0) as usize;
    if searched.is_empty() {
        return -1;
    }
    let end = if a.bool(3) && place != 0 { place.min(text.len()) } else { text.len() };
    let begin = if a.bool(3) { 0 } else { place };
    let mut found = (begin..=end.saturating_sub(searched.len()))
        .filter(|at| text[..end].get(*at..at + searched.len()) == Some(&searched[..]));
    let found = if a.bool(3) { found.next_back() } else { found.next() };
    found.map_or(-1, |at| at as i64)
}

pub(crate) fn read_date(text: &str) -> Option<i64> {
    let separator = text.chars().nth(4).filter(|c| "-/.".contains(*c))?;
    let parts: Vec<&str> = text.split(separator).collect();
    let [year, month, day] = parts[..] else { return None };
    let number = |text: &str, length: usize| {
        let digits = text.len() == length && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    date_of(number(year, 4)?, number(month, 2)?, number(day, 2)?)
}

pub(crate) fn read_time(text: &str) -> Option<i64> {
    let parts: Vec<&str> = text.split(':').collect();
    let digits = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !(2..=3).contains(&parts.len()) || !parts.iter().all(digits) {
        return None;
    }
    let number = |at: usize| parts.get(at).map_or(Some(0), |part| part.parse().ok());
    time_of(number(0)?, number(1)?, number(2)?)
}

pub(crate) fn read_date_time(text: &str) -> Option<i64> {
    let date = read_date(text.get(..10)?)? * DAY;
    let rest = &text[10..];
    if rest.is_empty() {
        return Some(date);
    }
    let clock = rest.strip_prefix([' ', 'T'])?;
    let (clock, offset) = match clock.find(['+', '-', 'Z']) {
        None => (clock, 0),
        Some(at) if &clock[at..] == "Z" => (&clock[..at], 0),
        Some(at) => {
            let offset = read_time(&clock[at + 1..])?;
            (&clock[..at], if clock[at..].starts_with('+') { offset } else { -offset })
        }
    };
    let moment = date + read_time(clock)? - offset;
    (0..days() * DAY).contains(&moment).then_some(moment)
}

/// Half away from zero, at so many digits.
fn formatted(value: &BigInt, digits: i64, point: &str, group: &str) -> String {
    let digits = digits.min(8) as usize;
    let step = BigInt::from(10).pow(8 - digits as u32);
    let rounded = (magnitude(value) * 2 + &step) / (step * 2);
    let sign = if *value < BigInt::ZERO && rounded != BigInt::ZERO { "-" } else { "" };
    let all = format!("{:0width$}", rounded, width = digits + 1);
    let (whole, fraction) = all.split_at(all.len() - digits);
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            grouped.push_str(group);
        }
        grouped.push(digit);
    }
    let point = if digits == 0 { "" } else { point };
    format!("{sign}{grouped}{point}{fraction}")
}

fn format_text(a: &Given<'_>) -> String {
    let (text, least, most, left, padding) =
        (a.text(0), a.int(1) as usize, a.int(2) as usize, a.bool(3), a.text(4));
    let count = text.chars().count();
    if count > most {
        let skipped = if left { count - most } else { 0 };
        return text.chars().skip(skipped).take(most).collect();
    }
    let padding: String = padding.chars().take(1).collect();
    let padding = padding.repeat(least.saturating_sub(count));
    if left { padding + text } else { text.to_owned() + &padding }
}

fn format_date_time(moment: i64, format: &str) -> String {
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
    let (year, month, day) = civil(moment / DAY);
    let (hour, minute, second) = (moment % DAY / 3600, moment / 60 % 60, moment % 60);
    let weekday = DAYS[((moment / DAY + 1) % 7) as usize];
    let name = MONTHS[month as usize - 1];
    let twelve = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };
    let chars: Vec<char> = format.chars().collect();
    let (mut out, mut at) = (String::new(), 0);
    while at < chars.len() {
        let letter = chars[at];
        let run = chars[at..].iter().take_while(|c| **c == letter).count();
        if letter == '\\' {
            out.extend(chars.get(at + 1));
            at += 2;
            continue;
        }
        let word = match (letter, run) {
            ('d', 1) => day.to_string(),
            ('d', 2) => format!("{day:02}"),
            ('d', 3) => weekday[..3].to_owned(),
            ('d', 4) => weekday.to_owned(),
            ('M', 1) => month.to_string(),
            ('M', 2) => format!("{month:02}"),
            ('M', 3) => name[..3].to_owned(),
            ('M', 4) => name.to_owned(),
            ('y', 1) => (year % 100).to_string(),
            ('y', 2) => format!("{:02}", year % 100),
            ('y', 4) => format!("{year:04}"),
            ('h', 1) => twelve.to_string(),
            ('h', 2) => format!("{twelve:02}"),
            ('H', 1) => hour.to_string(),
            ('H', 2) => format!("{hour:02}"),
            ('m', 1) => minute.to_string(),
            ('m', 2) => format!("{minute:02}"),
            ('s', 1) => second.to_string(),
            ('s', 2) => format!("{second:02}"),
            ('t', 1) => half[..1].to_owned(),
            ('t', 2) => half.to_owned(),
            (other, run) => String::from(other).repeat(run),
        };
        out.push_str(&word);
        at += run;
    }
    out
}

/// The rule of HTML.
fn is_email(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let Some((local, domain)) = text.split_once('@') else { return false };
    let is_local = |c: char| c.is_ascii_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let is_label = |label: &str| {
        let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner && !label.starts_with('-') && !label.ends_with('-') && (1..=63).contains(&label.len())
    };
    !local.is_empty() && local.chars().all(is_local) && domain.split('.').all(is_label)
}
