//! The plan: functions, data and table entries, with no word of the model left.
//!
//! Also the data under construction: texts, decimals, descriptors, each stored once, at addresses that
//! are final. Invariant: an address, once given out, never changes; 0 stands for an empty text or zero.

use std::collections::BTreeMap;

use wasm_encoder::{Instruction, ValType};

use crate::sources::Span;

/// What emit turns into bytes.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) functions: Vec<Function>,
    /// Functions of this plan, by their place in it, that the runtime calls through the table.
    pub(crate) table: Vec<u32>,
    pub(crate) data: Data,
    pub(crate) descriptor: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Function {
    pub(crate) params: Vec<ValType>,
    pub(crate) results: Vec<ValType>,
    pub(crate) locals: Vec<ValType>,
    pub(crate) code: Vec<Instruction<'static>>,
    /// For whoever has to say where a trap came from; empty where nobody needs to.
    pub(crate) name: String,
    /// Names and places of its nodes.
    pub(crate) nodes: Vec<(String, Span)>,
    /// Which node the code belongs to, in the order of the code.
    pub(crate) marks: Vec<Mark>,
}

/// From an instruction on, code belongs to a node, or to none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    /// The instruction, by its place.
    pub(crate) at: usize,
    /// The node, by its place among the function's.
    pub(crate) node: Option<usize>,
}

/// The app's data, behind the runtime's own.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(crate) base: u32,
    pub(crate) bytes: Vec<u8>,
    texts: BTreeMap<String, u32>,
    decimals: BTreeMap<i128, u32>,
    rows: BTreeMap<Vec<u32>, u32>,
}

impl Data {
    pub(crate) fn new(base: u32) -> Data {
        Data { base, ..Data::default() }
    }

    pub(crate) fn end(&self) -> u32 {
        self.base + self.bytes.len() as u32
    }

    pub(crate) fn text(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        if let Some(at) = self.texts.get(text) {
            return *at;
        }
        let at = self.place(4);
        self.bytes.extend((text.len() as u32).to_le_bytes());
        self.bytes.extend(text.as_bytes());
        self.texts.insert(text.to_owned(), at);
        at
    }

    pub(crate) fn decimal(&mut self, units: i128) -> u32 {
        if units == 0 {
            return 0;
        }
        if let Some(at) = self.decimals.get(&units) {
            return *at;
        }
        let at = self.place(8);
        self.bytes.extend(units.to_le_bytes());
        self.decimals.insert(units, at);
        at
    }

    /// A row of words, stored once however often it is asked for.
    pub(crate) fn words(&mut self, words: &[u32]) -> u32 {
        if let Some(at) = self.rows.get(words) {
            return *at;
        }
        let at = self.place(8);
        self.bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        self.rows.insert(words.to_vec(), at);
        at
    }

    /// Zeroed words that are filled in later, with [`Data::fill`].
    pub(crate) fn reserve(&mut self, words: usize) -> u32 {
        let at = self.place(8);
        self.bytes.extend(std::iter::repeat_n(0, words * 4));
        at
    }

    pub(crate) fn fill(&mut self, at: u32, words: &[u32]) {
        let start = (at - self.base) as usize;
        for (place, word) in self.bytes[start..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
    }

    pub(crate) fn place(&mut self, align: usize) -> u32 {
        while !(self.base as usize + self.bytes.len()).is_multiple_of(align) {
            self.bytes.push(0);
        }
        self.end()
    }
}
