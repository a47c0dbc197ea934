//! What an app is to other apps: what they may use of it, what it uses of them, and what it does about events.
//!
//! [`Elements`] read and write as a reference does (docs/oml/language.md), so that what the Platform stores of one app
//! is what another one compiles against. Identifiers of entities travel as Long Integer, entities as structures.
//! Invariant: a structure that an element names is among the structures.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ast::{ActionKind, Home, Parsed};
use crate::literal;
use crate::types::{
    Constant, EntityDef, LocalDef, Named, RecordDef, StatementPart, TKind, TNodeKind, Type, Typed,
};
use crate::walk::{callees, each_node};

/// What an app is to other apps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// What others may use of it.
    pub public: Elements,
    /// What it uses of others, by their names, as it knows it.
    pub uses: BTreeMap<String, Elements>,
    /// What it does about events.
    pub handlers: Vec<Handler>,
    /// The libraries that are compiled into it, with their revisions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub libraries: BTreeMap<String, u32>,
}

/// Public elements by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Elements {
    /// The service actions.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub service_actions: BTreeMap<String, Signature>,
    /// The events.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<String, Payload>,
    /// The entities that may be read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub entities: BTreeMap<String, Entity>,
    /// The roles that may be asked about.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub roles: BTreeMap<String, Role>,
    /// The structures that those name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub structures: BTreeMap<String, Attributes>,
}

/// Inputs and outputs of a service action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Signature {
    /// What it takes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: Parameters,
    /// What it gives.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: Parameters,
}

/// What an event says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Payload {
    /// Its values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub payload: Parameters,
}

/// An entity that others may read. An `Id` that is a number goes without saying, and so do the other attributes that
/// every static one has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entity {
    /// Its rows are part of the model.
    #[serde(rename = "static", skip_serializing_if = "std::ops::Not::not")]
    pub is_static: bool,
    /// Its attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: Parameters,
    /// The rows of a static entity by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub records: BTreeMap<String, Record>,
}

/// A role: its name says it all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Role {}

/// A row of a static entity: what is needed to name it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its identifier.
    #[serde(rename = "Id")]
    pub id: i64,
}

/// What a structure holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attributes {
    /// Its attributes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: Parameters,
}

/// Parameters by name: nothing in them has an order.
pub type Parameters = BTreeMap<String, Parameter>;

/// A parameter, attribute or value of a payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its type, as a model says it.
    #[serde(rename = "type")]
    pub data_type: String,
    /// It has to be given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mandatory: bool,
    /// What stands for it when it is not given, as a literal; whoever calls fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
}

/// What is done about an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// The other app whose event it is; none for one of the app's own.
    pub app: Option<String>,
    /// The event.
    pub event: String,
}

impl Elements {
    /// Whether there is nothing for others.
    pub fn is_empty(&self) -> bool {
        self.service_actions.is_empty()
            && self.events.is_empty()
            && self.entities.is_empty()
            && self.roles.is_empty()
    }
}

pub(crate) fn interface(parsed: &Parsed, typed: &Typed) -> Interface {
    let mut interface = Interface::default();
    let named = &typed.named;
    let mut public = Collector { named, app: None, elements: Elements::default() };
    for (action, def) in parsed.actions.iter().zip(&named.actions) {
        if matches!(action.kind, ActionKind::Service) {
            public.service_action(&action.name.text, def.inputs(), def.outputs());
        }
    }
    for event in named.events.iter().filter(|event| event.own) {
        public.event(&event.name, &event.payload);
    }
    for (record, def) in named.records.iter().enumerate() {
        if def.entity.as_ref().is_some_and(|entity| entity.public && entity.home == Home::Own) {
            public.entity(record);
        }
    }
    for role in named.roles.iter().filter(|role| role.own && role.public) {
        public.elements.roles.insert(role.name.clone(), Role {});
    }
    interface.public = public.elements;

    let libraries = parsed.libraries.iter().map(|library| (library.name.text.clone(), library.revision));
    interface.libraries = libraries.collect();
    let (read, asked) = (foreign_entities(typed), foreign_roles(typed));
    let called: BTreeSet<usize> = typed.bodies.iter().flat_map(|body| callees(&body.nodes)).collect();
    for reference in &parsed.references {
        let app = &reference.app.text;
        let mut used = Collector { named, app: Some(app), elements: Elements::default() };
        for (action, remote) in typed.remotes.iter().filter(|(_, remote)| remote.app == *app) {
            let def = &named.actions[*action];
            if called.contains(action) {
                used.service_action(&remote.action, def.inputs(), def.outputs());
            }
        }
        for handled in parsed.actions.iter().filter_map(|action| action.kind.event()) {
            let event = named.events.iter().find(|event| event.name == handled.text);
            if let (Some(event), Some(name)) = (event, own_name(app, &handled.text)) {
                used.event(name, &event.payload);
            }
        }
        for record in read.iter().copied() {
            if used.is_entity(record) {
                used.entity(record);
            }
        }
        for role in asked.iter().filter_map(|role| own_name(app, role)) {
            used.elements.roles.insert(role.to_owned(), Role {});
        }
        if !used.elements.is_empty() {
            interface.uses.insert(app.clone(), used.elements);
        }
    }
    for action in &parsed.actions {
        let Some(event) = action.kind.event() else { continue };
        let (app, name) = match event.text.split_once('.') {
            Some((app, name)) => (Some(app.to_owned()), name),
            None => (None, event.text.as_str()),
        };
        interface.handlers.push(Handler { name: action.name.text.clone(), app, event: name.to_owned() });
    }
    interface
}

/// Attributes of every entity, and of a static one, that are there without being declared.
const ATTRIBUTES: usize = 1;
const STATIC_ATTRIBUTES: usize = 4;

/// The entities of other apps that are used anywhere.
pub(crate) fn foreign_entities(typed: &Typed) -> BTreeSet<usize> {
    let named = &typed.named;
    let mut used = BTreeSet::new();
    let is_foreign =
        |record: usize| matches!(&named.records[record].entity, Some(EntityDef { home: Home::App(_), .. }));
    let mut look = |mut ty: &Type| {
        while let Type::List(of) = ty {
            ty = of;
        }
        if let Type::Identifier(Some(record)) | Type::TextIdentifier(Some(record)) | Type::Record(record) = ty
            && is_foreign(*record)
        {
            used.insert(*record);
        }
    };
    let own = |def: &&RecordDef| !matches!(&def.entity, Some(EntityDef { home: Home::App(_), .. }));
    named.records.iter().filter(own).flat_map(|def| &def.fields).for_each(|field| look(&field.ty));
    for body in &typed.bodies {
        body.variables.iter().for_each(|variable| look(&variable.ty));
        each_node(&body.nodes, &mut |node| {
            node.kind.expressions().into_iter().for_each(|expr| expr.each(&mut |part| look(&part.ty)));
            if let TNodeKind::Aggregate { query, .. } = &node.kind {
                query.sources.iter().for_each(|source| look(&Type::Record(source.record)));
            }
            if let TNodeKind::Sql { statement, .. } = &node.kind {
                for part in &statement.parts {
                    let StatementPart::Name(table) = part else { continue };
                    if let Some(record) = named.records.iter().position(|def| def.table() == table) {
                        look(&Type::Record(record));
                    }
                }
            }
        });
    }
    used
}

/// The roles of other apps that are asked about by name.
pub(crate) fn foreign_roles(typed: &Typed) -> BTreeSet<&str> {
    let foreign = || typed.named.roles.iter().filter(|role| !role.own).map(|role| role.name.as_str());
    let mut asked = BTreeSet::new();
    let mut ask = |name: &str| asked.extend(foreign().find(|role| *role == name));
    typed.routes.iter().flat_map(|route| &route.roles).for_each(|role| ask(role));
    for body in &typed.bodies {
        each_node(&body.nodes, &mut |node| {
            for expr in node.kind.expressions() {
                expr.each(&mut |part| {
                    if let TKind::Builtin(builtin, arguments) = &part.kind
                        && builtin.name == "CheckEndUserRole"
                        && let Some(TKind::Constant(Constant::Text(role))) =
                            arguments.first().map(|a| &a.kind)
                    {
                        ask(role);
                    }
                });
            }
        });
    }
    asked
}

/// Gathers elements, and with each the structures that it names.
struct Collector<'c> {
    named: &'c Named,
    /// The other app whose elements they are.
    app: Option<&'c str>,
    elements: Elements,
}

impl Collector<'_> {
    fn service_action(&mut self, name: &str, inputs: &[LocalDef], outputs: &[LocalDef]) {
        let signature = Signature { inputs: self.parameters(inputs), outputs: self.parameters(outputs) };
        self.elements.service_actions.insert(name.to_owned(), signature);
    }

    fn event(&mut self, name: &str, payload: &[LocalDef]) {
        let payload = Payload { payload: self.parameters(payload) };
        self.elements.events.insert(name.to_owned(), payload);
    }

    /// Whether it is an entity that the elements may name: a public one of the app whose elements they are.
    fn is_entity(&self, record: usize) -> bool {
        let Some(entity) = &self.named.records[record].entity else { return false };
        match (&entity.home, self.app) {
            (Home::Own, None) => entity.public,
            (Home::App(of), Some(app)) => of == app,
            (Home::Own | Home::App(_) | Home::Library, _) => false,
        }
    }

    /// Gathers an entity, and gives its name.
    fn entity(&mut self, record: usize) -> String {
        let named = self.named;
        let def = &named.records[record];
        let name = self.structure_word(&def.name);
        let Some(entity) = &def.entity else { return name };
        if self.elements.entities.contains_key(&name) {
            return name;
        }
        // It is there before its attributes are looked at: they may be identifiers of it.
        self.elements.entities.insert(name.clone(), Entity::default());
        let built_in = if entity.is_static { STATIC_ATTRIBUTES } else { ATTRIBUTES };
        // A number goes without saying; what else an Id is, its user has to know.
        let says_key = def.fields[0].ty != Type::Identifier(Some(record));
        let key = def.fields.iter().take(usize::from(says_key));
        let fields = key.chain(def.fields.iter().skip(built_in)).map(|field| {
            let data_type = self.type_word(&field.ty);
            (field.name.clone(), parameter(data_type, false, field.default.as_ref()))
        });
        let attributes = fields.collect();
        let records = entity.rows.iter().map(|(name, id, _)| (name.clone(), Record { id: *id })).collect();
        let made = Entity { is_static: entity.is_static, attributes, records };
        self.elements.entities.insert(name.clone(), made);
        name
    }

    fn parameters(&mut self, parameters: &[LocalDef]) -> Parameters {
        let of = |p: &LocalDef| {
            let data_type = self.type_word(&p.ty);
            (p.name.clone(), parameter(data_type, p.mandatory, p.default.as_ref()))
        };
        parameters.iter().map(of).collect()
    }

    /// The word for a type; a structure is gathered with it. Structures end, so this does.
    fn type_word(&mut self, ty: &Type) -> String {
        let named = self.named;
        match ty {
            Type::Identifier(Some(of)) | Type::TextIdentifier(Some(of)) if self.is_entity(*of) => {
                format!("{} Identifier", self.entity(*of))
            }
            Type::Identifier(_) => "Long Integer".to_owned(),
            Type::TextIdentifier(_) => "Text".to_owned(),
            Type::Record(record) if self.is_entity(*record) => self.entity(*record),
            Type::List(of) => format!("{} List", self.type_word(of)),
            Type::Record(record) => {
                let def = &named.records[*record];
                let name = self.structure_word(&def.name);
                if !self.elements.structures.contains_key(&name) {
                    let fields = def.fields.iter().map(|field| {
                        let data_type = self.type_word(&field.ty);
                        (field.name.clone(), parameter(data_type, field.mandatory, field.default.as_ref()))
                    });
                    let attributes = Attributes { attributes: fields.collect() };
                    self.elements.structures.insert(name.clone(), attributes);
                }
                name
            }
            Type::Unknown
            | Type::Boolean
            | Type::Integer
            | Type::Long
            | Type::Decimal
            | Type::Text
            | Type::Email
            | Type::Phone
            | Type::Date
            | Type::Time
            | Type::DateTime
            | Type::Binary => named.shown(ty),
        }
    }

    /// The name of a structure as its app says it; of a third app's, which others cannot name, one of our own.
    fn structure_word(&self, name: &str) -> String {
        match self.app.and_then(|app| own_name(app, name)) {
            Some(own) => own.to_owned(),
            None => name.replace('.', "_"),
        }
    }
}

fn parameter(data_type: String, mandatory: bool, default: Option<&Constant>) -> Parameter {
    Parameter { data_type, mandatory, default: default.map(literal::shown) }
}

/// What follows an app's name and a dot.
fn own_name<'n>(app: &str, name: &'n str) -> Option<&'n str> {
    name.strip_prefix(app)?.strip_prefix('.')
}
