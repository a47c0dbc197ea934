//! Statements: parameters are collected one by one, then the statement runs.
//!
//! Generated code knows each column's type at compile time and calls the matching `rt_param_*`; rows
//! come back into slots through the record's descriptor. A failed statement is a Database Exception.
//! Invariant: the parameters are empty between two statements.

use alloc::string::String;
use alloc::vec::Vec;

use crate::bindings::odeon::sql::session::{self, Error, Rows, Value};
use crate::exceptions::{DATABASE, raise_as};
use crate::lists::{list_len, rt_list_append, rt_new_list};
use crate::memory::{
    bytes, decimal as decimal_at, new_bytes, new_decimal, new_text, rd32, rd64, text, wr32, wr64,
};
use crate::values::*;
use crate::{calendar, decimal};

/// In the place of a column: it is the attribute itself, not one inside. The compiler knows it too.
const WHOLE: u32 = u32::MAX;
/// Characters of a refused sort that its exception repeats.
const ASKED_CHARACTERS_MAX: usize = 100;

static mut PARAMS: Vec<Value> = Vec::new();

fn param(value: Value) {
    let params = &raw mut PARAMS;
    // SAFETY: one thread, and no reference outlives the call.
    unsafe { (*params).push(value) }
}

fn params() -> Vec<Value> {
    let params = &raw mut PARAMS;
    // SAFETY: as above.
    unsafe { core::mem::take(&mut *params) }
}

/// Drops what was bound for a statement that an exception kept from being sent.
pub(crate) fn forget_params() {
    drop(params());
}

/// A failed statement inside is undone alone, so that what was written before it stays.
static mut PROTECTED: u32 = 0;
/// Something was written that is not committed: a failed statement would doom it.
static mut WRITTEN: bool = false;

/// Enters (1) or leaves (-1) what a handler guards that goes on with the transaction.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_protect(by: i32) {
    PROTECTED = PROTECTED.wrapping_add_signed(by);
}

/// Whether a statement that comes now runs behind a savepoint, because a handler may go on after it failed.
pub(crate) fn is_guarded(writes: bool) -> bool {
    // SAFETY: one thread.
    unsafe {
        WRITTEN |= writes;
        PROTECTED > 0 && WRITTEN
    }
}

/// Runs a statement, and undoes it alone when it fails.
pub(crate) fn alone<T, E: From<Error>>(statement: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    session::execute("SAVEPOINT odeon_try", &[])?;
    let outcome = statement();
    if outcome.is_err() {
        session::execute("ROLLBACK TO SAVEPOINT odeon_try", &[])?;
    }
    session::execute("RELEASE SAVEPOINT odeon_try", &[])?;
    outcome
}

/// Runs a statement with what was bound for it.
fn run<T>(writes: bool, statement: impl FnOnce(&[Value]) -> Result<T, Error>) -> Result<T, Error> {
    let params = params();
    if is_guarded(writes) { alone(|| statement(&params)) } else { statement(&params) }
}

/// Runs a SELECT of Odeon's own, whose failure is nobody's: it leaves the transaction as it was.
pub(crate) fn ask(statement: &str, params: &[Value]) -> Result<Rows, Error> {
    // SAFETY: one thread.
    let written = unsafe { WRITTEN };
    if written { alone(|| session::query(statement, params)) } else { session::query(statement, params) }
}

macro_rules! binders {
    ($($name:ident($v:ident: $ty:ty) = $body:expr;)*) => {
        $(#[unsafe(no_mangle)] unsafe extern "C" fn $name($v: $ty) {
            param($body);
        })*
    };
}

binders! {
    rt_param_bool(v: i32) = Value::Boolean(v != 0);
    rt_param_int(v: i32) = Value::Int32(v);
    rt_param_long(v: i64) = Value::Int64(v);
    rt_param_dec(v: u32) = Value::Decimal(decimal::format(decimal_at(v)));
    rt_param_text(v: u32) = Value::Text(String::from(text(v)));
    rt_param_date(v: i32) = Value::Date(v);
    rt_param_time(v: i64) = Value::Time(v);
    rt_param_datetime(v: i64) = Value::Timestamp(v);
    rt_param_bytes(v: u32) = Value::Bytes(bytes(v).to_vec());
    rt_param_id(v: i64) = if v == 0 { Value::Null } else { Value::Int64(v) };
    rt_param_text_id(v: u32) = if text(v).is_empty() { Value::Null } else { Value::Text(String::from(text(v))) };
}

/// Runs a SELECT; the rows become records of `desc`, in a list. `places` are a count, then per column the
/// attribute that it is, and the attribute inside that one or `WHOLE`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_select(sql: u32, desc: u32, places: u32) -> u32 {
    records(run(false, |params| session::query(text(sql), params)), desc, places)
}

unsafe fn records(rows: Result<Rows, Error>, desc: u32, places: u32) -> u32 {
    let list = rt_new_list();
    match rows {
        Ok(rows) => {
            let width = rd32(places) as usize;
            for row in rows.values.chunks_exact(width.max(1)) {
                let record = rt_new_record(desc);
                for (column, value) in row.iter().enumerate() {
                    let at = places + 4 + column as u32 * 8;
                    let (outer, inner) = (rd32(at), rd32(at + 4));
                    let (mut slot, mut of) = (record + outer * 8, field(desc, outer).desc);
                    if inner != WHOLE {
                        (slot, of) = (rd32(slot) + inner * 8, field(of, inner).desc);
                    }
                    store(slot, of, value, column);
                }
                wr32(rt_list_append(list), record);
            }
        }
        Err(error) => failed(&error),
    }
    list
}

/// Rows that are fetched from a cursor at once: enough that the round trip does not count, and not many to hold.
const FETCH_ROWS: u32 = 500;

/// Cursors that are open now.
static mut CURSORS: u32 = 0;
/// Grows when an exception may have left cursors open: their names are not used again.
static mut ABANDONED: u32 = 0;

/// An exception was taken, and the transaction goes on: cursors that it passed stay open until the end.
pub(crate) fn abandon_cursors() {
    // SAFETY: one thread.
    unsafe { (CURSORS, ABANDONED) = (0, ABANDONED + CURSORS.min(1)) }
}

/// Opens a cursor over a SELECT, and gives its name. The name says the statement, because the host keeps what it
/// learnt of a FETCH by its text.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_cursor_open(sql: u32) -> u32 {
    // FNV-1a; names of other statements differ, that is all it is for.
    let hash = text(sql).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let (abandoned, open) = (ABANDONED, CURSORS);
    let name = alloc::format!("odeon_{hash:016x}_{abandoned}_{open}");
    let declare = alloc::format!("DECLARE {name} NO SCROLL CURSOR FOR {}", text(sql));
    CURSORS += 1;
    if let Err(error) = run(true, |params| session::execute(&declare, params)) {
        failed(&error);
    }
    new_text(&name)
}

/// The next rows of a cursor, as `rt_select` gives rows.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_cursor_fetch(name: u32, desc: u32, places: u32) -> u32 {
    let fetch = alloc::format!("FETCH {FETCH_ROWS} FROM {}", text(name));
    records(run(false, |params| session::query(&fetch, params)), desc, places)
}

/// Whether there may be more rows than were fetched.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_cursor_more(fetched: u32) -> i32 {
    i32::from(list_len(fetched) == FETCH_ROWS)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_cursor_close(name: u32) {
    CURSORS = CURSORS.saturating_sub(1);
    let close = alloc::format!("CLOSE {}", text(name));
    if let Err(error) = run(true, |params| session::execute(&close, params)) {
        failed(&error);
    }
}

/// Runs a SELECT of a number of rows.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_count(sql: u32) -> i64 {
    match run(false, |params| session::query(text(sql), params)) {
        Ok(rows) => identifier(&rows),
        Err(error) => {
            failed(&error);
            0
        }
    }
}

/// Runs a statement of the author's that gives rows, inside the transaction when it writes. Its columns are
/// the attributes of `desc`, in their order.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_rows(sql: u32, desc: u32, writes: u32) -> u32 {
    let list = rt_new_list();
    let writes = writes != 0;
    let outcome = run(writes, |params| {
        if writes { session::execute_returning(text(sql), params) } else { session::query(text(sql), params) }
    });
    match outcome {
        Ok(rows) => {
            let (columns, width) = (rows.columns.len(), field_count(desc) as usize);
            if columns != width {
                let message = alloc::format!(
                    "Database exception: the statement gives {columns} columns, and its output has {width} attributes"
                );
                raise_as(DATABASE, 500, &message);
                return list;
            }
            for row in rows.values.chunks_exact(width.max(1)) {
                wr32(rt_list_append(list), read_row(row, desc));
            }
        }
        Err(error) => failed(&error),
    }
    list
}

/// Runs a statement of the author's for its effect, and gives how many rows it touched.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_touched(sql: u32) -> i64 {
    match run(true, |params| session::execute(text(sql), params)) {
        Ok(touched) => touched as i64,
        Err(error) => {
            failed(&error);
            0
        }
    }
}

/// The statement with an order that was asked for at run time: `Name`, `Source.Name` or `[Name]`, with `asc` or
/// `desc`, separated by commas. What is asked for is looked up in `choices` (a count, then name, text for small
/// values first, text for large values first) and never becomes part of the statement itself.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_ordered(before: u32, asked: u32, choices: u32, after: u32) -> u32 {
    let mut sql = String::from(text(before));
    let mut taken = Vec::new();
    let asked = text(asked).trim();
    let parts = if asked.is_empty() { None } else { Some(asked.split(',')) };
    for part in parts.into_iter().flatten() {
        let mut words = part.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let descending = match words.next() {
            None => Some(false),
            Some(word) if word.eq_ignore_ascii_case("asc") => Some(false),
            Some(word) if word.eq_ignore_ascii_case("desc") => Some(true),
            Some(_) => None,
        };
        let found = (0..rd32(choices)).map(|i| choices + 4 + i * 12).find(|at| text(rd32(*at)) == name);
        let (Some(at), Some(descending), None) = (found, descending, words.next()) else {
            return cannot_sort(part.trim(), choices);
        };
        // Named again, it changes nothing; so the statement has no more keys than there are choices.
        if !taken.contains(&at) {
            taken.push(at);
            sql.push_str(text(rd32(at + if descending { 8 } else { 4 })));
            sql.push_str(", ");
        }
    }
    sql.push_str(text(after));
    new_text(&sql)
}

unsafe fn cannot_sort(asked: &str, choices: u32) -> u32 {
    let shown: String = asked.chars().take(ASKED_CHARACTERS_MAX).collect();
    let mut message = alloc::format!("Database exception: cannot sort by `{shown}`; there is");
    for index in 0..rd32(choices) {
        message.push_str(if index == 0 { " " } else { ", " });
        message.push_str(text(rd32(choices + 4 + index * 12)));
    }
    raise_as(DATABASE, 500, &message);
    0
}

/// Runs a SELECT of one row; none is an exception with the message `absent`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_query_one(sql: u32, desc: u32, absent: u32) -> u32 {
    one(run(false, |params| session::query(text(sql), params)), desc, absent)
}

/// As `rt_query_one`, for a SELECT that locks the row until the transaction ends.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_lock_one(sql: u32, desc: u32, absent: u32) -> u32 {
    one(run(true, |params| session::execute_returning(text(sql), params)), desc, absent)
}

unsafe fn one(outcome: Result<Rows, Error>, desc: u32, absent: u32) -> u32 {
    match outcome {
        Ok(rows) if rows.values.len() >= field_count(desc) as usize => read_row(&rows.values, desc),
        Ok(_) => {
            raise_as(DATABASE, 500, text(absent));
            rt_new_record(desc)
        }
        Err(error) => {
            failed(&error);
            rt_new_record(desc)
        }
    }
}

/// Checks a record before it is written: what is mandatory is not empty, texts are within their lengths.
/// The columns themselves are wide, so that a length can change without touching the table.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_check(record: u32, desc: u32, entity: u32) {
    let mut problems = String::new();
    // An Id that the database counts is neither mandatory nor has it a length.
    for index in 0..field_count(desc) {
        let (field, slot) = (field(desc, index), record + index * 8);
        let problem = {
            if field.is_mandatory() && is_empty(slot, field.desc) {
                String::from("must not be empty")
            } else if let Some(most) = field.characters_max()
                && let count = text(rd32(slot)).chars().count()
                && count > most as usize
            {
                alloc::format!("holds {most} characters at most, not {count}")
            } else {
                continue;
            }
        };
        let between = if problems.is_empty() { "Database exception: " } else { "; " };
        let (entity, attribute) = (text(entity), text(field.name));
        problems.push_str(&alloc::format!("{between}{entity}.{attribute} {problem}"));
    }
    if !problems.is_empty() {
        raise_as(DATABASE, 500, &problems);
    }
}

/// Numbers, Booleans and times have no value that stands for "not given".
unsafe fn is_empty(slot: u32, desc: u32) -> bool {
    let may_be = matches!(kind(desc), TEXT | EMAIL | PHONE | BINARY | IDENTIFIER | DATE | DATE_TIME);
    may_be && is_default(rd64(slot), desc)
}

/// Runs an INSERT … RETURNING of the identifier.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_insert(sql: u32) -> i64 {
    match run(true, |params| session::execute_returning(text(sql), params)) {
        Ok(rows) => identifier(&rows),
        Err(error) => {
            failed(&error);
            0
        }
    }
}

/// The number that a row of one column holds.
fn identifier(rows: &Rows) -> i64 {
    match rows.values.first() {
        Some(Value::Int64(id)) => *id,
        Some(Value::Int32(id)) => i64::from(*id),
        _ => 0,
    }
}

/// Runs an UPDATE; touching no row is an exception with the message `absent`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_update(sql: u32, absent: u32) {
    match run(true, |params| session::execute(text(sql), params)) {
        Ok(0) => raise_as(DATABASE, 500, text(absent)),
        Ok(_) => {}
        Err(error) => failed(&error),
    }
}

/// Runs a DELETE; touching no row is fine.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_delete(sql: u32) {
    if let Err(error) = run(true, |params| session::execute(text(sql), params)) {
        failed(&error);
    }
}

/// Makes permanent what was written.
pub(crate) fn commit() {
    // SAFETY: one thread.
    unsafe { (WRITTEN, CURSORS) = (false, 0) };
    if let Err(error) = session::commit() {
        failed(&error);
    }
}

/// Undoes what was written.
pub(crate) fn rollback() {
    // SAFETY: one thread.
    unsafe { (WRITTEN, CURSORS) = (false, 0) };
    let _ = session::rollback(); // nothing to add: the caller has failed, and the host rolls back what is open
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_commit() {
    commit();
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_abort() {
    rollback();
}

/// What an error says, and what it says it about.
pub(crate) fn said(error: &Error) -> (&'static str, &str) {
    match error {
        Error::Constraint(name) => ("the constraint is broken", name),
        Error::Conflict(detail) => ("another transaction is in the way", detail),
        Error::Denied(detail) => ("not allowed", detail),
        Error::Invalid(detail) => ("the statement is not valid", detail),
        Error::Limit(detail) => ("a limit was met", detail),
        Error::Unavailable(detail) => ("the database is not available", detail),
    }
}

fn failed(error: &Error) {
    let (kind, detail) = said(error);
    let status = if matches!(error, Error::Unavailable(_)) { 503 } else { 500 };
    raise_as(DATABASE, status, &alloc::format!("Database exception: {kind}: {detail}"));
}

unsafe fn read_row(row: &[Value], desc: u32) -> u32 {
    let record = rt_new_record(desc);
    for (column, value) in row.iter().enumerate().take(field_count(desc) as usize) {
        store(record + column as u32 * 8, field(desc, column as u32).desc, value, column);
    }
    record
}

/// Writes a column's value into the slot of an attribute. Numbers become what the attribute is, when it can
/// hold them; anything else must be of the attribute's type.
unsafe fn store(slot: u32, desc: u32, value: &Value, column: usize) {
    match (kind(desc), value) {
        // There is no row, a sum of nothing, or a null identifier: there is no NULL in the language.
        (_, Value::Null) => write_default(slot, desc),
        (BOOLEAN, Value::Boolean(v)) => wr64(slot, i64::from(*v)),
        (DATE, Value::Date(v)) => wr64(slot, i64::from(*v)),
        (DATE_TIME, Value::Date(v)) => wr64(slot, i64::from(*v) * calendar::DAY_US),
        (TIME, Value::Time(v)) | (DATE_TIME, Value::Timestamp(v)) => wr64(slot, *v),
        (TEXT | EMAIL | PHONE, Value::Text(v)) => wr64(slot, i64::from(new_text(v))),
        (BINARY, Value::Bytes(v)) => wr64(slot, i64::from(new_bytes(v))),
        (INTEGER | LONG | IDENTIFIER, Value::Int32(v)) => wr64(slot, i64::from(*v)),
        (LONG | IDENTIFIER, Value::Int64(v)) => wr64(slot, *v),
        (to @ (INTEGER | LONG | IDENTIFIER | DECIMAL), _) => {
            let Some(units) = units(value) else { return misfit(desc, value, column) };
            let whole = i64::try_from(units / decimal::SCALE).ok().filter(|_| units % decimal::SCALE == 0);
            match (to, whole) {
                (DECIMAL, _) => wr64(slot, i64::from(new_decimal(units))),
                (INTEGER, Some(v)) if i32::try_from(v).is_ok() => wr64(slot, v),
                (LONG | IDENTIFIER, Some(v)) => wr64(slot, v),
                _ => misfit(desc, value, column),
            }
        }
        _ => misfit(desc, value, column),
    }
}

/// A number in units of 10^-8.
fn units(value: &Value) -> Option<i128> {
    match value {
        Value::Int32(v) => Some(i128::from(*v) * decimal::SCALE),
        Value::Int64(v) => Some(i128::from(*v) * decimal::SCALE),
        Value::Decimal(v) => decimal::parse(v),
        Value::Null
        | Value::Boolean(_)
        | Value::Float64(_)
        | Value::Text(_)
        | Value::Bytes(_)
        | Value::Date(_)
        | Value::Time(_)
        | Value::Timestamp(_) => None,
    }
}

unsafe fn misfit(desc: u32, value: &Value, column: usize) {
    let found = match value {
        Value::Null => "nothing",
        Value::Boolean(_) => "a boolean",
        Value::Int32(_) | Value::Int64(_) => "an integer",
        Value::Float64(_) => "a floating point number",
        Value::Decimal(_) => "a numeric",
        Value::Text(_) => "a text",
        Value::Bytes(_) => "bytes",
        Value::Date(_) => "a date",
        Value::Time(_) => "a time",
        Value::Timestamp(_) => "a timestamp",
    };
    let wanted = match kind(desc) {
        BOOLEAN => "a Boolean",
        INTEGER => "an Integer",
        LONG => "a Long Integer",
        DECIMAL => "a Decimal",
        DATE => "a Date",
        TIME => "a Time",
        DATE_TIME => "a Date Time",
        BINARY => "Binary Data",
        IDENTIFIER => "an Identifier",
        _ => "a Text",
    };
    let message = alloc::format!(
        "Database exception: column {} is {found} that does not fit {wanted}; a cast in the statement helps",
        column + 1
    );
    raise_as(DATABASE, 500, &message);
}
