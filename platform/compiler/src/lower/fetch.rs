//! Which attributes of an aggregate's rows the action uses; only those are fetched.
//!
//! A row is an element of the output list: `Found.List[0]`, or the element of a For Each or list search over
//! `Found.List`. Its attributes are followed as far as they are written: `Found.List[0].Order.Total` uses one
//! column, `Found.List[0].Order` a whole source. A list or row that goes anywhere else - assigned, passed on,
//! returned, serialized, sorted, changed - is used whole.
//! Invariant: an attribute that is not fetched is read nowhere, so that what it holds cannot be seen.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::Search;
use crate::types::*;
use crate::walk::each_node;

/// What is used of the rows in each aggregate's list, by the variable of the list.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    used: BTreeMap<usize, BTreeSet<Vec<usize>>>,
    /// The variables that hold one row after the other, and the list they are of.
    elements: BTreeMap<usize, usize>,
}

impl Fetches {
    pub(super) fn of(nodes: &[TNode]) -> Fetches {
        let mut fetches = Fetches::default();
        each_node(nodes, &mut |node| {
            if let TNodeKind::Aggregate { list, .. } = &node.kind {
                fetches.used.insert(*list, BTreeSet::new());
            }
        });
        if fetches.used.is_empty() {
            return fetches;
        }
        each_node(nodes, &mut |node| {
            if let Some((element, list)) = node.kind.element()
                && let Some(of) = fetches.list(list)
            {
                fetches.elements.insert(element, of);
            }
        });
        each_node(nodes, &mut |node| {
            // A filter copies elements; the others look at them only.
            let copies = matches!(&node.kind, TNodeKind::ListSearch { search: Search::Filter, .. });
            let iterated = node.kind.element().map(|(_, list)| list).filter(|_| !copies);
            for expr in node.kind.expressions() {
                let is_iterated = iterated.is_some_and(|list| std::ptr::eq(list, expr));
                if !(is_iterated && fetches.list(expr).is_some()) {
                    fetches.look(expr);
                }
            }
        });
        fetches
    }

    /// Whether the column at this path into a row is used.
    pub(super) fn uses(&self, list: usize, path: &[usize]) -> bool {
        self.used.get(&list).is_none_or(|used| used.iter().any(|used| path.starts_with(used)))
    }

    /// The aggregate's list that an expression is.
    fn list(&self, expr: &TExpr) -> Option<usize> {
        if let TKind::Local(variable) = expr.kind { Some(variable) } else { None }
            .filter(|variable| self.used.contains_key(variable))
    }

    /// The list that an expression is a row of.
    fn row(&self, expr: &TExpr) -> Option<usize> {
        if let TKind::Item(list, _) = &expr.kind {
            self.list(list)
        } else if let TKind::Local(variable) = expr.kind {
            self.elements.get(&variable).copied()
        } else {
            None
        }
    }

    fn look(&mut self, expr: &TExpr) {
        let (mut base, mut path) = (expr, Vec::new());
        while let TKind::Field(of, index) = &base.kind {
            path.push(*index);
            base = of;
        }
        path.reverse();
        if let Some(list) = self.row(base) {
            self.used.entry(list).or_default().insert(path);
            if let TKind::Item(_, index) = &base.kind {
                self.look(index);
            }
        } else if let Some(list) = self.list(base) {
            self.used.entry(list).or_default().insert(Vec::new());
        } else if let TKind::Length(of) = &base.kind
            && self.list(of).is_some()
        {
            // How many rows there are says nothing about them.
        } else {
            for part in base.parts() {
                self.look(part);
            }
        }
    }
}
