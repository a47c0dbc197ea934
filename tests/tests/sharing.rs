//! What apps have of one another without asking: libraries, which are compiled in, and public entities, which are read
//! in the database and in no other way.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::PathBuf;

use odeon_tests::Installation;
use reqwest::{Method, StatusCode};
use serde_json::json;

fn project(site: &Installation, name: &str, text: &str) -> PathBuf {
    let folder = site.folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("app.yaml"), text).unwrap();
    folder
}

const LIBRARY: &str = "library: Prices
actions:
  Twice: { public: true, function: true, inputs: { N: Integer }, outputs: { Twice: Integer }, flow: [ assign: { Twice: N * 2 } ] }
";

const SHOP: &str = "app: Shop
rest:
  A:
    methods:
      Twice: { inputs: { N: Integer }, outputs: { Twice: Integer }, flow: [ assign: { Twice: Prices.Twice(N) } ] }
";

#[tokio::test]
async fn a_library_is_compiled_into_apps_and_pinned_there() {
    let site = Installation::start_with(&["--no-sample"]).await;
    let library = project(&site, "prices", LIBRARY);
    let shop = project(&site, "shop", SHOP);
    let (library, shop) = (library.to_str().unwrap(), shop.to_str().unwrap());

    let said = site.fail(&["publish", shop]);
    assert!(said.contains("there is no function `Prices.Twice`"), "{said}");
    let copy = site.folder.join("shop/libraries/Prices.json");
    site.succeed(&["publish", library]);
    site.succeed(&["reference", "Prices", "--project", shop]);
    site.succeed(&["publish", shop]);
    let twice = site.url("development", "/Shop/rest/A/Twice?N=21");
    assert_eq!(site.get(&twice).await, (StatusCode::OK, json!(42)));

    // A new revision changes no app until the app takes it.
    fs::write(site.folder.join("prices/app.yaml"), LIBRARY.replace("N * 2", "N * 3")).unwrap();
    let published = site.run(&["publish", library]);
    let told = String::from_utf8(published.stderr).unwrap();
    assert!(told.contains("`Shop` has revision 1 of it"), "{told}");
    let published = site.run(&["publish", shop]);
    let told = String::from_utf8(published.stderr).unwrap();
    assert!(told.contains("`Prices` has revision 2; this project has revision 1 of it"), "{told}");
    assert_eq!(site.get(&twice).await, (StatusCode::OK, json!(42)));
    site.succeed(&["reference", "Prices", "--project", shop]);
    site.succeed(&["publish", shop]);
    assert_eq!(site.get(&twice).await, (StatusCode::OK, json!(63)));

    // What was not published is not compiled in.
    let text = fs::read_to_string(&copy).unwrap();
    fs::write(&copy, text.replace("N * 3", "N * 9")).unwrap();
    let said = site.fail(&["publish", shop]);
    assert!(said.contains("is not what was published as revision 2 of `Prices`"), "{said}");
    fs::write(&copy, text.replace("\"revision\": 2", "\"revision\": 7")).unwrap();
    let said = site.fail(&["publish", shop]);
    assert!(said.contains("there is no revision 7 of a library `Prices`"), "{said}");
    assert_eq!(site.get(&twice).await, (StatusCode::OK, json!(63)), "what serves goes on");

    let said = site.fail(&["deploy", "Prices", "--revision", "1", "--to", "test"]);
    assert!(said.contains("`Prices` is a library: it is compiled into the apps that use it"), "{said}");
    let other = project(&site, "other", "app: Prices\n");
    let said = site.fail(&["publish", other.to_str().unwrap()]);
    assert!(said.contains("`Prices` is a library already, and cannot become an app"), "{said}");
    let listed = site.succeed(&["apps"]);
    assert!(listed.contains("library"), "{listed}");
}

const OWNER: &str = "app: Owner
roles: { Clerk: { public: true }, Secret: {} }
entities:
  Row:
    public: true
    stored_as: Line
    attributes: { Name: { type: Text, stored_as: Title }, State: State Identifier, Keeper: Hidden Identifier }
  Hidden: { attributes: { Secret: Text } }
  State: { static: true, public: true, records: { Open: {}, Closed: {} } }
rest:
  A:
    methods:
      Appoint: { verb: POST, flow: [ { grant: Clerk, user: '\"ann\"' }, { grant: Secret, user: '\"eve\"' } ] }
      Add:
        verb: POST
        inputs: { Name: { type: Text, in: query }, Open: { type: Boolean, in: query } }
        locals: { Row: Row, Hidden: Hidden }
        flow:
          - assign: { Row.Name: Name, Row.State: 'If(Open, Entities.State.Open, Entities.State.Closed)', Hidden.Secret: Name }
          - create: Row
            record: Row
          - create: Hidden
            record: Hidden
";

/// Statements of an author who would like more than the app was given.
const READER: &str = "app: Reader
structures: { One: { attributes: { Text: Text } } }
entities:
  Mark: { attributes: { Row: Owner.Row Identifier, Text: Text } }
rest:
  A:
    methods:
      Clerk: { outputs: { Who: Text }, flow: [ assign: { Who: 'If(Owner.CheckClerkRole(\"ann\"), \"ann\", \"\") + If(Owner.CheckClerkRole(\"eve\"), \"eve\", \"\")' } ] }
      Members:
        outputs: { Found: One List }
        flow:
          - sql: SELECT role || member FROM \"Owner.odeon_roles\"
            output: One
            name: All
          - assign: { Found: All.List }
      Names:
        outputs: { Names: Text }
        flow:
          - aggregate: [ Owner.Row, { entity: Owner.State, on: Row.State = State.Id } ]
            name: Found
            where: Row.State = Entities.Owner.State.Open and Row.Keeper <> 5 # nobody keeps it
            sort: [Row.Name]
            max: 10
          - for_each: Found.List
            as: Each
            do: [ assign: { Names: Names + Each.Row.Name + \" \" + Each.State.Label + \";\" } ]
      Write:
        flow:
          - sql: UPDATE {Owner.Row} SET [Name] = 'mine'
      Steal:
        outputs: { Found: One List }
        flow:
          - sql: SELECT [Name] FROM {Owner.Row} UNION SELECT viewdefinition FROM (SELECT definition AS viewdefinition FROM pg_views WHERE viewname = 'Owner.Row') v
            output: One
            name: All
          - assign: { Found: All.List }
      Around:
        inputs: { Schema: Text }
        outputs: { Found: One List }
        flow:
          - sql: SELECT \"Secret\" FROM SCHEMA.\"Hidden\"
            output: One
            name: All
          - assign: { Found: All.List }
";

#[tokio::test]
async fn a_public_entity_is_read_and_nothing_else_of_its_app() {
    let site = Installation::start_with(&["--no-sample"]).await;
    let owner = project(&site, "owner", OWNER);
    let reader = project(&site, "reader", READER);
    let (owner, reader) = (owner.to_str().unwrap(), reader.to_str().unwrap());
    site.succeed(&["publish", owner]);
    let add = async |name: &str, open: bool, stage: &str| {
        let url = site.url(stage, &format!("/Owner/rest/A/Add?Name={name}&Open={open}"));
        assert!(site.send(Method::POST, &url, None).await.0.is_success());
    };
    add("lamp", true, "development").await;
    add("desk", false, "development").await;

    let said = site.fail(&["publish", reader]);
    assert!(said.contains("OML0102") && said.contains("Owner"), "{said}");
    site.succeed(&["reference", "Owner", "--project", reader]);
    site.succeed(&["publish", reader]);
    let names = site.url("development", "/Reader/rest/A/Names");
    assert_eq!(site.get(&names).await, (StatusCode::OK, json!("lamp Open;")));
    add("table", true, "development").await;
    assert_eq!(site.get(&names).await, (StatusCode::OK, json!("lamp Open;table Open;")));

    let appoint = site.url("development", "/Owner/rest/A/Appoint");
    assert!(site.send(Method::POST, &appoint, None).await.0.is_success());
    let clerk = site.get(&site.url("development", "/Reader/rest/A/Clerk")).await;
    assert_eq!(clerk, (StatusCode::OK, json!("ann")));
    let members = site.get(&site.url("development", "/Reader/rest/A/Members")).await;
    assert_eq!(members, (StatusCode::OK, json!([{ "Text": "Clerkann" }])), "no role that is not public");

    // The database itself refuses what the language cannot see.
    let (status, said) = site.get(&site.url("development", "/Reader/rest/A/Write")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(said.to_string().contains("permission denied"), "{said}");
    let (status, found) = site.get(&site.url("development", "/Reader/rest/A/Steal")).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    let all = found.to_string();
    let schema = all.split_once("FROM ").unwrap().1.split_once('.').unwrap().0.to_owned();
    assert!(schema.starts_with("app_"), "the view tells where it reads: {all}");
    let sly = READER.replace("SCHEMA", &schema);
    fs::write(site.folder.join("reader/app.yaml"), sly).unwrap();
    site.succeed(&["publish", reader]);
    let (status, said) = site.get(&site.url("development", "/Reader/rest/A/Around")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(said.to_string().contains("permission denied for schema"), "{said}");
    assert_eq!(site.get(&names).await, (StatusCode::OK, json!("lamp Open;table Open;")), "still there");

    a_reader_may_come_first(&site).await;
    what_is_not_public_any_more_is_said(&site, owner).await;
    let database = site.database("stage_development").await;
    let views = "select count(*) from pg_views where viewname like 'Owner.%'";
    assert_eq!(database.query_one(views, &[]).await.unwrap().get::<_, i64>(0), 3);
    site.succeed(&["undeploy", "Reader"]);
    assert_eq!(database.query_one(views, &[]).await.unwrap().get::<_, i64>(0), 0);
    let grants = "select count(*) from information_schema.column_privileges \
                  where table_name = 'Line' and grantee like 'odeon_owner_%' and grantee <> grantor";
    assert_eq!(database.query_one(grants, &[]).await.unwrap().get::<_, i64>(0), 0, "it is taken back");
    site.succeed(&["deploy", "Reader", "--revision", "2", "--to", "development"]);
    assert_eq!(site.get(&names).await, (StatusCode::OK, json!("lamp Open;table Open;")));
}

/// In a stage without the owner, reading is an exception until the owner comes.
async fn a_reader_may_come_first(site: &Installation) {
    let said = site.fail(&["deploy", "Reader", "--revision", "2", "--to", "test"]);
    assert!(said.contains("`Reader` uses `Owner`, which is not deployed to test"), "{said}");
    site.succeed(&["deploy", "Reader", "--revision", "2", "--to", "test", "--accept-impact"]);
    let names = site.url("test", "/Reader/rest/A/Names");
    let (status, said) = site.get(&names).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(said.to_string().contains("Owner.Row"), "{said}");
    site.succeed(&["deploy", "Owner", "--revision", "1", "--to", "test"]);
    assert_eq!(site.get(&names).await, (StatusCode::OK, json!("")));
}

async fn what_is_not_public_any_more_is_said(site: &Installation, owner: &str) {
    let hidden = OWNER.replace("    public: true\n    stored_as", "    stored_as");
    fs::write(site.folder.join("owner/app.yaml"), hidden).unwrap();
    let published = site.run(&["publish", owner]);
    let told = String::from_utf8(published.stderr).unwrap();
    let expect = "`Reader` in development uses `Owner.Row`, but there is no public entity `Row`";
    assert!(told.contains(expect), "{told}");
    let (status, _) = site.get(&site.url("development", "/Reader/rest/A/Names")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "it is taken back at once");
    let said = site.fail(&["deploy", "Owner", "--revision", "2", "--to", "test"]);
    assert!(said.contains("there is no public entity `Row`"), "{said}");
    site.succeed(&["rollback", "Owner"]);
    let names = site.url("development", "/Reader/rest/A/Names");
    assert_eq!(site.get(&names).await, (StatusCode::OK, json!("lamp Open;table Open;")));
}
