//! Answers that no app should give.
//!
//! - `headers/<count>/<bytes>`: so many headers of so many bytes.
//! - `status/<code>`: that status.
//! - `body/<bytes>`: a body of so many bytes.
//! - `header/<hex of a name>/<hex of a value>`: one header of these bytes.
//! - `length/<said>/<bytes>`: a body that is as long, and says that it has another length; what is beyond looks like an answer.
//! - `error/<bytes>`: an error with so long a text, instead of an answer.
//! - `claims`: headers that only hosts and routers should send.
//! - `seen`: what the app sees of the request, its body read to the end.

use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

use crate::{bytes, respond, write};

static PIECE: [u8; 64 << 10] = [b'x'; 64 << 10];

pub(crate) fn run(attack: &[&str], request: IncomingRequest, out: ResponseOutparam) {
    match attack {
        ["headers", count, bytes] => headers(number(count), number(bytes), out),
        ["status", code] => {
            let response = OutgoingResponse::new(Fields::new());
            let code = u16::try_from(number(code)).expect("a status");
            if response.set_status_code(code).is_err() {
                return respond(out, "refused\n");
            }
            let body = response.body().expect("it is taken once");
            ResponseOutparam::set(out, Ok(response));
            let _ = OutgoingBody::finish(body, None);
        }
        ["body", bytes] => {
            let response = OutgoingResponse::new(Fields::new());
            let body = response.body().expect("it is taken once");
            ResponseOutparam::set(out, Ok(response));
            let _ = write(&body, number(bytes), &PIECE);
            let _ = OutgoingBody::finish(body, None);
        }
        ["header", name, value] => {
            let fields = Fields::new();
            let name = String::from_utf8(bytes(name)).expect("a text");
            if let Err(error) = fields.set(&name, &[bytes(value)]) {
                return respond(out, &format!("refused {error:?}\n"));
            }
            answer(fields, b"sent\n", out);
        }
        ["length", said, length] => {
            let fields = Fields::new();
            if let Err(error) = fields.set("content-length", &[said.as_bytes().to_vec()]) {
                return respond(out, &format!("refused {error:?}\n"));
            }
            let mut body = b"hello".to_vec();
            body.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled");
            body.resize(usize::try_from(number(length)).expect("it fits"), b'x');
            answer(fields, &body, out);
        }
        ["error", bytes] => {
            let length = usize::try_from(number(bytes)).expect("it fits");
            ResponseOutparam::set(out, Err(ErrorCode::InternalError(Some("\u{7f}".repeat(length)))));
        }
        ["claims"] => {
            let fields = Fields::new();
            for name in ["x-odeon-not-served", "odeon-call", "odeon-trigger", "odeon-user", "x-request-id"] {
                if fields.set(name, &[b"forged".to_vec()]).is_err() {
                    return respond(out, "refused\n");
                }
            }
            answer(fields, b"claimed\n", out);
        }
        ["seen"] => {
            let seen = seen(request);
            respond(out, &seen);
        }
        _ => respond(out, "headers, status, body, header, length, claims, seen\n"),
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("a number")
}

fn answer(fields: Fields, bytes: &[u8], out: ResponseOutparam) {
    let response = OutgoingResponse::new(fields);
    let body = response.body().expect("it is taken once");
    ResponseOutparam::set(out, Ok(response));
    let _ = write(&body, bytes.len() as u64, bytes);
    let _ = OutgoingBody::finish(body, None);
}

fn headers(count: u64, bytes: u64, out: ResponseOutparam) {
    let fields = Fields::new();
    let value = vec![b'x'; usize::try_from(bytes).expect("it fits")];
    for at in 0..count {
        if fields.set(&format!("x-{at}"), std::slice::from_ref(&value)).is_err() {
            return respond(out, "refused\n");
        }
    }
    let response = OutgoingResponse::new(fields);
    let body = response.body().expect("it is taken once");
    ResponseOutparam::set(out, Ok(response));
    let _ = OutgoingBody::finish(body, None);
}

fn seen(request: IncomingRequest) -> String {
    let mut text = format!("{:?} {}\n", request.method(), request.path_with_query().unwrap_or_default());
    for (name, value) in request.headers().entries() {
        text += &format!("{name}: {}\n", String::from_utf8_lossy(&value));
    }
    let body = request.consume().expect("it is taken once");
    let stream = body.stream().expect("it is taken once");
    let mut bytes = 0;
    let end = loop {
        match stream.blocking_read(1 << 16) {
            Ok(piece) => bytes += piece.len(),
            Err(StreamError::Closed) => break "whole".to_owned(),
            Err(StreamError::LastOperationFailed(error)) => {
                break error.to_debug_string();
            }
        }
    };
    text + &format!("body: {bytes} bytes, {end}\n")
}
