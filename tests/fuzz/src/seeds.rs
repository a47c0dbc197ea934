//! The inputs that each target begins with, and the words that it knows: made by code from our own types, so that they stay
//! what the code reads.

use std::collections::BTreeMap;

use odeon_protocol::calls::Call;
use odeon_protocol::events::EventHandler;
use odeon_protocol::headers::{CALL, NOT_SERVED, REQUEST_ID, TRIGGER, USER};
use odeon_protocol::secrets::Secret;
use odeon_protocol::timers::{Timer, TimerEnd, TimerRun, TimerState};
use odeon_protocol::{
    Claim, CredentialsReply, DatabaseLogin, DesiredApp, DesiredState, Digest, Generation, HostHeartbeat,
    Limits, LogLevel, LogLine, NativeArtefact, ReplicaState, ReplicaStatus, Revision, RouterHeartbeat,
    RouterStatus, Serving, SettingValue,
};
use serde::Serialize;

use crate::components::{Plan, component, needy, smallest};
use crate::stage::{self, named};

/// A fuzz target.
pub struct Target {
    /// The name of its program.
    pub name: &'static str,
    /// Longest input, in bytes.
    pub bytes_max: usize,
    /// How long one input may take, in seconds by the wall's clock, on a machine that others use as well.
    pub input_s_max: u64,
    /// Its first inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words that its inputs are made of.
    pub words: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 4] = [
    // A component that is compiled takes milliseconds; the longest that may be made of so many bytes, a second.
    Target {
        name: "component_loader",
        bytes_max: 8 << 10,
        input_s_max: 60,
        seeds: components,
        words: component_words,
    },
    Target { name: "sql_rows", bytes_max: 4 << 10, input_s_max: 60, seeds: rows, words: row_words },
    Target {
        name: "agent_messages",
        bytes_max: 8 << 10,
        input_s_max: 60,
        seeds: messages,
        words: message_words,
    },
    Target {
        name: "router_requests",
        bytes_max: 8 << 10,
        input_s_max: 60,
        seeds: requests,
        words: request_words,
    },
];

/// Stands between what a client sends and what hosts answer.
pub const HOST_MARK: &[u8] = b"\xff\xfehost\xfe\xff";

/// What kind of message an input of `agent_messages` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A sealed message, as it lies in the bucket.
    Sealed,
    /// The content of desired state, to be sealed.
    Desired,
    /// The content of a claim, to be sealed.
    Claim,
    /// Changes, and content that is sealed and then changed.
    Forged,
    /// A secret, or its value.
    Secret,
    /// The state of a timer.
    Timer,
    /// Changes, and a call that is sealed and then changed.
    Call,
    /// The header of a call.
    CallHeader,
    /// What hosts and routers say, one message in a line.
    Observed,
    /// Names, numbers and trusted keys.
    Names,
}

/// All kinds, by the first byte of an input.
pub const KINDS: [Kind; 10] = [
    Kind::Sealed,
    Kind::Desired,
    Kind::Claim,
    Kind::Forged,
    Kind::Secret,
    Kind::Timer,
    Kind::Call,
    Kind::CallHeader,
    Kind::Observed,
    Kind::Names,
];

fn of_kind(kind: Kind, rest: &[u8]) -> Vec<u8> {
    let at = KINDS.iter().position(|known| *known == kind).and_then(|at| u8::try_from(at).ok()).unwrap_or(0);
    [&[at][..], rest].concat()
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages have string keys only")
}

/// Desired state with something of everything.
pub fn desired() -> DesiredApp {
    let serving = Serving {
        name: named("Shop"),
        claim: stage::signer().seal(&claim()),
        revision: Revision(3),
        placements: vec![named("host-a"), named("host-b")],
        limits: Limits::default(),
        egress_allow: vec!["api.example.com:8443".into()],
        database: true,
        settings: BTreeMap::from([
            ("Greeting".to_owned(), SettingValue::Plain("hello".into())),
            (
                stage::SECRET_NAME.to_owned(),
                SettingValue::Secret(Secret::from_text(stage::SECRET.to_owned())),
            ),
        ]),
        timers: vec![timer()],
        handlers: vec![EventHandler {
            name: "OnPaid".into(),
            producer: named(stage::OTHER_APP),
            event: "Paid".into(),
        }],
        publishes: true,
    };
    DesiredApp { state: DesiredState::Serving(Box::new(serving)), ..removed() }
}

fn removed() -> DesiredApp {
    DesiredApp {
        organization: named(stage::ORGANIZATION),
        stage: named(stage::STAGE),
        app: stage::app(),
        generation: Generation { epoch: 1, number: 7 },
        state: DesiredState::Removed,
    }
}

fn claim() -> Claim {
    Claim {
        organization: named(stage::ORGANIZATION),
        app: stage::app(),
        revision: Revision(3),
        wasm: Digest::of(b"component"),
        wasm_bytes: 9,
        native: Some(NativeArtefact {
            digest: Digest::of(b"native"),
            bytes: 6,
            target: "x86_64-unknown-linux-gnu".into(),
            engine: "wasmtime-48".into(),
        }),
    }
}

fn timer() -> Timer {
    Timer {
        name: "Nightly".into(),
        schedule: Some("30 2 * * 1-5".into()),
        when_published: true,
        timeout_s: 600,
        deactivated_ms: None,
    }
}

fn states() -> [TimerState; 3] {
    let planned = TimerState {
        revision: Revision(3),
        schedule: timer().schedule,
        next_ms: Some(1_800_000_060_000),
        tries: 1,
        run: None,
        last: Some(TimerEnd { at_ms: 1_799_999_000_000, failure: Some("no".into()) }),
        woken_ms: Some(1_700_000_000_000),
    };
    let run = TimerRun { host: named("host-b"), started_ms: 1_800_000_000_000, lease_ms: 1_800_000_030_000 };
    let running = TimerState { run: Some(run), next_ms: None, ..planned.clone() };
    [TimerState::default(), planned, running]
}

fn call() -> Call {
    Call {
        caller: named(stage::OTHER_APP),
        user: "ann".into(),
        path: "/Shop/services/Get".into(),
        depth: 1,
        at_ms: 1_800_000_000_000,
    }
}

fn observed() -> Vec<Vec<u8>> {
    let (host, incarnation) = (named("host-a"), "one".to_owned());
    let status = |state| ReplicaStatus {
        host: named("host-a"),
        incarnation: "one".into(),
        app: stage::app(),
        generation: removed().generation,
        serving: Some(Revision(3)),
        state,
    };
    let failed = ReplicaState::Failed { code: "OS-BERT-50010".into(), message: "no".into() };
    let login = DatabaseLogin {
        host: "db".into(),
        port: 5432,
        database: "test".into(),
        user: "app".into(),
        password: "no".into(),
    };
    let line = LogLine {
        time: "2026-01-01T00:00:00.000000Z".into(),
        app: stage::app(),
        revision: Revision(3),
        host: named("host-a"),
        level: LogLevel::Error,
        source: "host".into(),
        message: "no".into(),
        request_id: "id".into(),
        error_code: Some("OS-BERT-50001".into()),
        action: None,
        node: None,
    };
    let beat = HostHeartbeat {
        host,
        zone: "a".into(),
        incarnation: incarnation.clone(),
        address: "host-a:1".into(),
        admin_address: "host-a:2".into(),
        pid: 1,
        accepting: true,
        ready: 1,
    };
    vec![
        json(&beat),
        json(&status(ReplicaState::Ready)),
        json(&status(failed)),
        json(&RouterHeartbeat {
            router: named("router-a"),
            incarnation: incarnation.clone(),
            address: "router-a:1".into(),
            admin_address: "router-a:2".into(),
            pid: 2,
        }),
        json(&RouterStatus {
            router: named("router-a"),
            incarnation,
            app: stage::app(),
            generation: removed().generation,
            replicas: vec![named("host-a")],
        }),
        json(&[line]),
        json(&CredentialsReply::Granted(login)),
    ]
}

fn messages() -> Vec<Vec<u8>> {
    let changes: [u8; 24] = std::array::from_fn(|at| u8::try_from(at * 37 % 251).unwrap_or(0));
    let lines = observed();
    let mut seeds = vec![
        of_kind(Kind::Sealed, &json(&stage::signer().seal(&desired()))),
        of_kind(Kind::Sealed, &json(&stage::stranger().seal(&removed()))),
        of_kind(Kind::Desired, &json(&desired())),
        of_kind(Kind::Desired, &json(&removed())),
        of_kind(Kind::Claim, &json(&claim())),
        of_kind(Kind::Forged, &[&changes[..], &json(&removed())].concat()),
        of_kind(Kind::Secret, stage::SECRET.as_bytes()),
        of_kind(Kind::Secret, stage::SECRET_VALUE.as_bytes()),
        of_kind(Kind::Call, &[&changes[..], &json(&call())].concat()),
        of_kind(Kind::CallHeader, stage::SECRET.as_bytes()),
        of_kind(Kind::Observed, &lines[..2].join(&b'\n')),
        of_kind(Kind::Names, stage::APP.as_bytes()),
        of_kind(Kind::Names, b"production-2"),
        of_kind(Kind::Names, Digest::of(b"").as_str().as_bytes()),
        of_kind(Kind::Names, &json(&[stage::signer().public()])),
    ];
    seeds.extend(states().iter().map(|state| of_kind(Kind::Timer, &json(state))));
    seeds.extend(lines.iter().map(|line| of_kind(Kind::Observed, line)));
    seeds
}

fn message_words() -> Vec<Vec<u8>> {
    // The names of all fields, with their quotes, and numbers at which something may wrap.
    let mut words = Vec::new();
    for seed in messages() {
        let text = String::from_utf8_lossy(&seed).into_owned();
        let quoted = text.split('"').skip(1).step_by(2).filter(|word| !word.is_empty() && word.len() < 24);
        words.extend(quoted.map(|word| format!("\"{word}\"").into_bytes()));
    }
    words.extend(
        [
            "null",
            "true",
            "false",
            "{}",
            "[]",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "4294967295",
            "1800000000000",
            "\"* * * * *\"",
            "\"0 0 31 2 *\"",
            "\"*/7 1-5 L * 5#3\"",
        ]
        .map(|word| word.as_bytes().to_vec()),
    );
    words
}

fn components() -> Vec<Vec<u8>> {
    let raw = |bytes: Vec<u8>| [&[0][..], &bytes].concat();
    let plans = [
        Plan { memories: 1, pages: 17, tables: 1, elements: 8, data: 5, ..Plan::default() },
        Plan { imports: 0b11_1111, instances: 3, globals: 2, depth: 3, blocks: 4, ..Plan::default() },
        Plan { imports: 0b1000_0000, ..Plan::default() },
        Plan { is_odd: true, ..Plan::default() },
        Plan { memories: 1, tables: 1, has_shim: true, ..Plan::default() },
    ];
    let mut seeds = vec![raw(Vec::new()), raw(smallest()), raw(component(&Plan::default(), Some(&needy())))];
    seeds.extend(plans.iter().map(|plan| raw(component(plan, None))));
    // Plans are read from the bytes of an input: any bytes are one.
    for kind in 1..=2 {
        for step in [0, 1, 7, 59] {
            seeds.push((0..120_u8).map(|at| if at == 0 { kind } else { at.wrapping_mul(step) }).collect());
        }
    }
    seeds.extend([
        vec![3, 0],
        vec![3, 0, 9, 0, 0, 0, 1],
        vec![3, 1, 9, 0, 0, 1, 0x80],
        vec![3, 2, 200, 1, 0],
        vec![3, 2, 0, 0, 0, 1, 2, 3],
        vec![3, 3, 1],
    ]);
    seeds
}

fn component_words() -> Vec<Vec<u8>> {
    [
        "\0asm",
        "\r\0\x01\0",
        "\x01\0\0\0",
        "wasi:http/types@0.2.0",
        "handle",
        "incoming-request",
        "memory",
        "cabi_realloc",
    ]
    .map(|word| word.as_bytes().to_vec())
    .into()
}

/// Bytes from which results are read: a few that differ in all their parts.
fn rows() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0; 64]];
    for step in [1_u32, 3, 17, 59, 101, 211] {
        for bytes in [96, 400] {
            seeds
                .push((0..bytes).map(|at: u32| (at.wrapping_mul(at + step) >> 3).to_le_bytes()[0]).collect());
        }
    }
    seeds
}

fn row_words() -> Vec<Vec<u8>> {
    // Numbers of the binary formats at which something may wrap or grow.
    vec![
        i64::MAX.to_le_bytes().into(),
        i64::MIN.to_le_bytes().into(),
        i32::MAX.to_le_bytes().into(),
        i16::MAX.to_le_bytes().into(),
        u16::MAX.to_le_bytes().into(),
        f64::NAN.to_le_bytes().into(),
        86_400_000_000_i64.to_le_bytes().into(),
    ]
}

fn requests() -> Vec<Vec<u8>> {
    let of = |hosts: u8, cut: u8, text: &[u8]| [&[hosts, cut][..], text].concat();
    let forged = format!(
        "GET /Shop/x?y=z HTTP/1.1\r\nHost: a\r\n{CALL}: x\r\n{USER}: ann\r\n{TRIGGER}: timer\r\n{NOT_SERVED}: 1\r\n\
         {REQUEST_ID}: id\r\nX-Forwarded-For: 10.0.0.1\r\nConnection: close, x-a\r\nX-A: b\r\nTE: trailers\r\nUpgrade: h2c\r\n\r\n"
    );
    let chunked =
        b"POST /Shop/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: odeon-user\r\n\r\n\
        4\r\nbody\r\n3;a=b\r\nend\r\n0\r\nodeon-user: ann\r\n\r\n";
    let mut seeds = vec![
        of(0, 0x7f, forged.as_bytes()),
        of(0, 3, chunked),
        of(2, 0x80, b"POST /Shop/a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET /Shop/b HTTP/1.1\r\nHost: a\r\n\r\n"),
        of(1, 5, b"POST /Shop/a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /"),
        of(11, 9, b"GET http://b/Shop/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n"),
        of(12, 9, b"PUT /Shop/a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab"),
        of(5, 0x85, b"HEAD /Shop HTTP/1.0\r\n\r\n"),
        of(0, 9, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nCONNECT b:1 HTTP/1.1\r\nHost: b:1\r\n\r\n"),
        of(0, 9, b"CONNECT /Shop/ HTTP/1.1\r\nHost: b\r\n\r\nGET /Other HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    ];
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\nz\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\nbytes",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nx-odeon-not-served: 1\r\n\r\n",
        "HTTP/1.0 200 OK\r\nconnection: close\r\n\r\nuntil the end",
    ];
    for answer in answers {
        let text = b"GET /Shop/ HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n";
        seeds.push(of(6, 60, &[&text[..], HOST_MARK, answer.as_bytes()].concat()));
    }
    for hosts in [0, 3, 4, 5] {
        seeds.push(of(hosts, 0x84, &http2(&[(b"x-a", b"b"), (USER.as_bytes(), b"ann")], b"body")));
        seeds.push(of(hosts, 0x7f, &http2(&[(b"content-length", b"4"), (b"te", b"trailers")], b"body")));
    }
    seeds
}

/// A connection of HTTP/2 with one request. No header is compressed.
fn http2(headers: &[(&[u8], &[u8])], body: &[u8]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let first: [(&[u8], &[u8]); 4] =
        [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/Shop/a")];
    let mut block = Vec::new();
    for (name, value) in first.iter().chain(headers) {
        block.push(0); // a literal, not to be remembered
        for word in [name, value] {
            block.push(u8::try_from(word.len()).unwrap_or(0)); // all are shorter than 127
            block.extend(*word);
        }
    }
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]), // SETTINGS: so many streams
        frame(1, 4, 1, &block),                // HEADERS, whole
        frame(0, 0, 1, body),                  // DATA
        frame(8, 0, 0, &[0, 0, 16, 0]),        // WINDOW_UPDATE
        frame(6, 0, 0, &[7; 8]),               // PING
        frame(0, 1, 1, b""),                   // DATA, the last
        frame(3, 0, 1, &[0, 0, 0, 8]),         // RST_STREAM
    ]
    .concat()
}

fn request_words() -> Vec<Vec<u8>> {
    let mut words: Vec<Vec<u8>> =
        [CALL, USER, TRIGGER, NOT_SERVED, REQUEST_ID].map(|name| name.as_bytes().to_vec()).into();
    words.extend(
        [
            "GET ",
            "POST ",
            "CONNECT ",
            "OPTIONS ",
            "/Shop",
            " HTTP/1.1\r\n",
            " HTTP/1.0\r\n",
            "\r\n\r\n",
            "Host: ",
            "Content-Length: ",
            "Transfer-Encoding: chunked\r\n",
            "Connection: ",
            "close",
            "keep-alive",
            "Upgrade: ",
            "TE: ",
            "Trailer: ",
            "Expect: 100-continue\r\n",
            "0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 101 \r\n",
            "http://a/Shop",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            ":authority",
            ":path",
            ":method",
            "content-length",
            "traceparent",
        ]
        .map(|word| word.as_bytes().to_vec()),
    );
    words.push(HOST_MARK.to_vec());
    words
}
