//! What a person reads when a model is wrong: every code, its place, its hint; and that every code has a page.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

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
    expression("\"a\" LIKE \"b\"", "OML0506@9:18");
    expression("I = 99999999999999999999999999999999", "OML0207@9:18");
}

#[test]
fn expressions_over_several_lines_point_into_their_line() {
    let flow = |value: &str| {
        format!(
            "app: T\nactions:\n  F:\n    locals: {{ B: Boolean }}\n    flow:\n      - if: {value}\n        name: N\n"
        )
    };
    for block in [">-", ">", "|", "|-", "|2-", ">- # why"] {
        problems(
            &flow(&format!("{block}\n          B\n          and Missing\n          and Lost")),
            "OML0103@8:15 OML0103@9:15",
        );
        problems(&flow(&format!("{block}\n\n          Missing and B\n")), "OML0103@8:11");
    }
    problems(&flow("B\n          and Missing\n          and Lost"), "OML0103@7:15 OML0103@8:15");
    problems(&flow("\"B\n          and Missing\""), "OML0103@7:15");
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
    problems(
        &action("{ list: E, where: 'E.T like \"a%\"', max: 'If(\"a\" like \"b\", 1, 2)' }"),
        "OML0506@9:61",
    );
    problems(&action("{ list: E, where: 'Trim(EncodeUrl(E.T)) = \"\"' }"), "OML0501@9:37");
    let schema = "app: T\nentities:\n  D: { attributes: { L: Text List, N: { type: Text, delete_rule: Delete } } }\n  S: { static: true, attributes: { R: D Identifier } }\nstructures:\n  A: { attributes: { B: B } }\n  B: { attributes: { A: A List } }\n";
    problems(schema, "OML0304@3:25 OML0303@3:66 OML0305@4:39 OML0301@6:3 OML0301@7:3");
}

#[test]
fn flows_and_exceptions() {
    let action = |flow: &str| {
        format!(
            "app: T\nexceptions: {{ Late: }}\nactions:\n  F:\n    locals: {{ L: Text List, R: Late2 List }}\n    outputs: {{ N: Integer }}\n    flow:\n{flow}structures: {{ Late2: {{ attributes: {{ A: Text }} }} }}\n"
        )
    };
    problems(&action("      - raise: Lat\n        message: '\"x\"'\n"), "OML0108@8:16");
    problems(&action("      - raise: Database\n        message: '\"x\"'\n"), "OML0308@8:16");
    problems(&action("      - exit\n"), "OML0307@8:9");
    problems(&action("      - retrun\n"), "OML0002@8:9");
    problems(&action("      - try: []\n"), "OML0005@8:9");
    problems(&action("      - try: []\n        handlers: [ { do: [] } ]\n"), "OML0005@9:21");
    problems(&action("      - switch: [ { do: [] } ]\n"), "OML0005@8:19");
    problems(&action("      - json_serialize: N\n"), "OML0202@8:25");
    problems(&action("      - json_deserialize: '\"\"'\n        type: Text\n"), "OML0202@9:15");
    problems(&action("      - list_sort: R\n"), "OML0005@8:20");
    problems(&action("      - list_sort: L\n        by: A\n"), "OML0104@9:13");
    problems(&action("      - list_clear: N\n"), "OML0202@8:21");
    problems(&action("      - list_clear: Nope.List\n"), "OML0103@8:21");
    problems(&action("      - log: ExceptionMessage\n"), "OML0103@8:14"); // known in handlers only
    problems(&action("      - return\n      - exit\n"), "OML0307@9:9 OML0602@9:9");
    let twice = "      - try: []\n        handlers: [ { exception: Late }, { exception: User }, { exception: Late } ]\n";
    problems(&action(twice), "OML0004@9:76");
    problems("app: T\nexceptions: { User: }\n", "OML0004@2:15");
    problems("app: T\nactions: { F: { function: true } }\n", "OML0303@2:12");
    problems("app: T\nactions: { Length: { function: true, outputs: { N: Text } } }\n", "OML0004@2:12");
    let function = |call: &str| {
        format!(
            "app: T\nactions:\n  F: {{ function: true, inputs: {{ A: {{ type: Text, mandatory: true }}, B: Text }}, outputs: {{ X: Text }} }}\n  G: {{ flow: [ {{ log: '{call}' }} ] }}\n"
        )
    };
    problems(&function("F(\"a\")"), "OML0601@3:34 OML0601@3:70");
    problems(&function("F()"), "OML0208@4:24");
    problems(&function("F(\"a\", \"b\", \"c\")"), "OML0204@4:24");
}

#[test]
fn renamed_elements_keep_their_place_in_the_database() {
    let model = "app: T\nentities:\n  Client:\n    stored_as: Customer\n    attributes: { Title: { type: Text, stored_as: Name }, Since: Date }\n    indexes: { ByTitle: { attributes: [Title, Since] } }\n  Order: { attributes: { Buyer: { type: Client Identifier, stored_as: CustomerId } } }\n";
    let checked = check(&sources(model));
    assert!(checked.problems.is_empty(), "{:?}", checked.problems);
    let (client, order) = (&checked.schema.tables[0], &checked.schema.tables[1]);
    let columns: Vec<&str> = client.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!((client.name.as_str(), columns), ("Customer", vec!["Id", "Name", "Since"]));
    assert_eq!(client.indexes[0].name, "Customer_ByTitle");
    assert_eq!(client.indexes[0].columns, ["Name", "Since"]);
    assert_eq!(order.foreign_keys[0].column, "CustomerId");
    assert_eq!(order.foreign_keys[0].references, "Customer");
    problems("app: T\nentities: { A: {}, B: { stored_as: A } }\n", "OML0004@2:36");
    problems(
        "app: T\nentities: { A: { attributes: { X: Text, Y: { type: Text, stored_as: X } } } }\n",
        "OML0004@2:41",
    );
    problems(
        "app: T\nentities: { A: { attributes: { X: { type: Text, stored_as: Id } } } }\n",
        "OML0004@2:32",
    );
    problems(
        "app: T\nstructures: { A: { attributes: { X: { type: Text, stored_as: Y } } } }\n",
        "OML0303@2:62",
    );
    problems("app: T\nentities: { A: { stored_as: 'a b' } }\n", "OML0006@2:29");
}

#[test]
fn settings() {
    let app = |settings: &str| format!("app: T\nsettings: {{ {settings} }}\n");
    problems(&app("A: Text, B: { type: Integer, default: 7 }, C: { type: Text, secret: true }"), "");
    problems(&app("A: { type: Integer, default: x }"), "OML0207@2:42");
    problems(&app("A: { type: Text, secret: true, default: x }"), "OML0303@2:53");
    problems(&app("A: Text List"), "OML0304@2:16");
    let used = "app: T\nsettings: { Limit: Integer }\nactions: { F: { flow: [ { log: Settings.Limt } ] } }\n";
    problems(used, "OML0109@3:41");
    problems(
        "app: T\nstructures: { S: { attributes: { A: { type: Text, secret: true } } } }\n",
        "OML0303@2:59",
    );
    let settings = check(&sources(&app("A: Phone Number, B: { type: Decimal, default: 1.5 }"))).settings;
    assert_eq!(settings[0].data_type, "Phone Number");
    assert_eq!(settings[1].default.as_deref(), Some("1.5"));
    assert!(settings[0].accepts("\"1\"") && settings[1].accepts("-2") && !settings[1].accepts("two"));
}

#[test]
fn timers() {
    let app = |timer: &str| {
        format!(
            "app: T\nactions: {{ A: {{ inputs: {{ N: {{ type: Integer, mandatory: true }} }} }} }}\ntimers: {{ T: {{ {timer} }} }}\n"
        )
    };
    problems(
        &app("action: A, with: { N: 1 }, schedule: '*/5 * * * *', when_published: true, timeout: 60"),
        "OML0601@2:27",
    );
    problems(&app("action: A"), "OML0208@3:24");
    problems(&app("action: B"), "OML0105@3:24");
    problems(&app("schedule: '0 3 * * *'"), "OML0005@3:11");
    problems(&app("action: A, with: { N: X }"), "OML0103@3:38");
    problems(&app("action: A, with: { N: 1 }, timeout: 61"), "OML0003@3:52");
    for schedule in ["3:00", "* * * *", "0 0 3 * * *", "99 * * * *", "@daily"] {
        problems(&app(&format!("action: A, with: {{ N: 1 }}, schedule: '{schedule}'")), "OML0405@3:53");
    }
    problems("app: T\nactions: { A: { flow: [ wake: Nightly ] } }\n", "OML0110@2:31");
    let refused = check(&sources(&app("action: A, with: { N: 1 }, schedule: '99 * * * *'"))).problems;
    insta::assert_snapshot!(refused[0].message, @"`99 * * * *` is no schedule: Component error: Number out of bounds.");
}

#[test]
fn warnings_tell_what_is_probably_not_meant() {
    let app = |flow: &str| {
        format!(
            "app: T\nentities: {{ E: {{ attributes: {{ T: Text }} }}, S: {{ static: true }} }}\nactions:\n  Find: {{ inputs: {{ Id: E Identifier }}, outputs: {{ E: E }}, flow: [ {{ get: E, id: Id }}, {{ assign: {{ E: GetE.Record }} }} ] }}\n  Via: {{ flow: [ {{ call: Find }} ] }}\n  Spare: {{ inputs: {{ N: Text }} }}\nrest:\n  A:\n    methods:\n      M:\n        inputs: {{ Q: Text }}\n        locals: {{ L: Text List, Never: Text }}\n        flow:\n{flow}"
        )
    };
    let unused = "OML0601@6:3 OML0601@6:22 OML0601@12:33";
    problems(
        &app("          - for_each: L\n            as: X\n            do: []\n"),
        &format!("OML0601@4:3 OML0601@5:3 {unused}"),
    );
    let via = |flow: &str, expected: &str| {
        problems(
            &app(&format!("          - call: Via\n          - log: L.Length\n{flow}")),
            format!("{unused} {expected}").trim_end(),
        );
    };
    via("", "");
    via(
        "          - for_each: L\n            as: X\n            do:\n              - if: X = Q\n                then: [ call: Via ]\n",
        "OML0603@20:25",
    );
    via("          - list: E\n", "OML0604@16:13");
    via("          - list: E\n            where: E.T = Q\n", "OML0604@16:13");
    via(
        "          - list: E\n            max: 0\n          - list: S\n          - list: E\n            where: E.T = Q and E.Id = NullIdentifier()\n",
        "",
    );
}

#[test]
fn defaults_and_records_must_fit_their_lengths() {
    let entity =
        |attribute: &str| format!("app: T\nentities:\n  E: {{ attributes: {{ A: {attribute} }} }}\n");
    problems(&entity("{ type: Text, length: 3, default: abcd }"), "OML0207@3:59");
    problems(&entity("{ type: Phone Number, default: '123456789012345678901' }"), "OML0207@3:56");
    problems(&entity("{ type: Text, length: 4, default: äöüß }"), "");
    let rows = |records: &str| {
        format!(
            "app: T\nentities:\n  E:\n    static: true\n    attributes: {{ Code: {{ type: Text, length: 2, mandatory: true }} }}\n    records: {{ {records} }}\n"
        )
    };
    problems(&rows("A: { Code: ab }, B: { Code: abc }, C: {}"), "OML0207@6:44 OML0005@6:51");
}

#[test]
fn records_refer_to_records_that_exist() {
    let model = |value: &str| {
        format!(
            "app: T\nentities:\n  City:\n    static: true\n    attributes: {{ In: Country Identifier, Part: City Identifier }}\n    records: {{ Wien: {{ In: {value} }} }}\n  Country: {{ static: true, records: {{ Austria: {{}}, Peru: {{ Id: 7 }} }} }}\n"
        )
    };
    for fine in ["1", "7", "0", "Peru", "Austria, Part: Wien"] {
        problems(&model(fine), "");
    }
    let wrong = |value: &str, expected: &str| {
        let sources = sources(&model(value));
        assert_eq!(render(&sources, &check(&sources).problems), expected);
    };
    wrong(
        "2",
        "error[OML0107]: `Country` has no record with the Id 2\n  --> app.yaml:6:28\n 6 |     records: { Wien: { In: 2 } }\n   |                            ^\n  hint: it has Austria (1), Peru (7)\n",
    );
    wrong(
        "Austia",
        "error[OML0107]: `Country` has no record `Austia`\n  --> app.yaml:6:28\n 6 |     records: { Wien: { In: Austia } }\n   |                            ^^^^^^\n  hint: did you mean `Austria`?\n",
    );
    // 0 is the null identifier, so it is no record's.
    for id in ["0", "-7"] {
        problems(&model("1").replace("Id: 7", &format!("Id: {id}")), "OML0207@7:64");
    }
    let schema = check(&sources(&model("Peru"))).schema;
    let city = schema.tables.iter().find(|t| t.name == "City").unwrap();
    assert_eq!(city.records[0][4..], [Some("7".to_owned()), None]);
}

#[test]
fn depth_is_bounded_and_said_so() {
    let flow = |expr: &str| format!("app: T\nactions: {{ A: {{ flow: [ {{ if: '{expr}' }} ] }} }}\n");
    let message =
        |text: &str| check(&sources(text)).problems.into_iter().map(|p| p.message).collect::<Vec<_>>();
    let parentheses = format!("{}True{}", "(".repeat(500), ")".repeat(500));
    assert_eq!(message(&flow(&parentheses)), ["nested deeper than 100 levels"]);
    assert_eq!(message(&flow(&"not ".repeat(500))), ["nested deeper than 100 levels"]);
    assert_eq!(message(&flow(&vec!["1"; 500].join(" + "))), ["more than 100 operators in a row"]);
    // Neither deep nor long anywhere, and still a tree of 900 levels.
    let row = " + 1".repeat(90);
    let mut rows = "1".to_owned();
    for _ in 0..10 {
        rows = format!("({rows}{row})");
    }
    assert_eq!(message(&flow(&rows)), ["nested deeper than 200 levels; compute a part of it before"]);
    assert_eq!(message(&format!("app: T\nentities: {}", "[".repeat(500))), ["nested deeper than 128 levels"]);
    let lists =
        format!("app: T\nstructures: {{ S: {{ attributes: {{ A: Text{} }} }} }}\n", " List".repeat(50_000));
    assert_eq!(message(&lists), ["a list of lists is not a type"]);
    let chain = |length: usize| {
        let link = |i| format!("  S{i}: {{ attributes: {{ A: S{} }} }}\n", i + 1);
        let links: String = (1..length).map(link).collect();
        format!("app: T\nstructures:\n{links}  S{length}: {{ attributes: {{ A: Text }} }}\n")
    };
    problems(&chain(30), "");
    problems(&chain(1000), "OML0306@972:3");
}

#[test]
fn what_may_be_as_deep_as_it_gets_compiles() {
    // Two rows of sums in a chain of negations: 181 levels and 11 parentheses.
    let row = " + 1".repeat(90);
    let mut expr = format!("(1{row}){row} = 1");
    for _ in 0..10 {
        expr = format!("not ({expr})");
    }
    let mut flow = format!("[ {{ assign: {{ B: '{expr}' }} }} ]");
    for _ in 0..58 {
        flow = format!("[ {{ if: B, then: {flow} }} ]");
    }
    let text = format!("app: T\nactions: {{ A: {{ locals: {{ B: Boolean }}, flow: {flow} }} }}\n");
    let sources = sources(&text);
    let compiled = odeon_compiler::compile(&sources);
    assert!(compiled.component.is_some(), "{}", render(&sources, &compiled.problems));
}

#[test]
fn a_flood_of_problems_is_cut_and_never_hides_that_there_is_an_error() {
    let keys: String = (0..2000).map(|i| format!("key{i}: 1\n")).collect();
    assert_eq!(check(&sources(&format!("app: T\n{keys}"))).problems.len(), 500);
    let warnings = "          - assign: { X: Y }\n".repeat(600);
    let compiled = odeon_compiler::compile(&sources(&format!(
        "app: T\nentities: {{ A: {{}}, B: {{}} }}\nactions:\n  F:\n    locals: {{ X: A Identifier, Y: B Identifier }}\n    flow:\n{warnings}          - if: Nope\n"
    )));
    assert_eq!(compiled.problems.len(), 501);
    assert_eq!(compiled.problems.last().map(|p| p.code), Some("OML0103"));
    assert!(compiled.component.is_none());
}

#[test]
fn rest_methods() {
    let rest = |methods: &str| format!("app: T\nrest:\n  A:\n    methods:\n{methods}");
    problems(&rest("      M: { path: '/M/{Id}' }\n"), "OML0401@5:18");
    problems(&rest("      M: {}\n      N: { path: /M }\n"), "OML0402@6:18");
    problems(&rest("      M: { inputs: { L: Text List } }\n"), "OML0403@5:25");
    problems(&rest("      M: { status: 404 }\n"), "OML0404@5:20");
    let guarded = |check: &str| {
        format!(
            "app: T\nactions:\n  Check: {{ inputs: {{ {check} }} }}\nrest: {{ A: {{ on_authentication: Check }} }}\n"
        )
    };
    problems(&guarded("Username: Text, Password: Text"), "OML0601@3:22 OML0601@3:38");
    problems(&guarded("Username: Text"), "OML0406@4:33");
    problems("app: T\nrest: { A: { on_authentication: Chek } }\n", "OML0105@2:33");
    let input = |keys: &str| rest(&format!("      M: {{ inputs: {{ T: {{ type: Text, {keys} }} }} }}\n"));
    problems(&input("header: X-Tenant"), "");
    problems(&input("in: header, header: X-Tenant"), "");
    problems(&input("in: query, header: X-Tenant"), "OML0303@5:58");
    problems(&input("header: 'X Tenant'"), "OML0006@5:47");
    problems("app: T\nentities: { E: { attributes: { T: { type: Text, header: X-T } } } }\n", "OML0303@2:57");
}

#[test]
fn consumed_rest() {
    let api = |keys: &str| format!("app: T\nconsume:\n  Api: {{ {keys} }}\n");
    problems(&api("url: 'https://x.example.com:8443/v1'"), "");
    for wrong in ["x.example.com", "ftp://x", "http://", "https:///v1", "http://x?y=1", "http://user@x"] {
        problems(&api(&format!("url: '{wrong}'")), "OML0407@3:15");
    }
    problems(&api("timeout: 61"), "OML0003@3:19");
    problems(&api("authentication: oauth"), "OML0003@3:26");
    problems(&api("methods: { M: { path: '/{Id}' } }"), "OML0401@3:32");
    problems(&api("methods: { M: { inputs: { L: Text List } } }"), "OML0403@3:39");
    problems(&api("methods: { M: { flow: [] } }"), "OML0002@3:26");
    problems(&api("on_before_request: Stmp"), "OML0105@3:29");
    problems(&format!("{}actions: {{ Stamp: {{}} }}\n", api("on_before_request: Stamp")), "OML0406@3:29");
    problems(&format!("{}settings: {{ Api_BaseURL: Text }}\n", api("")), "OML0004@3:3");
    problems(&format!("{}structures: {{ HTTPHeader: {{}} }}\n", api("")), "OML0004@3:3");
    let call = "rest: { A: { methods: { R: { flow: [ { call: Api.Png } ] } } } }\n";
    problems(&format!("{}{call}", api("methods: { Ping: {} }")), "OML0105@4:46");
}

#[test]
fn events_and_references() {
    let app = |keys: &str| format!("app: T\n{keys}");
    problems(&app("events: { E: { payload: { L: Text List } } }\n"), "OML0304@2:30");
    problems(&app("events: { E: { payload: { L: Txt } } }\n"), "OML0101@2:30");
    problems(&app("event_handlers: { H: { event: E } }\n"), "OML0005@2:19");
    problems(&app("event_handlers: { H: { event: S.E, action: A } }\nactions: { A: {} }\n"), "OML0111@2:31");
    let flow = |node: &str| {
        app(&format!(
            "events: {{ E: {{ payload: {{ N: {{ type: Integer, mandatory: true }} }} }} }}\nservice_actions: {{ A: {{ flow: [ {node} ] }} }}\n"
        ))
    };
    problems(&flow("{ trigger: E, with: { N: 1 } }"), "");
    problems(&flow("{ trigger: E }"), "OML0208@3:44");
    problems(&flow("{ trigger: F }"), "OML0111@3:44");
    problems(&flow("{ call: S.Get }"), "OML0105@3:41");
    let both = |reference: &str, flow: &str| {
        format!("app: T\nservice_actions: {{ A: {{ flow: [ {flow} ] }} }}\n---{reference}")
    };
    let two = |text: &str| {
        let (own, reference) = text.split_once("---").unwrap();
        let files = [("a.yaml", own), ("b.yaml", reference)];
        let sources =
            odeon_compiler::Sources::new(files.map(|(name, text)| (name.to_owned(), text.to_owned())));
        let shown = |p: &odeon_compiler::Problem| format!("{}@{}:{}:{}", p.code, p.file, p.line, p.column);
        odeon_compiler::check(&sources).problems.iter().map(shown).collect::<Vec<_>>().join(" ")
    };
    let reference = "reference: S\nrevision: 2\nevents: { E: {} }\nservice_actions: { Get: { inputs: { X: Y } } }\nstructures: { Y: {} }\n";
    assert_eq!(two(&both(reference, "{ call: S.Get }")), "");
    assert_eq!(two(&both(reference, "{ trigger: S.E }")), "OML0111@a.yaml:2:44");
    assert_eq!(
        two(&both("reference: S\nactions: {}\nrevision: x\n", "")),
        "OML0002@b.yaml:2:1 OML0003@b.yaml:3:11"
    );
    problems(&app("entities: { E: { stored_as: odeon_outbox } }\n"), "OML0004@2:13");
}

#[test]
fn roles() {
    let app = |api: &str| {
        format!(
            "app: T\nroles: {{ Lead: {{}} }}\nactions: {{ In: {{ inputs: {{ Username: Text, Password: Text }}, outputs: {{ UserId: Text }}, flow: [ assign: {{ UserId: Username + Password }} ] }} }}\nrest: {{ A: {{ {api} }} }}\n"
        )
    };
    problems(&app("on_authentication: In, roles: [Lead], methods: { M: {} }"), "");
    problems(&app("on_authentication: In, methods: { M: { roles: [Led] } }"), "OML0112@4:61");
    problems(
        &app("on_authentication: In, methods: { M: { flow: [ { grant: Led, user: '\"x\"' } ] } }"),
        "OML0112@4:70",
    );
    problems(&app("methods: { M: { roles: [Lead] } }"), "OML0406@4:38");
    problems(&app("methods: { M: { flow: [ { grant: Lead } ] } }"), "OML0005@4:40");
}

#[test]
fn what_was_not_found_is_one_problem() {
    problems(
        "app: T\nactions:\n  A:\n    locals: { N: Integer }\n    flow:\n      - call: Nowhere.Find\n      - assign: { N: Find.List.Length + Find.Count }\n",
        "OML0105@6:15",
    );
}

#[test]
fn libraries() {
    problems("library: L\nentities:\n  E: {}\n", "OML0113@3:3");
    problems("library: L\nactions: { A: {} }\ntimers:\n  N: { action: A }\n", "OML0113@4:3");
}

#[test]
fn every_code_has_a_page_and_a_test() {
    // No model leads to an internal error; its test breaks the plan instead.
    let here = concat!(
        include_str!("diagnostics.rs"),
        include_str!("queries.rs"),
        include_str!("hostile/sizes.rs"),
        include_str!("../src/emit.rs")
    );
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
