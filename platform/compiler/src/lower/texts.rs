//! Texts that are put together: joined in one step, and grown in place where nobody else can see it.
//!
//! `Text: Text + …` in a loop would copy all that is there each time. So a declared Text that is joined to
//! itself somewhere in its action gets a room: memory behind its end that is its own, whose end a local of the
//! generated code holds. The runtime writes into the room as long as there is some, and makes a room
//! twice as large where there is none. Texts are values, so nobody may see one grow: whatever else reads the variable
//! and may keep the address gives up the room ([`Generator::seal`]), and the next join copies.
//!
//! Invariant: a room that is not 0 belongs to the text in its variable, and only that variable holds its address.

use wasm_encoder::{Instruction, ValType};

use super::{Generator, slot_at};
use crate::types::*;
use crate::walk::each_node;

/// The most parts that one call of the runtime joins.
const PARTS_MAX: usize = 4;

/// The declared variables that are joined to themselves. Others are written by more than assignments.
pub(super) fn grown(nodes: &[TNode], declared: &[LocalDef]) -> Vec<usize> {
    let mut found = Vec::new();
    each_node(nodes, &mut |node| {
        let TNodeKind::Assign(pairs) = &node.kind else { return };
        for (target, value) in pairs {
            if let TKind::Local(variable) = target.kind
                && declared.get(variable).is_some_and(|def| def.ty == Type::Text)
                && is_joined_to(variable, value)
                && !found.contains(&variable)
            {
                found.push(variable);
            }
        }
    });
    found
}

fn is_joined_to(variable: usize, value: &TExpr) -> bool {
    matches!(parts(value).as_slice(), [first, _, ..] if matches!(first.kind, TKind::Local(of) if of == variable))
}

/// What is joined, from the left.
fn parts(value: &TExpr) -> Vec<&TExpr> {
    let (mut rest, mut found) = (value, Vec::new());
    while let TKind::Concat(left, right) = &rest.kind {
        found.push(&**right);
        rest = left;
    }
    found.push(rest);
    found.reverse();
    found
}

impl Generator<'_, '_> {
    /// Gives up the room of a text: its address may be held elsewhere, or it is another text now.
    pub(super) fn seal(&mut self, variable: usize) {
        if let Some(room) = self.rooms.get(&variable).copied() {
            self.code.extend([Instruction::I32Const(0), Instruction::LocalSet(room)]);
        }
    }

    /// A value that is only looked at: nobody keeps its address.
    pub(super) fn looked_at(&mut self, value: &TExpr) {
        if let TKind::Local(variable) = value.kind {
            self.code.push(Instruction::LocalGet(variable as u32));
        } else {
            self.expression(value);
        }
    }

    /// Assigns `Variable + …` to the variable; false when the value is something else.
    pub(super) fn grow(&mut self, variable: usize, value: &TExpr) -> bool {
        let Some(room) = self.rooms.get(&variable).copied().filter(|_| is_joined_to(variable, value)) else {
            return false;
        };
        // All of them first: a part may read the variable, and one that raises leaves it as it was.
        let held: Vec<(u32, bool)> = parts(value)[1..].iter().map(|part| self.part(variable, part)).collect();
        let mut rest = held.iter().peekable();
        while let Some((part, is_number)) = rest.next() {
            self.code.extend([Instruction::LocalGet(variable as u32), Instruction::LocalGet(*part)]);
            // Two in one call, when the second is a text.
            self.code.push(match rest.next_if(|(_, is_number)| !is_number) {
                Some((second, _)) => Instruction::LocalGet(*second),
                None => Instruction::I32Const(0),
            });
            self.code.push(Instruction::LocalGet(room));
            self.call(if *is_number { "rt_text_grow_int" } else { "rt_text_grow" });
            self.code.push(Instruction::LocalSet(variable as u32));
            self.address(self.shared.runtime.room);
            self.code.extend([Instruction::I32Load(slot_at(0)), Instruction::LocalSet(room)]);
        }
        true
    }

    /// A local that holds a part; an integer is not made a text first.
    fn part(&mut self, variable: usize, part: &TExpr) -> (u32, bool) {
        if let TKind::Convert(number) = &part.kind
            && number.ty == Type::Integer
        {
            return (self.hold(number), true);
        }
        let held = self.temporary(ValType::I32);
        if matches!(part.kind, TKind::Local(of) if of == variable) {
            self.expression(part); // must not grow before it is its turn
        } else {
            self.looked_at(part);
        }
        self.code.push(Instruction::LocalSet(held));
        (held, false)
    }

    /// Joins from the left, as many parts as one call takes.
    pub(super) fn concat(&mut self, value: &TExpr) {
        let parts = parts(value);
        for (at, part) in parts.iter().enumerate() {
            self.expression(part);
            let on_stack = at % (PARTS_MAX - 1) + 1;
            let is_last = at + 1 == parts.len();
            if at > 0 && (on_stack == 1 || is_last) {
                // The result of the call before is one of them.
                let joined = if on_stack == 1 { PARTS_MAX } else { on_stack };
                self.call(match joined {
                    2 => "rt_text_concat",
                    3 => "rt_text_concat3",
                    _ => "rt_text_concat4",
                });
            }
        }
    }

    /// Keeps a text that grows, and its room, when the loop frees.
    pub(super) fn keep_grown(&mut self, variable: usize, room: u32, mark: u32, moved: u32) {
        let text = variable as u32;
        self.code.extend([
            Instruction::LocalGet(text),
            Instruction::LocalGet(room),
            Instruction::LocalGet(mark),
        ]);
        self.call("rt_keep_grown");
        self.code.push(Instruction::LocalSet(moved));
        // The room moves as far as the text; none stays none.
        self.code.extend([
            Instruction::LocalGet(room),
            Instruction::LocalGet(moved),
            Instruction::LocalGet(text),
        ]);
        self.code.extend([Instruction::I32Sub, Instruction::I32Add, Instruction::I32Const(0)]);
        self.code.extend([Instruction::LocalGet(room), Instruction::Select, Instruction::LocalSet(room)]);
        self.code.extend([Instruction::LocalGet(moved), Instruction::LocalSet(text)]);
    }
}
