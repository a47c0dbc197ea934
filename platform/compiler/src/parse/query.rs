//! Queries: the nodes `aggregate`, its short form `list`, and `sql`.
//!
//! Invariant: what a key says wrongly is reported and left out; the rest of the query is read.

use super::flow::{Reader, expr};
use super::{Keys, check_name, choice, first_line, items, statement, text_of};
use crate::ast::*;
use crate::problem::Problems;
use crate::yaml::{self, Shape};

/// What is computed over groups, as written.
const TOTALS: [&str; 5] = ["count", "sum", "average", "min", "max"];
const TOTAL_KINDS: [TotalKind; 5] =
    [TotalKind::Count, TotalKind::Sum, TotalKind::Average, TotalKind::Min, TotalKind::Max];

impl Reader<'_, '_, '_> {
    /// The rows of one entity.
    pub(super) fn list_of(&mut self, subject: &yaml::Node) -> Option<Aggregate> {
        let entity = self.text(subject)?;
        let source = QuerySource { entity, alias: None, join: None, on: None };
        Some(self.query(true, vec![source]))
    }

    pub(super) fn aggregate(&mut self, subject: &yaml::Node) -> Option<Aggregate> {
        let sources = if let Shape::Scalar(_) = &subject.shape {
            std::slice::from_ref(subject)
        } else {
            items(subject, self.problems)
        };
        let sources: Vec<QuerySource> = sources.iter().filter_map(|n| source(n, self.problems)).collect();
        let calculated = self.named("calculated");
        let keys = self.group_by();
        let totals = self.totals();
        if sources.is_empty() {
            self.problems.error("OML0005", self.span, "`aggregate` needs an entity");
            return None;
        }
        Some(Aggregate { calculated, keys, totals, ..self.query(false, sources) })
    }

    /// What every query takes.
    fn query(&mut self, short: bool, sources: Vec<QuerySource>) -> Aggregate {
        Aggregate {
            short,
            sources,
            filters: self.filters(),
            calculated: Vec::new(),
            keys: Vec::new(),
            totals: Vec::new(),
            sort: self.sort("sort"),
            dynamic_sort: self.maybe("dynamic_sort"),
            max: self.maybe("max"),
            start: self.maybe("start"),
        }
    }

    /// One condition, or a list of them.
    fn filters(&mut self) -> Vec<Expr> {
        let Some(node) = self.keys.take("where") else { return Vec::new() };
        match &node.shape {
            Shape::Sequence(filters) => filters.iter().map(|n| expr(n, self.problems)).collect(),
            Shape::Null | Shape::Scalar(_) | Shape::Mapping(_) => vec![self.expr(node)],
        }
    }

    fn named(&mut self, key: &str) -> Vec<(Name, Expr)> {
        let entries = self.keys.named(key, self.problems);
        entries.into_iter().map(|(name, value)| (name, expr(value, self.problems))).collect()
    }

    /// Attributes, which keep their names, or names and what they stand for.
    fn group_by(&mut self) -> Vec<(Name, Expr)> {
        let Some(node) = self.keys.take("group_by") else { return Vec::new() };
        if let Shape::Mapping(entries) = &node.shape {
            for (name, _) in entries {
                check_name(name, self.problems);
            }
            return entries.iter().map(|(name, value)| (name.clone(), expr(value, self.problems))).collect();
        }
        let nodes = if let Shape::Scalar(_) = &node.shape {
            std::slice::from_ref(node)
        } else {
            items(node, self.problems)
        };
        let keys = nodes.iter().filter_map(|node| {
            let key = expr(node, self.problems);
            let name = match &key.kind {
                ExprKind::Member(_, name) => name.clone(),
                ExprKind::Name(name) => Name { text: name.clone(), span: key.span },
                ExprKind::Broken => return None,
                ExprKind::Number(_)
                | ExprKind::Text(_)
                | ExprKind::Moment(_)
                | ExprKind::Item(..)
                | ExprKind::Call(..)
                | ExprKind::Unary(..)
                | ExprKind::Binary(..) => {
                    let hint = "write `group_by: { Name: expression }`".to_owned();
                    let message = "an expression to group by needs a name";
                    self.problems.error_hint("OML0003", key.span, message, Some(hint));
                    return None;
                }
            };
            Some((name, key))
        });
        keys.collect()
    }

    fn totals(&mut self) -> Vec<(Name, TotalKind, Option<Expr>)> {
        let nodes = self.keys.named("totals", self.problems);
        nodes.into_iter().filter_map(|(name, node)| self.total(name, node)).collect()
    }

    /// `count` alone, or what is computed and of what.
    fn total(&mut self, name: Name, node: &yaml::Node) -> Option<(Name, TotalKind, Option<Expr>)> {
        let hint = || Some(format!("write `count`, or one of {} with an expression", TOTALS.join(", ")));
        let (word, of) = match &node.shape {
            Shape::Scalar(scalar) if scalar.text == "count" => return Some((name, TotalKind::Count, None)),
            Shape::Mapping(entries) if entries.len() == 1 => &entries[0],
            Shape::Null | Shape::Scalar(_) | Shape::Sequence(_) | Shape::Mapping(_) => {
                let message = format!("`{}` does not say what is computed", name.text);
                self.problems.error_hint("OML0003", first_line(node), message, hint());
                return None;
            }
        };
        let Some(kind) = TOTALS.iter().position(|total| *total == word.text) else {
            let message = format!("`{}` computes nothing over groups", word.text);
            self.problems.error_hint("OML0002", word.span, message, hint());
            return None;
        };
        Some((name, TOTAL_KINDS[kind], Some(expr(of, self.problems))))
    }

    pub(super) fn sql(&mut self, subject: &yaml::Node) -> Option<Sql> {
        let Shape::Scalar(scalar) = &subject.shape else {
            self.problems.error("OML0003", first_line(subject), "expected the text of a statement");
            return None;
        };
        let read = statement::read(scalar, subject.span, self.problems);
        let mut parameters = Vec::new();
        for (name, node) in self.keys.named("parameters", self.problems) {
            let (type_name, value) = if matches!(node.shape, Shape::Mapping(_)) {
                let mut keys = Keys::of(node, "a parameter", self.problems);
                let type_name = keys.take("type").and_then(|n| text_of(n, self.problems));
                let value = keys.take("value").map(|n| expr(n, self.problems));
                keys.finish(self.problems);
                if value.is_none() {
                    self.problems.error("OML0005", name.span, format!("`{}` has no `value`", name.text));
                }
                (type_name, value)
            } else {
                (None, Some(expr(node, self.problems)))
            };
            let broken = Expr { span: name.span, kind: ExprKind::Broken };
            parameters.push((name, type_name, value.unwrap_or(broken)));
        }
        let output = self.keys.take("output").and_then(|n| text_of(n, self.problems));
        let read = read?;
        Some(Sql { parts: read.parts, gives_rows: read.gives_rows, writes: read.writes, parameters, output })
    }
}

/// An entity, or an entity with how it is joined.
fn source(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<QuerySource> {
    if let Shape::Scalar(_) = &node.shape {
        let entity = text_of(node, problems)?;
        return Some(QuerySource { entity, alias: None, join: None, on: None });
    }
    let mut keys = Keys::of(node, "a source", problems);
    let entity = keys.take("entity").and_then(|n| text_of(n, problems));
    if entity.is_none() {
        problems.error("OML0005", first_line(node), "a source needs `entity`");
    }
    let alias = keys.take("as").and_then(|n| text_of(n, problems));
    if let Some(alias) = &alias {
        check_name(alias, problems);
    }
    let joins = [Join::Inner, Join::Left, Join::Full, Join::Cross];
    let join = keys
        .take("join")
        .and_then(|n| Some((joins[choice(n, &["inner", "left", "full", "cross"], problems)?], n.span)));
    let on = keys.take("on").map(|n| expr(n, problems));
    keys.finish(problems);
    Some(QuerySource { entity: entity?, alias, join, on })
}
