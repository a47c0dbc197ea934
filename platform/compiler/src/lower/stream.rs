//! Queries whose rows are read in batches: a list that nobody looks at but the loop over it is never made.
//!
//! The query opens a cursor, and the loop fetches some hundred rows at a time, so that a timer
//! over a million rows is as small as one over a thousand. What an iteration leaves behind is given back as in
//! every loop ([`super::keep`]), and the rows of a batch before the next one is fetched.
//! A cursor lives as long as its transaction and needs a round trip per batch, so a query is read this way only
//!
//! - when nothing but one `for_each`, behind it in the same flow, reads its list, and nobody its count;
//! - when nobody assigns another list to it;
//! - when it has no limit and is not of static entities: few rows are one round trip as it is;
//! - when nothing between the query and the end of the loop can end the transaction.
//!
//! Invariant: what the action does is the same either way; a cursor shows the rows as they were when it was opened.

use std::collections::{BTreeMap, BTreeSet};

use wasm_encoder::{BlockType, Instruction, ValType};

use super::flow::LoopBlocks;
use super::{Generator, Shared, keep};
use crate::types::*;
use crate::walk::{callees, each_node};

/// How the rows of an open cursor are read: addresses of the record's descriptor and of the columns' places.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) descriptor: u32,
    pub(super) places: u32,
}

/// For every action whether it may end the transaction, itself or through others.
pub(super) fn ending(bodies: &[Body], calls: &[Vec<usize>]) -> Vec<bool> {
    let mut ends: Vec<bool> = bodies.iter().map(|body| ends_transaction(&body.nodes, &[])).collect();
    let mut callers: Vec<Vec<usize>> = vec![Vec::new(); bodies.len()];
    for (caller, callees) in calls.iter().enumerate() {
        callees.iter().for_each(|callee| callers[*callee].push(caller));
    }
    let mut next: Vec<usize> = (0..ends.len()).filter(|action| ends[*action]).collect();
    while let Some(action) = next.pop() {
        for caller in &callers[action] {
            if !std::mem::replace(&mut ends[*caller], true) {
                next.push(*caller);
            }
        }
    }
    ends
}

/// Whether a flow may end the transaction: a handler counts, because it undoes what was written.
fn ends_transaction(nodes: &[TNode], ending: &[bool]) -> bool {
    let mut ends = false;
    each_node(nodes, &mut |node| {
        ends |= matches!(node.kind, TNodeKind::Commit | TNodeKind::Abort | TNodeKind::Try { .. });
    });
    ends || callees(nodes).into_iter().any(|action| ending.get(action).is_some_and(|ends| *ends))
}

/// The lists, by their variables, that are read in batches.
pub(super) fn streamed(nodes: &[TNode], uses: &keep::Uses, shared: &Shared<'_>) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    in_flow(nodes, uses, shared, &mut found);
    each_node(nodes, &mut |node| {
        let TNodeKind::Assign(pairs) = &node.kind else { return };
        for (target, _) in pairs {
            if let TKind::Local(variable) = target.kind {
                found.remove(&variable);
            }
        }
    });
    found
}

fn in_flow(nodes: &[TNode], uses: &keep::Uses, shared: &Shared<'_>, found: &mut BTreeSet<usize>) {
    for (at, node) in nodes.iter().enumerate() {
        node.kind.flows().into_iter().for_each(|flow| in_flow(flow, uses, shared, found));
        let TNodeKind::Aggregate { query, list, count } = &node.kind else { continue };
        if is_limited(query, shared.named) || uses.read_count(*list) != 1 || uses.read_count(*count) != 0 {
            continue;
        }
        let behind = nodes[at + 1..].iter().find(|next| !is_plain(&next.kind));
        if let Some(TNodeKind::ForEach { list: over, start: None, max: None, body, .. }) =
            behind.map(|n| &n.kind)
            && matches!(over.kind, TKind::Local(variable) if variable == *list)
            && !ends_transaction(body, &shared.ending)
        {
            found.insert(*list);
        }
    }
}

/// A query that says how many rows at most (`max: 0` says all), and one of static entities.
fn is_limited(query: &Query, named: &Named) -> bool {
    let is_static =
        |source: &TSource| named.records[source.record].entity.as_ref().is_some_and(|e| e.is_static);
    query.sources.iter().all(is_static)
        || query.max.as_ref().is_some_and(|max| !matches!(max.kind, TKind::Constant(Constant::Integer(0))))
}

/// Nodes that may stand between a query and its loop: they leave neither the flow nor the transaction.
fn is_plain(node: &TNodeKind) -> bool {
    let computes = matches!(
        node,
        TNodeKind::Assign(_)
            | TNodeKind::Log { .. }
            | TNodeKind::ListEdit { .. }
            | TNodeKind::ListSort { .. }
            | TNodeKind::ListCopy { .. }
    );
    let mut calls = false;
    for expr in node.expressions() {
        expr.each(&mut |part| calls |= matches!(part.kind, TKind::Invoke(..)));
    }
    computes && !calls
}

impl Generator<'_, '_> {
    /// Opens the cursor of a query whose text is on the stack; the list's local holds its name.
    pub(super) fn open_cursor(&mut self, list: usize, opened: Opened) {
        self.run("rt_cursor_open");
        self.code.push(Instruction::LocalSet(list as u32));
        self.opened.insert(list, opened);
        self.leave_if_raised();
    }

    /// A loop over the rows of a cursor.
    pub(super) fn for_each_row(
        &mut self,
        (cursor, opened): (usize, Opened),
        element: usize,
        body: &[TNode],
        name: &str,
    ) {
        let kept = keep::kept(body, keep::Element::Fetched(element), self.variables, &self.uses);
        let (mark, batch) = (self.temporary(ValType::I32), self.temporary(ValType::I32));
        self.call("rt_mark");
        self.code.push(Instruction::LocalSet(mark));
        self.open(Instruction::Block(BlockType::Empty));
        let exit = self.depth;
        self.open(Instruction::Loop(BlockType::Empty));
        let batches = self.depth;
        if let Some(kept) = &kept {
            self.give_back(mark, kept);
        }
        self.code.push(Instruction::LocalGet(cursor as u32));
        self.address(opened.descriptor);
        self.address(opened.places);
        self.run("rt_cursor_fetch");
        self.code.push(Instruction::LocalSet(batch));
        self.leave_if_raised();

        let rows = self.cursor_over(batch);
        let inner = kept.is_some().then(|| self.begin_garbage(body)).flatten();
        self.mark(name, true);
        let walk = self.begin_loop(&rows, element, body);
        self.open(Instruction::Block(BlockType::Empty));
        self.loops.push(LoopBlocks { exit, cycle: self.depth, cursor: Some(cursor as u32) });
        self.nodes(body);
        self.loops.pop();
        self.close();
        if let (Some(kept), Some(inner)) = (&kept, inner) {
            self.free(inner, kept);
        }
        self.end_loop(&rows, walk);
        self.mark(name, true);

        self.code.push(Instruction::LocalGet(batch));
        self.call("rt_cursor_more");
        self.code.push(Instruction::BrIf(self.depth - batches));
        self.close();
        self.close();
        self.close_cursor(cursor as u32);
    }

    /// Closes a cursor before its transaction ends.
    pub(super) fn close_cursor(&mut self, cursor: u32) {
        self.code.push(Instruction::LocalGet(cursor));
        self.run("rt_cursor_close");
        self.leave_if_raised();
    }
}

/// Cursors that were opened so far in the action, by the variable that holds their name.
pub(super) type OpenedCursors = BTreeMap<usize, Opened>;
