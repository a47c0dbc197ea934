//! JSON in and out, straight between text and slots.
//!
//! Text is looked at eight bytes at a time, and what needs no change is copied once, from the source to where it stays.
//! Reading follows the type: what the type does not know is skipped, what has the wrong shape is a
//! problem with its path, and all problems of a document are reported together; only broken syntax
//! ends the reading. Numbers are never a float. Invariant: nesting is bounded by [`DEPTH_MAX`].

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::exceptions::raise;
use crate::lists::{list_len, rt_list_append};
use crate::memory::{
    bytes, copy, decimal as decimal_at, new_bytes, new_decimal, new_text, rd32, rd64, rt_alloc, rt_mark,
    text, wr32, wr64,
};
use crate::ops::digits;
use crate::values::*;
use crate::{calendar, decimal, format};

/// Deeper documents are refused: the stack of the guest is finite.
const DEPTH_MAX: u32 = 64;
/// Problems reported for one request; the rest adds nothing.
const PROBLEMS_MAX: usize = 20;

/// Reads a whole document into a slot; `subject` is what a problem calls it.
pub(crate) unsafe fn read(
    source: &[u8],
    subject: &'static str,
    slot: u32,
    desc: u32,
    problems: &mut Vec<String>,
) {
    let Ok(source) = core::str::from_utf8(source) else {
        problems.push(format!("{subject} is not UTF-8"));
        return;
    };
    read_document(source, subject, slot, desc, problems);
}

unsafe fn read_document(
    source: &str,
    subject: &'static str,
    slot: u32,
    desc: u32,
    problems: &mut Vec<String>,
) {
    let mut reader = Reader { source, subject, at: 0, path: Vec::new(), problems };
    let read = reader.value(slot, desc, 0).and_then(|()| {
        reader.space();
        if reader.at == source.len() { Ok(()) } else { Err(Syntax) }
    });
    if read.is_err() {
        let at = reader.at;
        problems.push(format!("{subject} is not valid JSON: unexpected input at byte {at}"));
    }
}

/// Reads one value of a path, query or header; `name` is for the problem.
pub(crate) unsafe fn read_text(value: &str, slot: u32, desc: u32, name: &str, problems: &mut Vec<String>) {
    if !scalar(value, slot, kind(desc)) {
        problems.push(format!("{name}: expected {}", expected(kind(desc))));
    }
}

struct Syntax;

/// Where a problem is: written out only when there is one.
enum Step {
    Field(u32),
    Element(u32),
}

struct Reader<'a> {
    source: &'a str,
    subject: &'static str,
    at: usize,
    path: Vec<Step>,
    problems: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    unsafe fn value(&mut self, slot: u32, desc: u32, depth: u32) -> Result<(), Syntax> {
        if depth > DEPTH_MAX {
            return Err(Syntax);
        }
        self.space();
        let shape = kind(desc);
        match (self.peek(), shape) {
            (b'n', _) => self.word("null"), // null is the default, which is there already
            (b'{', RECORD) => self.record(rd32(slot), desc, depth),
            (b'[', LIST) => self.list(rd32(slot), element(desc), depth),
            (b'"', TEXT | PHONE) => {
                // A string here has no NUL: none is written plainly, and none is escaped.
                let value = self.string()?;
                wr64(slot, i64::from(new_text(&value)));
                Ok(())
            }
            (b'"', EMAIL | DATE | TIME | DATE_TIME | BINARY) => {
                let value = self.string()?;
                self.put(&value, slot, shape);
                Ok(())
            }
            (b't' | b'f', BOOLEAN) => {
                let yes = self.peek() == b't';
                self.word(if yes { "true" } else { "false" })?;
                wr64(slot, i64::from(yes));
                Ok(())
            }
            (b'-' | b'0'..=b'9', INTEGER | LONG | IDENTIFIER | DECIMAL) => {
                let value = self.number()?;
                match short_integer(value.as_bytes())
                    .filter(|number| shape != INTEGER || i32::try_from(*number).is_ok())
                {
                    Some(number) if shape != DECIMAL => wr64(slot, number),
                    Some(_) | None => self.put(value, slot, shape),
                }
                Ok(())
            }
            _ => {
                self.skip(depth)?;
                self.problem(&format!("expected {}", expected(shape)));
                Ok(())
            }
        }
    }

    fn put(&mut self, value: &str, slot: u32, shape: u32) {
        // SAFETY: the slot is one that `value` was called with.
        if !unsafe { scalar(value, slot, shape) } {
            self.problem(&format!("expected {}", expected(shape)));
        }
    }

    unsafe fn record(&mut self, record: u32, desc: u32, depth: u32) -> Result<(), Syntax> {
        let count = field_count(desc);
        let mut seen = Seen::new(count);
        // Most documents have the attributes in their order: each is looked for behind the one before.
        let mut next = 0;
        self.at += 1;
        self.space();
        let mut more = self.peek() != b'}';
        while more {
            self.space();
            let name = self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
            let known = (next..count).chain(0..next).find(|i| text(field(desc, *i).name) == &*name);
            match known {
                Some(index) => {
                    next = index + 1;
                    seen.set(index, self.peek() != b'n');
                    let (slot, field) = (record + index * 8, field(desc, index));
                    self.path.push(Step::Field(field.name));
                    self.value(slot, field.desc, depth + 1)?;
                    if let Some(most) = field.characters_max()
                        && text(rd32(slot)).chars().count() > most as usize
                    {
                        self.problem(&format!("expected {most} characters at most"));
                    }
                    self.path.pop();
                }
                None => self.skip(depth + 1)?,
            }
            self.space();
            more = self.peek() == b',';
            self.at += usize::from(more);
        }
        self.expect(b'}')?;
        for index in 0..count {
            let field = field(desc, index);
            if field.is_mandatory() && !seen.get(index) {
                self.path.push(Step::Field(field.name));
                self.problem("required");
                self.path.pop();
            }
        }
        Ok(())
    }

    unsafe fn list(&mut self, list: u32, desc: u32, depth: u32) -> Result<(), Syntax> {
        self.at += 1;
        self.space();
        let mut more = self.peek() != b']';
        while more {
            self.path.push(Step::Element(list_len(list)));
            {
                let slot = rt_list_append(list);
                write_default(slot, desc);
                self.value(slot, desc, depth + 1)?;
            }
            self.path.pop();
            self.space();
            more = self.peek() == b',';
            self.at += usize::from(more);
        }
        self.expect(b']')
    }

    fn skip(&mut self, depth: u32) -> Result<(), Syntax> {
        if depth > DEPTH_MAX {
            return Err(Syntax);
        }
        self.space();
        match self.peek() {
            b'"' => self.string().map(|_| ()),
            b't' => self.word("true"),
            b'f' => self.word("false"),
            b'n' => self.word("null"),
            b'-' | b'0'..=b'9' => self.number().map(|_| ()),
            open @ (b'{' | b'[') => {
                let close = if open == b'{' { b'}' } else { b']' };
                self.at += 1;
                self.space();
                let mut more = self.peek() != close;
                while more {
                    if open == b'{' {
                        self.space();
                        self.string()?;
                        self.space();
                        self.expect(b':')?;
                    }
                    self.skip(depth + 1)?;
                    self.space();
                    more = self.peek() == b',';
                    self.at += usize::from(more);
                }
                self.expect(close)
            }
            _ => Err(Syntax),
        }
    }

    /// A string: a part of the source, unless something in it is escaped.
    fn string(&mut self) -> Result<Cow<'a, str>, Syntax> {
        self.expect(b'"')?;
        let source = self.source;
        let start = self.at;
        self.at = plain_end(source.as_bytes(), start);
        let first = &source[start..self.at];
        if self.peek() == b'"' {
            self.at += 1;
            return Ok(Cow::Borrowed(first));
        }
        let mut out = String::from(first);
        loop {
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(Cow::Owned(out));
                }
                b'\\' => {
                    let escaped = self.source.as_bytes().get(self.at + 1).copied().ok_or(Syntax)?;
                    self.at += 2;
                    out.push(match escaped {
                        b'"' | b'\\' | b'/' => escaped as char,
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        b'u' => self.unicode()?,
                        _ => return Err(Syntax),
                    });
                }
                _ => return Err(Syntax),
            }
            let start = self.at;
            self.at = plain_end(source.as_bytes(), start);
            put(&mut out, &source[start..self.at]);
        }
    }

    fn unicode(&mut self) -> Result<char, Syntax> {
        let first = self.hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            // PostgreSQL holds no NUL in text, and a lone low surrogate is no character.
            return char::from_u32(first).filter(|c| *c != '\0').ok_or(Syntax);
        }
        self.word("\\u")?;
        let second = self.hex()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(Syntax);
        }
        char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(Syntax)
    }

    fn hex(&mut self) -> Result<u32, Syntax> {
        let digits =
            self.source.get(self.at..self.at + 4).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        self.at += 4;
        u32::from_str_radix(digits.ok_or(Syntax)?, 16).map_err(|_| Syntax)
    }

    fn number(&mut self) -> Result<&'a str, Syntax> {
        let start = self.at;
        while matches!(self.peek(), b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') {
            self.at += 1;
        }
        let source = self.source;
        Ok(&source[start..self.at])
    }

    fn word(&mut self, word: &str) -> Result<(), Syntax> {
        if !self.source.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<(), Syntax> {
        if self.peek() != byte {
            return Err(Syntax);
        }
        self.at += 1;
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// The next byte; 0 at the end, which no rule accepts.
    fn peek(&self) -> u8 {
        self.source.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    #[cold]
    fn problem(&mut self, what: &str) {
        if self.problems.len() >= PROBLEMS_MAX {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    // SAFETY: it is the name in a descriptor.
                    path.push_str(unsafe { text(*name) });
                }
                Step::Element(index) => path.push_str(&format!("[{index}]")),
            }
        }
        let path = if path.is_empty() { self.subject } else { &path };
        self.problems.push(format!("{path}: {what}"));
    }
}

/// Which attributes of a record were there.
enum Seen {
    Few(u64),
    Many(Vec<bool>),
}

impl Seen {
    fn new(count: u32) -> Seen {
        if count <= u64::BITS { Seen::Few(0) } else { Seen::Many(alloc::vec![false; count as usize]) }
    }

    fn set(&mut self, index: u32, yes: bool) {
        match self {
            Seen::Few(bits) => *bits = *bits & !(1 << index) | u64::from(yes) << index,
            Seen::Many(all) => all[index as usize] = yes,
        }
    }

    fn get(&self, index: u32) -> bool {
        match self {
            Seen::Few(bits) => bits >> index & 1 == 1,
            Seen::Many(all) => all[index as usize],
        }
    }
}

/// Where the part of a string ends that stands for itself: at a quote, a backslash or a control character, or at the end.
fn plain_end(source: &[u8], start: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let mut at = start;
    while let Some(word) = source.get(at..at + 8) {
        let word =
            u64::from_le_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
        let (quote, escape) = (word ^ (ONES * u64::from(b'"')), word ^ (ONES * u64::from(b'\\')));
        // The lowest bit that is set is right; those above it may be by a borrow.
        let found = (quote.wrapping_sub(ONES) & !quote)
            | (escape.wrapping_sub(ONES) & !escape)
            | (word.wrapping_sub(ONES * u64::from(b' ')) & !word);
        if found & HIGH != 0 {
            return at + (found & HIGH).trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = source[at..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
    rest.map_or(source.len(), |rest| at + rest)
}

/// A whole number of so few digits that it cannot overflow; others are parsed the long way.
fn short_integer(value: &[u8]) -> Option<i64> {
    const DIGITS_MAX: usize = 18;
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    if digits.is_empty() || digits.len() > DIGITS_MAX {
        return None;
    }
    let mut number = 0_i64;
    for digit in digits {
        number = number * 10 + i64::from(digit.wrapping_sub(b'0'));
        if !digit.is_ascii_digit() {
            return None;
        }
    }
    Some(if digits.len() < value.len() { -number } else { number })
}

/// Adds to a text, without a call of the engine for a few bytes.
fn put(out: &mut String, more: &str) {
    // SAFETY: there is room for `more`, which is text, and so is what there is with it.
    unsafe {
        let out = out.as_mut_vec();
        out.reserve(more.len());
        copy(more.as_ptr(), out.as_mut_ptr().add(out.len()), more.len());
        out.set_len(out.len() + more.len());
    }
}

/// Adds a number to a text.
fn put_number(out: &mut String, number: i64) {
    // SAFETY: digits and a sign are text.
    digits(number, |digits| put(out, unsafe { core::str::from_utf8_unchecked(digits) }));
}

fn expected(kind: u32) -> &'static str {
    match kind {
        BOOLEAN => "true or false",
        INTEGER => "an integer of 32 bits",
        LONG | IDENTIFIER => "an integer of 64 bits",
        DECIMAL => "a decimal number",
        DATE => "a date (yyyy-MM-dd)",
        TIME => "a time (HH:mm:ss)",
        DATE_TIME => "a date and time (yyyy-MM-ddTHH:mm:ssZ)",
        BINARY => "text in base64",
        RECORD => "an object",
        LIST => "an array",
        EMAIL => "an email address",
        _ => "text",
    }
}

/// Reads a single value into a slot; false when it is none of the type.
pub(crate) unsafe fn scalar(value: &str, slot: u32, shape: u32) -> bool {
    let word = match shape {
        BOOLEAN if value.eq_ignore_ascii_case("true") => Some(1),
        BOOLEAN if value.eq_ignore_ascii_case("false") => Some(0),
        INTEGER => value.parse::<i32>().ok().map(i64::from),
        LONG | IDENTIFIER => value.parse::<i64>().ok(),
        DECIMAL => decimal::parse(value).map(|units| i64::from(new_decimal(units))),
        DATE => calendar::parse_date(value).map(i64::from),
        TIME => calendar::parse_time(value),
        DATE_TIME => calendar::parse_date_time(value),
        BINARY => from_base64(value).map(|raw| i64::from(new_bytes(&raw))),
        EMAIL if !value.is_empty() && !format::is_email(value) => None,
        TEXT | EMAIL | PHONE if !value.contains('\0') => Some(i64::from(new_text(value))),
        _ => None,
    };
    if let Some(word) = word {
        wr64(slot, word);
    }
    word.is_some()
}

/// Writes a value: the word of its slot. Attributes that hold the default of their type only when `all` are
/// wanted.
pub(crate) unsafe fn write(out: &mut String, word: i64, desc: u32, all: bool) {
    match kind(desc) {
        BOOLEAN => put(out, if word as i32 != 0 { "true" } else { "false" }),
        INTEGER => put_number(out, i64::from(word as i32)),
        LONG | IDENTIFIER => put_number(out, word),
        DECIMAL => {
            let mut buffer = [0; decimal::TEXT_BYTES];
            let start = decimal::write(&mut buffer, decimal_at(word as u32));
            put(out, core::str::from_utf8_unchecked(&buffer[start..])); // SAFETY: digits, a sign and a point
        }
        DATE => quoted(out, |out| calendar::format_date(out, word as i32)),
        TIME => quoted(out, |out| calendar::format_time(out, word)),
        DATE_TIME => quoted(out, |out| {
            calendar::format_date_time(out, word, 'T');
            out.push('Z');
        }),
        BINARY => quoted(out, |out| to_base64(out, bytes(word as u32))),
        RECORD => {
            out.push('{');
            let start = out.len();
            for index in 0..field_count(desc) {
                let (field, inner) = (field(desc, index), rd64(word as u32 + index * 8));
                if !all && is_default(inner, field.desc) {
                    continue;
                }
                if out.len() > start {
                    out.push(',');
                }
                put(out, text(field.key));
                write(out, inner, field.desc, all);
            }
            out.push('}');
        }
        LIST => {
            out.push('[');
            for index in 0..list_len(word as u32) {
                if index > 0 {
                    out.push(',');
                }
                write(out, rd64(rd32(word as u32 + 8) + index * 8), element(desc), all);
            }
            out.push(']');
        }
        _ => write_string(out, text(word as u32)),
    }
}

/// JSON Serialize: a record or list as text.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_json_serialize(value: u32, desc: u32, defaults: u32) -> u32 {
    // The length of the text goes in front of it, where it is made: it is not copied.
    rt_mark();
    let mut out = String::from("\0\0\0\0");
    write(&mut out, i64::from(value), desc, defaults != 0);
    let size = u32::try_from(out.len()).unwrap_or_else(|_| core::arch::wasm32::unreachable());
    let at = out.leak().as_ptr() as u32;
    wr32(at, size - 4);
    at
}

/// JSON Deserialize: a text as a record or list; a text that does not fit is an exception.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_json_deserialize(source: u32, desc: u32) -> u32 {
    let slot = rt_alloc(8);
    write_default(slot, desc);
    let mut problems = Vec::new();
    read_document(text(source), "The text", slot, desc, &mut problems);
    if !problems.is_empty() {
        raise(500, &format!("JSON Deserialize: {}", problems.join("; ")));
    }
    rd32(slot)
}

/// Writes a JSON string.
pub(crate) fn write_string(out: &mut String, value: &str) {
    if plain_end(value.as_bytes(), 0) == value.len() {
        // SAFETY: there is room for the text and two quotes.
        unsafe {
            let (size, start) = (value.len() + 2, out.len());
            let out = out.as_mut_vec();
            out.reserve(size);
            let to = out.as_mut_ptr().add(start);
            *to = b'"';
            copy(value.as_ptr(), to.add(1), value.len());
            *to.add(size - 1) = b'"';
            out.set_len(start + size);
        }
        return;
    }
    out.push('"');
    let mut at = 0;
    loop {
        let end = plain_end(value.as_bytes(), at);
        put(out, &value[at..end]);
        let Some(byte) = value.as_bytes().get(end) else { break };
        match byte {
            b'"' => put(out, "\\\""),
            b'\\' => put(out, "\\\\"),
            b'\n' => put(out, "\\n"),
            b'\r' => put(out, "\\r"),
            b'\t' => put(out, "\\t"),
            control => {
                put(out, "\\u00");
                for nibble in [control >> 4, control & 15] {
                    out.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
                }
            }
        }
        at = end + 1;
    }
    out.push('"');
}

fn quoted(out: &mut String, write: impl FnOnce(&mut String)) {
    out.push('"');
    write(out);
    out.push('"');
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn to_base64(out: &mut String, raw: &[u8]) {
    for chunk in raw.chunks(3) {
        let word = chunk.iter().fold(0u32, |w, b| (w << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = BASE64[(word >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= chunk.len() { digit as char } else { '=' });
        }
    }
}

pub(crate) fn from_base64(value: &str) -> Option<Vec<u8>> {
    let digits = value.trim_end_matches('=').as_bytes();
    if digits.len() % 4 == 1 || !value.len().is_multiple_of(4) || value.len() - digits.len() > 2 {
        return None;
    }
    let mut raw = Vec::with_capacity(value.len() / 4 * 3);
    for chunk in digits.chunks(4) {
        let mut word = 0u32;
        for digit in chunk {
            word = (word << 6) | BASE64.iter().position(|b| b == digit)? as u32;
        }
        word <<= 6 * (4 - chunk.len());
        raw.extend_from_slice(&word.to_be_bytes()[1..chunk.len()]);
    }
    Some(raw)
}
