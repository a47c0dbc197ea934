//! What a module says of its code beside it, when that has other places.

use std::borrow::Cow;
use std::collections::BTreeMap;

use wasm_encoder::reencode::{Reencode, utils};
use wasm_encoder::{CodeSection, Module, NameMap, NameSection};
use wasmparser::{CustomSectionReader, FunctionBody, Name};

use super::{Error, Unfit};

/// Writes a custom section, unless it points into the code, whose places move (DWARF, hints for branches): nobody here reads it.
pub(super) fn custom_again(
    reencoder: &mut impl Reencode<Error = Unfit>,
    module: &mut Module,
    section: CustomSectionReader<'_>,
) -> Result<(), Error> {
    if [".debug_", "metadata.code."].iter().any(|prefix| section.name().starts_with(prefix)) {
        return Ok(());
    }
    utils::parse_custom_section(reencoder, module, section)
}

/// Of names, those that backtraces show: of the module and of its functions, in the order of their new indices. `named` is given a new index
/// and the name that it had.
pub(super) fn name_again<R: Reencode<Error = Unfit>>(
    reencoder: &mut R,
    names: &mut NameSection,
    section: Name<'_>,
    named: impl for<'n> Fn(&R, u32, &'n str) -> Cow<'n, str>,
) -> Result<(), Error> {
    match section {
        Name::Module { name, .. } => names.module(name),
        Name::Function(map) => {
            let mut sorted = BTreeMap::new();
            for naming in map {
                let naming = naming?;
                let index = reencoder.function_index(naming.index)?;
                sorted.insert(index, named(reencoder, index, naming.name));
            }
            let mut functions = NameMap::new();
            sorted.iter().for_each(|(index, name)| functions.append(*index, name));
            names.functions(&functions);
        }
        _ => {}
    }
    Ok(())
}

/// Writes a function's body, and says where its instructions went: an index may take more bytes or fewer than it did.
pub(super) fn body_again(
    reencoder: &mut impl Reencode<Error = Unfit>,
    code: &mut CodeSection,
    body: &FunctionBody<'_>,
) -> Result<Places, Error> {
    let (begin, mut places) = (body.range().start, Places::default());
    let mut function = reencoder.new_function_with_parsed_locals(body)?;
    let mut operators = body.get_operators_reader()?;
    while !operators.eof() {
        places.push(operators.original_position() - begin, function.byte_len());
        function.instruction(&reencoder.parse_instruction(&mut operators)?);
    }
    code.function(&function);
    Ok(places)
}

/// Where the instructions of a function went: from this place on, they begin at that one and follow one another as before.
#[derive(Default)]
pub(super) struct Places(Vec<(usize, usize)>);

impl Places {
    /// The next instruction, which began at `before`, begins at `now`.
    pub(super) fn push(&mut self, before: usize, now: usize) {
        let goes_on = |(from, to): &(usize, usize)| before - from == now - to;
        if !self.0.last().is_some_and(goes_on) {
            self.0.push((before, now));
        }
    }

    fn now(&self, before: usize) -> usize {
        let count = self.0.partition_point(|(from, _)| *from <= before);
        let last = count.checked_sub(1).and_then(|last| self.0.get(last));
        last.map_or(before, |(from, to)| before - from + to)
    }

    /// The name of the function. One that the compiler of OML made says where the nodes of its action begin (`crate::origin`).
    pub(super) fn named<'n>(&self, name: &'n str) -> Cow<'n, str> {
        let mut lines = name.lines();
        let Some(first) = lines.next().filter(|first| first.contains('\t')) else { return name.into() };
        let mut named = first.to_owned();
        for line in lines {
            let mark = line.split_once(':').and_then(|(place, node)| Some((place.parse().ok()?, node)));
            named.push('\n');
            match mark {
                Some((place, node)) => named.push_str(&format!("{}:{node}", self.now(place))),
                None => named.push_str(line),
            }
        }
        named.into()
    }
}
