//! What a person reads when a model is wrong: every code, its place, its hint; and that every code has a page.

#![allow(missing_docs, clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "tests")]

use odeon_compiler::{CODES, Severity, Sources, check, render};

fn sources(text: &str) -> Sources {
    Sources::new([("app.yaml".to_owned(), text.to_owned())])
}

/// Code and place of every problem, one per word.
#[track_caller]
fn problems(text: &str, expected: &str) {
    let sources = sources(text);
    let checked = check(&sources);
    let shown: Vec<String> =
        checked.problems.iter().map(|p| format!("{}@{}:{}", p.code, p.line, p.column)).collect();
    assert_eq!(shown.join(" "), expected, "{}", render(&sources, &checked.problems));
}

/// A method whose flow assigns an expression.
#[track_caller]
fn expression(expr: &str, code_and_column: &str) {
    let text = format!(
        "app: T\nentities:\n  C: {{ static: true, records: {{ One: {{}} }} }}\n  E: {{ attributes: {{ A: Integer, T: Text }} }}\nactions:\n  F:\n    outputs: {{ I: Integer, B: Boolean, X: E Identifier, Y: C Identifier }}\n    flow:\n      - if: '{expr}'\n"
    );
    problems(&text, code_and_column);
}

#[test]
fn a_person_sees_place_line_caret_and_hint() {
    let sources = sources(
        "app: Shop\nentities:\n  Order:\n    attributes:\n      Total: Curency\nactions:\n  Pay:\n    inputs: { Order: Order }\n    flow:\n      - if: Order.Totl > 5 and true\n",
    );
    insta::assert_snapshot!(render(&sources, &check(&sources).problems), @r"
    error[OML0101]: there is no type `Curency`
      --> app.yaml:5:14
     5 |       Total: Curency
       |              ^^^^^^^
      hint: did you mean `Currency`?
    error[OML0104]: `Order` has no attribute `Totl`
      --> app.yaml:10:19
     10 |       - if: Order.Totl > 5 and true
        |                   ^^^^
      hint: did you mean `Total`?
    ");
}

#[test]
fn the_shape_of_files() {
    problems("app: [", "OML0001@1:7");
    problems("app: T\nentitis: {}\n", "OML0002@2:1");
    problems("app: T\nactions: 7\n", "OML0003@2:10");
    problems("app: T\nactions:\n  A: {}\n  A: {}\n", "OML0004@4:3 OML0004@4:3");
    problems("app: T\nactions: { A: { flow: [ { get: E } ] } }\n", "OML0005@2:27");
    problems("app: T\nactions:\n  2a: {}\n", "OML0006@3:3");
    problems("entities: {}\n", "OML0007@1:1");
    problems(
        "app: T\nstructures:\n  S: { attributes: { A: E Identifier, B: S2 } }\n",
        "OML0102@3:25 OML0101@3:42",
    );
}

#[test]
fn expressions_point_at_the_token() {
    expression("Nope = 1", "OML0103@9:14");
    expression("True and I = Nope", "OML0103@9:27");
    expression("Lenght(\"\") = 1", "OML0106@9:14");
    expression("X = Entities.C.Two", "OML0107@9:29");
    expression("I = (1 + ", "OML0201@9:23");
    expression("I + 1", "OML0202@9:14");
    expression("B > 1", "OML0203@9:16");
    expression("Length() = 1", "OML0204@9:14");
    expression("X = Y", "OML0205@9:16");
    expression("I = 99999999999999999999999999999999", "OML0207@9:18");
}

#[test]
fn nodes_and_declarations() {
    let action = |flow: &str| {
        format!(
            "app: T\nentities:\n  C: {{ static: true }}\n  E: {{ attributes: {{ T: Text }} }}\nactions:\n  Other: {{ inputs: {{ N: {{ type: Integer, mandatory: true }} }} }}\n  F:\n    locals: {{ C: C }}\n    flow: [ {flow} ]\n"
        )
    };
    problems(&action("{ call: Othr }"), "OML0105@9:21");
    problems(&action("{ call: Other, with: { M: 1 } }"), "OML0208@9:21 OML0208@9:36");
    problems(&action("{ assign: { 1: 2 } }"), "OML0206@9:25");
    problems(&action("{ create: C, record: C }"), "OML0302@9:23");
    problems(&action("{ raise: User, message: '\"x\"', status: 200 }"), "OML0404@9:52");
    problems(&action("{ list: E, where: 'Trim(Replace(E.T, \"a\", \"b\")) = \"\"' }"), "OML0501@9:37");
    let schema = "app: T\nentities:\n  D: { attributes: { L: Text List, N: { type: Text, delete_rule: Delete } } }\n  S: { static: true, attributes: { R: D Identifier } }\nstructures:\n  A: { attributes: { B: B } }\n  B: { attributes: { A: A List } }\n";
    problems(schema, "OML0304@3:25 OML0303@3:66 OML0305@4:39 OML0301@6:3 OML0301@7:3");
}

#[test]
fn rest_methods() {
    let rest = |methods: &str| format!("app: T\nrest:\n  A:\n    methods:\n{methods}");
    problems(&rest("      M: { path: '/M/{Id}' }\n"), "OML0401@5:18");
    problems(&rest("      M: {}\n      N: { path: /M }\n"), "OML0402@6:18");
    problems(&rest("      M: { inputs: { L: Text List } }\n"), "OML0403@5:25");
}

#[test]
fn every_code_has_a_page_and_a_test() {
    let here = include_str!("diagnostics.rs");
    for (code, title) in CODES {
        let page = format!("{}/../../docs/errors/{code}.md", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|e| panic!("{page}: {e}"));
        assert!(text.starts_with(&format!("# {code}: {title}\n")), "{page}");
        assert!(here.matches(code).count() > 0, "no test shows {code}");
    }
}

#[test]
fn a_model_with_errors_gives_no_component_and_a_warning_still_does() {
    let broken = sources("app: T\nactions: { A: { flow: [ { if: 1 } ] } }\n");
    assert!(odeon_compiler::compile(&broken).component.is_none());
    let warned = sources(
        "app: T\nentities: { A: {}, B: {} }\nactions: { F: { locals: { X: A Identifier, Y: B Identifier }, flow: [ { assign: { X: Y } } ] } }\n",
    );
    let compiled = odeon_compiler::compile(&warned);
    assert_eq!(compiled.problems[0].severity, Severity::Warning);
    assert!(compiled.component.is_some());
}
