//! Types, and the typed form of actions: what resolve and check make and lower reads.
//!
//! References are indices here; no name of the author is looked up after this. `Type::Unknown` stands
//! for what was reported already and fits everything, so one mistake is one problem.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use crate::ast::{Binary, Home, Join, Leave, LogLevel, Search, Source, TotalKind};
use crate::builtins::Builtin;
use crate::sources::Span;
use odeon_oml::schema::DeleteRule;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Type {
    Unknown,
    Boolean,
    Integer,
    Long,
    /// Decimal and Currency: the same values.
    Decimal,
    Text,
    Email,
    Phone,
    Date,
    Time,
    DateTime,
    Binary,
    /// A number that identifies a row of an entity, by its place among the records; `None` is NullIdentifier().
    Identifier(Option<usize>),
    /// A text that does; `None` is NullTextIdentifier().
    TextIdentifier(Option<usize>),
    /// An entity or structure, by its place among the records.
    Record(usize),
    List(Box<Type>),
}

pub(crate) fn is_text(ty: &Type) -> bool {
    matches!(ty, Type::Text | Type::Email | Type::Phone)
}

impl Type {
    /// Of either kind: NULL in the database stands for the null identifier.
    pub(crate) fn is_identifier(&self) -> bool {
        matches!(self, Type::Identifier(_) | Type::TextIdentifier(_))
    }

    /// The entity whose rows it identifies.
    pub(crate) fn identifies(&self) -> Option<usize> {
        if let Type::Identifier(of) | Type::TextIdentifier(of) = self { *of } else { None }
    }
}

/// An entity or a structure.
#[derive(Debug)]
pub(crate) struct RecordDef {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) fields: Vec<FieldDef>,
    pub(crate) entity: Option<EntityDef>,
    /// The author gave it no name: the row of an aggregate, or a `Record` of a declaration.
    pub(crate) inline: bool,
}

impl RecordDef {
    /// The name of an entity's table.
    pub(crate) fn table(&self) -> &str {
        self.entity.as_ref().map_or(&self.name, |entity| &entity.table)
    }
}

#[derive(Debug)]
pub(crate) struct FieldDef {
    pub(crate) name: String,
    /// The name of its column; it stays when the attribute is renamed.
    pub(crate) column: String,
    pub(crate) ty: Type,
    pub(crate) mandatory: bool,
    /// Most characters of a text; `None` where nothing limits it.
    pub(crate) length: Option<u32>,
    pub(crate) default: Option<Constant>,
    pub(crate) delete_rule: DeleteRule,
    /// The database counts the values.
    pub(crate) auto_number: bool,
    /// Most digits behind the point of a Decimal that is stored.
    pub(crate) decimals: Option<u32>,
    /// What people read instead of the name.
    pub(crate) label: Option<String>,
}

impl FieldDef {
    /// Nothing but a name and a type.
    pub(crate) fn plain(name: &str, ty: Type) -> FieldDef {
        FieldDef {
            name: name.to_owned(),
            column: name.to_owned(),
            ty,
            mandatory: false,
            length: None,
            default: None,
            delete_rule: DeleteRule::Protect,
            auto_number: false,
            decimals: None,
            label: None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct EntityDef {
    pub(crate) home: Home,
    /// Other apps may read it.
    pub(crate) public: bool,
    /// The name of its table, which stays when the entity is renamed; of another app's, the view of it.
    pub(crate) table: String,
    pub(crate) is_static: bool,
    /// Name, identifier and the text literals of all columns.
    pub(crate) rows: Vec<(String, i64, Vec<Option<String>>)>,
    /// The identifiers of the rows by their names.
    pub(crate) ids: BTreeMap<String, i64>,
    /// Name, attributes, unique.
    pub(crate) indexes: Vec<(String, Vec<String>, bool)>,
}

/// A literal of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Constant {
    Boolean(bool),
    Integer(i32),
    Long(i64),
    /// Units of 10^-8.
    Decimal(i128),
    Text(String),
    Date(i32),
    Time(i64),
    DateTime(i64),
}

/// A parameter or variable.
#[derive(Debug, Clone)]
pub(crate) struct LocalDef {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) mandatory: bool,
    pub(crate) default: Option<Constant>,
    pub(crate) source: Option<(Source, Span)>,
    /// The HTTP name of a header input, where it is not the input's own.
    pub(crate) header: Option<String>,
}

/// What is known of an action before its flow is checked; inputs first, then outputs, then locals.
#[derive(Debug)]
pub(crate) struct ActionDef {
    pub(crate) name: String,
    pub(crate) variables: Vec<LocalDef>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// It can be called in expressions.
    pub(crate) is_function: bool,
    /// Who uses its library may call it.
    pub(crate) public: bool,
    /// The library that it is of; none for the project's own.
    pub(crate) library: Option<String>,
}

impl ActionDef {
    /// Slots of its inputs and outputs, end to end.
    pub(crate) fn frame(&self) -> u32 {
        (self.inputs + self.outputs) as u32
    }

    pub(crate) fn inputs(&self) -> &[LocalDef] {
        &self.variables[..self.inputs]
    }

    pub(crate) fn outputs(&self) -> &[LocalDef] {
        &self.variables[self.inputs..self.inputs + self.outputs]
    }
}

/// The names of entities and structures, each with its place among the records; entities come first.
#[derive(Debug, Default)]
pub(crate) struct TypeNames {
    pub(crate) places: BTreeMap<String, usize>,
    pub(crate) entities: usize,
    /// What the identifiers of each entity are.
    pub(crate) keys: Vec<Type>,
}

/// A value that each stage may set.
#[derive(Debug)]
pub(crate) struct SettingDef {
    pub(crate) name: String,
    pub(crate) ty: Type,
    pub(crate) secret: bool,
    pub(crate) default: Option<Constant>,
}

/// A REST API of somebody else. Where it is, and who the app is there, are settings named after it.
#[derive(Debug)]
pub(crate) struct ConsumedDef {
    pub(crate) name: String,
    /// Where it is, unless the stage says otherwise.
    pub(crate) url: Option<String>,
    pub(crate) basic: bool,
    pub(crate) timeout_s: u32,
}

/// An event: its payload as parameters.
#[derive(Debug)]
pub(crate) struct EventDef {
    pub(crate) name: String,
    pub(crate) own: bool,
    pub(crate) payload: Vec<LocalDef>,
}

/// What a user may be.
#[derive(Debug)]
pub(crate) struct RoleDef {
    /// Of another app: `<App>.<Role>`.
    pub(crate) name: String,
    pub(crate) own: bool,
    /// Other apps may ask who has it.
    pub(crate) public: bool,
}

/// All records by their places: those that the author declared, then the rows of aggregates. Types of rows
/// are known when their aggregates are checked, and nobody else is stopped for it: each has its place before.
#[derive(Debug, Default)]
pub(crate) struct Records {
    declared: Vec<RecordDef>,
    rows: Vec<OnceCell<RecordDef>>,
    rows_made: Cell<usize>,
}

impl Records {
    pub(crate) fn push(&mut self, def: RecordDef) {
        self.declared.push(def);
    }

    /// Keeps places for the rows of so many aggregates.
    pub(crate) fn reserve_rows(&mut self, aggregates: usize) {
        self.rows.resize_with(aggregates, OnceCell::new);
    }

    /// Takes the next of the reserved places.
    pub(crate) fn make_row(&self, def: RecordDef) -> usize {
        let row = self.rows_made.replace(self.rows_made.get() + 1);
        self.rows[row].set(def).expect("a place is taken once");
        self.declared.len() + row
    }

    /// What the author declared.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RecordDef> {
        self.declared.iter()
    }
}

impl Index<usize> for Records {
    type Output = RecordDef;

    fn index(&self, place: usize) -> &RecordDef {
        match place.checked_sub(self.declared.len()) {
            None => &self.declared[place],
            Some(row) => self.rows[row].get().expect("its type is made before it is named"),
        }
    }
}

impl IndexMut<usize> for Records {
    fn index_mut(&mut self, place: usize) -> &mut RecordDef {
        &mut self.declared[place]
    }
}

/// Everything that has a name.
#[derive(Debug, Default)]
pub(crate) struct Named {
    /// The app's name.
    pub(crate) app: String,
    pub(crate) types: TypeNames,
    pub(crate) records: Records,
    /// The app's own user exceptions and their numbers, which follow those of [`EXCEPTIONS`].
    pub(crate) exceptions: BTreeMap<String, u32>,
    /// The roles of the app and those of others that it knows.
    pub(crate) roles: Vec<RoleDef>,
    pub(crate) settings: Vec<SettingDef>,
    /// The places of the settings by their names.
    pub(crate) setting_places: BTreeMap<String, usize>,
    pub(crate) consumed: Vec<ConsumedDef>,
    pub(crate) actions: Vec<ActionDef>,
    /// The actions that can be called, by name: all but the methods of REST APIs.
    pub(crate) callable: BTreeMap<String, usize>,
    /// The actions that timers run, by the timer's name.
    pub(crate) timers: BTreeMap<String, usize>,
    /// The events of the app and those of others that it knows.
    pub(crate) events: Vec<EventDef>,
}

impl Named {
    pub(crate) fn shown(&self, ty: &Type) -> String {
        match ty {
            Type::Unknown => "unknown".into(),
            Type::Boolean => "Boolean".into(),
            Type::Integer => "Integer".into(),
            Type::Long => "Long Integer".into(),
            Type::Decimal => "Decimal".into(),
            Type::Text => "Text".into(),
            Type::Email => "Email".into(),
            Type::Phone => "Phone Number".into(),
            Type::Date => "Date".into(),
            Type::Time => "Time".into(),
            Type::DateTime => "Date Time".into(),
            Type::Binary => "Binary Data".into(),
            Type::Identifier(None) => "Identifier".into(),
            Type::TextIdentifier(None) => "Text Identifier".into(),
            Type::Identifier(Some(of)) | Type::TextIdentifier(Some(of)) => {
                format!("{} Identifier", self.records[*of].name)
            }
            Type::Record(of) => self.records[*of].name.clone(),
            Type::List(of) => format!("{} List", self.shown(of)),
        }
    }
}

/// The checked app.
#[derive(Debug)]
pub(crate) struct Typed {
    pub(crate) named: Named,
    pub(crate) bodies: Vec<Body>,
    pub(crate) routes: Vec<Route>,
    pub(crate) requests: Vec<Request>,
    /// The service actions of other apps, by the actions that stand for them.
    pub(crate) remotes: BTreeMap<usize, RemoteDef>,
    /// What hosts start in the app: the path, and the action.
    pub(crate) triggers: Vec<(String, usize)>,
}

/// Where a service action of another app is.
#[derive(Debug)]
pub(crate) struct RemoteDef {
    pub(crate) app: String,
    pub(crate) action: String,
}

/// A checked flow; `variables` continue those of the action with the outputs of nodes.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) variables: Vec<LocalDef>,
    pub(crate) nodes: Vec<TNode>,
}

#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) action: usize,
    /// The HTTP status of a success.
    pub(crate) status: u32,
    /// The action that checks user name and password.
    pub(crate) authentication: Option<usize>,
    /// Who may call; everybody when empty.
    pub(crate) roles: Vec<String>,
    pub(crate) verb: u32,
    /// A literal segment, or the input that takes it.
    pub(crate) segments: Vec<Segment>,
    pub(crate) sources: Vec<Source>,
}

/// A method of a consumed REST API: what its action sends.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) action: usize,
    /// The consumed API, by its place.
    pub(crate) api: usize,
    pub(crate) verb: u32,
    pub(crate) segments: Vec<Segment>,
    pub(crate) sources: Vec<Source>,
    /// The actions that see it before it is sent, and its answer before it is read.
    pub(crate) before: Option<usize>,
    pub(crate) after: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Literal(String),
    Input(usize),
}

#[derive(Debug)]
pub(crate) struct TNode {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) kind: TNodeKind,
}

#[derive(Debug)]
pub(crate) enum TNodeKind {
    Assign(Vec<(TExpr, TExpr)>),
    If {
        condition: TExpr,
        then: Vec<TNode>,
        otherwise: Vec<TNode>,
    },
    Switch {
        cases: Vec<(TExpr, Vec<TNode>)>,
        otherwise: Vec<TNode>,
    },
    ForEach {
        list: TExpr,
        element: usize,
        start: Option<TExpr>,
        max: Option<TExpr>,
        body: Vec<TNode>,
    },
    Try {
        body: Vec<TNode>,
        handlers: Vec<THandler>,
    },
    Call {
        action: usize,
        arguments: Vec<Option<TExpr>>,
        outputs: Vec<usize>,
    },
    /// `lock` keeps others from writing the row until the transaction ends.
    Get {
        record: usize,
        id: TExpr,
        lock: bool,
        out: usize,
    },
    Aggregate {
        query: Box<Query>,
        list: usize,
        count: usize,
    },
    Sql {
        statement: Box<SqlStatement>,
        list: Option<usize>,
        count: usize,
    },
    Create {
        record: usize,
        value: TExpr,
        out: usize,
    },
    Update {
        record: usize,
        value: TExpr,
    },
    CreateOrUpdate {
        record: usize,
        value: TExpr,
        out: usize,
    },
    /// `element` holds one record after the other.
    CreateOrUpdateSome {
        record: usize,
        list: TExpr,
        element: usize,
        out: usize,
    },
    Delete {
        record: usize,
        id: TExpr,
    },
    Raise {
        exception: u32,
        message: TExpr,
        status: u32,
    },
    Log {
        message: TExpr,
        level: LogLevel,
    },
    Serialize {
        value: TExpr,
        defaults: bool,
        out: usize,
    },
    Deserialize {
        text: TExpr,
        out: usize,
    },
    ListEdit {
        list: TExpr,
        edit: TListEdit,
    },
    ListSort {
        list: TExpr,
        by: Vec<SortKey>,
    },
    ListSearch {
        list: TExpr,
        search: Search,
        element: usize,
        condition: TExpr,
        out: usize,
    },
    ListCopy {
        list: TExpr,
        distinct: bool,
        out: usize,
    },
    Wake {
        timer: String,
    },
    /// `arguments` are the payload of the event.
    Trigger {
        event: usize,
        arguments: Vec<Option<TExpr>>,
    },
    Commit,
    Abort,
    Leave(Leave),
}

/// What takes an exception. Those of a node stand in the order in which they are asked: most specific first.
#[derive(Debug)]
pub(crate) struct THandler {
    /// First and last number of the exceptions that it takes.
    pub(crate) takes: (u32, u32),
    pub(crate) abort: bool,
    pub(crate) log: bool,
    /// The variable that holds `ExceptionMessage`.
    pub(crate) message: usize,
    pub(crate) flow: Vec<TNode>,
}

#[derive(Debug)]
pub(crate) enum TListEdit {
    Append(TExpr),
    AppendAll(TExpr),
    Insert { element: TExpr, at: TExpr },
    Remove { at: TExpr },
    Clear,
}

/// An attribute of the elements, or the whole element where it is no record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SortKey {
    pub(crate) attribute: Option<usize>,
    pub(crate) descending: bool,
}

/// An exception of the language: the numbers say what is a child of what.
#[derive(Debug)]
pub(crate) struct ExceptionDef {
    pub(crate) name: &'static str,
    /// Its own number, and the last of its children's.
    pub(crate) numbers: (u32, u32),
    /// The HTTP status of one that nobody handles; none where the app cannot raise it.
    pub(crate) status: Option<u32>,
}

/// The tree of exceptions. What the runtime library raises under no name has number 1.
pub(crate) const EXCEPTIONS: &[ExceptionDef] = &[
    ExceptionDef { name: "All", numbers: (0, u32::MAX), status: None },
    ExceptionDef { name: "Database", numbers: (DATABASE, DATABASE), status: None },
    ExceptionDef { name: "Communication", numbers: (5, 5), status: None },
    ExceptionDef { name: "Security", numbers: (8, 15), status: Some(403) },
    ExceptionDef { name: "InvalidLogin", numbers: (9, 9), status: Some(401) },
    ExceptionDef { name: "NotRegistered", numbers: (10, 15), status: Some(403) },
    ExceptionDef { name: "User", numbers: (USER, u32::MAX), status: Some(USER_STATUS) },
];

/// The number of Database, as the runtime library raises it.
pub(crate) const DATABASE: u32 = 4;
/// The number of User; the app's own exceptions follow.
pub(crate) const USER: u32 = 16;
/// The HTTP status of a user exception that nobody handles and that says no other.
pub(crate) const USER_STATUS: u32 = 400;

/// A query over entities.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) sources: Vec<TSource>,
    pub(crate) filters: Vec<TExpr>,
    pub(crate) calculated: Vec<(String, TExpr)>,
    pub(crate) keys: Vec<(String, TExpr)>,
    pub(crate) totals: Vec<Total>,
    pub(crate) sort: Vec<(SortBy, bool)>,
    pub(crate) dynamic_sort: Option<TExpr>,
    pub(crate) max: Option<TExpr>,
    pub(crate) start: Option<TExpr>,
    /// The type of a row: of a `list` the entity; else a record of the sources and the calculated attributes,
    /// or of the keys and totals.
    pub(crate) row: usize,
    /// It is a `list`: a row is the entity's record itself.
    pub(crate) short: bool,
}

impl Query {
    pub(crate) fn is_grouped(&self) -> bool {
        !(self.keys.is_empty() && self.totals.is_empty())
    }

    pub(crate) fn expressions(&self) -> impl Iterator<Item = &TExpr> {
        let joins = self.sources.iter().filter_map(|s| s.join.as_ref()?.1.as_ref());
        let calculated = self.calculated.iter().chain(&self.keys).map(|(_, value)| value);
        let totals = self.totals.iter().filter_map(|t| t.of.as_ref());
        let single = [&self.dynamic_sort, &self.max, &self.start].into_iter().flatten();
        joins.chain(&self.filters).chain(calculated).chain(totals).chain(single)
    }
}

#[derive(Debug)]
pub(crate) struct TSource {
    pub(crate) name: String,
    pub(crate) record: usize,
    /// How it is joined to those before it, and on what; the first one is not.
    pub(crate) join: Option<(Join, Option<TExpr>)>,
}

/// Computed over the rows of a group.
#[derive(Debug)]
pub(crate) struct Total {
    pub(crate) name: String,
    pub(crate) kind: TotalKind,
    pub(crate) of: Option<TExpr>,
    pub(crate) ty: Type,
}

/// What rows are sorted by.
#[derive(Debug)]
pub(crate) enum SortBy {
    Value(TExpr),
    Key(usize),
    Total(usize),
}

/// A statement of the author's, its names looked up.
#[derive(Debug)]
pub(crate) struct SqlStatement {
    pub(crate) parts: Vec<StatementPart>,
    /// By their numbers.
    pub(crate) parameters: Vec<TExpr>,
    /// It writes or locks, so it belongs into the transaction.
    pub(crate) writes: bool,
}

#[derive(Debug)]
pub(crate) enum StatementPart {
    Text(String),
    /// Of a table or column.
    Name(String),
    Parameter(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct TExpr {
    pub(crate) ty: Type,
    pub(crate) span: Span,
    pub(crate) kind: TKind,
}

#[derive(Debug, Clone)]
pub(crate) enum TKind {
    Broken,
    Constant(Constant),
    Null,
    Local(usize),
    Field(Box<TExpr>, usize),
    /// An attribute of the row under test, in a query: which source, which attribute.
    Attribute(usize, usize),
    /// What the stage sets, or the default.
    Setting(usize),
    /// A calculated attribute of the row under test.
    Calculated(usize),
    Item(Box<TExpr>, Box<TExpr>),
    Length(Box<TExpr>),
    Negate(Box<TExpr>),
    Not(Box<TExpr>),
    /// Both sides and the result have the node's type.
    Arithmetic(Binary, Box<TExpr>, Box<TExpr>),
    Concat(Box<TExpr>, Box<TExpr>),
    /// Both sides have one type.
    Compare(Binary, Box<TExpr>, Box<TExpr>),
    Logic(Binary, Box<TExpr>, Box<TExpr>),
    Convert(Box<TExpr>),
    If(Box<TExpr>, Box<TExpr>, Box<TExpr>),
    Builtin(&'static Builtin, Vec<TExpr>),
    /// A function of the app.
    Invoke(usize, Vec<Option<TExpr>>),
}
