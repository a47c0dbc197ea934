//! Resolve: names become indices, type words become types, the schema's shape is checked.
//!
//! Flows are not read yet. Finds duplicates, unknown types and entities, structures that contain
//! themselves, and properties that do not apply. Invariant: every record and action that was parsed
//! is in [`Named`], in the order entities, structures; actions keep their order.

mod cycles;
mod keys;
mod rows;

use std::collections::{BTreeMap, BTreeSet};

use odeon_oml::schema::DeleteRule;

use crate::ast::{self, ActionKind, Declared, Home, Name, Parsed, Source};
use crate::builtins::is_built_in;
use crate::literal;
use crate::problem::{Problems, near};
use crate::schema::{OUTBOX, ROLES};
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

/// Longest name in PostgreSQL, in bytes.
const IDENTIFIER_BYTES_MAX: usize = 63;
/// ODC's default length of a Text attribute, in characters.
const TEXT_LENGTH_DEFAULT: u32 = 50;
/// ODC's length of an Email attribute, in characters.
const EMAIL_LENGTH: u32 = 250;
/// ODC's length of a Phone Number attribute, in characters.
const PHONE_LENGTH: u32 = 20;

pub(crate) fn resolve(parsed: &Parsed, problems: &mut Problems<'_>) -> Named {
    let app = parsed.app.as_ref().map(|app| app.text.clone()).unwrap_or_default();
    let mut scope = TypeNames { entities: parsed.entities.len(), ..TypeNames::default() };
    let record_names: Vec<&Name> =
        parsed.entities.iter().map(|e| &e.name).chain(parsed.structures.iter().map(|s| &s.name)).collect();
    for (index, name) in record_names.iter().enumerate() {
        let basic = BASIC.iter().any(|(b, _)| *b == name.text);
        if basic || scope.places.insert(name.text.clone(), index).is_some() {
            problems.error(
                "OML0004",
                name.span,
                format!("`{}` is the name of another type already", name.text),
            );
        }
    }
    scope.keys = keys::keys(parsed, &scope, problems);
    let mut named = Named { app, ..Named::default() };
    for entity in &parsed.entities {
        let record = entity_record(entity, parsed, &scope, problems);
        named.records.push(record);
    }
    let mut tables: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, entity) in parsed.entities.iter().enumerate() {
        let table = named.records[at].table();
        if [OUTBOX, ROLES].contains(&table) {
            problems.error("OML0004", entity.name.span, format!("the table `{table}` is Odeon's"));
        }
        if entity.home == Home::Library {
            continue; // it has no table
        }
        let first = *tables.entry(table).or_insert(at);
        let other = &named.records[first];
        // Two of one name were reported.
        if first != at && other.name != entity.name.text {
            let message =
                format!("`{}` is stored as `{table}`, and so is `{}`", entity.name.text, other.name);
            let span = entity.stored_as.as_ref().unwrap_or(&entity.name).span;
            problems.error("OML0004", span, message);
        }
    }
    for structure in &parsed.structures {
        let fields = fields_of(&structure.attributes, &scope, problems);
        for (declared, field) in structure.attributes.iter().zip(&fields) {
            if let Some((_, at)) = declared.delete_rule {
                problems.error("OML0303", at, "a delete rule belongs to an attribute of an entity");
            }
            not_counted(declared, problems);
            not_stored(declared, problems);
            default_fits(declared, field, problems);
        }
        named.records.push(RecordDef {
            name: structure.name.text.clone(),
            span: structure.name.span,
            fields,
            entity: None,
            inline: structure.inline,
        });
    }
    rows::link(parsed, &mut named, problems);
    cycles::find(&named, problems);
    let mut seen = BTreeSet::new();
    for (index, action) in parsed.actions.iter().enumerate() {
        let def = action_def(action, &scope, problems);
        if !seen.insert(def.name.clone()) {
            problems.error("OML0004", action.name.span, format!("`{}` exists already", action.name.text));
        }
        match &action.kind {
            ActionKind::Server | ActionKind::Service => {
                named.callable.insert(def.name.clone(), index);
            }
            ActionKind::Remote(remote) => {
                named.callable.insert(format!("{}.{}", remote.app, remote.action), index);
            }
            ActionKind::Consumed(method) => {
                named.callable.insert(format!("{}.{}", method.api, action.name.text), index);
            }
            ActionKind::Timer(_) => drop(named.timers.insert(action.name.text.clone(), index)),
            ActionKind::Exposed(_) | ActionKind::Handler { .. } => {}
        }
        named.actions.push(def);
    }
    let aggregates = parsed.actions.iter().map(|action| {
        aggregates(&action.flow) + action.handlers.iter().map(|h| aggregates(&h.flow)).sum::<usize>()
    });
    named.records.reserve_rows(aggregates.sum());
    named.types = scope;
    let mut seen: BTreeSet<&str> = EXCEPTIONS.iter().map(|built_in| built_in.name).collect();
    for (name, number) in parsed.exceptions.iter().zip(USER + 1..) {
        if !seen.insert(&name.text) {
            problems.error("OML0004", name.span, format!("the exception `{}` exists already", name.text));
        }
        named.exceptions.entry(name.text.clone()).or_insert(number);
    }
    let mut seen = BTreeSet::new();
    for role in &parsed.roles {
        let name = &role.name;
        if !seen.insert(&name.text) {
            problems.error("OML0004", name.span, format!("the role `{}` exists already", name.text));
        }
        named.roles.push(RoleDef { name: name.text.clone(), own: role.own, public: role.public });
    }
    named.events = parsed.events.iter().map(|event| event_def(event, &named.types, problems)).collect();
    let mut seen = BTreeSet::new();
    for event in &parsed.events {
        if !seen.insert(&event.name.text) {
            let message = format!("the event `{}` exists already", event.name.text);
            problems.error("OML0004", event.name.span, message);
        }
    }
    named.settings = settings(&parsed.settings, &named.types, problems);
    for (place, setting) in named.settings.iter().enumerate() {
        named.setting_places.entry(setting.name.clone()).or_insert(place);
    }
    let consumed = |api: &ast::ConsumedApi| ConsumedDef {
        name: api.name.text.clone(),
        url: api.url.as_ref().map(|url| url.text.clone()),
        basic: api.basic,
        timeout_s: api.timeout_s,
    };
    named.consumed = parsed.consumed.iter().map(consumed).collect();
    unique_apis(parsed.apis.iter().map(|api| &api.name), problems);
    unique_apis(parsed.consumed.iter().map(|api| &api.name), problems);
    named
}

fn unique_apis<'n>(names: impl Iterator<Item = &'n Name>, problems: &mut Problems<'_>) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(&name.text) {
            problems.error("OML0004", name.span, format!("the API `{}` exists already", name.text));
        }
    }
}

/// The basic type of that name, with or without spaces.
pub(crate) fn basic(name: &str) -> Option<Type> {
    let squeezed = name.replace(' ', "");
    BASIC.iter().find(|(name, _)| *name == squeezed).map(|(_, ty)| ty.clone())
}

/// How many aggregates are in a flow.
fn aggregates(flow: &[ast::Node]) -> usize {
    let of = |node: &ast::Node| {
        usize::from(matches!(node.kind, ast::NodeKind::Aggregate(_)))
            + node.kind.flows().into_iter().map(aggregates).sum::<usize>()
    };
    flow.iter().map(of).sum()
}

impl TypeNames {
    /// The type that a word of the model names.
    pub(crate) fn type_of(&self, word: &Name, problems: &mut Problems<'_>) -> Type {
        let squeezed = word.text.replace(' ', "");
        if let Some(ty) = basic(&word.text) {
            return ty;
        }
        if let Some(of) = word.text.strip_suffix(" List") {
            let of = Name { text: of.trim().to_owned(), span: word.span };
            if of.text.ends_with(" List") {
                problems.error("OML0101", word.span, "a list of lists is not a type");
                return Type::Unknown;
            }
            let of = self.type_of(&of, problems);
            return if of == Type::Unknown { of } else { Type::List(Box::new(of)) };
        }
        if let Some(of) = word.text.strip_suffix(" Identifier") {
            return match self.places.get(of.trim()) {
                Some(index) if *index < self.entities => self.keys[*index].clone(),
                Some(_) | None => {
                    let entities =
                        self.places.iter().filter(|(_, i)| **i < self.entities).map(|(n, _)| n.as_str());
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
        match self.places.get(word.text.as_str()) {
            Some(index) => Type::Record(*index),
            None if word.text.is_empty() => Type::Unknown, // reported where it was read
            None => {
                let known = BASIC.iter().map(|(n, _)| *n).chain(self.places.keys().map(String::as_str));
                let hint = near(&squeezed, known);
                problems.error_hint("OML0101", word.span, format!("there is no type `{}`", word.text), hint);
                Type::Unknown
            }
        }
    }
}

fn fields_of(declared: &[Declared], scope: &TypeNames, problems: &mut Problems<'_>) -> Vec<FieldDef> {
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
                problems.error("OML0303", at, "`in` and `header` belong to an input of a REST method");
            }
            no_secret(d, problems);
            if let Some((_, at)) = d.decimals
                && !matches!(ty, Type::Decimal | Type::Unknown)
            {
                problems.error("OML0303", at, "only a Decimal or Currency has decimals");
            }
            FieldDef {
                column: d.stored_as.as_ref().unwrap_or(&d.name).text.clone(),
                default: default_of(d, &ty, problems),
                mandatory: d.mandatory,
                length: d.length.map(|(l, _)| l),
                delete_rule: d.delete_rule.map_or(DeleteRule::Protect, |(rule, _)| rule),
                auto_number: d.auto_number.is_some_and(|(counts, _)| counts),
                decimals: d.decimals.map(|(decimals, _)| decimals),
                label: d.label.clone(),
                ..FieldDef::plain(&d.name.text, ty)
            }
        })
        .collect()
}

fn not_stored(declared: &Declared, problems: &mut Problems<'_>) {
    if let Some(name) = &declared.stored_as {
        problems.error("OML0303", name.span, "`stored_as` belongs to an entity or an attribute of one");
    }
}

/// The name of a table, or of the view of another app's. PostgreSQL cuts names without a word, so that two could become
/// one: a long one is cut here, with a hash (FNV-1a, 64 bits) of the whole.
fn view_or_table(name: &str) -> String {
    if name.len() <= IDENTIFIER_BYTES_MAX {
        return name.to_owned();
    }
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}_{hash:016x}", &name[..name.floor_char_boundary(IDENTIFIER_BYTES_MAX - 17)])
}

fn not_counted(declared: &Declared, problems: &mut Problems<'_>) {
    if let Some((_, at)) = declared.auto_number {
        problems.error("OML0303", at, "`auto_number` belongs to an attribute of an entity");
    }
}

fn no_secret(declared: &Declared, problems: &mut Problems<'_>) {
    if let Some(at) = declared.secret {
        problems.error("OML0303", at, "`secret` belongs to a setting");
    }
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

/// A default that the entity's own check would refuse is a mistake of the model.
fn default_fits(declared: &Declared, field: &FieldDef, problems: &mut Problems<'_>) {
    let (Some(default), Some(Constant::Text(text)), Some(length)) =
        (&declared.default, &field.default, field.length)
    else {
        return;
    };
    let count = text.chars().count();
    if count > length as usize {
        let message =
            format!("the default of `{}` has {count} characters, its length is {length}", field.name);
        problems.error("OML0207", default.span, message);
    }
}

fn entity_record(
    entity: &ast::Entity,
    parsed: &Parsed,
    scope: &TypeNames,
    problems: &mut Problems<'_>,
) -> RecordDef {
    let mut fields = vec![keys::key(entity, scope, problems)];
    if entity.is_static {
        fields.push(FieldDef { length: Some(TEXT_LENGTH_DEFAULT), ..FieldDef::plain("Label", Type::Text) });
        fields.push(FieldDef::plain("Order", Type::Integer));
        let active = FieldDef::plain("Is_Active", Type::Boolean);
        fields.push(FieldDef { default: Some(Constant::Boolean(true)), ..active });
    }
    let mut names: BTreeSet<String> = fields.iter().map(|field| field.name.clone()).collect();
    let own = fields_of(&entity.attributes, scope, problems);
    for (declared, mut field) in entity.attributes.iter().zip(own) {
        if keys::is_key(declared) {
            continue;
        }
        if !names.insert(field.name.clone()) {
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
            Type::Email => field.length = Some(EMAIL_LENGTH),
            Type::Phone => field.length = Some(PHONE_LENGTH),
            Type::Identifier(Some(of)) | Type::TextIdentifier(Some(of))
                if entity.is_static && !parsed.entities[*of].is_static =>
            {
                let message = format!("`{}` is not static", parsed.entities[*of].name.text);
                problems.error("OML0305", declared.type_name.span, message);
            }
            Type::Identifier(Some(of)) | Type::TextIdentifier(Some(of))
                if parsed.entities[*of].home != entity.home =>
            {
                // Its rows are not in this app's database schema, so nothing there can watch over them.
                if let Some((DeleteRule::Protect | DeleteRule::Delete, at)) = declared.delete_rule {
                    let message =
                        format!("the rows of `{}` are not this app's", parsed.entities[*of].name.text);
                    let hint =
                        "leave `delete_rule` out: it is Ignore, and a row may refer to one that is gone";
                    problems.error_hint("OML0303", at, message, Some(hint.to_owned()));
                }
                field.delete_rule = DeleteRule::Ignore;
            }
            Type::Unknown
            | Type::Boolean
            | Type::Integer
            | Type::Long
            | Type::Decimal
            | Type::Date
            | Type::Time
            | Type::DateTime
            | Type::Binary
            | Type::Identifier(_)
            | Type::TextIdentifier(_) => {}
        }
        keys::auto_number(entity, declared, &field, &fields, problems);
        default_fits(declared, &field, problems);
        if let Some((_, at)) = declared.delete_rule
            && !(field.ty.is_identifier() || field.ty == Type::Unknown)
        {
            problems.error("OML0303", at, "a delete rule belongs to an attribute of type Identifier");
        }
        fields.push(field);
    }
    let mut columns: BTreeMap<&str, &FieldDef> = BTreeMap::new();
    for field in &fields {
        if let Some(other) = columns.get(field.column.as_str()) {
            let declared = entity.attributes.iter().find(|d| d.name.text == field.name);
            let message =
                format!("`{}` is stored as `{}`, and so is `{}`", field.name, field.column, other.name);
            problems.error("OML0004", declared.map_or(entity.name.span, |d| d.name.span), message);
        }
        columns.entry(&field.column).or_insert(field);
    }
    let table = view_or_table(&entity.stored_as.as_ref().unwrap_or(&entity.name).text);
    let (home, public) = (entity.home.clone(), entity.public);
    let mut def = EntityDef { home, public, table, is_static: entity.is_static, ..EntityDef::default() };
    for (name, attributes, unique) in &entity.indexes {
        for attribute in attributes {
            if !fields.iter().any(|f| f.name == attribute.text) {
                unknown_attribute(attribute, &entity.name.text, &fields, problems);
            }
        }
        def.indexes.push((name.text.clone(), attributes.iter().map(|a| a.text.clone()).collect(), *unique));
    }
    def.rows = rows::rows(entity, &fields, problems);
    for (name, id, _) in &def.rows {
        def.ids.entry(name.clone()).or_insert(*id);
    }
    RecordDef {
        name: entity.name.text.clone(),
        span: entity.name.span,
        fields,
        entity: Some(def),
        inline: false,
    }
}

pub(crate) fn unknown_attribute(name: &Name, of: &str, fields: &[FieldDef], problems: &mut Problems<'_>) {
    let hint = near(&name.text, fields.iter().map(|f| f.name.as_str()));
    problems.error_hint("OML0104", name.span, format!("`{of}` has no attribute `{}`", name.text), hint);
}

fn settings(declared: &[Declared], scope: &TypeNames, problems: &mut Problems<'_>) -> Vec<SettingDef> {
    let mut settings: Vec<SettingDef> = Vec::new();
    let mut seen = BTreeSet::new();
    for setting in declared {
        let mut ty = scope.type_of(&setting.type_name, problems);
        if ty.is_identifier() || matches!(ty, Type::Record(_) | Type::List(_) | Type::Binary) {
            let message = format!("a setting cannot be `{}`", setting.type_name.text);
            problems.error("OML0304", setting.type_name.span, message);
            ty = Type::Unknown;
        }
        if let (Some(_), Some(default)) = (setting.secret, &setting.default) {
            problems.error("OML0303", default.span, "a secret has no default: it would be in the model");
        }
        if !seen.insert(&setting.name.text) {
            let message = format!("the setting `{}` exists already", setting.name.text);
            problems.error("OML0004", setting.name.span, message);
        }
        settings.push(SettingDef {
            name: setting.name.text.clone(),
            default: default_of(setting, &ty, problems),
            ty,
            secret: setting.secret.is_some(),
        });
    }
    settings
}

/// Events travel between apps of other revisions, so they carry single values only.
fn event_def(event: &ast::Event, scope: &TypeNames, problems: &mut Problems<'_>) -> EventDef {
    let mut payload = Vec::new();
    for field in &event.payload {
        let mut ty = scope.type_of(&field.type_name, problems);
        if matches!(ty, Type::Record(_) | Type::List(_) | Type::Binary) {
            let message = format!("an event cannot carry `{}`", field.type_name.text);
            let hint = "it carries single values, such as the identifier of what changed".to_owned();
            problems.error_hint("OML0304", field.type_name.span, message, Some(hint));
            ty = Type::Unknown;
        }
        payload.push(LocalDef {
            name: field.name.text.clone(),
            default: default_of(field, &ty, problems),
            ty,
            mandatory: field.mandatory,
            source: None,
            header: None,
        });
    }
    EventDef { name: event.name.text.clone(), own: event.own, payload }
}

fn action_def(action: &ast::Action, scope: &TypeNames, problems: &mut Problems<'_>) -> ActionDef {
    let mut variables: Vec<LocalDef> = Vec::new();
    let mut names = BTreeSet::new();
    for (group, is_input) in [(&action.inputs, true), (&action.outputs, false), (&action.locals, false)] {
        for d in group {
            let ty = scope.type_of(&d.type_name, problems);
            if !names.insert(d.name.text.as_str()) {
                problems.error("OML0004", d.name.span, format!("`{}` exists already", d.name.text));
            }
            if let Some((_, at)) = d.length {
                problems.error("OML0303", at, "a length belongs to an attribute of an entity");
            }
            if let Some((_, at)) = d.delete_rule {
                problems.error("OML0303", at, "a delete rule belongs to an attribute of an entity");
            }
            no_secret(d, problems);
            not_stored(d, problems);
            not_counted(d, problems);
            if let Some((_, at)) = d.decimals {
                problems.error("OML0303", at, "decimals belong to an attribute");
            }
            if let Some((source, at)) = d.source {
                let is_rest = matches!(action.kind, ActionKind::Exposed(_) | ActionKind::Consumed(_));
                if !(is_input && is_rest) {
                    problems.error("OML0303", at, "`in` and `header` belong to an input of a REST method");
                } else if let Some(header) = &d.header
                    && source != Source::Header
                {
                    problems.error("OML0303", header.span, "`header` goes with `in: header`");
                }
            }
            variables.push(LocalDef {
                name: d.name.text.clone(),
                default: default_of(d, &ty, problems),
                ty,
                mandatory: d.mandatory,
                source: d.source,
                header: d.header.as_ref().map(|h| h.text.clone()),
            });
        }
    }
    if action.is_function && action.outputs.len() != 1 {
        let message =
            format!("the function `{}` needs one output, not {}", action.name.text, action.outputs.len());
        problems.error("OML0303", action.name.span, message);
    }
    if action.is_function && is_built_in(&action.name.text) {
        let message = format!("`{}` is a built-in function already", action.name.text);
        problems.error("OML0004", action.name.span, message);
    }
    ActionDef {
        is_function: action.is_function,
        public: action.public,
        library: action.library.clone(),
        name: action.shown(),
        variables,
        inputs: action.inputs.len(),
        outputs: action.outputs.len(),
    }
}
