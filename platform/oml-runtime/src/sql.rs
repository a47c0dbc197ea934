//! Statements: parameters are collected one by one, then the statement runs.
//!
//! Generated code knows each column's type at compile time and calls the matching `rt_param_*`; rows
//! come back into slots through the record's descriptor. A failed statement is a Database Exception.
//! Invariant: the parameters are empty between two statements.

use alloc::string::String;
use alloc::vec::Vec;

use crate::bindings::odeon::sql::session::{self, Error, Rows, Value};
use crate::calendar::DATE_DEFAULT;
use crate::exceptions::{DATABASE, raise_as};
use crate::lists::{rt_list_append, rt_new_list};
use crate::memory::{
    bytes, decimal as decimal_at, new_bytes, new_decimal, new_text, rd32, rd64, text, wr32, wr64,
};
use crate::values::{
    BINARY, DATE, DATE_TIME, EMAIL, IDENTIFIER, PHONE, TEXT, field, field_count, is_default, kind,
    rt_new_record,
};
use crate::{calendar, decimal};

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

/// Runs a statement, behind a savepoint where a handler may go on after it failed.
fn run<T>(writes: bool, statement: impl FnOnce(&[Value]) -> Result<T, Error>) -> Result<T, Error> {
    let params = params();
    // SAFETY: one thread.
    let guarded = unsafe {
        WRITTEN |= writes;
        PROTECTED > 0 && WRITTEN
    };
    if !guarded {
        return statement(&params);
    }
    session::execute("SAVEPOINT odeon_try", &[])?;
    let outcome = statement(&params);
    if outcome.is_err() {
        session::execute("ROLLBACK TO SAVEPOINT odeon_try", &[])?;
    }
    session::execute("RELEASE SAVEPOINT odeon_try", &[])?;
    outcome
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
}

/// Runs a SELECT; the rows become records of `desc`, in a list.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_query(sql: u32, desc: u32) -> u32 {
    let list = rt_new_list();
    match run(false, |params| session::query(text(sql), params)) {
        Ok(rows) => {
            let width = field_count(desc) as usize;
            for row in rows.values.chunks_exact(width.max(1)) {
                wr32(rt_list_append(list), read_row(row, desc));
            }
        }
        Err(error) => failed(&error),
    }
    list
}

/// Runs a SELECT of one row; none is an exception with the message `absent`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_query_one(sql: u32, desc: u32, absent: u32) -> u32 {
    match run(false, |params| session::query(text(sql), params)) {
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
    // The Id in front is the database's.
    for index in 1..field_count(desc) {
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
        Ok(Rows { values, .. }) => match values.first() {
            Some(Value::Int64(id)) => *id,
            Some(Value::Int32(id)) => i64::from(*id),
            _ => 0,
        },
        Err(error) => {
            failed(&error);
            0
        }
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
    unsafe { WRITTEN = false };
    if let Err(error) = session::commit() {
        failed(&error);
    }
}

/// Undoes what was written.
pub(crate) fn rollback() {
    // SAFETY: one thread.
    unsafe { WRITTEN = false };
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

fn failed(error: &Error) {
    let (kind, detail) = match error {
        Error::Constraint(name) => ("the constraint is broken", name),
        Error::Conflict(detail) => ("another transaction is in the way", detail),
        Error::Denied(detail) => ("not allowed", detail),
        Error::Invalid(detail) => ("the statement is not valid", detail),
        Error::Limit(detail) => ("a limit was met", detail),
        Error::Unavailable(detail) => ("the database is not available", detail),
    };
    let status = if matches!(error, Error::Unavailable(_)) { 503 } else { 500 };
    raise_as(DATABASE, status, &alloc::format!("Database exception: {kind}: {detail}"));
}

unsafe fn read_row(row: &[Value], desc: u32) -> u32 {
    let record = rt_new_record(desc);
    for index in 0..field_count(desc) {
        let slot = record + index * 8;
        match &row[index as usize] {
            // A column added later may be empty; there is no NULL in the language.
            Value::Null => match kind(field(desc, index).desc) {
                DATE => wr64(slot, i64::from(DATE_DEFAULT)),
                DATE_TIME => wr64(slot, i64::from(DATE_DEFAULT) * calendar::DAY_US),
                _ => wr64(slot, 0),
            },
            Value::Boolean(v) => wr64(slot, i64::from(*v)),
            Value::Int32(v) | Value::Date(v) => wr64(slot, i64::from(*v)),
            Value::Int64(v) | Value::Time(v) | Value::Timestamp(v) => wr64(slot, *v),
            Value::Decimal(v) => wr64(slot, i64::from(new_decimal(decimal::parse(v).unwrap_or(0)))),
            Value::Text(v) => wr64(slot, i64::from(new_text(v))),
            Value::Bytes(v) => wr64(slot, i64::from(new_bytes(v))),
            Value::Float64(_) => {
                raise_as(DATABASE, 500, "Database exception: a column holds a floating point number")
            }
        }
    }
    record
}
