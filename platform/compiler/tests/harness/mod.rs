//! Runs a compiled component under wasmtime, with a scripted database, settings and others to call.
//!
//! [`Script`] is a fake of `odeon:sql/session`: it hands out prepared answers in order and records what
//! was asked. What SQL means to PostgreSQL is tested where there is one; here it is read as text.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use wasmtime::component::{Component, Linker, ResourceTable, Val};
use wasmtime::{Config, Engine, Store, StoreLimits, StoreLimitsBuilder, UpdateDeadline};
use wasmtime_wasi::{HostWallClock, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// One prepared answer.
#[derive(Debug, Clone)]
#[allow(dead_code, reason = "each test file uses some of them")]
pub(crate) enum Answer {
    /// The values of the rows, end to end.
    Rows(Vec<Val>),
    /// So many columns, and the values of their rows.
    Table(usize, Vec<Val>),
    /// What each fetch from a cursor gives.
    Batches(Vec<Vec<Val>>),
    /// Rows touched.
    Touched(u64),
    /// The case of the error and its payload.
    Fails(&'static str, &'static str),
}

/// The fake: answers to give, statements that came.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) answers: VecDeque<Answer>,
    pub(crate) seen: Vec<String>,
    /// Open cursors, and what is left to fetch.
    pub(crate) cursors: BTreeMap<String, VecDeque<Vec<Val>>>,
    pub(crate) logged: Vec<String>,
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// Timers that can be woken.
    pub(crate) timers: Vec<&'static str>,
    /// No event is taken.
    pub(crate) events_full: bool,
    /// What others answer, in order: status, content type and body, or why there is no answer.
    pub(crate) others: VecDeque<Result<(u16, &'static str, &'static str), ErrorCode>>,
    /// Requests to others, in order.
    pub(crate) sent: Vec<String>,
}

/// An app ready to serve.
pub(crate) struct App {
    pre: ProxyPre<State>,
    memory_bytes: usize,
    /// How often an instance may look at the host's clock, which it does where functions and loops begin.
    pub(crate) ticks: Option<u64>,
    pub(crate) script: Arc<Mutex<Script>>,
}

/// What a request got.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) allow: Option<String>,
    pub(crate) length: Option<String>,
    pub(crate) challenge: Option<String>,
    /// What kind of exception it was, for the app that called.
    pub(crate) exception: Option<String>,
}

struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Others,
    limits: StoreLimits,
}

/// What an instance may have: far less than a host gives, so that a test sees what is not freed.
const MEMORY_BYTES: usize = 12 << 20;

/// A clock that always says the end of the second [`NOW`].
struct Stopped;

/// 2026-11-22 10:20:30, in seconds since 1970.
const NOW: u64 = 1795342830;

impl HostWallClock for Stopped {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        Duration::new(NOW, 999_999_999)
    }
}

/// A fake of everybody whom an app may call.
struct Others(Arc<Mutex<Script>>);

type Sent = Result<(hyper::Response<WasiBody>, Transfer), Error>;
type Transfer = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Others {
    fn send_request(
        &mut self,
        request: hyper::Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Transfer,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let script = self.0.clone();
        Box::new(async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let header = |(name, value): (&hyper::http::HeaderName, &hyper::http::HeaderValue)| {
                format!("{name}: {}", value.to_str().unwrap())
            };
            let said = head.headers.iter().filter(|(name, _)| *name != "host");
            let mut headers: Vec<String> = said.map(header).collect();
            headers.sort();
            let (verb, url) = (head.method, head.uri);
            let mut script = script.lock().unwrap();
            script.sent.push(format!(
                "{verb} {url} [{}] {}",
                headers.join(", "),
                String::from_utf8_lossy(&body)
            ));
            let (status, kind, body) = script.others.pop_front().expect("an answer was prepared")?;
            let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
            let response = hyper::Response::builder().status(status).header("content-type", kind);
            // As hosts pass on what apps say.
            let response = match status {
                403 => response.header("odeon-exception", "8"),
                418 => response.header("odeon-exception", "17"),
                502 => response.header("odeon-exception", "1"),
                _ => response,
            };
            let response = response.body(body);
            Ok((response.unwrap(), Box::new(async { Ok(()) }) as Transfer))
        })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

pub(crate) fn sources(text: &str) -> odeon_compiler::Sources {
    odeon_compiler::Sources::new([("app.yaml".to_owned(), text.to_owned())])
}

#[track_caller]
pub(crate) fn build(sources: &odeon_compiler::Sources) -> Vec<u8> {
    let compiled = odeon_compiler::compile(sources);
    let shown = odeon_compiler::render(sources, &compiled.problems);
    compiled.component.unwrap_or_else(|| panic!("{shown}"))
}

impl App {
    #[track_caller]
    pub(crate) fn start(sources: &odeon_compiler::Sources) -> App {
        App::load(&build(sources), MEMORY_BYTES).expect("a valid component")
    }

    /// A component whose instances may have so many bytes; or why it is none.
    pub(crate) fn load(component: &[u8], memory_bytes: usize) -> Result<App, String> {
        App::limited(component, memory_bytes, None)
    }

    /// The same, which is ended after so many looks at the clock: as a host does it, and no clock is needed.
    pub(crate) fn limited(component: &[u8], memory_bytes: usize, ticks: Option<u64>) -> Result<App, String> {
        let mut config = Config::new();
        config.epoch_interruption(ticks.is_some());
        let engine = Engine::new(&config).map_err(|e| format!("{e:?}"))?;
        let component = Component::from_binary(&engine, component).map_err(|e| format!("{e:?}"))?;
        let script = Arc::new(Mutex::new(Script::default()));
        let mut linker: Linker<State> = Linker::new(&engine);
        wasmtime_wasi_http::p2::add_to_linker_async(&mut linker).unwrap();
        session(&mut linker, &script);
        let pre = ProxyPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
        Ok(App { pre, memory_bytes, ticks, script })
    }

    pub(crate) fn answers(&self, answers: impl IntoIterator<Item = Answer>) -> &App {
        let mut script = self.script.lock().unwrap();
        *script = Script { answers: answers.into_iter().collect(), ..Script::default() };
        self
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.script.lock().unwrap().seen.clone()
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, "")
    }

    pub(crate) fn send(&self, verb: &str, path: &str, body: &str) -> Reply {
        self.send_with(verb, path, &[], body)
    }

    pub(crate) fn send_with(&self, verb: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        self.request(verb, path, headers, body).expect("no trap")
    }

    /// The same, where it may end in a trap.
    #[allow(dead_code, reason = "each test file uses some of them")]
    pub(crate) fn attempt(&self, verb: &str, path: &str, body: &str) -> wasmtime::Result<Reply> {
        self.request(verb, path, &[], body)
    }

    fn request(
        &self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> wasmtime::Result<Reply> {
        let builder = hyper::Request::builder().method(verb).uri(format!("http://app{path}"));
        let builder = builder.header("host", "app").header("x-request-id", "r-1");
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(*name, *value));
        let body = Full::new(Bytes::from(body.to_owned())).map_err(|never| match never {});
        let request = builder.body(body).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.handle(request))
    }

    async fn handle<B>(&self, request: hyper::Request<B>) -> wasmtime::Result<Reply>
    where
        B: hyper::body::Body<Data = Bytes, Error = hyper::Error> + Send + 'static,
    {
        let wasi = WasiCtx::builder().inherit_stdio().wall_clock(Stopped).build();
        let limits = StoreLimitsBuilder::new().memory_size(self.memory_bytes).build();
        let (http, table) = (WasiHttpCtx::new(), ResourceTable::new());
        let state = State { wasi, http, table, hooks: Others(self.script.clone()), limits };
        let mut store = Store::new(self.pre.engine(), state);
        store.limiter(|state| &mut state.limits);
        if let Some(mut ticks) = self.ticks {
            store.set_epoch_deadline(0);
            store.epoch_deadline_callback(move |_| {
                ticks = ticks.checked_sub(1).ok_or_else(|| wasmtime::Error::msg("the deadline"))?;
                Ok(UpdateDeadline::Continue(0))
            });
        }
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let request = store.data_mut().http().new_incoming_request(Scheme::Http, request).unwrap();
        let out = store.data_mut().http().new_response_outparam(sender).unwrap();
        let proxy = self.pre.instantiate_async(&mut store).await?;
        // The store ends with the guest, and what waits for a response that does not come is told.
        let guest =
            async move { proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await };
        let client = async {
            let response = receiver.await.ok()?.expect("no error"); // after a trap there is none
            let header = |name| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
            let (status, allow, length) =
                (response.status().as_u16(), header("allow"), header("content-length"));
            let (challenge, exception) = (header("www-authenticate"), header("odeon-exception"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            Some(Reply { status, body, allow, length, challenge, exception })
        };
        let (ended, reply) = tokio::join!(guest, client);
        ended?;
        reply.ok_or_else(|| wasmtime::Error::msg("no response"))
    }
}

/// As PostgreSQL does, the fake refuses a statement whose parameters are not `$1` to as many as have values.
#[track_caller]
fn agree(statement: &str, values: usize) {
    let number = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse::<usize>().ok();
    let named: BTreeSet<usize> = statement.split('$').skip(1).filter_map(number).collect();
    let given: BTreeSet<usize> = (1..=values).collect();
    assert_eq!(named, given, "the parameters of {statement}");
}

fn rows(columns: usize, values: Vec<Val>) -> Val {
    let columns = (0..columns).map(|at| Val::String(format!("c{at}"))).collect();
    Val::Result(Ok(Some(Box::new(Val::Record(vec![
        ("columns".into(), Val::List(columns)),
        ("values".into(), Val::List(values)),
    ])))))
}

/// A cursor is seen as the query that it is over; its one answer is what it gives at the first fetch.
fn cursor(script: &mut Script, statement: &str, bound: &[String]) -> Option<Val> {
    let touched = Some(Val::Result(Ok(Some(Box::new(Val::U64(0))))));
    if let Some(declared) = statement.strip_prefix("DECLARE ") {
        let (name, query) = declared.split_once(" NO SCROLL CURSOR FOR ").unwrap();
        script.seen.push(format!("cursor: {query} [{}]", bound.join(", ")));
        let batches = match script.answers.pop_front() {
            Some(Answer::Rows(values) | Answer::Table(_, values)) => vec![values],
            Some(Answer::Batches(batches)) => batches,
            other => panic!("no rows were prepared for {query}: {other:?}"),
        };
        assert!(script.cursors.insert(name.to_owned(), batches.into()).is_none(), "{name} is open");
        return touched;
    }
    if let Some(name) = statement.strip_prefix("CLOSE ") {
        script.cursors.remove(name).unwrap_or_else(|| panic!("{name} is not open"));
        return touched;
    }
    let (_, name) = statement.strip_prefix("FETCH ")?.split_once(" FROM ").unwrap();
    let left = script.cursors.get_mut(name).unwrap_or_else(|| panic!("{name} is not open"));
    Some(rows(0, left.pop_front().unwrap_or_default()))
}

fn session(linker: &mut Linker<State>, script: &Arc<Mutex<Script>>) {
    let mut sql = linker.instance("odeon:sql/session@0.1.0").unwrap();
    for name in ["query", "execute-returning", "execute"] {
        let script = script.clone();
        sql.func_new(name, move |_, _, params, results| {
            let mut script = script.lock().unwrap();
            let Val::String(statement) = &params[0] else { panic!("sql is text") };
            let Val::List(bound) = &params[1] else { panic!("params are a list") };
            let bound: Vec<String> = bound.iter().map(shown).collect();
            agree(statement, bound.len());
            if let Some(result) = cursor(&mut script, statement, &bound) {
                results[0] = result;
                return Ok(());
            }
            script.seen.push(format!("{name}: {statement} [{}]", bound.join(", ")));
            results[0] = match script.answers.pop_front() {
                Some(Answer::Rows(values)) => rows(0, values),
                Some(Answer::Table(columns, values)) => rows(columns, values),
                Some(Answer::Touched(rows)) => Val::Result(Ok(Some(Box::new(Val::U64(rows))))),
                Some(Answer::Fails(case, payload)) => {
                    let payload = Some(Box::new(Val::String(payload.into())));
                    Val::Result(Err(Some(Box::new(Val::Variant(case.into(), payload)))))
                }
                Some(Answer::Batches(_)) | None => panic!("no answer was prepared for {statement}"),
            };
            Ok(())
        })
        .unwrap();
    }
    for name in ["commit", "rollback"] {
        let script = script.clone();
        sql.func_new(name, move |_, _, _, results| {
            let mut script = script.lock().unwrap();
            script.seen.push(name.to_owned());
            script.cursors.clear();
            results[0] = Val::Result(Ok(None));
            Ok(())
        })
        .unwrap();
    }
    let timers = script.clone();
    let mut control = linker.instance("odeon:timers/control@0.1.0").unwrap();
    control
        .func_new("wake", move |_, _, params, results| {
            let Val::String(timer) = &params[0] else { panic!("a timer is text") };
            let mut script = timers.lock().unwrap();
            script.seen.push(format!("wake {timer}"));
            let known = script.timers.iter().any(|known| known == timer);
            let unknown = Val::Variant("unknown".into(), None);
            results[0] = Val::Result(if known { Ok(None) } else { Err(Some(Box::new(unknown))) });
            Ok(())
        })
        .unwrap();
    let events = script.clone();
    let mut publisher = linker.instance("odeon:events/publisher@0.1.0").unwrap();
    publisher
        .func_new("publish", move |_, _, params, results| {
            let [Val::String(event), Val::String(payload)] = params else { panic!("an event is text") };
            let mut script = events.lock().unwrap();
            script.seen.push(format!("event {event} {payload}"));
            let full = Val::Variant("full".into(), None);
            results[0] = Val::Result(if script.events_full { Err(Some(Box::new(full))) } else { Ok(None) });
            Ok(())
        })
        .unwrap();
    let settings = script.clone();
    let mut config = linker.instance("wasi:config/store@0.2.0-rc.1").unwrap();
    config
        .func_new("get", move |_, _, params, results| {
            let Val::String(key) = &params[0] else { panic!("a key is text") };
            let script = settings.lock().unwrap();
            let value = script.settings.iter().find(|(name, _)| name == key);
            let value = value.map(|(_, value)| Box::new(Val::String((*value).into())));
            results[0] = Val::Result(Ok(Some(Box::new(Val::Option(value)))));
            Ok(())
        })
        .unwrap();
    let script = script.clone();
    linker
        .instance("odeon:log/logging@0.1.0")
        .unwrap()
        .func_new("log", move |_, _, params, _| {
            let line: Vec<String> = params.iter().map(shown).collect();
            script.lock().unwrap().logged.push(line.join(" "));
            Ok(())
        })
        .unwrap();
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "wasmtime's values are many; those that the interface has are named"
)]
fn shown(value: &Val) -> String {
    match value {
        Val::Variant(case, Some(payload)) => format!("{case}({})", shown(payload)),
        Val::Variant(case, None) | Val::Enum(case) => case.clone(),
        Val::String(text) => format!("{text:?}"),
        Val::Bool(v) => v.to_string(),
        Val::S32(v) => v.to_string(),
        Val::S64(v) => v.to_string(),
        Val::Record(fields) => {
            fields.iter().map(|(n, v)| format!("{n}={}", shown(v))).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}

/// A value as the database gives it.
pub(crate) fn value(case: &str, payload: Val) -> Val {
    Val::Variant(case.into(), Some(Box::new(payload)))
}

pub(crate) fn long(v: i64) -> Val {
    value("int64", Val::S64(v))
}

pub(crate) fn text(v: &str) -> Val {
    value("text", Val::String(v.into()))
}
