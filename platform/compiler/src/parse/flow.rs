//! Flows: a list of nodes, each a mapping whose leading key says what it does.
//!
//! Invariant: a node that cannot be read is left out and reported; its neighbours stay.

use super::{Keys, choice, entries, expression, first_line, items, text_of};
use crate::ast::*;
use crate::problem::{Problems, near};
use crate::sources::Span;
use crate::yaml::{self, Scalar, Shape};

/// The keys that say what a node does; each in a node of its own.
const KINDS: [&str; 37] = [
    "assign",
    "if",
    "switch",
    "for_each",
    "call",
    "get",
    "get_for_update",
    "list",
    "aggregate",
    "sql",
    "create",
    "update",
    "create_or_update",
    "create_or_update_some",
    "delete",
    "list_append",
    "list_append_all",
    "list_insert",
    "list_remove",
    "list_clear",
    "list_sort",
    "list_filter",
    "list_any",
    "list_all",
    "list_index_of",
    "list_distinct",
    "list_duplicate",
    "json_serialize",
    "json_deserialize",
    "log",
    "wake",
    "trigger",
    "grant",
    "revoke",
    "try",
    "raise",
    "return",
];

/// Nodes that are one word.
const WORDS: [&str; 5] = ["return", "cycle", "exit", "commit", "abort"];

fn word(text: &str) -> Option<NodeKind> {
    Some(match text {
        "return" => NodeKind::Leave(Leave::Return),
        "cycle" => NodeKind::Leave(Leave::Cycle),
        "exit" => NodeKind::Leave(Leave::Exit),
        "commit" => NodeKind::Commit,
        "abort" => NodeKind::Abort,
        _ => return None,
    })
}

pub(super) fn read(node: &yaml::Node, problems: &mut Problems<'_>) -> Vec<Node> {
    items(node, problems).iter().filter_map(|n| read_node(n, problems)).collect()
}

/// What stands under `handlers`, of a node or of an action.
pub(super) fn handlers(keys: &mut Keys<'_>, problems: &mut Problems<'_>) -> Option<Vec<Handler>> {
    let node = keys.take("handlers")?;
    Some(items(node, problems).iter().filter_map(|n| handler(n, problems)).collect())
}

fn handler(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<Handler> {
    let mut keys = Keys::of(node, "a handler", problems);
    let exception = keys.take("exception").and_then(|n| text_of(n, problems));
    if exception.is_none() {
        problems.error("OML0005", first_line(node), "a handler needs `exception`");
    }
    let abort = keys.flag("abort_transaction", true, problems);
    let log = keys.flag("log_error", true, problems);
    let flow = flow_of(&mut keys, "do", problems);
    keys.finish(problems);
    Some(Handler { exception: exception?, abort, log, flow })
}

fn flow_of(keys: &mut Keys<'_>, key: &str, problems: &mut Problems<'_>) -> Vec<Node> {
    keys.take(key).map(|n| read(n, problems)).unwrap_or_default()
}

fn read_node(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<Node> {
    if let Shape::Scalar(scalar) = &node.shape {
        if let Some(kind) = word(&scalar.text) {
            return Some(Node { name: None, span: node.span, kind });
        }
        let hint = near(&scalar.text, WORDS)
            .unwrap_or_else(|| format!("alone stand {}; others are keys with values", WORDS.join(", ")));
        let message = format!("`{}` is no node", scalar.text);
        problems.error_hint("OML0002", node.span, message, Some(hint));
        return None;
    }
    let mut keys = Keys::of(node, "a node", problems);
    let kinds: Vec<Name> = keys
        .entries
        .iter()
        .filter(|(k, _)| KINDS.contains(&k.text.as_str()))
        .map(|(k, _)| (*k).clone())
        .collect();
    let Some(leading) = kinds.first() else {
        let first = keys.entries.first().map(|(k, _)| *k);
        let hint = first
            .and_then(|k| near(&k.text, KINDS))
            .or(Some(format!("a node is one of {}", KINDS.join(", "))));
        let at = first.map_or(first_line(node), |k| k.span);
        problems.error_hint("OML0002", at, "the node does not say what it does", hint);
        return None;
    };
    for other in &kinds[1..] {
        let message = format!("a node does one thing; this one is `{}` already", leading.text);
        problems.error("OML0002", other.span, message);
        keys.take(&other.text);
    }
    let name = keys.take("name").and_then(|n| text_of(n, problems));
    if let Some(name) = &name {
        super::check_name(name, problems);
    }
    let span = leading.span;
    let subject = keys.take(&leading.text)?;
    let kind = Reader { kind: &leading.text, span, keys: &mut keys, problems }.read(subject);
    keys.finish(problems);
    Some(Node { name, span, kind: kind? })
}

/// One node: its leading key has been taken, the others are taken as they are needed.
pub(super) struct Reader<'r, 'n, 'p> {
    pub(super) kind: &'r str,
    pub(super) span: Span,
    pub(super) keys: &'r mut Keys<'n>,
    pub(super) problems: &'r mut Problems<'p>,
}

impl Reader<'_, '_, '_> {
    fn read(&mut self, subject: &yaml::Node) -> Option<NodeKind> {
        let kind = self.kind;
        Some(match kind {
            "assign" => NodeKind::Assign(
                entries(subject, self.problems)
                    .iter()
                    .map(|(target, value)| (target_of(target, self.problems), expr(value, self.problems)))
                    .collect(),
            ),
            "if" => NodeKind::If {
                condition: self.expr(subject),
                then: self.flow("then"),
                otherwise: self.flow("else"),
            },
            "switch" => NodeKind::Switch { cases: self.cases(subject), otherwise: self.flow("else") },
            "for_each" => {
                let list = self.expr(subject);
                let element = self.element();
                let (start, max) = (self.maybe("start"), self.maybe("max"));
                NodeKind::ForEach { list, start, max, body: self.flow("do"), element: element? }
            }
            "call" => {
                let action = self.text(subject)?;
                NodeKind::Call { action, with: self.with() }
            }
            "get" => self.entity(subject, |r| Some(EntityAction::Get { id: r.need("id")? }))?,
            "delete" => self.entity(subject, |r| Some(EntityAction::Delete { id: r.need("id")? }))?,
            "create" => self.entity(subject, |r| Some(EntityAction::Create { record: r.need("record")? }))?,
            "update" => self.entity(subject, |r| Some(EntityAction::Update { record: r.need("record")? }))?,
            "get_for_update" => {
                self.entity(subject, |r| Some(EntityAction::GetForUpdate { id: r.need("id")? }))?
            }
            "create_or_update" => {
                self.entity(subject, |r| Some(EntityAction::CreateOrUpdate { record: r.need("record")? }))?
            }
            "create_or_update_some" => self.entity(subject, |r| {
                Some(EntityAction::CreateOrUpdateSome { records: r.need("records")? })
            })?,
            "list" => NodeKind::Aggregate(Box::new(self.list_of(subject)?)),
            "aggregate" => NodeKind::Aggregate(Box::new(self.aggregate(subject)?)),
            "sql" => NodeKind::Sql(Box::new(self.sql(subject)?)),
            "try" => {
                let body = read(subject, self.problems);
                let handlers = handlers(self.keys, self.problems);
                if handlers.is_none() {
                    self.missing("handlers");
                }
                NodeKind::Try { body, handlers: handlers.unwrap_or_default() }
            }
            "raise" => {
                let exception = self.text(subject)?;
                let message = self.need("message")?;
                NodeKind::Raise { exception, message, status: self.status() }
            }
            "log" => {
                let levels = [LogLevel::Info, LogLevel::Warning, LogLevel::Error];
                let level = self.keys.take("level");
                let level = level.and_then(|n| choice(n, &["info", "warning", "error"], self.problems));
                NodeKind::Log { message: self.expr(subject), level: levels[level.unwrap_or(0)] }
            }
            "wake" => NodeKind::Wake(self.text(subject)?),
            "grant" | "revoke" => {
                let role = self.text(subject)?;
                NodeKind::Role { role, user: self.need("user")?, granted: kind == "grant" }
            }
            "trigger" => {
                let event = self.text(subject)?;
                NodeKind::Trigger { event, with: self.with() }
            }
            "json_serialize" => NodeKind::Serialize {
                value: self.expr(subject),
                defaults: self.keys.flag("serialize_defaults", false, self.problems),
            },
            "json_deserialize" => {
                let text = self.expr(subject);
                let type_name = self.keys.take("type").and_then(|n| text_of(n, self.problems));
                if type_name.is_none() {
                    self.missing("type");
                }
                NodeKind::Deserialize { text, type_name: type_name? }
            }
            "return" => NodeKind::Leave(Leave::Return),
            _ => return self.list_action(subject),
        })
    }

    fn with(&mut self) -> Vec<(Name, Expr)> {
        let with = self.keys.named("with", self.problems);
        with.into_iter().map(|(k, v)| (k, expr(v, self.problems))).collect()
    }

    fn entity(
        &mut self,
        subject: &yaml::Node,
        action: impl FnOnce(&mut Self) -> Option<EntityAction>,
    ) -> Option<NodeKind> {
        let entity = self.text(subject)?;
        Some(NodeKind::Entity { entity, action: action(self)? })
    }

    fn list_action(&mut self, subject: &yaml::Node) -> Option<NodeKind> {
        let list = self.expr(subject);
        let action = match self.kind {
            "list_append" => ListAction::Append(self.need("element")?),
            "list_append_all" => ListAction::AppendAll(self.need("elements")?),
            "list_insert" => ListAction::Insert { element: self.need("element")?, at: self.need("at")? },
            "list_remove" => ListAction::Remove { at: self.need("at")? },
            "list_clear" => ListAction::Clear,
            "list_sort" => {
                let mut by = self.sort("by");
                for (attribute, _) in &mut by {
                    // `Entity.Attribute` and `Attribute` mean the same.
                    attribute.text = attribute.text.rsplit('.').next().unwrap_or_default().to_owned();
                }
                ListAction::Sort { by }
            }
            "list_distinct" => ListAction::Copy { distinct: true },
            "list_duplicate" => ListAction::Copy { distinct: false },
            "list_filter" => self.search(Search::Filter)?,
            "list_any" => self.search(Search::Any)?,
            "list_all" => self.search(Search::All)?,
            _ => self.search(Search::IndexOf)?,
        };
        Some(NodeKind::List { list, action })
    }

    fn search(&mut self, search: Search) -> Option<ListAction> {
        let element = self.element();
        let condition = self.need("where")?;
        Some(ListAction::Search { search, element: element?, condition })
    }

    fn cases(&mut self, subject: &yaml::Node) -> Vec<(Expr, Vec<Node>)> {
        let mut cases = Vec::new();
        for node in items(subject, self.problems) {
            let mut keys = Keys::of(node, "a case", self.problems);
            let condition = keys.take("when").map(|n| expr(n, self.problems));
            let flow = flow_of(&mut keys, "do", self.problems);
            keys.finish(self.problems);
            match condition {
                Some(condition) => cases.push((condition, flow)),
                None => self.problems.error("OML0005", first_line(node), "a case needs `when`"),
            }
        }
        cases
    }

    fn status(&mut self) -> Option<u32> {
        let node = self.keys.take("status")?;
        let text = self.text(node)?;
        let status = text.text.parse().ok().filter(|s| (400..=599).contains(s));
        if status.is_none() {
            self.problems.error("OML0404", node.span, format!("`{}` is not 400 to 599", text.text));
        }
        status
    }

    fn element(&mut self) -> Option<Name> {
        let element = self.keys.take("as").and_then(|n| text_of(n, self.problems));
        if element.is_none() {
            self.missing("as");
        }
        element
    }

    pub(super) fn sort(&mut self, key: &str) -> Vec<(Name, bool)> {
        self.keys.take(key).map(|n| sort_of(n, self.problems)).unwrap_or_default()
    }

    fn flow(&mut self, key: &str) -> Vec<Node> {
        flow_of(self.keys, key, self.problems)
    }

    pub(super) fn maybe(&mut self, key: &str) -> Option<Expr> {
        self.keys.take(key).map(|n| expr(n, self.problems))
    }

    pub(super) fn need(&mut self, key: &str) -> Option<Expr> {
        let found = self.maybe(key);
        if found.is_none() {
            self.missing(key);
        }
        found
    }

    pub(super) fn missing(&mut self, key: &str) {
        self.problems.error("OML0005", self.span, format!("`{}` needs `{key}`", self.kind));
    }

    pub(super) fn text(&mut self, node: &yaml::Node) -> Option<Name> {
        text_of(node, self.problems)
    }

    pub(super) fn expr(&mut self, node: &yaml::Node) -> Expr {
        expr(node, self.problems)
    }
}

pub(super) fn expr(node: &yaml::Node, problems: &mut Problems<'_>) -> Expr {
    match &node.shape {
        Shape::Scalar(scalar) => expression::read(scalar, node.span, problems),
        Shape::Null | Shape::Sequence(_) | Shape::Mapping(_) => {
            problems.error("OML0003", first_line(node), "expected an expression");
            Expr { span: node.span, kind: ExprKind::Broken }
        }
    }
}

/// The left side of an assignment is a key; its characters stand side by side.
fn target_of(target: &Name, problems: &mut Problems<'_>) -> Expr {
    let count = target.text.chars().count() as u32;
    let quote = u32::from(target.span.end - target.span.start > count);
    let places = (0..count).map(|i| target.span.start + quote + i).collect();
    expression::read(&Scalar { text: target.text.clone(), quoted: false, places }, target.span, problems)
}

fn sort_of(node: &yaml::Node, problems: &mut Problems<'_>) -> Vec<(Name, bool)> {
    let nodes = if matches!(node.shape, Shape::Scalar(_)) {
        std::slice::from_ref(node)
    } else {
        items(node, problems)
    };
    let texts: Vec<Name> = nodes.iter().filter_map(|n| text_of(n, problems)).collect();
    texts
        .into_iter()
        .map(|text| {
            let mut words = text.text.split_whitespace();
            let attribute = words.next().unwrap_or_default();
            let descending = match words.next() {
                None => false,
                Some(w) if w.eq_ignore_ascii_case("desc") => true,
                Some(w) if w.eq_ignore_ascii_case("asc") => false,
                Some(_) => {
                    problems.error(
                        "OML0003",
                        text.span,
                        "a sort is an attribute, then nothing, `asc` or `desc`",
                    );
                    false
                }
            };
            (Name { text: attribute.to_owned(), span: text.span }, descending)
        })
        .collect()
}
