//! Warnings: what can be built and is probably not meant.
//!
//! Looks at the typed app as a whole, after everything else was found right. Invariant: a warning has a way to
//! say "I mean it" that leaves the model clearer: a name removed, a `max` written.

use crate::ast::{Action, ActionKind, Binary, Declared, Parsed};
use crate::problem::Problems;
use crate::types::*;
use crate::walk::{calls, each_node};

pub(super) fn warn(parsed: &Parsed, typed: &Typed, problems: &mut Problems<'_>) {
    let calls = calls(typed);
    unused_actions(parsed, typed, &calls, problems);
    let queries = querying(&typed.bodies, &calls);
    for (index, (action, body)) in parsed.actions.iter().zip(&typed.bodies).enumerate() {
        let def = &typed.named.actions[index];
        let reads = reads(body);
        let mut unused = |what: &str, declared: &[Declared], first: usize| {
            for (place, declared) in declared.iter().enumerate() {
                if !reads.get(first + place).is_some_and(|read| *read) {
                    let message = format!("the {what} `{}` is never read", declared.name.text);
                    problems.warning("OML0601", declared.name.span, message);
                }
            }
        };
        unused("variable", &action.locals, def.inputs + def.outputs);
        if matches!(action.kind, ActionKind::Server | ActionKind::Service) {
            unused("input", &action.inputs, 0);
        }
        each_node(&body.nodes, &mut |node| unbounded(node, &typed.named, problems));
        queries_in_loops(&body.nodes, false, &queries, problems);
    }
}

/// Which variables are read anywhere in a flow.
fn reads(body: &Body) -> Vec<bool> {
    let mut reads = vec![false; body.variables.len()];
    each_node(&body.nodes, &mut |node| {
        for expr in node.kind.expressions() {
            expr.reads(&mut |variable| reads[variable] = true);
        }
    });
    reads
}

/// Actions that no REST method and no timer leads to. An app without any is still being written.
fn unused_actions(parsed: &Parsed, typed: &Typed, calls: &[Vec<usize>], problems: &mut Problems<'_>) {
    let is_server = |action: &Action| matches!(action.kind, ActionKind::Server);
    let mut used: Vec<bool> = parsed.actions.iter().map(|action| action.kind.is_entry()).collect();
    let hooks = typed.requests.iter().flat_map(|request| [request.before, request.after]);
    let called = typed.routes.iter().map(|route| route.authentication).chain(hooks);
    called.flatten().for_each(|action| used[action] = true);
    let mut next: Vec<usize> = (0..used.len()).filter(|action| used[*action]).collect();
    if next.is_empty() {
        return;
    }
    while let Some(action) = next.pop() {
        for callee in &calls[action] {
            if !std::mem::replace(&mut used[*callee], true) {
                next.push(*callee);
            }
        }
    }
    // What others offer need not all be called.
    let own = parsed.actions.iter().zip(used).filter(|(action, _)| is_server(action));
    for (action, _) in own.filter(|(_, used)| !used) {
        let message = format!("nothing leads to the action `{}`", action.name.text);
        problems.warning("OML0601", action.name.span, message);
    }
}

/// Which actions read from the database, themselves or through others.
fn querying(bodies: &[Body], calls: &[Vec<usize>]) -> Vec<bool> {
    let mut queries: Vec<bool> = bodies
        .iter()
        .map(|body| {
            let mut found = false;
            each_node(&body.nodes, &mut |node| found |= is_query(&node.kind));
            found
        })
        .collect();
    let mut callers: Vec<Vec<usize>> = vec![Vec::new(); calls.len()];
    for (caller, callees) in calls.iter().enumerate() {
        callees.iter().for_each(|callee| callers[*callee].push(caller));
    }
    let mut next: Vec<usize> = (0..queries.len()).filter(|action| queries[*action]).collect();
    while let Some(action) = next.pop() {
        for caller in &callers[action] {
            if !std::mem::replace(&mut queries[*caller], true) {
                next.push(*caller);
            }
        }
    }
    queries
}

fn is_query(node: &TNodeKind) -> bool {
    let reads = matches!(node, TNodeKind::Get { .. } | TNodeKind::Aggregate { .. });
    reads || matches!(node, TNodeKind::Sql { statement, .. } if !statement.writes)
}

fn queries_in_loops(nodes: &[TNode], in_loop: bool, queries: &[bool], problems: &mut Problems<'_>) {
    for node in nodes {
        let called = if let TNodeKind::Call { action, .. } = &node.kind { queries[*action] } else { false };
        if in_loop && (called || is_query(&node.kind)) {
            let message =
                format!("`{}` reads from the database once for every element of the loop", node.name);
            let hint = "fetch what the loop needs before it, with one query".to_owned();
            problems.warning_hint("OML0603", node.span, message, hint);
        }
        let inside = in_loop || matches!(node.kind, TNodeKind::ForEach { .. });
        node.kind.flows().into_iter().for_each(|flow| queries_in_loops(flow, inside, queries, problems));
    }
}

fn unbounded(node: &TNode, named: &Named, problems: &mut Problems<'_>) {
    let TNodeKind::Aggregate { query, .. } = &node.kind else { return };
    let is_static =
        |source: &TSource| named.records[source.record].entity.as_ref().is_some_and(|e| e.is_static);
    let is_one_row = query.is_grouped() && query.keys.is_empty();
    let is_single = query.sources.len() == 1 && query.filters.iter().any(finds_one);
    let is_small = is_one_row || is_single || query.sources.iter().all(is_static);
    if query.max.is_none() && !is_small {
        let message = format!("`{}` fetches every row that there may ever be", node.name);
        let hint = "say how many at most with `max`; `max: 0` says that all are meant".to_owned();
        problems.warning_hint("OML0604", node.span, message, hint);
    }
}

/// Whether a filter asks for one identifier.
fn finds_one(filter: &TExpr) -> bool {
    let is_id = |expr: &TExpr| matches!(expr.kind, TKind::Attribute(0, 0));
    if let TKind::Compare(Binary::Equal, a, b) = &filter.kind {
        return is_id(a) || is_id(b);
    }
    matches!(&filter.kind, TKind::Logic(Binary::And, a, b) if finds_one(a) || finds_one(b))
}
