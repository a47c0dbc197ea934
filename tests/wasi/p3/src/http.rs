//! Cases about HTTP: the request, header fields, responses, bodies, and requests to others.

use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Method, Request, RequestOptions, Response, Scheme};
use wasip3::{wit_bindgen, wit_future, wit_stream};

use crate::{answer, respond};

/// Names of the cases.
pub(crate) const CASES: &[&str] = &[
    "request-line",
    "request-headers",
    "request-headers-are-fixed",
    "request-body",
    "request-body-dropped",
    "request-trailers",
    "fields-names",
    "fields-values",
    "fields-edit",
    "fields-from-a-bad-list",
    "fields-too-many",
    "messages-kept",
    "response-headers",
    "response-statuses",
    "response-418",
    "response-204",
    "response-error",
    "response-without-a-body",
    "response-large",
    "response-of-a-length",
    "response-too-short",
    "response-too-long",
    "response-trailers",
    "response-echo",
    "outgoing-without-authority",
    "outgoing-odd-scheme",
    "outgoing-refused",
    "outgoing-parts",
    "outgoing-options",
];

/// What a case answers.
pub(crate) async fn run(name: &str, request: Request) -> Result<Response, ErrorCode> {
    let found = match name {
        "request-line" => format!(
            "{:?} {:?} {:?}",
            request.get_method(),
            request.get_scheme(),
            request.get_authority().is_some()
        ),
        "request-headers" => {
            let headers = request.get_headers();
            format!(
                "{:?} {:?} {:?} {}",
                headers.get("x-one"),
                headers.get("X-TWO"),
                headers.get("x-three"),
                headers.has("x-One")
            )
        }
        "request-headers-are-fixed" => {
            let headers = request.get_headers();
            let tried = [
                headers.set("x-new", &[b"1".to_vec()]),
                headers.append("x-one", b"2"),
                headers.delete("x-one"),
            ];
            let copied = headers.clone();
            format!("{tried:?} {:?} {:?}", copied.set("x-one", &[b"3".to_vec()]), copied.get("x-one"))
        }
        "request-body" => {
            let (contents, trailers) = consume(request);
            let bytes = contents.collect().await;
            format!(
                "{} {:?}",
                String::from_utf8_lossy(&bytes),
                trailers.await.map(|trailers| trailers.is_some())
            )
        }
        "request-body-dropped" => {
            drop(request);
            "dropped".to_owned()
        }
        "request-trailers" => {
            let (contents, trailers) = consume(request);
            drop(contents);
            format!("{:?}", trailers.await.map(|trailers| trailers.is_some()))
        }
        "fields-names" => {
            let fields = Fields::new();
            let names = [
                "x-fine",
                "",
                "with space",
                "with:colon",
                "ümlaut",
                "x\r\ny",
                "UPPER",
                "connection",
                "Host",
                "transfer-encoding",
                "upgrade",
            ];
            let tried = names.map(|name| format!("{name:?} {:?}", fields.append(name, b"1")));
            format!("{} {:?}", tried.join("\n"), fields.copy_all().len())
        }
        "fields-values" => {
            let fields = Fields::new();
            let values: [&[u8]; 7] =
                [b"fine", b"", b"a\r\nb", b"a\0b", b" around ", b"\xff\xfe", b"tab\there"];
            let tried = values.map(|value| format!("{value:?} {:?}", fields.append("x-value", value)));
            format!("{} {:?}", tried.join("\n"), fields.get("x-value"))
        }
        "fields-edit" => {
            let list =
                [("a".into(), b"1".to_vec()), ("b".into(), b"2".to_vec()), ("a".into(), b"3".to_vec())];
            let fields = Fields::from_list(&list).expect("these are fine");
            let before = (fields.get("a"), fields.has("A"), fields.copy_all());
            let changed = (
                fields.set("a", &[]),
                fields.append("c", b"4"),
                fields.get_and_delete("b"),
                fields.delete("not-there"),
            );
            format!("{before:?} {changed:?} {:?}", fields.copy_all())
        }
        "fields-from-a-bad-list" => {
            let lists = [("bad name", "1"), ("x", "a\nb"), ("connection", "close")];
            let tried = lists.map(|(name, value)| {
                Fields::from_list(&[(name.into(), value.as_bytes().to_vec())]).map(|_| ())
            });
            format!("{tried:?}")
        }
        "fields-too-many" => {
            let fields = Fields::new();
            format!("{:?}", (0..100_000).find_map(|_| fields.append("x-much", &[b'x'; 1_000]).err()))
        }
        "messages-kept" => {
            let text = "x".repeat(60 << 10);
            let kept: Vec<_> = (0..200).map(|_| message(&text)).collect();
            format!("{} messages", kept.len())
        }
        "response-headers" => {
            let headers = Fields::new();
            headers
                .append("x-twice", b"1")
                .and_then(|()| headers.append("X-Twice", b"2"))
                .expect("these are fine");
            headers.set("content-type", &[b"text/x-own".to_vec()]).expect("this too");
            return Ok(respond(headers, b"see the headers".to_vec()));
        }
        "response-statuses" => {
            let response = empty();
            let first = response.get_status_code();
            let tried = [0, 99, 100, 204, 418, 599, 999, 1_000, u16::MAX]
                .map(|status| (status, response.set_status_code(status).is_ok()));
            format!("{first} {tried:?} {:?}", response.get_headers().set("x-new", &[b"1".to_vec()]))
        }
        "response-418" => return Ok(status(418)),
        "response-204" => return Ok(status(204)),
        "response-error" => return Err(ErrorCode::InternalError(Some("asked to".to_owned()))),
        "response-without-a-body" => return Ok(empty()),
        "response-large" => return Ok(respond(Fields::new(), vec![b'x'; 3_000_000])),
        "response-of-a-length" => return Ok(of_length("7")),
        "response-too-short" => return Ok(of_length("8")),
        "response-too-long" => return Ok(of_length("6")),
        "response-trailers" => {
            let (mut body, contents) = wit_stream::new();
            let (trailers, ended) = wit_future::new(|| Ok(None));
            wit_bindgen::spawn_local(async move {
                body.write_all(b"with trailers".to_vec()).await;
                drop(body);
                let fields = Fields::from_list(&[("x-trailer".into(), b"1".to_vec())]).expect("this is fine");
                let _ = trailers.write(Ok(Some(fields))).await;
            });
            return Ok(Response::new(Fields::new(), Some(contents), ended).0);
        }
        "response-echo" => {
            let (contents, trailers) = consume(request);
            return Ok(Response::new(Fields::new(), Some(contents), trailers).0);
        }
        "outgoing-without-authority" => send(|_| ()).await,
        "outgoing-odd-scheme" => {
            send(|request| {
                request.set_authority(Some("localhost:1")).expect("this is fine");
                request.set_path_with_query(Some("/")).expect("this is fine");
                request.set_scheme(Some(&Scheme::Other("gopher".to_owned()))).expect("this is fine");
            })
            .await
        }
        "outgoing-refused" => {
            send(|request| {
                request.set_authority(Some("127.0.0.1:1")).expect("this is fine");
                request.set_path_with_query(Some("/")).expect("this is fine");
                request.set_scheme(Some(&Scheme::Http)).expect("this is fine");
            })
            .await
        }
        "outgoing-parts" => {
            let request = outgoing();
            let before = (
                request.get_method(),
                request.get_path_with_query(),
                request.get_scheme(),
                request.get_authority(),
            );
            let tried = [
                request.set_method(&Method::Other("with space".to_owned())),
                request.set_method(&Method::Other("BREW".to_owned())),
                request.set_path_with_query(Some("/with space")),
                request.set_path_with_query(Some("/fine?query")),
                request.set_authority(Some("user@host:1")),
                request.set_authority(Some("host:not-a-port")),
                request.set_authority(Some("")),
                request.set_scheme(Some(&Scheme::Other("1bad".to_owned()))),
            ];
            let after = (
                request.get_method(),
                request.get_path_with_query(),
                request.get_scheme(),
                request.get_authority(),
            );
            format!("{before:?}\n{tried:?}\n{after:?}")
        }
        "outgoing-options" => {
            let options = RequestOptions::new();
            let set = (options.set_connect_timeout(Some(1)), options.set_first_byte_timeout(Some(u64::MAX)));
            let got = (
                options.get_connect_timeout(),
                options.get_first_byte_timeout(),
                options.get_between_bytes_timeout(),
            );
            format!("{set:?} {got:?}")
        }
        _ => name.to_owned(),
    };
    Ok(answer(found))
}

type Trailers = wit_bindgen::FutureReader<Result<Option<Fields>, ErrorCode>>;

fn consume(request: Request) -> (wit_bindgen::StreamReader<u8>, Trailers) {
    let (received, result) = wit_future::new(|| Ok(()));
    drop(received);
    Request::consume_body(request, result)
}

fn empty() -> Response {
    let (trailers, ended) = wit_future::new(|| Ok(None));
    drop(trailers);
    Response::new(Fields::new(), None, ended).0
}

fn status(status: u16) -> Response {
    let response = empty();
    response.set_status_code(status).expect("this is fine");
    response
}

/// Seven bytes under a header that says how many there are.
fn of_length(length: &str) -> Response {
    let headers =
        Fields::from_list(&[("content-length".into(), length.as_bytes().to_vec())]).expect("this is fine");
    respond(headers, b"seventy".to_vec())
}

fn outgoing() -> Request {
    let (trailers, ended) = wit_future::new(|| Ok(None));
    drop(trailers);
    Request::new(Fields::new(), None, ended, None).0
}

/// Sends a request to nobody, and says which error came of it.
async fn send(prepare: impl FnOnce(&Request)) -> String {
    let request = outgoing();
    prepare(&request);
    match client::send(request).await {
        Ok(response) => response.get_status_code().to_string(),
        Err(code) => format!("{code:?}"),
    }
}

/// A request that is not sent, with that text wherever one may be, and a changed copy of its fields.
fn message(text: &str) -> (Request, Fields) {
    let fields = Fields::from_list(&[("x-text".into(), text.into())]).expect("they fit");
    let copy = fields.clone();
    copy.append("x-more", b"more").expect("there is room for it");
    let (trailers, ended) = wit_future::new(|| Ok(None));
    drop(trailers); // there are none
    let (request, _) = Request::new(fields, None, ended, None);
    request.set_method(&Method::Other(text.into())).expect("it is a token");
    request.set_authority(Some(text)).expect("it is a name");
    (request, copy)
}
