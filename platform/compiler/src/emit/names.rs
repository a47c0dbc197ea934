//! Names for whoever has to say where a trap came from: the action, the node and its place in the text.
//!
//! ```text
//! Orders.Approve<TAB>rest.yaml      the action and its file
//! 58:12:Find                        from this byte of the function on: line and node
//! 131:15:IsWithinLimit
//! ```
//!
//! A trap tells the host a function's name and how far into the function it was, also where only native code is left
//! of the component. So what a custom section could say is said in the name itself. Rejected: DWARF, which knows
//! lines but no nodes, is larger, and has to be read at every start; a word in memory, which the host cannot see.
//! `host/engine/src/origin.rs` reads it. Invariant: running code does not know of it, so that it costs only its bytes.

use wasm_encoder::{Encode, NameMap, NameSection};

use crate::plan::{Function, Mark};
use crate::sources::Sources;

/// Bytes of one name: a few fewer than engines read. The nodes at the end of a longer action have none.
const NAME_BYTES_MAX: usize = 90_000;

/// The content of the section `name`: of each function of the plan that has one. `offsets` say where the marks of a
/// function are in its bytes.
pub(super) fn section(
    functions: &[Function],
    offsets: &[Vec<usize>],
    first: u32,
    sources: &Sources,
) -> Vec<u8> {
    let mut names = NameMap::new();
    for ((function, offsets), index) in functions.iter().zip(offsets).zip(first..) {
        if !function.name.is_empty() {
            names.append(index, &name(function, offsets, sources));
        }
    }
    let mut section = NameSection::new();
    section.functions(&names);
    let mut encoded = Vec::new();
    section.encode(&mut encoded);
    // Without the size in front, as other sections are here.
    let (_, at) = super::leb(&encoded);
    encoded.split_off(at)
}

fn name(function: &Function, offsets: &[usize], sources: &Sources) -> String {
    let mut name = function.name.clone();
    let file = function.nodes.first().map(|(_, span)| sources.place(*span).0);
    name.push('\t');
    name.push_str(file.unwrap_or_default());
    for (Mark { node, .. }, offset) in function.marks.iter().zip(offsets) {
        let line = match node.map(|node| &function.nodes[node]) {
            Some((node, span)) => format!("\n{offset}:{}:{node}", sources.place(*span).1),
            None => format!("\n{offset}::"),
        };
        if name.len() + line.len() > NAME_BYTES_MAX {
            break;
        }
        name.push_str(&line);
    }
    name
}
