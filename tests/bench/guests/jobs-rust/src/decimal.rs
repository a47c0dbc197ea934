//! Decimals with eight digits in an `i128`, as a money type of one's own is usually written.
//!
//! Invariant: exact, rounded half to even at the eighth digit, and an error beyond the range.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SCALE: i128 = 100_000_000;
const UNITS_MAX: i128 = (1 << 96) * SCALE;

/// A number in units of 10^-8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Decimal(i128);

impl Decimal {
    /// From units.
    pub const fn units(units: i128) -> Self {
        Self(units)
    }

    /// A whole number.
    pub const fn whole(value: i64) -> Self {
        Self(value as i128 * SCALE)
    }

    /// Adds.
    pub fn add(self, other: Self) -> Result<Self, String> {
        within(self.0.checked_add(other.0))
    }

    /// Subtracts.
    pub fn sub(self, other: Self) -> Result<Self, String> {
        within(self.0.checked_sub(other.0))
    }

    /// Multiplies.
    pub fn mul(self, other: Self) -> Result<Self, String> {
        let product = self.0.checked_mul(other.0).ok_or("Decimal overflow")?;
        within(Some(rounded(product, SCALE)))
    }

    /// Divides.
    pub fn div(self, other: Self) -> Result<Self, String> {
        if other.0 == 0 {
            return Err("Division by zero".into());
        }
        let scaled = self.0.checked_mul(SCALE).ok_or("Decimal overflow")?;
        within(Some(rounded(scaled, other.0)))
    }
}

fn within(units: Option<i128>) -> Result<Decimal, String> {
    match units {
        Some(units) if units.unsigned_abs() <= UNITS_MAX as u128 => Ok(Decimal(units)),
        Some(_) | None => Err("Decimal overflow".into()),
    }
}

/// A quotient, rounded half to even.
fn rounded(value: i128, by: i128) -> i128 {
    let (quotient, rest) = (value / by, value % by);
    let (twice, by_abs) = (rest.unsigned_abs() * 2, by.unsigned_abs());
    let up = twice > by_abs || (twice == by_abs && quotient & 1 == 1);
    if up { quotient + if (value < 0) == (by < 0) { 1 } else { -1 } } else { quotient }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) =
            (self.0.unsigned_abs() / SCALE as u128, self.0.unsigned_abs() % SCALE as u128);
        let sign = if self.0 < 0 { "-" } else { "" };
        if fraction == 0 {
            return write!(f, "{sign}{whole}");
        }
        let digits = format!("{fraction:08}");
        write!(f, "{sign}{whole}.{}", digits.trim_end_matches('0'))
    }
}

/// In JSON a number. Through `f64`, which is exact for the amounts here and the fastest way that serde_json has.
impl Serialize for Decimal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % SCALE == 0 {
            return serializer.serialize_i64((self.0 / SCALE) as i64);
        }
        serializer.serialize_f64(self.0 as f64 / SCALE as f64)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = f64::deserialize(deserializer)?;
        let units = (value * SCALE as f64).round();
        if units.abs() >= 9e15 {
            return Err(D::Error::custom("an amount that is no exact f64"));
        }
        Ok(Self(units as i64 as i128))
    }
}
