//! The runtime library: the core module that every app is appended to, and what the compiler must know of it.
//!
//! The module is built from `platform/oml-runtime` by this crate's build script and read once per
//! process. Invariant: it parses; a build that embeds a broken module does not pass its own tests.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use wasmparser::{ExternalKind, Operator, Parser, Payload, TypeRef};

pub(crate) static MODULE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/runtime.wasm"));

/// The runtime library, read; or why it cannot be.
pub(crate) static RUNTIME: LazyLock<Result<Runtime, String>> =
    LazyLock::new(|| Runtime::read(MODULE).map_err(|reason| format!("the runtime library: {reason}")));

/// No module has this many functions, so code that calls it is refused by the validator.
const NO_FUNCTION: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct Runtime {
    pub(crate) module: &'static [u8],
    /// Imported and own functions: where appended ones begin.
    pub(crate) functions: u32,
    pub(crate) types: u32,
    pub(crate) table: u64,
    pub(crate) heap_base: u32,
    pub(crate) app: u32,
    pub(crate) pending: u32,
    pub(crate) node: u32,
    /// Where the runtime holds the end of what is allocated, and of the room that a text was last given.
    pub(crate) next: u32,
    pub(crate) room: u32,
    exports: BTreeMap<&'static str, u32>,
}

impl Runtime {
    /// The index of an exported function. One that is missing is a bug that the validator reports.
    pub(crate) fn function(&self, name: &str) -> u32 {
        self.exports.get(name).copied().unwrap_or(NO_FUNCTION)
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "wasmparser's enums grow with the standard; what is not named is of no interest"
    )]
    fn read(module: &'static [u8]) -> Result<Runtime, String> {
        let mut runtime = Runtime { module, ..Runtime::default() };
        let mut globals = Vec::new();
        let mut exported_globals = BTreeMap::new();
        for payload in Parser::new(0).parse_all(module) {
            match payload.map_err(text_of)? {
                Payload::TypeSection(section) => runtime.types = section.count(),
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.map_err(text_of)?;
                        runtime.functions += u32::from(matches!(import.ty, TypeRef::Func(_)));
                    }
                }
                Payload::FunctionSection(section) => runtime.functions += section.count(),
                Payload::TableSection(section) => {
                    for table in section {
                        runtime.table = table.map_err(text_of)?.ty.initial;
                    }
                }
                Payload::GlobalSection(section) => {
                    for global in section {
                        let mut ops = global.map_err(text_of)?.init_expr.get_operators_reader();
                        globals.push(match ops.read() {
                            Ok(Operator::I32Const { value }) => value as u32,
                            _ => 0,
                        });
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export.map_err(text_of)?;
                        if export.kind == ExternalKind::Func {
                            runtime.exports.insert(export.name, export.index);
                        } else if export.kind == ExternalKind::Global {
                            exported_globals.insert(export.name, export.index);
                        }
                    }
                }
                _ => {}
            }
        }
        let global = |name: &str| {
            let index = exported_globals.get(name).ok_or_else(|| format!("it exports no `{name}`"))?;
            globals.get(*index as usize).copied().ok_or_else(|| format!("`{name}` is not its own"))
        };
        runtime.heap_base = global("__heap_base")?;
        runtime.app = global("RT_APP")?;
        runtime.pending = global("RT_PENDING")?;
        runtime.node = global("RT_NODE")?;
        runtime.next = global("RT_NEXT")?;
        runtime.room = global("RT_ROOM")?;
        Ok(runtime)
    }
}

fn text_of(error: wasmparser::BinaryReaderError) -> String {
    error.to_string()
}

/// Exports that the finished component keeps; everything else was for the compiler.
pub(crate) fn keeps(export: &str) -> bool {
    export == "memory" || export.contains('#') || export.starts_with("cabi_") || export == "_initialize"
}
