//! One request: find the route, read the parameters, run the method, commit, answer.
//!
//! A path is `/<App>/rest/<Api>/<pattern>`; the first segment was for the router and is skipped.
//! The transaction is committed before the response head is set, so a client that sees success has
//! durable data; an exception that nobody handled rolls back, is logged with action and node, and
//! answers as ODC does. Invariant: every request gets exactly one response head.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::bindings::exports::wasi::http::incoming_handler::Guest;
use crate::bindings::wasi::http::types::{
    Headers, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam, Scheme,
};
use crate::bindings::wasi::io::streams::OutputStream;
use crate::memory::{RT_PENDING, app, new_text, rd32, rd64, rt_alloc, text, wr64};
use crate::outgoing::{Unread, read_all};
use crate::values::{field, field_count, fill_record, write_default};
use crate::{exceptions, json, roles, sql};

/// Largest request body: 28.6 MB, as ODC.
const BODY_BYTES_MAX: usize = 29_989_273;
/// The code of all errors of an app's own, as in ODC.
const ERROR_CODE: &str = "OS-BERT-50000";

/// Says who calls, between apps; hosts pass it on with what they start, and take it from everybody else's requests.
pub(crate) const USER_HEADER: &str = "odeon-user";
/// Header of what the host starts by itself; it takes it from everybody else's requests.
const TRIGGER: &str = "odeon-trigger";

// Where an input of a REST method stands, as the compiler numbers it.
pub(crate) const IN_PATH: u32 = 0;
pub(crate) const IN_QUERY: u32 = 1;
pub(crate) const IN_HEADER: u32 = 2;
pub(crate) const IN_BODY: u32 = 3;
pub(crate) const PARAM_MANDATORY: u32 = 1;
/// What a refused client is told of the verbs: what answers GET answers HEAD.
const ALLOWED: [&str; 4] = ["GET, HEAD", "POST", "PUT", "DELETE"];

/// URL and user agent of the request; empty for what the host starts.
static mut REQUEST: (String, String) = (String::new(), String::new());

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_url() -> u32 {
    let request = &raw const REQUEST;
    new_text(&(*request).0)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_user_agent() -> u32 {
    let request = &raw const REQUEST;
    new_text(&(*request).1)
}

pub(crate) struct Handler;

struct Answer {
    status: u16,
    body: String,
    content_type: &'static str,
    allow: Option<String>,
    /// How a client shows who it is.
    challenge: Option<&'static str>,
    /// What kind of exception it was, for the app that called a service action.
    exception: Option<u32>,
}

impl Default for Answer {
    fn default() -> Answer {
        let content_type = "application/json; charset=utf-8";
        Answer {
            status: 204,
            body: String::new(),
            content_type,
            allow: None,
            challenge: None,
            exception: None,
        }
    }
}

impl Guest for Handler {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        // SAFETY: the compiler has written the app's descriptor; this is the only call of the instance.
        let answer = unsafe { serve(&request) };
        respond(out, &answer, matches!(request.method(), Method::Head));
    }
}

/// A row of the app's route table, as the compiler wrote it.
#[derive(Clone, Copy)]
struct Route {
    verb: u32,
    segments: (u32, u32),
    inputs: (u32, u32),
    /// The record of its outputs.
    outputs: u32,
    function: u32,
    status: u32,
    /// The function that checks who calls, or 0, and the slots of its frame.
    authentication: (u32, u32),
    /// The slot of that frame that says who calls, or 0.
    user: u32,
    /// The roles of which a caller needs one.
    roles: (u32, u32),
}

/// Bytes of a row.
const ROUTE_BYTES: u32 = 52;

/// An input of a REST method, exposed or consumed.
pub(crate) struct Input {
    pub(crate) name: &'static str,
    pub(crate) desc: u32,
    pub(crate) source: u32,
    pub(crate) flags: u32,
    default: u32,
}

unsafe fn route(index: u32) -> Route {
    let at = rd32(app() + 8) + index * ROUTE_BYTES;
    let pair = |offset: u32| (rd32(at + offset), rd32(at + offset + 4));
    Route {
        verb: rd32(at),
        segments: pair(4),
        inputs: pair(12),
        outputs: rd32(at + 20),
        function: rd32(at + 24),
        status: rd32(at + 28),
        authentication: pair(32),
        user: rd32(at + 40),
        roles: pair(44),
    }
}

/// The input at a place of the rows that the compiler wrote.
pub(crate) unsafe fn input_at(inputs: u32, index: u32) -> Input {
    let at = inputs + index * 20;
    Input {
        name: text(rd32(at)),
        desc: rd32(at + 4),
        source: rd32(at + 8),
        flags: rd32(at + 12),
        default: rd32(at + 16),
    }
}

unsafe fn serve(request: &IncomingRequest) -> Answer {
    let headers = request.headers();
    let request_id = header(&headers, "x-request-id").unwrap_or_default();
    let target = request.path_with_query().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let segments: Vec<String> =
        path.split('/').filter(|s| !s.is_empty()).skip(1).map(|s| decoded(s, false)).collect();
    if headers.has(TRIGGER) {
        roles::set_user(&header(&headers, USER_HEADER).unwrap_or_default());
        return triggered(&segments.join("/"), request);
    }
    let scheme = match request.scheme() {
        Some(Scheme::Https) => "https",
        Some(Scheme::Http | Scheme::Other(_)) | None => "http",
    };
    let url = request.authority().map_or_else(String::new, |host| format!("{scheme}://{host}{target}"));
    REQUEST = (url, header(&headers, "user-agent").unwrap_or_default());
    let verb = match request.method() {
        Method::Get | Method::Head => 0,
        Method::Post => 1,
        Method::Put => 2,
        Method::Delete => 3,
        Method::Connect | Method::Options | Method::Trace | Method::Patch | Method::Other(_) => u32::MAX,
    };
    let refuse = |status: u16, messages: &[String]| failure(status, messages, &request_id);

    let fitting: Vec<Route> =
        (0..rd32(app() + 4)).map(|i| route(i)).filter(|r| fits(*r, &segments)).collect();
    if fitting.is_empty() {
        if let Some(document) = document(&segments.join("/")).filter(|_| verb == 0) {
            return document;
        }
        return refuse(404, &["There is no such method".into()]);
    }
    // A literal segment is closer than a parameter: the route with the most literals answers.
    let literals = |r: &&Route| (0..r.segments.0).filter(|i| rd32(r.segments.1 + i * 8) == 0).count();
    let Some(&found) = fitting.iter().filter(|r| r.verb == verb).max_by_key(literals) else {
        let allowed: Vec<&str> =
            (0..4u32).filter(|v| fitting.iter().any(|r| r.verb == *v)).map(|v| ALLOWED[v as usize]).collect();
        return Answer {
            allow: Some(allowed.join(", ")),
            ..refuse(405, &["The method does not take this verb".into()])
        };
    };

    if let Err((status, message)) = authenticated(found, header(&headers, "authorization").as_deref()) {
        let challenge = (status == 401).then_some("Basic realm=\"app\", charset=\"UTF-8\"");
        return Answer { challenge, ..refuse(status as u16, &[message]) };
    }

    let (inputs, outputs) = (found.inputs.0, field_count(found.outputs));
    let frame = rt_alloc((inputs + outputs) * 8);
    let mut problems = Vec::new();
    for index in 0..inputs {
        let input = input_at(found.inputs.1, index);
        let slot = frame + index * 8;
        {
            match input.default {
                0 => write_default(slot, input.desc),
                address => wr64(slot, rd64(address)),
            }
        }
        let given = match input.source {
            IN_PATH => path_value(found, &segments, index),
            IN_QUERY => query_value(query, input.name),
            IN_HEADER => header(&headers, input.name),
            _ => {
                if let Err((status, message)) = read_body(request, &headers, slot, &input, &mut problems) {
                    return refuse(status, &[message]);
                }
                continue;
            }
        };
        match given {
            Some(value) if !(value.is_empty() && input.source != IN_PATH) => {
                json::read_text(&value, slot, input.desc, input.name, &mut problems);
            }
            _ if input.flags & PARAM_MANDATORY != 0 => problems.push(format!("{}: required", input.name)),
            _ => {}
        }
    }
    if !problems.is_empty() {
        return refuse(400, &problems);
    }

    match run(found.function, frame) {
        Ok(()) => {
            let body = written(frame + inputs * 8, found.outputs);
            Answer { status: found.status as u16, body, ..Answer::default() }
        }
        Err(failed) => refuse(failed.status as u16, &[failed.message]),
    }
}

/// Runs the action that checks who calls, where the API has one. It must not fail.
unsafe fn authenticated(route: Route, given: Option<&str>) -> Result<(), (u32, String)> {
    let (function, slots) = route.authentication;
    if function == 0 {
        return Ok(());
    }
    let credentials = given.and_then(|given| {
        let (scheme, encoded) = given.split_once(' ')?;
        let basic = scheme.eq_ignore_ascii_case("basic").then(|| json::from_base64(encoded.trim()))??;
        let (user, password) = core::str::from_utf8(&basic).ok()?.split_once(':')?;
        Some((new_text(user), new_text(password)))
    });
    let Some((user, password)) = credentials else {
        return Err((401, "This needs a user name and a password (HTTP Basic authentication)".into()));
    };
    let frame = rt_alloc(slots * 8);
    wr64(frame, i64::from(user));
    wr64(frame + 8, i64::from(password));
    run(function, frame).map_err(|failed| (failed.status, failed.message))?;
    if route.user > 0 {
        roles::set_user(text(rd32(frame + route.user * 8)));
    }
    let (count, names) = route.roles;
    let needed: Vec<&str> = (0..count).map(|index| text(rd32(names + index * 4))).collect();
    if needed.is_empty() || needed.iter().any(|role| roles::has(role, "")) {
        return Ok(());
    }
    Err((403, format!("This needs the role {}", needed.join(" or "))))
}

/// What the app says of itself: made by the compiler, served as it is.
unsafe fn document(path: &str) -> Option<Answer> {
    let (count, at) = (rd32(app() + 16), rd32(app() + 20));
    let row = (0..count).map(|index| at + index * 12).find(|row| text(rd32(*row)) == path)?;
    let (content_type, body) = (text(rd32(row + 4)), text(rd32(row + 8)).into());
    Some(Answer { status: 200, body, content_type, ..Answer::default() })
}

/// What the host starts by itself, such as a timer: a path of its own, the inputs in the body when there are any.
unsafe fn triggered(path: &str, request: &IncomingRequest) -> Answer {
    let refuse = |status: u16, body: String, exception: Option<u32>| {
        let content_type = "text/plain; charset=utf-8";
        Answer { status, body, content_type, exception, ..Answer::default() }
    };
    let table = rd32(app() + 12);
    let rows = (0..rd32(table)).map(|index| table + 4 + index * 16);
    let Some(row) = rows.into_iter().find(|row| text(rd32(*row)) == path) else {
        return refuse(404, format!("there is no {path}"), None);
    };
    let (inputs, outputs) = (rd32(row + 8), rd32(row + 12));
    let frame = rt_alloc((field_count(inputs) + field_count(outputs)) * 8);
    fill_record(frame, inputs);
    if field_count(inputs) > 0 {
        let slot = rt_alloc(8);
        wr64(slot, i64::from(frame));
        let mut problems = Vec::new();
        match body(request) {
            Ok(raw) => json::read(&raw, "The inputs", slot, inputs, &mut problems),
            Err((status, message)) => return refuse(status, message, None),
        }
        if !problems.is_empty() {
            return refuse(400, problems.join("; "), None);
        }
    }
    match run(rd32(row + 4), frame) {
        Ok(()) if field_count(outputs) == 0 => Answer::default(),
        Ok(()) => {
            let mut body = String::new();
            json::write(&mut body, i64::from(frame + field_count(inputs) * 8), outputs, true);
            Answer { status: 200, body, ..Answer::default() }
        }
        Err(Failed { status, message, kind }) => refuse(status as u16, message, Some(kind)),
    }
}

/// Runs an action to its end, and commits; what nobody handled rolls back, is logged and comes back.
unsafe fn run(function: u32, frame: u32) -> Result<(), Failed> {
    // SAFETY: the compiler put this function into the table with exactly this type.
    let function: extern "C" fn(u32) -> u32 = core::mem::transmute(function);
    function(frame);
    if RT_PENDING == 0 {
        sql::commit();
    }
    if RT_PENDING == 0 {
        return Ok(());
    }
    sql::rollback();
    let kind = exceptions::kind_for_others();
    let (status, message) = exceptions::take();
    exceptions::report(status, &message);
    Err(Failed { status, message, kind })
}

/// An exception that nobody handled.
struct Failed {
    status: u32,
    message: String,
    /// What other apps know it as.
    kind: u32,
}

unsafe fn fits(route: Route, path: &[String]) -> bool {
    let (count, at) = route.segments;
    count as usize == path.len()
        && path.iter().enumerate().all(|(i, segment)| {
            let entry = at + i as u32 * 8;
            rd32(entry) != 0 || text(rd32(entry + 4)) == segment
        })
}

unsafe fn path_value(route: Route, path: &[String], input: u32) -> Option<String> {
    let (_, at) = route.segments;
    path.iter().enumerate().find_map(|(i, segment)| {
        let entry = at + i as u32 * 8;
        (rd32(entry) == 1 && rd32(entry + 4) == input).then(|| segment.clone())
    })
}

fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key, true) == name).then(|| decoded(value, true))
    })
}

fn header(headers: &Headers, name: &str) -> Option<String> {
    headers.get(name).into_iter().next().and_then(|value| String::from_utf8(value).ok())
}

/// Undoes percent encoding; what is no UTF-8 afterwards is replaced.
fn decoded(raw: &str, plus_is_space: bool) -> String {
    let bytes = raw.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| raw.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
            .flatten();
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if plus_is_space && bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

unsafe fn read_body(
    request: &IncomingRequest,
    headers: &Headers,
    slot: u32,
    input: &Input,
    problems: &mut Vec<String>,
) -> Result<(), (u16, String)> {
    let raw = body(request)?;
    if raw.iter().all(u8::is_ascii_whitespace) {
        if input.flags & PARAM_MANDATORY != 0 {
            problems.push("The request body: required".into());
        }
        return Ok(());
    }
    if header(headers, "content-type").is_some_and(|kind| !kind.to_ascii_lowercase().contains("json")) {
        return Err((415, "The request body must be application/json".into()));
    }
    json::read(&raw, "The request body", slot, input.desc, problems);
    Ok(())
}

fn body(request: &IncomingRequest) -> Result<Vec<u8>, (u16, String)> {
    let unreadable = || (400, String::from("The request body could not be read"));
    let incoming = request.consume().map_err(|()| unreadable())?;
    let stream = incoming.stream().map_err(|()| unreadable())?;
    read_all(&stream, BODY_BYTES_MAX).map_err(|why| match why {
        Unread::Broken => unreadable(),
        Unread::TooLarge => (413, format!("The request body is larger than {BODY_BYTES_MAX} bytes")),
    })
}

/// One output is the document itself, several are its keys.
unsafe fn written(outputs: u32, desc: u32) -> String {
    let mut out = String::new();
    match field_count(desc) {
        0 => {}
        1 => json::write(&mut out, rd64(outputs), field(desc, 0).desc, true),
        _ => json::write(&mut out, i64::from(outputs), desc, true),
    }
    out
}

fn failure(status: u16, messages: &[String], request_id: &str) -> Answer {
    let mut body = String::from("{\"Errors\":[");
    for (index, message) in messages.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        json::write_string(&mut body, message);
    }
    body.push_str(&format!("],\"StatusCode\":{status},\"errorCode\":\"{ERROR_CODE}\",\"requestId\":"));
    json::write_string(&mut body, request_id);
    body.push('}');
    Answer { status, body, ..Answer::default() }
}

/// Sends the answer. HEAD gets the head that GET would get, with the length of the body it does not get.
fn respond(out: ResponseOutparam, answer: &Answer, is_head: bool) {
    let headers = Headers::new();
    let pairs = [
        ("content-type", (!answer.body.is_empty()).then(|| answer.content_type.to_string())),
        ("content-length", Some(answer.body.len().to_string())),
        ("allow", answer.allow.clone()),
        (exceptions::KIND_HEADER, answer.exception.map(|kind| kind.to_string())),
        ("www-authenticate", answer.challenge.map(str::to_string)),
    ];
    for (name, value) in pairs {
        if let Some(value) = value {
            let _ = headers.append(name, &value.into_bytes()); // fixed names and plain values: always valid
        }
    }
    let response = OutgoingResponse::new(headers);
    let _ = response.set_status_code(answer.status); // 100 to 599 by the compiler's check
    // A body that was asked for must be as long as the header says, so HEAD does not ask for one.
    let body = if is_head { Err(()) } else { response.body() };
    ResponseOutparam::set(out, Ok(response));
    let Ok(body) = body else { return };
    if let Ok(stream) = body.write() {
        write(&stream, answer.body.as_bytes());
    }
    let _ = OutgoingBody::finish(body, None);
}

/// Writes as much at once as the host takes: most answers go in one piece, and nobody waits for anybody.
fn write(stream: &OutputStream, mut rest: &[u8]) {
    while !rest.is_empty() {
        // An error says that the client has gone.
        let Ok(room) = stream.check_write() else { return };
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, later) = rest.split_at(rest.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        if stream.write(now).is_err() {
            return;
        }
        rest = later;
    }
}
