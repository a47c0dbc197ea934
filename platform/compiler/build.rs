//! Builds the runtime library from source, so that the compiler can embed it.
//!
//! The nested cargo gets its own target folder and none of the flags of the outer one: a lint run or
//! a coverage run must not change the bytes that apps are made of.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let crate_dir = here.join("../oml-runtime");
    for watched in ["src", "wit", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", crate_dir.join(watched).display());
    }
    println!("cargo::rerun-if-changed={}", here.join("../../sdk/wit").display());
    println!("cargo::rerun-if-changed=build.rs");

    let target = out.join("runtime-target");
    // Paths of this machine must not reach the bytes.
    let remap = format!("--remap-path-prefix={}=/oml-runtime", crate_dir.display());
    let build = |extra: &[&str]| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&crate_dir).args(["build", "--release", "--lib", "--locked"]).args(extra);
        cargo.args(["--target", "wasm32-unknown-unknown", "--target-dir"]).arg(&target);
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let inherited =
                ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"];
            if inherited.contains(&&*name_text)
                || name_text.starts_with("CARGO_PROFILE_")
                || name_text.starts_with("CARGO_FEATURE_")
                || name_text.starts_with("CARGO_CFG_")
                || ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET", "CLIPPY_ARGS", "RUSTC", "RUSTDOC"]
                    .contains(&&*name_text)
            {
                cargo.env_remove(&name);
            }
        }
        cargo.env("RUSTFLAGS", &remap);
        cargo.output().expect("cargo can be started")
    };
    // Offline first: the build works from the lock file and what is in cargo's cache. A machine that
    // has never built it fetches once.
    let mut output = build(&["--offline"]);
    if !output.status.success() {
        output = build(&[]);
    }
    assert!(
        output.status.success(),
        "the runtime library does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let module: &Path = &target.join("wasm32-unknown-unknown/release/odeon_oml_runtime.wasm");
    std::fs::copy(module, out.join("runtime.wasm")).expect("the runtime library was built");
}
