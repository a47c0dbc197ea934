//! Literals: the text of a default, a record or a token, read as a constant of a type.
//!
//! The arithmetic is the runtime library's own source, included, so that a default means the same
//! here and in the running app. Invariant: `None` means the text is no literal of the type.

use crate::types::{Constant, Type};

#[allow(dead_code, unreachable_pub, reason = "the runtime's source is shared as it is")]
#[path = "../../oml-runtime/src/decimal.rs"]
pub(crate) mod decimal;

#[allow(dead_code, unreachable_pub, reason = "the runtime's source is shared as it is")]
#[path = "../../oml-runtime/src/calendar.rs"]
pub(crate) mod calendar;

/// Reads a literal.
pub(crate) fn read(text: &str, ty: &Type) -> Option<Constant> {
    Some(match ty {
        Type::Boolean => Constant::Boolean(match text {
            "true" | "True" => true,
            "false" | "False" => false,
            _ => return None,
        }),
        Type::Integer => Constant::Integer(text.parse().ok()?),
        Type::Long => Constant::Long(text.parse().ok()?),
        Type::Decimal => Constant::Decimal(decimal::parse(text)?),
        Type::Text | Type::Email | Type::Phone => Constant::Text(unquoted(text)),
        Type::Date => Constant::Date(calendar::parse_date(text)?),
        Type::Time => Constant::Time(calendar::parse_time(text)?),
        Type::DateTime => Constant::DateTime(calendar::parse_date_time(text)?),
        Type::Unknown
        | Type::Binary
        | Type::Identifier(_)
        | Type::TextIdentifier(_)
        | Type::Record(_)
        | Type::List(_) => return None,
    })
}

/// The text that a database reads as the constant.
pub(crate) fn shown(constant: &Constant) -> String {
    let mut out = String::new();
    match constant {
        Constant::Boolean(v) => out.push_str(if *v { "true" } else { "false" }),
        Constant::Integer(v) => out.push_str(&v.to_string()),
        Constant::Long(v) => out.push_str(&v.to_string()),
        Constant::Decimal(v) => out.push_str(&decimal::format(*v)),
        Constant::Text(v) => out.push_str(v),
        Constant::Date(v) => calendar::format_date(&mut out, *v),
        Constant::Time(v) => calendar::format_time(&mut out, *v),
        Constant::DateTime(v) => calendar::format_date_time(&mut out, *v, ' '),
    }
    out
}

/// The constant that every type starts from; `None` for what lives in memory.
pub(crate) fn default_of(ty: &Type) -> Option<Constant> {
    Some(match ty {
        Type::Boolean => Constant::Boolean(false),
        Type::Integer => Constant::Integer(0),
        Type::Long | Type::Identifier(_) => Constant::Long(0),
        Type::Decimal => Constant::Decimal(0),
        Type::Text | Type::Email | Type::Phone | Type::TextIdentifier(_) => Constant::Text(String::new()),
        Type::Date => Constant::Date(calendar::DATE_DEFAULT),
        Type::Time => Constant::Time(0),
        Type::DateTime => Constant::DateTime(i64::from(calendar::DATE_DEFAULT) * calendar::DAY_US),
        Type::Unknown | Type::Binary | Type::Record(_) | Type::List(_) => return None,
    })
}

/// A text default may stand in quotes, as in an expression.
fn unquoted(text: &str) -> String {
    match text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => text.to_owned(),
    }
}
