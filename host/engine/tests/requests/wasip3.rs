//! Guests of WASI 0.3: what holds for those of 0.2 holds for them, and instances that serve several requests at once keep
//! them apart.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join_all, select_all};
use futures_util::stream;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use odeon_engine::{CpuShare, GuestError, RequestLimits};
use tokio::sync::{Notify, Semaphore};
use wasm_encoder::{
    BlockType, CodeSection, ComponentSection as _, Function, FunctionSection, InstanceSection, Module,
    ModuleArg, ModuleSection, StartSection, TypeSection,
};
use wasmparser::{Parser, Payload};

use crate::guest::{Guest, LIMITS, POOL};
use crate::until;

/// Four requests at once in an instance that is used for a hundred.
const TOGETHER: RequestLimits = RequestLimits { reuse_max: 100, concurrency_max: 4, ..LIMITS };

fn guest() -> Guest {
    Guest::load("hello_wasip3")
}

/// Sends requests into one instance: each as soon as that waits. None does anything before all are in, when their bodies
/// end: a guest that looked around now and then would sometimes be at it when the next request comes, which then has an
/// instance of its own.
async fn together(guest: &Guest, paths: &[&str], limits: RequestLimits) -> Vec<Result<Bytes, GuestError>> {
    let all = Arc::new(Semaphore::new(0));
    let asked = paths.iter().enumerate().map(|(number, path)| {
        let all = all.clone();
        async move {
            if number > 0 {
                until("the instance waits for others", || {
                    guest.joined() == number - 1 && guest.app.open_instances() == 1
                })
                .await;
            }
            let end = async move {
                drop(all.acquire().await);
                Ok(Frame::data(Bytes::new()))
            };
            let body = StreamBody::new(stream::once(end)).boxed_unsync();
            let request = Request::post(format!("http://localhost/told{path}")).body(body).unwrap();
            let answer = guest.send(request, limits, pending()).await.map_err(|failure| failure.error)?;
            Ok(answer.into_body().collect().await.unwrap().to_bytes())
        }
    });
    let tell = async {
        until("all are in", || guest.joined() == paths.len() - 1).await;
        all.add_permits(paths.len());
    };
    tokio::join!(join_all(asked), tell).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fails_harms_itself_only() {
    for guest in [guest(), Guest::with_much_data("hello_wasip3")] {
        guest.answers().await;
        let (status, code, detail) = guest.fails("/panic", LIMITS).await;
        assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50001"), "{detail}");
        let (status, code, _) = guest.fails("/memory", LIMITS).await;
        assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50002"));
        let (status, code, detail) = guest.fails("/hoard", LIMITS).await;
        assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50001"));
        assert!(detail.contains("handle"), "{detail}");
        let (status, code, detail) = guest.fails("/no", LIMITS).await;
        assert_eq!((status, code), (StatusCode::BAD_GATEWAY, "OS-BERT-50201"));
        assert_eq!(detail, "the app gave no valid answer: ErrorCode::InternalError(Some(\"asked to\"))");
        guest.answers().await;
        assert_eq!(guest.ends.failed.load(Ordering::SeqCst), 4);
        until("nothing is left of them", || guest.is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_host_keeps_of_messages_is_memory_of_the_instance() {
    let guest = Guest::load("wasi_p3");
    let limits = |mib: u64| RequestLimits { memory_bytes_max: mib << 20, ..LIMITS };
    let (_, code, _) = guest.fails("/messages-kept", limits(32)).await;
    assert_eq!(code, "OS-BERT-50002");
    let answer = guest.ask("/messages-kept", limits(64)).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "200 messages");
    until("nothing is left of them", || guest.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_with_many_instances_leaves_places_to_others_and_is_told_so() {
    let guest = guest();
    let other = guest.beside();
    let taken = join_all((0..POOL).map(|_| guest.ask("/for-ever", LIMITS)));
    let refused = async {
        loop {
            if let Err(refused) = guest.ask("/", LIMITS).await {
                other.answers().await;
                return refused.error;
            }
        }
    };
    let refused = tokio::select! {
        _ = taken => panic!("they never end"),
        refused = tokio::time::timeout(Duration::from_secs(60), refused) => refused.expect("all places are taken"),
    };
    assert_eq!((refused.status(), refused.code()), (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50301"));
    assert_eq!(refused.to_string(), "this host runs as many instances as it may; try again in a moment");
    until("nothing is left of them", || guest.is_empty()).await;
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_wait_for_a_request_leave_their_places_to_those_that_have_one() {
    let guest = guest();
    let kept = RequestLimits { reuse_max: 100, ..LIMITS };
    join_all((0..POOL / 4).map(|_| guest.ask("/slow", kept))).await;
    guest.rests().await;
    assert!(guest.account.memory.held() > 0, "some wait");
    let others = [guest.beside(), guest.beside()];
    let asked = others.iter().flat_map(|app| (0..POOL / 2).map(|_| Box::pin(app.ask("/for-ever", LIMITS))));
    tokio::select! {
        (ended, ..) = select_all(asked) => panic!("they have all places, and never end: {:?}", ended.err()),
        () = until("none of them waits any more", || guest.account.memory.held() == 0) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_ended_at_its_deadlines_whatever_it_waits_for() {
    let guest = guest();
    let (status, code, _) = guest.fails("/loop", RequestLimits { cpu_ms_max: 50, ..LIMITS }).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50402"));
    for path in ["/loop", "/slow", "/for-ever"] {
        let (status, code, _) = guest.fails(path, RequestLimits { wall_ms_max: 50, ..LIMITS }).await;
        assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"), "{path}");
    }
    // What it does when it has said all counts, too. The host hears of the end of the body only if it is asked in time.
    let said = guest.ask("/after", RequestLimits { cpu_ms_max: 50, ..LIMITS }).await.unwrap();
    let mut body = said.into_body();
    let part = body.frame().await.unwrap().unwrap();
    assert_eq!(part.into_data().unwrap(), "and goes on\n");
    until("its store is dropped", || guest.account.memory.held() == 0).await;
    assert!(body.frame().await.is_none_or(|end| end.is_err()));
    guest.answers().await;
}

/// A component with one more core module in it, which loops when an instance of it is made.
fn that_loops_when_it_begins(component: &[u8]) -> Vec<u8> {
    let (mut types, mut functions, mut code) =
        (TypeSection::new(), FunctionSection::new(), CodeSection::new());
    types.ty().function([], []);
    functions.function(0);
    let mut body = Function::new([]);
    body.instructions().loop_(BlockType::Empty).br(0).end().end();
    code.function(&body);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&StartSection { function_index: 0 }).section(&code);
    let (mut depth, mut modules) = (0, 0);
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.unwrap();
        let begins = matches!(payload, Payload::ModuleSection { .. } | Payload::ComponentSection { .. });
        modules += u32::from(depth == 0 && matches!(payload, Payload::ModuleSection { .. }));
        depth += i32::from(begins) - i32::from(matches!(payload, Payload::End(_)));
    }
    let mut instances = InstanceSection::new();
    instances.instantiate::<[(&str, ModuleArg); 0], &str>(modules, []);
    let mut bytes = component.to_vec();
    ModuleSection(&module).append_to_component(&mut bytes);
    instances.append_to_component(&mut bytes);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_loops_when_it_begins_is_ended_at_its_deadlines() {
    let guest = Guest::made_of(&that_loops_when_it_begins(&Guest::bytes("hello_wasip3")));
    for limits in [LIMITS, TOGETHER] {
        let (_, code, detail) = guest.fails("/", RequestLimits { cpu_ms_max: 50, ..limits }).await;
        assert_eq!(code, "OS-BERT-50402", "{} at once: {detail}", limits.concurrency_max);
        let (_, code, _) = guest.fails("/", RequestLimits { wall_ms_max: 50, ..limits }).await;
        assert_eq!(code, "OS-BERT-50401");
    }
    guest.rests().await;
    until("nothing is left of them", || guest.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_stream_through_a_guest() {
    let guest = guest();
    for limits in [LIMITS, TOGETHER] {
        let parts =
            guest.ask("/parts", limits).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert!(parts.starts_with(b"part 0\npart 1\n") && parts.ends_with(b"part 49\n"), "{parts:?}");
        let sent = Bytes::from_iter((0..5_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 4]));
        let body = Full::new(sent.clone()).map_err(|never| match never {}).boxed_unsync();
        let request = Request::post("http://localhost/echo").body(body).unwrap();
        let echo = guest.send(request, limits, pending()).await.unwrap();
        assert!(echo.into_body().collect().await.unwrap().to_bytes() == sent);
    }
    until("all have ended", || guest.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_serves_several_requests_at_once_if_the_app_asks_for_it() {
    let guest = guest();
    // None of these is answered before all of them are in one instance.
    for said in together(&guest, &["/meet-4"; 4], TOGETHER).await {
        assert_eq!(said.unwrap(), "Hello from Odeon\n");
    }
    // A control: otherwise they wait for one another in vain, one after the other and each for itself.
    let guest = Guest::load("hello_wasip3");
    for limits in [LIMITS, RequestLimits { concurrency_max: 1, ..TOGETHER }] {
        let limits = RequestLimits { wall_ms_max: 100, ..limits };
        for answer in join_all((0..4).map(|_| guest.ask("/meet-4", limits))).await {
            assert_eq!(answer.unwrap_err().error.code(), "OS-BERT-50401");
        }
    }
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_ends_after_as_many_requests_as_the_app_asked_for() {
    let guest = guest();
    let limits = RequestLimits { reuse_max: 3, ..TOGETHER };
    let mut counts = Vec::new();
    for _ in 0..6 {
        let answer = guest.ask("/", limits).await.unwrap();
        counts.push(answer.headers()["x-instance-requests"].to_str().unwrap().to_owned());
        answer.into_body().collect().await.unwrap();
    }
    assert!(counts.iter().all(|count| ["1", "2", "3"].contains(&count.as_str())), "{counts:?}");
    until("all have ended", || guest.ends.returned.load(Ordering::SeqCst) == 6).await;
    until("nothing is held", || guest.is_empty()).await;
    assert_eq!(guest.ends.failed.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_share_an_instance_keep_their_capabilities() {
    let guest = guest();
    let paths: Vec<_> = (0..4).map(|number| format!("/meet-4/{number}/fetch/anywhere")).collect();
    let paths: Vec<_> = paths.iter().map(String::as_str).collect();
    for (path, said) in paths.iter().zip(together(&guest, &paths, TOGETHER).await) {
        assert_eq!(
            said.unwrap(),
            format!("http://localhost/told{path}"),
            "it was asked in the name of another request"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uses_up_its_time_takes_others_along_and_they_are_told_so() {
    let guest = guest();
    let limits = RequestLimits { cpu_ms_max: 200, concurrency_max: 2, ..TOGETHER };
    let ends = together(&guest, &["/meet-2/for-ever", "/meet-2/loop"], limits).await;
    let [waiting, looping] = ends.try_into().unwrap();
    let error = looping.unwrap_err();
    assert_eq!((error.status(), error.code()), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50402"));
    let error = waiting.unwrap_err();
    assert_eq!((error.status(), error.code()), (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50314"));
    assert_eq!(error.to_string(), "this request shared an instance with another one that failed; try again");
    until("both have ended", || guest.ends.failed.load(Ordering::SeqCst) == 2).await;
    until("the instance is gone", || guest.account.memory.held() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_says_an_error_says_it_to_one_caller() {
    let answers = together(&guest(), &["/", "/no", "/"], TOGETHER).await;
    assert!(matches!(answers.as_slice(), [Ok(_), Err(GuestError::NoResponse(_)), Ok(_)]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_too_long_or_goes_away_ends_nobody_else() {
    let guest = guest();
    let late = RequestLimits { wall_ms_max: 3_000, ..TOGETHER };
    let waits = || guest.app.open_instances() == 1;
    let slow = async {
        until("the instance waits for others", waits).await;
        guest.ask("/slow", TOGETHER).await
    };
    let (late, slow) = tokio::join!(guest.ask("/for-ever", late), slow);
    assert_eq!(late.unwrap_err().error.code(), "OS-BERT-50401");
    let slow = slow.unwrap();
    assert_eq!(slow.headers()["x-instance-requests"], "2", "they had an instance together");
    assert_eq!(slow.into_body().collect().await.unwrap().to_bytes(), "Hello from Odeon\n");
    // It took nobody in after that, and was dropped when the last one in it was served.
    until("the instance is gone", || guest.account.memory.held() == 0).await;
    let gone = async {
        tokio::select! {
            _ = guest.ask("/for-ever", TOGETHER) => panic!("it is never answered"),
            () = until("the other one is there", || guest.joined() == 2) => {}
        }
    };
    let slow = async {
        until("the instance waits for others", waits).await;
        guest.ask("/slow", TOGETHER).await
    };
    let ((), slow) = tokio::join!(gone, slow);
    assert_eq!(slow.unwrap().headers()["x-instance-requests"], "2");
    until("the instance is gone", || guest.account.memory.held() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_comes_after_one_went_away_does_not_wait_for_the_others() {
    let guest = guest();
    let stays = guest.ask("/for-ever", TOGETHER);
    let comes = async {
        until("the instance waits for others", || guest.app.open_instances() == 1).await;
        tokio::select! {
            _ = guest.ask("/for-ever", TOGETHER) => panic!("it is never answered"),
            () = until("the other one is there", || guest.joined() == 1) => {}
        }
        let answer = guest.ask("/", TOGETHER).await.unwrap();
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    tokio::select! {
        _ = stays => panic!("the other one ended first"),
        said = comes => assert_eq!(said, "Hello from Odeon\n"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_works_on_after_its_answers_counts_until_it_has_ended() {
    let guest = guest();
    let brief = RequestLimits { cpu_ms_max: 1_000, ..TOGETHER };
    drop(guest.ask("/after", brief).await.unwrap().into_body().collect().await); // it spins behind it
    guest.rests().await;
    assert_eq!(guest.account.memory.held(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_breaks_off_at_its_own_deadline_and_with_its_app() {
    let guest = guest();
    let late = RequestLimits { wall_ms_max: 3_000, ..TOGETHER };
    for (limits, is_unloaded) in [(late, false), (TOGETHER, true)] {
        let unload = Arc::new(Notify::new());
        let silent = async {
            until("the instance waits for others", || guest.app.open_instances() == 1).await;
            let unloaded = unload.clone();
            let answer = guest.ask_until("/silent", limits, async move { unloaded.notified().await }).await;
            let answer = answer.unwrap();
            assert_eq!(answer.headers()["x-instance-requests"], "2", "they have an instance together");
            if is_unloaded {
                unload.notify_one();
            }
            answer.into_body().collect().await
        };
        tokio::select! {
            _ = guest.ask("/for-ever", TOGETHER) => panic!("the other one ended first"),
            said = silent => assert!(said.is_err()),
        }
        until("the instance is gone", || guest.account.memory.held() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_caller_holds_up_nobody() {
    let guest = guest();
    // Larger than what is kept of a body on its way: the guest waits for its caller to read.
    let body = Full::new(Bytes::from(vec![1; 8 << 20])).map_err(|never| match never {}).boxed_unsync();
    let request = Request::post("http://localhost/echo").body(body).unwrap();
    let unread = guest.send(request, TOGETHER, pending()).await.unwrap();
    for _ in 0..10 {
        let said = guest.ask("/", TOGETHER).await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(said, "Hello from Odeon\n");
    }
    assert_eq!(unread.into_body().collect().await.unwrap().to_bytes().len(), 8 << 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_serve_many_pay_for_all_of_them() {
    let guest = guest();
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, 512 << 20);
    let limits = RequestLimits { cpu_ms_max: 100, ..TOGETHER };
    let answers = together(&guest, &["/meet-2/loop"; 2], limits).await;
    assert!(answers.iter().all(Result::is_err));
    until("it is charged", || guest.account.cpu.used_ns() >= 100_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_much_memory_runs_on_the_guests_threads() {
    guest().runs_there_with_much_memory().await;
}
