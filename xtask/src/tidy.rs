//! The rules: which crate may depend on which, how long a file may be, how it begins, that every crate takes
//! the workspace's lints, that error codes and their pages agree, that links in the docs lead somewhere, and that wasmtime gets the
//! wasmparser that we ask for.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Longest file, in lines, tests at its end not counted.
const LINES_MAX: usize = 800;

/// An edge that is not listed fails. Data at the bottom, binaries at the top.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("odeon", &["odeon-compiler", "odeon-protocol"]),
    (
        "odeon-bench",
        &["odeon-capabilities", "odeon-compiler", "odeon-engine", "odeon-protocol", "odeon-tests"],
    ),
    ("odeon-capabilities", &["odeon-engine"]),
    ("odeon-compiler", &["odeon-oml"]),
    ("odeon-control", &["odeon-protocol"]),
    ("odeon-engine", &[]),
    ("odeon-host", &["odeon-capabilities", "odeon-engine", "odeon-http", "odeon-protocol"]),
    ("odeon-hostile", &["odeon-capabilities", "odeon-http", "odeon-protocol", "odeon-tests"]),
    ("odeon-http", &[]),
    ("odeon-migrator", &["odeon-oml", "odeon-protocol"]),
    ("odeon-oml", &[]),
    ("odeon-platform", &["odeon-compiler", "odeon-control", "odeon-oml", "odeon-protocol"]),
    ("odeon-protocol", &[]),
    ("odeon-router", &["odeon-http", "odeon-protocol"]),
    ("odeon-tests", &["odeon-capabilities", "odeon-engine"]),
    ("xtask", &[]),
];

/// Everything that is not as it must be.
pub(crate) fn check() -> Result<Vec<String>> {
    let mut failures = Vec::new();
    crate_edges(&mut failures)?;
    let lock = fs::read_to_string("Cargo.lock").context("read Cargo.lock")?;
    failures.extend(other_wasmparser(&lock));
    let files = tracked_files()?;
    for file in &files {
        match fs::read_to_string(file) {
            Ok(text) if file.ends_with(".rs") => rust_file(file, &text, &mut failures),
            Ok(text) if file.ends_with(".md") => links(file, &text, &mut failures),
            Ok(text) if file.ends_with("Cargo.toml") => lints(file, &text, &mut failures),
            Ok(_) | Err(_) => {}
        }
    }
    error_pages(&files, &mut failures);
    Ok(failures)
}

fn crate_edges(failures: &mut Vec<String>) -> Result<()> {
    let said = Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).output()?;
    let metadata: Value = serde_json::from_slice(&said.stdout).context("understand cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = MAY_DEPEND.iter().find(|(known, _)| *known == name) else {
            failures.push(format!("crate {name} is not in MAY_DEPEND of xtask/src/tidy.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let on = dependency["name"].as_str().unwrap_or_default();
            if names.contains(on) && !allowed.contains(&on) {
                failures
                    .push(format!("crate {name} may not depend on {on} (MAY_DEPEND of xtask/src/tidy.rs)"));
            }
        }
    }
    Ok(())
}

/// `odeon-engine` asks for a feature of the wasmparser that wasmtime is built with; of another version it would change nothing.
fn other_wasmparser(lock: &str) -> Option<String> {
    let of = |name: &str| {
        let mut blocks = lock.split("[[package]]\n");
        let block = blocks.find(|block| block.starts_with(&format!("name = \"{name}\"\n")))?;
        block
            .lines()
            .map(|line| line.trim_matches([' ', '"', ',']))
            .find(|line| line.starts_with("wasmparser"))
    };
    let (ours, wasmtimes) = (of("odeon-engine"), of("wasmtime-environ"));
    (ours.is_none() || ours != wasmtimes).then(|| {
        format!("host/engine/Cargo.toml: wasmtime is built with {wasmtimes:?}, and not with {ours:?}; name that version")
    })
}

fn tracked_files() -> Result<Vec<String>> {
    let said = Command::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).output();
    let text = String::from_utf8(said.context("ask git for the files")?.stdout)?;
    Ok(text.lines().filter(|file| Path::new(file).exists()).map(str::to_owned).collect())
}

fn rust_file(file: &str, text: &str, failures: &mut Vec<String>) {
    let code = text.find("\n#[cfg(test)]\nmod tests {").map_or(text, |tests| &text[..tests]);
    let is_test = file.contains("/tests/") || file.contains("/tests.rs");
    if !is_test && code.lines().count() > LINES_MAX {
        failures.push(format!(
            "{file} has {} lines; {LINES_MAX} are allowed: what second thing lives in it?",
            code.lines().count()
        ));
    }
    if !text.starts_with("//!") && !text.starts_with("#![") {
        failures.push(format!("{file} does not begin with `//!`: what is it, and what must stay true?"));
    }
}

fn lints(file: &str, text: &str, failures: &mut Vec<String>) {
    let is_member = text.contains("version.workspace = true");
    if is_member && !text.contains("[lints]\nworkspace = true") {
        failures.push(format!("{file} does not take the workspace's lints"));
    }
}

fn links(file: &str, text: &str, failures: &mut Vec<String>) {
    let folder = Path::new(file).parent().unwrap_or(Path::new(""));
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let path = link.split('#').next().unwrap_or_default();
        if !path.is_empty() && !link.contains("://") && !folder.join(path).exists() {
            failures.push(format!("{file} links to {link}, which does not exist"));
        }
    }
}

fn error_pages(files: &[String], failures: &mut Vec<String>) {
    let mut codes = BTreeSet::new();
    for file in files.iter().filter(|file| file.starts_with("platform/compiler/src/")) {
        let text = fs::read_to_string(file).unwrap_or_default();
        codes.extend(
            text.match_indices("OML")
                .filter_map(|(at, _)| text.get(at..at + 7))
                .filter(|code| is_code(code))
                .map(str::to_owned),
        );
    }
    let page = |file: &String| Some(file.strip_prefix("docs/errors/")?.strip_suffix(".md")?.to_owned());
    let pages: BTreeSet<String> = files.iter().filter_map(page).filter(|page| is_code(page)).collect();
    let sources: String = files
        .iter()
        .filter(|file| file.starts_with("host/") || file.starts_with("platform/oml-runtime/src/"))
        .filter(|file| file.ends_with(".rs"))
        .filter_map(|file| fs::read_to_string(file).ok())
        .collect();
    let has_page = |code: &str| code.starts_with("OS-BERT-") || code.starts_with("OS-RTR-");
    let said: BTreeSet<String> =
        sources.split('"').filter(|text| has_page(text)).map(str::to_owned).collect();
    let told: BTreeSet<String> = files.iter().filter_map(page).filter(|page| has_page(page)).collect();
    failures.extend(said.difference(&told).map(|code| format!("docs/errors/{code}.md is missing")));
    failures.extend(
        told.difference(&said)
            .map(|page| format!("docs/errors/{page}.md explains a code that no host, router or app uses")),
    );
    failures.extend(codes.difference(&pages).map(|code| format!("docs/errors/{code}.md is missing")));
    failures.extend(
        pages
            .difference(&codes)
            .map(|code| format!("docs/errors/{code}.md explains a code that is not used")),
    );
}

fn is_code(text: &str) -> bool {
    text.strip_prefix("OML")
        .is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_head_or_an_end_is_told() {
        let mut failures = Vec::new();
        rust_file("a.rs", "//! Short.\n", &mut failures);
        assert!(failures.is_empty());
        rust_file("b.rs", &"x\n".repeat(LINES_MAX + 1), &mut failures);
        assert_eq!(failures.len(), 2, "{failures:?}");
    }

    #[test]
    fn another_wasmparser_than_that_of_wasmtime_is_told() {
        let lock = |ours: &str| {
            let block = |name: &str, version: &str| {
                format!("[[package]]\nname = \"{name}\"\ndependencies = [\n \"wasmparser{version}\",\n]\n\n")
            };
            block("odeon-engine", ours) + &block("wasmtime-environ", " 0.254.2")
        };
        assert_eq!(other_wasmparser(&lock(" 0.254.2")), None);
        let told = other_wasmparser(&lock(" 0.263.0")).unwrap();
        assert!(told.contains("0.254.2") && told.contains("0.263.0"), "{told}");
        assert!(other_wasmparser("").is_some());
    }

    #[test]
    fn a_dead_link_is_told() {
        let mut failures = Vec::new();
        links("README.md", "[a](https://example.com) [b](no/such.md#part) [c](#here)", &mut failures);
        assert_eq!(failures, ["README.md links to no/such.md#part, which does not exist"]);
    }
}
