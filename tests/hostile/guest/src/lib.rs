//! A component that attacks its host: the first segments of the path say how.
//!
//! `/<app>/net/...` asks other servers, see [`net`]; `/<app>/out/...` answers what no app should, see [`out`];
//! `/<app>/cpu/...` does not let go of the CPU, see [`cpu`]; `/<app>/memory/...` wants more than there is, see [`memory`].
//! The answer tells what came of the attack, for a test to judge.

mod abi;
mod cpu;
mod memory;
mod net;
mod out;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

struct Hostile;

impl Guest for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').skip(1).collect();
        match parts.as_slice() {
            ["net", attack @ ..] => respond(out, &net::run(attack)),
            ["out", attack @ ..] => out::run(attack, request, out),
            ["cpu", attack @ ..] => cpu::run(attack, out),
            ["memory", attack @ ..] => memory::run(attack, out),
            ["abi", attack @ ..] => abi::run(attack, out),
            _ => respond(out, "abi, cpu, memory, net, out\n"),
        }
    }
}

/// An ordinary answer.
fn respond(out: ResponseOutparam, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let _ = write(&body, text.len() as u64, text.as_bytes());
    let _ = OutgoingBody::finish(body, None);
}

/// Bytes from hexadecimal digits.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|two| u8::try_from(two[0] * 16 + two[1]).expect("a byte")).collect()
}

/// Writes `bytes` bytes, `piece` after `piece`.
fn write(body: &OutgoingBody, bytes: u64, piece: &[u8]) -> Result<(), StreamError> {
    let stream = body.write().expect("the stream is taken once");
    let mut left = usize::try_from(bytes).expect("it fits");
    while left > 0 {
        stream.subscribe().block();
        let room = usize::try_from(stream.check_write()?).expect("it fits");
        let length = room.min(left).min(piece.len());
        stream.write(&piece[..length])?;
        left -= length;
    }
    stream.blocking_flush()
}

wasip2::http::proxy::export!(Hostile);
