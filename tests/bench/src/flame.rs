//! `odeon-bench flame`: where a host's CPU time goes while it answers small requests, as a flame graph.
//!
//! `perf` samples the host under the load of the hello benchmark. Each box is a function, as wide as the part of all
//! samples in which it or what it called ran; callers lie below. Frames of Rust's own library, and of what only
//! hands a poll on, are left out. A guest runs on a stack of its own, so what it does stands on a base of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use odeon_tests::Installation;

use crate::load::{ROUND_S, round};

/// Samples per second of CPU time.
const SAMPLES_HZ: u32 = 499;
/// How long samples are taken, in seconds.
const SAMPLE_S: u32 = ROUND_S - 3;
/// Bytes of a stack that are copied with each sample.
const STACK_BYTES: u32 = 32 << 10;
/// Frames that are shown of a stack.
const DEPTH_MAX: usize = 36;
/// Width of the picture, height of a box, and the narrowest box, in pixels.
const WIDTH: f64 = 1_200.0;
const ROW: f64 = 17.0;
const BOX_MIN: f64 = 0.6;
/// Pixels that a letter takes.
const LETTER: f64 = 6.3;
/// Frames with these beginnings say nothing about a request.
const PLUMBING: [&str; 12] = [
    "core::",
    "std::",
    "alloc::",
    "<core::",
    "<alloc::",
    "<std::",
    "<&mut ",
    "__rust",
    "start_thread",
    "clone3",
    "[unknown]",
    "tokio::runtime::",
];
/// Who a frame belongs to, by what is in its name, and the colour of its boxes. The first that fits counts.
const OWNERS: [(&str, &[&str], &str); 6] = [
    ("Odeon", &["odeon_"], "#e4813b"),
    ("wasmtime", &["wasmtime", "wasi_"], "#7a6fb3"),
    ("hyper, http", &["hyper", "http::", "http_body", "httparse"], "#4c9a8f"),
    ("tokio, mio", &["tokio", "mio::", "futures"], "#5b8db8"),
    ("allocator", &["mi_", "_mi_"], "#b3a53f"),
    ("kernel and C library", &[], "#9a9a9a"),
];

/// Loads a host, samples it, and gives the picture.
pub(crate) async fn measure(guest: &Path) -> Result<String> {
    let site = Installation::start_with(&["--no-sample"]).await;
    site.succeed(&["publish", guest.to_str().context("a path in UTF-8")?, "--name", "Work"]);
    site.succeed(&["deploy", "Work", "--revision", "1", "--to", "development"]);
    let pid = u32::try_from(site.process("host-development-1")["pid"].as_u64().unwrap_or(0))?;
    let url = format!("http://{}/Work/", site.host_address("development-1"));
    round(&url, &[pid])?; // warms up
    let load = std::thread::spawn(move || round(&url, &[pid]));
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("perf.data");
    let sampled = Command::new("perf")
        .args(["record", "--freq", &SAMPLES_HZ.to_string(), "--call-graph", &format!("dwarf,{STACK_BYTES}")])
        .args(["--pid", &pid.to_string(), "--output"])
        .arg(&data)
        .args(["--", "sleep", &SAMPLE_S.to_string()])
        .output()
        .context("run perf; Debian has it in linux-perf")?;
    ensure!(sampled.status.success(), "perf record: {}", String::from_utf8_lossy(&sampled.stderr));
    load.join().ok().context("the load ended")??;
    let told = Command::new("perf")
        .args(["script", "--no-inline", "--fields", "ip,sym", "--input"])
        .arg(&data)
        .output()
        .context("read what perf sampled")?;
    ensure!(told.status.success(), "perf script: {}", String::from_utf8_lossy(&told.stderr));
    let root = fold(&String::from_utf8_lossy(&told.stdout));
    ensure!(root.samples > 0, "perf took no samples");
    Ok(draw(&root))
}

/// A function, under whoever called it.
#[derive(Default)]
struct Frame {
    samples: u64,
    called: BTreeMap<String, Frame>,
}

/// Samples are paragraphs, a line per frame, the innermost first.
fn fold(text: &str) -> Frame {
    let mut root = Frame::default();
    for sample in text.split("\n\n") {
        let mut names: Vec<String> = sample.lines().filter_map(name).collect();
        names.reverse();
        names.dedup();
        root.samples += 1;
        let mut at = &mut root;
        for name in names.into_iter().take(DEPTH_MAX) {
            at = at.called.entry(name).or_default();
            at.samples += 1;
        }
    }
    root
}

/// What a frame is called, without types and hashes.
fn name(line: &str) -> Option<String> {
    let name = line.trim().split_once(' ')?.1;
    if PLUMBING.iter().any(|plumbing| name.starts_with(plumbing)) {
        return None;
    }
    let mut short = String::new();
    let mut depth = 0_usize;
    for char in name.chars() {
        match char {
            '<' => depth += 1,
            '>' => depth = depth.saturating_sub(1),
            _ if depth == 0 => short.push(char),
            _ => {}
        }
    }
    let kept = if short.trim_start_matches("::").is_empty() || name.starts_with('<') { name } else { &short };
    let kept = kept.split(" as ").next().unwrap_or(kept).trim_start_matches('<');
    Some(kept.replace("::{{closure}}", "").replace("{closure#0}", "").trim_end_matches("::").to_owned())
}

fn draw(root: &Frame) -> String {
    let depth = depth_of(root).min(DEPTH_MAX);
    let height = (depth as f64 + 3.0) * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let mut x = 4.0;
    for (owner, _, colour) in OWNERS {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"4\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"14\">{owner}</text>",
            x + 16.0
        );
        x += 40.0 + owner.len() as f64 * LETTER;
    }
    boxes(&mut svg, root, 0.0, WIDTH / root.samples as f64, height - ROW, root.samples);
    svg.push_str("</svg>\n");
    svg
}

fn depth_of(frame: &Frame) -> usize {
    frame.called.values().map(|called| 1 + depth_of(called)).max().unwrap_or(0)
}

fn boxes(svg: &mut String, frame: &Frame, mut x: f64, scale: f64, y: f64, all: u64) {
    let mut called: Vec<_> = frame.called.iter().collect();
    called.sort_by_key(|(_, called)| std::cmp::Reverse(called.samples));
    for (name, called) in called {
        let width = called.samples as f64 * scale;
        if width < BOX_MIN {
            continue;
        }
        let owner = OWNERS
            .iter()
            .find(|(_, parts, _)| parts.is_empty() || parts.iter().any(|part| name.contains(part)));
        let colour = owner.map_or("white", |(_, _, colour)| colour);
        let name = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let letters = ((width - 4.0) / LETTER).max(0.0) as usize;
        let shown: String = if letters < 3 { String::new() } else { name.chars().take(letters).collect() };
        let part = called.samples as f64 * 100.0 / all as f64;
        let _ = writeln!(
            svg,
            "<g><title>{name}: {part:.1} %</title><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" fill=\"{colour}\" \
             stroke=\"white\" stroke-width=\"0.5\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"white\">{shown}</text></g>",
            ROW - 1.0,
            x + 2.0,
            y + 12.0
        );
        boxes(svg, called, x, scale, y - ROW, all);
        x += width;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_boxes_over_their_callers() {
        let text = "\t55d0 read\n\t55d1 odeon_http::server::Connection<T>::drive::{{closure}}\n\t55d2 core::ops::poll\n\n\
                    \t55d1 odeon_http::server::Connection<U>::drive\n";
        let root = fold(text);
        let drive = &root.called["odeon_http::server::Connection::drive"];
        assert_eq!((root.samples, drive.samples, drive.called["read"].samples), (2, 2, 1));
        let svg = draw(&root);
        assert!(svg.contains("drive: 100.0 %") && svg.contains("read: 50.0 %"), "{svg}");
    }
}
