//! Consumed REST: the inputs of a method become a request, its answer becomes the outputs.
//!
//! Who cannot be reached raises Communication; an answer of 400 and more, and one that does not fit the outputs,
//! raise what only All takes. Invariant: the outputs have their defaults when something was raised.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Write as _;

use crate::bindings::wasi::config::store;
use crate::exceptions::{COMMUNICATION, raise, raise_as};
use crate::http::{IN_BODY, IN_HEADER, IN_PATH, IN_QUERY, PARAM_MANDATORY, input_at};
use crate::json;
use crate::lists::{list_len, rt_list_append};
use crate::memory::{RT_PENDING, bytes, new_text, rd32, rd64, rt_alloc, text, wr32, wr64};
use crate::outgoing::{Received, Sent, exchange};
use crate::values::*;

/// Characters of an answer that an exception repeats.
const QUOTED_CHARACTERS_MAX: usize = 300;

/// Attributes of HTTPRequest and HTTPResponse, as the compiler declares them.
const FIRST: u32 = 0;
const HEADERS: u32 = 8;
const BODY: u32 = 16;

/// A method, as the compiler wrote it.
#[derive(Clone, Copy)]
struct Method(u32);

impl Method {
    unsafe fn word(self, index: u32) -> u32 {
        rd32(self.0 + index * 4)
    }
    unsafe fn name(self) -> &'static str {
        text(self.word(0))
    }
    unsafe fn timeout_s(self) -> u32 {
        self.word(5)
    }
    unsafe fn verb(self) -> u32 {
        self.word(6)
    }
    unsafe fn outputs(self) -> u32 {
        self.word(11)
    }
}

/// Sends the request of a method, and gives a record of its outputs.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_request(method: u32, inputs: u32) -> u32 {
    let method = Method(method);
    let outputs = rt_new_record(method.outputs());
    let Some(mut request) = Request::of(method, inputs) else { return outputs };
    request.authorize(method);
    if !request.customize(method) {
        return outputs;
    }
    let sent = Sent {
        verb: method.verb(),
        url: &request.url,
        headers: &request.headers,
        body: &request.body,
        timeout_s: u64::from(method.timeout_s()),
    };
    match exchange(&sent) {
        Ok(received) => {
            if let Some(received) = customized(method, received) {
                take(method, &received, outputs);
            }
        }
        Err(why) => {
            let url = request.url.split('?').next().unwrap_or_default();
            raise_as(COMMUNICATION, 502, &format!("{}: no answer from {url}: {why}", method.name()));
        }
    }
    outputs
}

struct Request {
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// From the inputs of a method, or nothing when the stage does not say where the API is.
    unsafe fn of(method: Method, inputs: u32) -> Option<Request> {
        let mut url = setting(method.word(1)).unwrap_or_else(|| text(method.word(2)).to_string());
        if url.is_empty() {
            let setting = text(method.word(1));
            raise(500, &format!("{}: the setting {setting} is not set", method.name()));
            return None;
        }
        url.truncate(url.trim_end_matches('/').len());
        for index in 0..method.word(7) {
            let entry = method.word(8) + index * 8;
            url.push('/');
            if rd32(entry) == 0 {
                url.push_str(text(rd32(entry + 4)));
            } else {
                let input = input_at(method.word(10), rd32(entry + 4));
                encode(&mut url, &plain(rd64(inputs + rd32(entry + 4) * 8), input.desc));
            }
        }
        let mut headers = alloc::vec![("accept".to_string(), "application/json".to_string())];
        let (mut body, mut separator) = (Vec::new(), '?');
        for index in 0..method.word(9) {
            let (input, word) = (input_at(method.word(10), index), rd64(inputs + index * 8));
            // What need not be sent is not, while it holds the default.
            if input.source != IN_BODY && input.flags & PARAM_MANDATORY == 0 && is_default(word, input.desc) {
                continue;
            }
            match input.source {
                IN_PATH => {}
                IN_QUERY => {
                    url.push(separator);
                    separator = '&';
                    encode(&mut url, input.name);
                    url.push('=');
                    encode(&mut url, &plain(word, input.desc));
                }
                IN_HEADER => headers.push((input.name.to_string(), plain(word, input.desc))),
                _ => {
                    let kind;
                    (kind, body) = content(word, input.desc);
                    headers.push(("content-type".to_string(), kind.to_string()));
                }
            }
        }
        Some(Request { url, headers, body })
    }

    /// Shows who the app is, where the API asks for it.
    unsafe fn authorize(&mut self, method: Method) {
        let (user, password) = (method.word(3), method.word(4));
        if user == 0 {
            return;
        }
        let value = |name: u32| setting(name).unwrap_or_default();
        let mut header = "Basic ".to_string();
        json::to_base64(&mut header, format!("{}:{}", value(user), value(password)).as_bytes());
        self.headers.push(("authorization".to_string(), header));
    }

    /// Lets the app's hook change the request; false when it raised something.
    unsafe fn customize(&mut self, method: Method) -> bool {
        let (hook, desc) = (method.word(12), method.word(14));
        if hook == 0 {
            return true;
        }
        let url = i64::from(new_text(&self.url));
        let body = core::mem::take(&mut self.body);
        let record = call_hook(hook, desc, url, &self.headers, &body);
        self.url = text(rd32(record + FIRST)).to_string();
        self.headers = headers_of(record);
        self.body = bytes(rd32(record + BODY)).to_vec();
        RT_PENDING == 0
    }
}

/// Lets the app's hook change the answer; nothing when it raised something.
unsafe fn customized(method: Method, received: Received) -> Option<Received> {
    let (hook, desc) = (method.word(13), method.word(15));
    if hook == 0 {
        return Some(received);
    }
    let record = call_hook(hook, desc, i64::from(received.status), &received.headers, &received.body);
    let status = u16::try_from(rd32(record + FIRST)).unwrap_or(500);
    (RT_PENDING == 0).then(|| Received {
        status,
        headers: headers_of(record),
        body: bytes(rd32(record + BODY)).to_vec(),
    })
}

/// Calls an action with a structure of what goes out or came in, and gives the one that it answers.
unsafe fn call_hook(hook: u32, desc: u32, first: i64, headers: &[(String, String)], body: &[u8]) -> u32 {
    let frame = rt_alloc(16);
    let record = rt_new_record(desc);
    wr64(record + FIRST, first);
    let list = rd32(record + HEADERS);
    let header_desc = element(field(desc, HEADERS / 8).desc);
    for (name, value) in headers {
        let header = rt_new_record(header_desc);
        wr32(header, new_text(name));
        wr32(header + 8, new_text(value));
        wr64(rt_list_append(list), i64::from(header));
    }
    // A body that is no text cannot be changed as one; what a hook sees of it is close.
    wr32(record + BODY, new_text(&String::from_utf8_lossy(body)));
    wr64(frame, i64::from(record));
    // SAFETY: the compiler put this function into the table with exactly this type.
    let hook: extern "C" fn(u32) -> u32 = core::mem::transmute(hook);
    hook(frame);
    rd32(frame + 8)
}

unsafe fn headers_of(record: u32) -> Vec<(String, String)> {
    let list = rd32(record + HEADERS);
    let header = |index: u32| {
        let header = rd32(rd32(list + 8) + index * 8);
        (text(rd32(header)).to_string(), text(rd32(header + 8)).to_string())
    };
    (0..list_len(list)).map(header).collect()
}

/// Reads the answer into the outputs.
unsafe fn take(method: Method, received: &Received, outputs: u32) {
    let desc = method.outputs();
    if received.status >= 400 {
        let said: String =
            String::from_utf8_lossy(&received.body).chars().take(QUOTED_CHARACTERS_MAX).collect();
        return raise(500, &format!("{} answered {}: {said}", method.name(), received.status));
    }
    let is_json =
        received.header("content-type").is_none_or(|kind| kind.to_ascii_lowercase().contains("json"));
    let mut problems = Vec::new();
    match field_count(desc) {
        0 => {}
        _ if received.body.iter().all(u8::is_ascii_whitespace) => {}
        1 if kind(field(desc, 0).desc) == TEXT && !is_json => {
            wr64(outputs, i64::from(new_text(&String::from_utf8_lossy(&received.body))));
        }
        1 if kind(field(desc, 0).desc) == BINARY && !is_json => {
            wr64(outputs, i64::from(crate::memory::new_bytes(&received.body)));
        }
        1 => json::read(&received.body, "The answer", outputs, field(desc, 0).desc, &mut problems),
        _ => {
            let slot = rt_alloc(8);
            wr64(slot, i64::from(outputs));
            json::read(&received.body, "The answer", slot, desc, &mut problems);
        }
    }
    if !problems.is_empty() {
        raise(500, &format!("{}: {}", method.name(), problems.join("; ")));
    }
}

/// The value of a setting that the stage sets.
unsafe fn setting(name: u32) -> Option<String> {
    store::get(text(name)).ok().flatten()
}

/// The content type and bytes of a body.
unsafe fn content(word: i64, desc: u32) -> (&'static str, Vec<u8>) {
    match kind(desc) {
        TEXT => ("text/plain; charset=utf-8", text(word as u32).as_bytes().to_vec()),
        BINARY => ("application/octet-stream", bytes(word as u32).to_vec()),
        _ => {
            let mut out = String::new();
            json::write(&mut out, word, desc, true);
            ("application/json", out.into_bytes())
        }
    }
}

/// A value as it stands in a path, query or header.
unsafe fn plain(word: i64, desc: u32) -> String {
    if matches!(kind(desc), TEXT | EMAIL | PHONE) {
        return text(word as u32).to_string();
    }
    let mut out = String::new();
    json::write(&mut out, word, desc, true);
    out.trim_matches('"').to_string()
}

/// Percent-encodes all but what RFC 3986 calls unreserved.
fn encode(out: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
}
