//! An OML app as text: every key an author may write, with its meaning. Source of the JSON Schema.
//!
//! Invariant: what the compiler accepts deserializes here, and no key is known to only one of the two.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::schema::DeleteRule;

/// The JSON Schema of an OML file, as text.
pub fn json_schema() -> String {
    serde_json::to_string_pretty(&schemars::schema_for!(File)).expect("a schema is plain JSON")
}

/// One file of an app. The files of a folder are merged; exactly one of them names the app.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "A file of an OML app")]
pub struct File {
    /// The app's name.
    pub app: Option<String>,
    /// The library's name, in a project that is one; with `revision`, a copy of a library that the app uses.
    pub library: Option<String>,
    /// The other app whose public elements this file says.
    pub reference: Option<String>,
    /// The revision of the other app or library that a copy was made of; `odeon reference` writes such files.
    pub revision: Option<u32>,
    /// The libraries inside the copy of a library.
    pub libraries: BTreeMap<String, File>,
    /// What the app is for.
    pub description: Option<String>,
    /// The entities by name.
    pub entities: BTreeMap<String, Entity>,
    /// The structures by name.
    pub structures: BTreeMap<String, Structure>,
    /// What each stage may set for the app, by name.
    pub settings: BTreeMap<String, Attribute>,
    /// The app's own user exceptions by name.
    pub exceptions: BTreeMap<String, Exception>,
    /// What users may be, by name.
    pub roles: BTreeMap<String, Role>,
    /// The server actions by name.
    pub actions: BTreeMap<String, Action>,
    /// The actions that other apps may call, by name.
    pub service_actions: BTreeMap<String, Action>,
    /// The events that the app triggers, by name.
    pub events: BTreeMap<String, Event>,
    /// What the app does about events, by name.
    pub event_handlers: BTreeMap<String, EventHandler>,
    /// The timers by name.
    pub timers: BTreeMap<String, Timer>,
    /// The exposed REST APIs by name.
    pub rest: BTreeMap<String, RestApi>,
    /// The REST APIs of others that the app calls, by name.
    pub consume: BTreeMap<String, ConsumedApi>,
}

/// A table of the app. An `Id` that the database counts is added in front, unless the attributes have one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Entity {
    /// What a row stands for.
    pub description: Option<String>,
    /// The rows are listed here and are read-only at run time; Label, Order and Is_Active are added.
    #[serde(rename = "static")]
    pub is_static: bool,
    /// Other apps of the stage may read it.
    pub public: bool,
    /// The name of the table, where the entity was renamed after it was made.
    pub stored_as: Option<String>,
    /// The attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
    /// The rows of a static entity by name.
    pub records: BTreeMap<String, BTreeMap<String, Literal>>,
    /// Indexes by name.
    pub indexes: BTreeMap<String, EntityIndex>,
}

/// An index over attributes of an entity.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EntityIndex {
    /// The attributes, the most telling first.
    pub attributes: Vec<String>,
    /// No two rows may be equal in them.
    pub unique: bool,
}

/// A reusable record.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Structure {
    /// What it stands for.
    pub description: Option<String>,
    /// The attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
}

/// An attribute, parameter or variable: a type alone, or a type with more.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Attribute {
    /// `Text`, `Currency`, `Expense Identifier`, `Expense List`, …
    Type(String),
    /// The long form.
    Full(AttributeFull),
}

/// The long form of an attribute, parameter or variable.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AttributeFull {
    /// The type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// What it stands for.
    pub description: Option<String>,
    /// What people read instead of the name.
    pub label: Option<String>,
    /// Most characters of a Text; in an entity 50 when absent, in a structure no limit.
    pub length: Option<u32>,
    /// Digits behind the point to which a Decimal is rounded when it is stored, 0 to 8; 8 when absent.
    pub decimals: Option<u32>,
    /// The database counts the values of a whole number; true for an `Id` that is one (entities only).
    pub auto_number: Option<bool>,
    /// Must be given.
    #[serde(default)]
    pub mandatory: bool,
    /// A literal that stands for what is not given.
    pub default: Option<Literal>,
    /// What deleting the referred row does (identifiers in entities only).
    pub delete_rule: Option<DeleteRule>,
    /// Where a REST input comes from; by its place in the path, else query, else body for records.
    #[serde(rename = "in")]
    pub source: Option<ParameterSource>,
    /// The HTTP name of a REST input that comes from a header; the input's own name when absent.
    pub header: Option<String>,
    /// The name of the column, where the attribute was renamed after it was made (entities only).
    pub stored_as: Option<String>,
    /// Nobody may read the value but the app (settings only).
    #[serde(default)]
    pub secret: bool,
    /// The attributes of a `Record` or `Record List`, which needs no structure.
    pub attributes: Option<BTreeMap<String, Attribute>>,
}

/// Where a REST input comes from.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ParameterSource {
    /// A `{Name}` in the path.
    Path,
    /// `?Name=`.
    Query,
    /// A header of that name.
    Header,
    /// The JSON body.
    Body,
}

/// A literal or an expression: YAML scalars are taken as text.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Literal {
    /// `true`.
    Boolean(bool),
    /// `7`.
    Integer(i64),
    /// `7.5`.
    Number(serde_json::Number),
    /// Anything else.
    Text(String),
}

/// An exception that the app raises and handles by name; a child of User.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Exception {
    /// When it is raised.
    pub description: Option<String>,
}

/// What a user may be: checked by methods and by flows, granted and revoked by flows.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Role {
    /// Who has it.
    pub description: Option<String>,
    /// Other apps of the stage may ask who has it.
    pub public: bool,
}

/// A server action.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Action {
    /// What it does.
    pub description: Option<String>,
    /// It has one output and can be called in expressions.
    pub function: bool,
    /// Of a library: who uses it may call the action.
    pub public: bool,
    /// What it takes.
    pub inputs: BTreeMap<String, Attribute>,
    /// What it gives.
    pub outputs: BTreeMap<String, Attribute>,
    /// Variables of its own.
    pub locals: BTreeMap<String, Attribute>,
    /// The nodes, in order.
    pub flow: Vec<Step>,
    /// What takes the exceptions of the whole flow.
    pub handlers: Vec<Handler>,
}

/// An action that runs by itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timer {
    /// What it is for.
    pub description: Option<String>,
    /// The server action that it runs.
    pub action: String,
    /// The inputs of the action.
    pub with: Option<BTreeMap<String, Literal>>,
    /// A cron pattern of five fields, in UTC; without one it runs when it is woken.
    pub schedule: Option<String>,
    /// It runs whenever a revision was deployed.
    pub when_published: bool,
    /// Minutes that a run may take, 1 to 60; 20 when absent.
    pub timeout: Option<u32>,
}

/// Something that happened in the app, for whoever wants to know.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Event {
    /// When it is triggered.
    pub description: Option<String>,
    /// What it says: single values.
    pub payload: BTreeMap<String, Attribute>,
}

/// What is done about an event.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EventHandler {
    /// What it is for.
    pub description: Option<String>,
    /// `<App>.<Event>`, or an event of the app itself.
    pub event: String,
    /// The server action that it runs; its inputs are taken from the payload by their names.
    pub action: String,
}

/// An exposed REST API.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestApi {
    /// What it is for.
    pub description: Option<String>,
    /// The action that is given Username and Password of HTTP Basic authentication before every method.
    pub on_authentication: Option<String>,
    /// Who may call: users with one of these roles; every user when absent.
    pub roles: Vec<String>,
    /// The methods by name.
    pub methods: BTreeMap<String, RestMethod>,
}

/// A method of a REST API: an action with a verb and a path.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RestMethod {
    /// What it does.
    pub description: Option<String>,
    /// GET, POST, PUT or DELETE; GET when absent.
    pub verb: Option<Verb>,
    /// The HTTP status of a success, 200 to 299; 200 when absent.
    pub status: Option<u16>,
    /// Who may call: users with one of these roles, instead of those of the API.
    pub roles: Option<Vec<String>>,
    /// The path below the API, with `{Input}` for parameters; `/<Method>` when absent.
    pub path: Option<String>,
    /// What it takes.
    pub inputs: BTreeMap<String, Attribute>,
    /// What it answers: one output is the JSON document, several are its keys.
    pub outputs: BTreeMap<String, Attribute>,
    /// Variables of its own.
    pub locals: BTreeMap<String, Attribute>,
    /// The nodes, in order.
    pub flow: Vec<Step>,
    /// What takes the exceptions of the whole flow.
    pub handlers: Vec<Handler>,
}

/// A REST API of somebody else. Its methods are called as `<Api>.<Method>`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumedApi {
    /// What it is for.
    pub description: Option<String>,
    /// Where it is, http or https; a stage may set another as the setting `<Api>_BaseURL`.
    pub url: Option<String>,
    /// How the app shows who it is; nothing when absent.
    pub authentication: Option<Authentication>,
    /// Seconds until an answer begins, and between two of its parts, 1 to 60; 30 when absent.
    pub timeout: Option<u32>,
    /// The action that may change a request before it is sent: input Request, output CustomizedRequest.
    pub on_before_request: Option<String>,
    /// The action that may change an answer before it is read: input Response, output CustomizedResponse.
    pub on_after_response: Option<String>,
    /// The methods by name.
    pub methods: BTreeMap<String, ConsumedMethod>,
}

/// How an app shows who it is.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// HTTP Basic, with the settings `<Api>_Username` and `<Api>_Password`; the second is a secret.
    Basic,
}

/// A method of a REST API of somebody else.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumedMethod {
    /// What it does.
    pub description: Option<String>,
    /// GET, POST, PUT or DELETE; GET when absent.
    pub verb: Option<Verb>,
    /// The path below the URL, with `{Input}` for parameters; `/<Method>` when absent.
    pub path: Option<String>,
    /// What is sent, each in the path, query, a header or the body, as in an exposed method.
    pub inputs: BTreeMap<String, Attribute>,
    /// What is read of the answer: one output is the JSON document, several are its keys.
    pub outputs: BTreeMap<String, Attribute>,
}

/// The verbs of a REST method.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Reads.
    Get,
    /// Creates or acts.
    Post,
    /// Replaces.
    Put,
    /// Deletes.
    Delete,
}

/// A node of a flow, or the word `return` for the node that has nothing to say.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Step {
    /// `return`.
    Word(StepWord),
    /// Any node.
    Node(Box<Node>),
}

/// Nodes that are one word.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StepWord {
    /// Ends the action.
    Return,
    /// Goes on with the next element of the loop.
    Cycle,
    /// Ends the loop.
    Exit,
    /// Makes permanent what was written.
    Commit,
    /// Undoes what was written.
    Abort,
}

/// What takes an exception.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Handler {
    /// All, User, Database, Security, InvalidLogin, NotRegistered, Communication, or one of the app's own.
    pub exception: String,
    /// What was written is undone; true when absent.
    pub abort_transaction: Option<bool>,
    /// The exception is written to the log; true when absent.
    pub log_error: Option<bool>,
    /// The nodes, in order; `ExceptionMessage` is the message.
    #[serde(rename = "do")]
    pub body: Vec<Step>,
}

/// A case of a switch.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Case {
    /// The condition; the first case whose condition holds is taken.
    pub when: Option<Literal>,
    /// The nodes, in order.
    #[serde(rename = "do")]
    pub body: Vec<Step>,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Worth knowing.
    Info,
    /// Probably not meant.
    Warning,
    /// Somebody has to look.
    Error,
}

/// What to sort by: `Attribute` or `Attribute desc`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Sort {
    /// One attribute.
    One(String),
    /// Several, the most telling first.
    Many(Vec<String>),
}

/// The sources of an aggregate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Sources {
    /// One entity.
    One(String),
    /// Several, each joined to those before it.
    Many(Vec<Source>),
}

/// A source of an aggregate.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Source {
    /// An entity; the first one.
    Entity(String),
    /// An entity with how it is joined.
    Full(SourceFull),
}

/// The long form of a source.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceFull {
    /// The entity.
    pub entity: String,
    /// The name under which its attributes are read; the entity's when absent.
    #[serde(rename = "as")]
    pub alias: Option<String>,
    /// How it is joined to the sources before it; inner when absent.
    pub join: Option<Join>,
    /// Which rows belong together; not for `cross`.
    pub on: Option<Literal>,
}

/// How a source is joined to those before it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Join {
    /// Only With: rows that belong together.
    Inner,
    /// With or Without: those, and rows before it that nothing belongs to.
    Left,
    /// With: those, and rows of either side that nothing belongs to.
    Full,
    /// Every row with every row.
    Cross,
}

/// The filters of a query.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Filter {
    /// One condition.
    One(Literal),
    /// Several, all of which must hold.
    Many(Vec<Literal>),
}

/// What makes rows one.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum GroupBy {
    /// One attribute, which keeps its name.
    One(String),
    /// Several attributes.
    Many(Vec<String>),
    /// Expressions by name.
    Named(BTreeMap<String, Literal>),
}

/// What is computed over a group.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Total {
    /// `count`: how many rows there are.
    Count(CountWord),
    /// One of the others, with an expression.
    Of(TotalOf),
}

/// The word `count`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CountWord {
    /// How many rows there are.
    Count,
}

/// What is computed over the values of a group.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TotalOf {
    /// How many identifiers are not the null identifier.
    Count(Literal),
    /// Their sum; a Long Integer for integers.
    Sum(Literal),
    /// Their average, a Decimal.
    Average(Literal),
    /// The smallest.
    Min(Literal),
    /// The largest.
    Max(Literal),
}

/// A parameter of a statement: a value alone, or with its type.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Parameter {
    /// An expression.
    Value(Literal),
    /// An expression that is converted to a type.
    Full(ParameterFull),
}

/// The long form of a parameter.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ParameterFull {
    /// The type; that of the value when absent.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// An expression.
    pub value: Literal,
}

/// One node of a flow: exactly one of the leading keys, and the keys that go with it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// The node's name, under which its outputs are read.
    pub name: Option<String>,
    /// Assign: variable = expression, in order.
    pub assign: Option<BTreeMap<String, Literal>>,
    /// If: a condition, with `then` and `else`.
    #[serde(rename = "if")]
    pub condition: Option<Literal>,
    /// The nodes when the condition holds.
    pub then: Option<Vec<Step>>,
    /// The nodes when it does not.
    #[serde(rename = "else")]
    pub otherwise: Option<Vec<Step>>,
    /// Switch: cases with `when` and `do`, the first that holds is taken, and `else`.
    pub switch: Option<Vec<Case>>,
    /// For Each: a list, with `as` and `do`, and maybe `start` and `max`.
    pub for_each: Option<Literal>,
    /// Trigger: an event of the app, with its payload in `with`; it is sent when the transaction is committed.
    pub trigger: Option<String>,
    /// Grant: a role, to the `user`.
    pub grant: Option<String>,
    /// Revoke: a role, from the `user`.
    pub revoke: Option<String>,
    /// The user who gets or loses a role.
    pub user: Option<Literal>,
    /// The name of the current element.
    #[serde(rename = "as")]
    pub element: Option<String>,
    /// The nodes per element.
    #[serde(rename = "do")]
    pub body: Option<Vec<Step>>,
    /// Call: a server action, with `with`; outputs are read as `Name.Output`.
    pub call: Option<String>,
    /// The inputs of a call.
    pub with: Option<BTreeMap<String, Literal>>,
    /// Get: an entity, with `id`; output `Record`.
    pub get: Option<String>,
    /// The identifier to get or delete.
    pub id: Option<Literal>,
    /// GetForUpdate: an entity, with `id`; output `Record`. Nobody else writes the row until the transaction ends.
    pub get_for_update: Option<String>,
    /// List: an entity, the short form of an aggregate; outputs `List` and `Count`, the number of all rows.
    pub list: Option<String>,
    /// Aggregate: entities and how they are joined; outputs `List` and `Count`, the number of all rows.
    pub aggregate: Option<Sources>,
    /// The filters of a query, all of which must hold, or the condition on the elements of a list.
    #[serde(rename = "where")]
    pub filter: Option<Filter>,
    /// Attributes of a query's rows by name, each an expression over the sources.
    pub calculated: Option<BTreeMap<String, Literal>>,
    /// What makes rows one: attributes, or names with expressions.
    pub group_by: Option<GroupBy>,
    /// What is computed over each group, by name.
    pub totals: Option<BTreeMap<String, Total>>,
    /// Attributes to sort by, each `Attribute` or `Attribute desc`.
    pub sort: Option<Sort>,
    /// A Text that says at run time what comes before `sort`: `Source.Attribute desc, [Calculated]`.
    pub dynamic_sort: Option<Literal>,
    /// SQL: a statement with `{Entity}`, `{Entity}.[Attribute]` and `@Parameter`; outputs `List` and `Count`.
    pub sql: Option<String>,
    /// The parameters of a statement by name; they are bound.
    pub parameters: Option<BTreeMap<String, Parameter>>,
    /// The structure or entity whose attributes are the columns of a statement, in their order.
    pub output: Option<String>,
    /// Most rows or elements; 0 is no limit.
    pub max: Option<Literal>,
    /// Rows or elements to pass over.
    pub start: Option<Literal>,
    /// Create: an entity, with `record`; output `Id`.
    pub create: Option<String>,
    /// Update: an entity, with `record`.
    pub update: Option<String>,
    /// CreateOrUpdate: an entity, with `record`, which is created when its Id is the null identifier; output `Id`.
    pub create_or_update: Option<String>,
    /// CreateOrUpdateSome: an entity, with `records`; output `Ids`.
    pub create_or_update_some: Option<String>,
    /// The record to create or update.
    pub record: Option<Literal>,
    /// The list of records to create or update.
    pub records: Option<Literal>,
    /// Delete: an entity, with `id`.
    pub delete: Option<String>,
    /// ListAppend: a list, with `element`.
    pub list_append: Option<Literal>,
    /// ListAppendAll: a list, with `elements`.
    pub list_append_all: Option<Literal>,
    /// ListInsert: a list, with `element` and `at`.
    pub list_insert: Option<Literal>,
    /// ListRemove: a list, with `at`.
    pub list_remove: Option<Literal>,
    /// ListClear: a list.
    pub list_clear: Option<Literal>,
    /// ListSort: a list, with `by`.
    pub list_sort: Option<Literal>,
    /// ListFilter: a list, with `as` and `where`; output `List`.
    pub list_filter: Option<Literal>,
    /// ListAny: a list, with `as` and `where`; output `Result`.
    pub list_any: Option<Literal>,
    /// ListAll: a list, with `as` and `where`; output `Result`.
    pub list_all: Option<Literal>,
    /// ListIndexOf: a list, with `as` and `where`; output `Position`, -1 when there is none.
    pub list_index_of: Option<Literal>,
    /// ListDistinct: a list; output `List`.
    pub list_distinct: Option<Literal>,
    /// ListDuplicate: a list; output `List`.
    pub list_duplicate: Option<Literal>,
    /// The element to append or insert.
    #[serde(rename = "element")]
    pub value: Option<Literal>,
    /// The list whose elements are appended.
    pub elements: Option<Literal>,
    /// Where to insert or remove, from 0.
    pub at: Option<Literal>,
    /// Attributes to sort the elements by, each `Attribute` or `Attribute desc`.
    pub by: Option<Sort>,
    /// Try: nodes, with `handlers`.
    #[serde(rename = "try")]
    pub guarded: Option<Vec<Step>>,
    /// What takes the exceptions of a try.
    pub handlers: Option<Vec<Handler>>,
    /// LogMessage: a text, with maybe `level`.
    pub log: Option<Literal>,
    /// How much the line matters; info when absent.
    pub level: Option<LogLevel>,
    /// Wake: a timer runs now.
    pub wake: Option<String>,
    /// JSON Serialize: a record or list; output `JSON`.
    pub json_serialize: Option<Literal>,
    /// Attributes that hold their default are written too; false when absent.
    pub serialize_defaults: Option<bool>,
    /// JSON Deserialize: a text, with `type`; output `Data`.
    pub json_deserialize: Option<Literal>,
    /// The type that a text is deserialized to.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Raise: an exception, with `message` and maybe `status`.
    pub raise: Option<String>,
    /// The message of an exception.
    pub message: Option<Literal>,
    /// The HTTP status that the exception answers with when nobody handles it.
    pub status: Option<u16>,
    /// Return: ends the action.
    #[serde(rename = "return")]
    pub ends: Option<Literal>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What editors download; kept in the repository so that a change of the language is seen in review.
    const CHECKED_IN: &str = "../../docs/oml/oml.schema.json";
    /// Set to write the file instead of comparing it.
    const UPDATE: &str = "ODEON_UPDATE";

    #[test]
    fn the_checked_in_schema_is_current() {
        let current = json_schema() + "\n";
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(CHECKED_IN, &current).expect("docs/oml can be written");
        }
        let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
        assert!(
            checked_in == current,
            "docs/oml/oml.schema.json is not what the model says. Write it with\n\n    {UPDATE}=1 cargo test -p odeon-oml\n\nand look at the difference before you commit it."
        );
    }

    #[test]
    fn the_schema_knows_every_key_by_its_written_name() {
        let schema: serde_json::Value = serde_json::from_str(&json_schema()).expect("it is JSON");
        let keys = |of: &str| -> Vec<String> {
            let properties = schema["$defs"][of]["properties"].as_object();
            properties.into_iter().flat_map(|keys| keys.keys().cloned()).collect()
        };
        assert!(keys("Entity").contains(&"static".to_owned()), "{:?}", keys("Entity"));
        for key in ["type", "in", "header", "length"] {
            assert!(keys("AttributeFull").contains(&key.to_owned()), "{key}: {:?}", keys("AttributeFull"));
        }
        for key in ["if", "else", "for_each", "as", "do", "where", "return"] {
            assert!(keys("Node").contains(&key.to_owned()), "{key}: {:?}", keys("Node"));
        }
    }
}
