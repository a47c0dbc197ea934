//! Cases about HTTP: the request, header fields, responses, bodies, and requests to others.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingBody, IncomingRequest, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

use crate::{answer, write};

type Case = fn(IncomingRequest, ResponseOutparam);

/// A case and its name.
pub(crate) const CASES: &[(&str, Case)] = &[
    ("request-line", |request, out| {
        let is_host = request.authority().map(|authority| vec![authority.into_bytes()])
            == Some(request.headers().get("host"));
        answer(out, &format!("{:?} {:?} {is_host}", request.method(), request.scheme()));
    }),
    ("request-headers", |request, out| {
        let headers = request.headers();
        let (one, two) = (headers.get("x-one"), headers.get("X-TWO"));
        answer(out, &format!("{one:?} {two:?} {:?} {}", headers.get("x-three"), headers.has("x-One")));
    }),
    ("request-headers-are-fixed", |request, out| {
        let headers = request.headers();
        let tried =
            [headers.set("x-new", &[b"1".to_vec()]), headers.append("x-one", b"2"), headers.delete("x-one")];
        let copied = headers.clone();
        answer(
            out,
            &format!("{tried:?} {:?} {:?}", copied.set("x-one", &[b"3".to_vec()]), copied.get("x-one")),
        );
    }),
    ("request-body", |request, out| answer(out, &read(&request).unwrap_or_else(|error| error))),
    ("request-body-twice", |request, out| {
        let (first, second) = (request.consume(), request.consume());
        answer(out, &format!("{} {}", first.is_ok(), second.is_ok()));
    }),
    ("request-stream-twice", |request, out| {
        let body = request.consume().expect("the body is taken once");
        let (first, second) = (body.stream(), body.stream());
        answer(out, &format!("{} {}", first.is_ok(), second.is_ok()));
    }),
    ("request-body-dropped", |request, out| {
        drop(request.consume());
        answer(out, "dropped");
    }),
    ("request-body-before-its-stream", |request, out| {
        let body = request.consume().expect("the body is taken once");
        let stream = body.stream().expect("the stream is taken once");
        drop(body); // a trap: it has a child
        drop(stream);
        answer(out, "it was dropped");
    }),
    ("request-trailers", |request, out| {
        let body = request.consume().expect("the body is taken once");
        let stream = body.stream().expect("the stream is taken once");
        while stream.blocking_read(4096).is_ok() {}
        drop(stream);
        let trailers = IncomingBody::finish(body);
        trailers.subscribe().block();
        let first = trailers
            .get()
            .map(|got| got.map(|got| got.map(|fields| fields.map(|fields| fields.entries().len()))));
        answer(out, &format!("{first:?} {}", trailers.get().is_some_and(|second| second.is_err())));
    }),
    ("fields-names", |_, out| {
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
            "keep-alive",
            "http2-settings",
            "proxy-connection",
        ];
        let tried = names.map(|name| format!("{name:?} {:?}", fields.append(name, b"1")));
        answer(out, &format!("{} {:?}", tried.join("\n"), fields.entries().len()));
    }),
    ("fields-values", |_, out| {
        let fields = Fields::new();
        let values: [&[u8]; 7] = [b"fine", b"", b"a\r\nb", b"a\0b", b" around ", b"\xff\xfe", b"tab\there"];
        let tried = values.map(|value| format!("{value:?} {:?}", fields.append("x-value", value)));
        answer(out, &format!("{} {:?}", tried.join("\n"), fields.get("x-value")));
    }),
    ("fields-edit", |_, out| {
        let fields = Fields::from_list(&[
            ("a".into(), b"1".to_vec()),
            ("b".into(), b"2".to_vec()),
            ("a".into(), b"3".to_vec()),
        ]);
        let fields = fields.expect("these are fine");
        let before = (fields.get("a"), fields.has("A"), fields.entries());
        let changed =
            (fields.set("a", &[]), fields.append("c", b"4"), fields.delete("b"), fields.delete("not-there"));
        answer(out, &format!("{before:?} {changed:?} {:?}", fields.entries()));
    }),
    ("fields-from-a-bad-list", |_, out| {
        let lists = [("bad name", "1"), ("x", "a\nb"), ("connection", "close")];
        let tried = lists
            .map(|(name, value)| Fields::from_list(&[(name.into(), value.as_bytes().to_vec())]).map(|_| ()));
        answer(out, &format!("{tried:?}"));
    }),
    ("fields-too-many", |_, out| {
        let fields = Fields::new();
        let refused = (0..100_000).find_map(|_| fields.append("x-much", &[b'x'; 1_000]).err());
        answer(out, &format!("{refused:?}"));
    }),
    ("fields-of-70-kib", |_, out| {
        let fields = Fields::new();
        answer(out, &format!("{:?}", (0..70).find_map(|_| fields.append("x-much", &[b'x'; 1_024]).err())));
    }),
    ("response-headers", |_, out| {
        let headers = Fields::new();
        headers
            .append("x-twice", b"1")
            .and_then(|()| headers.append("X-Twice", b"2"))
            .expect("these are fine");
        headers.set("content-type", &[b"text/x-own".to_vec()]).expect("this too");
        let response = OutgoingResponse::new(headers);
        let is_fixed = response.headers().set("x-new", &[b"1".to_vec()]);
        finish(out, response, format!("{is_fixed:?}").as_bytes());
    }),
    ("response-statuses", |_, out| {
        let response = OutgoingResponse::new(Fields::new());
        let first = response.status_code();
        let tried = [0, 99, 100, 204, 418, 599, 999, 1_000, u16::MAX]
            .map(|status| (status, response.set_status_code(status).is_ok()));
        response.set_status_code(200).expect("this is fine");
        finish(out, response, format!("{first} {tried:?}").as_bytes());
    }),
    ("response-418", |_, out| status(out, 418)),
    ("response-204", |_, out| status(out, 204)),
    ("response-599", |_, out| status(out, 599)),
    ("response-body-twice", |_, out| {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        let second = response.body().is_err();
        let stream = body.write().expect("the stream is taken once");
        let stream_again = body.write().is_err();
        ResponseOutparam::set(out, Ok(response));
        stream
            .blocking_write_and_flush(format!("{second} {stream_again}").as_bytes())
            .expect("somebody reads");
        drop(stream);
        OutgoingBody::finish(body, None).expect("it is whole");
    }),
    ("response-none", |_, out| drop(out)),
    ("response-error", |_, out| {
        ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("asked to".to_owned()))))
    }),
    ("response-without-a-body", |_, out| {
        ResponseOutparam::set(out, Ok(OutgoingResponse::new(Fields::new())))
    }),
    ("response-large", |_, out| finish(out, OutgoingResponse::new(Fields::new()), &vec![b'x'; 3_000_000])),
    ("response-of-a-length", |_, out| of_length(out, "7", b"seventy", true)),
    ("response-too-short", |_, out| of_length(out, "8", b"seventy", true)),
    ("response-too-long", |_, out| of_length(out, "6", b"seventy", true)),
    ("response-unfinished", |_, out| {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        write(&body, b"half of");
        drop(body); // without `finish`: it is not whole
    }),
    ("response-trailers", |_, out| {
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        write(&body, b"with trailers");
        let trailers = Fields::from_list(&[("x-trailer".into(), b"1".to_vec())]).expect("this is fine");
        let _ = OutgoingBody::finish(body, Some(trailers));
    }),
    ("response-half-and-a-trap", |_, out| {
        with_stream(out, |stream| {
            stream.blocking_write_and_flush(b"half of").expect("somebody reads");
            panic!("asked to")
        });
    }),
    ("stream-permits", |_, out| {
        with_stream(out, |stream| {
            let permit = stream.check_write().expect("it is open");
            let fits = stream.write(b"some").is_ok();
            let flushed = stream.blocking_flush().is_ok();
            format!("\n{} {fits} {flushed}", permit > 0)
        });
    }),
    ("stream-past-its-permit", |_, out| {
        with_stream(out, |stream| {
            let permit = usize::try_from(stream.check_write().expect("it is open")).expect("it fits");
            let _ = stream.write(&vec![b'x'; permit + 1]); // a trap
            "it was written".to_owned()
        });
    }),
    ("stream-4097-at-once", |_, out| {
        with_stream(out, |stream| format!("{:?}", stream.blocking_write_and_flush(&[b'x'; 4_097]).is_ok()));
    }),
    ("stream-zeroes", |_, out| {
        with_stream(out, |stream| format!("{:?}", stream.blocking_write_zeroes_and_flush(100).is_ok()));
    }),
    ("stream-splice", |request, out| {
        let body = request.consume().expect("the body is taken once");
        let source = body.stream().expect("the stream is taken once");
        with_stream(out, |stream| {
            let mut bytes = 0;
            loop {
                match stream.blocking_splice(&source, 1_000) {
                    Ok(more) => bytes += more,
                    Err(StreamError::Closed) => break format!(" {bytes}"),
                    Err(StreamError::LastOperationFailed(_)) => break " failed".to_owned(),
                }
            }
        });
    }),
    ("stream-skip-and-read", |request, out| {
        let body = request.consume().expect("the body is taken once");
        let stream = body.stream().expect("the stream is taken once");
        let skipped = stream.blocking_skip(2).map_err(|_| ());
        let nothing = stream.read(0).map(|bytes| bytes.len()).map_err(|_| ());
        let rest = stream.blocking_read(100).map_err(|_| ());
        let end = matches!(stream.blocking_read(100), Err(StreamError::Closed));
        answer(out, &format!("{skipped:?} {nothing:?} {rest:?} {end}"));
    }),
    ("outgoing-without-authority", |_, out| send(out, |_| ())),
    ("outgoing-odd-scheme", |_, out| {
        send(out, |request| {
            request.set_authority(Some("localhost:1")).expect("this is fine");
            request.set_path_with_query(Some("/")).expect("this is fine");
            request.set_scheme(Some(&Scheme::Other("gopher".to_owned()))).expect("this is fine");
        });
    }),
    ("outgoing-refused", |_, out| {
        send(out, |request| {
            request.set_authority(Some("127.0.0.1:1")).expect("this is fine");
            request.set_path_with_query(Some("/")).expect("this is fine");
            request.set_scheme(Some(&Scheme::Http)).expect("this is fine");
        });
    }),
    ("outgoing-parts", |_, out| {
        let request = OutgoingRequest::new(Fields::new());
        let before = (request.method(), request.path_with_query(), request.scheme(), request.authority());
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
        let after = (request.method(), request.path_with_query(), request.scheme(), request.authority());
        answer(out, &format!("{before:?}\n{tried:?}\n{after:?}"));
    }),
    ("outgoing-options", |_, out| {
        let options = RequestOptions::new();
        let before =
            (options.connect_timeout(), options.first_byte_timeout(), options.between_bytes_timeout());
        let set = (
            options.set_connect_timeout(Some(1)),
            options.set_first_byte_timeout(Some(u64::MAX)),
            options.set_between_bytes_timeout(None),
        );
        let after =
            (options.connect_timeout(), options.first_byte_timeout(), options.between_bytes_timeout());
        answer(out, &format!("{before:?} {set:?} {after:?}"));
    }),
];

fn read(request: &IncomingRequest) -> Result<String, String> {
    let body = request.consume().map_err(|()| "no body".to_owned())?;
    let stream = body.stream().map_err(|()| "no stream".to_owned())?;
    let mut all = Vec::new();
    loop {
        match stream.blocking_read(4096) {
            Ok(bytes) => all.extend(bytes),
            Err(StreamError::Closed) => return Ok(String::from_utf8_lossy(&all).into_owned()),
            Err(StreamError::LastOperationFailed(error)) => return Err(error.to_debug_string()),
        }
    }
}

fn finish(out: ResponseOutparam, response: OutgoingResponse, bytes: &[u8]) {
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    write(&body, bytes);
    OutgoingBody::finish(body, None).expect("the body is whole");
}

fn status(out: ResponseOutparam, status: u16) {
    let response = OutgoingResponse::new(Fields::new());
    response.set_status_code(status).expect("this is fine");
    ResponseOutparam::set(out, Ok(response));
}

/// A response that says its length, whatever is written.
fn of_length(out: ResponseOutparam, length: &str, bytes: &[u8], finish: bool) {
    let headers =
        Fields::from_list(&[("content-length".into(), length.as_bytes().to_vec())]).expect("this is fine");
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    let written = stream.blocking_write_and_flush(bytes);
    drop(stream);
    if finish {
        println!("{:?} {:?}", written.is_ok(), OutgoingBody::finish(body, None).is_ok());
    }
}

/// Lets a case write to the body of a response, and says in the end what it found.
fn with_stream(out: ResponseOutparam, case: impl FnOnce(&wasip2::io::streams::OutputStream) -> String) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    let found = case(&stream);
    stream.blocking_write_and_flush(found.as_bytes()).expect("somebody reads");
    drop(stream);
    OutgoingBody::finish(body, None).expect("the body is whole");
}

/// Sends a request to nobody, and says which error came of it.
fn send(out: ResponseOutparam, prepare: impl FnOnce(&OutgoingRequest)) {
    let request = OutgoingRequest::new(Fields::new());
    prepare(&request);
    let came = outgoing_handler::handle(request, None).and_then(|future| wait(&future));
    answer(out, &came.map_or_else(|code| format!("{code:?}"), |status| format!("{status}")));
}

fn wait(future: &FutureIncomingResponse) -> Result<u16, ErrorCode> {
    future.subscribe().block();
    let response = future.get().expect("it is ready").expect("it is taken once")?;
    Ok(response.status())
}
