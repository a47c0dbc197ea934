//! The compiler's keys and the JSON Schema's are the same: what an editor offers, the compiler takes.
//!
//! The compiler is asked with a key that cannot be: its hint lists what it would have taken.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use odeon_compiler::{Sources, check};
use serde_json::Value;

/// Near to no key, so that the hint lists all of them.
const NO_KEY: &str = "Zzzzzzzzzzzzzzzz";

/// The keys that the compiler takes where `Zzzzzzzzzzzzzzzz` stands.
#[track_caller]
fn taken(text: &str) -> BTreeSet<String> {
    let checked = check(&Sources::new([("app.yaml".to_owned(), text.to_owned())]));
    let problem = checked.problems.iter().find(|p| p.code == "OML0002").unwrap();
    let keys = problem.hint.as_deref().unwrap().strip_prefix("it takes ").unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

fn offered(schema: &Value, of: &str) -> BTreeSet<String> {
    let place = if of.is_empty() { schema } else { &schema["$defs"][of] };
    place["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_schema_offers_exactly_the_keys_that_the_compiler_takes() {
    let schema: Value = serde_json::from_str(&odeon_oml::model::json_schema()).unwrap();
    // A file is of the app, or a copy of what another app or a library offers: each takes keys of its own.
    let files = ["app: T", "reference: T", "library: T\nrevision: 1"];
    let of_a_file: BTreeSet<String> =
        files.iter().flat_map(|first| taken(&format!("{first}\n{NO_KEY}: 1\n"))).collect();
    assert_eq!(of_a_file, offered(&schema, ""));
    for (of, text) in [
        ("Entity", format!("app: T\nentities: {{ E: {{ {NO_KEY}: 1 }} }}\n")),
        ("EntityIndex", format!("app: T\nentities: {{ E: {{ indexes: {{ I: {{ {NO_KEY}: 1 }} }} }} }}\n")),
        ("Timer", format!("app: T\ntimers: {{ N: {{ {NO_KEY}: 1 }} }}\n")),
        ("Role", format!("app: T\nroles: {{ R: {{ {NO_KEY}: 1 }} }}\n")),
        ("Event", format!("app: T\nevents: {{ E: {{ {NO_KEY}: 1 }} }}\n")),
        ("EventHandler", format!("app: T\nevent_handlers: {{ H: {{ {NO_KEY}: 1 }} }}\n")),
        ("ConsumedApi", format!("app: T\nconsume: {{ A: {{ {NO_KEY}: 1 }} }}\n")),
        ("ConsumedMethod", format!("app: T\nconsume: {{ A: {{ methods: {{ M: {{ {NO_KEY}: 1 }} }} }} }}\n")),
        ("Exception", format!("app: T\nexceptions: {{ E: {{ {NO_KEY}: 1 }} }}\n")),
        ("Handler", format!("app: T\nactions: {{ A: {{ handlers: [ {{ {NO_KEY}: 1 }} ] }} }}\n")),
        ("Case", format!("app: T\nactions: {{ A: {{ flow: [ switch: [ {{ {NO_KEY}: 1 }} ] ] }} }}\n")),
        ("Structure", format!("app: T\nstructures: {{ S: {{ {NO_KEY}: 1 }} }}\n")),
        (
            "AttributeFull",
            format!("app: T\nstructures: {{ S: {{ attributes: {{ A: {{ {NO_KEY}: 1 }} }} }} }}\n"),
        ),
        (
            "SourceFull",
            format!(
                "app: T\nactions: {{ A: {{ flow: [ aggregate: [ {{ entity: E, {NO_KEY}: 1 }} ] ] }} }}\n"
            ),
        ),
        (
            "ParameterFull",
            format!(
                "app: T\nactions: {{ A: {{ flow: [ {{ sql: SELECT, parameters: {{ P: {{ {NO_KEY}: 1 }} }} }} ] }} }}\n"
            ),
        ),
        ("Action", format!("app: T\nactions: {{ A: {{ {NO_KEY}: 1 }} }}\n")),
        ("RestApi", format!("app: T\nrest: {{ A: {{ {NO_KEY}: 1 }} }}\n")),
        ("RestMethod", format!("app: T\nrest: {{ A: {{ methods: {{ M: {{ {NO_KEY}: 1 }} }} }} }}\n")),
    ] {
        assert_eq!(taken(&text), offered(&schema, of), "{of}");
    }
    // A node takes the keys of its kind; all kinds together take what the schema offers.
    let kinds = [
        "assign: {}",
        "if: 'True'",
        "for_each: L, as: X",
        "call: A",
        "get: E, id: '1'",
        "get_for_update: E, id: '1'",
        "list: E",
        "aggregate: E",
        "sql: SELECT 1",
        "create: E, record: R",
        "update: E, record: R",
        "create_or_update: E, record: R",
        "create_or_update_some: E, records: L",
        "delete: E, id: '1'",
        "switch: []",
        "list_append: L, element: X",
        "list_append_all: L, elements: M",
        "list_insert: L, element: X, at: '0'",
        "list_remove: L, at: '0'",
        "list_clear: L",
        "list_sort: L, by: A",
        "list_filter: L, as: X, where: 'True'",
        "list_any: L, as: X, where: 'True'",
        "list_all: L, as: X, where: 'True'",
        "list_index_of: L, as: X, where: 'True'",
        "list_distinct: L",
        "list_duplicate: L",
        "json_serialize: R",
        "json_deserialize: T, type: R",
        "try: [], handlers: []",
        "log: X",
        "wake: T",
        "trigger: E",
        "grant: R, user: U",
        "revoke: R, user: U",
        "raise: User, message: X",
        "return: ",
    ];
    let node = |kind| format!("app: T\nactions: {{ A: {{ flow: [ {{ {kind}, {NO_KEY}: 1 }} ] }} }}\n");
    let all: BTreeSet<String> = kinds.into_iter().flat_map(|kind| taken(&node(kind))).collect();
    assert_eq!(all, offered(&schema, "Node"));
}
