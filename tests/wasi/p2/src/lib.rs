//! Tries WASI 0.2: each path is a case, and the answer says what was found. `/` lists the cases.
//!
//! What is found must be the same under any host that keeps to WASI, so nothing here depends on the time or on an address.

mod http;
mod system;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Cases;

impl Guest for Cases {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if let Some((_, case)) = system::CASES.iter().find(|(case, _)| *case == name) {
            return answer(out, &case());
        }
        if let Some((_, case)) = http::CASES.iter().find(|(case, _)| *case == name) {
            return case(request, out);
        }
        let names =
            system::CASES.iter().map(|(name, _)| *name).chain(http::CASES.iter().map(|(name, _)| *name));
        answer(out, &names.collect::<Vec<_>>().join("\n"));
    }
}

/// An ordinary answer.
fn answer(out: ResponseOutparam, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    write(&body, text.as_bytes());
    OutgoingBody::finish(body, None).expect("the body is whole");
}

fn write(body: &OutgoingBody, bytes: &[u8]) {
    let stream = body.write().expect("the stream is taken once");
    for piece in bytes.chunks(4096) {
        stream.blocking_write_and_flush(piece).expect("somebody reads");
    }
}

wasip2::http::proxy::export!(Cases);
