//! Attributes and keys of entities: Ids that the app says, one-to-one entities, counted attributes, decimals.

use odeon_compiler::{Sources, check};
use wasmtime::component::Val;

use crate::harness::{Answer, App, long, sources, text, value};

const MODEL: &str = r#"
app: T
entities:
  Country: { attributes: { Id: { type: Text, length: 2 }, Name: Text, Number: { type: Integer, auto_number: true }, Rate: { type: Decimal, decimals: 2 } } }
  City: { attributes: { Country: Country Identifier, Name: { type: Text, label: Name of the city } } }
  Mayor: { attributes: { Id: { type: City Identifier, delete_rule: Delete }, Name: Text } }
  Old: { attributes: { Id: { type: Long Integer, auto_number: false }, Name: Text } }
rest:
  A:
    methods:
      Write:
        verb: POST
        inputs: { In: { type: Record, attributes: { Country: Country, City: City, Mayor: Mayor } } }
        outputs: { Id: Country Identifier }
        flow:
          - create: Country
            name: New
            record: In.Country
          - assign: { In.City.Country: New.Id }
          - create: City
            record: In.City
          - assign: { In.Mayor.Id: CreateCity.Id, Id: New.Id }
          - create_or_update: Mayor
            record: In.Mayor
      Find:
        inputs: { Id: Country Identifier }
        outputs: { Text: Text, Some: Boolean }
        flow:
          - if: Id = NullIdentifier()
            then: [ return ]
          - get: Country
            id: Id
          - list: City
            where: City.Country = Id
            max: 5
          - assign: { Some: 'GetCountry.Record.Id = TextToIdentifier("at")', Text: 'GetCountry.Record.Id + "/" + IdentifierToText(Id)' }
      Keep:
        verb: POST
        inputs: { Old: Old }
        flow:
          - update: Old
            record: Old
          - delete: Old
            id: Old.Id
"#;

#[test]
fn rows_are_identified_by_what_the_model_says() {
    let app = App::start(&sources(MODEL));
    app.script.lock().unwrap().answers =
        [Answer::Touched(1), Answer::Rows(vec![long(7)]), Answer::Touched(1)].into();
    let sent = r#"{"Country":{"Id":"AT","Name":"Austria","Rate":1.005},"City":{"Name":"Graz"},"Mayor":{"Id":1,"Name":"Ann"}}"#;
    let reply = app.send("POST", "/T/rest/A/Write", sent);
    assert_eq!((reply.status, reply.body.as_str()), (200, r#""AT""#), "{:?}", app.seen());
    assert_eq!(
        app.seen(),
        [
            r#"execute: INSERT INTO "Country" ("Id", "Name", "Rate") VALUES ($1::text, $2::text, $3::numeric) [text("AT"), text("Austria"), decimal("1")]"#,
            r#"execute-returning: INSERT INTO "City" ("Country", "Name") VALUES ($1::text, $2::text) RETURNING "Id" [text("AT"), text("Graz")]"#,
            r#"execute: INSERT INTO "Mayor" ("Id", "Name") VALUES ($1::int8, $2::text) ON CONFLICT ("Id") DO UPDATE SET "Name" = EXCLUDED."Name" [int64(7), text("Ann")]"#,
            "commit",
        ]
    );
    let reply = app.send("POST", "/T/rest/A/Write", r#"{"Country":{"Name":"x"},"City":{},"Mayor":{"Id":1}}"#);
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("Country.Id: required"), "{}", reply.body);
}

#[test]
fn text_identifiers_are_compared_and_converted() {
    let app = App::start(&sources(MODEL));
    assert_eq!(app.get("/T/rest/A/Find").body, r#"{"Text":"","Some":false}"#);
    app.script.lock().unwrap().answers = [
        Answer::Rows(vec![
            text("AT"),
            text("Austria"),
            value("int32", Val::S32(3)),
            value("decimal", Val::String("1".into())),
        ]),
        Answer::Rows(vec![]),
    ]
    .into();
    assert_eq!(app.get("/T/rest/A/Find?Id=AT").body, r#"{"Text":"AT/AT","Some":true}"#, "{:?}", app.seen());
    assert!(
        app.seen()[1].contains(r#"FROM "Country" WHERE "Id" = $1::text [text("AT")]"#),
        "{:?}",
        app.seen()
    );
}

#[test]
fn a_number_that_the_app_says_is_written_as_it_is() {
    let app = App::start(&sources(MODEL));
    app.script.lock().unwrap().answers = [Answer::Touched(1), Answer::Touched(1)].into();
    assert_eq!(app.send("POST", "/T/rest/A/Keep", r#"{"Id":5,"Name":"n"}"#).status, 200);
    assert!(
        app.seen()[0]
            .contains(r#"UPDATE "Old" SET "Name" = $1::text WHERE "Id" = $2::int8 [text("n"), int64(5)]"#),
        "{:?}",
        app.seen()
    );
}

#[test]
fn an_id_that_the_app_says_is_checked_as_other_attributes_are() {
    let app = App::start(&sources(
        r#"
app: T
entities:
  Country: { attributes: { Id: { type: Text, length: 2 }, Name: Text } }
  Old: { attributes: { Id: { type: Long Integer, auto_number: false }, Name: Text } }
  City: { attributes: { Name: { type: Text, mandatory: true } } }
rest:
  A:
    methods:
      Country:
        inputs: { Id: Text }
        locals: { C: Country }
        flow: [ assign: { C.Id: TextToIdentifier(Id), C.Name: Id }, { create_or_update: Country, record: C } ]
      Old: { locals: { O: Old }, flow: [ { create: Old, record: O } ] }
      City: { locals: { C: City }, flow: [ assign: { C.Name: '"Graz"' }, { create: City, record: C } ] }
"#,
    ));
    for (path, said) in [
        ("Country?Id=AUT", "Database exception: Country.Id holds 2 characters at most, not 3"),
        ("Country", "Database exception: Country.Id must not be empty"),
        ("Old", "Database exception: Old.Id must not be empty"),
    ] {
        let reply = app.get(&format!("/T/rest/A/{path}"));
        assert!(reply.body.contains(said), "{path}: {} {:?}", reply.body, app.seen());
    }
    app.answers([Answer::Rows(vec![long(1)])]);
    assert_eq!(app.get("/T/rest/A/City").status, 200, "the database counts its Id");
}

#[test]
fn the_database_gets_what_the_attributes_say() {
    let checked = check(&sources(MODEL));
    assert_eq!(checked.problems, []);
    let table = |name: &str| checked.schema.tables.iter().find(|table| table.name == name).unwrap();
    let country = table("Country");
    let counted: Vec<bool> = country.columns.iter().map(|column| column.auto_number).collect();
    assert_eq!(counted, [false, false, true, false]);
    let shown = format!("{:?}", (&table("City").columns[1], &table("City").foreign_keys));
    assert!(shown.contains("Text { length: None }, nullable: true"), "{shown}");
    let mayor = &table("Mayor").foreign_keys[0];
    assert_eq!((mayor.column.as_str(), mayor.references.as_str()), ("Id", "City"));
    assert!(!table("Mayor").columns[0].auto_number);
}

#[test]
fn wrong_keys_are_told() {
    let told = |entities: &str| -> Vec<String> {
        let text = format!("app: T\nentities:\n{entities}\n");
        check(&Sources::new([("a.yaml".to_owned(), text)]))
            .problems
            .iter()
            .map(|p| p.message.clone())
            .collect()
    };
    assert_eq!(told("  E: { attributes: { Id: Boolean } }"), ["`Boolean` cannot identify a row"]);
    assert_eq!(
        told("  E: { attributes: { Id: { type: Text, auto_number: true } } }"),
        ["only a whole number is counted by the database; the app says this `Id`"]
    );
    assert_eq!(
        told("  E: { attributes: { N: { type: Integer, auto_number: true } } }"),
        ["`Id` is counted already; an entity counts one attribute"]
    );
    assert_eq!(
        told("  E: { attributes: { N: { type: Text, decimals: 2 } } }"),
        ["only a Decimal or Currency has decimals"]
    );
    assert_eq!(
        told("  E: { attributes: { N: { type: Decimal, decimals: 9 } } }"),
        ["decimals are a number from 0 to 8"]
    );
    assert_eq!(
        told("  A: { attributes: { Id: B Identifier } }\n  B: { attributes: { Id: A Identifier } }"),
        ["the Id of `A` is its own", "the Id of `B` is its own"]
    );
}
