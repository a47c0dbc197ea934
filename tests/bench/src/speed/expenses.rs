//! The list of 50 expenses through host and PostgreSQL, beside a hand-written axum and sqlx server.
//!
//! Both log in to the same database as the same role, with as many connections, and answer with the same rows
//! and the same bytes; the benchmark looks, before and after. Rounds are in turns. CPU time is that of the
//! processes on the path, without the database.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use odeon_tests::Installation;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Bound, Contenders, Found, Target};
use crate::load::{CONNECTIONS, ROUND_S, Round, round};
use crate::publish::median;

/// Rounds of each contender.
const ROUNDS: usize = 5;
/// Expenses in the database; a request gets 50 of them.
const EXPENSES: usize = 200;
/// What a host gives to one app: a quarter of the 50 connections of `odeon up`.
const POOL: usize = 12;
/// Least throughput of the host, in times that of the peer.
const RATE_MIN: f64 = 0.7;
/// Most CPU time per request of the host, in times that of the peer.
const CPU_MAX: f64 = 2.0;

struct Contender {
    name: &'static str,
    url: String,
    pids: Vec<u32>,
    rounds: Vec<Round>,
}

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) async fn measure(contenders: &Contenders) -> Result<Found> {
    let site = Installation::start().await;
    for at in 0..EXPENSES {
        let url = site.url("development", "/Expenses/rest/Expenses/Create");
        let (status, said) = site.send(Method::POST, &url, Some(expense(at))).await;
        ensure!(status.is_success(), "a new expense: {status} {said}");
    }
    let (peer, peer_url) = peer(contenders, &site).await?;
    let pid = |process: &str| site.process(process)["pid"].as_u64().map(u32::try_from);
    let pid = |process: &str| Ok::<_, anyhow::Error>(pid(process).context("a running process")??);
    let (host, router) = (pid("host-development-1")?, pid("router-development-router")?);
    let path = "/Expenses/rest/Expenses/List";
    let direct = format!("http://{}{path}", site.host_address("development-1"));
    let contender = |name, url, pids| Contender { name, url, pids, rounds: Vec::new() };
    let mut measured = vec![
        contender("axum and sqlx, by hand", peer_url, vec![peer.0.id()]),
        contender("Odeon, host alone", direct, vec![host]),
        contender("Odeon, router and host", site.url("development", path), vec![host, router]),
    ];
    same(&site, &measured).await?;
    for contender in &measured {
        round(&contender.url, &contender.pids)?; // warms up: not counted
    }
    for _ in 0..ROUNDS {
        for contender in &mut measured {
            contender.rounds.push(round(&contender.url, &contender.pids)?);
        }
    }
    let bytes = same(&site, &measured).await?;
    found(&measured, bytes)
}

fn expense(at: usize) -> Value {
    json!({
        "Description": format!("Größe \"{at}\" of a trip, with a line that is as long as such lines are"),
        "Amount": (at * 137 + 5) as f64 / 100.0,
        "SpentOn": format!("2026-{:02}-{:02}", at % 12 + 1, at % 28 + 1),
        "CategoryId": at % 3 + 1,
    })
}

/// Starts the hand-written server with the login that the app itself has.
async fn peer(contenders: &Contenders, site: &Installation) -> Result<(Peer, String)> {
    let database = "stage_development";
    let row = site.database(database).await;
    let row = row
        .query_one("select schema_name, login, password from odeon.apps where name = 'Expenses'", &[])
        .await
        .context("the login of the app")?;
    let (schema, login, password): (String, String, String) = (row.get(0), row.get(1), row.get(2));
    let address = site.process("postgresql")["address"].as_str().context("its address")?.to_owned();
    let mut child = Command::new(&contenders.peer)
        .arg(format!("postgres://{login}:{password}@{address}/{database}"))
        .args([&schema, &POOL.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("start {}", contenders.peer.display()))?;
    let out = child.stdout.take().context("its output")?;
    let peer = Peer(child);
    let mut told = String::new();
    BufReader::new(out).read_line(&mut told)?;
    Ok((peer, format!("http://{}/List", told.trim())))
}

/// All answer with the same 50 rows; gives how many bytes those are.
async fn same(site: &Installation, contenders: &[Contender]) -> Result<usize> {
    let mut first: Option<String> = None;
    for contender in contenders {
        let answer = site.client.get(&contender.url).send().await?;
        ensure!(answer.status().is_success(), "{}: {}", contender.name, answer.status());
        let text = answer.text().await?;
        let rows: Vec<Value> = serde_json::from_str(&text)?;
        ensure!(rows.len() == 50, "{} gives {} rows", contender.name, rows.len());
        match &first {
            None => first = Some(text),
            Some(first) => ensure!(*first == text, "{} answers\n{text}\nnot\n{first}", contender.name),
        }
    }
    Ok(first.map_or(0, |text| text.len()))
}

fn found(contenders: &[Contender], bytes: usize) -> Result<Found> {
    let mut found = Found::default();
    writeln!(
        found.text,
        "## A list from the database\n\nThe 50 newest of {EXPENSES} expenses, {bytes} bytes of JSON, the same from all. `tests/bench/peers/expenses-axum` is a \
         server by hand: same role, same database, same {POOL} connections. `wrk` with one thread and {CONNECTIONS} connections on the same cores, {ROUNDS} rounds of {ROUND_S} s \
         in turns, medians. CPU is user and system time of the processes on the path, without the database.\n\n\
         | | requests/s | ratio | CPU us per request | ratio | p50 us | p99 us |\n|---|---|---|---|---|---|---|"
    )?;
    let of = |contender: &Contender, figure: fn(&Round) -> f64| {
        median(&contender.rounds.iter().map(figure).collect::<Vec<_>>())
    };
    let by_hand = contenders.first().context("there is a peer")?;
    let ratios = |contender: &Contender| {
        // Of each round with the peer's round beside it: a machine drifts.
        let ratio = |figure: fn(&Round) -> f64| {
            let pairs = contender.rounds.iter().zip(&by_hand.rounds);
            median(&pairs.map(|(own, peer)| figure(own) / figure(peer)).collect::<Vec<_>>())
        };
        (ratio(|round| round.requests_per_s), ratio(|round| round.cpu_us))
    };
    for contender in contenders {
        let (rate, cpu) = ratios(contender);
        writeln!(
            found.text,
            "| {} | {:.0} | {rate:.2} | {:.0} | {cpu:.2} | {:.0} | {:.0} |",
            contender.name,
            of(contender, |round| round.requests_per_s),
            of(contender, |round| round.cpu_us),
            of(contender, |round| round.p50_us),
            of(contender, |round| round.p99_us),
        )?;
    }
    let (rate, cpu) = ratios(contenders.get(1).context("the host was measured")?);
    found.targets = vec![
        Target::new("list of 50 rows: requests/s beside axum and sqlx", rate, "x", Bound::AtLeast(RATE_MIN)),
        Target::new("list of 50 rows: CPU per request beside them", cpu, "x", Bound::AtMost(CPU_MAX)),
    ];
    Ok(found)
}
