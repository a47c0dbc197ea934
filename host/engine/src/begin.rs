//! How the memory of an instance begins: by copying its data, or by mapping them.
//!
//! wasmtime maps what a memory begins with, page by page on write, into a slot of its pool. Where the slot had the same module before, that is
//! there already and costs nothing. Where it had another one, two mappings change, each of which interrupts the other cores, and every
//! page that is touched is a fault: 145 microseconds more for a request that takes forty. A host with thousands of apps has
//! slots for hundreds, so that most requests are of the second kind. To copy costs each of them a fraction of a microsecond for ten kilobytes, any
//! memory fits any app, and memories can be a host's own ([`crate::slots`]). Only large data are mapped, because to copy them would cost more than it saves.

use wasmparser::{Data, DataKind, Parser, Payload};

/// Most data of a module that are copied for each instance, in bytes: 64 KiB take 2.7 us, and to map them where another
/// app was takes 145. With what a small request writes they stay within what a slot keeps.
const COPIED_BYTES_MAX: usize = 64 << 10;
/// Most pieces of data in a module, each of which is a call into the engine.
const PIECES_MAX: u32 = 16;

/// Which of both a component does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Beginning {
    Copied,
    Mapped,
}

impl Beginning {
    /// Looks at the data of all modules, those of components inside of it, too. What is no component is said to be copied: the compiler says why it is none.
    pub(crate) fn of(component: &[u8]) -> Self {
        let is_large = Parser::new(0).parse_all(component).map_while(Result::ok).any(|payload| {
            let Payload::DataSection(data) = payload else { return false };
            let of_memory = |piece: Data<'_>| match piece.kind {
                DataKind::Active { .. } => Some(piece.data.len()),
                DataKind::Passive => None,
            };
            let pieces = data.into_iter().map_while(Result::ok).filter_map(of_memory);
            let (count, bytes) = pieces.fold((0, 0), |(count, bytes), piece| (count + 1, bytes + piece));
            count > PIECES_MAX || bytes > COPIED_BYTES_MAX
        });
        if is_large { Self::Mapped } else { Self::Copied }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use std::fs::File;

    use wasm_encoder::*;
    use wasmtime::component::Linker;

    use super::{Beginning, COPIED_BYTES_MAX, PIECES_MAX};
    use crate::artefact::{VerifiedFile, compile, load_file};
    use crate::{Engine, EngineSettings};

    /// A memory of one page.
    pub(crate) const MEMORY: MemoryType =
        MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None };

    /// Where data begin.
    const PLACE: i32 = 16;
    /// Of the memory.
    const PAGES: u64 = 4;

    /// Exports `sum`, of all bytes that its memory begins with: `pieces`, each at its place, the last of which wins.
    fn component(pieces: &[(&ConstExpr, &[u8])]) -> Vec<u8> {
        let (mut types, mut functions, mut memories) =
            (TypeSection::new(), FunctionSection::new(), MemorySection::new());
        types.ty().function([], [ValType::I32]);
        functions.function(0);
        memories.memory(MemoryType { minimum: PAGES, ..MEMORY });
        let (mut globals, mut exports, mut code) =
            (GlobalSection::new(), ExportSection::new(), CodeSection::new());
        let global = GlobalType { val_type: ValType::I32, mutable: false, shared: false };
        globals.global(global, &ConstExpr::i32_const(PLACE));
        exports.export("sum", ExportKind::Func, 0);
        let mut sum = Function::new([(2, ValType::I32)]);
        sum.instructions()
            .loop_(BlockType::Empty)
            .local_get(1)
            .local_get(0)
            .i32_load8_u(MemArg { offset: 0, align: 0, memory_index: 0 })
            .i32_add()
            .local_set(1)
            .local_get(0)
            .i32_const(1)
            .i32_add()
            .local_tee(0)
            .i32_const(PAGES as i32 * 65_536)
            .i32_lt_u()
            .br_if(0)
            .end()
            .local_get(1)
            .end();
        code.function(&sum);
        let mut data = DataSection::new();
        for (place, bytes) in pieces {
            data.active(0, place, bytes.iter().copied());
        }
        data.passive(*b"nobody asks for it");
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&memories).section(&globals).section(&exports);
        module.section(&DataCountSection { count: data.len() }).section(&code).section(&data);

        let mut component = ComponentBuilder::default();
        let module = component.core_module(None, &module);
        let (number, mut encode) = component.type_function(None);
        encode
            .params::<[(&str, ComponentValType); 0], _>([])
            .result(Some(ComponentValType::Primitive(PrimitiveValType::U32)));
        let instance = component.core_instantiate(None, module, [] as [(&str, ModuleArg); 0]);
        let sum = component.core_alias_export(None, instance, "sum", ExportKind::Func);
        let sum = component.lift_func(None, sum, number, []);
        component.export("sum", ComponentExportKind::Func, sum, None);
        component.finish()
    }

    /// Loads it from a file as a host does. What it says, and whether its memory is a mapping of that file.
    fn run(component: &[u8]) -> (u32, bool) {
        let engine = Engine::new(EngineSettings { instances_max: 2, ..EngineSettings::default() }).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), compile(&Engine::for_compiling().unwrap(), component).unwrap()).unwrap();
        let native = VerifiedFile::check(File::open(file.path()).unwrap(), |_| Ok(true)).unwrap().unwrap();
        let component = load_file(&engine, &native).unwrap();
        let mut store = wasmtime::Store::new(component.engine(), ());
        store.set_epoch_deadline(1_000_000);
        let linker = Linker::new(component.engine());
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let sum = instance.get_typed_func::<(), (u32,)>(&mut store, "sum").unwrap();
        let (sum,) = sum.call(&mut store, ()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let file = file.path().to_str().unwrap();
        (sum, maps.lines().any(|line| line.ends_with(file) && line.contains(" rw-p ")))
    }

    #[test]
    fn a_small_memory_is_copied_and_a_large_one_is_mapped() {
        let place = ConstExpr::i32_const(PLACE);
        for (bytes, is_mapped) in [(1, false), (COPIED_BYTES_MAX, false), (COPIED_BYTES_MAX + 1, true)] {
            let data = vec![3; bytes];
            assert_eq!(run(&component(&[(&place, &data)])), (3 * bytes as u32, is_mapped), "{bytes} bytes");
        }
    }

    #[test]
    fn data_keep_their_order_and_many_pieces_are_mapped() {
        let place = ConstExpr::i32_const(PLACE);
        assert_eq!(run(&component(&[(&place, &[1, 2, 3]), (&place, &[7])])), (7 + 2 + 3, false));
        let pieces = vec![(&place, &[1][..]); PIECES_MAX as usize + 1];
        assert_eq!(run(&component(&pieces)), (1, true));
    }

    #[test]
    fn data_that_no_memory_begins_with_do_not_count() {
        let mut data = DataSection::new();
        data.passive(vec![0; COPIED_BYTES_MAX + 1]);
        assert_eq!(Beginning::of(Module::new().section(&data).as_slice()), Beginning::Copied);
        data.active(0, &ConstExpr::i32_const(0), vec![0; COPIED_BYTES_MAX + 1]);
        assert_eq!(Beginning::of(Module::new().section(&data).as_slice()), Beginning::Mapped);
        assert_eq!(Beginning::of(b"nothing of the kind"), Beginning::Copied);
    }
}
