//! Guests that do not let go of the CPU.
//!
//! - `loop`: one instruction after another, for ever.
//! - `calls`: functions that call one another, without growing the stack.
//! - `host`: a cheap function of the host, again and again.
//! - `fill/<mib>`: one long operation on memory, again and again.
//! - `sleep`: waits in a function of the host, for a year.
//! - `after`: answers, and then loops.
//! - `busy/<thousand steps>`: works for a while, and answers.

use std::hint::black_box;

use wasip2::clocks::monotonic_clock;
use wasip2::http::types::ResponseOutparam;

use crate::respond;

/// A year, in nanoseconds.
const YEAR_NS: u64 = 365 * 24 * 3_600 * 1_000_000_000;

pub(crate) fn run(attack: &[&str], out: ResponseOutparam) {
    match attack {
        ["loop"] => spin(),
        ["calls"] => loop {
            black_box(even(black_box(1_000)));
        },
        ["host"] => loop {
            black_box(monotonic_clock::now());
        },
        ["fill", mib] => {
            let mut hoard = vec![0_u8; number(mib) << 20];
            for byte in (0..=255).cycle() {
                hoard.fill(black_box(byte));
            }
        }
        ["sleep"] => monotonic_clock::subscribe_duration(YEAR_NS).block(),
        ["after"] => {
            respond(out, "answered\n");
            spin();
        }
        ["busy", steps] => {
            let mut x = 1_u32;
            for _ in 0..number(steps) * 1_000 {
                x = black_box(x.wrapping_mul(0x9E37_79B1) | 1);
            }
            respond(out, "done\n");
        }
        _ => respond(out, "loop, calls, host, fill, sleep, after, busy\n"),
    }
}

fn spin() -> ! {
    let mut x = 0_u64;
    loop {
        x = black_box(x.wrapping_add(1));
    }
}

#[inline(never)]
fn even(n: u32) -> bool {
    n == 0 || odd(black_box(n - 1))
}

#[inline(never)]
fn odd(n: u32) -> bool {
    n != 0 && even(black_box(n - 1))
}

fn number(text: &str) -> usize {
    text.parse().expect("a number")
}
