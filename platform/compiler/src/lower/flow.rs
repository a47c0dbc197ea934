//! Nodes to structured code: branches, loops, calls and handlers.
//!
//! ```text
//! block $done            try
//!   block $caught
//!     …                  what raises branches to $caught
//!     br $done
//!   end
//!   takes 16 to 16? …    one handler after the other, each ends with br $done
//!   br $outer            nobody takes it: on to the handlers around, or out of the action
//! end
//! ```
//!
//! Invariant: after every call that may raise, and only there, stands a branch to the innermost handlers.

use wasm_encoder::{BlockType, Instruction, ValType};

use super::{Generator, keep, load, slot_at, store, word};
use crate::ast::Leave;
use crate::plan::Mark;
use crate::types::*;
use crate::walk::each_node;

/// The blocks of a loop, by the depth at which they were opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoopBlocks {
    /// Left to end the loop.
    pub(super) exit: u32,
    /// Left to go on with the next element.
    pub(super) cycle: u32,
    /// The local with the name of the cursor whose rows it is over.
    pub(super) cursor: Option<u32>,
}

impl Generator<'_, '_> {
    pub(super) fn nodes(&mut self, nodes: &[TNode]) {
        for node in nodes {
            self.node(node);
        }
    }

    fn node(&mut self, node: &TNode) {
        let around = self.marks.last().and_then(|mark| mark.node);
        self.nodes.push((node.name.clone(), node.span));
        self.belongs(Some(self.nodes.len() - 1));
        self.node_code(node);
        self.belongs(around);
    }

    /// From here on, code belongs to a node, or to none.
    fn belongs(&mut self, node: Option<usize>) {
        let at = self.code.len();
        if self.marks.last().is_some_and(|mark| mark.at == at) {
            self.marks.pop();
        }
        if self.marks.last().and_then(|mark| mark.node) != node {
            self.marks.push(Mark { at, node });
        }
    }

    fn node_code(&mut self, node: &TNode) {
        self.mark(&node.name, asks(&node.kind));
        match &node.kind {
            TNodeKind::Assign(pairs) => {
                for (target, value) in pairs {
                    self.assign(target, value);
                }
            }
            TNodeKind::If { condition, then, otherwise } => {
                self.expression(condition);
                self.open(Instruction::If(BlockType::Empty));
                self.nodes(then);
                if !otherwise.is_empty() {
                    self.code.push(Instruction::Else);
                    self.nodes(otherwise);
                }
                self.close();
            }
            TNodeKind::Switch { cases, otherwise } => self.switch(cases, otherwise),
            TNodeKind::ForEach { list, element, start, max, body } => {
                self.for_each(list, *element, [start.as_ref(), max.as_ref()], body, &node.name);
            }
            TNodeKind::Try { body, handlers } => self.guarded(body, handlers),
            TNodeKind::Call { action, arguments, outputs } => {
                self.invoke(*action, arguments);
                for output in outputs.iter().rev() {
                    self.code.push(Instruction::LocalSet(*output as u32));
                }
                self.leave_if_raised();
            }
            TNodeKind::Get { record, id, lock, out } => self.get(*record, id, *lock, *out),
            TNodeKind::Aggregate { query, list, count } => self.aggregate(query, *list, *count),
            TNodeKind::Sql { statement, list, count } => self.sql(statement, *list, *count),
            TNodeKind::Create { record, value, out } => self.create(*record, value, *out),
            TNodeKind::Update { record, value } => self.update(*record, value),
            TNodeKind::CreateOrUpdate { record, value, out } => self.create_or_update(*record, value, *out),
            TNodeKind::CreateOrUpdateSome { record, list, element, out } => {
                self.create_or_update_some(*record, list, *element, *out);
            }
            TNodeKind::Delete { record, id } => self.delete(*record, id),
            TNodeKind::Raise { exception, message, status } => {
                self.expression(message);
                self.code.push(Instruction::I32Const(*status as i32));
                self.code.push(Instruction::I32Const(*exception as i32));
                self.call("rt_raise");
                self.code.push(Instruction::Br(self.depth - self.caught));
            }
            TNodeKind::Log { message, level } => {
                self.expression(message);
                self.code.push(Instruction::I32Const(*level as i32));
                self.call("rt_log");
            }
            TNodeKind::Serialize { value, defaults, out } => {
                self.expression(value);
                let descriptor = self.shared.descriptor(&value.ty);
                self.address(descriptor);
                self.code.push(Instruction::I32Const(i32::from(*defaults)));
                self.call("rt_json_serialize");
                self.code.push(Instruction::LocalSet(*out as u32));
            }
            TNodeKind::Deserialize { text, out } => {
                self.expression(text);
                let descriptor = self.shared.descriptor(&self.variables[*out].ty);
                self.address(descriptor);
                self.call("rt_json_deserialize");
                self.code.push(Instruction::LocalSet(*out as u32));
                self.leave_if_raised();
            }
            TNodeKind::ListEdit { list, edit } => self.list_edit(list, edit),
            TNodeKind::ListSort { list, by } => self.list_sort(list, by),
            TNodeKind::ListSearch { list, search, element, condition, out } => {
                self.list_search(list, *search, *element, condition, *out);
            }
            TNodeKind::ListCopy { list, distinct, out } => self.list_copy(list, *distinct, *out),
            TNodeKind::Wake { timer } => {
                let timer = self.shared.data.text(timer);
                self.address(timer);
                self.call("rt_wake");
                self.leave_if_raised();
            }
            TNodeKind::Trigger { event, arguments } => self.trigger(*event, arguments),
            TNodeKind::Commit => {
                self.call("rt_commit");
                self.leave_if_raised();
            }
            TNodeKind::Abort => self.call("rt_abort"),
            TNodeKind::Leave(leave) => {
                if *leave == Leave::Return {
                    let cursors: Vec<u32> = self.loops.iter().filter_map(|blocks| blocks.cursor).collect();
                    cursors.into_iter().for_each(|cursor| self.close_cursor(cursor));
                }
                // Check lets `cycle` and `exit` stand in loops only.
                let to = match (leave, self.loops.last()) {
                    (Leave::Return, _) | (_, None) => 0,
                    (Leave::Cycle, Some(blocks)) => blocks.cycle,
                    (Leave::Exit, Some(blocks)) => blocks.exit,
                };
                self.code.push(Instruction::Br(self.depth - to));
            }
        }
    }

    /// Fills a record with the payload, and hands it on.
    fn trigger(&mut self, event: usize, arguments: &[Option<TExpr>]) {
        let def = &self.shared.named.events[event];
        let (name, descriptor) = (self.shared.data.text(&def.name), self.shared.parameters(&def.payload));
        let record = self.temporary(ValType::I32);
        self.address(descriptor);
        self.call("rt_new_record");
        self.code.push(Instruction::LocalSet(record));
        for (index, argument) in arguments.iter().enumerate() {
            if let Some(value) = argument {
                self.code.push(Instruction::LocalGet(record));
                self.expression(value);
                self.code.push(store(&value.ty, index));
            }
        }
        self.address(name);
        self.code.push(Instruction::LocalGet(record));
        self.address(descriptor);
        self.run("rt_trigger");
        self.leave_if_raised();
    }

    fn assign(&mut self, target: &TExpr, value: &TExpr) {
        if let TKind::Local(variable) = target.kind {
            if self.grow(variable, value) {
                return;
            }
            self.owned(value);
            self.code.push(Instruction::LocalSet(variable as u32));
            self.seal(variable);
            return;
        }
        // Before the place: the value may change what the place is in.
        let held = self.temporary(word(&target.ty));
        self.owned(value);
        self.code.push(Instruction::LocalSet(held));
        let index = if let TKind::Field(record, index) = &target.kind {
            self.expression(record);
            *index
        } else if let TKind::Item(list, index) = &target.kind {
            self.slot_of(list, index);
            0
        } else {
            self.code.push(Instruction::Unreachable); // check lets only places stand on the left
            return;
        };
        self.code.push(Instruction::LocalGet(held));
        self.code.push(store(&target.ty, index));
    }

    fn switch(&mut self, cases: &[(TExpr, Vec<TNode>)], otherwise: &[TNode]) {
        self.open(Instruction::Block(BlockType::Empty));
        for (condition, flow) in cases {
            self.expression(condition);
            self.open(Instruction::If(BlockType::Empty));
            self.nodes(flow);
            self.code.push(Instruction::Br(1));
            self.close();
        }
        self.nodes(otherwise);
        self.close();
    }

    /// Puts the outputs on the stack; whether something was raised is to be asked when they are off it.
    pub(super) fn invoke(&mut self, action: usize, arguments: &[Option<TExpr>]) {
        let named = self.shared.named;
        for (argument, input) in arguments.iter().zip(&named.actions[action].variables) {
            match argument {
                Some(value) => self.owned(value),
                None => self.default_value(input),
            }
        }
        self.protect(1);
        self.code.push(Instruction::Call(self.shared.runtime.functions + action as u32));
        self.protect(-1);
    }

    fn guarded(&mut self, body: &[TNode], handlers: &[THandler]) {
        // A handler that goes on with the transaction needs one that a failed statement has not doomed.
        let database = |handler: &&THandler| handler.takes.0 <= DATABASE && DATABASE <= handler.takes.1;
        let protects = handlers.iter().find(database).is_some_and(|handler| !handler.abort);
        self.open(Instruction::Block(BlockType::Empty));
        let done = self.depth;
        self.open(Instruction::Block(BlockType::Empty));
        let around = std::mem::replace(&mut self.caught, self.depth);
        self.protected += u32::from(protects);
        self.nodes(body);
        self.protected -= u32::from(protects);
        self.caught = around;
        self.code.push(Instruction::Br(self.depth - done));
        self.close();
        for handler in handlers {
            self.code.push(Instruction::I32Const(handler.takes.0 as i32));
            self.code.push(Instruction::I32Const(handler.takes.1 as i32));
            self.call("rt_raised");
            self.open(Instruction::If(BlockType::Empty));
            self.code.push(Instruction::I32Const(i32::from(handler.abort)));
            self.code.push(Instruction::I32Const(i32::from(handler.log)));
            self.call("rt_catch");
            self.code.push(Instruction::LocalSet(handler.message as u32));
            self.nodes(&handler.flow);
            self.code.push(Instruction::Br(self.depth - done));
            self.close();
        }
        self.code.push(Instruction::Br(self.depth - self.caught));
        self.close();
    }

    /// Around a statement or call: whether a statement that fails is undone alone.
    pub(super) fn protect(&mut self, by: i32) {
        if self.protected > 0 {
            self.code.push(Instruction::I32Const(by));
            self.call("rt_protect");
        }
    }

    /// `limits` are the index to begin with and the most elements.
    fn for_each(
        &mut self,
        list: &TExpr,
        element: usize,
        limits: [Option<&TExpr>; 2],
        body: &[TNode],
        name: &str,
    ) {
        if let TKind::Local(variable) = list.kind
            && let Some(opened) = self.opened.get(&variable).copied()
        {
            return self.for_each_row((variable, opened), element, body, name);
        }
        let cursor = self.cursor(list);
        let [start, max] = limits;
        if let Some(start) = start {
            self.expression(start);
            self.call("rt_not_negative");
            self.code.push(Instruction::LocalSet(cursor.index));
        }
        if let Some(max) = max {
            self.code.extend([Instruction::LocalGet(cursor.index), Instruction::LocalGet(cursor.count)]);
            self.expression(max);
            self.call("rt_limit");
            self.code.push(Instruction::LocalSet(cursor.count));
        }
        let kept = keep::kept(body, keep::Element::OfList(element), self.variables, &self.uses);
        let garbage = kept.is_some().then(|| self.begin_garbage(body)).flatten();
        // What the loop itself may raise later says so there.
        self.mark(name, false);
        let walk = self.begin_loop(&cursor, element, body);
        let exit = self.depth - 1;
        self.open(Instruction::Block(BlockType::Empty));
        self.loops.push(LoopBlocks { exit, cycle: self.depth, cursor: None });
        self.nodes(body);
        self.loops.pop();
        self.close();
        if let (Some(kept), Some(garbage)) = (kept, garbage) {
            self.free(garbage, &kept);
        }
        self.end_loop(&cursor, walk);
    }

    /// Opens a loop as [`Generator::begin`] does. Where its body changes no list, the elements stay where they are: then
    /// the loop walks from slot to slot.
    pub(super) fn begin_loop(&mut self, cursor: &Cursor, element: usize, body: &[TNode]) -> Option<Walk> {
        let mut edits = false;
        each_node(body, &mut |node| edits |= matches!(node.kind, TNodeKind::ListEdit { .. }));
        if edits {
            self.begin(cursor, element);
            return None;
        }
        let (slot, last) = (self.temporary(ValType::I32), self.temporary(ValType::I32));
        self.open(Instruction::Block(BlockType::Empty));
        self.code.extend([Instruction::LocalGet(cursor.index), Instruction::LocalGet(cursor.count)]);
        self.code.extend([Instruction::I32GeS, Instruction::BrIf(0)]);
        for (local, index) in [(slot, cursor.index), (last, cursor.count)] {
            // Length, capacity, address of the slots.
            self.code.extend([Instruction::LocalGet(cursor.list), Instruction::I32Load(slot_at(1))]);
            self.code.extend([Instruction::LocalGet(index), Instruction::I32Const(3), Instruction::I32Shl]);
            self.code.extend([Instruction::I32Add, Instruction::LocalSet(local)]);
        }
        // There is one element at least, so the loop asks at its end.
        self.open(Instruction::Loop(BlockType::Empty));
        self.code.push(Instruction::LocalGet(slot));
        self.code.push(load(&self.variables[element].ty, 0));
        self.code.push(Instruction::LocalSet(element as u32));
        Some(Walk { slot, last })
    }

    pub(super) fn end_loop(&mut self, cursor: &Cursor, walk: Option<Walk>) {
        let Some(Walk { slot, last }) = walk else { return self.end(cursor) };
        self.code.extend([Instruction::LocalGet(slot), Instruction::I32Const(8), Instruction::I32Add]);
        self.code.extend([Instruction::LocalTee(slot), Instruction::LocalGet(last)]);
        self.code.extend([Instruction::I32Ne, Instruction::BrIf(0)]);
        self.close();
        self.close();
    }

    /// The locals of a loop over a list, from its first element.
    pub(super) fn cursor(&mut self, list: &TExpr) -> Cursor {
        let held = self.temporary(ValType::I32);
        self.expression(list);
        self.code.push(Instruction::LocalSet(held));
        self.cursor_over(held)
    }

    /// The same, for the list that a local holds.
    pub(super) fn cursor_over(&mut self, list: u32) -> Cursor {
        let mut local = || self.temporary(ValType::I32);
        let cursor = Cursor { list, count: local(), index: local() };
        self.code.push(Instruction::LocalGet(cursor.list));
        self.call("rt_list_len");
        self.code.extend([Instruction::LocalSet(cursor.count), Instruction::I32Const(0)]);
        self.code.push(Instruction::LocalSet(cursor.index));
        cursor
    }

    /// Opens the loop; `element` holds one element after the other. The block around it is one level out.
    pub(super) fn begin(&mut self, cursor: &Cursor, element: usize) {
        self.open(Instruction::Block(BlockType::Empty));
        self.open(Instruction::Loop(BlockType::Empty));
        self.code.extend([Instruction::LocalGet(cursor.index), Instruction::LocalGet(cursor.count)]);
        self.code.extend([Instruction::I32GeS, Instruction::BrIf(1)]);
        // The body may have removed elements. Of no list the length is 0, because the memory at 0 is.
        self.code.extend([Instruction::LocalGet(cursor.index), Instruction::LocalGet(cursor.list)]);
        self.code.extend([Instruction::I32Load(slot_at(0)), Instruction::I32GeU]);
        self.open(Instruction::If(BlockType::Empty));
        if !self.is_marked {
            self.tell_node();
        }
        self.code.push(Instruction::LocalGet(cursor.index));
        self.call("rt_out_of_range");
        self.code.push(Instruction::Br(self.depth - self.caught));
        self.close();
        // Length, capacity, address of the slots.
        self.code.extend([Instruction::LocalGet(cursor.list), Instruction::I32Load(slot_at(1))]);
        self.code.extend([
            Instruction::LocalGet(cursor.index),
            Instruction::I32Const(3),
            Instruction::I32Shl,
        ]);
        self.code.push(Instruction::I32Add);
        self.code.push(load(&self.variables[element].ty, 0));
        self.code.push(Instruction::LocalSet(element as u32));
    }

    pub(super) fn end(&mut self, cursor: &Cursor) {
        self.code.extend([
            Instruction::LocalGet(cursor.index),
            Instruction::I32Const(1),
            Instruction::I32Add,
        ]);
        self.code.extend([Instruction::LocalSet(cursor.index), Instruction::Br(0)]);
        self.close();
        self.close();
    }

    /// Where a loop begins: what is allocated from here on is its own. `None` when its body allocates nothing.
    pub(super) fn begin_garbage(&mut self, body: &[TNode]) -> Option<Garbage> {
        let mut allocates = false;
        each_node(body, &mut |node| allocates |= asks(&node.kind) || makes(&node.kind));
        if !allocates {
            return None;
        }
        let garbage = Garbage { mark: self.temporary(ValType::I32), worth: self.temporary(ValType::I32) };
        self.call("rt_mark");
        self.code.push(Instruction::LocalTee(garbage.mark));
        self.address(GARBAGE_BYTES);
        self.code.extend([Instruction::I32Add, Instruction::LocalSet(garbage.worth)]);
        Some(garbage)
    }

    /// Gives back what was allocated since the mark, once it is worth it, but for what the places hold.
    pub(super) fn free(&mut self, garbage: Garbage, kept: &[&TExpr]) {
        self.address(self.shared.runtime.next);
        self.code.extend([Instruction::I32Load(slot_at(0)), Instruction::LocalGet(garbage.worth)]);
        self.code.push(Instruction::I32GtU);
        self.open(Instruction::If(BlockType::Empty));
        self.give_back(garbage.mark, kept);
        // Copying what is kept is paid for by as much garbage.
        self.code.push(Instruction::LocalGet(garbage.mark));
        self.call("rt_worth");
        self.code.push(Instruction::LocalSet(garbage.worth));
        self.close();
    }

    /// Gives back everything since the mark but what the places hold.
    pub(super) fn give_back(&mut self, mark: u32, kept: &[&TExpr]) {
        let (record, moved) = (self.temporary(ValType::I32), self.temporary(ValType::I32));
        for place in kept {
            if let TKind::Local(variable) = place.kind
                && let Some(room) = self.rooms.get(&variable).copied()
            {
                self.keep_grown(variable, room, mark, moved);
                continue;
            }
            // Records stay where they are: only what their slots point to moves.
            if let TKind::Field(of, index) = &place.kind {
                self.expression(of);
                self.code.extend([Instruction::LocalTee(record), load(&place.ty, *index)]);
            } else {
                self.expression(place);
            }
            self.code.push(Instruction::LocalGet(mark));
            self.call(if place.ty == Type::Decimal { "rt_keep_decimal" } else { "rt_keep_bytes" });
            if let TKind::Field(_, index) = &place.kind {
                self.code.extend([Instruction::LocalSet(moved), Instruction::LocalGet(record)]);
                self.code.extend([Instruction::LocalGet(moved), store(&place.ty, *index)]);
            } else if let TKind::Local(variable) = place.kind {
                self.code.push(Instruction::LocalSet(variable as u32));
            }
        }
        self.code.push(Instruction::LocalGet(mark));
        self.call("rt_free");
    }
}

/// Bytes that a loop lets pile up before it frees: zeroing them costs less than a call per iteration. The runtime's
/// `memory` has the same number.
const GARBAGE_BYTES: u32 = 65_536;

/// Locals of a loop that frees: where its own part of the arena begins, and up to where that may grow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Garbage {
    pub(super) mark: u32,
    worth: u32,
}

/// Locals of a loop over a list that stays as it is: the slot of the element, and where the last one ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    slot: u32,
    last: u32,
}

/// Locals of a loop over a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) list: u32,
    pub(super) count: u32,
    pub(super) index: u32,
}

/// Whether a node itself, without the flows inside it, does what may raise or tell elsewhere than where its own
/// code says so: then the runtime must know before which node it is.
#[expect(clippy::wildcard_enum_match_arm, reason = "all others ask the runtime")]
fn asks(node: &TNodeKind) -> bool {
    match node {
        TNodeKind::Assign(pairs) => pairs.iter().any(|(target, value)| asks_for(value) || asks_for(target)),
        TNodeKind::If { condition, .. } => asks_for(condition),
        TNodeKind::Switch { cases, .. } => cases.iter().any(|(condition, _)| asks_for(condition)),
        TNodeKind::Leave(Leave::Cycle | Leave::Exit) => false,
        _ => true,
    }
}

fn asks_for(expr: &TExpr) -> bool {
    let asks = match &expr.kind {
        TKind::Constant(_)
        | TKind::Null
        | TKind::Local(_)
        | TKind::Field(..)
        | TKind::Length(_)
        | TKind::Negate(_)
        | TKind::Not(_)
        | TKind::Arithmetic(..)
        | TKind::Concat(..)
        | TKind::Compare(..)
        | TKind::Logic(..)
        | TKind::If(..) => false,
        TKind::Convert(value) => value.ty == Type::Decimal && !is_text(&expr.ty),
        TKind::Broken
        | TKind::Attribute(..)
        | TKind::Setting(_)
        | TKind::Calculated(_)
        | TKind::Item(..)
        | TKind::Builtin(..)
        | TKind::Invoke(..) => true,
    };
    asks || expr.parts().into_iter().any(asks_for)
}

/// Whether a node that asks nobody makes a value in the arena.
fn makes(node: &TNodeKind) -> bool {
    node.expressions().into_iter().any(|expr| {
        let mut makes = false;
        let is_made = |part: &TExpr| keep::is_address(&part.ty) && !matches!(part.kind, TKind::Constant(_));
        expr.each(&mut |part| makes |= is_made(part));
        makes
    })
}
