//! Roles: who calls, and what they may be.
//!
//! Who has a role lies in a table of the app's schema, which the compiler writes to. Users are compared to the letter.
//! Invariant: when the database cannot be asked, nobody has a role, and what was written stays written.

use alloc::string::String;

use crate::bindings::odeon::sql::session::Value;
use crate::memory::{new_text, text};
use crate::sql;

/// Who calls; empty when nobody said.
static mut USER: String = String::new();

/// Says who calls, for the rest of the request.
pub(crate) fn set_user(user: &str) {
    // SAFETY: one thread, and nobody keeps a reference.
    unsafe { USER = String::from(user) }
}

pub(crate) fn user() -> String {
    let user = &raw const USER;
    // SAFETY: as above.
    unsafe { (*user).clone() }
}

/// Whether a user, or whoever calls, has a role; `App.Role` is one of another app, whose members a view shows.
pub(crate) fn has(role: &str, of: &str) -> bool {
    let member = if of.is_empty() { user() } else { String::from(of) };
    if member.is_empty() {
        return false;
    }
    let is_name = |app: &str| app.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let (table, role) = match role.split_once('.') {
        Some((app, role)) if is_name(app) => (alloc::format!("\"{app}.odeon_roles\""), role),
        _ => (String::from("odeon_roles"), role),
    };
    let statement = alloc::format!(
        "SELECT count(*) FROM {table} WHERE role COLLATE \"C\" = $1 AND member COLLATE \"C\" = $2"
    );
    let rows = sql::ask(&statement, &[Value::Text(role.into()), Value::Text(member)]);
    rows.is_ok_and(|rows| matches!(rows.values.first(), Some(Value::Int64(count)) if *count > 0))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_user() -> u32 {
    new_text(&user())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_has_role(role: u32, of: u32) -> i32 {
    i32::from(has(text(role), text(of)))
}
