//! Values between guests and PostgreSQL.
//!
//! Parameters travel as text, which the server reads as whatever type the statement gives them: an integer
//! fits a `numeric` column and a decimal keeps every digit. Results come in the binary format, because that
//! is what the client library asks for.

use std::error::Error as StdError;
use std::fmt::Write as _;

use bytes::{BufMut as _, BytesMut};
use chrono::{DateTime, Datelike as _, NaiveDate, NaiveTime, TimeDelta};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type};

use super::{Error, Value};

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL begins to count.
const EPOCH_DAYS: i32 = 10_957;
/// The same in microseconds.
const EPOCH_MICROS: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// A parameter, encoded as text.
#[derive(Debug)]
pub struct Parameter(Option<Vec<u8>>);

impl Parameter {
    /// Encodes a value; fails for times that no calendar has.
    pub fn encode(at: usize, value: Value) -> Result<Self, Error> {
        let out_of_range =
            |what: &str| Error::Invalid(format!("parameter ${}: the {what} is out of range", at + 1));
        Ok(Self(match value {
            Value::Null => None,
            Value::Boolean(true) => Some(b"t".to_vec()),
            Value::Boolean(false) => Some(b"f".to_vec()),
            Value::Int32(number) => Some(number.to_string().into_bytes()),
            Value::Int64(number) => Some(number.to_string().into_bytes()),
            Value::Float64(number) => Some(number.to_string().into_bytes()),
            Value::Decimal(text) | Value::Text(text) => {
                if text.contains('\0') {
                    return Err(Error::Invalid(format!(
                        "parameter ${}: a text may not contain the character NUL",
                        at + 1
                    )));
                }
                Some(text.into_bytes())
            }
            Value::Bytes(bytes) => {
                let mut text = String::with_capacity(2 + bytes.len() * 2);
                text.push_str("\\x");
                for byte in bytes {
                    write!(text, "{byte:02x}").expect("a String takes all");
                }
                Some(text.into_bytes())
            }
            Value::Date(days) => {
                let date = NaiveDate::default().checked_add_signed(TimeDelta::days(days.into()));
                Some(calendar(date.ok_or_else(|| out_of_range("date"))?, None).into_bytes())
            }
            Value::Time(micros) => {
                let micros = u64::try_from(micros).ok().filter(|micros| *micros < 86_400_000_000);
                let micros = micros.ok_or_else(|| out_of_range("time"))?;
                let seconds = u32::try_from(micros / 1_000_000).unwrap_or(0);
                let nanos = u32::try_from(micros % 1_000_000 * 1_000).unwrap_or(0);
                let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos);
                Some(time.ok_or_else(|| out_of_range("time"))?.to_string().into_bytes())
            }
            Value::Timestamp(micros) => {
                let at =
                    DateTime::from_timestamp_micros(micros).ok_or_else(|| out_of_range("date and time"))?;
                Some(calendar(at.date_naive(), Some(at.time())).into_bytes())
            }
        }))
    }
}

/// A date as the server reads it: it takes no sign, and counts the years before the first backwards.
fn calendar(date: NaiveDate, time: Option<NaiveTime>) -> String {
    let (is_after, year) = date.year_ce();
    let (month, day) = (date.month(), date.day());
    let time = time.map_or_else(String::new, |time| format!(" {time}"));
    let era = if is_after { "" } else { " BC" };
    format!("{year:04}-{month:02}-{day:02}{time}{era}")
}

impl ToSql for Parameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        match &self.0 {
            None => Ok(IsNull::Yes),
            Some(text) => {
                out.put_slice(text);
                Ok(IsNull::No)
            }
        }
    }
    fn accepts(_: &Type) -> bool {
        true
    }
    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }
    tokio_postgres::types::to_sql_checked!();
}

/// A column of a row, as it came.
pub struct Raw<'a>(Option<&'a [u8]>);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(Some(raw)))
    }
    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(None))
    }
    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Decodes a column; fails, naming column and type, for types that have no value in our interface.
pub fn decode(column: &str, column_type: &Type, raw: &Raw<'_>) -> Result<Value, Error> {
    let Some(bytes) = raw.0 else { return Ok(Value::Null) };
    let value = match *column_type {
        Type::BOOL => fixed(bytes).map(|[byte]: [u8; 1]| Value::Boolean(byte != 0)),
        Type::INT2 => fixed(bytes).map(|bytes| Value::Int32(i16::from_be_bytes(bytes).into())),
        Type::INT4 => fixed(bytes).map(|bytes| Value::Int32(i32::from_be_bytes(bytes))),
        Type::INT8 => fixed(bytes).map(|bytes| Value::Int64(i64::from_be_bytes(bytes))),
        Type::FLOAT4 => fixed(bytes).map(|bytes| Value::Float64(f32::from_be_bytes(bytes).into())),
        Type::FLOAT8 => fixed(bytes).map(|bytes| Value::Float64(f64::from_be_bytes(bytes))),
        Type::NUMERIC => numeric(bytes).map(Value::Decimal),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN | Type::JSON => {
            std::str::from_utf8(bytes).ok().map(|text| Value::Text(text.to_owned()))
        }
        Type::JSONB => std::str::from_utf8(bytes.get(1..).unwrap_or_default())
            .ok()
            .map(|text| Value::Text(text.to_owned())),
        Type::UUID => fixed(bytes).map(|bytes| Value::Text(uuid(bytes))),
        Type::BYTEA => Some(Value::Bytes(bytes.to_vec())),
        Type::DATE => {
            fixed(bytes).map(|bytes| Value::Date(i32::from_be_bytes(bytes).saturating_add(EPOCH_DAYS)))
        }
        Type::TIME => fixed(bytes).map(|bytes| Value::Time(i64::from_be_bytes(bytes))),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            fixed(bytes).map(|bytes| Value::Timestamp(i64::from_be_bytes(bytes).saturating_add(EPOCH_MICROS)))
        }
        _ => {
            return Err(Error::Invalid(format!(
                "column `{column}` has the type {column_type}; cast it, for example to text"
            )));
        }
    };
    value.ok_or_else(|| Error::Invalid(format!("column `{column}` of type {column_type} cannot be read")))
}

fn fixed<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok()
}

fn uuid(bytes: [u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            text.push('-');
        }
        write!(text, "{byte:02x}").expect("a String takes all");
    }
    text
}

/// The decimal notation of a binary `numeric`: digits in base 10,000, the weight of the first one, a sign,
/// and how many decimals to show.
fn numeric(bytes: &[u8]) -> Option<String> {
    const NEGATIVE: u16 = 0x4000;
    let field = |at: usize| Some(u16::from_be_bytes(fixed(bytes.get(at * 2..at * 2 + 2)?)?));
    let (count, weight, sign, scale) = (field(0)?, field(1)?.cast_signed(), field(2)?, field(3)?);
    match sign {
        0 | NEGATIVE => {}
        0xC000 => return Some("NaN".to_owned()),
        _ => return None,
    }
    let digit = |at: i32| -> Option<u16> {
        let index = i32::from(weight) - at; // the digit of weight `at` stands there
        match usize::try_from(index) {
            Ok(index) if index < usize::from(count) => field(4 + index).filter(|digit| *digit < 10_000),
            Ok(_) | Err(_) => Some(0),
        }
    };
    let whole = usize::try_from(weight).map_or(4, |weight| 4 + weight * 4);
    let mut text = String::with_capacity(2 + whole + usize::from(scale).next_multiple_of(4)); // it may be 200 kB
    if sign == NEGATIVE {
        text.push('-');
    }
    write!(text, "{}", digit(i32::from(weight).max(0))?).ok()?;
    for at in (0..i32::from(weight).max(0)).rev() {
        write!(text, "{:04}", digit(at)?).ok()?;
    }
    if scale > 0 {
        text.push('.');
        let start = text.len();
        let mut at = -1;
        while text.len() - start < usize::from(scale) {
            write!(text, "{:04}", digit(at)?).ok()?;
            at -= 1;
        }
        text.truncate(start + usize::from(scale));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode_numeric(digits: &[u16], weight: i16, negative: bool, scale: u16) -> Vec<u8> {
        let count = u16::try_from(digits.len()).unwrap();
        let head = [count, weight.cast_unsigned(), if negative { 0x4000 } else { 0 }, scale];
        head.iter().chain(digits).flat_map(|field| field.to_be_bytes()).collect()
    }

    #[test]
    fn decimals_keep_every_digit() {
        let check = |digits: &[u16], weight, negative, scale, expect: &str| {
            assert_eq!(numeric(&encode_numeric(digits, weight, negative, scale)).unwrap(), expect);
        };
        check(&[], 0, false, 0, "0");
        check(&[], 0, false, 8, "0.00000000");
        check(&[12, 5000], 0, false, 2, "12.50");
        check(&[12, 5000], 0, true, 8, "-12.50000000");
        check(&[1], -1, false, 4, "0.0001");
        check(&[1], -2, false, 8, "0.00000001");
        check(
            &[7, 9228, 1625, 1426, 4337, 5935, 4395, 336],
            7,
            false,
            0,
            "79228162514264337593543950336"[..].trim(),
        );
        check(&[1], 1, false, 0, "10000");
        assert_eq!(
            numeric(&encode_numeric(&[1], i16::MAX, true, u16::MAX)).unwrap().len(),
            2 + 131_069 + 65_535
        );
        assert_eq!(numeric(&encode_numeric(&[10_000], 0, false, 0)), None, "no digit of a server");
    }

    #[test]
    fn times_without_a_calendar_are_refused() {
        assert!(matches!(Parameter::encode(0, Value::Timestamp(i64::MAX)), Err(Error::Invalid(_))));
        assert!(matches!(Parameter::encode(1, Value::Time(-1)), Err(Error::Invalid(_))));
    }

    #[test]
    fn dates_are_written_as_the_server_reads_them() {
        let check = |value, expect: &str| {
            assert_eq!(String::from_utf8(Parameter::encode(0, value).unwrap().0.unwrap()).unwrap(), expect);
        };
        check(Value::Date(0), "1970-01-01");
        check(Value::Date(2_932_896), "9999-12-31");
        check(Value::Date(2_932_897), "10000-01-01");
        check(Value::Date(-719_162), "0001-01-01");
        check(Value::Date(-719_163), "0001-12-31 BC");
        check(Value::Timestamp(-1), "1969-12-31 23:59:59.999999");
        check(Value::Timestamp(-719_163 * 86_400_000_000), "0001-12-31 00:00:00 BC");
        check(Value::Timestamp(2_932_897 * 86_400_000_000), "10000-01-01 00:00:00");
    }
}
