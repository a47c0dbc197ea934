//! What expressions call: arithmetic that can overflow, text, dates and conversions.
//!
//! Invariant: an operator that cannot give its result raises; a built-in function never does, it gives the
//! default.

use alloc::string::String;

use crate::bindings::wasi::clocks::wall_clock;
use crate::calendar::{self, DATE_DEFAULT, DAY_US};
use crate::decimal::{self, Overflow, SCALE};
use crate::exceptions::raise;
use crate::memory::{bytes, decimal, new_bytes, new_decimal, new_text, text};
use crate::{fold, format, memory};

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const HOUR_US: i64 = 60 * MINUTE_US;
const DATE_TIME_DEFAULT: i64 = DATE_DEFAULT as i64 * DAY_US;

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
    rt_int_overflow() -> () = { whole32(None); };
    rt_long_overflow() -> () = { whole64(None); };
    rt_long_mul(a: i64, b: i64) -> i64 =
        if a == i64::from(a as i32) && b == i64::from(b as i32) { a * b } else { whole64(a.checked_mul(b)) };
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
    rt_dec_from_long(a: i64) -> u32 = new_decimal(decimal::whole(a));
    rt_dec_trunc_int(a: u32) -> i32 = whole32(i32::try_from(decimal::trunc(decimal(a))).ok());
    rt_dec_trunc_long(a: u32) -> i64 = whole64(i64::try_from(decimal::trunc(decimal(a))).ok());
    rt_long_to_int(a: i64) -> i32 = i32::try_from(a).unwrap_or(0);
    rt_dec_to_int(a: u32) -> i32 = i32::try_from(decimal::round(decimal(a), 0) / SCALE).unwrap_or(0);
    rt_dec_to_long(a: u32) -> i64 = i64::try_from(decimal::round(decimal(a), 0) / SCALE).unwrap_or(0);
    rt_dec_round(a: u32, digits: i32) -> u32 = new_decimal(decimal::round(decimal(a), digits));
    rt_dec_trunc(a: u32) -> u32 = new_decimal(decimal::trunc(decimal(a)) * SCALE);
    rt_dec_abs(a: u32) -> u32 = new_decimal(decimal(a).abs());
    rt_dec_mod(a: u32, b: u32) -> u32 = new_decimal(decimal::rem(decimal(a), decimal(b)));
    rt_dec_power(a: u32, b: u32) -> u32 = new_decimal(decimal::power(decimal(a), decimal(b)).unwrap_or(0));
    rt_dec_sqrt(a: u32) -> u32 = new_decimal(decimal::sqrt(decimal(a)).unwrap_or(0));
    rt_dec_max(a: u32, b: u32) -> u32 = new_decimal(decimal(a).max(decimal(b)));
    rt_dec_min(a: u32, b: u32) -> u32 = new_decimal(decimal(a).min(decimal(b)));
    rt_dec_sign(a: u32) -> i32 = decimal(a).signum() as i32;
    rt_dec_to_bool(a: u32) -> i32 = i32::from(decimal(a) != 0);
    rt_dec_is_int(a: u32) -> i32 = i32::from(i32::try_from(decimal::round(decimal(a), 0) / SCALE).is_ok());
    rt_dec_is_long(a: u32) -> i32 = i32::from(i64::try_from(decimal::round(decimal(a), 0) / SCALE).is_ok());
    rt_bool_to_int(a: i32) -> i32 = a;
    rt_int_to_bool(a: i32) -> i32 = i32::from(a != 0);
    rt_int_to_dec(a: i32) -> u32 = new_decimal(decimal::whole(i64::from(a)));
    rt_int_to_id(a: i32) -> i64 = i64::from(a);
    rt_id_to_long(a: i64) -> i64 = a;
    rt_long_is_int(a: i64) -> i32 = i32::from(i32::try_from(a).is_ok());
    rt_null_binary() -> u32 = 0;
    rt_null_date() -> i32 = DATE_DEFAULT;

    rt_text_cmp(a: u32, b: u32) -> i32 = fold::compare(text(a), text(b)) as i32;
    rt_text_concat(a: u32, b: u32) -> u32 = joined([a, b]);
    rt_text_concat3(a: u32, b: u32, c: u32) -> u32 = joined([a, b, c]);
    rt_text_concat4(a: u32, b: u32, c: u32, d: u32) -> u32 = joined([a, b, c, d]);
    rt_text_grow_int(a: u32, number: i32, piece: u32, room: u32) -> u32 =
        digits(i64::from(number), |digits| memory::grow(a, digits, bytes(piece), room));
    rt_text_len(a: u32) -> i32 = text(a).chars().count() as i32;
    rt_text_upper(a: u32) -> u32 = new_text(&text(a).to_uppercase());
    rt_text_lower(a: u32) -> u32 = new_text(&text(a).to_lowercase());
    rt_text_trim(a: u32) -> u32 = new_text(text(a).trim_matches(' '));
    rt_text_substr(a: u32, start: i32, length: i32) -> u32 = {
        if start < 0 || length <= 0 { return 0; }
        let taken: String = text(a).chars().skip(start as usize).take(length as usize).collect();
        new_text(&taken)
    };
    rt_text_trim_start(a: u32) -> u32 = new_text(text(a).trim_start_matches(' '));
    rt_text_trim_end(a: u32) -> u32 = new_text(text(a).trim_end_matches(' '));
    rt_text_index(a: u32, search: u32, start: i32, from_end: i32, any_case: i32) -> i32 =
        format::index(text(a), text(search), start, from_end != 0, any_case != 0);
    rt_chr(code: i32) -> u32 =
        u32::try_from(code).ok().and_then(char::from_u32).filter(|c| *c != '\0').map_or(0, |c| new_text(c.encode_utf8(&mut [0; 4])));
    rt_new_line() -> u32 = new_text("\n");
    rt_encode_html(a: u32) -> u32 = new_text(&format::html(text(a)));
    rt_encode_javascript(a: u32) -> u32 = new_text(&format::javascript(text(a)));
    rt_encode_sql(a: u32) -> u32 = new_text(&text(a).replace('\'', "''"));
    rt_encode_url(a: u32) -> u32 = new_text(&format::url(text(a)));
    rt_email_create(name: u32, address: u32) -> u32 = new_text(&format::email(text(name), text(address)));
    rt_email_is(a: u32) -> i32 = i32::from(a == 0 || format::is_email(text(a)));
    rt_format_decimal(a: u32, digits: i32, point: u32, group: u32) -> u32 =
        new_text(&format::decimal(decimal(a), digits, text(point), text(group)));
    rt_format_currency(a: u32, symbol: u32, digits: i32, point: u32, group: u32) -> u32 =
        new_text(&format::currency(decimal(a), text(symbol), digits, text(point), text(group)));
    rt_format_percent(a: u32, digits: i32, point: u32) -> u32 =
        new_text(&format::percent(decimal(a), digits, text(point)));
    rt_format_phone(a: u32, country: i32, area: i32, digits: i32, b1: u32, b2: u32, b3: u32) -> u32 =
        new_text(&format::phone(text(a), [country, area, digits], [text(b1), text(b2), text(b3)]));
    rt_format_text(a: u32, least: i32, most: i32, left: i32, padding: u32) -> u32 =
        new_text(&format::fitted(text(a), least, most, left != 0, text(padding)));
    rt_format_datetime(a: i64, pattern: u32) -> u32 = new_text(&format::date_time(a, text(pattern)));
    rt_text_replace(a: u32, search: u32, by: u32) -> u32 =
        if search == 0 { 0 } else { new_text(&text(a).replace(text(search), text(by))) };

    rt_bool_to_text(a: i32) -> u32 = new_text(if a != 0 { "True" } else { "False" });
    rt_int_to_text(a: i32) -> u32 = digits(i64::from(a), |digits| new_bytes(digits));
    rt_long_to_text(a: i64) -> u32 = digits(a, |digits| new_bytes(digits));
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
        calendar::parse_date_time(text(a).trim()).unwrap_or(DATE_TIME_DEFAULT);

    rt_text_is_int(a: u32) -> i32 = i32::from(text(a).trim().parse::<i32>().is_ok());
    rt_text_is_long(a: u32) -> i32 = i32::from(text(a).trim().parse::<i64>().is_ok());
    rt_text_is_dec(a: u32) -> i32 = i32::from(decimal::parse(text(a).trim()).is_some());
    rt_text_is_date(a: u32) -> i32 = i32::from(calendar::parse_date(text(a).trim()).is_some());
    rt_text_is_time(a: u32) -> i32 = i32::from(calendar::parse_time(text(a).trim()).is_some());
    rt_text_is_datetime(a: u32) -> i32 = i32::from(calendar::parse_date_time(text(a).trim()).is_some());

    rt_now() -> i64 = now_us();
    rt_time_now() -> i64 = now_us().rem_euclid(DAY_US);
    rt_today() -> i32 = now_us().div_euclid(DAY_US) as i32;
    rt_new_date(y: i32, m: i32, d: i32) -> i32 = calendar::date(y, m, d).unwrap_or(DATE_DEFAULT);
    rt_new_time(h: i32, m: i32, s: i32) -> i64 = calendar::time(h, m, s).unwrap_or(0);
    rt_new_datetime(y: i32, mo: i32, d: i32, h: i32, mi: i32, s: i32) -> i64 =
        calendar::date(y, mo, d).zip(calendar::time(h, mi, s)).map_or(DATE_TIME_DEFAULT, |(d, t)| i64::from(d) * DAY_US + t);
    rt_build_datetime(date: i32, time: i64) -> i64 = i64::from(date) * DAY_US + time;
    rt_datetime_to_time(a: i64) -> i64 = a.rem_euclid(DAY_US);
    rt_datetime_to_date(a: i64) -> i32 = a.div_euclid(DAY_US) as i32;
    rt_date_to_datetime(a: i32) -> i64 = i64::from(a) * DAY_US;
    rt_time_to_datetime(a: i64) -> i64 = DATE_TIME_DEFAULT + a;
    rt_add_days(a: i64, days: i32) -> i64 = in_range(a, i64::from(days).checked_mul(DAY_US));
    rt_add_hours(a: i64, hours: i32) -> i64 = in_range(a, i64::from(hours).checked_mul(HOUR_US));
    rt_add_minutes(a: i64, minutes: i32) -> i64 = in_range(a, i64::from(minutes).checked_mul(MINUTE_US));
    rt_add_seconds(a: i64, seconds: i32) -> i64 = in_range(a, i64::from(seconds).checked_mul(SECOND_US));
    rt_add_months(a: i64, months: i32) -> i64 = add_months(a, i64::from(months));
    rt_add_years(a: i64, years: i32) -> i64 = add_months(a, i64::from(years) * 12);
    rt_diff_hours(a: i64, b: i64) -> i32 = i32::try_from((b - a) / HOUR_US).unwrap_or(0);
    rt_diff_minutes(a: i64, b: i64) -> i32 = i32::try_from((b - a) / MINUTE_US).unwrap_or(0);
    rt_diff_seconds(a: i64, b: i64) -> i32 = i32::try_from((b - a) / SECOND_US).unwrap_or(0);
    rt_date_weekday(a: i64) -> i32 = calendar::weekday(a.div_euclid(DAY_US) as i32);
    rt_time_hour(a: i64) -> i32 = (a.rem_euclid(DAY_US) / HOUR_US) as i32;
    rt_time_minute(a: i64) -> i32 = (a.rem_euclid(HOUR_US) / MINUTE_US) as i32;
    rt_time_second(a: i64) -> i32 = (a.rem_euclid(MINUTE_US) / SECOND_US) as i32;
    rt_diff_days(a: i64, b: i64) -> i32 = (b.div_euclid(DAY_US) - a.div_euclid(DAY_US)) as i32;
    rt_date_year(a: i64) -> i32 = calendar::civil(a.div_euclid(DAY_US) as i32).0;
    rt_date_month(a: i64) -> i32 = calendar::civil(a.div_euclid(DAY_US) as i32).1;
    rt_date_day(a: i64) -> i32 = calendar::civil(a.div_euclid(DAY_US) as i32).2;
}

/// Texts end to end; one alone is itself.
unsafe fn joined<const N: usize>(parts: [u32; N]) -> u32 {
    let size: usize = parts.iter().map(|part| bytes(*part).len()).sum();
    if let Some(only) = parts.iter().find(|part| bytes(**part).len() == size) {
        return *only;
    }
    let size = u32::try_from(size + 4).unwrap_or_else(|_| core::arch::wasm32::unreachable());
    let text = memory::allocate_text(size);
    let mut to = text + 4;
    for part in parts {
        let part = bytes(part);
        memory::copy(part.as_ptr(), to as *mut u8, part.len());
        to += part.len() as u32;
    }
    text
}

/// The decimal notation of a whole number.
#[inline(always)]
pub(crate) fn digits<T>(number: i64, take: impl FnOnce(&[u8]) -> T) -> T {
    // 19 digits and a sign.
    let mut digits = [0_u8; 20];
    let start = decimal::write_digits(&mut digits, number.unsigned_abs());
    let start = if number < 0 { start - 1 } else { start };
    if number < 0 {
        digits[start] = b'-';
    }
    take(&digits[start..])
}

fn written(write: impl FnOnce(&mut String)) -> u32 {
    let mut out = String::new();
    write(&mut out);
    // SAFETY: it only allocates.
    unsafe { new_text(&out) }
}

/// In whole seconds, as the language knows and writes them.
fn now_us() -> i64 {
    wall_clock::now().seconds as i64 * SECOND_US
}

/// Moves an instant; leaving 1900 to 3000 gives the default, as every built-in does with bad input.
fn in_range(at: i64, by: Option<i64>) -> i64 {
    let (first, last) = (DATE_TIME_DEFAULT, (i64::from(calendar::DATE_MAX) + 1) * DAY_US);
    by.and_then(|by| at.checked_add(by)).filter(|moved| (first..last).contains(moved)).unwrap_or(first)
}

fn add_months(at: i64, months: i64) -> i64 {
    let moved = calendar::add_months(at.div_euclid(DAY_US) as i32, months);
    moved.map_or(DATE_TIME_DEFAULT, |days| i64::from(days) * DAY_US + at.rem_euclid(DAY_US))
}
