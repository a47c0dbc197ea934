//! Tries WASI 0.3: each path is a case, and the answer says what was found. `/` lists the cases.
//!
//! What is found must be the same under any host that keeps to WASI, so nothing here depends on the time or on an address.

mod http;
mod system;

use wasip3::http::types::{ErrorCode, Fields, Request, Response};
use wasip3::{wit_bindgen, wit_future, wit_stream};

struct Cases;

wasip3::http::service::export!(Cases);

impl wasip3::exports::http::handler::Guest for Cases {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if let Some(found) = system::run(name).await {
            return Ok(answer(found));
        }
        if http::CASES.contains(&name) {
            return http::run(name, request).await;
        }
        Ok(answer([system::CASES, http::CASES].concat().join("\n")))
    }
}

/// An ordinary answer.
fn answer(text: String) -> Response {
    respond(Fields::new(), text.into_bytes())
}

fn respond(headers: Fields, bytes: Vec<u8>) -> Response {
    let (mut body, contents) = wit_stream::new();
    let (trailers, ended) = wit_future::new(|| Ok(None));
    drop(trailers); // there are none
    wit_bindgen::spawn_local(async move {
        let _ = body.write_all(bytes).await; // nobody may read
    });
    Response::new(headers, Some(contents), ended).0
}
