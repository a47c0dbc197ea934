//! The stage-side holder of a database's admin login: roles, grants, schemas.

fn main() {}
