//! Exposed REST APIs: who may call, what a success is called, and what an API says of itself.

use crate::harness::{App, sources};

const SHOP: &str = r#"
app: Shop
structures:
  Line: { attributes: { Item: { type: Text, length: 20, mandatory: true }, Price: { type: Currency, default: 1.5 }, Sent: Date } }
  Order: { attributes: { Lines: { type: Line List, mandatory: true } } }
actions:
  CheckLogin:
    inputs: { Username: Text, Password: Text }
    outputs: { Known: Boolean }
    flow:
      - if: Username = "ann" and Password = "s:cret ä"
        then:
          - assign: { Known: True }
          - return
      - raise: InvalidLogin
        message: '"Who are you?"'
rest:
  Orders:
    description: What the shop sells, <b>by order</b>.
    on_authentication: CheckLogin
    methods:
      Create:
        description: Takes an order.
        verb: POST
        status: 201
        inputs: { Order: { type: Order, mandatory: true } }
        outputs: { Count: Integer }
        flow:
          - assign: { Count: Order.Lines.Length }
      Find:
        path: /Find/{Id}
        inputs:
          Id: { type: Long Integer, description: The order's number. }
          Max: { type: Integer, default: 50 }
          Tenant: { type: Text, header: X-Tenant, mandatory: true }
        outputs: { Order: Order, Found: Boolean }
  Open:
    methods: { Ping: { outputs: { Ok: Boolean }, flow: [ assign: { Ok: True } ] } }
"#;

#[test]
fn an_api_asks_who_calls() {
    let app = App::start(&sources(SHOP));
    let create = |authorization: Option<&str>| {
        let headers: Vec<(&str, &str)> =
            authorization.iter().map(|value| ("authorization", *value)).collect();
        app.send_with("POST", "/Shop/rest/Orders/Create", &headers, r#"{"Lines":[{"Item":"tea"}]}"#)
    };
    let reply = create(Some("Basic YW5uOnM6Y3JldCDDpA==")); // ann:s:cret ä
    assert_eq!((reply.status, reply.body.as_str()), (201, "1"));
    assert_eq!(create(Some("basic YW5uOnM6Y3JldCDDpA==")).status, 201);
    let reply = create(Some("Basic YW5uOndyb25n")); // ann:wrong
    assert_eq!(reply.status, 401);
    assert!(reply.body.contains("Who are you?"), "{}", reply.body);
    for nothing in
        [None, Some("Basic"), Some("Basic !!!"), Some("Basic YW5u"), Some("Bearer YW5uOnM6Y3JldCDDpA==")]
    {
        let reply = create(nothing);
        assert_eq!(reply.status, 401, "{nothing:?}");
        assert!(reply.body.contains("needs a user name and a password"), "{}", reply.body);
        assert_eq!(reply.challenge.as_deref(), Some("Basic realm=\"app\", charset=\"UTF-8\""));
    }
    assert_eq!(app.get("/Shop/rest/Open/Ping").body, "true");
}

#[test]
fn an_api_describes_itself() {
    let app = App::start(&sources(SHOP));
    let reply = app.get("/Shop/rest/Orders/openapi.json");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let document: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"][0]["url"], "/Shop/rest/Orders");
    assert_eq!(document["security"], serde_json::json!([{ "basic": [] }]));
    let find = &document["paths"]["/Find/{Id}"]["get"];
    assert_eq!(
        find["parameters"].to_string(),
        r#"[{"description":"The order's number.","in":"path","name":"Id","required":true,"schema":{"format":"int64","type":"integer"}},{"in":"query","name":"Max","required":false,"schema":{"default":50,"format":"int32","type":"integer"}},{"in":"header","name":"X-Tenant","required":true,"schema":{"type":"string"}}]"#
    );
    assert_eq!(
        find["responses"]["200"]["content"]["application/json"]["schema"]["properties"]["Found"]["type"],
        "boolean"
    );
    let create = &document["paths"]["/Create"]["post"];
    assert_eq!(create["description"], "Takes an order.");
    assert_eq!(create["requestBody"]["required"], true);
    assert!(create["responses"]["201"].is_object(), "{create}");
    assert_eq!(
        document["components"]["schemas"]["Line"].to_string(),
        r#"{"properties":{"Item":{"maxLength":20,"type":"string"},"Price":{"default":1.5,"type":"number"},"Sent":{"format":"date","type":"string"}},"required":["Item"],"type":"object"}"#
    );
    assert_eq!(
        document["components"]["schemas"]["Order"]["properties"]["Lines"]["items"]["$ref"],
        "#/components/schemas/Line"
    );

    let page = app.get("/Shop/rest/Orders");
    assert_eq!(page.status, 200);
    for part in [
        "<h1>Shop Orders</h1>",
        "by order&lt;/b&gt;",
        "GET /Find/{Id}",
        "<td>X-Tenant<td>header<td>Text<td>yes",
        "openapi.json",
    ] {
        assert!(page.body.contains(part), "{part} in {}", page.body);
    }
    assert_eq!(app.send("HEAD", "/Shop/rest/Open/openapi.json", "").status, 200);
    assert_eq!(app.send("POST", "/Shop/rest/Open/openapi.json", "").status, 404);
    assert_eq!(app.get("/Shop/rest/Closed").status, 404);
}
