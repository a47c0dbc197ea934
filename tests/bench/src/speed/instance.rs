//! The sample app's component: how large it is, and how long an instance of it takes to make.
//!
//! In one process, with the settings, the pool and the linker of a host. An instance is made in a store of its own, as
//! for a request, and dropped before the next one; dropping is timed apart.

use std::time::Instant;

use anyhow::{Context as _, Result};
use odeon_compiler::{Sources, compile, render};

use super::runs::{LIMITS, account, admitted, granted, loaded};
use super::{Bound, Found, Target};
use crate::publish::median;

/// Instances that are timed, after a tenth as many that are not.
const INSTANCES: usize = 20_000;
/// Largest component, in KiB.
const KIB_MAX: f64 = 400.0;
/// Longest time for an instance, in microseconds.
const US_MAX: f64 = 15.0;

const SAMPLE: [(&str, &str); 4] = [
    ("app.yaml", include_str!("../../../../guest-examples/expenses/app.yaml")),
    ("data.yaml", include_str!("../../../../guest-examples/expenses/data.yaml")),
    ("actions.yaml", include_str!("../../../../guest-examples/expenses/actions.yaml")),
    ("rest.yaml", include_str!("../../../../guest-examples/expenses/rest.yaml")),
];

pub(crate) async fn measure() -> Result<Found> {
    let sources = Sources::new(SAMPLE.map(|(name, text)| (name.to_owned(), text.to_owned())));
    let compiled = compile(&sources);
    let wasm = compiled
        .component
        .with_context(|| format!("it compiles: {}", render(&sources, &compiled.problems)))?;
    let (_engine, app) = loaded(&wasm)?;
    let account = account();
    let (mut made_us, mut dropped_us) = (Vec::new(), Vec::new());
    for at in 0..INSTANCES + INSTANCES / 10 {
        let (granted, admitted) = (granted(), admitted(&app, &account)?);
        let started = Instant::now();
        let instance = app.instantiate(LIMITS, granted, admitted).await?;
        let made = started.elapsed();
        let ending = Instant::now();
        drop(instance);
        if at >= INSTANCES / 10 {
            made_us.push(made.as_secs_f64() * 1e6);
            dropped_us.push(ending.elapsed().as_secs_f64() * 1e6);
        }
    }
    let kib = wasm.len() as f64 / 1024.0;
    let (made, dropped) = (median(&made_us), median(&dropped_us));
    made_us.sort_by(f64::total_cmp);
    let p99 = made_us[made_us.len() * 99 / 100];
    Ok(Found {
        text: format!(
            "## An instance\n\n`guest-examples/expenses` as a component: {kib:.0} KiB. {INSTANCES} instances one after the other, each with its store, under a host's \
             engine settings: made in {made:.1} us p50 and {p99:.1} us p99, dropped in {dropped:.1} us p50.\n"
        ),
        targets: vec![
            Target::new("component of the sample app", kib, "KiB", Bound::Below(KIB_MAX)),
            Target::new("an instance of it, p50", made, "us", Bound::Below(US_MAX)),
        ],
    })
}
