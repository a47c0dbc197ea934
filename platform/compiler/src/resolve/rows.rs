//! The rows of static entities: values first, then what they refer to.
//!
//! References are read when every entity has its rows, because a row may name one of a later entity.
//! Invariant: a row that leaves here without a problem can be inserted: its texts fit, what is mandatory
//! is there, and every identifier is one of the entity referred to.

use std::collections::{BTreeMap, BTreeSet};

use super::unknown_attribute;
use crate::ast::{self, Name, Parsed};
use crate::literal;
use crate::problem::{Problems, near};
use crate::types::*;

/// Records that a hint lists; more would not be read.
const HINT_RECORDS_MAX: usize = 8;

/// The values of all rows, references left empty. Identifiers count from 1 in the order written, unless
/// a record says its own.
pub(super) fn rows(
    entity: &ast::Entity,
    fields: &[FieldDef],
    problems: &mut Problems<'_>,
) -> Vec<(String, i64, Vec<Option<String>>)> {
    let mut rows: Vec<(String, i64, Vec<Option<String>>)> = Vec::new();
    let mut ids = BTreeSet::new();
    for (order, (name, values)) in entity.records.iter().enumerate() {
        let mut row: Vec<Option<String>> = fields
            .iter()
            .map(|f| match f.name.as_str() {
                "Id" | "Order" => Some((order + 1).to_string()),
                "Label" => Some(name.text.clone()),
                _ if f.ty.is_identifier() => None,
                _ => f.default.clone().or_else(|| literal::default_of(&f.ty)).map(|c| literal::shown(&c)),
            })
            .collect();
        for (key, value) in values {
            let Some(index) = fields.iter().position(|f| f.name == key.text) else {
                unknown_attribute(key, &entity.name.text, fields, problems);
                continue;
            };
            let field = &fields[index];
            let is_reference = field.ty.is_identifier();
            if is_reference && index > 0 {
                continue; // `link` reads it
            }
            let ty = if is_reference { &Type::Long } else { &field.ty };
            match literal::read(&value.text, ty) {
                Some(Constant::Text(text)) if too_long(&text, field) => {
                    let (count, most) = (text.chars().count(), field.length.unwrap_or_default());
                    let message = format!("`{}` holds {most} characters at most, not {count}", key.text);
                    problems.error("OML0207", value.span, message);
                }
                Some(Constant::Long(id)) if is_reference && id < 1 => {
                    let message = format!("`{id}` identifies no record; an Id is 1 or more");
                    problems.error("OML0207", value.span, message);
                }
                Some(constant) => row[index] = Some(literal::shown(&constant)),
                None if *ty == Type::Unknown => {}
                None => {
                    let message = format!("`{}` does not fit the attribute `{}`", value.text, key.text);
                    problems.error("OML0207", value.span, message);
                }
            }
        }
        let id = row[0].as_deref().and_then(|id| id.parse().ok()).unwrap_or(0);
        if !ids.insert(id) {
            problems.error(
                "OML0004",
                name.span,
                format!("another record of `{}` has the Id {id}", entity.name.text),
            );
        }
        rows.push((name.text.clone(), id, row));
    }
    rows
}

fn too_long(text: &str, field: &FieldDef) -> bool {
    field.length.is_some_and(|most| text.chars().count() > most as usize)
}

/// Fills in the references of all rows, and reports what a mandatory attribute misses.
pub(super) fn link(parsed: &Parsed, named: &mut Named, problems: &mut Problems<'_>) {
    let mut known: BTreeMap<usize, BTreeSet<i64>> = BTreeMap::new();
    for (index, entity) in parsed.entities.iter().enumerate() {
        for (row, (name, values)) in entity.records.iter().enumerate() {
            for (key, value) in values {
                let fields = &named.records[index].fields;
                let Some(at) = fields.iter().position(|f| f.name == key.text).filter(|at| *at > 0) else {
                    continue; // the Id, or reported by `rows`
                };
                let Some(target) = fields[at].ty.identifies() else { continue };
                let rows = || named.records[target].entity.iter().flat_map(|entity| &entity.rows);
                let known = known.entry(target).or_insert_with(|| rows().map(|(_, id, _)| *id).collect());
                let id = referred(&named.records[target], known, value, problems);
                if let Some(def) = &mut named.records[index].entity {
                    def.rows[row].2[at] = id.map(|id| id.to_string());
                }
            }
            missing(&named.records[index], row, name, values, problems);
        }
    }
}

/// The identifier that a value stands for: a record's name, its Id, which must be one of the known, or 0 for none.
fn referred(
    target: &RecordDef,
    known: &BTreeSet<i64>,
    value: &Name,
    problems: &mut Problems<'_>,
) -> Option<i64> {
    // That a static entity may only refer to static ones has been said.
    let entity = target.entity.as_ref().filter(|e| e.is_static)?;
    let rows = &entity.rows;
    let number = value.text.parse::<i64>().ok();
    if number == Some(0) {
        return None;
    }
    let found = number.filter(|id| known.contains(id)).or_else(|| entity.ids.get(&value.text).copied());
    if found.is_none() {
        let message = match number {
            Some(id) => format!("`{}` has no record with the Id {id}", target.name),
            None => format!("`{}` has no record `{}`", target.name, value.text),
        };
        let hint = near(&value.text, rows.iter().map(|(name, _, _)| name.as_str())).unwrap_or_else(|| {
            let known = rows.iter().take(HINT_RECORDS_MAX).map(|(name, id, _)| format!("{name} ({id})"));
            let more = if rows.len() > HINT_RECORDS_MAX { ", …" } else { "" };
            match rows.len() {
                0 => format!("`{}` lists no records", target.name),
                _ => format!("it has {}{more}", known.collect::<Vec<_>>().join(", ")),
            }
        });
        problems.error_hint("OML0107", value.span, message, Some(hint));
    }
    found
}

/// What the entity's check refuses at run time is refused here too.
fn missing(def: &RecordDef, row: usize, name: &Name, values: &[(Name, Name)], problems: &mut Problems<'_>) {
    let Some((_, _, row)) = def.entity.as_ref().and_then(|e| e.rows.get(row)) else { return };
    for (field, value) in def.fields.iter().zip(row) {
        // A value that was written and is wrong has its own problem.
        let written = values.iter().find(|(key, _)| key.text == field.name);
        let wrong = written.is_some_and(|(_, value)| match literal::read(&value.text, &field.ty) {
            None => value.text != "0", // a reference, or what does not fit at all
            Some(Constant::Text(text)) => too_long(&text, field),
            Some(_) => false,
        });
        if field.mandatory && is_empty(&field.ty, value.as_deref()) && !wrong {
            let message = format!("the record `{}` needs `{}`", name.text, field.name);
            problems.error("OML0005", written.map_or(name.span, |(_, v)| v.span), message);
        }
    }
}

fn is_empty(ty: &Type, value: Option<&str>) -> bool {
    match ty {
        Type::Text | Type::Email | Type::Phone | Type::Identifier(_) | Type::TextIdentifier(_) => {
            value.is_none_or(str::is_empty)
        }
        Type::Date | Type::DateTime => {
            value == literal::default_of(ty).map(|c| literal::shown(&c)).as_deref()
        }
        Type::Unknown
        | Type::Boolean
        | Type::Integer
        | Type::Long
        | Type::Decimal
        | Type::Time
        | Type::Binary
        | Type::Record(_)
        | Type::List(_) => false,
    }
}
