//! Programs as typed trees, and how they are written in OML.
//!
//! The interpreter runs the tree and the compiler reads the text, so that parser, checker and generated code are
//! tested together. Implicit conversions are nodes of the tree ([`Kind::Convert`]) that print as nothing, and
//! parentheses stand only where the reference's precedence asks for them.
//! Invariant: names of variables are unique in their action, so that parts can be cut out.

use super::builtins::Builtin;
use super::values::{Structure, Ty, Value, date_text, date_time_text, decimal_text, time_text};

#[derive(Debug, Clone)]
pub(crate) struct Expr {
    pub(crate) ty: Ty,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Literal(Value),
    /// A variable of the action, by its place in [`Action::vars`].
    Var(usize),
    Field(Box<Expr>, usize),
    Item(Box<Expr>, Box<Expr>),
    Length(Box<Expr>),
    Empty(Box<Expr>),
    Minus(Box<Expr>),
    Not(Box<Expr>),
    Binary(Op, Box<Expr>, Box<Expr>),
    If(Box<Expr>, Box<Expr>, Box<Expr>),
    Builtin(&'static Builtin, Vec<Expr>),
    /// A function of the app, by its place.
    Invoke(usize, Vec<Expr>),
    Convert(Box<Expr>),
    /// Parentheses that nothing asks for.
    Parens(Box<Expr>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Add,
    Subtract,
    Multiply,
    Divide,
    /// `+` of texts.
    Join,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    Equal,
    NotEqual,
    And,
    Or,
}

impl Op {
    fn symbol(self) -> &'static str {
        match self {
            Op::Add | Op::Join => "+",
            Op::Subtract => "-",
            Op::Multiply => "*",
            Op::Divide => "/",
            Op::Less => "<",
            Op::LessEqual => "<=",
            Op::Greater => ">",
            Op::GreaterEqual => ">=",
            Op::Equal => "=",
            Op::NotEqual => "<>",
            Op::And => "and",
            Op::Or => "or",
        }
    }

    /// Higher binds tighter. Unary operators are 7 (not) and 8 (minus), everything else 9.
    fn strength(self) -> u8 {
        match self {
            Op::Multiply | Op::Divide => 6,
            Op::Add | Op::Join | Op::Subtract => 5,
            Op::Less | Op::LessEqual | Op::Greater | Op::GreaterEqual => 4,
            Op::Equal | Op::NotEqual => 3,
            Op::And => 2,
            Op::Or => 1,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// What it is called, where it is named or has outputs.
    pub(crate) name: Option<String>,
    pub(crate) kind: NodeKind,
}

#[derive(Debug, Clone)]
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
        element: usize,
        start: Option<Expr>,
        max: Option<Expr>,
        body: Vec<Node>,
    },
    Cycle,
    Exit,
    Return,
    /// `outs` are the variables of the callee's outputs.
    Call {
        action: usize,
        with: Vec<Option<Expr>>,
        outs: Vec<usize>,
    },
    Append {
        list: Expr,
        element: Expr,
    },
    AppendAll {
        list: Expr,
        elements: Expr,
    },
    Insert {
        list: Expr,
        element: Expr,
        at: Expr,
    },
    Remove {
        list: Expr,
        at: Expr,
    },
    Clear {
        list: Expr,
    },
    /// Attributes, or the elements themselves; descending.
    Sort {
        list: Expr,
        by: Vec<(Option<usize>, bool)>,
    },
    Search {
        search: Search,
        list: Expr,
        element: usize,
        condition: Expr,
        out: usize,
    },
    Copy {
        distinct: bool,
        list: Expr,
        out: usize,
    },
    Serialize {
        value: Expr,
        defaults: bool,
        out: usize,
    },
    Deserialize {
        text: Expr,
        out: usize,
    },
    Try {
        body: Vec<Node>,
        handlers: Vec<Handler>,
    },
    Raise {
        exception: Exception,
        message: Expr,
        status: Option<u16>,
    },
    Log {
        message: Expr,
        level: &'static str,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    Filter,
    Any,
    All,
    IndexOf,
}

#[derive(Debug, Clone)]
pub(crate) struct Handler {
    pub(crate) exception: Exception,
    pub(crate) log: bool,
    pub(crate) abort: Option<bool>,
    /// The variable `ExceptionMessage`.
    pub(crate) message: usize,
    pub(crate) flow: Vec<Node>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exception {
    All,
    User,
    /// Declared by the app: `Own0`, `Own1`.
    Own(usize),
    Database,
    Security,
    InvalidLogin,
    NotRegistered,
    Communication,
}

impl Exception {
    pub(crate) fn name(self) -> String {
        match self {
            Exception::Own(n) => format!("Own{n}"),
            other => format!("{other:?}"),
        }
    }
}

/// A parameter or variable of an action.
#[derive(Debug, Clone)]
pub(crate) struct Var {
    /// As expressions write it: `N7.List` for an output of a node.
    pub(crate) name: String,
    pub(crate) ty: Ty,
    pub(crate) mandatory: bool,
    pub(crate) default: Option<(String, Value)>,
}

#[derive(Debug, Clone)]
pub(crate) struct Action {
    pub(crate) name: String,
    pub(crate) function: bool,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) locals: usize,
    /// Inputs, outputs, locals, then elements, messages and outputs of nodes.
    pub(crate) vars: Vec<Var>,
    pub(crate) flow: Vec<Node>,
    pub(crate) handlers: Vec<Handler>,
}

#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub(crate) structures: Vec<Structure>,
    /// Actions call those before them only, but for the one that calls itself.
    pub(crate) actions: Vec<Action>,
    /// Methods of the REST API `A`.
    pub(crate) methods: Vec<Action>,
}

/// How many exceptions the app declares.
pub(crate) const OWN: usize = 2;

impl Program {
    pub(crate) fn type_name(&self, ty: &Ty) -> String {
        type_name(ty, &self.structures)
    }

    /// The model, with the actions, structures and variables that its methods need.
    pub(crate) fn oml(&self) -> String {
        let mut code = Printer { program: self, text: String::new() };
        code.line(0, "rest:");
        code.line(1, "A:");
        code.line(2, "methods:");
        self.methods.iter().for_each(|method| code.action(3, method, true));
        let mut actions: Vec<String> = Vec::new();
        for action in self.actions.iter().rev() {
            let mut out = Printer { program: self, text: String::new() };
            out.action(1, action, false);
            if uses(&code.text, &action.name) || actions.iter().any(|other| uses(other, &action.name)) {
                actions.push(out.text);
            }
        }
        let mut structures: Vec<String> = Vec::new();
        for structure in self.structures.iter().rev() {
            let mut out = Printer { program: self, text: String::new() };
            out.line(1, &format!("{}:", structure.name));
            out.line(2, "attributes:");
            for field in &structure.fields {
                let declared = self.declared(&field.ty, false, field.default.as_ref());
                out.line(3, &format!("{}: {declared}", field.name));
            }
            let all = || actions.iter().chain(&structures).chain([&code.text]);
            if all().any(|text| uses(text, &structure.name)) {
                structures.push(out.text);
            }
        }
        let own: Vec<String> = (0..OWN).map(|n| format!("Own{n}: ")).collect();
        let mut out = Printer { program: self, text: String::new() };
        out.line(0, "app: D");
        out.line(0, "entities: { Thing: { attributes: { Name: Text } } }");
        out.line(0, &format!("exceptions: {{ {} }}", own.join(", ")));
        for (key, parts) in [("structures:", structures), ("actions:", actions)] {
            if !parts.is_empty() {
                out.line(0, key);
                parts.iter().rev().for_each(|part| out.text.push_str(part));
            }
        }
        out.text + &code.text
    }

    fn declared(&self, ty: &Ty, mandatory: bool, default: Option<&(String, Value)>) -> String {
        let name = self.type_name(ty);
        if !mandatory && default.is_none() {
            return name;
        }
        let mut text = format!("{{ type: {name}");
        if mandatory {
            text.push_str(", mandatory: true");
        }
        if let Some((written, _)) = default {
            text.push_str(&format!(", default: {}", quoted(written)));
        }
        text + " }"
    }
}

fn type_name(ty: &Ty, structures: &[Structure]) -> String {
    match ty {
        Ty::Bool => "Boolean".into(),
        Ty::Int => "Integer".into(),
        Ty::Long => "Long Integer".into(),
        Ty::Dec => "Decimal".into(),
        Ty::Text => "Text".into(),
        Ty::Email => "Email".into(),
        Ty::Phone => "Phone Number".into(),
        Ty::Date => "Date".into(),
        Ty::Time => "Time".into(),
        Ty::DateTime => "Date Time".into(),
        Ty::Bytes => "Binary Data".into(),
        Ty::Id | Ty::AnyId => "Thing Identifier".into(),
        Ty::Rec(of) => structures[*of].name.clone(),
        Ty::List(of) => format!("{} List", type_name(of, structures)),
    }
}

/// Whether a text has a word.
fn uses(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.split(|c| !is_part(c)).any(|part| part == word)
}

/// A scalar of YAML in single quotes.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

struct Printer<'p> {
    program: &'p Program,
    text: String,
}

impl Printer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        self.text.push_str(&"  ".repeat(depth));
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn action(&mut self, depth: usize, action: &Action, is_method: bool) {
        self.line(depth, &format!("{}:", action.name));
        if action.function {
            self.line(depth + 1, "function: true");
        }
        if is_method {
            self.line(depth + 1, "verb: POST");
        }
        let mut code = Printer { program: self.program, text: String::new() };
        code.flow(depth + 1, "flow", action, &action.flow);
        code.handlers(depth + 1, action, &action.handlers);
        let (inputs, rest) = action.vars.split_at(action.inputs);
        let (outputs, rest) = rest.split_at(action.outputs);
        let (inputs, outputs) = (inputs.iter().collect(), outputs.iter().collect());
        let locals: Vec<&Var> =
            rest[..action.locals].iter().filter(|var| uses(&code.text, &var.name)).collect();
        for (key, vars) in [("inputs", inputs), ("outputs", outputs), ("locals", locals)] {
            if !vars.is_empty() {
                self.line(depth + 1, &format!("{key}:"));
            }
            for var in vars {
                let declared = self.program.declared(&var.ty, var.mandatory, var.default.as_ref());
                self.line(depth + 2, &format!("{}: {declared}", var.name));
            }
        }
        self.text.push_str(&code.text);
    }

    fn flow(&mut self, depth: usize, key: &str, action: &Action, nodes: &[Node]) {
        if nodes.is_empty() {
            return self.line(depth, &format!("{key}: []"));
        }
        self.line(depth, &format!("{key}:"));
        nodes.iter().for_each(|node| self.node(depth + 1, action, node));
    }

    fn handlers(&mut self, depth: usize, action: &Action, handlers: &[Handler]) {
        if handlers.is_empty() {
            return;
        }
        self.line(depth, "handlers:");
        for handler in handlers {
            self.line(depth + 1, &format!("- exception: {}", handler.exception.name()));
            if !handler.log {
                self.line(depth + 2, "log_error: false");
            }
            if let Some(abort) = handler.abort {
                self.line(depth + 2, &format!("abort_transaction: {abort}"));
            }
            self.flow(depth + 2, "do", action, &handler.flow);
        }
    }

    fn node(&mut self, depth: usize, action: &Action, node: &Node) {
        let shown = |expr: &Expr| quoted(&self.program.show(expr, action));
        let name = |var: &usize| action.vars[*var].name.clone();
        let mut keys: Vec<(&str, String)> = Vec::new();
        let mut flows: Vec<(&str, &[Node])> = Vec::new();
        match &node.kind {
            NodeKind::Assign(pairs) => {
                let pairs: Vec<(String, String)> =
                    pairs.iter().map(|(to, v)| (shown(to), shown(v))).collect();
                self.line(depth, "- assign:");
                for (to, value) in pairs {
                    self.line(depth + 2, &format!("{to}: {value}"));
                }
            }
            NodeKind::If { condition, then, otherwise } => {
                keys.push(("if", shown(condition)));
                flows.push(("then", then));
                if !otherwise.is_empty() {
                    flows.push(("else", otherwise));
                }
            }
            NodeKind::Switch { cases, otherwise } => {
                let cases: Vec<(String, &Vec<Node>)> = cases.iter().map(|(c, f)| (shown(c), f)).collect();
                self.line(depth, "- switch:");
                for (condition, flow) in cases {
                    self.line(depth + 2, &format!("- when: {condition}"));
                    self.flow(depth + 3, "do", action, flow);
                }
                if !otherwise.is_empty() {
                    self.flow(depth + 1, "else", action, otherwise);
                }
            }
            NodeKind::ForEach { list, element, start, max, body } => {
                keys.extend([("for_each", shown(list)), ("as", name(element))]);
                keys.extend(start.as_ref().map(|start| ("start", shown(start))));
                keys.extend(max.as_ref().map(|max| ("max", shown(max))));
                flows.push(("do", body));
            }
            NodeKind::Cycle => self.line(depth, "- cycle"),
            NodeKind::Exit => self.line(depth, "- exit"),
            NodeKind::Return => self.line(depth, "- return"),
            NodeKind::Call { action: callee, with, .. } => {
                let callee = &self.program.actions[*callee];
                keys.push(("call", callee.name.clone()));
                let given = callee.vars.iter().zip(with);
                let given = given
                    .filter_map(|(var, value)| Some(format!("{}: {}", var.name, shown(value.as_ref()?))));
                keys.push(("with", format!("{{ {} }}", given.collect::<Vec<_>>().join(", "))));
            }
            NodeKind::Append { list, element } => {
                keys.extend([("list_append", shown(list)), ("element", shown(element))]);
            }
            NodeKind::AppendAll { list, elements } => {
                keys.extend([("list_append_all", shown(list)), ("elements", shown(elements))]);
            }
            NodeKind::Insert { list, element, at } => {
                keys.extend([("list_insert", shown(list)), ("element", shown(element)), ("at", shown(at))]);
            }
            NodeKind::Remove { list, at } => keys.extend([("list_remove", shown(list)), ("at", shown(at))]),
            NodeKind::Clear { list } => keys.push(("list_clear", shown(list))),
            NodeKind::Sort { list, by } => {
                keys.push(("list_sort", shown(list)));
                let key = |(attribute, descending): &(Option<usize>, bool)| {
                    let order = if *descending { "desc" } else { "asc" };
                    match (attribute, &list.ty) {
                        (Some(at), Ty::List(of)) => {
                            let Ty::Rec(of) = **of else { panic!("attributes are of records") };
                            format!("{} {order}", self.program.structures[of].fields[*at].name)
                        }
                        _ => order.to_owned(),
                    }
                };
                keys.push(("by", format!("[{}]", by.iter().map(key).collect::<Vec<_>>().join(", "))));
            }
            NodeKind::Search { search, list, element, condition, .. } => {
                let kind = match search {
                    Search::Filter => "list_filter",
                    Search::Any => "list_any",
                    Search::All => "list_all",
                    Search::IndexOf => "list_index_of",
                };
                keys.extend([(kind, shown(list)), ("as", name(element)), ("where", shown(condition))]);
            }
            NodeKind::Copy { distinct, list, .. } => {
                keys.push((if *distinct { "list_distinct" } else { "list_duplicate" }, shown(list)));
            }
            NodeKind::Serialize { value, defaults, .. } => {
                keys.push(("json_serialize", shown(value)));
                if *defaults {
                    keys.push(("serialize_defaults", "true".to_owned()));
                }
            }
            NodeKind::Deserialize { text, out } => {
                let ty = self.program.type_name(&action.vars[*out].ty);
                keys.extend([("json_deserialize", shown(text)), ("type", ty)]);
            }
            NodeKind::Try { body, handlers } => {
                self.flow(depth, "- try", action, body);
                self.handlers(depth + 1, action, handlers);
            }
            NodeKind::Raise { exception, message, status } => {
                keys.extend([("raise", exception.name()), ("message", shown(message))]);
                keys.extend(status.map(|status| ("status", status.to_string())));
            }
            NodeKind::Log { message, level } => {
                keys.extend([("log", shown(message)), ("level", (*level).to_owned())]);
            }
        }
        let lead = !keys.is_empty();
        for (at, (key, value)) in keys.into_iter().enumerate() {
            self.line(depth, &format!("{}{key}: {value}", if at == 0 { "- " } else { "  " }));
        }
        if let (Some(name), true) =
            (&node.name, lead || !matches!(node.kind, NodeKind::Cycle | NodeKind::Exit | NodeKind::Return))
        {
            self.line(depth + 1, &format!("name: {name}"));
        }
        for (key, flow) in flows {
            self.flow(depth + 1, key, action, flow);
        }
    }
}

impl Program {
    /// An expression of an action, as it is written.
    pub(crate) fn show(&self, expr: &Expr, action: &Action) -> String {
        self.shown(expr, action).0
    }

    /// The text, and how tightly it binds.
    fn shown(&self, expr: &Expr, action: &Action) -> (String, u8) {
        let whole = |expr: &Expr| self.show(expr, action);
        let at_least = |expr: &Expr, strength: u8| {
            let (text, own) = self.shown(expr, action);
            if own >= strength { text } else { format!("({text})") }
        };
        let arguments = |arguments: &[Expr]| arguments.iter().map(whole).collect::<Vec<_>>().join(", ");
        let text = match &expr.kind {
            Kind::Literal(value) => literal(value, &expr.ty),
            Kind::Var(var) => action.vars[*var].name.clone(),
            Kind::Field(of, field) => {
                let Ty::Rec(structure) = of.ty else { panic!("an attribute of {:?}", of.ty) };
                format!("{}.{}", at_least(of, 9), self.structures[structure].fields[*field].name)
            }
            Kind::Item(list, index) => format!("{}[{}]", at_least(list, 9), whole(index)),
            Kind::Length(list) => format!("{}.Length", at_least(list, 9)),
            Kind::Empty(list) => format!("{}.Empty", at_least(list, 9)),
            Kind::Minus(of) => return (format!("-{}", at_least(of, 8)), 8),
            Kind::Not(of) => return (format!("not {}", at_least(of, 7)), 7),
            Kind::Binary(op, left, right) => {
                let strength = op.strength();
                let (left, right) = (at_least(left, strength), at_least(right, strength + 1));
                return (format!("{left} {} {right}", op.symbol()), strength);
            }
            Kind::If(condition, then, otherwise) => {
                format!("If({}, {}, {})", whole(condition), whole(then), whole(otherwise))
            }
            Kind::Builtin(builtin, given) => format!("{}({})", builtin.name, arguments(given)),
            Kind::Invoke(function, given) => {
                format!("{}({})", self.actions[*function].name, arguments(given))
            }
            Kind::Convert(of) => return self.shown(of, action),
            Kind::Parens(of) => format!("({})", whole(of)),
        };
        (text, 9)
    }
}

fn literal(value: &Value, ty: &Ty) -> String {
    match value {
        Value::Bool(v) => if *v { "True" } else { "False" }.to_owned(),
        Value::Int(v) => v.to_string(),
        Value::Long(v) => v.to_string(),
        Value::Dec(v) => {
            let text = decimal_text(v);
            if text.contains('.') { text } else { text + ".0" }
        }
        Value::Text(v) => format!("\"{}\"", v.replace('"', "\"\"")),
        Value::Date(v) => format!("#{}#", date_text(*v)),
        Value::Time(v) => format!("#{}#", time_text(*v)),
        Value::DateTime(v) => format!("#{}#", date_time_text(*v, " ")),
        Value::Id(_) => "NullIdentifier()".to_owned(),
        Value::Bytes(_) => "NullBinary()".to_owned(),
        Value::Rec(_) | Value::List(_) => panic!("{ty:?} has no literals"),
    }
}
