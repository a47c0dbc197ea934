//! `odeon-bench host`: what a host does with a request, each figure beside a peer in the same run.
//!
//! Parts: [`requests`] over HTTP beside `wasmtime serve` and workerd, [`in_process`] beside a bare loop of wasmtime, and
//! [`neighbours`], a well-behaved app beside hostile ones. The same component for all: `guests/work-rust`. Odeon runs as in
//! production, with logs, metrics, limits and signatures on. A limit that is missed fails the run, and the page says so.

mod in_process;
mod neighbours;
mod requests;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::page::of_limits;
use crate::peer::Serve;
use crate::speed::{Bound, Found, Target};

/// Where the contenders are that `make bench-host` brings.
pub(crate) struct Contenders {
    /// `work-rust`, a component.
    pub(crate) guest: PathBuf,
    /// The program of `wasmtime serve`.
    pub(crate) wasmtime: PathBuf,
    /// The program of workerd.
    pub(crate) workerd: PathBuf,
}

/// Measures everything that is asked for; the page, whose plots go into `folder`, and whether every limit was met.
pub(crate) async fn measure(
    contenders: &Contenders,
    only: &[String],
    folder: &Path,
) -> Result<(String, bool)> {
    let wanted = |part: &str| only.is_empty() || only.iter().any(|named| named == part);
    let mut found = Vec::new();
    if wanted("in-process") {
        found.push(in_process::measure(&contenders.guest).await?);
    }
    if wanted("requests") || wanted("neighbours") {
        let serve = Serve::at_its_best(&contenders.wasmtime, &contenders.guest, "/").await?;
        if wanted("requests") {
            found.push(requests::measure(contenders, &serve).await?);
        }
        if wanted("neighbours") {
            found.push(neighbours::measure(contenders, &serve, folder).await?);
        }
    }
    of_limits("The host", "make bench-host", &found)
}
