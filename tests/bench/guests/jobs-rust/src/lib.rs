//! The jobs of `make bench`, as somebody would write them in Rust for speed: what compiled OML is compared with.
//!
//! The same work as `jobs-oml/jobs.yaml` with the same meaning: integers that notice an overflow, decimals that are
//! exact and rounded half to even, text that compares without case and accents. Invariant: the results are
//! those of the OML app, byte for byte; the benchmark refuses to measure otherwise.

mod decimal;
mod jobs;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

/// Bytes that are read at once.
const READ_BYTES: u64 = 65_536;

struct Jobs;

impl Guest for Jobs {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let body = read(&request);
        let job = path.rsplit('/').next().unwrap_or_default();
        let (status, text) = match jobs::run(job, &body) {
            Ok(result) => (200, serde_json::to_string(&result).expect("a text is JSON")),
            Err(why) => (500, why),
        };
        let headers = Fields::new();
        headers.set("content-type", &[b"application/json".to_vec()]).expect("a header that may be set");
        let response = OutgoingResponse::new(headers);
        response.set_status_code(status).expect("a status that may be set");
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream is taken once");
        stream.blocking_write_and_flush(text.as_bytes()).expect("the caller listens");
        drop(stream);
        OutgoingBody::finish(body, None).expect("the body is whole");
    }
}

fn read(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut all = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(bytes) => all.extend(bytes),
            Err(StreamError::Closed) => return all,
            Err(error) => panic!("the body cannot be read: {error}"),
        }
    }
}

wasip2::http::proxy::export!(Jobs);
