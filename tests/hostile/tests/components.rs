//! Files that somebody publishes as components and that are none, or none that a host should run: each is refused with a
//! reason, nothing of it is kept, and others go on.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use odeon_hostile::{Beside, publish};
use odeon_tests::Installation;
use wasm_encoder::{
    CodeSection, Component, ComponentImportSection, ComponentTypeRef, ComponentTypeSection, Function,
    FunctionSection, InstanceType, MemorySection, MemoryType, Module, ModuleSection, TypeSection,
};

/// More than a component may have, in bytes.
const TOO_LARGE_BYTES: usize = (64 << 20) + 1;

/// A component that imports what no host has.
fn stranger() -> Vec<u8> {
    let (mut component, mut types, mut imports) =
        (Component::new(), ComponentTypeSection::new(), ComponentImportSection::new());
    types.instance(&InstanceType::new());
    imports.import("evil:host/everything@1.0.0", ComponentTypeRef::Instance(0));
    component.section(&types).section(&imports);
    component.finish()
}

/// A component around a core module.
fn around(module: &Module) -> Vec<u8> {
    let mut component = Component::new();
    component.section(&ModuleSection(module));
    component.finish()
}

/// A core module that wants more memories than an instance may have.
fn hoarder() -> Module {
    let (mut module, mut memories) = (Module::new(), MemorySection::new());
    for _ in 0..200 {
        let memory = MemoryType {
            minimum: 65_536,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        };
        memories.memory(memory);
    }
    module.section(&memories);
    module
}

/// A core module whose one function is nested as deeply as this.
fn nested(depth: usize) -> Module {
    let (mut module, mut types) = (Module::new(), TypeSection::new());
    types.ty().function([], []);
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    functions.function(0);
    let mut function = Function::new([]);
    for _ in 0..depth {
        function.instructions().block(wasm_encoder::BlockType::Empty);
    }
    for _ in 0..=depth {
        function.instructions().end();
    }
    code.function(&function);
    module.section(&types).section(&functions).section(&code);
    module
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_component_is_refused_with_a_reason() {
    let site = Installation::start_with(&["--no-sample"]).await;
    publish(&site);
    let good = fs::read(odeon_tests::hello()).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    let files: [(&str, Vec<u8>); 9] = [
        ("empty", Vec::new()),
        ("text", b"<html>404</html>".to_vec()),
        ("module", Module::new().finish()),
        ("half", good[..middle].to_vec()),
        ("flipped", flipped),
        ("large", [&good[..8], &vec![0; TOO_LARGE_BYTES]].concat()),
        ("stranger", stranger()),
        ("hoarder", around(&hoarder())),
        ("nested", around(&nested(200_000))),
    ];
    let folder = tempfile::tempdir().unwrap();
    let beside = Beside::start(site.url("development", "/Hello/"));
    for (name, bytes) in files {
        let file = folder.path().join(format!("{name}.wasm"));
        fs::write(&file, bytes).unwrap();
        let said = site.fail(&["publish", file.to_str().unwrap(), "--name", "Evil"]);
        assert!(said.len() > 20 && !said.contains("panicked"), "{name}: a reason, not `{said}`");
        let apps = site.succeed(&["apps"]);
        assert!(!apps.contains("Evil"), "{name}: nothing of it is kept: {apps}");
    }
    assert!(beside.stop().await > 0);
    // A control: what was broken above is taken when it is whole.
    let file = folder.path().join("good.wasm");
    fs::write(&file, good).unwrap();
    site.succeed(&["publish", file.to_str().unwrap(), "--name", "Evil"]);
}
