//! What a host's agent hears in its stage: sealed desired state and claims, settings and secrets, timers, calls, and what
//! hosts and routers say of themselves.
//!
//! The first byte of an input says what kind of message it is, the rest is the message, or what is sealed to become one:
//! behind a seal nobody would ever come who cannot make one. Decoding, seals and rules are those that the agent runs
//! (`host/node/src/desired.rs`, `platform/protocol`).
//!
//! Properties: nothing panics; what is decoded and encoded again is the same; a seal, secret or call that was changed in
//! one place, or made by another key, for another purpose, stage, app, path or time, does not open; what opens is for this
//! host; limits can be kept; and from any state a timer comes to its next run.

#![no_main]
#![allow(clippy::expect_used, reason = "a target ends at the first surprise")]

use std::fmt::Debug;
use std::time::{Duration, Instant};

use libfuzzer_sys::{Corpus, fuzz_target};
use odeon_engine::{Account, CpuShare};
use odeon_fuzz::seeds::{KINDS, Kind};
use odeon_fuzz::stage::{self, named};
use odeon_host::fuzzing::{Foreign, Planned, Reader};
use odeon_protocol::calls::{Call, CallError};
use odeon_protocol::events::{AfterFailure, RETRY_S_MAX, after_failure};
use odeon_protocol::routes::Table;
use odeon_protocol::secrets::{Place, Secret};
use odeon_protocol::timers::{LEASE_MS, RETRY_WAITS_MS, Timer, TimerState, TimerStep};
use odeon_protocol::{
    AppId, AppName, Claim, CredentialsReply, DesiredApp, DesiredState, Digest, HostHeartbeat, HostId, Limits,
    LogLine, ReplicaStatus, Revision, RouterHeartbeat, RouterStatus, SealError, Serving, SettingValue,
    Signed, StageName, TrustedKeys,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Semaphore;

/// When it is, in milliseconds since 1970.
const NOW_MS: i64 = 1_800_000_000_000;
/// Time between two looks at a timer, in milliseconds. Hosts look each second.
const LOOK_MS: i64 = 5_000;
/// How long a timer that is due each minute may not run, whatever its state says, in milliseconds.
const TIMER_MS_MAX: i64 = 2 * LEASE_MS + 2 * RETRY_WAITS_MS[2];
/// Seals that are tried for one message.
const SEALS_MAX: usize = 8;

fuzz_target!(|data: &[u8]| -> Corpus {
    let [kind, rest @ ..] = data else { return Corpus::Reject };
    match KINDS[usize::from(*kind) % KINDS.len()] {
        Kind::Sealed => sealed(rest),
        Kind::Desired => desired(rest),
        Kind::Claim => claim(rest),
        Kind::Forged => forged(rest),
        Kind::Secret => secret(rest),
        Kind::Timer => timer(rest),
        Kind::Call => call(rest),
        Kind::CallHeader => call_header(rest),
        Kind::Observed => observed(rest),
        Kind::Names => names(rest),
    }
});

fn reader() -> Reader {
    Reader {
        organization: named(stage::ORGANIZATION),
        stage: named(stage::STAGE),
        trusted: stage::trusted(),
        secrets: stage::stage_key(stage::STAGE),
    }
}

/// Decodes; what is decoded must be the same when it is encoded and decoded again.
fn decoded<T: DeserializeOwned + Serialize + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(bytes).ok()?;
    let again = serde_json::to_vec(&value).expect("messages have string keys only");
    assert_eq!(
        serde_json::from_slice::<T>(&again).ok().as_ref(),
        Some(&value),
        "{}",
        String::from_utf8_lossy(&again)
    );
    Some(value)
}

/// Bytes as they lie in the bucket.
fn sealed(bytes: &[u8]) -> Corpus {
    let Some(sealed) = decoded::<Signed<DesiredApp>>(bytes) else { return Corpus::Reject };
    if let Ok(desired) = reader().open(&sealed) {
        is_ours(&desired);
    }
    Corpus::Keep
}

fn is_ours(desired: &DesiredApp) {
    assert_eq!(desired.stage.as_str(), stage::STAGE);
    assert_eq!(desired.organization.as_str(), stage::ORGANIZATION);
}

/// Any content, under the seal for desired state: a Platform of another version.
#[derive(Serialize, Deserialize)]
struct AnyDesired(Value);
impl odeon_protocol::signing::Sealable for AnyDesired {
    const PURPOSE: &'static str = <DesiredApp as odeon_protocol::signing::Sealable>::PURPOSE;
}
/// The same for claims.
#[derive(Serialize, Deserialize)]
struct AnyClaim(Value);
impl odeon_protocol::signing::Sealable for AnyClaim {
    const PURPOSE: &'static str = <Claim as odeon_protocol::signing::Sealable>::PURPOSE;
}

/// The same seal, of what it is said to hold.
fn read_as<A: odeon_protocol::signing::Sealable, B: odeon_protocol::signing::Sealable>(
    sealed: &Signed<A>,
) -> Signed<B> {
    let bytes = serde_json::to_vec(sealed).expect("a seal has string keys only");
    serde_json::from_slice(&bytes).expect("all seals look the same")
}

/// Content under a seal that is trusted.
fn desired(bytes: &[u8]) -> Corpus {
    let Ok(content) = serde_json::from_slice::<Value>(bytes) else { return Corpus::Reject };
    let sealed: Signed<DesiredApp> = read_as(&stage::signer().seal(&AnyDesired(content)));
    let reader = reader();
    match reader.open(&sealed) {
        Ok(desired) => {
            is_ours(&desired);
            let bytes = serde_json::to_vec(&desired).expect("desired state has string keys only");
            assert_eq!(decoded::<DesiredApp>(&bytes), Some(desired.clone()));
            let mut table = Table::default();
            assert!(
                table.hear_desired(desired.clone()) && !table.hear_desired(desired.clone()),
                "news is news once"
            );
            if let DesiredState::Serving(serving) = &desired.state {
                assert!(table.route_of(serving.name.as_str(), Instant::now()).is_some());
                place(&reader, &desired.app, serving);
            }
        }
        Err(Foreign::Seal(SealError::Content { .. }) | Foreign::Stage(..)) => {}
        Err(Foreign::Seal(error)) => panic!("a seal that is right was refused: {error}"),
    }
    Corpus::Keep
}

/// What a host does with a placement before it loads anything.
fn place(reader: &Reader, app: &AppId, serving: &Serving) {
    if let Ok(claim) = reader.claim(app, &serving.claim) {
        assert!(claim.app == *app && claim.organization == reader.organization, "the claim is another app's");
    }
    if let Ok(settings) = reader.settings(app, &serving.settings) {
        drop(settings);
        for (name, value) in &serving.settings {
            if let SettingValue::Secret(secret) = value {
                assert!(
                    is_genuine(app, name, secret.as_text()),
                    "a secret that nobody sealed opens: {secret:?}"
                );
            }
        }
    }
    keep(&serving.limits);
    for timer in &serving.timers {
        let planned = Planned::new(app, timer);
        let next = planned.next(NOW_MS);
        assert!(next.is_none_or(|next| next > NOW_MS), "the next time is later: {timer:?}");
        let step = planned.step(None, (&named("host-a"), serving.revision), NOW_MS);
        drop(step);
    }
}

/// Limits become an account, instances and deadlines. What a host computes of them must not wrap.
fn keep(limits: &Limits) {
    let share = CpuShare { millicores: limits.cpu_share_millicores, burst_ms: limits.cpu_burst_ms };
    let account = Account::new(share, limits.memory_bytes_max);
    account.set(share, limits.memory_bytes_max);
    if let Some(held) = account.try_admit(limits.instance_memory_bytes_max) {
        assert!(held.bytes() <= limits.memory_bytes_max);
    }
    assert!(
        Semaphore::new(limits.instances_max as usize).available_permits() == limits.instances_max as usize
    );
    let wall = Duration::from_millis(limits.request_wall_ms_max);
    assert!(wall.as_millis() == u128::from(limits.request_wall_ms_max));
}

/// The one secret that was sealed for this stage.
fn is_genuine(app: &AppId, name: &str, text: &str) -> bool {
    app.as_str() == stage::APP && name == stage::SECRET_NAME && text == stage::SECRET
}

fn claim(bytes: &[u8]) -> Corpus {
    let Ok(content) = serde_json::from_slice::<Value>(bytes) else { return Corpus::Reject };
    let sealed: Signed<Claim> = read_as(&stage::signer().seal(&AnyClaim(content)));
    match (reader().claim(&stage::app(), &sealed), sealed.open(&stage::trusted())) {
        (Ok(claim), Ok(opened)) => {
            assert_eq!(claim, opened);
            assert!(claim.app == stage::app() && claim.organization.as_str() == stage::ORGANIZATION);
            let bytes = serde_json::to_vec(&claim).expect("a claim has string keys only");
            assert_eq!(decoded::<Claim>(&bytes), Some(claim));
        }
        (Err(_), Ok(opened)) => {
            assert!(opened.app != stage::app() || opened.organization.as_str() != stage::ORGANIZATION);
        }
        (Ok(_), Err(_)) => panic!("a claim was taken that does not open"),
        (Err(_), Err(SealError::Content { .. })) => {}
        (Err(_), Err(error)) => panic!("a seal that is right was refused: {error}"),
    }
    Corpus::Keep
}

/// A seal that is right, and then is changed, moved, or another's.
fn forged(bytes: &[u8]) -> Corpus {
    let (changes, content) = bytes.split_at(bytes.len().min(3 * SEALS_MAX));
    let content = serde_json::from_slice(content).unwrap_or_else(|_| {
        serde_json::to_value(odeon_fuzz::seeds::desired()).expect("desired state has string keys only")
    });
    let good = stage::signer().seal(&AnyDesired(content.clone()));
    let text = serde_json::to_value(&good).expect("a seal has string keys only");
    for change in changes.chunks_exact(3) {
        let field = ["key", "payload", "signature"][usize::from(change[0]) % 3];
        let Some(before) = text[field].as_str() else { return Corpus::Reject };
        let Some(after) = changed(before, change[0] / 3, change[1], change[2]) else { continue };
        let mut text = text.clone();
        text[field] = after.into();
        let Ok(sealed) = serde_json::from_value::<Signed<DesiredApp>>(text) else { continue };
        let opened = reader().open(&sealed);
        assert!(
            matches!(
                opened,
                Err(Foreign::Seal(
                    SealError::UnknownKey(_) | SealError::Mismatch(..) | SealError::Malformed(_)
                ))
            ),
            "a seal whose {field} was changed opens: {opened:?}"
        );
    }
    let other = stage::stranger().seal(&AnyDesired(content.clone()));
    let other: Signed<DesiredApp> = read_as(&other);
    assert!(matches!(reader().open(&other), Err(Foreign::Seal(SealError::UnknownKey(_)))), "another key");
    let other: Signed<DesiredApp> = read_as(&stage::signer().seal(&AnyClaim(content)));
    assert!(matches!(reader().open(&other), Err(Foreign::Seal(SealError::Mismatch(..)))), "another purpose");
    Corpus::Keep
}

/// A text with one byte replaced, put in, or taken out, or cut short there; none when it is as it was, or no text.
fn changed(text: &str, how: u8, at: u8, byte: u8) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    // Anywhere in it, however long it is: the last bytes as often as the first.
    let at = if at < 128 { usize::from(at) } else { bytes.len().saturating_sub(256 - usize::from(at)) };
    match how % 4 {
        0 => *bytes.get_mut(at)? = byte,
        1 if at <= bytes.len() => bytes.insert(at, byte),
        2 if at < bytes.len() => drop(bytes.remove(at)),
        _ => bytes.truncate(at),
    }
    String::from_utf8(bytes).ok().filter(|after| after != text)
}

fn secret(bytes: &[u8]) -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let (organization, here) = (named(stage::ORGANIZATION), named::<StageName>(stage::STAGE));
    let there: StageName = named(stage::OTHER_STAGE);
    let (app, other) = (stage::app(), named::<AppId>(stage::OTHER_APP));
    let key = stage::stage_key(stage::STAGE);
    let place = Place { organization: &organization, stage: &here, app: &app, name: stage::SECRET_NAME };
    let genuine = Secret::from_text(stage::SECRET.to_owned());
    assert_eq!(key.open(place, &genuine).ok().as_deref(), Some(stage::SECRET_VALUE), "a control");
    // Read as a sealed value, and as changes to the genuine one.
    let opened = key.open(place, &Secret::from_text(text.to_owned()));
    assert!(opened.is_err() || text == stage::SECRET, "a secret that nobody sealed opens");
    for change in bytes.chunks_exact(3).take(SEALS_MAX) {
        if let Some(after) = changed(stage::SECRET, change[0], change[1], change[2]) {
            assert!(key.open(place, &Secret::from_text(after)).is_err(), "a secret that was changed opens");
        }
    }
    // Sealed here: it opens here and nowhere else.
    let sealed = key.seal(place, text);
    assert_eq!(key.open(place, &sealed).ok().as_deref(), Some(text));
    let elsewhere = [
        (&key, Place { name: "Other", ..place }),
        (&key, Place { app: &other, ..place }),
        (&key, Place { stage: &there, ..place }),
        (&stage::stage_key(stage::OTHER_STAGE), place),
    ];
    for (key, place) in elsewhere {
        assert!(key.open(place, &sealed).is_err(), "a secret opens in another place");
    }
    Corpus::Keep
}

/// A timer's state, as any host of the stage may have written it.
fn timer(bytes: &[u8]) -> Corpus {
    let Some(mut state) = decoded::<TimerState>(bytes) else { return Corpus::Reject };
    let minutely = |after: i64| Some((after.div_euclid(60_000) + 1) * 60_000);
    let timer = Timer {
        name: "T".into(),
        schedule: Some("* * * * *".into()),
        when_published: false,
        timeout_s: 60,
        deactivated_ms: None,
    };
    let host: HostId = named("host-a");
    let mut now = NOW_MS;
    loop {
        assert!(now < NOW_MS + TIMER_MS_MAX, "a timer never runs again: {state:?}");
        match timer.step(Some(&state), (&host, Revision(1)), now, minutely) {
            TimerStep::Wait => now += LOOK_MS,
            TimerStep::Write(next) => {
                assert!(next != state, "nothing is written that is there");
                state = next;
            }
            TimerStep::Run(next) => {
                state = next;
                break;
            }
        }
    }
    let running = state.clone().renewed(&host, now + 1).expect("our own lease");
    for outcome in [Ok(()), Err("no".repeat(4_096))] {
        let ended = running.clone().woken(now + 2).ended(outcome.clone(), now + 3, minutely);
        assert_eq!(ended.next_ms, Some(now + 2), "it was woken meanwhile");
        let ended = running.clone().ended(outcome, now + 3, minutely);
        let wait = ended.next_ms.map(|next| next - now);
        assert!(wait.is_some_and(|wait| (0..=TIMER_MS_MAX).contains(&wait)), "{ended:?}");
    }
    Corpus::Keep
}

/// What a host says that calls another one, sealed and then changed.
fn call(bytes: &[u8]) -> Corpus {
    let (changes, content) = bytes.split_at(bytes.len().min(3 * SEALS_MAX));
    let Some(call) = decoded::<Call>(content) else { return Corpus::Reject };
    let key = stage::stage_key(stage::STAGE);
    let header = call.seal(&key);
    let late = call.at_ms.abs_diff(NOW_MS) > 30_000;
    match Call::open(&header, &key, &call.path, NOW_MS) {
        Ok(opened) => assert!(opened == call && !late, "a call of another time opens: {opened:?}"),
        Err(error) => assert!(error == CallError::Late && late, "{error}: {call:?}"),
    }
    assert_eq!(Call::open(&header, &key, &format!("{}/", call.path), NOW_MS), Err(CallError::Path));
    let there = stage::stage_key(stage::OTHER_STAGE);
    assert_eq!(Call::open(&header, &there, &call.path, NOW_MS), Err(CallError::Stranger));
    for change in changes.chunks_exact(3) {
        if let Some(after) = changed(&header, change[0], change[1], change[2]) {
            assert_eq!(
                Call::open(&after, &key, &call.path, NOW_MS),
                Err(CallError::Stranger),
                "a call that was changed"
            );
        }
    }
    Corpus::Keep
}

/// A header that a stranger made.
fn call_header(bytes: &[u8]) -> Corpus {
    let Ok(header) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let key = stage::stage_key(stage::STAGE);
    assert_eq!(Call::open(header, &key, "/Shop/services/Get", NOW_MS), Err(CallError::Stranger));
    // A secret is no call, and the other way round.
    assert_eq!(Call::open(stage::SECRET, &key, "/Shop/services/Get", NOW_MS), Err(CallError::Stranger));
    Corpus::Keep
}

/// What is not sealed: it may mislead a router for a moment, and nothing else. One message in a line.
fn observed(bytes: &[u8]) -> Corpus {
    let (mut table, now) = (Table::default(), Instant::now());
    assert!(table.hear_desired(odeon_fuzz::seeds::desired()));
    let mut heard = 0;
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Some(beat) = decoded::<HostHeartbeat>(line) {
            table.hear_host(beat.clone(), now);
            assert!(!table.hear_host(beat, now), "what is said twice is no news");
            heard += 1;
        }
        if let Some(status) = decoded::<ReplicaStatus>(line) {
            table.hear_replica(status);
            heard += 1;
        }
        heard += usize::from(decoded::<RouterHeartbeat>(line).is_some());
        heard += usize::from(decoded::<RouterStatus>(line).is_some());
        heard += usize::from(decoded::<Vec<LogLine>>(line).is_some());
        heard += usize::from(decoded::<CredentialsReply>(line).is_some());
    }
    let (hosts, _) = table.snapshot();
    for route in table.routes(now) {
        assert!(route.app == stage::app(), "only sealed state makes a route");
        for (host, address) in route.replicas {
            assert!(
                hosts.iter().any(|beat| beat.host == host && beat.address == address),
                "{host} said nothing"
            );
        }
    }
    if heard > 0 { Corpus::Keep } else { Corpus::Reject }
}

/// Names become subjects, paths and roles: what is taken must be one safe word.
fn names(bytes: &[u8]) -> Corpus {
    let Ok(text) = std::str::from_utf8(bytes) else { return Corpus::Reject };
    let parsed = [
        text.parse::<AppId>().map(String::from).ok(),
        text.parse::<AppName>().map(String::from).ok(),
        text.parse::<HostId>().map(String::from).ok(),
        text.parse::<StageName>().map(String::from).ok(),
        text.parse::<Digest>().map(String::from).ok(),
    ];
    for name in parsed.into_iter().flatten() {
        assert_eq!(name, text);
        assert!(!name.is_empty() && name.len() <= 64);
        let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        assert!(name.bytes().all(is_safe) && !name.starts_with('-'), "{name:?}");
    }
    drop(TrustedKeys::from_json(bytes));
    if let Some((tries, first)) = bytes.split_first_chunk::<4>().and_then(|(tries, rest)| {
        Some((u32::from_le_bytes(*tries), u32::from_le_bytes(*rest.first_chunk::<4>()?)))
    }) {
        let first = Duration::from_millis(u64::from(first));
        if let AfterFailure::Retry(wait) = after_failure(tries, first) {
            assert!(wait >= first && wait <= first * u32::try_from(RETRY_S_MAX).unwrap_or(u32::MAX));
        }
    }
    Corpus::Keep
}
