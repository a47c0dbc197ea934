//! What the author wrote, shape only: names are not looked up, types are words, spans are kept.

use odeon_oml::schema::DeleteRule;

use crate::sources::Span;
pub(crate) use crate::yaml::Name;

/// The whole app; the files are merged.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) app: Option<Name>,
    pub(crate) entities: Vec<Entity>,
    pub(crate) structures: Vec<Structure>,
    pub(crate) actions: Vec<Action>,
    pub(crate) apis: Vec<Name>,
}

#[derive(Debug)]
pub(crate) struct Entity {
    pub(crate) name: Name,
    pub(crate) is_static: bool,
    pub(crate) attributes: Vec<Declared>,
    pub(crate) records: Vec<(Name, Vec<(Name, Name)>)>,
    pub(crate) indexes: Vec<(Name, Vec<Name>, bool)>,
}

#[derive(Debug)]
pub(crate) struct Structure {
    pub(crate) name: Name,
    pub(crate) attributes: Vec<Declared>,
}

/// An attribute, parameter or variable.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub(crate) name: Name,
    pub(crate) type_name: Name,
    pub(crate) mandatory: bool,
    pub(crate) length: Option<(u32, Span)>,
    pub(crate) default: Option<Name>,
    pub(crate) delete_rule: Option<(DeleteRule, Span)>,
    pub(crate) source: Option<(Source, Span)>,
    /// The HTTP name of a header input, where it is not the input's own.
    pub(crate) header: Option<Name>,
}

/// Where a REST input comes from; the numbers are the runtime's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Path = 0,
    Query = 1,
    Header = 2,
    Body = 3,
}

/// A server action or a REST method.
#[derive(Debug)]
pub(crate) struct Action {
    pub(crate) name: Name,
    pub(crate) rest: Option<RestMethod>,
    pub(crate) inputs: Vec<Declared>,
    pub(crate) outputs: Vec<Declared>,
    pub(crate) locals: Vec<Declared>,
    pub(crate) flow: Vec<Node>,
}

#[derive(Debug)]
pub(crate) struct RestMethod {
    pub(crate) api: String,
    /// Index into GET, POST, PUT, DELETE.
    pub(crate) verb: u32,
    pub(crate) path: Name,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) name: Option<Name>,
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
    ForEach {
        list: Expr,
        element: Name,
        body: Vec<Node>,
    },
    Call {
        action: Name,
        with: Vec<(Name, Expr)>,
    },
    Get {
        entity: Name,
        id: Expr,
    },
    List {
        entity: Name,
        filter: Option<Expr>,
        sort: Vec<(Name, bool)>,
        max: Option<Expr>,
        start: Option<Expr>,
    },
    Create {
        entity: Name,
        record: Expr,
    },
    Update {
        entity: Name,
        record: Expr,
    },
    Delete {
        entity: Name,
        id: Expr,
    },
    Append {
        element: Expr,
        list: Expr,
    },
    Raise {
        message: Expr,
        status: u32,
    },
    Return,
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
            Binary::And => "AND",
            Binary::Or => "OR",
        }
    }
}
