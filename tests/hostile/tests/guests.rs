//! Apps that attack their host from inside: what becomes of them, and of the app beside them.
//!
//! `Hostile` has small limits, `Free` is the same component with large ones: what ends the one and not the other is the limit.
//! While each attack runs, `Hello` is asked on the same host and must answer every time.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use odeon_hostile::{Beside, bombs, hostile, publish};
use odeon_tests::{Installation, eventually};
use reqwest::StatusCode;
use serde_json::Value;
use wasm_encoder::Module;

/// CPU time of a request of `Hostile`, in milliseconds.
const CPU_MS: &str = "requestCpuMs=500";
/// Wall time of one, in milliseconds.
const WALL_MS: &str = "requestWallMs=5000";
/// Limits of `Hostile`.
const SMALL: &[&str] = &[CPU_MS, WALL_MS, "instanceMemoryMib=32", "memoryMib=64", "instances=50"];
/// A request that waits and takes no memory besides what its instance begins with.
const NO_MEMORY: &str = "memory/hold/0/10000";
/// Thousand steps of work that take more CPU time than `Hostile` has, and not more than `Free` has.
const LONG_WORK: &str = "cpu/busy/1500000";
/// What all instances of `Hostile` may have together, in bytes.
const MEMORY_BYTES_MAX: f64 = (64 << 20) as f64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_app_harms_itself_only() {
    let site = Installation::start_with(&["--no-sample"]).await;
    publish(&site);
    site.succeed(&["publish", hostile().to_str().unwrap(), "--name", "Free"]);
    deploy(&site, "Hostile", SMALL);
    deploy(&site, "Free", &["requestCpuMs=60000"]);
    let attack = Attack { site: &site };
    attack.whoever_has_many_parts_leaves_room_for_others().await;
    attack.whoever_keeps_the_cpu_is_ended().await;
    attack.whoever_works_on_after_its_answer_is_ended().await;
    attack.many_busy_requests_hold_up_nobody().await;
    attack.whoever_wants_more_memory_than_there_is_fails().await;
    attack.instances_together_keep_to_the_budget_of_their_app().await;
    attack.the_host_holds_a_bounded_amount_for_a_guest().await;
    attack.who_finds_no_room_is_told_to_come_back().await;
    attack.what_the_host_keeps_of_messages_is_memory_of_the_app().await;
    attack.a_guest_sees_nothing_of_its_host().await;
    attack.handles_pointers_and_texts_are_looked_at().await;
    attack.an_app_calls_itself_so_deep_and_so_often().await;
    attack.logs_are_bounded_and_stay_apart().await;
    attack.an_app_past_its_burst_waits_and_is_not_ended().await;
}

fn deploy(site: &Installation, app: &str, limits: &[&str]) {
    let mut arguments = vec!["deploy", app, "--revision", "1", "--to", "development"];
    limits.iter().for_each(|limit| arguments.extend(["--limit", limit]));
    site.succeed(&arguments);
}

struct Attack<'s> {
    site: &'s Installation,
}

/// What came of an attack.
#[derive(Debug)]
struct Outcome {
    status: StatusCode,
    code: String,
    text: String,
    retry_after: bool,
}

impl Attack<'_> {
    /// Asks once, for an app and a path below it.
    async fn ask(&self, app: &str, path: &str) -> Outcome {
        let url = self.site.url("development", &format!("/{app}/{path}"));
        let answer = self.site.client.get(url).send().await.unwrap();
        let (status, retry_after) = (answer.status(), answer.headers().contains_key("retry-after"));
        let text = answer.text().await.unwrap();
        let problem: Value = serde_json::from_str(&text).unwrap_or_default();
        let code = problem["errorCode"].as_str().unwrap_or_default().to_owned();
        Outcome { status, code, text, retry_after }
    }

    /// Attacks, while a well-behaved app is asked.
    async fn run(&self, path: &str) -> Outcome {
        let beside = self.beside();
        let outcome = self.ask("Hostile", path).await;
        beside.stop().await;
        outcome
    }

    #[track_caller]
    fn beside(&self) -> Beside {
        Beside::start(self.site.url("development", "/Hello/"))
    }

    async fn fails(&self, path: &str, status: StatusCode, code: &str) -> String {
        let outcome = self.run(path).await;
        assert_eq!((outcome.status, outcome.code.as_str()), (status, code), "{path}: {outcome:?}");
        outcome.text
    }

    /// A figure that the host tells of an app, or of itself when no app is named.
    async fn metric(&self, name: &str, app: Option<&str>) -> f64 {
        let text = self.site.host_metrics("development-1").await;
        let label = app.map(|app| format!("{name}{{app=\"{}\"}} ", self.site.key_of(app)));
        let start = label.unwrap_or_else(|| format!("{name} "));
        let found = text.lines().find_map(|line| line.strip_prefix(&start)?.parse().ok());
        found.unwrap_or_else(|| panic!("{start} in {text}"))
    }

    async fn whoever_keeps_the_cpu_is_ended(&self) {
        for path in ["cpu/loop", "cpu/calls", "cpu/host", "cpu/fill/16", LONG_WORK] {
            self.fails(path, StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50402").await;
        }
        self.fails("cpu/sleep", StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401").await;
        let control = self.ask("Free", LONG_WORK).await;
        assert_eq!(control.status, StatusCode::OK, "the limit ended it, nothing else: {control:?}");
    }

    async fn whoever_works_on_after_its_answer_is_ended(&self) {
        let outcome = self.run("cpu/after").await;
        assert_eq!((outcome.status, outcome.text.as_str()), (StatusCode::OK, "answered\n"));
        eventually("its instance is gone", async || {
            (self.metric("odeon_host_app_memory_bytes", Some("Hostile")).await == 0.0).then_some(())
        })
        .await;
    }

    /// Instances that have as many parts (core instances, memories, tables) as one may have, and as many of them at once as
    /// an app may have by default: the pools of the host are for all apps.
    async fn whoever_has_many_parts_leaves_room_for_others(&self) {
        const INSTANCES: usize = 256;
        let folder = tempfile::tempdir().unwrap();
        let good = fs::read(hostile()).unwrap();
        for (name, parts) in [
            ("Cores", bombs::parts(40, &Module::new())),
            ("Memories", bombs::parts(3, &bombs::memories(1, 1))),
            ("Tables", bombs::parts(12, &bombs::tables(1, 1))),
        ] {
            let file = folder.path().join(format!("{name}.wasm"));
            fs::write(&file, bombs::with(&good, &parts)).unwrap();
            self.site.succeed(&["publish", file.to_str().unwrap(), "--name", name]);
            let beside = self.beside();
            let all = (0..INSTANCES).map(|_| self.ask(name, "memory/hold/0/3000"));
            let all = futures_util::future::join_all(all).await;
            let served = all.iter().filter(|outcome| outcome.status == StatusCode::OK).count();
            assert_eq!(served, INSTANCES, "{name}: it has what it may have: {:?}", all.last());
            beside.stop().await;
        }
        // What each part holds counts.
        let wide = bombs::with(&good, &bombs::parts(3, &bombs::memories(1, 1_500)));
        let file = folder.path().join("wide.wasm");
        fs::write(&file, wide).unwrap();
        self.site.succeed(&["publish", file.to_str().unwrap(), "--name", "Wide"]);
        let refused = self.ask("Wide", "memory/hold/0/1").await;
        assert_eq!(refused.code, "OS-BERT-50002", "{refused:?}");
        deploy(self.site, "Wide", &["instanceMemoryMib=512"]);
        assert_eq!(
            self.ask("Wide", "memory/hold/0/1").await.status,
            StatusCode::OK,
            "with that limit there is room"
        );
    }

    async fn many_busy_requests_hold_up_nobody(&self) {
        let beside = self.beside();
        let all = futures_util::future::join_all((0..200).map(|_| self.ask("Hostile", "cpu/loop"))).await;
        let answers = beside.stop().await;
        assert!(answers > 3, "{answers}");
        for outcome in all {
            // Each has its CPU time, or waited for it as long as a request may.
            let ends = ["OS-BERT-50402", "OS-BERT-50401", "OS-BERT-50302"];
            assert!(ends.contains(&outcome.code.as_str()), "{outcome:?}");
            assert_eq!(outcome.retry_after, outcome.status == StatusCode::SERVICE_UNAVAILABLE, "{outcome:?}");
        }
    }

    async fn whoever_wants_more_memory_than_there_is_fails(&self) {
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        let text = self.fails("memory/grow", internal, "OS-BERT-50002").await;
        assert!(text.contains("33554432 bytes"), "{text}");
        self.fails("memory/ask", internal, "OS-BERT-50002").await;
        self.fails("memory/stack", internal, "OS-BERT-50003").await;
        let control = self.ask("Free", "memory/hold/48/1").await;
        assert_eq!(control.text, format!("held {}\n", 48 << 20), "without that limit there is room");
        self.fails("memory/hold/48/1", internal, "OS-BERT-50002").await;
    }

    async fn instances_together_keep_to_the_budget_of_their_app(&self) {
        let beside = self.beside();
        let attack =
            futures_util::future::join_all((0..20).map(|_| self.ask("Hostile", "memory/hold/20/3000")));
        let mut attack = std::pin::pin!(attack);
        let mut most: f64 = 0.0;
        let all = loop {
            tokio::select! {
                all = &mut attack => break all,
                held = self.metric("odeon_host_app_memory_bytes", Some("Hostile")) => most = most.max(held),
            }
        };
        beside.stop().await;
        assert!((20.0 * f64::from(1 << 20)..=MEMORY_BYTES_MAX).contains(&most), "{most}");
        let held = all.iter().filter(|outcome| outcome.status == StatusCode::OK).count();
        assert!((1..20).contains(&held), "some fit, and not all: {all:?}");
        for outcome in all.iter().filter(|outcome| outcome.status != StatusCode::OK) {
            assert!(
                ["OS-BERT-50005", "OS-BERT-50310", "OS-BERT-50401"].contains(&outcome.code.as_str()),
                "{outcome:?}"
            );
        }
        eventually("everything is given back", async || {
            (self.metric("odeon_host_app_memory_bytes", Some("Hostile")).await == 0.0).then_some(())
        })
        .await;
        let together =
            futures_util::future::join_all((0..10).map(|_| self.ask("Free", "memory/hold/20/1"))).await;
        assert!(
            together.iter().all(|outcome| outcome.status == StatusCode::OK),
            "a larger budget holds them"
        );
    }

    async fn the_host_holds_a_bounded_amount_for_a_guest(&self) {
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        self.fails("memory/resources", internal, "OS-BERT-50001").await;
        self.fails("memory/random", internal, "OS-BERT-50001").await;
        let text = self.fails("memory/fields", internal, "OS-BERT-50001").await; // 64 KiB of headers
        assert!(text.contains("field"), "{text}");
        self.fails("memory/call/17", internal, "OS-BERT-50001").await;
        let text = self.fails("memory/polls/1000000", internal, "OS-BERT-50001").await;
        assert!(text.contains("handle limit"), "each is lent to the host: {text}");
        assert_eq!(self.run("memory/polls/2048").await.text, "2048 ready\n");
        let text = self.fails("out/error/4000000", StatusCode::BAD_GATEWAY, "OS-BERT-50201").await;
        assert!(text.len() < 4_000, "{} bytes of what the guest said are shown", text.len());
        assert_eq!(self.run("memory/call/8").await.text, "Err(())\n", "the host has seen it, and refused it");
    }

    async fn who_finds_no_room_is_told_to_come_back(&self) {
        // One that keeps most of the budget, and more than fit into the rest: they wait for 5 s, and it ends later.
        let limits = ["instanceMemoryMib=16", "memoryMib=16", "requestWallMs=30000"];
        deploy(self.site, "Hostile", &limits);
        let others = async {
            eventually("it has its memory", || async {
                let held = self.metric("odeon_host_app_memory_bytes", Some("Hostile")).await;
                (held > f64::from(12 << 20)).then_some(())
            })
            .await;
            futures_util::future::join_all([NO_MEMORY; 6].map(|path| self.run(path))).await
        };
        let (first, all) = tokio::join!(self.ask("Hostile", "memory/hold/12/20000"), others);
        assert_eq!(first.status, StatusCode::OK, "{first:?}");
        let refused: Vec<_> = all.iter().filter(|outcome| outcome.status != StatusCode::OK).collect();
        assert!((1..all.len()).contains(&refused.len()), "some fit, and not all: {all:?}");
        for outcome in refused {
            let told = (outcome.status, outcome.code.as_str(), outcome.retry_after);
            assert_eq!(told, (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50310", true), "{outcome:?}");
        }
        let held = self.ask("Free", "memory/hold/12/1").await;
        assert_eq!(held.status, StatusCode::OK, "with a larger budget there is room");
        deploy(self.site, "Hostile", SMALL);
    }

    async fn what_the_host_keeps_of_messages_is_memory_of_the_app(&self) {
        for what in ["fields", "copies", "methods", "authorities", "bodies"] {
            let path = format!("memory/messages/{what}/600");
            self.fails(&path, StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50002").await;
            let control = self.ask("Free", &path).await;
            assert_eq!(control.text, "600 messages\n", "an instance that may have more keeps them");
        }
        assert_eq!(self.run("memory/dropped/600").await.text, "dropped\n", "what was let go is not counted");
    }

    async fn a_guest_sees_nothing_of_its_host(&self) {
        let files = self.run("memory/files").await.text;
        assert!(!files.contains("None"), "each of both failed: {files}");
        assert_eq!(self.run("memory/sockets").await.text, "false false false\n");
        assert_eq!(self.run("memory/environment").await.text, "0 0\n");
        for path in ["memory/exit", "memory/abort", "memory/trap"] {
            let outcome = self.run(path).await;
            assert!(outcome.status.is_server_error(), "{path}: {outcome:?}");
        }
        assert_eq!(self.ask("Hostile", "memory/hold/1/1").await.status, StatusCode::OK, "the host lives");
    }

    async fn handles_pointers_and_texts_are_looked_at(&self) {
        let internal = StatusCode::INTERNAL_SERVER_ERROR;
        for (path, said) in [("abi/well", "has 0\n"), ("abi/text/782d61", "has 0\n")] {
            assert_eq!(self.run(path).await.text, said, "{path}: as it should be");
        }
        for path in [
            "abi/dropped",
            "abi/twice",
            "abi/other",
            "abi/parent",
            "abi/guessed/0",
            "abi/guessed/77",
            "abi/guessed/2147483647",
            "abi/guessed/-1",
            "abi/pointer",
            "abi/length",
            "abi/text/fffe",   // no UTF-8
            "abi/text/eda080", // half of a UTF-16 pair
            "abi/text/c0af",   // a slash in more bytes than it has
            "abi/text/782d61f09f98",
        ] {
            self.fails(path, internal, "OS-BERT-50001").await;
        }
    }

    async fn an_app_calls_itself_so_deep_and_so_often(&self) {
        // Levels, calls, calls that were one level too deep, failures.
        assert_eq!(self.run("net/again/1").await.text, "8 8 1 0\n");
        let twice = self.ask("Free", "net/again/2").await;
        assert_eq!(
            twice.text, "8 510 512 0\n",
            "one after the other there is room for all, and nothing ends them"
        );
        let forked = self.run("net/fork/4").await;
        assert_eq!(
            (forked.status, forked.code.as_str()),
            (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"),
            "{forked:?}"
        );
        eventually("all that it began has ended", async || {
            (self.metric("odeon_host_app_memory_bytes", Some("Hostile")).await == 0.0).then_some(())
        })
        .await;
    }

    async fn logs_are_bounded_and_stay_apart(&self) {
        let beside = self.beside();
        // Neither is more than the host's queue holds: it is the rate that cuts them, of lines and of bytes.
        for (flood, drops) in [("memory/log/6000/8", 500.0), ("memory/log/500/8000", 100.0)] {
            let dropped = self.metric("odeon_host_log_lines_dropped_total", None).await;
            assert_eq!(self.ask("Free", flood).await.text, "logged\n");
            let dropped = self.metric("odeon_host_log_lines_dropped_total", None).await - dropped;
            assert!(dropped >= drops, "{flood}: {dropped} lines were dropped");
            eventually("the app is told", async || {
                let log = self.site.succeed(&["logs", "Free", "--stage", "development", "--lines", "10000"]);
                log.contains("lines are dropped: in a second, an app may log 1000 lines and 1048576 bytes")
                    .then_some(())
            })
            .await;
        }
        let lines = async |path: &str| {
            let url = self.site.url("development", &format!("/Hostile/{path}"));
            let answer = self.site.client.get(url).send().await.unwrap();
            let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
            let shown = ["logs", "Hostile", "--stage", "development", "--request", id.as_str()];
            eventually("its lines are there", async || {
                let text = self.site.succeed(&shown);
                (!text.trim().is_empty()).then_some(text)
            })
            .await
        };
        let newest = |app: &str, lines: &str| {
            self.site.succeed(&["logs", app, "--stage", "development", "--lines", lines])
        };
        assert_eq!(newest("Free", "2").lines().count(), 2, "of a thousand");
        let long = lines("memory/line/64").await;
        assert!((8 << 10..10 << 10).contains(&long.len()), "{} bytes", long.len());
        assert!(long.ends_with(&newest("Hostile", "1")), "it is the newest");
        let bytes = lines("memory/bytes").await;
        assert!(bytes.contains("\u{fffd}") && bytes.contains("no text"), "{bytes}");
        let forged = lines("memory/forged").await;
        assert!(forged.contains("second"), "it is in the log of the request that wrote it: {forged}");
        let other = self.site.succeed(&["logs", "Hostile", "--stage", "development", "--request", "forged"]);
        assert!(!other.contains("second"), "and in no other: {other}");
        beside.stop().await;
    }

    async fn an_app_past_its_burst_waits_and_is_not_ended(&self) {
        deploy(self.site, "Hostile", &["cpuShareMillicores=100", "cpuBurstMs=50", "requestWallMs=60000"]);
        let throttled = self.metric("odeon_host_app_throttled_seconds", Some("Hostile")).await;
        let beside = self.beside();
        let work =
            futures_util::future::join_all((0..4).map(|_| self.ask("Hostile", "cpu/busy/50000"))).await;
        beside.stop().await;
        assert!(work.iter().all(|outcome| outcome.status == StatusCode::OK), "{work:?}");
        assert!(self.metric("odeon_host_app_throttled_seconds", Some("Hostile")).await > throttled);
    }
}
