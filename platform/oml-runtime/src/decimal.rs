//! Exact decimals: `i128` units of 10^-8, the runtime form of Decimal and Currency.
//!
//! A product or quotient passes through 256 bits, so no digit is lost before the one rounding at
//! the end (half to even, at the eighth fractional digit). A float never appears.
//! Invariant: every value that leaves this module is within ±2^96; what is not is [`Overflow`].

use alloc::string::String;
use alloc::vec::Vec;

/// One whole, in units.
pub const SCALE: i128 = 100_000_000;
/// Largest magnitude, in units: 2^96, the range of ODC's Decimal; it fits numeric(37,8).
pub const UNITS_MAX: i128 = (1 << 96) * SCALE;

/// The result does not fit ±2^96, or the divisor was zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overflow;

/// A whole number.
pub fn whole(value: i64) -> i128 {
    // Without 128 bits where 64 do: what most numbers are.
    value.checked_mul(SCALE as i64).map_or_else(|| i128::from(value) * SCALE, i128::from)
}

/// Adds exactly.
#[inline]
pub fn add(a: i128, b: i128) -> Result<i128, Overflow> {
    within(a + b) // two values within 2^96 * 10^8 cannot leave i128
}

/// Subtracts exactly.
#[inline]
pub fn sub(a: i128, b: i128) -> Result<i128, Overflow> {
    within(a - b)
}

/// Multiplies; rounds half to even at the eighth digit.
#[inline]
pub fn mul(a: i128, b: i128) -> Result<i128, Overflow> {
    if let Some((a, b)) = both_small(a, b)
        && let (hi, lo) = mul_64(a.unsigned_abs(), b.unsigned_abs())
        && hi < SCALE as u64
    {
        let (quotient, rest) = by_scale(hi, lo);
        return Ok(rounded_64(quotient, rest, SCALE as u64, (a < 0) != (b < 0)));
    }
    mul_wide(a, b)
}

#[cold]
fn mul_wide(a: i128, b: i128) -> Result<i128, Overflow> {
    let (hi, lo) = wide_mul(a.unsigned_abs(), b.unsigned_abs());
    signed(div_round(hi, lo, SCALE as u128)?, (a < 0) != (b < 0))
}

/// Divides; rounds half to even at the eighth digit.
#[inline]
pub fn div(a: i128, b: i128) -> Result<i128, Overflow> {
    if let Some((a, b)) = both_small(a, b)
        && let (hi, lo) = mul_64(a.unsigned_abs(), SCALE as u64)
        && hi < b.unsigned_abs()
    {
        let (quotient, rest) = div_64(hi, lo, b.unsigned_abs());
        return Ok(rounded_64(quotient, rest, b.unsigned_abs(), (a < 0) != (b < 0)));
    }
    div_wide(a, b)
}

#[cold]
fn div_wide(a: i128, b: i128) -> Result<i128, Overflow> {
    if b == 0 {
        return Err(Overflow);
    }
    let (hi, lo) = wide_mul(a.unsigned_abs(), SCALE as u128);
    signed(div_round(hi, lo, b.unsigned_abs())?, (a < 0) != (b < 0))
}

/// Both in 64 bits, where they fit: numbers up to 92 billion.
#[inline]
fn both_small(a: i128, b: i128) -> Option<(i64, i64)> {
    Some((i64::try_from(a).ok()?, i64::try_from(b).ok()?))
}

/// 64 x 64 -> 128 bits, high and low.
#[inline]
fn mul_64(a: u64, b: u64) -> (u64, u64) {
    const LOW: u64 = u32::MAX as u64;
    if (a | b) <= LOW {
        return (0, a * b);
    }
    let (a1, a0, b1, b0) = (a >> 32, a & LOW, b >> 32, b & LOW);
    let (low, mid1, mid2) = (a0 * b0, a1 * b0, a0 * b1);
    let carry = (low >> 32) + (mid1 & LOW) + (mid2 & LOW);
    (a1 * b1 + (mid1 >> 32) + (mid2 >> 32) + (carry >> 32), (carry << 32) | (low & LOW))
}

/// Quotient and rest by 10^8, which is above `hi`: two digits of 32 bits, with a divisor that the compiler knows.
#[inline]
fn by_scale(hi: u64, lo: u64) -> (u64, u64) {
    const BY: u64 = SCALE as u64;
    if hi == 0 {
        let quotient = lo / BY;
        return (quotient, lo - quotient * BY);
    }
    let first = (hi << 32) | (lo >> 32);
    let high = first / BY;
    let second = ((first - high * BY) << 32) | (lo & u64::from(u32::MAX));
    let low = second / BY;
    ((high << 32) | low, second - low * BY)
}

/// Quotient and rest by a number above `hi`: Knuth's algorithm D for two digits of 32 bits.
#[inline]
fn div_64(hi: u64, lo: u64, by: u64) -> (u64, u64) {
    if hi == 0 {
        let quotient = lo / by;
        return (quotient, lo - quotient * by);
    }
    const DIGIT: u64 = 1 << 32;
    let shift = by.leading_zeros();
    let by = by << shift;
    // A shift by 64 would be one by nothing.
    let high = if shift == 0 { hi } else { (hi << shift) | (lo >> (64 - shift)) };
    let lo = lo << shift;
    let (by1, by0) = (by / DIGIT, by % DIGIT);
    let step = |high: u64, next: u64| {
        let (mut digit, mut rest) = (high / by1, high % by1);
        while digit >= DIGIT || digit * by0 > rest * DIGIT + next {
            digit -= 1;
            rest += by1;
            if rest >= DIGIT {
                break;
            }
        }
        (digit, (high.wrapping_mul(DIGIT).wrapping_add(next)).wrapping_sub(digit.wrapping_mul(by)))
    };
    let (first, rest) = step(high, lo / DIGIT);
    let (second, rest) = step(rest, lo % DIGIT);
    (first * DIGIT + second, rest >> shift)
}

/// A quotient rounded half to even, with its sign. 64 bits of units are far within the range.
#[inline]
fn rounded_64(quotient: u64, rest: u64, by: u64, negative: bool) -> i128 {
    let other = by - rest;
    let up = rest > other || (rest == other && quotient & 1 == 1);
    let magnitude = i128::from(quotient) + i128::from(up);
    if negative { -magnitude } else { magnitude }
}

/// Reads `-12.50`, `7`, `1e3`; digits past the eighth are rounded half to even.
pub fn parse(text: &str) -> Option<i128> {
    plain(text.as_bytes()).or_else(|| parse_any(text))
}

/// Digits, perhaps with a sign in front and a point inside, that need no rounding and few bits: most numbers.
fn plain(text: &[u8]) -> Option<i128> {
    const DIGITS_MAX: usize = 18;
    const POWERS: [u64; 9] = [100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    let (mut value, mut point) = (0_u64, None);
    for (at, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => value = value * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() && at > 0 && at + 1 < digits.len() => point = Some(at),
            _ => return None,
        }
    }
    let power = *POWERS.get(point.map_or(0, |at| digits.len() - at - 1))?;
    let units = value.checked_mul(power).map_or_else(|| i128::from(value) * i128::from(power), i128::from);
    Some(if digits.len() < text.len() { -units } else { units })
}

fn parse_any(text: &str) -> Option<i128> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i32>().ok().filter(|e| e.abs() < 64)?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if !all.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // The value is `all` * 10^shift units; a negative shift drops digits, which are rounded.
    let shift = exponent + 8 - fraction.len() as i32;
    let kept = if shift < 0 { all.len().saturating_sub(shift.unsigned_abs() as usize) } else { all.len() };
    let mut units: i128 = 0;
    for digit in &all[..kept] {
        units = units.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
    }
    for _ in 0..shift.max(0) {
        units = units.checked_mul(10)?;
    }
    if shift < 0 && all.len() >= shift.unsigned_abs() as usize {
        let dropped = &all[kept..];
        let half = dropped.first().copied().unwrap_or(b'0');
        let rest = dropped.iter().skip(1).any(|d| *d != b'0');
        if half > b'5' || (half == b'5' && (rest || units % 2 == 1)) {
            units = units.checked_add(1)?;
        }
    }
    within(if negative { -units } else { units }).ok()
}

/// Writes the shortest exact form: no trailing zeros, no exponent.
pub fn format(units: i128) -> String {
    let mut buffer = [0; TEXT_BYTES];
    let start = write(&mut buffer, units);
    // Nothing but digits, a sign and a point was written.
    String::from_utf8_lossy(&buffer[start..]).into_owned()
}

/// Bytes of the longest decimal: a sign, 29 digits, a point, 8 digits; and some.
pub const TEXT_BYTES: usize = 48;

/// Writes the same to the end of a buffer, and says where it begins.
pub fn write(buffer: &mut [u8; TEXT_BYTES], units: i128) -> usize {
    let magnitude = units.unsigned_abs();
    let (whole, mut fraction) = match u64::try_from(magnitude) {
        Ok(small) => (u128::from(small / SCALE as u64), small % SCALE as u64),
        Err(_) => (magnitude / SCALE as u128, (magnitude % SCALE as u128) as u64),
    };
    let mut at = buffer.len();
    if fraction != 0 {
        let mut places = 8;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            places -= 1;
        }
        for _ in 0..places {
            at -= 1;
            buffer[at] = b'0' + (fraction % 10) as u8;
            fraction /= 10;
        }
        at -= 1;
        buffer[at] = b'.';
    }
    match u64::try_from(whole) {
        Ok(small) => at = write_digits(&mut buffer[..at], small),
        Err(_) => {
            // 10^18 is the largest power of ten whose digits fit 64 bits with room; a whole has 29 digits.
            const PART: u128 = 1_000_000_000_000_000_000;
            let end = at;
            at = write_digits(&mut buffer[..at], (whole % PART) as u64);
            while end - at < 18 {
                at -= 1;
                buffer[at] = b'0';
            }
            at = write_digits(&mut buffer[..at], (whole / PART) as u64);
        }
    }
    if units < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    at
}

/// Writes digits to the end of a buffer, and says where they begin.
#[inline]
pub fn write_digits(buffer: &mut [u8], mut number: u64) -> usize {
    let mut at = buffer.len();
    // Half of the width as long as it does: most numbers are small.
    while number > u64::from(u32::MAX) {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    let mut number = number as u32;
    loop {
        at -= 1;
        buffer[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return at;
        }
    }
}

/// Drops the fraction, towards zero.
pub fn trunc(units: i128) -> i128 {
    units / SCALE
}

/// What is left of a division, with the sign of the dividend; 0 for a divisor of 0.
pub fn rem(a: i128, b: i128) -> i128 {
    if b == 0 { 0 } else { a % b }
}

/// The square root, rounded at the eighth digit; `None` for a negative number.
pub fn sqrt(units: i128) -> Option<i128> {
    // The root of units * 10^8 is the result in units. It is below 2^76, so 76 bits are tried one by one.
    let (hi, lo) = wide_mul(u128::try_from(units).ok()?, SCALE as u128);
    let mut root: u128 = 0;
    for bit in (0..76).rev() {
        let next = root | 1 << bit;
        if wide_mul(next, next) <= (hi, lo) {
            root = next;
        }
    }
    // (root + 1/2)^2 is root^2 + root + 1/4: beyond it the next one is nearer. A tie cannot be.
    let (square_hi, square_lo) = wide_mul(root, root);
    let (rest, borrow) = lo.overflowing_sub(square_lo);
    let above = hi - square_hi - u128::from(borrow) > 0 || rest > root;
    i128::try_from(root + u128::from(above)).ok()
}

/// A power. Whole exponents by multiplication, each step rounded; others through floating point, which has 15
/// digits. `None` where there is no result within the range.
pub fn power(base: i128, exponent: i128) -> Option<i128> {
    if exponent % SCALE != 0 {
        let value = |units: i128| units as f64 / SCALE as f64;
        let result = (base > 0).then(|| exp(ln(value(base)) * value(exponent)))?;
        let units = result * SCALE as f64 + 0.5;
        return if units < UNITS_MAX as f64 { within(units as i128).ok() } else { None };
    }
    // A small number would lose its digits on the way to the power that divides; its reciprocal does not.
    let small = base.abs() < SCALE;
    let base = if exponent < 0 && small { div(SCALE, base).ok()? } else { base };
    let mut left = (exponent / SCALE).unsigned_abs();
    let (mut square, mut result) = (base, SCALE);
    while left > 0 {
        if left & 1 == 1 {
            result = mul(result, square).ok()?;
        }
        left >>= 1;
        if left > 0 {
            // A power of 0, 1 or -1 may have any exponent; others leave the range or come to 0 soon.
            square = mul(square, square).ok()?;
        }
    }
    if exponent < 0 && !small { div(SCALE, result).ok() } else { Some(result) }
}

/// The natural logarithm of a positive number: of its exponent, and a series for what is left, near 1.
fn ln(value: f64) -> f64 {
    let bits = value.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > core::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let (square, mut term, mut sum) = (ratio * ratio, ratio, 0.0);
    for odd in (1..40).step_by(2) {
        sum += term / f64::from(odd);
        term *= square;
    }
    2.0 * sum + exponent as f64 * core::f64::consts::LN_2
}

/// The exponential: a power of two, and a series for what is left, near 0.
fn exp(value: f64) -> f64 {
    let twos = value / core::f64::consts::LN_2;
    if !(-1022.0..1022.0).contains(&twos) {
        return if twos < 0.0 { 0.0 } else { f64::INFINITY };
    }
    let whole = twos as i64;
    let rest = value - whole as f64 * core::f64::consts::LN_2;
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..25 {
        term *= rest / f64::from(n);
        sum += term;
    }
    sum * f64::from_bits(((whole + 1023) as u64) << 52)
}

/// Rounds half to even at `digits` fractional digits (0 to 8).
pub fn round(units: i128, digits: i32) -> i128 {
    let step = 10i128.pow(8 - digits.clamp(0, 8) as u32);
    let (quotient, rest) = (units / step, (units % step).abs());
    let up = rest * 2 > step || (rest * 2 == step && quotient % 2 != 0);
    let away = if up { units.signum() } else { 0 };
    (quotient + away) * step
}

#[inline]
fn within(units: i128) -> Result<i128, Overflow> {
    if units.unsigned_abs() > UNITS_MAX as u128 { Err(Overflow) } else { Ok(units) }
}

fn signed(magnitude: u128, negative: bool) -> Result<i128, Overflow> {
    let units = i128::try_from(magnitude).map_err(|_| Overflow)?;
    within(if negative { -units } else { units })
}

/// 128 x 128 -> 256 bits, schoolbook over 64-bit halves.
fn wide_mul(a: u128, b: u128) -> (u128, u128) {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (low, mid1, mid2, high) = (a0 * b0, a1 * b0, a0 * b1, a1 * b1);
    let carry = (low >> 64) + (mid1 & LOW) + (mid2 & LOW);
    (high + (mid1 >> 64) + (mid2 >> 64) + (carry >> 64), (carry << 64) | (low & LOW))
}

/// 256 / 128 bits, rounded half to even. Long division one bit at a time, only when the high half is used.
fn div_round(hi: u128, lo: u128, by: u128) -> Result<u128, Overflow> {
    let (quotient, rest) = if hi == 0 {
        (lo / by, lo % by)
    } else {
        if hi >= by {
            return Err(Overflow);
        }
        let (mut rest, mut quotient) = (hi, 0u128);
        for bit in (0..128).rev() {
            let carry = rest >> 127;
            rest = (rest << 1) | ((lo >> bit) & 1);
            quotient <<= 1;
            if carry == 1 || rest >= by {
                rest = rest.wrapping_sub(by);
                quotient |= 1;
            }
        }
        (quotient, rest)
    };
    let other = by - rest;
    let up = rest > other || (rest == other && quotient & 1 == 1);
    quotient.checked_add(u128::from(up)).ok_or(Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn d(text: &str) -> i128 {
        parse(text).unwrap()
    }

    #[test]
    fn text_round_trips_in_its_shortest_form() {
        for (text, shown) in [
            ("0", "0"),
            ("-0.10", "-0.1"),
            ("12.50", "12.5"),
            ("79228162514264337593543950336", "79228162514264337593543950336"),
            ("0.00000001", "0.00000001"),
            ("1e3", "1000"),
            (".5", "0.5"),
            ("25e-1", "2.5"),
        ] {
            assert_eq!(format(d(text)), shown);
        }
        // The last but one is i128::MAX units before the ninth digit rounds up.
        for bad in [
            "",
            "-",
            ".",
            "1.2.3",
            "12a",
            "79228162514264337593543950337",
            "1701411834604692317316873037158.841057279",
            "1e99",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_ninth_digit_rounds_half_to_even() {
        assert_eq!(format(d("0.000000005")), "0");
        assert_eq!(format(d("0.000000015")), "0.00000002");
        assert_eq!(format(d("0.0000000051")), "0.00000001");
        assert_eq!(format(div(d("2"), d("3")).unwrap()), "0.66666667");
        assert_eq!(format(mul(d("-0.00000003"), d("0.5")).unwrap()), "-0.00000002");
    }

    #[test]
    fn products_and_quotients_are_exact_over_the_whole_range() {
        let big = d("39614081257132168796771975168"); // 2^95
        assert_eq!(mul(big, d("2")), Ok(UNITS_MAX));
        assert_eq!(mul(big, d("2.00000001")), Err(Overflow));
        assert_eq!(div(UNITS_MAX, d("2")), Ok(big));
        assert_eq!(div(UNITS_MAX, UNITS_MAX), Ok(SCALE));
        assert_eq!(div(UNITS_MAX, d("0.1")), Err(Overflow));
        assert_eq!(div(d("1"), 0), Err(Overflow));
        assert_eq!(add(UNITS_MAX, 1), Err(Overflow));
        assert_eq!(format(add(d("0.1"), d("0.2")).unwrap()), "0.3");
    }

    #[test]
    fn the_short_ways_give_what_the_long_ones_do() {
        // A generator of one's own: the numbers are the same every time.
        let mut state = 1_u64;
        let mut random = |bits: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let wide = (u128::from(state) << 64 | u128::from(state.rotate_left(29))) >> (128 - bits);
            let value = wide as i128;
            if state & 2 == 0 { value } else { -value }
        };
        for round in 0..200_000 {
            let (a, b) = (random(1 + round % 120), random(1 + round / 7 % 120));
            assert_eq!(mul(a, b), mul_wide(a, b), "{a} * {b}");
            assert_eq!(div(a, b), div_wide(a, b), "{a} / {b}");
            if within(a).is_ok() {
                assert_eq!(parse(&format(a)), Some(a), "{a}");
                assert_eq!(plain(format(a).as_bytes()).unwrap_or(a), a);
            }
        }
        for half in [50_000_000, 150_000_000, -50_000_000] {
            assert_eq!(mul(half, 1), mul_wide(half, 1));
        }
        for (a, b) in [(i64::MAX, i64::MIN), (i64::MIN, -1), (i64::MAX, 1), (i64::MIN, i64::MIN)] {
            let (a, b) = (i128::from(a), i128::from(b));
            assert_eq!((mul(a, b), div(a, b)), (mul_wide(a, b), div_wide(a, b)), "{a} {b}");
        }
        assert_eq!(whole(i64::MIN), i128::from(i64::MIN) * SCALE);
    }

    #[test]
    fn powers_are_as_good_as_their_steps() {
        for (base, exponent, expected) in [
            ("2", "95", Some("39614081257132168796771975168")),
            ("2", "97", None),
            ("0.5", "-20", Some("1048576")),
            ("-0.5", "-3", Some("-8")),
            ("-10.89", "-5", Some("-0.00000653")),
            ("1000000", "-9", None), // the divisor leaves the range
            ("0.1", "9", Some("0")),
            ("0", "-1", None),
            ("-1", "-1000001", Some("-1")),
            ("2", "-0.5", Some("0.70710678")),
            ("-2", "0.5", None),
            ("79228162514264337593543950336", "1.5", None),
        ] {
            let shown = power(d(base), d(exponent)).map(format);
            assert_eq!(shown.as_deref(), expected, "{base}^{exponent}");
        }
    }

    #[test]
    fn roots_are_rounded_at_the_eighth_digit() {
        for (of, root) in [
            ("0.00000001", "0.0001"),
            ("0.00000002", "0.00014142"),
            ("9223372036854775807", "3037000499.97604969"),
        ] {
            assert_eq!(format(sqrt(d(of)).unwrap()), root);
        }
        assert_eq!(sqrt(-1), None);
    }

    #[test]
    fn rounding_keeps_the_sign() {
        assert_eq!(format(round(d("2.5"), 0)), "2");
        assert_eq!(format(round(d("-3.5"), 0)), "-4");
        assert_eq!(format(round(d("1.005"), 2)), "1");
        assert_eq!(trunc(d("-2.9")), -2);
    }
}
