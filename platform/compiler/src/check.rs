//! Check: every flow against what the names stand for; every expression gets a type.
//!
//! Variables are visible from the top of an action, outputs of a node after the node, the element of a
//! For Each inside it. Invariant: what leaves here without an error can be lowered; `Type::Unknown`
//! remains only where an error was reported.

mod consumed;
mod expressions;
mod flow;
mod lists;
mod query;
mod roles;
pub(crate) mod routes;
mod statement;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::{self, ActionKind, Expr, ExprKind, Home, Name, Parsed};
use crate::problem::{Problems, near};
use crate::types::*;

pub(crate) fn check(parsed: &Parsed, named: Named, problems: &mut Problems<'_>) -> Typed {
    let mut bodies = Vec::new();
    for (action, def) in parsed.actions.iter().zip(&named.actions) {
        let mut checker = Checker {
            named: &named,
            problems,
            library: def.library.as_deref(),
            variables: def.variables.clone(),
            scope: BTreeMap::new(),
            nodes: BTreeMap::new(),
            broken: BTreeSet::new(),
            rows: query::Rows::default(),
            loops: 0,
        };
        for (variable, declared) in def.variables.iter().enumerate() {
            checker.scope.entry(declared.name.clone()).or_default().push(variable);
        }
        let nodes = checker.action(action);
        let variables = checker.variables;
        bodies.push(Body { variables, nodes });
    }
    let routes = routes::routes(parsed, &named, problems);
    let requests = consumed::requests(parsed, &named, problems);
    let remotes = remotes(parsed);
    let triggers = triggers(parsed, &named, problems);
    let typed = Typed { named, bodies, routes, requests, remotes, triggers };
    // What is broken may use what seems unused.
    if !problems.has_errors() {
        warnings::warn(parsed, &typed, problems);
    }
    typed
}

fn remotes(parsed: &Parsed) -> BTreeMap<usize, RemoteDef> {
    let remote = |(index, action): (usize, &ast::Action)| {
        let remote = action.kind.remote()?;
        Some((index, RemoteDef { app: remote.app.clone(), action: remote.action.clone() }))
    };
    parsed.actions.iter().enumerate().filter_map(remote).collect()
}

/// What hosts start in the app, each under a path of its own.
fn triggers(parsed: &Parsed, named: &Named, problems: &mut Problems<'_>) -> Vec<(String, usize)> {
    let mut triggers = Vec::new();
    for (index, action) in parsed.actions.iter().enumerate() {
        let kind = match &action.kind {
            ActionKind::Timer(_) => "timers",
            ActionKind::Service => "services",
            ActionKind::Handler { event } => {
                if !named.events.iter().any(|known| known.name == event.text) {
                    flow::unknown_event(event, named, |_| true, problems);
                }
                "events"
            }
            ActionKind::Server | ActionKind::Exposed(_) | ActionKind::Consumed(_) | ActionKind::Remote(_) => {
                continue;
            }
        };
        triggers.push((format!("{kind}/{}", action.name.text), index));
    }
    triggers
}

struct Checker<'c, 'p> {
    named: &'c Named,
    problems: &'c mut Problems<'p>,
    /// The library that the flow is of.
    library: Option<&'c str>,
    variables: Vec<LocalDef>,
    /// The variables that can be named now, by their names: the last of each is meant.
    scope: BTreeMap<String, Vec<usize>>,
    /// Nodes and their outputs, by name.
    nodes: BTreeMap<String, Vec<(String, usize)>>,
    /// Nodes whose outputs nobody knows, because what they call was not found.
    broken: BTreeSet<String>,
    /// What an expression of a query reads of the row under test.
    rows: query::Rows,
    /// Loops around the node.
    loops: u32,
}

impl Checker<'_, '_> {
    fn assignment(&mut self, target: &Expr, value: &Expr) -> (TExpr, TExpr) {
        let target = self.place(target);
        let value = self.expect(value, &target.ty);
        (target, value)
    }

    /// An expression that can stand on the left: a variable, or an attribute or element inside one.
    fn place(&mut self, target: &Expr) -> TExpr {
        let typed = self.expression(target);
        let mut inner = &typed;
        loop {
            inner = match &inner.kind {
                TKind::Field(of, _) | TKind::Item(of, _) => of,
                TKind::Local(_) | TKind::Broken => return typed,
                TKind::Constant(_)
                | TKind::Null
                | TKind::Attribute(..)
                | TKind::Setting(_)
                | TKind::Calculated(_)
                | TKind::Length(_)
                | TKind::Negate(_)
                | TKind::Not(_)
                | TKind::Arithmetic(..)
                | TKind::Concat(..)
                | TKind::Compare(..)
                | TKind::Logic(..)
                | TKind::Convert(_)
                | TKind::If(..)
                | TKind::Builtin(..)
                | TKind::Invoke(..) => {
                    self.problems.error("OML0206", target.span, "this is a value, not a variable");
                    return TExpr { ty: Type::Unknown, span: target.span, kind: TKind::Broken };
                }
            };
        }
    }

    /// Makes the variables that hold a node's outputs; they are read as `Node.Output`.
    fn outputs(&mut self, node: &ast::Node, default: &str, outputs: &[(&str, Type)]) -> Vec<usize> {
        let variables: Vec<usize> =
            outputs.iter().map(|(name, ty)| self.variable(name, ty.clone())).collect();
        let named: Vec<(String, usize)> =
            outputs.iter().zip(&variables).map(|((name, _), v)| ((*name).to_owned(), *v)).collect();
        if let Some(name) = &node.name {
            if self.taken(&name.text) {
                self.problems.error("OML0004", name.span, format!("`{}` exists already", name.text));
            }
            self.nodes.entry(name.text.clone()).or_insert(named);
        } else {
            // Two nodes without a name may share one: the last one before the reader is meant.
            self.nodes.insert(default.to_owned(), named);
        }
        variables
    }

    /// Makes a variable that can be named until [`Checker::forget`].
    fn visible(&mut self, name: &str, ty: Type) -> usize {
        let variable = self.variable(name, ty);
        self.scope.entry(name.to_owned()).or_default().push(variable);
        variable
    }

    fn forget(&mut self, variable: usize) {
        let name = &self.variables[variable].name;
        if let Some(variables) = self.scope.get_mut(name) {
            variables.retain(|visible| *visible != variable);
            if variables.is_empty() {
                self.scope.remove(name);
            }
        }
    }

    fn variable(&mut self, name: &str, ty: Type) -> usize {
        self.variables.push(LocalDef {
            name: name.to_owned(),
            ty,
            mandatory: false,
            default: None,
            source: None,
            header: None,
        });
        self.variables.len() - 1
    }

    fn taken(&self, name: &str) -> bool {
        self.scope.contains_key(name) || self.nodes.contains_key(name)
    }

    fn entity(&mut self, name: &Name) -> Option<usize> {
        let types = &self.named.types;
        let found = types.places.get(&name.text).copied().filter(|place| *place < types.entities);
        if found.is_none() {
            let entities = types.places.iter().filter(|(_, place)| **place < types.entities);
            let hint = near(&name.text, entities.map(|(name, _)| name.as_str()));
            let message = format!("there is no entity `{}`", name.text);
            self.problems.error_hint("OML0102", name.span, message, hint);
        }
        found
    }

    /// An entity whose rows are somewhere.
    fn readable(&mut self, name: &Name) -> Option<usize> {
        let found = self.entity(name)?;
        if self.home(found) == Some(&Home::Library) {
            let message = format!("`{}` is of a library, which has no tables", name.text);
            let hint = "its records are known by their names: `Entities.Kind.Reduced`".to_owned();
            self.problems.error_hint("OML0302", name.span, message, Some(hint));
        }
        Some(found)
    }

    fn writable(&mut self, name: &Name) -> Option<usize> {
        let found = self.readable(name)?;
        if let Some(Home::App(app)) = self.home(found) {
            let message = format!("the rows of `{}` are `{app}`'s to change", name.text);
            let hint = format!("call a service action of `{app}` that changes them");
            self.problems.error_hint("OML0302", name.span, message, Some(hint));
        } else if self.named.records[found].entity.as_ref().is_some_and(|e| e.is_static) {
            let message = format!("`{}` is static; its records are the model's", name.text);
            self.problems.error("OML0302", name.span, message);
        }
        Some(found)
    }

    fn home(&self, entity: usize) -> Option<&'_ Home> {
        Some(&self.named.records[entity].entity.as_ref()?.home)
    }

    /// Checks an expression and converts it to a type, or says why it cannot be.
    fn expect(&mut self, expr: &Expr, ty: &Type) -> TExpr {
        if matches!(expr.kind, ExprKind::Broken) {
            return TExpr { ty: ty.clone(), span: expr.span, kind: TKind::Broken };
        }
        let typed = self.expression(expr);
        self.convert(typed, ty)
    }
}
