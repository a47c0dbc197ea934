//! Rows and messages of a database server on their way to a guest, and parameters on their way back.
//!
//! An input is a result: columns of some types, rows of values in the binary format or of any bytes, how the command ended,
//! and bytes that are changed in all of it. It comes from a stub of a server ([`odeon_fuzz::database`]), through our watch
//! of the stream, the client library, and our decoder.
//!
//! Properties: a value that a server encoded is decoded as that value; what is kept of a result was counted against the
//! app's memory; the watch knows the transaction's state and a session that was changed; a parameter arrives as the text
//! of its value; and whatever the server sends, a query ends.

#![no_main]
#![allow(clippy::expect_used, reason = "a target ends at the first surprise")]

use std::sync::{Arc, PoisonError};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::{Corpus, fuzz_target};
use odeon_capabilities::sql::values::Parameter;
use odeon_capabilities::sql::wire::{Watch, Watched};
use odeon_capabilities::sql::{Error, Rows, Value, statement};
use odeon_engine::Memory;
use odeon_fuzz::database::{Script, StubServer, message, ready, row};
use odeon_fuzz::runtime;
use tokio::time::Duration;
use tokio_postgres::NoTls;
use tokio_postgres::types::Type;

/// Bytes between client and server that may be under way.
const PIPE_BYTES: usize = 4 << 10;
/// How long a query may take: as long as a session lets it.
const STATEMENT_S_MAX: u64 = 30;
/// Columns of a result.
const COLUMNS_MAX: usize = 8;
/// Rows of a result.
const ROWS_MAX: usize = 64;
/// Years from 1970 that every calendar has, both ways.
const CALENDAR_YEARS: i64 = 200_000;
/// Commands that leave a session as it was, and two that do not.
const TAGS: [&str; 8] =
    ["SELECT 1", "INSERT 0 1", "UPDATE 7", "DELETE 0", "COMMIT", "ROLLBACK", "SET", "LISTEN"];

#[derive(Debug, Arbitrary)]
struct Input {
    columns: Vec<Column>,
    rows: Vec<Vec<Option<Encoded>>>,
    repeat: u8,
    params: Vec<Param>,
    room_bytes: u32,
    tag: u8,
    state: u8,
    changed: Vec<(u16, u8)>,
    cut_at: Option<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Arbitrary)]
enum Column {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Numeric,
    Text,
    Json,
    Jsonb,
    Uuid,
    Bytea,
    Date,
    Time,
    Timestamp,
    Interval,
    Unknown(u16),
}

/// A value in the binary format, or what is none.
#[derive(Debug, Arbitrary)]
enum Encoded {
    Any(Vec<u8>),
    Bool(bool),
    Int2(i16),
    Int4(i32),
    Int8(i64),
    Float4(f32),
    Float8(f64),
    Numeric { digits: Vec<u16>, weight: i16, negative: bool, scale: u16 },
    Text(String),
    Uuid([u8; 16]),
    Bytes(Vec<u8>),
    Date(i32),
    Micros(i64),
}

#[derive(Debug, Clone, Arbitrary)]
enum Param {
    Null,
    Boolean(bool),
    Int32(i32),
    Int64(i64),
    Float64(f64),
    Decimal(String),
    Text(String),
    Bytes(Vec<u8>),
    Date(i32),
    Time(i64),
    Timestamp(i64),
}

fuzz_target!(|input: Input| -> Corpus {
    let mut input = input;
    if input.columns.len() > COLUMNS_MAX || input.params.len() > COLUMNS_MAX {
        return Corpus::Reject;
    }
    for row in &mut input.rows {
        row.resize_with(input.columns.len(), || None);
    }
    runtime().block_on(query(&input));
    Corpus::Keep
});

async fn query(input: &Input) {
    let repeat = usize::from(input.repeat) + 1;
    let encoded: Vec<Vec<_>> = input
        .rows
        .iter()
        .map(|row| row.iter().map(|value| value.as_ref().map(Encoded::bytes)).collect())
        .collect();
    let mut answer = Vec::new();
    let mut rows = 0;
    'rows: for encoded in &encoded {
        for _ in 0..repeat {
            if rows == ROWS_MAX {
                break 'rows;
            }
            answer.extend(row(encoded.iter().map(|value| value.as_deref())));
            rows += 1;
        }
    }
    let tag = TAGS[usize::from(input.tag) % TAGS.len()];
    let state = [b'I', b'T', b'E'][usize::from(input.state) % 3];
    answer.extend(message(b'C', format!("{tag}\0").as_bytes()));
    answer.extend(ready(state));
    for (at, byte) in &input.changed {
        let at = usize::from(*at) % answer.len();
        answer[at] ^= byte;
    }
    let is_whole = input.changed.iter().all(|(_, byte)| *byte == 0) && input.cut_at.is_none();
    if let Some(at) = input.cut_at {
        answer.truncate(usize::from(at) % answer.len());
    }

    let params: Vec<Value> = input.params.iter().cloned().map(Value::from).collect();
    let encoded_params = params.iter().cloned().enumerate().map(|(at, value)| Parameter::encode(at, value));
    let Ok(encoded_params) = encoded_params.collect::<Result<Vec<_>, _>>() else {
        let may = params.iter().any(|value| !has_text(value, CALENDAR_YEARS));
        return assert!(may, "a value that every calendar has was refused: {params:?}");
    };
    assert!(
        params.iter().all(|value| has_text(value, i64::MAX)),
        "a value without a text was encoded: {params:?}"
    );

    let columns = input.columns.iter().map(|column| ("c".to_owned(), column.oid())).collect();
    let script = Script { params: vec![Type::TEXT.oid(); params.len()], columns, answer };
    let server = StubServer::new(script);
    let bound = server.bound();
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let server = tokio::spawn(server.serve(theirs));
    let watch = Arc::new(Watch::default());
    let memory = Memory::new(u64::from(input.room_bytes));
    let mut room = memory.try_take(0).expect("nothing fits everywhere");
    let asked = async {
        let mut config = tokio_postgres::Config::new();
        config.user("app");
        let (client, connection) =
            config.connect_raw(Watched::new(ours, watch.clone()), NoTls).await.expect("log in");
        let driver = tokio::spawn(connection);
        // A type that nobody knows is asked for, and that is answered like any query.
        let Ok(prepared) = client.prepare("SELECT").await else { return None };
        let outcome = statement::run(&client, &watch, &prepared, &encoded_params, Some(&mut room)).await;
        drop(client);
        let _ = driver.await;
        Some(outcome)
    };
    let outcome = tokio::time::timeout(Duration::from_secs(STATEMENT_S_MAX), asked).await;
    server.abort();
    let known = input.columns.iter().all(|column| !matches!(column, Column::Unknown(_)));
    let outcome = match outcome {
        Ok(Some(outcome)) => outcome,
        Ok(None) => return assert!(!known, "a statement of known types cannot be prepared"),
        Err(_) => return assert!(!known || !is_whole, "an answer came whole, and the query did not end"),
    };
    if let Ok(rows) = &outcome {
        let (kept, counted) = (bytes_of(&rows.0), room.bytes());
        assert!(kept <= counted, "{kept} bytes are kept of a result, and {counted} were counted");
    }
    if !known || !is_whole {
        return;
    }
    assert_eq!(watch.transaction(), state);
    assert_eq!(watch.changed(), matches!(tag, "SET" | "LISTEN"), "after `{tag}`");
    let bound = bound.lock().unwrap_or_else(PoisonError::into_inner).take().expect("the parameters came");
    assert_eq!(bound.len(), params.len());
    for (value, (format, text)) in params.iter().zip(bound) {
        assert_eq!(format, 0, "parameters travel as text");
        assert!(says(value, text.as_deref()), "{value:?} came as {text:?}");
    }
    judge(input, &outcome, rows);
}

/// What came of an answer that nobody changed.
fn judge(input: &Input, outcome: &Result<(Rows, u64), Error>, rows: usize) {
    match outcome {
        Err(Error::Limit(_)) => {} // the room
        Err(error) => {
            let is_odd = |(column, value): (&Column, &Option<Encoded>)| {
                value.as_ref().is_some_and(|value| value.meant(*column).is_none())
            };
            let odd = input.rows.iter().any(|row| input.columns.iter().zip(row).any(is_odd));
            assert!(odd, "what a server encodes is refused: {error:?}");
        }
        Ok((result, _)) => {
            assert_eq!(result.values.len(), rows * input.columns.len());
            let repeat = usize::from(input.repeat) + 1;
            let meant = |(value, column): (&Option<Encoded>, &Column)| match value {
                Some(sent) => sent.meant(*column).flatten(),
                None => Some(Value::Null),
            };
            // Each row came as often as it was repeated; the last ones may be cut off.
            let mut came = result.values.chunks(input.columns.len().max(1));
            for row in &input.rows {
                let meant: Vec<_> = row.iter().zip(&input.columns).map(meant).collect();
                for values in came.by_ref().take(repeat) {
                    for ((meant, value), sent) in meant.iter().zip(values).zip(row) {
                        let is_same = meant.as_ref().is_none_or(|meant| same(meant, value));
                        assert!(is_same, "{sent:?} became {value:?}, not {meant:?}");
                    }
                }
            }
        }
    }
}

impl Column {
    fn oid(self) -> u32 {
        match self {
            Column::Bool => Type::BOOL.oid(),
            Column::Int2 => Type::INT2.oid(),
            Column::Int4 => Type::INT4.oid(),
            Column::Int8 => Type::INT8.oid(),
            Column::Float4 => Type::FLOAT4.oid(),
            Column::Float8 => Type::FLOAT8.oid(),
            Column::Numeric => Type::NUMERIC.oid(),
            Column::Text => Type::TEXT.oid(),
            Column::Json => Type::JSON.oid(),
            Column::Jsonb => Type::JSONB.oid(),
            Column::Uuid => Type::UUID.oid(),
            Column::Bytea => Type::BYTEA.oid(),
            Column::Date => Type::DATE.oid(),
            Column::Time => Type::TIME.oid(),
            Column::Timestamp => Type::TIMESTAMP.oid(),
            Column::Interval => Type::INTERVAL.oid(),
            Column::Unknown(number) => 100_000 + u32::from(number),
        }
    }
}

impl Encoded {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Encoded::Any(bytes) | Encoded::Bytes(bytes) => bytes.clone(),
            Encoded::Bool(value) => vec![u8::from(*value)],
            Encoded::Int2(value) => value.to_be_bytes().to_vec(),
            Encoded::Int4(value) | Encoded::Date(value) => value.to_be_bytes().to_vec(),
            Encoded::Int8(value) | Encoded::Micros(value) => value.to_be_bytes().to_vec(),
            Encoded::Float4(value) => value.to_be_bytes().to_vec(),
            Encoded::Float8(value) => value.to_be_bytes().to_vec(),
            Encoded::Numeric { digits, weight, negative, scale } => {
                let count = u16::try_from(digits.len()).expect("inputs are small");
                let sign = if *negative { 0x4000 } else { 0 };
                let head = [count, weight.cast_unsigned(), sign, *scale];
                let digits = digits.iter().map(|digit| digit % 10_000);
                head.into_iter().chain(digits).flat_map(u16::to_be_bytes).collect()
            }
            Encoded::Text(text) => text.clone().into_bytes(),
            Encoded::Uuid(bytes) => bytes.to_vec(),
        }
    }

    /// What a column of that type says with these bytes: `None` when they may be none of its values, `Some(None)` when we
    /// do not know which one.
    fn meant(&self, column: Column) -> Option<Option<Value>> {
        let value = match (self, column) {
            (Encoded::Bool(value), Column::Bool) => Value::Boolean(*value),
            (Encoded::Int2(value), Column::Int2) => Value::Int32((*value).into()),
            (Encoded::Int4(value), Column::Int4) => Value::Int32(*value),
            (Encoded::Int8(value), Column::Int8) => Value::Int64(*value),
            (Encoded::Float4(value), Column::Float4) => Value::Float64((*value).into()),
            (Encoded::Float8(value), Column::Float8) => Value::Float64(*value),
            (Encoded::Numeric { digits, weight, .. }, Column::Numeric) if !is_normal(digits, *weight) => {
                return Some(None);
            }
            (Encoded::Numeric { digits, weight, negative, scale }, Column::Numeric) => {
                Value::Decimal(decimal(digits, *weight, *negative, *scale))
            }
            (Encoded::Text(text), Column::Text | Column::Json) => Value::Text(text.clone()),
            (Encoded::Bytes(bytes) | Encoded::Any(bytes), Column::Bytea) => Value::Bytes(bytes.clone()),
            (Encoded::Uuid(_), Column::Uuid) => return Some(None),
            (Encoded::Date(days), Column::Date) => Value::Date(days.saturating_add(10_957)),
            (Encoded::Micros(micros), Column::Time) => Value::Time(*micros),
            (Encoded::Micros(micros), Column::Timestamp) => {
                Value::Timestamp(micros.saturating_add(946_684_800_000_000))
            }
            _ => return None,
        };
        Some(Some(value))
    }
}

/// Whether a server would write a decimal like this: without zeros before the first digit.
fn is_normal(digits: &[u16], weight: i16) -> bool {
    digits.first().map_or(weight == 0, |first| first % 10_000 != 0)
}

/// A decimal as PostgreSQL writes it, by moving the point in the string of all digits.
fn decimal(digits: &[u16], weight: i16, negative: bool, scale: u16) -> String {
    let all: String = digits.iter().map(|digit| format!("{:04}", digit % 10_000)).collect();
    let point = (i64::from(weight) + 1) * 4; // so many digits stand before it
    let digit = |at: i64| {
        usize::try_from(at).ok().and_then(|at| all.as_bytes().get(at)).map_or('0', |byte| char::from(*byte))
    };
    let whole: String = (0..point).map(digit).collect();
    let whole = whole.trim_start_matches('0');
    let mut text = if negative { "-".to_owned() } else { String::new() };
    text.push_str(if whole.is_empty() { "0" } else { whole });
    if scale > 0 {
        text.push('.');
        text.extend((point..point + i64::from(scale)).map(digit));
    }
    text
}

fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Float64(left), Value::Float64(right)) => {
            left.to_bits() == right.to_bits() || left.is_nan() && right.is_nan()
        }
        (left, right) => format!("{left:?}") == format!("{right:?}"),
    }
}

/// Bytes that a result holds.
fn bytes_of(rows: &Rows) -> u64 {
    let held: usize = rows
        .values
        .iter()
        .map(|value| match value {
            Value::Decimal(text) | Value::Text(text) => text.capacity(),
            Value::Bytes(bytes) => bytes.capacity(),
            Value::Null
            | Value::Boolean(_)
            | Value::Int32(_)
            | Value::Int64(_)
            | Value::Float64(_)
            | Value::Date(_)
            | Value::Time(_)
            | Value::Timestamp(_) => 0,
        })
        .sum();
    (held + rows.values.len() * size_of::<Value>()) as u64
}

/// Whether a parameter can be written as text, where a date may be so many years from 1970.
fn has_text(value: &Value, years_max: i64) -> bool {
    const DAY_MICROS: i64 = 86_400_000_000;
    let days_max = years_max.saturating_mul(365);
    match value {
        Value::Decimal(text) | Value::Text(text) => !text.contains('\0'),
        Value::Time(micros) => (0..DAY_MICROS).contains(micros),
        Value::Date(days) => i64::from(*days).abs() <= days_max,
        Value::Timestamp(micros) => (micros / DAY_MICROS).abs() <= days_max,
        Value::Null
        | Value::Boolean(_)
        | Value::Int32(_)
        | Value::Int64(_)
        | Value::Float64(_)
        | Value::Bytes(_) => true,
    }
}

/// Whether a server reads a text as this value.
fn says(value: &Value, text: Option<&[u8]>) -> bool {
    let Some(text) = text.map(|text| std::str::from_utf8(text).expect("parameters are texts")) else {
        return matches!(value, Value::Null);
    };
    match value {
        Value::Null => false,
        Value::Boolean(value) => text == if *value { "t" } else { "f" },
        Value::Int32(value) => text.parse() == Ok(*value),
        Value::Int64(value) => text.parse() == Ok(*value),
        Value::Float64(value) => text
            .parse::<f64>()
            .is_ok_and(|read| read.to_bits() == value.to_bits() || read.is_nan() && value.is_nan()),
        Value::Decimal(value) | Value::Text(value) => text == value,
        Value::Bytes(bytes) => {
            let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
            let digits: String = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
            text == format!("\\x{digits}")
        }
        Value::Date(days) => text == moment(i64::from(*days), None),
        Value::Time(micros) => clock(*micros) == without_zeros(text),
        Value::Timestamp(micros) => {
            let (text, era) = text.strip_suffix(" BC").map_or((text, ""), |text| (text, " BC"));
            let text = format!("{}{era}", without_zeros(text));
            text == moment(micros.div_euclid(86_400_000_000), Some(micros.rem_euclid(86_400_000_000)))
        }
    }
}

/// A fraction of seconds without the zeros at its end.
fn without_zeros(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn clock(micros: i64) -> String {
    let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
    let text = format!("{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    without_zeros(&text).to_owned()
}

/// A date as PostgreSQL reads and writes it, counted from 1 March of the year 0, where leap days end the years.
fn moment(days: i64, micros: Option<i64>) -> String {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097)); // 400 years
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + i64::from(month >= 10);
    let month = if month < 10 { month + 3 } else { month - 9 };
    let (year, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    let time = micros.map_or_else(String::new, |micros| format!(" {}", clock(micros)));
    format!("{year:04}-{month:02}-{day:02}{time}{era}")
}

impl From<Param> for Value {
    fn from(param: Param) -> Value {
        match param {
            Param::Null => Value::Null,
            Param::Boolean(value) => Value::Boolean(value),
            Param::Int32(value) => Value::Int32(value),
            Param::Int64(value) => Value::Int64(value),
            Param::Float64(value) => Value::Float64(value),
            Param::Decimal(text) => Value::Decimal(text),
            Param::Text(text) => Value::Text(text),
            Param::Bytes(bytes) => Value::Bytes(bytes),
            Param::Date(days) => Value::Date(days),
            Param::Time(micros) => Value::Time(micros),
            Param::Timestamp(micros) => Value::Timestamp(micros),
        }
    }
}
