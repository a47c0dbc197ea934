//! The OML types: the model as people write it, and the database schema that follows from it.
//!
//! [`model`] mirrors the text of an app, key by key; its JSON Schema is what editors and generators
//! check against, checked in as `docs/oml/oml.schema.json`. The compiler reads the text itself, because
//! it needs a position for every word; a test of the compiler holds the keys of the two together. [`schema`] is what a migrator turns into tables.
//!
//! Types only: no logic that another crate could want to change.

pub mod model;
pub mod schema;
