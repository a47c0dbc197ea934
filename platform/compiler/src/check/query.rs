//! Queries over entities: what their expressions may read, and what their rows are.
//!
//! In a query the sources' names are the row under test; calculated attributes are visible by their names
//! once they are made. What is grouped leaves only keys and totals. Invariant: every expression of a query
//! that leaves here runs in the database, or does not need the row and is computed before.

use super::Checker;
use crate::ast::{self, Binary, Expr, Join, Name, TotalKind};
use crate::lower::refused;
use crate::problem::near;
use crate::types::*;

/// What an expression of a query reads of the row under test.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// `None` where the entity is unknown, which was reported.
    sources: Vec<(String, Option<usize>)>,
    calculated: Vec<(String, Type)>,
    /// How many parts each calculated attribute has when those that it uses are written out.
    sizes: Vec<usize>,
}

/// Parts of a calculated attribute with those that it uses written out, as the database plans it: each may use
/// the one before twice, and then the size has the power of their number. Far beyond what a person writes.
const CALCULATED_PARTS_MAX: usize = 10_000;

impl Rows {
    /// Whether an expression is part of a query at all.
    pub(super) fn is_query(&self) -> bool {
        !self.sources.is_empty()
    }

    /// The place of a source and its entity.
    pub(super) fn source(&self, name: &str) -> Option<(usize, Option<usize>)> {
        let found = self.sources.iter().position(|(source, _)| source == name)?;
        Some((found, self.sources[found].1))
    }

    pub(super) fn calculated(&self, name: &str) -> Option<(usize, &Type)> {
        let found = self.calculated.iter().position(|(calculated, _)| calculated == name)?;
        Some((found, &self.calculated[found].1))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let sources = self.sources.iter().map(|(name, _)| name.as_str());
        sources.chain(self.calculated.iter().map(|(name, _)| name.as_str()))
    }
}

impl Checker<'_, '_> {
    pub(super) fn aggregate(
        &mut self,
        node: &ast::Node,
        aggregate: &ast::Aggregate,
    ) -> Option<(String, TNodeKind)> {
        let first = aggregate.sources.first()?.entity.last();
        let default = format!("{}{first}", if aggregate.short { "List" } else { "Aggregate" });
        let (query, row) = self.query(aggregate, node.name.as_ref().map_or(&default, |name| &name.text));
        self.rows = Rows::default();
        let list = row.map_or(Type::Unknown, |row| Type::List(Box::new(Type::Record(row))));
        let outs = self.outputs(node, &default, &[("List", list), ("Count", Type::Long)]);
        let query = Box::new(query?);
        Some((default, TNodeKind::Aggregate { query, list: outs[0], count: outs[1] }))
    }

    /// The query and the type of its rows; the type is there, too, when the query is not.
    fn query(&mut self, aggregate: &ast::Aggregate, name: &str) -> (Option<Query>, Option<usize>) {
        let sources = self.sources(aggregate);
        let mut calculated = Vec::new();
        for (name, value) in &aggregate.calculated {
            self.fresh(name);
            let value = self.computed(value, "a calculated attribute");
            let mut size = 0_usize;
            value.each(&mut |part| {
                let parts = if let TKind::Calculated(at) = part.kind { self.rows.sizes[at] } else { 1 };
                size = size.saturating_add(parts);
            });
            if size > CALCULATED_PARTS_MAX {
                let message = format!(
                    "with the calculated attributes that it uses, this has more than {CALCULATED_PARTS_MAX} parts"
                );
                self.problems.error("OML0501", value.span, message);
            }
            self.rows.sizes.push(size);
            self.rows.calculated.push((name.text.clone(), value.ty.clone()));
            calculated.push((name.text.clone(), value));
        }
        let filters = aggregate.filters.iter().map(|filter| self.condition(filter)).collect();
        let mut keys: Vec<(String, TExpr)> = Vec::new();
        for (name, value) in &aggregate.keys {
            self.apart(name, keys.iter().map(|(key, _)| key.as_str()));
            let value = self.computed(value, "what rows are grouped by");
            keys.push((name.text.clone(), value));
        }
        let mut totals: Vec<Total> = Vec::new();
        for (name, kind, of) in &aggregate.totals {
            let taken = keys.iter().map(|(key, _)| key).chain(totals.iter().map(|t| &t.name));
            self.apart(name, taken.map(String::as_str));
            totals.push(self.total(name, *kind, of.as_ref()));
        }
        let dynamic_sort = aggregate.dynamic_sort.as_ref().map(|sort| self.outside(sort, &Type::Text));
        let max = aggregate.max.as_ref().map(|max| self.outside(max, &Type::Integer));
        let start = aggregate.start.as_ref().map(|start| self.outside(start, &Type::Integer));
        let mut query = Query {
            sources: sources.unwrap_or_default(),
            filters,
            calculated,
            keys,
            totals,
            sort: Vec::new(),
            dynamic_sort,
            max,
            start,
            row: 0,
            short: aggregate.short,
        };
        if query.sources.is_empty() {
            return (None, None);
        }
        query.row = self.row(&query, name);
        query.sort = self.sort(&query, &aggregate.sort);
        let row = query.row;
        (Some(query), Some(row))
    }

    /// The sources; `None` when one is unknown.
    fn sources(&mut self, aggregate: &ast::Aggregate) -> Option<Vec<TSource>> {
        let mut sources = Some(Vec::new());
        for (index, source) in aggregate.sources.iter().enumerate() {
            let record = self.readable(&source.entity);
            let name = source.name();
            if self.rows.source(&name.text).is_some() {
                let message = format!("`{}` is a source already", name.text);
                let hint = "give this one another name with `as`".to_owned();
                self.problems.error_hint("OML0004", name.span, message, Some(hint));
                sources = None;
            }
            self.rows.sources.push((name.text.clone(), record));
            let join = self.join(index, source);
            if let (Some(sources), Some(record)) = (&mut sources, record) {
                sources.push(TSource { name: name.text.clone(), record, join });
            } else {
                sources = None;
            }
        }
        sources
    }

    fn join(&mut self, index: usize, source: &ast::QuerySource) -> Option<(Join, Option<TExpr>)> {
        let name = source.name();
        let on = source.on.as_ref().map(|on| (on.span, self.condition(on)));
        if index == 0 {
            if let Some(at) = source.join.map(|(_, at)| at).or(on.map(|(at, _)| at)) {
                let message = format!("`{}` comes first, so there is nothing to join it to", name.text);
                self.problems.error("OML0502", at, message);
            }
            return None;
        }
        let (join, at) = source.join.unwrap_or((Join::Inner, name.span));
        match (join, &on) {
            (Join::Cross, Some((at, _))) => {
                let message = "`cross` joins every row to every row, so it takes no `on`";
                self.problems.error("OML0502", *at, message);
            }
            (Join::Inner | Join::Left | Join::Full, None) => {
                let message = format!("`{}` needs `on`", name.text);
                let hint = "say which rows belong together, or join every row with `join: cross`".to_owned();
                self.problems.error_hint("OML0502", name.span, message, Some(hint));
            }
            (Join::Full, Some((_, on))) if on.ty != Type::Unknown && !equates(on, index) => {
                let message =
                    format!("a full join needs an `=` between `{}` and a source before it", name.text);
                let hint =
                    "the database joins fully by equal values only; other conditions may follow after `and`";
                self.problems.error_hint("OML0502", at, message, Some(hint.to_owned()));
            }
            (Join::Inner | Join::Left | Join::Full | Join::Cross, _) => {}
        }
        Some((join, on.map(|(_, on)| on)))
    }

    fn condition(&mut self, expr: &Expr) -> TExpr {
        let typed = self.expect(expr, &Type::Boolean);
        self.runs(&typed);
        typed
    }

    /// A basic value that the database computes per row.
    fn computed(&mut self, expr: &Expr, what: &str) -> TExpr {
        let typed = self.expression(expr);
        if matches!(typed.ty, Type::Record(_) | Type::List(_)) {
            let message = format!("{what} is a basic value, not {}", self.named.shown(&typed.ty));
            self.problems.error("OML0202", typed.span, message);
        }
        self.runs(&typed);
        typed
    }

    /// Reports the part that the database cannot compute.
    fn runs(&mut self, expr: &TExpr) {
        if let Some(part) = refused(expr) {
            let message = "this part needs the row, but cannot run in the database";
            self.problems.error("OML0501", part.span, message);
        }
    }

    /// A value that is computed before the query runs.
    fn outside(&mut self, expr: &Expr, ty: &Type) -> TExpr {
        let rows = std::mem::take(&mut self.rows);
        let typed = self.expect(expr, ty);
        self.rows = rows;
        typed
    }

    fn total(&mut self, name: &Name, kind: TotalKind, of: Option<&Expr>) -> Total {
        let of = of.map(|of| self.computed(of, "what is computed over a group"));
        let ty = of.as_ref().map_or(Type::Long, |of| of.ty.clone());
        let number = matches!(ty, Type::Integer | Type::Long | Type::Decimal | Type::Unknown);
        let (fits, result, needed) = match kind {
            // Every other value is always there, so that counting it would count the rows.
            TotalKind::Count => {
                let fits = of.is_none() || ty.is_identifier() || ty == Type::Unknown;
                (fits, Type::Long, "`count` takes an identifier, or stands alone and counts rows")
            }
            TotalKind::Sum if ty == Type::Decimal => (true, Type::Decimal, ""),
            TotalKind::Sum => (number, Type::Long, "`sum` takes a number"),
            TotalKind::Average => (number, Type::Decimal, "`average` takes a number"),
            TotalKind::Min | TotalKind::Max => {
                let ordered = matches!(
                    ty,
                    Type::Text | Type::Email | Type::Phone | Type::Date | Type::Time | Type::DateTime
                );
                (number || ordered, ty.clone(), "`min` and `max` take numbers, texts, dates and times")
            }
        };
        if !fits {
            let at = of.as_ref().map_or(name.span, |of| of.span);
            let message = format!("{needed}, not {}", self.named.shown(&ty));
            self.problems.error("OML0202", at, message);
        }
        Total { name: name.text.clone(), kind, of, ty: result }
    }

    /// What the rows are; its attributes are in the order sources, calculated, or keys, totals.
    fn row(&mut self, query: &Query, name: &str) -> usize {
        if query.short {
            return query.sources[0].record;
        }
        let attribute = |name: &String, ty: Type| FieldDef::plain(name, ty);
        let fields = if query.is_grouped() {
            let keys = query.keys.iter().map(|(name, key)| attribute(name, key.ty.clone()));
            keys.chain(query.totals.iter().map(|t| attribute(&t.name, t.ty.clone()))).collect()
        } else {
            let sources = query.sources.iter().map(|s| attribute(&s.name, Type::Record(s.record)));
            sources.chain(query.calculated.iter().map(|(n, c)| attribute(n, c.ty.clone()))).collect()
        };
        let span = query.sources.first().map(|s| self.named.records[s.record].span).unwrap_or_default();
        let name = format!("row of {name}");
        self.named.records.make_row(RecordDef { name, span, fields, entity: None, inline: true })
    }

    fn sort(&mut self, query: &Query, sort: &[(Name, bool)]) -> Vec<(SortBy, bool)> {
        let mut found = Vec::new();
        for (name, descending) in sort {
            found.extend(self.sorted_by(query, name).map(|by| (by, *descending)));
        }
        found
    }

    fn sorted_by(&mut self, query: &Query, name: &Name) -> Option<SortBy> {
        let value = |ty: &Type, kind: TKind| TExpr { ty: ty.clone(), span: name.span, kind };
        let (source, attribute) = match name.text.split_once('.') {
            Some((source, attribute)) => (Some(source), attribute),
            None => (None, name.text.as_str()),
        };
        if query.is_grouped() {
            if source.is_none() {
                let key = query.keys.iter().position(|(key, _)| key == attribute).map(SortBy::Key);
                let total = || query.totals.iter().position(|t| t.name == attribute).map(SortBy::Total);
                if let Some(found) = key.or_else(total) {
                    return Some(found);
                }
            }
            let known = query.keys.iter().map(|(key, _)| key).chain(query.totals.iter().map(|t| &t.name));
            let known: Vec<&str> = known.map(String::as_str).collect();
            let hint = near(attribute, known.iter().copied());
            let hint = hint.unwrap_or_else(|| format!("grouped rows have {}", known.join(", ")));
            let message = format!("the rows have no attribute `{}`", name.text);
            self.problems.error_hint("OML0104", name.span, message, Some(hint));
            return None;
        }
        if source.is_none()
            && let Some((index, ty)) = self.rows.calculated(attribute)
        {
            return Some(SortBy::Value(value(ty, TKind::Calculated(index))));
        }
        let index = match source {
            None if query.sources.len() == 1 => Some(0),
            None => None,
            Some(source) => query.sources.iter().position(|s| s.name == source),
        };
        let Some(index) = index else {
            let hint = near(source.unwrap_or(attribute), self.rows.names());
            let hint =
                hint.unwrap_or_else(|| "write `Source.Attribute`, or a calculated attribute".to_owned());
            let message = format!("there is nothing `{}` to sort by", name.text);
            self.problems.error_hint("OML0103", name.span, message, Some(hint));
            return None;
        };
        let record = query.sources[index].record;
        let attribute = Name { text: attribute.to_owned(), span: name.span };
        let field = self.attribute(record, &attribute)?;
        let ty = &self.named.records[record].fields[field].ty;
        Some(SortBy::Value(value(ty, TKind::Attribute(index, field))))
    }

    /// A calculated attribute has a name of its own.
    fn fresh(&mut self, name: &Name) {
        if self.rows.names().any(|other| other == name.text) {
            self.problems.error("OML0004", name.span, format!("`{}` exists already", name.text));
        }
    }

    fn apart<'n>(&mut self, name: &Name, mut taken: impl Iterator<Item = &'n str>) {
        if taken.any(|other| other == name.text) {
            self.problems.error("OML0004", name.span, format!("`{}` exists already", name.text));
        }
    }
}

/// Whether a condition demands that something of a source equals something of those before it.
fn equates(condition: &TExpr, joined: usize) -> bool {
    if let TKind::Logic(Binary::And, a, b) = &condition.kind {
        return equates(a, joined) || equates(b, joined);
    }
    let TKind::Compare(Binary::Equal, a, b) = &condition.kind else { return false };
    let sides = |expr: &TExpr| {
        let (mut before, mut this) = (false, false);
        expr.each(&mut |part| {
            if let TKind::Attribute(source, _) = part.kind {
                before |= source != joined;
                this |= source == joined;
            }
        });
        (before, this)
    };
    matches!((sides(a), sides(b)), ((true, false), (false, true)) | ((false, true), (true, false)))
}
