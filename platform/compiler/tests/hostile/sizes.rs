//! Models of a size that nobody writes by hand: more of one thing than a format, an engine or patience has room for.
//!
//! Each is what a program might make, and gets a component or a problem like any other. The counts are beyond the
//! limits of WebAssembly's engines where there are any (1,000 parameters and results, 50,000 locals), else large
//! enough that work which grows with their square would be seen.

use super::{answers, one};
use odeon_compiler::{Sources, compile};

/// Elements of one kind: whoever looked at all of them for each would not come back.
const MANY: usize = 100_000;

/// One line for each number.
fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(|n| line(n) + "\n").collect()
}

#[track_caller]
fn check(text: String) {
    answers(one(text)).unwrap();
}

/// An action with these parts, called by a REST method.
fn action(parts: &str) -> String {
    format!("app: T\nactions:\n  F:\n{parts}rest:\n  A:\n    methods:\n      M: {{ flow: [ call: F ] }}\n")
}

/// An action that is more than a function can be is told so, at its name.
#[track_caller]
fn too_large(text: String, what: &str) {
    let compiled = compile(&Sources::new(one(text)));
    let problem =
        compiled.problems.iter().find(|problem| problem.code == "OML0309").expect("it is too large");
    assert!(problem.message.starts_with(&format!("`F` has {what}")), "{}", problem.message);
    assert_eq!((problem.line, compiled.component), (3, None));
}

#[test]
fn parameters_and_variables() {
    let inputs = |count| {
        action(&format!("    inputs:\n{}    flow: []\n", lines(count, |n| format!("      I{n}: Decimal"))))
    };
    let outputs = |count| {
        action(&format!("    outputs:\n{}    flow: []\n", lines(count, |n| format!("      O{n}: Date"))))
    };
    check(inputs(1_000));
    check(outputs(1_000));
    too_large(inputs(1_001), "1001 inputs; 1000 are possible");
    too_large(outputs(1_001), "1001 outputs; 1000 are possible");
    let locals = lines(50_001, |n| format!("      L{n}: Text"));
    too_large(action(&format!("    locals:\n{locals}    flow: []\n")), "50001 variables");
}

#[test]
fn nodes_of_a_flow() {
    let head = "    locals: { I: Integer, T: Text }\n    flow:\n";
    check(action(&format!("{head}{}", lines(20_000, |n| format!("      - assign: {{ I: I * {n} }}")))));
    let calls = lines(3_000, |n| format!("      - json_serialize: L\n        name: N{n}"));
    check(action(&format!("    locals: {{ L: Text List }}\n    flow:\n{calls}")));
    let cases = lines(5_000, |n| {
        format!("          - when: I = {n}\n            do: [ assign: {{ T: '\"{n}\"' }} ]")
    });
    check(action(&format!("{head}      - switch:\n{cases}")));
}

#[test]
fn names_that_are_all_misspelt() {
    let locals = lines(2_000, |n| format!("      LongAndNearlyTheSameName{n}: Text"));
    let wrong = lines(2_000, |n| format!("      - assign: {{ LongAndNearlyTheSomeName{n}: 1 }}"));
    check(action(&format!("    locals:\n{locals}    flow:\n{wrong}")));
}

#[test]
fn structures_of_structures() {
    for attributes in [2, 12] {
        let parts = |level: usize| match level {
            0 => "{ A0: Text }".to_owned(),
            _ => {
                let parts = (0..attributes).map(|n| format!("A{n}: S{}", level - 1));
                format!("{{ {} }}", parts.collect::<Vec<_>>().join(", "))
            }
        };
        let structures = lines(30, |level| format!("  S{level}: {{ attributes: {} }}", parts(level)));
        let method =
            "{ verb: POST, inputs: { In: S29 }, outputs: { Out: S29 }, flow: [ assign: { Out: In } ] }";
        check(format!("app: T\nstructures:\n{structures}rest: {{ A: {{ methods: {{ M: {method} }} }} }}\n"));
    }
}

#[test]
fn elements_of_an_app() {
    let actions = lines(5_000, |n| format!("  F{n}: {{ flow: [ call: F{} ] }}", (n + 1) % 5_000));
    check(format!("app: T\nactions:\n{actions}"));
    let methods =
        lines(2_000, |n| format!("      M{n}: {{ inputs: {{ I: Integer }}, outputs: {{ O: Text }} }}"));
    check(format!("app: T\nrest:\n  A:\n    methods:\n{methods}"));
    let records = lines(10_000, |n| format!("      R{n}: {{ Label: \"{n}\" }}"));
    check(format!("app: T\nentities:\n  E:\n    static: true\n    records:\n{records}"));
    let attributes = lines(2_000, |n| format!("      A{n}: {{ type: Text, mandatory: true }}"));
    let flow = "[ { list: E, name: L, max: 5 }, { create: E, record: \"L.List[0]\" } ]";
    check(format!(
        "app: T\nentities:\n  E:\n    attributes:\n{attributes}actions: {{ F: {{ flow: {flow} }} }}\n"
    ));
}

#[test]
fn names_that_must_differ() {
    let all = |section: &str, what: &str| {
        check(format!("app: T\n{section}:\n{}", lines(MANY, |n| format!("  N{n}: {what}"))));
    };
    all("exceptions", "{}");
    all("roles", "{}");
    all("settings", "Text");
    all("entities", "{}");
}

#[test]
fn names_that_are_used() {
    let flow = |of: &str, node: &dyn Fn(usize) -> String| {
        check(format!(
            "app: T\n{of}actions:\n  F:\n    locals: {{ I: E Identifier, T: Text, L: Text List }}\n    flow:\n{}",
            lines(MANY, node)
        ));
    };
    let many = |line: &str| lines(MANY, |n| line.replace('#', &n.to_string()));
    let records = format!("entities:\n  E:\n    static: true\n    records:\n{}", many("      N#: {}"));
    flow(&records, &|n| format!("      - assign: {{ I: Entities.E.N{n} }}"));
    let entity = "entities: { E: {} }\n";
    let settings = format!("{entity}settings:\n{}", many("  N#: Text"));
    flow(&settings, &|n| format!("      - assign: {{ T: Settings.N{n} }}"));
    flow(entity, &|n| {
        format!("      - {{ json_serialize: L, name: N{n} }}\n      - assign: {{ T: N{n}.JSON }}")
    });
    let handlers = many("          - { exception: N#, do: [] }");
    check(format!(
        "app: T\nexceptions:\n{}actions:\n  F:\n    flow:\n      - try: []\n        handlers:\n{handlers}",
        many("  N#: {}")
    ));
    check(format!("app: T\nrest:\n  A:\n    methods:\n{}", many("      N#: {}")));
    let assigned = many("      - assign: { N#: 1 }");
    check(action(&format!("    locals:\n{}    flow:\n{assigned}", many("      N#: Integer"))));
}

#[test]
fn identifiers_of_identifiers() {
    let next = |n| format!("  E{n}: {{ attributes: {{ Id: E{} Identifier }} }}", n + 1);
    check(format!("app: T\nentities:\n{}  E{MANY}: {{}}\n", lines(MANY, next)));
}

#[test]
fn records_of_static_entities() {
    let records = lines(MANY, |n| format!("      R{n}: {{ Id: {}, Next: R{n} }}", MANY - n));
    check(format!(
        "app: T\nentities:\n  E:\n    static: true\n    attributes: {{ Next: E Identifier }}\n    records:\n{records}"
    ));
}

#[test]
fn structures_inside_themselves() {
    // A ring, and a chain that leads to it.
    let ring = lines(MANY, |n| format!("  S{n}: {{ attributes: {{ N: S{} }} }}", (n + 1) % (MANY / 2)));
    let compiled = compile(&Sources::new(one(format!("app: T\nstructures:\n{ring}"))));
    assert!(compiled.problems.iter().all(|problem| problem.code == "OML0301"));
    assert_eq!(compiled.problems.first().map(|problem| problem.line), Some(3));
}

#[test]
fn texts_and_expressions() {
    // An escape in a text is six characters in the file, and none of them may be looked at again for the next one.
    check(action(&format!("    flow:\n      - log: \"\\\"{}\\\"\"\n", "\\u00e9".repeat(1 << 20))));
    check(action(&format!("    flow:\n      - log: '\"{}\"'\n", "x".repeat(3 << 20))));
    check(action(&format!("    flow:\n      - log: 'If({})'\n", vec!["1"; 20_000].join(","))));
    check(action(&format!("    flow:\n      - log: '{}'\n", "(".repeat(50_000))));
    check(action(&format!("    flow:\n      - log: '{}1'\n", "1+".repeat(50_000))));
    check(action(&format!("    flow:\n      - log: '{}'\n", "9".repeat(50_000))));
}
