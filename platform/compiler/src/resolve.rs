//! Resolve: names become indices, type words become types, the schema's shape is checked.
//!
//! Flows are not read yet. Finds duplicates, unknown types and entities, structures that contain
//! themselves, and properties that do not apply. Invariant: every record and action that was parsed
//! is in [`Named`], in the order entities, structures; actions keep their order.

use std::collections::BTreeMap;

use odeon_oml::schema::DeleteRule;

use crate::ast::{self, Declared, Name, Parsed};
use crate::literal;
use crate::problem::{Problems, near};
use crate::types::*;

const BASIC: &[(&str, Type)] = &[
    ("Text", Type::Text),
    ("Integer", Type::Integer),
    ("LongInteger", Type::Long),
    ("Decimal", Type::Decimal),
    ("Currency", Type::Decimal),
    ("Boolean", Type::Boolean),
    ("Date", Type::Date),
    ("Time", Type::Time),
    ("DateTime", Type::DateTime),
    ("Email", Type::Email),
    ("PhoneNumber", Type::Phone),
    ("BinaryData", Type::Binary),
];

/// ODC's default length of a Text attribute.
const TEXT_LENGTH_DEFAULT: u32 = 50;

pub(crate) fn resolve(parsed: &Parsed, problems: &mut Problems<'_>) -> Named {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    let record_names: Vec<&Name> =
        parsed.entities.iter().map(|e| &e.name).chain(parsed.structures.iter().map(|s| &s.name)).collect();
    for (index, name) in record_names.iter().enumerate() {
        let basic = BASIC.iter().any(|(b, _)| *b == name.text);
        if basic || names.insert(&name.text, index).is_some() {
            problems.error(
                "OML0004",
                name.span,
                format!("`{}` is the name of another type already", name.text),
            );
        }
    }
    let scope = Scope { names: &names, entities: parsed.entities.len() };
    let mut named = Named::default();
    for entity in &parsed.entities {
        let record = entity_record(entity, parsed, &scope, problems);
        named.records.push(record);
    }
    for structure in &parsed.structures {
        let fields = fields_of(&structure.attributes, &scope, problems);
        for (declared, field) in structure.attributes.iter().zip(&fields) {
            if let Some((_, at)) = declared.delete_rule {
                problems.error("OML0303", at, "a delete rule belongs to an attribute of an entity");
            }
            let _ = field;
        }
        named.records.push(RecordDef {
            name: structure.name.text.clone(),
            span: structure.name.span,
            fields,
            entity: None,
        });
    }
    find_cycles(&named, problems);
    let mut seen: BTreeMap<(Option<&str>, &str), ()> = BTreeMap::new();
    for action in &parsed.actions {
        let api = action.rest.as_ref().map(|r| r.api.as_str());
        if seen.insert((api, &action.name.text), ()).is_some() {
            problems.error("OML0004", action.name.span, format!("`{}` exists already", action.name.text));
        }
        named.actions.push(action_def(action, &scope, problems));
    }
    for (index, api) in parsed.apis.iter().enumerate() {
        if parsed.apis[..index].iter().any(|a| a.text == api.text) {
            problems.error("OML0004", api.span, format!("the API `{}` exists already", api.text));
        }
    }
    named
}

struct Scope<'a> {
    names: &'a BTreeMap<&'a str, usize>,
    entities: usize,
}

impl Scope<'_> {
    fn type_of(&self, word: &Name, problems: &mut Problems<'_>) -> Type {
        let squeezed = word.text.replace(' ', "");
        if let Some((_, ty)) = BASIC.iter().find(|(name, _)| *name == squeezed) {
            return ty.clone();
        }
        if let Some(of) = word.text.strip_suffix(" List") {
            let of = Name { text: of.trim().to_owned(), span: word.span };
            return match self.type_of(&of, problems) {
                Type::Unknown => Type::Unknown,
                Type::List(_) => {
                    problems.error("OML0101", word.span, "a list of lists is not a type");
                    Type::Unknown
                }
                of => Type::List(Box::new(of)),
            };
        }
        if let Some(of) = word.text.strip_suffix(" Identifier") {
            return match self.names.get(of.trim()) {
                Some(index) if *index < self.entities => Type::Identifier(Some(*index)),
                Some(_) | None => {
                    let entities = self.names.iter().filter(|(_, i)| **i < self.entities).map(|(n, _)| *n);
                    let hint = near(of.trim(), entities);
                    problems.error_hint(
                        "OML0102",
                        word.span,
                        format!("there is no entity `{}`", of.trim()),
                        hint,
                    );
                    Type::Unknown
                }
            };
        }
        match self.names.get(word.text.as_str()) {
            Some(index) => Type::Record(*index),
            None if word.text.is_empty() => Type::Unknown, // reported where it was read
            None => {
                let known = BASIC.iter().map(|(n, _)| *n).chain(self.names.keys().copied());
                let hint = near(&squeezed, known);
                problems.error_hint("OML0101", word.span, format!("there is no type `{}`", word.text), hint);
                Type::Unknown
            }
        }
    }
}

fn fields_of(declared: &[Declared], scope: &Scope<'_>, problems: &mut Problems<'_>) -> Vec<FieldDef> {
    declared
        .iter()
        .map(|d| {
            let ty = scope.type_of(&d.type_name, problems);
            if let Some((_, at)) = d.length
                && ty != Type::Text
                && ty != Type::Unknown
            {
                problems.error("OML0303", at, "only a Text has a length");
            }
            if let Some((_, at)) = d.source {
                problems.error("OML0303", at, "`in` belongs to an input of a REST method");
            }
            FieldDef {
                name: d.name.text.clone(),
                default: default_of(d, &ty, problems),
                ty,
                mandatory: d.mandatory,
                length: d.length.map(|(l, _)| l),
                delete_rule: d.delete_rule.map_or(DeleteRule::Protect, |(rule, _)| rule),
            }
        })
        .collect()
}

fn default_of(declared: &Declared, ty: &Type, problems: &mut Problems<'_>) -> Option<Constant> {
    let default = declared.default.as_ref()?;
    let read = literal::read(&default.text, ty);
    if read.is_none() && *ty != Type::Unknown {
        let message = format!("`{}` is no literal of type {}", default.text, declared.type_name.text);
        problems.error("OML0207", default.span, message);
    }
    read
}

fn entity_record(
    entity: &ast::Entity,
    parsed: &Parsed,
    scope: &Scope<'_>,
    problems: &mut Problems<'_>,
) -> RecordDef {
    let mut fields =
        vec![built_in("Id", Type::Identifier(scope.names.get(entity.name.text.as_str()).copied()))];
    if entity.is_static {
        fields.push(FieldDef { length: Some(TEXT_LENGTH_DEFAULT), ..built_in("Label", Type::Text) });
        fields.push(built_in("Order", Type::Integer));
        let active = built_in("Is_Active", Type::Boolean);
        fields.push(FieldDef { default: Some(Constant::Boolean(true)), ..active });
    }
    let own = fields_of(&entity.attributes, scope, problems);
    for (declared, mut field) in entity.attributes.iter().zip(own) {
        if fields.iter().any(|f| f.name == field.name) {
            let message = format!("`{}` is an attribute of every such entity already", field.name);
            problems.error("OML0004", declared.name.span, message);
            continue;
        }
        match &field.ty {
            Type::Record(_) | Type::List(_) => {
                let message = format!("an attribute of an entity cannot be `{}`", declared.type_name.text);
                problems.error("OML0304", declared.type_name.span, message);
                field.ty = Type::Unknown;
            }
            Type::Text => field.length = field.length.or(Some(TEXT_LENGTH_DEFAULT)),
            Type::Identifier(Some(of)) if entity.is_static && !parsed.entities[*of].is_static => {
                let message = format!("`{}` is not static", parsed.entities[*of].name.text);
                problems.error("OML0305", declared.type_name.span, message);
            }
            Type::Unknown
            | Type::Boolean
            | Type::Integer
            | Type::Long
            | Type::Decimal
            | Type::Email
            | Type::Phone
            | Type::Date
            | Type::Time
            | Type::DateTime
            | Type::Binary
            | Type::Identifier(_) => {}
        }
        if let Some((_, at)) = declared.delete_rule
            && !matches!(field.ty, Type::Identifier(_) | Type::Unknown)
        {
            problems.error("OML0303", at, "a delete rule belongs to an attribute of type Identifier");
        }
        fields.push(field);
    }
    let mut def = EntityDef { is_static: entity.is_static, ..EntityDef::default() };
    for (name, attributes, unique) in &entity.indexes {
        for attribute in attributes {
            if !fields.iter().any(|f| f.name == attribute.text) {
                unknown_attribute(attribute, &entity.name.text, &fields, problems);
            }
        }
        def.indexes.push((name.text.clone(), attributes.iter().map(|a| a.text.clone()).collect(), *unique));
    }
    def.rows = rows(entity, &fields, problems);
    RecordDef { name: entity.name.text.clone(), span: entity.name.span, fields, entity: Some(def) }
}

fn built_in(name: &str, ty: Type) -> FieldDef {
    FieldDef {
        name: name.to_owned(),
        ty,
        mandatory: false,
        length: None,
        default: None,
        delete_rule: DeleteRule::Protect,
    }
}

/// The rows of a static entity. Identifiers count from 1 in the order written, unless a record says its own.
fn rows(
    entity: &ast::Entity,
    fields: &[FieldDef],
    problems: &mut Problems<'_>,
) -> Vec<(String, i64, Vec<Option<String>>)> {
    let mut rows: Vec<(String, i64, Vec<Option<String>>)> = Vec::new();
    for (order, (name, values)) in entity.records.iter().enumerate() {
        let mut row: Vec<Option<String>> = fields
            .iter()
            .map(|f| match f.name.as_str() {
                "Id" | "Order" => Some((order + 1).to_string()),
                "Label" => Some(name.text.clone()),
                _ if matches!(f.ty, Type::Identifier(_)) => None,
                _ => f.default.clone().or_else(|| literal::default_of(&f.ty)).map(|c| literal::shown(&c)),
            })
            .collect();
        for (key, value) in values {
            let Some(index) = fields.iter().position(|f| f.name == key.text) else {
                unknown_attribute(key, &entity.name.text, fields, problems);
                continue;
            };
            let ty =
                if matches!(fields[index].ty, Type::Identifier(_)) { &Type::Long } else { &fields[index].ty };
            match literal::read(&value.text, ty) {
                Some(constant) => row[index] = Some(literal::shown(&constant)),
                None if *ty == Type::Unknown => {}
                None => {
                    let message = format!("`{}` does not fit the attribute `{}`", value.text, key.text);
                    problems.error("OML0207", value.span, message);
                }
            }
        }
        let id = row[0].as_deref().and_then(|id| id.parse().ok()).unwrap_or(0);
        if rows.iter().any(|(_, other, _)| *other == id) {
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

pub(crate) fn unknown_attribute(name: &Name, of: &str, fields: &[FieldDef], problems: &mut Problems<'_>) {
    let hint = near(&name.text, fields.iter().map(|f| f.name.as_str()));
    problems.error_hint("OML0104", name.span, format!("`{of}` has no attribute `{}`", name.text), hint);
}

/// A record that contains itself, directly or through others, would have no end. Lists end the search:
/// an empty list contains nothing, but its descriptor would still be endless, so they count too.
fn find_cycles(named: &Named, problems: &mut Problems<'_>) {
    fn reaches(named: &Named, from: usize, goal: usize, seen: &mut Vec<usize>) -> bool {
        named.records[from].fields.iter().any(|field| {
            let mut ty = &field.ty;
            while let Type::List(of) = ty {
                ty = of;
            }
            let Type::Record(next) = ty else { return false };
            *next == goal
                || (!seen.contains(next) && {
                    seen.push(*next);
                    reaches(named, *next, goal, seen)
                })
        })
    }
    for (index, record) in named.records.iter().enumerate() {
        if record.entity.is_none() && reaches(named, index, index, &mut vec![index]) {
            problems.error(
                "OML0301",
                record.span,
                format!("the structure `{}` contains itself", record.name),
            );
        }
    }
}

fn action_def(action: &ast::Action, scope: &Scope<'_>, problems: &mut Problems<'_>) -> ActionDef {
    let mut variables: Vec<LocalDef> = Vec::new();
    for (group, is_input) in [(&action.inputs, true), (&action.outputs, false), (&action.locals, false)] {
        for d in group {
            let ty = scope.type_of(&d.type_name, problems);
            if variables.iter().any(|v| v.name == d.name.text) {
                problems.error("OML0004", d.name.span, format!("`{}` exists already", d.name.text));
            }
            if let Some((_, at)) = d.length {
                problems.error("OML0303", at, "a length belongs to an attribute of an entity");
            }
            if let Some((_, at)) = d.delete_rule {
                problems.error("OML0303", at, "a delete rule belongs to an attribute of an entity");
            }
            if let Some((_, at)) = d.source
                && !(is_input && action.rest.is_some())
            {
                problems.error("OML0303", at, "`in` belongs to an input of a REST method");
            }
            variables.push(LocalDef {
                name: d.name.text.clone(),
                default: default_of(d, &ty, problems),
                ty,
                mandatory: d.mandatory,
                source: d.source,
            });
        }
    }
    ActionDef {
        name: match &action.rest {
            Some(rest) => format!("{}.{}", rest.api, action.name.text),
            None => action.name.text.clone(),
        },
        variables,
        inputs: action.inputs.len(),
        outputs: action.outputs.len(),
    }
}
