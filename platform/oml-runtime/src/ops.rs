//! What expressions call: arithmetic that can overflow, text, dates and conversions.
//!
//! Invariant: an operator that cannot give its result raises; a built-in function never does, it gives the
//! default.

use alloc::string::String;

use crate::bindings::wasi::clocks::wall_clock;
use crate::calendar::{self, DATE_DEFAULT, DAY_US};
use crate::decimal::{self, Overflow, SCALE};
use crate::exceptions::raise;
use crate::fold;
use crate::memory::{decimal, new_decimal, new_text, text};

fn whole32(result: Option<i32>) -> i32 {
    result.unwrap_or_else(|| {
        raise(500, "Integer overflow");
        0
    })
}

fn whole64(result: Option<i64>) -> i64 {
    result.unwrap_or_else(|| {
        raise(500, "Long Integer overflow");
        0
    })
}

fn exact(result: Result<i128, Overflow>) -> u32 {
    match result {
        // SAFETY: it only allocates.
        Ok(units) => unsafe { new_decimal(units) },
        Err(Overflow) => {
            raise(500, "Decimal overflow");
            0
        }
    }
}

/// `name(a: type, …) -> type = body`, each exported and each over plain words.
macro_rules! exports {
    ($($name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {
        $(#[unsafe(no_mangle)] unsafe extern "C" fn $name($($arg: $ty),*) -> $out {
            $body
        })*
    };
}

exports! {
    rt_int_add(a: i32, b: i32) -> i32 = whole32(a.checked_add(b));
    rt_int_sub(a: i32, b: i32) -> i32 = whole32(a.checked_sub(b));
    rt_int_mul(a: i32, b: i32) -> i32 = whole32(a.checked_mul(b));
    rt_long_add(a: i64, b: i64) -> i64 = whole64(a.checked_add(b));
    rt_long_sub(a: i64, b: i64) -> i64 = whole64(a.checked_sub(b));
    rt_long_mul(a: i64, b: i64) -> i64 = whole64(a.checked_mul(b));
    rt_dec_add(a: u32, b: u32) -> u32 = exact(decimal::add(decimal(a), decimal(b)));
    rt_dec_sub(a: u32, b: u32) -> u32 = exact(decimal::sub(decimal(a), decimal(b)));
    rt_dec_mul(a: u32, b: u32) -> u32 = exact(decimal::mul(decimal(a), decimal(b)));
    rt_dec_div(a: u32, b: u32) -> u32 = {
        let (a, b) = (decimal(a), decimal(b));
        if b == 0 {
            raise(500, "Division by zero");
            return 0;
        }
        exact(decimal::div(a, b))
    };
    rt_dec_cmp(a: u32, b: u32) -> i32 = decimal(a).cmp(&decimal(b)) as i32;
    rt_dec_from_long(a: i64) -> u32 = new_decimal(i128::from(a) * SCALE);
    rt_dec_trunc_int(a: u32) -> i32 = whole32(i32::try_from(decimal::trunc(decimal(a))).ok());
    rt_dec_trunc_long(a: u32) -> i64 = whole64(i64::try_from(decimal::trunc(decimal(a))).ok());
    rt_long_to_int(a: i64) -> i32 = i32::try_from(a).unwrap_or(0);
    rt_dec_to_int(a: u32) -> i32 = i32::try_from(decimal::round(decimal(a), 0) / SCALE).unwrap_or(0);
    rt_dec_to_long(a: u32) -> i64 = i64::try_from(decimal::round(decimal(a), 0) / SCALE).unwrap_or(0);
    rt_dec_round(a: u32, digits: i32) -> u32 = new_decimal(decimal::round(decimal(a), digits));
    rt_dec_trunc(a: u32) -> u32 = new_decimal(decimal::trunc(decimal(a)) * SCALE);
    rt_dec_abs(a: u32) -> u32 = new_decimal(decimal(a).abs());

    rt_text_cmp(a: u32, b: u32) -> i32 = fold::compare(text(a), text(b)) as i32;
    rt_text_concat(a: u32, b: u32) -> u32 = {
        if a == 0 { return b; }
        if b == 0 { return a; }
        let mut both = String::with_capacity(text(a).len() + text(b).len());
        both.push_str(text(a));
        both.push_str(text(b));
        new_text(&both)
    };
    rt_text_len(a: u32) -> i32 = text(a).chars().count() as i32;
    rt_text_upper(a: u32) -> u32 = new_text(&text(a).to_uppercase());
    rt_text_lower(a: u32) -> u32 = new_text(&text(a).to_lowercase());
    rt_text_trim(a: u32) -> u32 = new_text(text(a).trim_matches(' '));
    rt_text_substr(a: u32, start: i32, length: i32) -> u32 = {
        if start < 0 || length <= 0 { return 0; }
        let taken: String = text(a).chars().skip(start as usize).take(length as usize).collect();
        new_text(&taken)
    };
    rt_text_index(a: u32, search: u32) -> i32 =
        text(a).find(text(search)).map_or(-1, |at| text(a)[..at].chars().count() as i32);
    rt_text_replace(a: u32, search: u32, by: u32) -> u32 =
        if search == 0 { 0 } else { new_text(&text(a).replace(text(search), text(by))) };

    rt_bool_to_text(a: i32) -> u32 = new_text(if a != 0 { "True" } else { "False" });
    rt_int_to_text(a: i32) -> u32 = new_text(&alloc::format!("{a}"));
    rt_long_to_text(a: i64) -> u32 = new_text(&alloc::format!("{a}"));
    rt_dec_to_text(a: u32) -> u32 = new_text(&decimal::format(decimal(a)));
    rt_date_to_text(a: i32) -> u32 = written(|out| calendar::format_date(out, a));
    rt_time_to_text(a: i64) -> u32 = written(|out| calendar::format_time(out, a));
    rt_datetime_to_text(a: i64) -> u32 = written(|out| calendar::format_date_time(out, a, ' '));
    rt_text_to_int(a: u32) -> i32 = text(a).trim().parse().unwrap_or(0);
    rt_text_to_long(a: u32) -> i64 = text(a).trim().parse().unwrap_or(0);
    rt_text_to_dec(a: u32) -> u32 = new_decimal(decimal::parse(text(a).trim()).unwrap_or(0));
    rt_text_to_date(a: u32) -> i32 = calendar::parse_date(text(a).trim()).unwrap_or(DATE_DEFAULT);
    rt_text_to_time(a: u32) -> i64 = calendar::parse_time(text(a).trim()).unwrap_or(0);
    rt_text_to_datetime(a: u32) -> i64 =
        calendar::parse_date_time(text(a).trim()).unwrap_or(i64::from(DATE_DEFAULT) * DAY_US);

    rt_now() -> i64 = now_us();
    rt_today() -> i32 = now_us().div_euclid(DAY_US) as i32;
    rt_new_date(y: i32, m: i32, d: i32) -> i32 = calendar::date(y, m, d).unwrap_or(DATE_DEFAULT);
    rt_datetime_to_date(a: i64) -> i32 = a.div_euclid(DAY_US) as i32;
    rt_date_to_datetime(a: i32) -> i64 = i64::from(a) * DAY_US;
    rt_time_to_datetime(a: i64) -> i64 = i64::from(DATE_DEFAULT) * DAY_US + a;
    rt_add_days(a: i64, days: i32) -> i64 = in_range(a, i64::from(days).checked_mul(DAY_US));
    rt_add_seconds(a: i64, seconds: i32) -> i64 = in_range(a, i64::from(seconds).checked_mul(1_000_000));
    rt_diff_days(a: i64, b: i64) -> i32 = (b.div_euclid(DAY_US) - a.div_euclid(DAY_US)) as i32;
    rt_date_year(a: i64) -> i32 = calendar::civil(a.div_euclid(DAY_US) as i32).0;
    rt_date_month(a: i64) -> i32 = calendar::civil(a.div_euclid(DAY_US) as i32).1;
    rt_date_day(a: i64) -> i32 = calendar::civil(a.div_euclid(DAY_US) as i32).2;
}

fn written(write: impl FnOnce(&mut String)) -> u32 {
    let mut out = String::new();
    write(&mut out);
    // SAFETY: it only allocates.
    unsafe { new_text(&out) }
}

fn now_us() -> i64 {
    let now = wall_clock::now();
    now.seconds as i64 * 1_000_000 + i64::from(now.nanoseconds / 1000)
}

/// Moves an instant; leaving 1900 to 3000 gives the default, as every built-in does with bad input.
fn in_range(at: i64, by: Option<i64>) -> i64 {
    let (first, last) = (i64::from(DATE_DEFAULT) * DAY_US, (i64::from(calendar::DATE_MAX) + 1) * DAY_US);
    by.and_then(|by| at.checked_add(by)).filter(|moved| (first..last).contains(moved)).unwrap_or(first)
}
