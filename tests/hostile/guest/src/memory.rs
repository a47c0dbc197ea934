//! Guests that want more than there is, in their own memory or in the host's.
//!
//! - `grow`: more memory until it fails.
//! - `ask`: asks for memory that it may not have, for ever.
//! - `hold/<mib>/<ms>`: takes so much, keeps it for so long, and answers.
//! - `late/<mib>/<ms>`: the same, but it fills what it took after that time only.
//! - `stack`: calls itself for ever.
//! - `resources`: makes resources of the host until it fails.
//! - `fields`: a header list that grows until it fails.
//! - `messages/<what>/<count>`: so many messages that are never sent, of 60 KiB each, for the host to keep.
//! - `dropped/<count>`: the same one after the other, each let go before the next.
//! - `random`: more random bytes in one call than the host has memory for.
//! - `polls/<count>`: waits for one and the same pollable, named so often in one call.
//! - `call/<mib>`: so much text in one call of the host, which refuses it.
//! - `log/<lines>/<bytes>`: lines of log of so many bytes, as fast as it can.
//! - `line/<kib>`: one line without end.
//! - `bytes`: what is no UTF-8, on standard output.
//! - `forged`: a line that looks as if another request had written it.
//! - `exit`, `abort`, `trap`: ends.
//! - `files`, `sockets`, `environment`: what it can see of its host.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Duration;

use wasip2::http::types::{Fields, Method, OutgoingRequest, ResponseOutparam};

use crate::respond;

/// A long text in a message, in bytes: a list of fields may have 64 KiB.
const TEXT_BYTES: usize = 60 << 10;
/// What is asked for at a time, in pages of 64 KiB.
const PAGES: usize = 1_024;

pub(crate) fn run(attack: &[&str], out: ResponseOutparam) {
    let said = match attack {
        ["grow"] => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
            }
        }
        ["ask"] => loop {
            black_box(core::arch::wasm32::memory_grow(0, PAGES));
        },
        ["hold", mib, ms] => {
            let hoard = vec![1_u8; number(mib) << 20];
            std::thread::sleep(Duration::from_millis(number(ms) as u64));
            format!("held {}\n", black_box(hoard).len())
        }
        ["late", mib, ms] => {
            let (mut hoard, bytes) = (Vec::new(), number(mib) << 20);
            hoard.reserve_exact(bytes);
            std::thread::sleep(Duration::from_millis(number(ms) as u64));
            while hoard.len() < bytes {
                hoard.extend_from_slice(black_box(&[1_u8; 4 << 10]));
            }
            format!("filled {}\n", black_box(hoard).len())
        }
        ["stack"] => format!("{}\n", deeper(1)),
        ["resources"] => {
            let mut all = Vec::new();
            loop {
                all.push(Fields::new());
            }
        }
        ["fields"] => {
            let fields = Fields::new();
            let value = vec![b'x'; 1_000];
            let taken = (0..10_000).take_while(|at| fields.set(&format!("x-{at}"), std::slice::from_ref(&value)).is_ok());
            format!("{} headers\n", taken.count())
        }
        ["messages", what, count] => format!("{} messages\n", messages(what, number(count))),
        ["dropped", count] => {
            let text = "x".repeat(TEXT_BYTES);
            (0..number(count)).for_each(|_| drop(fields(&text)));
            "dropped\n".to_owned()
        }
        ["random"] => format!("{}\n", wasip2::random::random::get_random_bytes(1 << 40).len()),
        ["polls", count] => {
            let pollable = wasip2::clocks::monotonic_clock::subscribe_duration(1);
            format!("{} ready\n", wasip2::io::poll::poll(&vec![&pollable; number(count)]).len())
        }
        ["call", mib] => {
            let path = " ".repeat(number(mib) << 20);
            let taken = OutgoingRequest::new(Fields::new()).set_path_with_query(Some(&path));
            format!("{taken:?}\n")
        }
        ["log", lines, bytes] => {
            let line = "x".repeat(number(bytes));
            for _ in 0..number(lines) {
                println!("{line}");
            }
            "logged\n".to_owned()
        }
        ["line", kib] => {
            for _ in 0..number(kib) {
                print!("{}", "x".repeat(1_024));
            }
            println!();
            "logged\n".to_owned()
        }
        ["bytes"] => {
            let _ = std::io::stdout().write_all(b"\xff\xfe\x80 no text\n");
            "logged\n".to_owned()
        }
        ["forged"] => {
            println!("first\u{0}\r\n{{\"app\":\"other\",\"requestId\":\"forged\",\"message\":\"second\"}}");
            "logged\n".to_owned()
        }
        ["exit"] => std::process::exit(0),
        ["abort"] => std::process::abort(),
        ["trap"] => core::arch::wasm32::unreachable(),
        ["files"] => format!("{:?} {:?}\n", std::fs::read("/etc/passwd").err(), std::fs::write("/tmp/x", "x").err()),
        ["sockets"] => {
            let connected = std::net::TcpStream::connect("127.0.0.1:5432").map(drop);
            let bound = std::net::UdpSocket::bind("0.0.0.0:0").map(drop);
            let resolved = std::net::ToSocketAddrs::to_socket_addrs("localhost:80").map(drop);
            format!("{} {} {}\n", connected.is_ok(), bound.is_ok(), resolved.is_ok())
        }
        ["environment"] => {
            format!("{} {}\n", std::env::vars().count(), std::env::args().count())
        }
        _ => "grow, ask, hold, late, stack, resources, fields, messages, dropped, random, polls, call, log, line, bytes, exit, abort, trap, files, sockets, environment\n"
            .to_owned(),
    };
    respond(out, &said);
}

/// Makes messages that the host keeps, and says how many there are.
fn messages(what: &str, count: usize) -> usize {
    let text = "x".repeat(TEXT_BYTES);
    let first = fields(&text);
    let (mut lists, mut requests) = (Vec::new(), Vec::new());
    for _ in 0..count {
        match what {
            "fields" => lists.push(fields(&text)),
            "copies" => {
                let copy = first.clone();
                copy.append("x-more", b"more").expect("there is room for it");
                lists.push(copy);
            }
            of_requests => {
                let request = OutgoingRequest::new(Fields::new());
                match of_requests {
                    "methods" => request.set_method(&Method::Other(text.clone())),
                    "authorities" => request.set_authority(Some(&text)),
                    _ => request.body().map(drop),
                }
                .expect("the host takes it");
                requests.push(request);
            }
        }
    }
    lists.len() + requests.len()
}

fn fields(text: &str) -> Fields {
    Fields::from_list(&[("x-text".to_owned(), text.as_bytes().to_vec())]).expect("they fit")
}

fn deeper(depth: u64) -> u64 {
    if black_box(depth) == 0 { 0 } else { 1 + black_box(deeper(depth + 1)) }
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}
