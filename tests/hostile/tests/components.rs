//! Files that somebody publishes as components and that are none, or none that a host should run: each is refused with a
//! reason, nothing of it is kept, and others go on.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use odeon_hostile::bombs::{self, around, with};
use odeon_hostile::{Beside, publish};
use odeon_tests::Installation;
use reqwest::StatusCode;
use wasm_encoder::Module;

/// More than a component may have, in bytes.
const TOO_LARGE_BYTES: usize = (64 << 20) + 1;

/// Functions that take too long to compile together: a fast machine has one of them ready in less than the limit of a minute.
const SLOW_FUNCTIONS: u32 = 8;

/// A component that imports what no host has: another name in as many bytes.
fn stranger(good: &[u8]) -> Vec<u8> {
    let (name, other) = (b"wasi:cli/stdout@", b"evil:cli/stdout@");
    let mut bytes = good.to_vec();
    while let Some(at) = bytes.windows(name.len()).position(|bytes| bytes == name) {
        bytes[at..at + name.len()].copy_from_slice(other);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_component_is_refused_with_a_reason() {
    let site = Installation::start_with(&["--no-sample"]).await;
    publish(&site);
    let good = fs::read(odeon_tests::hello()).unwrap();
    let later = fs::read(odeon_tests::guest("hello_wasip3")).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    let bomb = |module: &Module| with(&good, &around(module));
    let files: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "neither a WebAssembly file"),
        ("text", b"<html>404</html>".to_vec(), "neither a WebAssembly file"),
        ("module", Module::new().finish(), "a core WebAssembly module, not a component"),
        ("half", good[..middle].to_vec(), "not a valid component"),
        ("flipped", flipped, "not a valid component"),
        ("large", [&good[..8], &vec![0; TOO_LARGE_BYTES]].concat(), "64 MiB"),
        ("stranger", stranger(&good), "evil:cli/stdout"),
        (
            "slow",
            bomb(&bombs::functions(SLOW_FUNCTIONS, &bombs::nested(200_000))),
            "make the component smaller",
        ),
        ("memories", bomb(&bombs::memories(101, 1)), "memories count exceeds"),
        ("tables", bomb(&bombs::tables(101, 1)), "tables count exceeds"),
        ("segments", bomb(&bombs::segments(100_001, 8_192)), "data segments count exceeds"),
        ("functions", bomb(&bombs::functions(1_000_001, &bombs::nested(0))), "functions count exceeds"),
        ("jumps", bomb(&bombs::functions(1, &bombs::jumps(70_000))), "`br_table` has 70000 targets"),
        ("variables", bomb(&bombs::functions(1, &bombs::variables(50_001))), "too many locals"),
        ("types", with(&good, &bombs::types(100, 10)), "type size exceeds"),
        ("deep", with(&good, &bombs::types(200, 1)), "type nesting is too deep"),
        ("many", bomb(&bombs::memories(10, 1)), "memories count of 10 exceeds"),
        ("memory", bomb(&bombs::memories(1, 65_536)), "minimum byte size of 4294967296 which exceeds"),
        ("parts", with(&good, &bombs::parts(10, &bombs::memories(1, 1))), "memories, which exceeds"),
        ("table", bomb(&bombs::tables(1, 10_000_000)), "minimum element size of 10000000 which exceeds"),
        ("instances", with(&good, &bombs::instances(3, 10)), "core module instances, which exceeds"),
        (
            "waiting",
            with(&later, &bombs::instances(1, 4)),
            "consists of 5 components with functions of their own, of 4",
        ),
        ("million", with(&good, &bombs::instances(6, 10)), "core module instances, which exceeds"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let beside = Beside::start(site.url("development", "/Hello/"));
    for (name, bytes, reason) in files {
        let file = folder.path().join(format!("{name}.wasm"));
        fs::write(&file, bytes).unwrap();
        let said = site.fail(&["publish", file.to_str().unwrap(), "--name", "Evil"]);
        assert!(said.contains(reason), "{name}: {said}");
        assert!(said.len() > 20 && !said.contains("panicked"), "{name}: a reason, not `{said}`");
        let apps = site.succeed(&["apps"]);
        assert!(!apps.contains("Evil"), "{name}: nothing of it is kept: {apps}");
    }
    assert!(beside.stop().await > 0);
    // Controls: each kind of addition is taken where there is less of it.
    let controls = [
        ("good", good.clone()),
        ("memories", bomb(&bombs::memories(1, 1))),
        ("tables", bomb(&bombs::tables(1, 100))),
        ("segments", bomb(&bombs::segments(10, 10))),
        ("functions", bomb(&bombs::functions(100, &bombs::nested(100)))),
        ("jumps", bomb(&bombs::functions(1, &bombs::jumps(1_000)))),
        ("variables", bomb(&bombs::functions(1, &bombs::variables(1_000)))),
        ("types", with(&good, &bombs::types(5, 5))),
        ("instances", with(&good, &bombs::instances(2, 5))),
        ("waiting", with(&later, &bombs::instances(1, 3))),
    ];
    for (name, bytes) in controls {
        let file = folder.path().join(format!("{name}.wasm"));
        fs::write(&file, bytes).unwrap();
        site.succeed(&["publish", file.to_str().unwrap(), "--name", "Evil"]);
        let (status, said) = site.get(&site.url("development", "/Evil/")).await;
        assert_eq!(status, StatusCode::OK, "{name}: {said}");
    }
}
