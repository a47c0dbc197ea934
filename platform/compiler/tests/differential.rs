//! A differential test: random programs, run by the compiled component and by a small interpreter that is written
//! from the language reference, must give the same answer, the same exception and the same log.
//!
//! The interpreter takes the generator's own typed tree ([`program`]), which is printed to OML for the compiler. That
//! is the stronger form: a tree that the compiler's parser and checker made would repeat their mistakes on both sides.
//! So a program that the compiler refuses is a failure too, of the generator or of the compiler.
//!
//! A failure prints the seed, and the smallest program and input found that still fail. To look further than the
//! gate does:
//!
//! ```text
//! ODEON_DIFFERENTIAL_SEED=1000 ODEON_DIFFERENTIAL_APPS=200 cargo test -p odeon-compiler --test differential
//! ```
//!
//! Not tested here: queries and transactions (a database answers them), what the clock says, other apps.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]
#![allow(clippy::wildcard_enum_match_arm, reason = "a model of the language, where most cases are alike")]

#[path = "differential/builtins.rs"]
mod builtins;
#[path = "differential/flows.rs"]
mod flows;
#[path = "differential/generate.rs"]
mod generate;
#[allow(dead_code, reason = "it is shared with other tests")]
mod harness;
#[path = "differential/interpret.rs"]
mod interpret;
#[path = "differential/program.rs"]
mod program;
#[path = "differential/shrink.rs"]
mod shrink;
#[path = "differential/values.rs"]
mod values;

use generate::Random;
use harness::App;
use interpret::{Outcome, Unclear};
use program::Program;

/// Apps per run of the gate.
const APPS: u64 = 8;
/// Requests to each method.
const INPUTS: u64 = 6;
/// What an instance may have: more than the interpreter lets a program make, several times over.
const MEMORY_BYTES: usize = 128 << 20;

/// Of the thread that interprets; what it does not use costs nothing.
const STACK_BYTES: usize = 256 << 20;

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// What the component does.
fn observed(app: &App, method: &str, body: &str) -> Result<Outcome, String> {
    app.answers([]);
    let reply = app.attempt("POST", &format!("/D/rest/A/{method}"), body);
    let reply = reply.map_err(|trap| trap.root_cause().to_string())?;
    let log = app.script.lock().unwrap().logged.clone();
    if reply.status == 200 {
        return Ok(Outcome { status: 200, answer: reply.body, log });
    }
    let answer: serde_json::Value =
        serde_json::from_str(&reply.body).map_err(|e| format!("{e}: {}", reply.body))?;
    let message = answer["Errors"][0].as_str().unwrap_or("no message").to_owned();
    Ok(Outcome { status: reply.status, answer: message, log })
}

/// The app, or what the compiler says against it.
fn start(program: &Program) -> Result<App, String> {
    let sources = harness::sources(&program.oml());
    let compiled = odeon_compiler::compile(&sources);
    let Some(component) = compiled.component else {
        return Err(odeon_compiler::render(&sources, &compiled.problems));
    };
    App::load(&component, MEMORY_BYTES)
}

/// How the two differ over one request; none when they agree or there is nothing to compare.
fn difference(program: &Program, app: &App, method: usize, body: &str) -> Option<String> {
    let expected = interpret::run(program, method, body).ok()?;
    match observed(app, &program.methods[method].name, body) {
        Ok(observed) if observed == expected => None,
        Ok(observed) => Some(format!("the reference says\n{expected:#?}\nthe component\n{observed:#?}")),
        Err(trap) => Some(format!("the reference says\n{expected:#?}\nthe component: {trap}")),
    }
}

#[test]
fn compiled_programs_do_what_the_reference_says() {
    // An interpreter that walks a tree needs more stack than a test has, 250 calls deep.
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(compare_all).unwrap();
    if let Err(failure) = thread.join() {
        std::panic::resume_unwind(failure);
    }
}

fn compare_all() {
    let first = from_environment("ODEON_DIFFERENTIAL_SEED", 1);
    let apps = from_environment("ODEON_DIFFERENTIAL_APPS", APPS);
    let (mut succeeded, mut raised, mut unclear) = (0, 0, 0);
    for seed in first..first + apps {
        let program = flows::program(seed);
        let app = start(&program).unwrap_or_else(|refused| {
            let smallest = shrink::shrink(&program, |smaller| {
                start(smaller).is_err_and(|other| alike(&other, &refused))
            });
            let shown = start(&smallest).err().unwrap_or_default();
            panic!("seed {seed}: the compiler refuses\n{}\n{shown}", smallest.oml())
        });
        for method in 0..program.methods.len() {
            for input in 0..INPUTS {
                let mut random = Random(seed ^ input << 32 ^ (method as u64) << 48);
                let ty = &program.methods[method].vars[0].ty;
                let body = generate::json(&mut random, ty, &program.structures);
                match interpret::run(&program, method, &body) {
                    Ok(outcome) if outcome.status == 200 => succeeded += 1,
                    Ok(_) => raised += 1,
                    Err(Unclear::TooMuch | Unclear::Unknown) => unclear += 1,
                }
                if difference(&program, &app, method, &body).is_some() {
                    report(seed, &program, method, &body);
                }
            }
        }
    }
    let all = succeeded + raised + unclear;
    assert!(
        unclear * 5 < all && succeeded * 4 > all && raised * 20 > all,
        "the programs say little: {succeeded} succeed, {raised} raise, {unclear} are not compared"
    );
}

/// Whether the compiler says the same two times, wherever it points.
fn alike(a: &str, b: &str) -> bool {
    a.lines().next().map(|line| &line[..line.len().min(15)])
        == b.lines().next().map(|line| &line[..line.len().min(15)])
}

/// Fails, with the smallest program that still does.
fn report(seed: u64, program: &Program, method: usize, body: &str) -> ! {
    let fails =
        |program: &Program| start(program).is_ok_and(|app| difference(program, &app, 0, body).is_some());
    let mut alone = program.clone();
    alone.methods = vec![program.methods[method].clone()];
    if !fails(&alone) {
        alone = program.clone();
        alone.methods.swap(0, method);
    }
    let smallest = shrink::shrink(&alone, fails);
    let app = start(&smallest).unwrap_or_else(|refused| panic!("{refused}"));
    let difference = difference(&smallest, &app, 0, body).unwrap_or_default();
    panic!("seed {seed}\n{}\nwith {body}\n{difference}", smallest.oml());
}
