//! Small components: what a compiler of a guest language would make, and more than it would.

use arbitrary::Arbitrary;
use wasm_encoder::{
    CodeSection, ComponentBuilder, ComponentExportKind, ComponentTypeRef, ComponentValType, ConstExpr,
    DataSection, ElementSection, Elements, EntityType, ExportKind, ExportSection, Function, FunctionSection,
    ImportSection, InstanceType, MemorySection, MemoryType, Module, ModuleArg, RefType, TableSection,
    TableType, TypeBounds, TypeSection, ValType,
};

/// The interface that every app exports.
pub const HANDLER: &str = "wasi:http/incoming-handler@0.2.0";
/// Where its types are.
const TYPES: &str = "wasi:http/types@0.2.0";
/// Interfaces that hosts give, and two that they do not.
const INTERFACES: [&str; 8] = [
    "odeon:sql/session@0.1.0",
    "odeon:log/log@0.1.0",
    "wasi:cli/stdout@0.2.0",
    "wasi:random/random@0.2.0",
    "wasi:clocks/wall-clock@0.2.3",
    "wasi:filesystem/preopens@0.2.0",
    "wasi:nn/graph@0.2.0",
    "evil:host/everything@1.0.0",
];
/// Parts of each kind in one component: a few more than hosts take.
const PARTS_MAX: u8 = 80;

/// What a component is made of beside its handler. Zero of everything is the smallest app there is.
#[derive(Debug, Clone, Default, Arbitrary)]
pub struct Plan {
    /// Interfaces that it imports, each a bit.
    pub imports: u8,
    /// Memories of its handler's module.
    pub memories: u8,
    /// Pages that each of them begins with.
    pub pages: u32,
    /// Tables of that module.
    pub tables: u8,
    /// Elements that each of them begins with.
    pub elements: u32,
    /// Instances of a module of its own.
    pub instances: u8,
    /// Globals of that module: they are a part of each instance.
    pub globals: u16,
    /// Components inside one another.
    pub depth: u8,
    /// Blocks inside one another, in the handler.
    pub blocks: u16,
    /// Bytes of data.
    pub data: u8,
    /// The handler has another type than it must have.
    pub is_odd: bool,
    /// The handler's module imports a function by a shim.
    pub has_shim: bool,
}

/// The smallest app there is.
pub fn smallest() -> Vec<u8> {
    component(&Plan::default(), None)
}

/// A component after a plan, with one more core module that needs nothing.
pub fn component(plan: &Plan, module: Option<&[u8]>) -> Vec<u8> {
    let mut component = ComponentBuilder::default();
    for (at, name) in INTERFACES.iter().enumerate() {
        if plan.imports & (1 << at) != 0 {
            let nothing = component.type_instance(None, &InstanceType::new());
            component.import(*name, ComponentTypeRef::Instance(nothing));
        }
    }
    let mut types = InstanceType::new();
    for resource in ["incoming-request", "response-outparam"] {
        types.export(resource, ComponentTypeRef::Type(TypeBounds::SubResource));
    }
    let types = component.type_instance(None, &types);
    let types = component.import(TYPES, ComponentTypeRef::Instance(types));
    let resources = ["incoming-request", "response-outparam"]
        .map(|resource| component.alias_export(types, resource, ComponentExportKind::Type));
    let [request, out] = resources.map(|resource| {
        let (own, kind) = component.type_defined(None);
        kind.own(resource);
        ComponentValType::Type(own)
    });
    let (handle_type, mut handle) = component.type_function(None);
    match plan.is_odd {
        true => handle.params([("request", request)]).result(None),
        false => handle.params([("request", request), ("response-out", out)]).result(None),
    };
    let core = component.core_module(None, &handler(plan));
    let core = match plan.has_shim {
        true => by_shim(&mut component, core, resources[0]),
        false => component.core_instantiate(None, core, []),
    };
    let handle = component.core_alias_export(None, core, "handle", ExportKind::Func);
    let handle = component.lift_func(None, handle, handle_type, []);
    if plan.instances > 0 {
        let module = component.core_module(None, &part(plan));
        for _ in 0..plan.instances.min(PARTS_MAX) {
            component.core_instantiate(None, module, []);
        }
    }
    if let Some(module) = module {
        let module = component.core_module_raw(None, module);
        component.core_instantiate(None, module, []);
    }
    if plan.depth > 0 {
        component.component(None, nested(plan.depth));
    }
    let handler = component.instantiate_exports(None, [("handle", ComponentExportKind::Func, handle)]);
    component.export(HANDLER, ComponentExportKind::Instance, handler, None);
    component.finish()
}

/// Instantiates a module that imports how a resource is dropped, by a shim and a fixup, as tools of languages do it for what needs a memory.
fn by_shim(component: &mut ComponentBuilder, main: u32, resource: u32) -> u32 {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32], []);
    let table = TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: 1,
        maximum: Some(1),
        shared: false,
    };

    let (mut functions, mut tables, mut exports) =
        (FunctionSection::new(), TableSection::new(), ExportSection::new());
    functions.function(0);
    tables.table(table);
    exports.export("0", ExportKind::Func, 0).export("$imports", ExportKind::Table, 0);
    let (mut code, mut body) = (CodeSection::new(), Function::new([]));
    body.instructions().local_get(0).i32_const(0).call_indirect(0, 0).end();
    code.function(&body);
    let mut shim = Module::new();
    shim.section(&types).section(&functions).section(&tables).section(&exports).section(&code);

    let (mut imports, mut elements) = (ImportSection::new(), ElementSection::new());
    imports.import("", "0", EntityType::Function(0)).import("", "$imports", table);
    elements.active(None, &ConstExpr::i32_const(0), Elements::Functions([0][..].into()));
    let mut fixup = Module::new();
    fixup.section(&types).section(&imports).section(&elements);

    let [shim, fixup] = [shim, fixup].map(|module| component.core_module(None, &module));
    let shim = component.core_instantiate(None, shim, []);
    let drop = component.core_alias_export(None, shim, "0", ExportKind::Func);
    let given = component.core_instantiate_exports(None, [("drop", ExportKind::Func, drop)]);
    let main = component.core_instantiate(None, main, [("host", ModuleArg::Instance(given))]);
    let table = component.core_alias_export(None, shim, "$imports", ExportKind::Table);
    let drop = component.resource_drop(resource);
    let exports = [("0", ExportKind::Func, drop), ("$imports", ExportKind::Table, table)];
    let given = component.core_instantiate_exports(None, exports);
    component.core_instantiate(None, fixup, [("", ModuleArg::Instance(given))]);
    main
}

/// The module that the handler is a function of.
fn handler(plan: &Plan) -> Module {
    let (mut types, mut functions, mut code) =
        (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    let params = if plan.is_odd { vec![ValType::I32] } else { vec![ValType::I32; 2] };
    types.ty().function(params, []);
    functions.function(0);
    let mut body = Function::new([]);
    for _ in 0..plan.blocks {
        body.instructions().block(wasm_encoder::BlockType::Empty);
    }
    for _ in 0..=plan.blocks {
        body.instructions().end();
    }
    code.function(&body);
    let (mut imports, mut exports) = (ImportSection::new(), ExportSection::new());
    if plan.has_shim {
        types.ty().function([ValType::I32], []);
        imports.import("host", "drop", EntityType::Function(1));
    }
    exports.export("handle", ExportKind::Func, imports.len());
    let mut module = Module::new();
    module.section(&types).section(&imports).section(&functions);
    if plan.tables > 0 {
        let mut tables = TableSection::new();
        for _ in 0..plan.tables.min(PARTS_MAX) {
            tables.table(TableType {
                element_type: RefType::FUNCREF,
                table64: false,
                minimum: plan.elements.into(),
                maximum: None,
                shared: false,
            });
        }
        module.section(&tables);
    }
    if plan.memories > 0 {
        let mut memories = MemorySection::new();
        for _ in 0..plan.memories.min(PARTS_MAX) {
            let minimum = plan.pages.into();
            memories.memory(MemoryType {
                minimum,
                maximum: None,
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
        }
        module.section(&memories);
    }
    module.section(&exports).section(&code);
    if plan.memories > 0 && plan.data > 0 {
        let mut data = DataSection::new();
        data.active(0, &ConstExpr::i32_const(0), vec![plan.data; usize::from(plan.data)]);
        module.section(&data);
    }
    module
}

/// A module that has nothing but globals.
fn part(plan: &Plan) -> Module {
    let mut globals = wasm_encoder::GlobalSection::new();
    for _ in 0..plan.globals {
        let global = wasm_encoder::GlobalType { val_type: ValType::I64, mutable: true, shared: false };
        globals.global(global, &ConstExpr::i64_const(0));
    }
    let mut module = Module::new();
    module.section(&globals);
    module
}

fn nested(depth: u8) -> ComponentBuilder {
    let mut component = ComponentBuilder::default();
    if depth > 1 {
        component.component(None, nested(depth - 1));
    }
    component
}

/// A core module that imports what nobody gives.
pub fn needy() -> Vec<u8> {
    let (mut types, mut imports) = (TypeSection::new(), ImportSection::new());
    types.ty().function([], []);
    imports.import("env", "abort", EntityType::Function(0));
    let mut module = Module::new();
    module.section(&types).section(&imports);
    module.finish()
}
