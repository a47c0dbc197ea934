//! What identifies the rows of an entity: a number that the database counts, unless the attribute `Id` says otherwise.
//!
//! `Id` may be a number or text that the app gives, or the identifier of another entity, whose rows these extend one to
//! one. Invariant: every entity has one key, at its first attribute, and its identifiers are of the key's type.

use odeon_oml::schema::DeleteRule;

use super::{TEXT_LENGTH_DEFAULT, basic};
use crate::ast::{Declared, Entity, Parsed};
use crate::problem::Problems;
use crate::types::*;

/// The name of the attribute that identifies a row.
const KEY: &str = "Id";

/// Whether an attribute is the one that identifies a row.
pub(super) fn is_key(declared: &Declared) -> bool {
    declared.name.text == KEY
}

/// Where the search for what identifies an entity's rows ends.
#[derive(Clone)]
enum End {
    Key(Type),
    /// At the Id of this entity, which cannot be one.
    Wrong(usize),
    /// Nowhere: an Id that is its own, or that of an entity whose Id is.
    Ring,
}

/// What the identifiers of each entity are, by their places.
pub(super) fn keys(parsed: &Parsed, scope: &TypeNames, problems: &mut Problems<'_>) -> Vec<Type> {
    let mut ends: Vec<Option<End>> = vec![None; parsed.entities.len()];
    let mut keys = Vec::new();
    for (at, entity) in parsed.entities.iter().enumerate() {
        // An identifier of an entity whose Id is one of another entity, and so on, is one of the last.
        let (mut of, mut passed) = (at, Vec::new());
        let end = loop {
            if let Some(known) = &ends[of] {
                break known.clone();
            }
            ends[of] = Some(End::Ring); // for whoever comes back to it
            passed.push(of);
            let Some(declared) = parsed.entities[of].attributes.iter().find(|d| is_key(d)) else {
                break End::Key(Type::Identifier(Some(of)));
            };
            let word = &declared.type_name.text;
            match basic(word) {
                Some(Type::Integer | Type::Long) => break End::Key(Type::Identifier(Some(of))),
                Some(Type::Text) => break End::Key(Type::TextIdentifier(Some(of))),
                Some(_) | None => {}
            }
            let entity = word.strip_suffix(" Identifier").and_then(|of| scope.places.get(of.trim()));
            let Some(next) = entity.filter(|place| **place < scope.entities) else { break End::Wrong(of) };
            of = *next;
        };
        passed.into_iter().for_each(|of| ends[of] = Some(end.clone()));
        let own = entity.attributes.iter().find(|d| is_key(d)).map_or(&entity.name, |d| &d.type_name);
        match &end {
            End::Wrong(of) if *of == at => {
                let message = format!("`{}` cannot identify a row", own.text);
                let hint = "an Id is a Long Integer, a Text, or the identifier of another entity".to_owned();
                problems.error_hint("OML0304", own.span, message, Some(hint));
            }
            End::Ring => {
                let message = format!("the Id of `{}` is its own", entity.name.text);
                problems.error("OML0301", own.span, message);
            }
            End::Key(_) | End::Wrong(_) => {}
        }
        keys.push(match end {
            End::Key(key) => key,
            End::Wrong(_) | End::Ring => Type::Identifier(Some(at)),
        });
    }
    keys
}

/// The attribute that identifies a row.
pub(super) fn key(entity: &Entity, scope: &TypeNames, problems: &mut Problems<'_>) -> FieldDef {
    let own = scope.places.get(entity.name.text.as_str()).copied().filter(|at| *at < scope.keys.len());
    let ty = own.map_or(Type::Unknown, |at| scope.keys[at].clone());
    let counted = FieldDef { auto_number: true, ..FieldDef::plain(KEY, ty.clone()) };
    let Some(declared) = entity.attributes.iter().find(|d| is_key(d)) else { return counted };
    if entity.is_static {
        let message = "the records of a static entity are numbered, or say their `Id` themselves";
        problems.error("OML0303", declared.name.span, message);
        return counted;
    }
    let is_number = ty == Type::Identifier(own);
    let auto_number = match declared.auto_number {
        Some((true, at)) if !is_number => {
            let message = "only a whole number is counted by the database; the app says this `Id`";
            problems.error("OML0303", at, message);
            false
        }
        Some((counts, _)) => counts,
        None => is_number,
    };
    let text_length = matches!(ty, Type::TextIdentifier(_)).then_some(TEXT_LENGTH_DEFAULT);
    FieldDef {
        // A row that the app identifies is never written without its identifier.
        mandatory: !auto_number,
        length: declared.length.map(|(length, _)| length).or(text_length),
        delete_rule: declared.delete_rule.map_or(DeleteRule::Protect, |(rule, _)| rule),
        label: declared.label.clone(),
        auto_number,
        ..counted
    }
}

/// Reports what the database cannot count.
pub(super) fn auto_number(
    entity: &Entity,
    declared: &Declared,
    field: &FieldDef,
    before: &[FieldDef],
    problems: &mut Problems<'_>,
) {
    let Some((true, at)) = declared.auto_number else { return };
    if !matches!(field.ty, Type::Integer | Type::Long | Type::Unknown) || entity.is_static {
        problems.error(
            "OML0303",
            at,
            "only a whole number of an entity with a table is counted by the database",
        );
    }
    if let Some(other) = before.iter().find(|other| other.auto_number && !entity.is_static) {
        let message = format!("`{}` is counted already; an entity counts one attribute", other.name);
        let hint =
            (other.name == KEY).then(|| "say `Id: { type: Long Integer, auto_number: false }`".to_owned());
        problems.error_hint("OML0303", at, message, hint);
    }
}
