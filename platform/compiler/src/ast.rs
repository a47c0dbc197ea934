//! What the author wrote, shape only: names are not looked up, types are words, spans are kept.

use odeon_oml::schema::DeleteRule;

use crate::sources::Span;
pub(crate) use crate::yaml::Name;

/// The whole app; the files are merged.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// The app's name, or the library's.
    pub(crate) app: Option<Name>,
    /// The project is a library: what it declares is compiled into the apps that use it.
    pub(crate) is_library: bool,
    pub(crate) description: Option<String>,
    pub(crate) entities: Vec<Entity>,
    pub(crate) structures: Vec<Structure>,
    pub(crate) settings: Vec<Declared>,
    /// The app's own user exceptions.
    pub(crate) exceptions: Vec<Name>,
    pub(crate) roles: Vec<Role>,
    pub(crate) actions: Vec<Action>,
    pub(crate) apis: Vec<Api>,
    pub(crate) consumed: Vec<ConsumedApi>,
    pub(crate) events: Vec<Event>,
    /// Other apps, of which something is known.
    pub(crate) references: Vec<Reference>,
    /// Libraries, of each of which one revision is compiled in.
    pub(crate) libraries: Vec<Library>,
}

/// What a user may be.
#[derive(Debug)]
pub(crate) struct Role {
    /// Of another app: `<App>.<Role>`.
    pub(crate) name: Name,
    pub(crate) own: bool,
    /// Other apps may ask who has it.
    pub(crate) public: bool,
}

/// A library that is compiled in.
#[derive(Debug)]
pub(crate) struct Library {
    pub(crate) name: Name,
    pub(crate) revision: u32,
}

/// Whose an element is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Home {
    /// The project's own.
    #[default]
    Own,
    /// A library's, compiled in: that of the project itself, or one that it uses.
    Library,
    /// Another app's, of this name.
    App(String),
}

/// Another app, of which one revision is known.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) app: Name,
}

/// An event, of this app or of another one.
#[derive(Debug)]
pub(crate) struct Event {
    /// Of another app: `<App>.<Event>`.
    pub(crate) name: Name,
    pub(crate) own: bool,
    pub(crate) payload: Vec<Declared>,
}

/// An exposed REST API.
#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) name: Name,
    pub(crate) description: Option<String>,
    /// The action that is given user name and password before every method.
    pub(crate) authentication: Option<Name>,
    /// Who may call a method that does not say it itself.
    pub(crate) roles: Vec<Name>,
}

#[derive(Debug)]
pub(crate) struct Entity {
    /// Of a library or another app: `<Library>.<Entity>`.
    pub(crate) name: Name,
    pub(crate) home: Home,
    /// Other apps may read it.
    pub(crate) public: bool,
    pub(crate) is_static: bool,
    /// The table of an entity that was named otherwise when it was made.
    pub(crate) stored_as: Option<Name>,
    pub(crate) attributes: Vec<Declared>,
    pub(crate) records: Vec<(Name, Vec<(Name, Name)>)>,
    pub(crate) indexes: Vec<(Name, Vec<Name>, bool)>,
}

#[derive(Debug)]
pub(crate) struct Structure {
    pub(crate) name: Name,
    /// The author gave it no name.
    pub(crate) inline: bool,
    pub(crate) attributes: Vec<Declared>,
}

/// An attribute, parameter or variable.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub(crate) name: Name,
    pub(crate) description: Option<String>,
    pub(crate) type_name: Name,
    pub(crate) mandatory: bool,
    pub(crate) length: Option<(u32, Span)>,
    pub(crate) default: Option<Name>,
    pub(crate) delete_rule: Option<(DeleteRule, Span)>,
    pub(crate) source: Option<(Source, Span)>,
    /// The HTTP name of a header input, where it is not the input's own.
    pub(crate) header: Option<Name>,
    /// The column of an attribute that was named otherwise when it was made.
    pub(crate) stored_as: Option<Name>,
    /// Of a setting that nobody may read but the app.
    pub(crate) secret: Option<Span>,
    /// What people read instead of the name.
    pub(crate) label: Option<String>,
    /// Most digits behind the point.
    pub(crate) decimals: Option<(u32, Span)>,
    /// The database counts the values, or does not.
    pub(crate) auto_number: Option<(bool, Span)>,
    /// Of a record that has no name: its attributes.
    pub(crate) attributes: Vec<Declared>,
}

impl Declared {
    /// Nothing but a name and a type.
    pub(crate) fn plain(name: Name, type_name: Name) -> Declared {
        Declared {
            name,
            type_name,
            description: None,
            mandatory: false,
            length: None,
            default: None,
            delete_rule: None,
            source: None,
            header: None,
            stored_as: None,
            secret: None,
            label: None,
            decimals: None,
            auto_number: None,
            attributes: Vec::new(),
        }
    }
}

/// Where a REST input comes from; the numbers are the runtime's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Path = 0,
    Query = 1,
    Header = 2,
    Body = 3,
}

/// A REST API of somebody else.
#[derive(Debug)]
pub(crate) struct ConsumedApi {
    pub(crate) name: Name,
    /// Where it is, unless the stage says otherwise.
    pub(crate) url: Option<Name>,
    /// User name and password are settings.
    pub(crate) basic: bool,
    pub(crate) timeout_s: u32,
    /// The actions that see a request before it is sent, and an answer before it is read.
    pub(crate) before: Option<Name>,
    pub(crate) after: Option<Name>,
}

/// Anything with inputs and outputs that can be called, by the app or from outside.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) name: Name,
    pub(crate) description: Option<String>,
    pub(crate) kind: ActionKind,
    /// It can be called in expressions.
    pub(crate) is_function: bool,
    /// Who uses the library may call it.
    pub(crate) public: bool,
    /// The library that it is of; none for the project's own.
    pub(crate) library: Option<String>,
    pub(crate) inputs: Vec<Declared>,
    pub(crate) outputs: Vec<Declared>,
    pub(crate) locals: Vec<Declared>,
    pub(crate) flow: Vec<Node>,
    /// What takes the exceptions of the whole flow.
    pub(crate) handlers: Vec<Handler>,
}

impl Action {
    /// An action with neither parameters nor a flow.
    pub(crate) fn new(name: Name, kind: ActionKind) -> Action {
        Action {
            name,
            kind,
            description: None,
            is_function: false,
            public: false,
            library: None,
            inputs: Vec::new(),
            outputs: Vec::new(),
            locals: Vec::new(),
            flow: Vec::new(),
            handlers: Vec::new(),
        }
    }

    /// Its name in logs; no two have the same.
    pub(crate) fn shown(&self) -> String {
        let name = &self.name.text;
        match &self.kind {
            ActionKind::Server | ActionKind::Service => name.clone(),
            ActionKind::Remote(remote) => format!("Reference.{}.{name}", remote.app),
            ActionKind::Handler { .. } => format!("Handler.{name}"),
            ActionKind::Exposed(method) => format!("{}.{name}", method.api),
            // An API of the same name may be exposed too.
            ActionKind::Consumed(method) => format!("Consumed.{}.{name}", method.api),
            ActionKind::Timer(_) => format!("Timer.{name}"),
        }
    }
}

/// What an action is, besides its flow.
#[derive(Debug)]
pub(crate) enum ActionKind {
    /// A server action.
    Server,
    /// A method of an exposed REST API.
    Exposed(RestMethod),
    /// A method of a consumed REST API: it has no flow.
    Consumed(RestMethod),
    /// What a timer runs.
    Timer(Timer),
    /// A service action: other apps may call it too.
    Service,
    /// A service action of another app: it has no flow.
    Remote(Remote),
    /// What is run for an event: its inputs are the payload, its flow calls the action that the model names.
    Handler { event: Name },
}

/// Where a service action of another app is.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) app: String,
    pub(crate) action: String,
}

impl ActionKind {
    /// Something outside the app leads to it.
    pub(crate) fn is_entry(&self) -> bool {
        match self {
            ActionKind::Exposed(_)
            | ActionKind::Timer(_)
            | ActionKind::Service
            | ActionKind::Handler { .. } => true,
            ActionKind::Server | ActionKind::Consumed(_) | ActionKind::Remote(_) => false,
        }
    }

    /// The method of an exposed REST API that it is.
    pub(crate) fn exposed(&self) -> Option<&RestMethod> {
        if let ActionKind::Exposed(method) = self { Some(method) } else { None }
    }

    /// The method of a consumed REST API that it is.
    pub(crate) fn consumed(&self) -> Option<&RestMethod> {
        if let ActionKind::Consumed(method) = self { Some(method) } else { None }
    }

    /// The service action of another app that it is.
    pub(crate) fn remote(&self) -> Option<&Remote> {
        if let ActionKind::Remote(remote) = self { Some(remote) } else { None }
    }

    /// The name of the event that it is run for.
    pub(crate) fn event(&self) -> Option<&Name> {
        if let ActionKind::Handler { event } = self { Some(event) } else { None }
    }

    /// The timer that it is.
    pub(crate) fn timer(&self) -> Option<&Timer> {
        if let ActionKind::Timer(timer) = self { Some(timer) } else { None }
    }
}

#[derive(Debug)]
pub(crate) struct RestMethod {
    pub(crate) api: String,
    /// Index into GET, POST, PUT, DELETE.
    pub(crate) verb: u32,
    pub(crate) path: Name,
    /// The HTTP status of a success; of an exposed method.
    pub(crate) status: u32,
    /// Who may call, where the method says it itself; of an exposed method.
    pub(crate) roles: Option<Vec<Name>>,
}

/// When an action runs by itself. Its flow calls the action that the model names.
#[derive(Debug, Clone)]
pub(crate) struct Timer {
    /// A cron pattern of five fields, in UTC.
    pub(crate) schedule: Option<Name>,
    pub(crate) when_published: bool,
    /// Minutes that a run may take.
    pub(crate) timeout: u32,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Option<Name>,
    /// Of the key or word that says what the node does.
    pub(crate) span: Span,
    pub(crate) kind: NodeKind,
}

#[derive(Debug)]
pub(crate) enum NodeKind {
    Assign(Vec<(Expr, Expr)>),
    If {
        condition: Expr,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    Switch {
        cases: Vec<(Expr, Vec<Node>)>,
        otherwise: Vec<Node>,
    },
    ForEach {
        list: Expr,
        element: Name,
        start: Option<Expr>,
        max: Option<Expr>,
        body: Vec<Node>,
    },
    Try {
        body: Vec<Node>,
        handlers: Vec<Handler>,
    },
    Call {
        action: Name,
        with: Vec<(Name, Expr)>,
    },
    Entity {
        entity: Name,
        action: EntityAction,
    },
    Aggregate(Box<Aggregate>),
    Sql(Box<Sql>),
    Raise {
        exception: Name,
        message: Expr,
        status: Option<u32>,
    },
    Log {
        message: Expr,
        level: LogLevel,
    },
    Serialize {
        value: Expr,
        /// Attributes that hold their default are written too.
        defaults: bool,
    },
    Deserialize {
        text: Expr,
        type_name: Name,
    },
    List {
        list: Expr,
        action: ListAction,
    },
    /// The next run of a timer is now.
    Wake(Name),
    /// A user gets a role, or loses it.
    Role {
        role: Name,
        user: Expr,
        granted: bool,
    },
    /// An event of the app is sent when the transaction is committed.
    Trigger {
        event: Name,
        with: Vec<(Name, Expr)>,
    },
    Commit,
    Abort,
    Leave(Leave),
}

impl NodeKind {
    /// The flows inside the node.
    pub(crate) fn flows(&self) -> Vec<&[Node]> {
        match self {
            NodeKind::If { then, otherwise, .. } => vec![then, otherwise],
            NodeKind::Switch { cases, otherwise } => {
                cases.iter().map(|(_, flow)| flow).chain([otherwise]).map(Vec::as_slice).collect()
            }
            NodeKind::ForEach { body, .. } => vec![body],
            NodeKind::Try { body, handlers } => {
                [body].into_iter().chain(handlers.iter().map(|h| &h.flow)).map(Vec::as_slice).collect()
            }
            NodeKind::Assign(_)
            | NodeKind::Call { .. }
            | NodeKind::Entity { .. }
            | NodeKind::Aggregate(_)
            | NodeKind::Sql(_)
            | NodeKind::Raise { .. }
            | NodeKind::Log { .. }
            | NodeKind::Serialize { .. }
            | NodeKind::Deserialize { .. }
            | NodeKind::List { .. }
            | NodeKind::Wake(_)
            | NodeKind::Trigger { .. }
            | NodeKind::Role { .. }
            | NodeKind::Commit
            | NodeKind::Abort
            | NodeKind::Leave(_) => Vec::new(),
        }
    }
}

/// What takes an exception: its name, what becomes of the transaction and the log, and what is done.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) exception: Name,
    pub(crate) abort: bool,
    pub(crate) log: bool,
    pub(crate) flow: Vec<Node>,
}

/// What is done with the rows of an entity.
#[derive(Debug)]
pub(crate) enum EntityAction {
    Get { id: Expr },
    GetForUpdate { id: Expr },
    Create { record: Expr },
    Update { record: Expr },
    CreateOrUpdate { record: Expr },
    CreateOrUpdateSome { records: Expr },
    Delete { id: Expr },
}

/// A query over entities: the node `aggregate`, and `list`, its short form for one entity.
#[derive(Debug)]
pub(crate) struct Aggregate {
    /// It is a `list`: a row is the entity's record itself.
    pub(crate) short: bool,
    pub(crate) sources: Vec<QuerySource>,
    /// All of them must hold.
    pub(crate) filters: Vec<Expr>,
    pub(crate) calculated: Vec<(Name, Expr)>,
    pub(crate) keys: Vec<(Name, Expr)>,
    pub(crate) totals: Vec<(Name, TotalKind, Option<Expr>)>,
    /// `Source.Attribute` or a name alone, and whether large ones come first.
    pub(crate) sort: Vec<(Name, bool)>,
    pub(crate) dynamic_sort: Option<Expr>,
    pub(crate) max: Option<Expr>,
    pub(crate) start: Option<Expr>,
}

#[derive(Debug)]
pub(crate) struct QuerySource {
    pub(crate) entity: Name,
    pub(crate) alias: Option<Name>,
    pub(crate) join: Option<(Join, Span)>,
    pub(crate) on: Option<Expr>,
}

impl QuerySource {
    /// The name under which its attributes are read.
    pub(crate) fn name(&self) -> Name {
        let own = || Name { text: self.entity.last().to_owned(), span: self.entity.span };
        self.alias.clone().unwrap_or_else(own)
    }
}

/// How a source is joined to those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// Only With.
    Inner,
    /// With or Without.
    Left,
    /// With.
    Full,
    Cross,
}

/// What is computed over the rows of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TotalKind {
    Count,
    Sum,
    Average,
    Min,
    Max,
}

/// A statement in SQL.
#[derive(Debug)]
pub(crate) struct Sql {
    pub(crate) parts: Vec<SqlPart>,
    /// It gives rows; else only how many it touched.
    pub(crate) gives_rows: bool,
    /// It writes or locks, so it belongs into the transaction.
    pub(crate) writes: bool,
    /// Name, type where one is given, and value.
    pub(crate) parameters: Vec<(Name, Option<Name>, Expr)>,
    /// The structure or entity of a row.
    pub(crate) output: Option<Name>,
}

/// A piece of a statement's text.
#[derive(Debug, Clone)]
pub(crate) enum SqlPart {
    /// As written: comments, literals and everything that is SQL alone.
    Text(String),
    /// `{Entity}`.
    Entity(Name),
    /// `{Entity}.[Attribute]`, or `[Attribute]` of one of the entities of the statement.
    Attribute(Option<Name>, Name),
    /// `@Name`.
    Parameter(Name),
}

/// What is done with a list in memory.
#[derive(Debug)]
pub(crate) enum ListAction {
    Append(Expr),
    AppendAll(Expr),
    Insert {
        element: Expr,
        at: Expr,
    },
    Remove {
        at: Expr,
    },
    Clear,
    Sort {
        by: Vec<(Name, bool)>,
    },
    Search {
        search: Search,
        element: Name,
        condition: Expr,
    },
    /// A copy, with or without elements that are there already.
    Copy {
        distinct: bool,
    },
}

/// What a condition on the elements of a list is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    Filter,
    Any,
    All,
    IndexOf,
}

/// Nodes that end something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The action.
    Return,
    /// This iteration.
    Cycle,
    /// The loop.
    Exit,
}

/// How much a log line matters; the numbers are those of `odeon:log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogLevel {
    Info = 1,
    Warning = 2,
    Error = 3,
}

#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) span: Span,
    pub(crate) kind: ExprKind,
}

#[derive(Debug, Clone)]
pub(crate) enum ExprKind {
    /// Could not be read; said so already.
    Broken,
    Number(String),
    Text(String),
    /// `#2026-01-31#`.
    Moment(String),
    Name(String),
    Member(Box<Expr>, Name),
    Item(Box<Expr>, Box<Expr>),
    Call(Name, Vec<Expr>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Span, Box<Expr>, Box<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unary {
    Minus,
    Not,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Binary {
    Add,
    Subtract,
    Multiply,
    Divide,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    /// Only the database computes it.
    Like,
    And,
    Or,
}

impl Binary {
    /// As written, for messages and for SQL.
    pub(crate) fn symbol(self) -> &'static str {
        match self {
            Binary::Add => "+",
            Binary::Subtract => "-",
            Binary::Multiply => "*",
            Binary::Divide => "/",
            Binary::Less => "<",
            Binary::LessEqual => "<=",
            Binary::Greater => ">",
            Binary::GreaterEqual => ">=",
            Binary::Equal => "=",
            Binary::NotEqual => "<>",
            Binary::Like => "LIKE",
            Binary::And => "AND",
            Binary::Or => "OR",
        }
    }
}
