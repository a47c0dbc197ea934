//! Types and values of the language, and how they look in JSON: the interpreter's, written from
//! docs/oml/language.md.
//!
//! Decimals are big integers of 10^-8, dates count days from 1900-01-01 by walking the calendar, and JSON is
//! read into a tree first: the slow and obvious way, on purpose, so that it shares no idea with the compiler.
//! Invariant: a record or list is shared between a variable and what was reached through it, and copied
//! ([`Value::owned`]) where the language says that an assignment copies.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::rc::Rc;

use num_bigint::BigInt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ty {
    Bool,
    Int,
    Long,
    Dec,
    Text,
    Email,
    Phone,
    Date,
    Time,
    DateTime,
    Bytes,
    /// Of the one entity there is.
    Id,
    /// What `NullIdentifier()` is: of any entity.
    AnyId,
    Rec(usize),
    List(Box<Ty>),
}

impl Ty {
    pub(crate) fn list(of: Ty) -> Ty {
        Ty::List(Box::new(of))
    }

    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Ty::Text | Ty::Email | Ty::Phone)
    }

    pub(crate) fn is_number(&self) -> bool {
        matches!(self, Ty::Int | Ty::Long | Ty::Dec)
    }

    /// What `<` compares and what a list can be sorted by.
    pub(crate) fn is_ordered(&self) -> bool {
        self.is_number() || self.is_text() || matches!(self, Ty::Date | Ty::Time | Ty::DateTime)
    }
}

/// A structure: the names and types of its attributes, and the defaults that it declares.
#[derive(Debug, Clone)]
pub(crate) struct Structure {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) ty: Ty,
    /// As it is written in the model, and its value.
    pub(crate) default: Option<(String, Value)>,
}

#[derive(Debug, Clone)]
pub(crate) enum Value {
    Bool(bool),
    Int(i32),
    Long(i64),
    /// Units of 10^-8.
    Dec(BigInt),
    Text(Rc<str>),
    /// Days since 1900-01-01.
    Date(i64),
    /// Seconds since midnight.
    Time(i64),
    /// Seconds since 1900-01-01 00:00:00.
    DateTime(i64),
    Bytes(Rc<[u8]>),
    Id(i64),
    Rec(Rc<RefCell<Vec<Value>>>),
    List(Rc<RefCell<Vec<Value>>>),
}

/// 10^8.
pub(crate) fn unit() -> BigInt {
    BigInt::from(100_000_000)
}

/// The days of the type Date: the last is 3000-12-31.
pub(crate) fn days() -> i64 {
    (1900..=3000).map(days_of_year).sum()
}

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_year(year: i64) -> i64 {
    if is_leap(year) { 366 } else { 365 }
}

pub(crate) fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1900-01-01 of a date; none when the type has no such date.
pub(crate) fn date_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let valid = (1900..=3000).contains(&year) && (1..=12).contains(&month);
    if !valid || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let years: i64 = (1900..year).map(days_of_year).sum();
    let months: i64 = (1..month).map(|month| days_of_month(year, month)).sum();
    Some(years + months + day - 1)
}

/// Year, month and day.
pub(crate) fn civil(mut days: i64) -> (i64, i64, i64) {
    let mut year = 1900;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let mut month = 1;
    while days >= days_of_month(year, month) {
        days -= days_of_month(year, month);
        month += 1;
    }
    (year, month, days + 1)
}

pub(crate) fn date_text(days: i64) -> String {
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}")
}

pub(crate) fn time_text(seconds: i64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

pub(crate) fn date_time_text(seconds: i64, between: &str) -> String {
    format!("{}{between}{}", date_text(seconds / DAY), time_text(seconds % DAY))
}

pub(crate) fn decimal_text(value: &BigInt) -> String {
    let negative = *value < BigInt::ZERO;
    let digits = format!("{:09}", if negative { -value.clone() } else { value.clone() });
    let (whole, fraction) = digits.split_at(digits.len() - 8);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{whole}{point}{fraction}", if negative { "-" } else { "" })
}

/// A decimal as it is written in the model, in JSON or in a text; none when it does not fit.
pub(crate) fn decimal_of(text: &str) -> Option<BigInt> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok().filter(|e| e.abs() < 60)?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    let all: BigInt = format!("{whole}{fraction}").parse().ok()?;
    let shift = 8 + exponent - fraction.len() as i32;
    let power = BigInt::from(10).pow(shift.unsigned_abs());
    let value = if shift >= 0 { all * power } else { super::builtins::divide_half_even(&all, &power) };
    let value = if negative { -value } else { value };
    fits(&value).then_some(value)
}

/// Whether a decimal is within ±2^96.
pub(crate) fn fits(value: &BigInt) -> bool {
    let most = BigInt::from(2).pow(96) * unit();
    -most.clone() <= *value && *value <= most
}

impl Value {
    pub(crate) fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    pub(crate) fn new_list(values: Vec<Value>) -> Value {
        Value::List(Rc::new(RefCell::new(values)))
    }

    pub(crate) fn new_record(values: Vec<Value>) -> Value {
        Value::Rec(Rc::new(RefCell::new(values)))
    }

    /// The default of a type.
    pub(crate) fn default_of(ty: &Ty, structures: &[Structure]) -> Value {
        match ty {
            Ty::Bool => Value::Bool(false),
            Ty::Int => Value::Int(0),
            Ty::Long => Value::Long(0),
            Ty::Dec => Value::Dec(BigInt::ZERO),
            Ty::Text | Ty::Email | Ty::Phone => Value::text(""),
            Ty::Date => Value::Date(0),
            Ty::Time => Value::Time(0),
            Ty::DateTime => Value::DateTime(0),
            Ty::Bytes => Value::Bytes(Rc::new([])),
            Ty::Id | Ty::AnyId => Value::Id(0),
            Ty::Rec(of) => {
                let fields = structures[*of].fields.iter();
                Value::new_record(fields.map(|field| field.start(structures)).collect())
            }
            Ty::List(_) => Value::new_list(Vec::new()),
        }
    }

    /// A value that nobody else holds.
    pub(crate) fn owned(&self) -> Value {
        let copied = |of: &Rc<RefCell<Vec<Value>>>| of.borrow().iter().map(Value::owned).collect();
        match self {
            Value::Rec(of) => Value::new_record(copied(of)),
            Value::List(of) => Value::new_list(copied(of)),
            other => other.clone(),
        }
    }

    /// Roughly the bytes that it takes: what bounds a program's run.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Value::Text(text) => 8 + text.len(),
            Value::Rec(of) | Value::List(of) => 16 + of.borrow().iter().map(Value::weight).sum::<usize>(),
            _ => 16,
        }
    }

    /// Whether it is what its type begins with, as `json_serialize` leaves out.
    fn is_empty(&self) -> bool {
        match self {
            Value::Bool(v) => !v,
            Value::Int(v) => *v == 0,
            Value::Long(v) | Value::Date(v) | Value::Time(v) | Value::DateTime(v) | Value::Id(v) => *v == 0,
            Value::Dec(v) => *v == BigInt::ZERO,
            Value::Text(v) => v.is_empty(),
            Value::Bytes(v) => v.is_empty(),
            Value::Rec(of) => of.borrow().iter().all(Value::is_empty),
            Value::List(of) => of.borrow().is_empty(),
        }
    }

    /// How two values of one type compare: text without case and accents, records and lists by their parts.
    pub(crate) fn compare(&self, other: &Value) -> Ordering {
        match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Dec(a), Value::Dec(b)) => a.cmp(b),
            (Value::Text(a), Value::Text(b)) => folded(a).cmp(&folded(b)),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::Long(a), Value::Long(b))
            | (Value::Date(a), Value::Date(b))
            | (Value::Time(a), Value::Time(b))
            | (Value::DateTime(a), Value::DateTime(b))
            | (Value::Id(a), Value::Id(b)) => a.cmp(b),
            (Value::Rec(a), Value::Rec(b)) | (Value::List(a), Value::List(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                let differ = a.iter().zip(b.iter()).map(|(a, b)| a.compare(b)).find(|order| order.is_ne());
                differ.unwrap_or(a.len().cmp(&b.len()))
            }
            _ => panic!("the generator compares {self:?} with {other:?}"),
        }
    }
}

/// "How text compares", for the letters that the generator uses.
fn folded(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars().flat_map(char::to_lowercase) {
        match letter {
            'à'..='å' => out.push('a'),
            'è'..='ë' => out.push('e'),
            'ò'..='ö' => out.push('o'),
            'ù'..='ü' => out.push('u'),
            'ç' => out.push('c'),
            'ñ' => out.push('n'),
            'ß' => out.push_str("ss"),
            'æ' => out.push_str("ae"),
            'œ' => out.push_str("oe"),
            'ς' => out.push('σ'),
            'ά' => out.push('α'),
            'ё' => out.push('е'),
            '\u{300}'..='\u{36f}' => {}
            other => out.push(other),
        }
    }
    out
}

impl Field {
    /// What an attribute begins with.
    pub(crate) fn start(&self, structures: &[Structure]) -> Value {
        self.default.as_ref().map_or_else(|| Value::default_of(&self.ty, structures), |(_, v)| v.clone())
    }
}

// JSON, out.

pub(crate) fn json_text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let at = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    out
}

/// What `json_serialize` makes of a value; without `defaults`, attributes that are empty are left out.
pub(crate) fn to_json(value: &Value, ty: &Ty, structures: &[Structure], defaults: bool) -> String {
    match (value, ty) {
        (Value::Bool(v), _) => v.to_string(),
        (Value::Int(v), _) => v.to_string(),
        (Value::Long(v) | Value::Id(v), _) => v.to_string(),
        (Value::Dec(v), _) => decimal_text(v),
        (Value::Text(v), _) => json_text(v),
        (Value::Date(v), _) => format!("\"{}\"", date_text(*v)),
        (Value::Time(v), _) => format!("\"{}\"", time_text(*v)),
        (Value::DateTime(v), _) => format!("\"{}Z\"", date_time_text(*v, "T")),
        (Value::Bytes(v), _) => format!("\"{}\"", base64(v)),
        (Value::Rec(values), Ty::Rec(of)) => {
            let values = values.borrow();
            let pairs = structures[*of].fields.iter().zip(values.iter());
            let shown = pairs.filter(|(_, value)| defaults || !value.is_empty());
            let shown = shown.map(|(field, value)| {
                format!("\"{}\":{}", field.name, to_json(value, &field.ty, structures, defaults))
            });
            format!("{{{}}}", shown.collect::<Vec<_>>().join(","))
        }
        (Value::List(values), Ty::List(of)) => {
            let values = values.borrow();
            let shown = values.iter().map(|value| to_json(value, of, structures, defaults));
            format!("[{}]", shown.collect::<Vec<_>>().join(","))
        }
        _ => panic!("{value:?} is no {ty:?}"),
    }
}

// JSON, in.

enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Reads a document of a type; none when it does not fit, whatever the reason.
pub(crate) fn from_json(text: &str, ty: &Ty, structures: &[Structure]) -> Option<Value> {
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    let json = parse(&chars, &mut at)?;
    space(&chars, &mut at);
    if at == chars.len() { typed(&json, ty, structures) } else { None }
}

fn space(chars: &[char], at: &mut usize) {
    while matches!(chars.get(*at), Some(' ' | '\n' | '\t' | '\r')) {
        *at += 1;
    }
}

fn parse(chars: &[char], at: &mut usize) -> Option<Json> {
    space(chars, at);
    for (word, json) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))] {
        if chars[*at..].starts_with(&word.chars().collect::<Vec<_>>()) {
            *at += word.len();
            return Some(json);
        }
    }
    match *chars.get(*at)? {
        '"' => parse_text(chars, at).map(Json::Text),
        '[' => {
            let mut list = Vec::new();
            *at += 1;
            space(chars, at);
            while *chars.get(*at)? != ']' {
                if !list.is_empty() {
                    (*chars.get(*at)? == ',').then_some(())?;
                    *at += 1;
                }
                list.push(parse(chars, at)?);
                space(chars, at);
            }
            *at += 1;
            Some(Json::List(list))
        }
        '{' => {
            let mut object = Vec::new();
            *at += 1;
            space(chars, at);
            while *chars.get(*at)? != '}' {
                if !object.is_empty() {
                    (*chars.get(*at)? == ',').then_some(())?;
                    *at += 1;
                    space(chars, at);
                }
                let key = parse_text(chars, at)?;
                space(chars, at);
                (*chars.get(*at)? == ':').then_some(())?;
                *at += 1;
                object.push((key, parse(chars, at)?));
                space(chars, at);
            }
            *at += 1;
            Some(Json::Object(object))
        }
        _ => {
            let start = *at;
            while chars.get(*at).is_some_and(|c| c.is_ascii_digit() || "+-.eE".contains(*c)) {
                *at += 1;
            }
            (*at > start).then(|| Json::Number(chars[start..*at].iter().collect()))
        }
    }
}

fn parse_text(chars: &[char], at: &mut usize) -> Option<String> {
    (*chars.get(*at)? == '"').then_some(())?;
    let mut units: Vec<u16> = Vec::new();
    loop {
        *at += 1;
        match *chars.get(*at)? {
            '"' => break,
            '\\' => {
                *at += 1;
                units.push(match *chars.get(*at)? {
                    'b' => 8,
                    'f' => 12,
                    'n' => 10,
                    'r' => 13,
                    't' => 9,
                    'u' => {
                        let hex: String = chars.get(*at + 1..*at + 5)?.iter().collect();
                        *at += 4;
                        u16::from_str_radix(&hex, 16).ok()?
                    }
                    other => other as u16,
                });
            }
            c if c < ' ' => return None,
            c => units.extend_from_slice(c.encode_utf16(&mut [0; 2])),
        }
    }
    *at += 1;
    String::from_utf16(&units).ok()
}

fn typed(json: &Json, ty: &Ty, structures: &[Structure]) -> Option<Value> {
    Some(match (json, ty) {
        (Json::Null, _) => Value::default_of(ty, structures),
        (Json::Bool(v), Ty::Bool) => Value::Bool(*v),
        (Json::Number(text), Ty::Dec) => Value::Dec(decimal_of(text)?),
        (Json::Number(text), Ty::Int) => Value::Int(text.parse().ok()?),
        (Json::Number(text), Ty::Long) => Value::Long(text.parse().ok()?),
        (Json::Number(text), Ty::Id) => Value::Id(text.parse().ok()?),
        (Json::Text(text), Ty::Text | Ty::Email | Ty::Phone) => Value::text(text),
        (Json::Text(text), Ty::Date) => Value::Date(super::builtins::read_date(text)?),
        (Json::Text(text), Ty::Time) => Value::Time(super::builtins::read_time(text)?),
        (Json::Text(text), Ty::DateTime) => Value::DateTime(super::builtins::read_date_time(text)?),
        (Json::Text(text), Ty::Bytes) => Value::Bytes(unbase64(text)?.into()),
        (Json::List(list), Ty::List(of)) => {
            let values: Option<Vec<Value>> = list.iter().map(|json| typed(json, of, structures)).collect();
            Value::new_list(values?)
        }
        (Json::Object(object), Ty::Rec(of)) => {
            let fields = structures[*of].fields.iter();
            let values = fields.map(|field| {
                let given = object.iter().rev().find(|(key, _)| *key == field.name);
                match given {
                    Some((_, json)) if !matches!(json, Json::Null) => typed(json, &field.ty, structures),
                    _ => Some(field.start(structures)),
                }
            });
            Value::new_record(values.collect::<Option<Vec<Value>>>()?)
        }
        _ => return None,
    })
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for c in text.chars().filter(|c| *c != '=') {
        let value = match c {
            'A'..='Z' => c as u32 - 'A' as u32,
            'a'..='z' => c as u32 - 'a' as u32 + 26,
            '0'..='9' => c as u32 - '0' as u32 + 52,
            '+' => 62,
            '/' => 63,
            _ => return None,
        };
        bits = bits << 6 | value;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 255) as u8);
        }
    }
    Some(out)
}
