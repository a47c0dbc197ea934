//! Guests of WASI 0.2.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use odeon_engine::{CpuShare, RequestLimits};
use tokio::sync::Notify;

use crate::guest::{Guest, LIMITS, POOL};
use crate::until;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fails_harms_itself_only() {
    for guest in [Guest::load("hello_rust"), Guest::with_much_data("hello_rust")] {
        guest.answers().await;
        let (status, code, detail) = guest.fails("/panic", LIMITS).await;
        assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50001"), "{detail}");
        let (status, code, detail) = guest.fails("/memory", LIMITS).await;
        assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50002"));
        assert_eq!(detail, "the app needed more than 33554432 bytes of memory and failed");
        let (status, code, _) = guest.fails("/stack", LIMITS).await;
        assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50003"));
        guest.answers().await;
        assert_eq!(guest.ends.failed.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_never_yields_is_ended_at_its_deadlines() {
    let guest = Guest::load("hello_rust");
    let (status, code, detail) = guest.fails("/loop", RequestLimits { cpu_ms_max: 50, ..LIMITS }).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50402"));
    assert_eq!(detail, "the app used more than 50 ms of CPU time for one request");
    let (status, code, _) = guest.fails("/loop", RequestLimits { wall_ms_max: 50, ..LIMITS }).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"));
    let (status, code, _) = guest.fails("/slow", RequestLimits { wall_ms_max: 50, ..LIMITS }).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"), "waiting counts, too");
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_of_an_unloaded_app_is_ended() {
    let guest = Guest::load("hello_rust");
    let unload = Arc::new(Notify::new());
    unload.notify_one();
    let error = guest.ask_until("/loop", LIMITS, async move { unload.notified().await }).await.err().unwrap();
    let error = error.error;
    assert_eq!((error.status(), error.code()), (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50303"));
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_ends_the_guest() {
    let guest = Guest::load("hello_rust");
    let asked = tokio::time::timeout(std::time::Duration::from_millis(50), guest.ask("/loop", LIMITS)).await;
    assert!(asked.is_err());
    // Its slot is free again: more requests than there are slots find one each.
    for _ in 0..40 {
        guest.answers().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_serves_one_request_unless_the_app_asks_for_more() {
    let guest = Guest::load("hello_rust");
    let limits = RequestLimits { reuse_max: 3, ..LIMITS };
    let mut counts = Vec::new();
    for _ in 0..6 {
        let answer = guest.ask("/", limits).await.unwrap();
        counts.push(answer.headers()["x-instance-requests"].to_str().unwrap().to_owned());
        guest.rests().await; // only then does its instance wait for the next one
    }
    assert_eq!(counts, ["1", "2", "3", "1", "2", "3"]);
    // After a failure nobody meets what was left, and what waits for nobody gives its memory back.
    guest.ask("/", limits).await.unwrap();
    guest.fails("/panic", limits).await;
    guest.answers().await;
    guest.ask("/", limits).await.unwrap();
    guest.rests().await;
    assert!(guest.account.memory.held() > 0);
    guest.app.make_room();
    assert_eq!(guest.account.memory.held(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_an_app_share_its_budget_and_leave_nothing_behind() {
    let guest = Guest::load("hello_rust");
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, 24 << 20);
    let (status, code, detail) = guest.fails("/memory", LIMITS).await;
    assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50005"));
    assert_eq!(
        detail,
        "the app's instances together needed more than 25165824 bytes of memory, so that this one failed"
    );
    assert_eq!(guest.account.memory.held(), 0);
    // A control: with a budget it fits in, the same request comes to the limit of its instance.
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, 512 << 20);
    assert_eq!(guest.fails("/memory", LIMITS).await.1, "OS-BERT-50002");
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_wait_for_their_share_are_ended_at_their_deadlines_too() {
    let guest = Guest::load("hello_rust");
    // A burst of nothing, and a share that pays for a millisecond in a hundred.
    guest.account.set(CpuShare { millicores: 10, burst_ms: Some(0) }, 512 << 20);
    let limits = RequestLimits { wall_ms_max: 300, ..LIMITS };
    let (status, code, _) = guest.fails("/loop", limits).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"));
    // It is told when the time has passed for which the app had to wait.
    until("it waited", || guest.account.cpu.throttled_ns() > 0).await;
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, 512 << 20);
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_computes_is_charged_to_its_app() {
    let guest = Guest::load("hello_rust");
    let (_, code, _) = guest.fails("/loop", RequestLimits { cpu_ms_max: 100, ..LIMITS }).await;
    assert_eq!(code, "OS-BERT-50402");
    // The last slice is charged when it has ended, which is after the answer.
    until("it is charged", || guest.account.cpu.used_ns() >= 100_000_000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_wait_leave_most_of_the_pool_to_those_that_serve() {
    let guest = Guest::load("hello_rust");
    let kept = RequestLimits { reuse_max: 100, ..LIMITS };
    let _answer = guest.ask("/", kept).await.unwrap();
    guest.rests().await;
    let one = guest.account.memory.held();
    // Each in an instance of its own, but for the last ones, for which there is none.
    let _answers = join_all((0..POOL).map(|_| guest.ask("/slow", kept))).await;
    guest.rests().await;
    assert_eq!(guest.account.memory.held(), one * u64::from(POOL) / 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_more_memory_while_the_host_is_short_of_it() {
    let guest = Guest::load("hello_rust");
    guest.engine.set_memory_left(0);
    let (status, code, detail) = guest.fails("/large", LIMITS).await;
    assert_eq!((status, code), (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50313"));
    assert_eq!(detail, "the host is short of memory: the app got no more of it, or had most, and was ended");
    guest.engine.set_memory_left(25 << 20);
    for _ in 0..3 {
        guest.ask("/large", LIMITS).await.unwrap(); // 20 MiB, which are there for the next one when it has ended
        guest.rests().await;
    }
    let (_, code, _) = guest.fails("/memory", LIMITS).await;
    assert_eq!(code, "OS-BERT-50313", "there was more for an instance, and not for the host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_most_memory_ends_when_the_host_runs_out_of_it() {
    let guest = Guest::load("hello_rust");
    let small = guest.fails("/loop", RequestLimits { wall_ms_max: 3_000, ..LIMITS });
    let large = guest.fails("/large/loop", LIMITS); // 20 MiB
    let runs_out = async {
        until("it has its memory", || guest.account.memory.held() > 20 << 20).await;
        guest.end_largest(1);
    };
    let ((_, small, _), (status, large, _), ()) = tokio::join!(small, large, runs_out);
    assert_eq!((status, large), (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50313"));
    assert_eq!(small, "OS-BERT-50401", "it went on until its deadline");
    guest.end_largest(0);
    guest.ask("/large", LIMITS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_with_most_memory_ends_when_the_host_runs_out_of_it() {
    let guest = Guest::load("hello_rust");
    let waits = guest.fails("/large/slow", LIMITS);
    let runs_out = async {
        until("it has its memory", || guest.account.memory.held() > 20 << 20).await;
        until("it has ended", || {
            guest.end_largest(1);
            guest.account.memory.held() == 0
        })
        .await;
    };
    let ((status, code, _), ()) = tokio::join!(waits, runs_out);
    assert_eq!((status, code), (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50313"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_is_not_kept_while_a_request_waits_for_its_memory() {
    let guest = Guest::load("hello_rust");
    let kept = RequestLimits { reuse_max: 100, ..LIMITS };
    let _answer = guest.ask("/", kept).await.unwrap();
    guest.rests().await;
    let one = guest.account.memory.held();
    guest.app.make_room();
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, one);
    let first = guest.ask("/slow", kept);
    let second = async {
        until("the first one has its instance", || guest.account.memory.held() > 0).await;
        guest.ask("/", kept).await
    };
    let both = async { tokio::join!(first, second) };
    let (first, second) =
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("both have an end");
    let codes = [first, second].map(|answer| answer.err().map(|failure| failure.error.to_string()));
    assert_eq!(codes, [None, None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_wait_give_their_memory_to_those_that_serve() {
    let guest = Guest::load("hello_rust");
    let kept = RequestLimits { reuse_max: 100, ..LIMITS };
    let _answer = guest.ask("/", kept).await.unwrap();
    guest.rests().await;
    let one = guest.account.memory.held();
    let budget = |bytes| guest.account.set(CpuShare { millicores: 250, burst_ms: None }, bytes);
    // One that begins, and one that wants 20 MiB and would have them but for the one that waits.
    for (path, bytes) in [("/", one), ("/large", (20 << 20) + one)] {
        budget(bytes);
        guest.ask(path, LIMITS).await.unwrap();
        guest.rests().await;
        assert_eq!(guest.account.memory.held(), 0, "{path}: the one that waited has ended");
        budget(512 << 20);
        let _answer = guest.ask("/", kept).await.unwrap();
        guest.rests().await;
        assert_eq!(guest.account.memory.held(), one);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_much_memory_runs_on_the_guests_threads() {
    Guest::load("hello_rust").runs_there_with_much_memory().await;
}
