//! Makes a handler of a command: composed with one, it runs it for each request and answers with its exit status, 0 or 1.
//!
//! Programs that test WASI are commands, and an app is a handler. What the program does is between it and the host; the
//! answer comes only if it returns, because one that exits ends the instance.

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

wit_bindgen::generate!({
    inline: "
        package odeon:command;

        world around {
            import wasi:cli/run@0.2.12;
        }

        package wasi:cli@0.2.12 {
            interface run {
                run: func() -> result;
            }
        }
    ",
    generate_all,
});

struct Around;

impl Guest for Around {
    fn handle(_: IncomingRequest, out: ResponseOutparam) {
        let status = if wasi::cli::run::run().is_ok() { "0" } else { "1" };
        let response = OutgoingResponse::new(Fields::new());
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream is taken once");
        stream.blocking_write_and_flush(status.as_bytes()).expect("somebody reads");
        drop(stream);
        OutgoingBody::finish(body, None).expect("the body is whole");
    }
}

wasip2::http::proxy::export!(Around);
