//! Small components that ask for a lot: each is `good` with something added that is instantiated with it, so that nothing
//! but the addition speaks against it.

use wasm_encoder::{
    BlockType, CodeSection, Component, ComponentInstanceSection, ComponentTypeSection, ConstExpr,
    DataSection, Encode, Function, FunctionSection, InstanceSection, Instruction, MemorySection, MemoryType,
    Module, ModuleArg, ModuleSection, NestedComponentSection, PrimitiveValType, RefType, TableSection,
    TableType, TypeSection, ValType,
};

/// Bytes before the sections of a component.
const PREAMBLE_BYTES: usize = 8;
/// The section of a component with another one in it, and the one with instances of components.
const COMPONENT: u8 = 4;
const INSTANCES: u8 = 5;

/// A component with another one in it, which is instantiated with it.
pub fn with(good: &[u8], inner: &Component) -> Vec<u8> {
    let mut bytes = good.to_vec();
    let mut instances = ComponentInstanceSection::new();
    instances
        .instantiate::<[(&str, wasm_encoder::ComponentExportKind, u32); 0], &str>(count(good, COMPONENT), []);
    append(&mut bytes, COMPONENT, &NestedComponentSection(inner));
    append(&mut bytes, INSTANCES, &instances);
    bytes
}

fn append(bytes: &mut Vec<u8>, id: u8, section: &impl Encode) {
    bytes.push(id);
    section.encode(bytes);
}

/// A component that makes one instance of a core module.
pub fn around(module: &Module) -> Component {
    parts(1, module)
}

/// A component that makes so many instances of a core module.
pub fn parts(parts: u32, module: &Module) -> Component {
    let (mut component, mut instances) = (Component::new(), InstanceSection::new());
    for _ in 0..parts {
        instances.instantiate::<[(&str, ModuleArg); 0], &str>(0, []);
    }
    component.section(&ModuleSection(module)).section(&instances);
    component
}

/// How many sections of a kind a component has.
fn count(component: &[u8], kind: u8) -> u32 {
    let (mut at, mut found) = (PREAMBLE_BYTES, 0);
    while at < component.len() {
        let id = component[at];
        let (mut size, mut shift) = (0_usize, 0);
        loop {
            at += 1;
            size |= usize::from(component[at] & 0x7f) << shift;
            shift += 7;
            if component[at] & 0x80 == 0 {
                break;
            }
        }
        at += 1 + size;
        found += u32::from(id == kind);
    }
    found
}

/// A core module with memories of so many pages.
pub fn memories(memories: usize, pages: u64) -> Module {
    let (mut module, mut section) = (Module::new(), MemorySection::new());
    for _ in 0..memories {
        section.memory(memory(pages));
    }
    module.section(&section);
    module
}

fn memory(pages: u64) -> MemoryType {
    MemoryType { minimum: pages, maximum: None, memory64: false, shared: false, page_size_log2: None }
}

/// A core module with tables of so many elements.
pub fn tables(tables: usize, elements: u64) -> Module {
    let (mut module, mut section) = (Module::new(), TableSection::new());
    for _ in 0..tables {
        section.table(TableType {
            element_type: RefType::FUNCREF,
            minimum: elements,
            maximum: None,
            table64: false,
            shared: false,
        });
    }
    module.section(&section);
    module
}

/// A core module whose memory is filled by so many segments, one byte each and a page apart: an image of all of them is
/// as large as the memory.
pub fn segments(segments: u32, pages: u64) -> Module {
    let (mut module, mut memories, mut data) = (Module::new(), MemorySection::new(), DataSection::new());
    memories.memory(memory(pages));
    for at in 0..segments {
        let offset = u64::from(at) * (65_536 * pages - 1) / u64::from(segments.max(2) - 1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_possible_wrap,
            reason = "an address of 32 bits"
        )]
        data.active(0, &ConstExpr::i32_const(offset as u32 as i32), *b"x");
    }
    module.section(&memories).section(&data);
    module
}

/// A core module with so many functions, each with this body.
pub fn functions(functions: u32, body: &Function) -> Module {
    let (mut module, mut types, mut section, mut code) =
        (Module::new(), TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    for _ in 0..functions {
        section.function(0);
        code.function(body);
    }
    module.section(&types).section(&section).section(&code);
    module
}

/// A function whose blocks are nested as deeply as this.
pub fn nested(depth: usize) -> Function {
    let mut function = Function::new([]);
    for _ in 0..depth {
        function.instruction(&Instruction::Block(BlockType::Empty));
    }
    for _ in 0..=depth {
        function.instruction(&Instruction::End);
    }
    function
}

/// A function with a jump table of so many targets.
pub fn jumps(targets: usize) -> Function {
    let mut function = Function::new([]);
    function.instruction(&Instruction::I32Const(0));
    function.instruction(&Instruction::BrTable(vec![0; targets].into(), 0));
    function.instruction(&Instruction::End);
    function
}

/// A function with so many variables, which one declaration of six bytes makes.
pub fn variables(variables: u32) -> Function {
    let mut function = Function::new([(variables, ValType::I64)]);
    function.instruction(&Instruction::End);
    function
}

/// Components in one another: each makes `times` instances of the one inside of it, and the innermost one of an empty core module.
pub fn instances(levels: u32, times: u32) -> Component {
    let mut component = around(&Module::new());
    for _ in 0..levels {
        let (mut outer, mut made) = (Component::new(), ComponentInstanceSection::new());
        for _ in 0..times {
            made.instantiate::<[(&str, wasm_encoder::ComponentExportKind, u32); 0], &str>(0, []);
        }
        outer.section(&NestedComponentSection(&component)).section(&made);
        component = outer;
    }
    component
}

/// A type of tuples of tuples: small to write, and with `width` to the power of `levels` parts.
pub fn types(levels: u32, width: usize) -> Component {
    let (mut component, mut types) = (Component::new(), ComponentTypeSection::new());
    types.defined_type().primitive(PrimitiveValType::U8);
    for level in 0..levels {
        types.defined_type().tuple(vec![wasm_encoder::ComponentValType::Type(level); width]);
    }
    component.section(&types);
    component
}
