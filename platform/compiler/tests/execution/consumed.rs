//! Consumed REST APIs: what is sent for a method, what is read of the answer, and what each failure raises.

use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use crate::harness::{App, Reply, sources};

const RATES: &str = r#"
app: T
structures:
  Rate: { attributes: { Currency: Text, Value: Decimal, Since: Date } }
  Order: { attributes: { Number: Long Integer, Lines: Text List } }
consume:
  Rates:
    url: https://rates.example.com/v1/
    timeout: 5
    methods:
      Get:
        path: /rates/{Currency}
        inputs:
          Currency: Text
          Day: { type: Date, mandatory: true }
          Max: Integer
          Note: Text
          Tenant: { type: Text, header: X-Tenant }
        outputs: { Rate: Rate }
      Add: { verb: POST, path: /, inputs: { Order: Order }, outputs: { Id: Long Integer, Known: Boolean } }
      Text: { verb: PUT, inputs: { Body: { type: Text, in: body } }, outputs: { Answer: Text } }
  Closed:
    url: http://closed.example.com
    authentication: basic
    on_before_request: Stamp
    on_after_response: Forgive
    methods: { Ping: { outputs: { Status: Text } } }
actions:
  Stamp:
    inputs: { Request: HTTPRequest }
    outputs: { CustomizedRequest: HTTPRequest }
    locals: { Header: HTTPHeader }
    flow:
      - assign: { CustomizedRequest: Request, Header.Name: '"x-stamp"', Header.Value: '"7"' }
      - list_append: CustomizedRequest.Headers
        element: Header
      - assign: { CustomizedRequest.URL: 'CustomizedRequest.URL + "?stamped=1"' }
  Forgive:
    inputs: { Response: HTTPResponse }
    outputs: { CustomizedResponse: HTTPResponse }
    flow:
      - assign: { CustomizedResponse: Response }
      - if: Response.StatusCode = 404
        then:
          - assign: { CustomizedResponse.StatusCode: 200, CustomizedResponse.Body: '"""none"""' }
rest:
  A:
    methods:
      Get:
        inputs: { Max: Integer, Tenant: Text }
        outputs: { Rate: Rate, Why: Text }
        flow:
          - try:
              - call: Rates.Get
                with: { Currency: '"a b/ä"', Day: '#2026-01-31#', Max: Max, Tenant: Tenant }
              - assign: { Rate: Get.Rate }
            handlers:
              - exception: Communication
                do: [ assign: { Why: '"away: " + ExceptionMessage' } ]
      Add:
        outputs: { Id: Long Integer, Known: Boolean }
        locals: { Order: Order }
        flow:
          - assign: { Order.Number: 7 }
          - list_append: Order.Lines
            element: '"tea"'
          - call: Rates.Add
            with: { Order: Order }
          - assign: { Id: Add.Id, Known: Add.Known }
      Text:
        outputs: { Answer: Text }
        flow:
          - call: Rates.Text
            with: { Body: '"plain, ä"' }
          - assign: { Answer: Text.Answer }
      Ping:
        outputs: { Status: Text }
        flow:
          - call: Closed.Ping
          - assign: { Status: Ping.Status }
"#;

const JSON: &str = "application/json";

/// What came of a method whose API answers so, and what was sent.
fn called(
    method: &str,
    answer: Result<(u16, &'static str, &'static str), ErrorCode>,
    settings: &[(&'static str, &'static str)],
) -> (Reply, Vec<String>) {
    let app = App::start(&sources(RATES));
    {
        let mut script = app.script.lock().unwrap();
        script.others = [answer].into();
        script.settings = settings.to_vec();
    }
    let reply = app.get(&format!("/T/rest/A/{method}"));
    let sent = app.script.lock().unwrap().sent.clone();
    (reply, sent)
}

#[test]
fn inputs_stand_where_the_method_says() {
    let rate = r#"{"Currency":"EUR","Value":1.07250001,"Since":"2026-01-30","More":[1,{}]}"#;
    let (reply, sent) = called("Get?Max=3&Tenant=acme", Ok((200, JSON, rate)), &[]);
    assert_eq!(reply.body, r#"{"Rate":{"Currency":"EUR","Value":1.07250001,"Since":"2026-01-30"},"Why":""}"#);
    assert_eq!(
        sent,
        [
            "GET https://rates.example.com/v1/rates/a%20b%2F%C3%A4?Day=2026-01-31&Max=3 [accept: application/json, x-tenant: acme] "
        ]
    );
}

#[test]
fn defaults_that_need_not_be_sent_are_not() {
    let (_, sent) = called("Get", Ok((200, JSON, "{}")), &[("Rates_BaseURL", "http://localhost:9/test")]);
    assert_eq!(
        sent,
        ["GET http://localhost:9/test/rates/a%20b%2F%C3%A4?Day=2026-01-31 [accept: application/json] "]
    );
}

#[test]
fn a_record_is_a_json_body_and_several_outputs_are_keys() {
    let (reply, sent) = called("Add", Ok((201, JSON, r#"{"Known":true,"Id":9007199254740993}"#)), &[]);
    assert_eq!(reply.body, r#"{"Id":9007199254740993,"Known":true}"#);
    assert_eq!(
        sent,
        [
            r#"POST https://rates.example.com/v1 [accept: application/json, content-type: application/json] {"Number":7,"Lines":["tea"]}"#
        ]
    );
}

#[test]
fn text_is_sent_and_read_as_it_is() {
    let (reply, sent) = called("Text", Ok((200, "text/plain", "it is \"fine\"")), &[]);
    assert_eq!(reply.body, r#""it is \"fine\"""#);
    assert!(sent[0].ends_with("content-type: text/plain; charset=utf-8] plain, ä"), "{sent:?}");
}

#[test]
fn hooks_see_and_change_what_passes() {
    let settings = [("Closed_Username", "ann"), ("Closed_Password", "s:cret ä")];
    let (reply, sent) = called("Ping", Ok((404, JSON, "{}")), &settings);
    assert_eq!((reply.status, reply.body.as_str()), (200, "\"none\""));
    assert_eq!(
        sent,
        [
            "GET http://closed.example.com/Ping?stamped=1 [accept: application/json, authorization: Basic YW5uOnM6Y3JldCDDpA==, x-stamp: 7] "
        ]
    );
}

#[test]
fn who_cannot_be_reached_raises_communication() {
    for (code, why) in [
        (ErrorCode::HttpRequestDenied, "the stage does not let the app call this host"),
        (ErrorCode::ConnectionRefused, "it cannot be reached"),
        (ErrorCode::HttpResponseTimeout, "it did not answer in time"),
        (ErrorCode::ConfigurationError, "the connection failed"),
    ] {
        let (reply, _) = called("Get", Err(code.clone()), &[]);
        let message = format!(
            "away: Rates.Get: no answer from https://rates.example.com/v1/rates/a%20b%2F%C3%A4: {why}"
        );
        assert!(reply.body.contains(&message), "{}", reply.body);
        let (reply, _) = called("Text", Err(code), &[]);
        assert_eq!(reply.status, 502, "{}", reply.body);
    }
}

#[test]
fn refusals_and_strange_answers_are_exceptions_that_say_so() {
    for (method, answer, message) in [
        ("Get", (404, JSON, "{\"no\":1}"), r#"Rates.Get answered 404: {\"no\":1}"#),
        ("Get", (200, JSON, "[]"), "Rates.Get: The answer: expected an object"),
        ("Add", (200, JSON, r#"{"Id":"x"}"#), "Rates.Add: Id: expected an integer of 64 bits"),
        ("Add", (200, JSON, "{"), "Rates.Add: The answer is not valid JSON: unexpected input at byte 1"),
    ] {
        let (reply, _) = called(method, Ok(answer), &[]);
        assert_eq!(reply.status, 500, "{}", reply.body);
        assert!(reply.body.contains(message), "{}", reply.body);
    }
}

#[test]
fn an_api_without_a_url_needs_the_setting() {
    let app = App::start(&sources(
        "app: T\nconsume: { Api: { methods: { Ping: {} } } }\nrest: { A: { methods: { Run: { flow: [ { call: Api.Ping } ] } } } }\n",
    ));
    let reply = app.get("/T/rest/A/Run");
    assert!(reply.body.contains("Api.Ping: the setting Api_BaseURL is not set"), "{}", reply.body);
}

#[test]
fn a_hook_that_calls_its_own_api_comes_to_an_end() {
    let app = App::start(&sources(
        "app: T
consume: { Api: { url: http://a.example.com, on_before_request: Stamp, methods: { Ping: {} } } }
actions:
  Stamp:
    inputs: { Request: HTTPRequest }
    outputs: { CustomizedRequest: HTTPRequest }
    flow: [ assign: { CustomizedRequest: Request }, call: Api.Ping ]
rest: { A: { methods: { Run: { flow: [ { call: Api.Ping } ] } } } }
",
    ));
    let reply = app.get("/T/rest/A/Run");
    assert!(reply.body.contains("Actions call one another more than 250 levels deep"), "{}", reply.body);
}
