// The jobs of `make bench` for node: the same work as `jobs-oml/jobs.yaml`, with the same results.
//
// Integers notice an overflow, decimals are exact (BigInt with eight digits), text compares without case and
// accents. Each job is warmed up before it is timed. Usage: node jobs.mjs <inputs.json> <warm-ups> <runs>
// Prints a line of JSON per job: {"job": …, "result": …, "micros": […]}

import { readFileSync } from "node:fs";

const SCALE = 100000000n;
const UNITS_MAX = (1n << 96n) * SCALE;

function int(value) {
  if (value > 2147483647 || value < -2147483648) throw new Error("Integer overflow");
  return value;
}

function within(units) {
  if (units > UNITS_MAX || units < -UNITS_MAX) throw new Error("Decimal overflow");
  return units;
}

function rounded(value, by) {
  const quotient = value / by, rest = value % by;
  if (rest === 0n) return quotient;
  const twice = (rest < 0n ? -rest : rest) * 2n, limit = by < 0n ? -by : by;
  const up = twice > limit || (twice === limit && (quotient & 1n) === 1n);
  return up ? quotient + ((value < 0n) === (by < 0n) ? 1n : -1n) : quotient;
}

const mul = (a, b) => within(rounded(a * b, SCALE));
const div = (a, b) => {
  if (b === 0n) throw new Error("Division by zero");
  return within(rounded(a * SCALE, b));
};
const units = (number) => BigInt(Math.round(number * 100000000));

function shown(value) {
  const magnitude = value < 0n ? -value : value;
  const fraction = (magnitude % SCALE).toString().padStart(8, "0").replace(/0+$/, "");
  return (value < 0n ? "-" : "") + magnitude / SCALE + (fraction ? "." + fraction : "");
}

function integers(numbers) {
  let sum = 0, rounds = 0;
  for (const a of numbers) {
    for (const b of numbers) {
      sum = int(sum + int(a * b));
      if (sum > 1000000000) {
        sum = int(sum - 1000000000);
        rounds = int(rounds + 1);
      }
    }
  }
  return `${sum}:${rounds}`;
}

function decimals(input) {
  const prices = input.map(units);
  const tax = 119000000n, limit = 1000000n * SCALE, three = 3n * SCALE;
  let total = 0n, shares = 0n, rounds = 0;
  for (const a of prices) {
    for (const b of prices) {
      const line = mul(mul(a, b), tax);
      total = within(total + line);
      if (total > limit) {
        total = within(total - limit);
        rounds = int(rounds + 1);
      }
      shares = within(shares + div(line, within(b + three)));
    }
  }
  return `${shown(total)}:${shown(shares)}:${rounds}`;
}

function text(numbers) {
  const name = "Ärger & Co";
  let built = "";
  for (const _ of numbers) {
    for (const b of numbers) built += name + " " + b + ";";
  }
  // No character here is outside of the basic plane, so units are characters.
  return `${built.length}:${built.substring(built.length - 40)}`;
}

function nameOf(key) {
  if (key < 1500) return "Ärger";
  if (key < 3000) return "anton";
  if (key < 4500) return "Çelik";
  if (key < 6000) return "berta";
  if (key < 7500) return "Zoë";
  if (key < 9000) return "émile";
  return "Anton";
}

function items(outer, inner) {
  const made = [];
  let key = 0;
  for (const a of outer) {
    for (const b of inner) {
      key = int(key + 6007);
      if (key >= 10007) key -= 10007;
      made.push({
        Id: key,
        Name: `${nameOf(key)} ${key}`,
        Amount: (key * 37) / 100, // exact to the cent, as JSON needs it
        Count: b,
        Active: key > 5000,
        Note: `A note of "${a}" and no more`,
      });
    }
  }
  return made;
}

function checksum(list) {
  let place = 0, sum = 0; // below 2^53 here
  for (const item of list) {
    place += 1;
    sum += place * item.Id;
  }
  return sum;
}

const folded = (value) => value.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();

function sort(numbers) {
  let list = items(numbers, numbers);
  // The key of a text is made once per item, not once per comparison.
  const keyed = list.map((item) => ({ key: folded(item.Name), item }));
  keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  list = keyed.map((entry) => entry.item);
  const byName = checksum(list);
  list.sort((a, b) => b.Count - a.Count || a.Amount - b.Amount);
  const byCount = checksum(list);
  list.sort((a, b) => a.Id - b.Id);
  return `${byName}:${byCount}:${checksum(list)}`;
}

function json(numbers) {
  const ten = numbers.slice(0, 10);
  const made = items(ten, numbers);
  let cents = 0, letters = 0, last = "";
  for (const _ of ten) {
    const written = JSON.stringify(made);
    const read = JSON.parse(written);
    letters = int(letters + written.length);
    for (const item of read) cents += Math.round(item.Amount * 100);
    last = read[read.length - 1].Note;
  }
  return `${letters}:${shown(BigInt(cents) * 1000000n)}:${last}`;
}

const jobs = { Integers: integers, Decimals: decimals, Text: text, Sort: sort, Json: json };
const [file, warmUps, runs] = process.argv.slice(2);
const inputs = JSON.parse(readFileSync(file, "utf8"));
for (const [job, run] of Object.entries(jobs)) {
  let result;
  for (let at = 0; at < Number(warmUps); at += 1) result = run(inputs[job]);
  const micros = [];
  for (let at = 0; at < Number(runs); at += 1) {
    const started = performance.now();
    result = run(inputs[job]);
    micros.push((performance.now() - started) * 1000);
  }
  console.log(JSON.stringify({ job, result, micros }));
}
