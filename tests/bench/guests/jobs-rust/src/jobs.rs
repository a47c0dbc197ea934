//! The jobs. Invariant: what they give is what `jobs-oml/jobs.yaml` gives.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::decimal::Decimal;

/// Items are numbered 0 to this, in steps that visit every number once.
const KEYS: i32 = 10_007;
const STEP: i32 = 6_007;
const OVERFLOW: &str = "Integer overflow";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    id: i64,
    name: String,
    amount: Decimal,
    count: i32,
    active: bool,
    note: String,
}

/// Runs a job on its input, a JSON array.
pub fn run(job: &str, input: &[u8]) -> Result<String, String> {
    let numbers = || serde_json::from_slice::<Vec<i32>>(input).map_err(|error| error.to_string());
    match job {
        "Integers" => integers(&numbers()?),
        "Decimals" => {
            decimals(&serde_json::from_slice::<Vec<Decimal>>(input).map_err(|error| error.to_string())?)
        }
        "Text" => text(&numbers()?),
        "Sort" => sort(&numbers()?),
        "Json" => json(&numbers()?),
        other => Err(format!("there is no job {other}")),
    }
}

fn integers(numbers: &[i32]) -> Result<String, String> {
    let (mut sum, mut rounds) = (0_i32, 0_i32);
    for a in numbers {
        for b in numbers {
            sum = a.checked_mul(*b).and_then(|product| sum.checked_add(product)).ok_or(OVERFLOW)?;
            if sum > 1_000_000_000 {
                sum = sum.checked_sub(1_000_000_000).ok_or(OVERFLOW)?;
                rounds = rounds.checked_add(1).ok_or(OVERFLOW)?;
            }
        }
    }
    Ok(format!("{sum}:{rounds}"))
}

fn decimals(prices: &[Decimal]) -> Result<String, String> {
    const TAX: Decimal = Decimal::units(119_000_000);
    const LIMIT: Decimal = Decimal::whole(1_000_000);
    const THREE: Decimal = Decimal::whole(3);
    let (mut total, mut shares, mut rounds) = (Decimal::default(), Decimal::default(), 0_i32);
    for a in prices {
        for b in prices {
            let line = a.mul(*b)?.mul(TAX)?;
            total = total.add(line)?;
            if total > LIMIT {
                total = total.sub(LIMIT)?;
                rounds = rounds.checked_add(1).ok_or(OVERFLOW)?;
            }
            shares = shares.add(line.div(b.add(THREE)?)?)?;
        }
    }
    Ok(format!("{total}:{shares}:{rounds}"))
}

fn text(numbers: &[i32]) -> Result<String, String> {
    let mut built = String::new();
    let name = "Ärger & Co";
    for _ in numbers {
        for b in numbers {
            built.push_str(name);
            built.push(' ');
            write!(built, "{b}").map_err(|error| error.to_string())?;
            built.push(';');
        }
    }
    let length = built.chars().count();
    let end: String = built.chars().skip(length - 40).take(40).collect();
    Ok(format!("{length}:{end}"))
}

fn sort(numbers: &[i32]) -> Result<String, String> {
    let mut items = items(numbers, numbers)?;
    // The key of a text is made once per item, not once per comparison.
    items.sort_by_cached_key(|item| folded(&item.name));
    let by_name = checksum(&items)?;
    items.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.amount.cmp(&b.amount)));
    let by_count = checksum(&items)?;
    items.sort_by_key(|item| item.id);
    let by_id = checksum(&items)?;
    Ok(format!("{by_name}:{by_count}:{by_id}"))
}

fn json(numbers: &[i32]) -> Result<String, String> {
    let ten = &numbers[..numbers.len().min(10)];
    let items = items(ten, numbers)?;
    let (mut amount, mut letters, mut last) = (Decimal::default(), 0_i32, String::new());
    for _ in ten {
        let written = serde_json::to_string(&items).map_err(|error| error.to_string())?;
        let mut read: Vec<Item> = serde_json::from_str(&written).map_err(|error| error.to_string())?;
        let count = i32::try_from(written.chars().count()).map_err(|error| error.to_string())?;
        letters = letters.checked_add(count).ok_or(OVERFLOW)?;
        for item in &read {
            amount = amount.add(item.amount)?;
        }
        last = read.pop().ok_or("no items")?.note;
    }
    Ok(format!("{letters}:{amount}:{last}"))
}

fn items(outer: &[i32], inner: &[i32]) -> Result<Vec<Item>, String> {
    const RATE: Decimal = Decimal::units(37_000_000);
    let mut items = Vec::new();
    let mut key = 0_i32;
    for a in outer {
        for b in inner {
            key += STEP;
            if key >= KEYS {
                key -= KEYS;
            }
            items.push(Item {
                id: i64::from(key),
                name: format!("{} {key}", name_of(key)),
                amount: Decimal::whole(i64::from(key)).mul(RATE)?,
                count: *b,
                active: key > 5_000,
                note: format!("A note of \"{a}\" and no more"),
            });
        }
    }
    Ok(items)
}

fn name_of(key: i32) -> &'static str {
    match key {
        ..1_500 => "Ärger",
        ..3_000 => "anton",
        ..4_500 => "Çelik",
        ..6_000 => "berta",
        ..7_500 => "Zoë",
        ..9_000 => "émile",
        _ => "Anton",
    }
}

/// The text without case and accents, as far as the names here have them.
fn folded(text: &str) -> String {
    let letter = |c: char| match c {
        'ä' => 'a',
        'ç' => 'c',
        'é' | 'ë' => 'e',
        c => c,
    };
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.chars().flat_map(char::to_lowercase).map(letter).collect()
}

fn checksum(items: &[Item]) -> Result<i64, String> {
    let (mut place, mut sum) = (0_i64, 0_i64);
    for item in items {
        place = place.checked_add(1).ok_or(OVERFLOW)?;
        sum = place.checked_mul(item.id).and_then(|part| sum.checked_add(part)).ok_or(OVERFLOW)?;
    }
    Ok(sum)
}
