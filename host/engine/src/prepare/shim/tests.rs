//! Components as `wit-component` makes them, and some that only look like it.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::{Arc, Mutex};

use wasm_encoder::*;
use wasmparser::{Parser, Payload};

use super::super::prepared;
use super::without_shim;
use crate::begin::tests::MEMORY;

/// How a component differs from the usual one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum But {
    NotAtAll,
    /// The main module has a table, and calls one of the imports through it.
    MainHasATable,
    /// The main module has an export of the name that the table is to have.
    NameIsTaken,
    /// The main module calls before the fixup is there.
    CallsTooEarly,
    /// A resource has a destructor, which is a core function behind those of the shim.
    HasADestructor,
    /// The shim does something else, too.
    ShimDoesMore,
    /// The shim is given to the fixup as it is.
    ShimIsHandedOver,
    /// Another module uses a function of the shim.
    AnotherUsesIt,
    /// A function of the shim is exported to the caller.
    CallerUsesIt,
    /// A function of the shim is a destructor.
    DestroysByIt,
}

const USUAL: [But; 5] =
    [But::NotAtAll, But::MainHasATable, But::NameIsTaken, But::CallsTooEarly, But::HasADestructor];
const UNUSUAL: [But; 5] =
    [But::ShimDoesMore, But::ShimIsHandedOver, But::AnotherUsesIt, But::CallerUsesIt, But::DestroysByIt];

/// The table of the shim.
const TABLE: TableType =
    TableType { element_type: RefType::FUNCREF, minimum: 1, maximum: Some(1), table64: false, shared: false };

/// Exports `run`, which says a number and then a text by functions that it imports: one without the shim, one by it.
fn component(but: But) -> Vec<u8> {
    let mut component = ComponentBuilder::default();
    let (text, mut encode) = component.type_function(None);
    encode.params([("text", PrimitiveValType::String)]).result(None);
    let (number, mut encode) = component.type_function(None);
    encode.params([("number", PrimitiveValType::U32)]).result(None);
    let (nothing, mut encode) = component.type_function(None);
    encode.params::<[(&str, ComponentValType); 0], _>([]).result(None);
    let say_text = component.import("say-text", ComponentTypeRef::Func(text));
    let say_number = component.import("say-number", ComponentTypeRef::Func(number));

    let main = component.core_module(None, &main_module(but));
    let shim = component.core_module(None, &shim_module(but));
    let fixup = component.core_module(None, &fixup_module());

    let shim = component.core_instantiate(None, shim, [] as [(&str, ModuleArg); 0]);
    let by_shim = component.core_alias_export(None, shim, "0", ExportKind::Func);
    if but == But::DestroysByIt {
        let destructor = component.core_alias_export(None, shim, "1", ExportKind::Func);
        component.type_resource(None, ValType::I32, Some(destructor));
    }
    let lowered_number = component.lower_func(None, say_number, []);
    let given = [("text", ExportKind::Func, by_shim), ("number", ExportKind::Func, lowered_number)];
    let given = component.core_instantiate_exports(None, given);
    let main = component.core_instantiate(None, main, [("host", ModuleArg::Instance(given))]);
    if but == But::AnotherUsesIt {
        let mut another = Module::new();
        let mut types = TypeSection::new();
        types.ty().function([ValType::I32, ValType::I32], []);
        let mut imports = ImportSection::new();
        imports.import("host", "text", EntityType::Function(0));
        another.section(&types).section(&imports);
        let another = component.core_module(None, &another);
        component.core_instantiate(None, another, [("host", ModuleArg::Instance(given))]);
    }
    let memory = component.core_alias_export(None, main, "memory", ExportKind::Memory);
    let lowered_text = component.lower_func(None, say_text, [CanonicalOption::Memory(memory)]);
    let given = match but {
        But::ShimIsHandedOver => {
            let given = component.core_instantiate_exports(None, [("0", ExportKind::Func, lowered_text)]);
            [("", given), ("shim", shim)]
        }
        _ => {
            let table = component.core_alias_export(None, shim, "$imports", ExportKind::Table);
            let exports = [("0", ExportKind::Func, lowered_text)];
            let given = component.core_instantiate_exports(None, exports);
            let table = component.core_instantiate_exports(None, [("$imports", ExportKind::Table, table)]);
            [("", given), ("shim", table)]
        }
    };
    component.core_instantiate(None, fixup, given.map(|(name, index)| (name, ModuleArg::Instance(index))));
    let run = component.core_alias_export(None, main, "run", ExportKind::Func);
    let run = component.lift_func(None, run, nothing, []);
    component.export("run", ComponentExportKind::Func, run, None);
    if but == But::HasADestructor {
        let destructor = component.core_alias_export(None, main, "say-number", ExportKind::Func);
        export_resource(&mut component, destructor);
    }
    if but == But::CallerUsesIt {
        let (two, mut encode) = component.type_function(None);
        encode.params([("at", PrimitiveValType::U32), ("bytes", PrimitiveValType::U32)]).result(None);
        let again = component.lift_func(None, by_shim, two, []);
        component.export("again", ComponentExportKind::Func, again, None);
    }
    component.finish()
}

/// Exports `make`, which gives resource 42.
fn export_resource(component: &mut ComponentBuilder, destructor: u32) {
    let resource = component.type_resource(None, ValType::I32, Some(destructor));
    let new = component.resource_new(resource);
    let (mut types, mut imports, mut functions) =
        (TypeSection::new(), ImportSection::new(), FunctionSection::new());
    types.ty().function([ValType::I32], [ValType::I32]);
    types.ty().function([], [ValType::I32]);
    imports.import("", "new", EntityType::Function(0));
    functions.function(1);
    let (mut exports, mut code) = (ExportSection::new(), CodeSection::new());
    exports.export("make", ExportKind::Func, 1);
    code.function(&body(&[Instruction::I32Const(42), Instruction::Call(0)]));
    let mut maker = Module::new();
    maker.section(&types).section(&imports).section(&functions).section(&exports).section(&code);
    let maker = component.core_module(None, &maker);
    let given = component.core_instantiate_exports(None, [("new", ExportKind::Func, new)]);
    let maker = component.core_instantiate(None, maker, [("", ModuleArg::Instance(given))]);
    let make = component.core_alias_export(None, maker, "make", ExportKind::Func);
    let resource = component.export("thing", ComponentExportKind::Type, resource, None);
    let (own, encode) = component.type_defined(None);
    encode.own(resource);
    let (kind, mut encode) = component.type_function(None);
    encode.params::<[(&str, ComponentValType); 0], _>([]).result(Some(ComponentValType::Type(own)));
    let make = component.lift_func(None, make, kind, []);
    component.export("make", ComponentExportKind::Func, make, None);
}

fn types() -> TypeSection {
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32, ValType::I32], []);
    types.ty().function([ValType::I32], []);
    types.ty().function([], []);
    types
}

fn body(instructions: &[Instruction<'_>]) -> Function {
    let mut function = Function::new([]);
    for instruction in instructions.iter().chain([&Instruction::End]) {
        function.instruction(instruction);
    }
    function
}

fn main_module(but: But) -> Module {
    let (mut imports, mut functions, mut tables) =
        (ImportSection::new(), FunctionSection::new(), TableSection::new());
    imports.import("host", "text", EntityType::Function(0));
    imports.import("host", "number", EntityType::Function(1));
    functions.function(2);
    tables.table(TableType { minimum: 2, maximum: None, ..TABLE });
    let mut memories = MemorySection::new();
    memories.memory(MEMORY);
    let mut exports = ExportSection::new();
    exports.export("memory", ExportKind::Memory, 0).export("run", ExportKind::Func, 2);
    let mut elements = ElementSection::new();
    elements.active(None, &ConstExpr::i32_const(1), Elements::Functions([0][..].into()));
    let say_text = match but {
        But::MainHasATable => {
            vec![Instruction::I32Const(1), Instruction::CallIndirect { type_index: 0, table_index: 0 }]
        }
        _ => vec![Instruction::Call(0)],
    };
    let said =
        [Instruction::I32Const(7), Instruction::Call(1), Instruction::I32Const(16), Instruction::I32Const(5)];
    let mut code = CodeSection::new();
    code.function(&body(&[&said[..], &say_text].concat()));
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(16), *b"hello");
    let mut named = NameMap::new();
    [(0, "say_text"), (1, "say_number"), (2, "run")]
        .iter()
        .for_each(|(index, name)| named.append(*index, name));
    let mut names = NameSection::new();
    names.functions(&named);

    let mut module = Module::new();
    module.section(&types()).section(&imports).section(&functions);
    if but == But::MainHasATable {
        module.section(&tables);
    }
    module.section(&memories);
    if but == But::HasADestructor {
        exports.export("say-number", ExportKind::Func, 1);
    }
    if but == But::NameIsTaken {
        exports.export("$imports", ExportKind::Func, 2);
    }
    module.section(&exports);
    if but == But::CallsTooEarly {
        module.section(&StartSection { function_index: 2 });
    }
    if but == But::MainHasATable {
        module.section(&elements);
    }
    module.section(&code).section(&data).section(&names);
    module
}

fn shim_module(but: But) -> Module {
    let (mut functions, mut tables, mut exports) =
        (FunctionSection::new(), TableSection::new(), ExportSection::new());
    functions.function(0);
    tables.table(TABLE);
    exports.export("0", ExportKind::Func, 0).export("$imports", ExportKind::Table, 0);
    let mut call = vec![
        Instruction::LocalGet(0),
        Instruction::LocalGet(1),
        Instruction::I32Const(0),
        Instruction::CallIndirect { type_index: 0, table_index: 0 },
    ];
    if but == But::ShimDoesMore {
        call.push(Instruction::Nop);
    }
    let mut code = CodeSection::new();
    code.function(&body(&call));
    if but == But::DestroysByIt {
        functions.function(1);
        exports.export("1", ExportKind::Func, 1);
        let call = Instruction::CallIndirect { type_index: 1, table_index: 0 };
        code.function(&body(&[Instruction::LocalGet(0), Instruction::I32Const(0), call]));
    }
    let mut module = Module::new();
    module.section(&types()).section(&functions).section(&tables).section(&exports).section(&code);
    module
}

fn fixup_module() -> Module {
    let (mut imports, mut elements) = (ImportSection::new(), ElementSection::new());
    imports.import("", "0", EntityType::Function(0));
    imports.import("shim", "$imports", TABLE);
    elements.active(None, &ConstExpr::i32_const(0), Elements::Functions([0][..].into()));
    let mut module = Module::new();
    module.section(&types()).section(&imports).section(&elements);
    module
}

/// What a component says, and how it ends.
fn run(component: &[u8]) -> (Vec<String>, Result<(), wasmtime::Trap>) {
    let engine = wasmtime::Engine::default();
    let said = Arc::new(Mutex::new(Vec::new()));
    let mut linker = wasmtime::component::Linker::new(&engine);
    let (texts, numbers) = (said.clone(), said.clone());
    let mut root = linker.root();
    root.func_wrap("say-text", move |_, (text,): (String,)| {
        texts.lock().unwrap().push(text);
        Ok(())
    })
    .unwrap();
    root.func_wrap("say-number", move |_, (number,): (u32,)| {
        numbers.lock().unwrap().push(number.to_string());
        Ok(())
    })
    .unwrap();
    let component = wasmtime::component::Component::new(&engine, component).unwrap();
    let mut store = wasmtime::Store::new(&engine, ());
    let ended = linker.instantiate(&mut store, &component).and_then(|instance| {
        let run = instance.get_typed_func::<(), ()>(&mut store, "run")?;
        run.call(&mut store, ())?;
        let Some(make) = instance.get_func(&mut store, "make") else { return Ok(()) };
        let mut made = [wasmtime::component::Val::Bool(false)];
        make.call(&mut store, &[], &mut made)?;
        let [wasmtime::component::Val::Resource(resource)] = made else { panic!("no resource") };
        resource.resource_drop(&mut store)
    });
    let said = said.lock().unwrap().clone();
    (said, ended.map_err(|error| error.downcast().unwrap()))
}

fn modules(component: &[u8]) -> usize {
    let is_module = |payload: &wasmparser::Result<_>| matches!(payload, Ok(Payload::ModuleSection { .. }));
    Parser::new(0).parse_all(component).filter(is_module).count()
}

#[test]
fn a_component_does_the_same_without_its_shim() {
    for but in USUAL {
        let usual = component(but);
        let without = without_shim(&usual).unwrap_or_else(|| panic!("{but:?} stays as it is"));
        assert_eq!(modules(&without) + 1, modules(&usual), "{but:?}");
        let did = run(&without);
        assert_eq!(did, run(&usual), "{but:?}");
        let (said, ended) = match but {
            But::CallsTooEarly => (&["7"][..], Err(wasmtime::Trap::IndirectCallToNull)),
            But::HasADestructor => (&["7", "hello", "42"][..], Ok(())),
            _ => (&["7", "hello"][..], Ok(())),
        };
        assert_eq!(did, (said.iter().map(ToString::to_string).collect(), ended), "{but:?}");
        assert!(without_shim(&without).is_none(), "{but:?}: there is nothing left to do");
    }
}

#[test]
fn what_only_looks_like_it_stays_as_it_is() {
    for but in UNUSUAL {
        let unusual = component(but);
        assert!(super::is_valid(&unusual), "{but:?}");
        assert!(without_shim(&unusual).is_none(), "{but:?}");
    }
    assert!(without_shim(b"not a component").is_none());
}

#[test]
fn functions_keep_their_names() {
    let without = without_shim(&component(But::NotAtAll)).unwrap();
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(&without) {
        let Payload::CustomSection(section) = payload.unwrap() else { continue };
        let wasmparser::KnownCustom::Name(sections) = section.as_known() else { continue };
        for section in sections {
            let wasmparser::Name::Function(map) = section.unwrap() else { continue };
            names.extend(
                map.into_iter().map(|naming| naming.map(|naming| (naming.index, naming.name)).unwrap()),
            );
        }
    }
    assert_eq!(names, [(0, "say_number"), (1, "say_text"), (2, "run")]);
}

/// The parser goes through a component that stands where a module should, and each piece of a nest has all that lies inside of it: to
/// write all pieces again would take the square of its size.
#[test]
fn what_is_no_valid_component_stays_as_it_is() {
    let component = component(But::NotAtAll);
    assert!(prepared(&component).is_some(), "the control");
    let mut nest = Component::new();
    nest.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: &component });
    assert!(prepared(&nest.finish()).is_none());
    assert!(prepared(&main_module(But::NotAtAll).finish()).is_none());
    assert!(prepared(b"nothing of the kind").is_none());
}
