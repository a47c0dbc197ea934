//! Flows: a list of nodes, each a mapping whose leading key says what it does.
//!
//! Invariant: a node that cannot be read is left out and reported; its neighbours stay.

use super::{Keys, choice, entries, expression, first_line, items, text_of};
use crate::ast::{Expr, ExprKind, Name, Node, NodeKind};
use crate::problem::{Problems, near};
use crate::yaml::{self, Scalar, Shape};

const KINDS: [&str; 12] = [
    "assign", "if", "for_each", "call", "get", "list", "create", "update", "delete", "append", "raise",
    "return",
];

pub(super) fn read(node: &yaml::Node, problems: &mut Problems<'_>) -> Vec<Node> {
    items(node, problems).iter().filter_map(|n| read_node(n, problems)).collect()
}

fn read_node(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<Node> {
    if let Shape::Scalar(scalar) = &node.shape
        && scalar.text == "return"
    {
        return Some(Node { name: None, kind: NodeKind::Return });
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
    let kind = read_kind(&leading.text, span, subject, &mut keys, problems);
    keys.finish(problems);
    Some(Node { name, kind: kind? })
}

fn read_kind(
    kind: &str,
    span: crate::sources::Span,
    subject: &yaml::Node,
    keys: &mut Keys<'_>,
    problems: &mut Problems<'_>,
) -> Option<NodeKind> {
    let mut need = |key: &str, problems: &mut Problems<'_>| {
        let node = keys.take(key);
        if node.is_none() {
            problems.error("OML0005", span, format!("`{kind}` needs `{key}`"));
        }
        node.map(|n| expr(n, problems))
    };
    Some(match kind {
        "assign" => NodeKind::Assign(
            entries(subject, problems)
                .iter()
                .map(|(target, value)| (target_of(target, problems), expr(value, problems)))
                .collect(),
        ),
        "if" => NodeKind::If {
            condition: expr(subject, problems),
            then: keys.take("then").map(|n| read(n, problems)).unwrap_or_default(),
            otherwise: keys.take("else").map(|n| read(n, problems)).unwrap_or_default(),
        },
        "for_each" => {
            let list = expr(subject, problems);
            let element = keys.take("as").and_then(|n| text_of(n, problems));
            if element.is_none() {
                problems.error("OML0005", span, "`for_each` needs `as`");
            }
            let body = keys.take("do").map(|n| read(n, problems)).unwrap_or_default();
            NodeKind::ForEach { list, element: element?, body }
        }
        "call" => {
            let action = text_of(subject, problems)?;
            let with = keys.named("with", problems);
            NodeKind::Call { action, with: with.into_iter().map(|(k, v)| (k, expr(v, problems))).collect() }
        }
        "get" => NodeKind::Get { entity: text_of(subject, problems)?, id: need("id", problems)? },
        "delete" => NodeKind::Delete { entity: text_of(subject, problems)?, id: need("id", problems)? },
        "create" => {
            NodeKind::Create { entity: text_of(subject, problems)?, record: need("record", problems)? }
        }
        "update" => {
            NodeKind::Update { entity: text_of(subject, problems)?, record: need("record", problems)? }
        }
        "append" => NodeKind::Append { element: expr(subject, problems), list: need("to", problems)? },
        "list" => NodeKind::List {
            entity: text_of(subject, problems)?,
            filter: keys.take("where").map(|n| expr(n, problems)),
            sort: keys.take("sort").map(|n| sort_of(n, problems)).unwrap_or_default(),
            max: keys.take("max").map(|n| expr(n, problems)),
            start: keys.take("start").map(|n| expr(n, problems)),
        },
        "raise" => {
            choice(subject, &["User"], problems);
            let message = need("message", problems)?;
            let mut status = 400;
            if let Some(node) = keys.take("status") {
                let text = text_of(node, problems)?;
                match text.text.parse().ok().filter(|s| (400..=599).contains(s)) {
                    Some(given) => status = given,
                    None => {
                        problems.error("OML0404", node.span, format!("`{}` is not 400 to 599", text.text))
                    }
                }
            }
            NodeKind::Raise { message, status }
        }
        _ => NodeKind::Return,
    })
}

fn expr(node: &yaml::Node, problems: &mut Problems<'_>) -> Expr {
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
            // `Entity.Attribute` and `Attribute` mean the same.
            let attribute = attribute.rsplit('.').next().unwrap_or_default();
            (Name { text: attribute.to_owned(), span: text.span }, descending)
        })
        .collect()
}
