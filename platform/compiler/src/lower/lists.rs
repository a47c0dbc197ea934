//! List actions. What only moves slots is the runtime library's; conditions are loops of generated code.

use wasm_encoder::{BlockType, Instruction};

use super::{Generator, store, word};
use crate::ast::Search;
use crate::types::*;

/// The runtime's word for "the element itself" in a key to sort by.
const WHOLE: u32 = u32::MAX;

impl Generator<'_, '_> {
    pub(super) fn list_edit(&mut self, list: &TExpr, edit: &TListEdit) {
        match edit {
            TListEdit::Append(element) => self.add(list, element, None),
            TListEdit::Insert { element, at } => self.add(list, element, Some(at)),
            TListEdit::AppendAll(other) => {
                self.expression(list);
                self.expression(other);
                let descriptor = self.shared.descriptor(&list.ty);
                self.address(descriptor);
                self.call("rt_list_append_all");
            }
            TListEdit::Remove { at } => {
                self.expression(list);
                self.expression(at);
                self.call("rt_list_remove");
                self.leave_if_raised();
            }
            TListEdit::Clear => {
                self.expression(list);
                self.call("rt_list_clear");
            }
        }
    }

    fn add(&mut self, list: &TExpr, element: &TExpr, at: Option<&TExpr>) {
        let held = self.temporary(word(&element.ty));
        self.owned(element); // before the slot exists: the element may read the list
        self.code.push(Instruction::LocalSet(held));
        self.expression(list);
        if let Some(at) = at {
            self.expression(at);
            self.call("rt_list_insert");
            self.leave_if_raised();
        } else {
            self.call("rt_list_append");
        }
        self.code.push(Instruction::LocalGet(held));
        self.code.push(store(&element.ty, 0));
    }

    pub(super) fn list_sort(&mut self, list: &TExpr, by: &[SortKey]) {
        let keys = by.iter().flat_map(|key| {
            let attribute = key.attribute.map_or(WHOLE, |index| index as u32);
            [attribute, u32::from(key.descending)]
        });
        let words: Vec<u32> = [by.len() as u32].into_iter().chain(keys).collect();
        let keys = self.shared.data.words(&words);
        self.expression(list);
        let descriptor = self.shared.descriptor(&list.ty);
        self.address(descriptor);
        self.address(keys);
        self.call("rt_list_sort");
    }

    pub(super) fn list_copy(&mut self, list: &TExpr, distinct: bool, out: usize) {
        self.expression(list);
        let descriptor = self.shared.descriptor(&list.ty);
        self.address(descriptor);
        self.call(if distinct { "rt_list_distinct" } else { "rt_copy" });
        self.code.push(Instruction::LocalSet(out as u32));
    }

    pub(super) fn list_search(
        &mut self,
        list: &TExpr,
        search: Search,
        element: usize,
        condition: &TExpr,
        out: usize,
    ) {
        let out = out as u32;
        match search {
            Search::Filter => self.call("rt_new_list"),
            Search::Any => self.code.push(Instruction::I32Const(0)),
            Search::All => self.code.push(Instruction::I32Const(1)),
            Search::IndexOf => self.code.push(Instruction::I32Const(-1)),
        }
        self.code.push(Instruction::LocalSet(out));
        let cursor = self.cursor(list);
        self.begin(&cursor, element);
        let exit = self.depth - 1;
        self.expression(condition);
        if search == Search::All {
            self.code.push(Instruction::I32Eqz);
        }
        self.open(Instruction::If(BlockType::Empty));
        if search == Search::Filter {
            let ty = &self.variables[element].ty;
            let found = TExpr { ty: ty.clone(), span: condition.span, kind: TKind::Local(element) };
            let copy = self.temporary(word(ty));
            self.owned(&found);
            self.code.extend([Instruction::LocalSet(copy), Instruction::LocalGet(out)]);
            self.call("rt_list_append");
            self.code.extend([Instruction::LocalGet(copy), store(ty, 0)]);
        } else {
            self.code.push(match search {
                Search::Any => Instruction::I32Const(1),
                Search::All | Search::Filter => Instruction::I32Const(0),
                Search::IndexOf => Instruction::LocalGet(cursor.index),
            });
            self.code.extend([Instruction::LocalSet(out), Instruction::Br(self.depth - exit)]);
        }
        self.close();
        self.end(&cursor);
    }
}
