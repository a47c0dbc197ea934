//! Entity actions that choose between creating and updating.
//!
//! Each is made of the statements of `create` and `update`: the null identifier creates. A row that the app identifies is
//! written by one statement, whichever it is. Invariant: what an
//! iteration over some records leaves in the arena is given back, because only identifiers outlive it, in
//! slots that were made before.

use wasm_encoder::{BlockType, Instruction, ValType};

use super::{Generator, load, store, word};
use crate::types::*;

impl Generator<'_, '_> {
    pub(super) fn create_or_update(&mut self, record: usize, value: &TExpr, out: usize) {
        let held = self.hold(value);
        self.put(record, held, out as u32);
    }

    pub(super) fn create_or_update_some(&mut self, record: usize, list: &TExpr, element: usize, out: usize) {
        let cursor = self.cursor(list);
        let key = self.shared.named.records[record].fields[0].ty.clone();
        let (mark, id) = (self.temporary(ValType::I32), self.temporary(word(&key)));
        self.call("rt_new_list");
        self.code.extend([Instruction::LocalTee(out as u32), Instruction::LocalGet(cursor.count)]);
        self.call("rt_list_reserve");
        self.call("rt_mark");
        self.code.push(Instruction::LocalSet(mark));
        self.begin(&cursor, element);
        self.put(record, element as u32, id);
        self.code.push(Instruction::LocalGet(out as u32));
        self.call("rt_list_append");
        self.code.extend([Instruction::LocalGet(id), store(&key, 0)]);
        self.code.push(Instruction::LocalGet(mark));
        self.call("rt_worth_freeing");
        self.open(Instruction::If(BlockType::Empty));
        self.code.push(Instruction::LocalGet(mark));
        self.call("rt_free");
        self.close();
        self.end(&cursor);
    }

    /// Creates or updates the record that a local holds; another gets the identifier.
    fn put(&mut self, record: usize, held: u32, id: u32) {
        let key = &self.shared.named.records[record].fields[0];
        if !key.auto_number {
            self.code.extend([Instruction::LocalGet(held), load(&key.ty, 0), Instruction::LocalSet(id)]);
            return self.upsert(record, held);
        }
        self.code.extend([Instruction::LocalGet(held), load(&key.ty, 0), Instruction::LocalTee(id)]);
        self.code.push(Instruction::I64Eqz);
        self.open(Instruction::If(BlockType::Empty));
        self.insert(record, held);
        self.code.push(Instruction::LocalSet(id));
        self.leave_if_raised();
        self.code.push(Instruction::Else);
        self.write(record, held);
        self.close();
    }
}
