//! The database schema of an app: what the migrator creates, in the order it must be created.
//!
//! Plain data that travels with a revision, so every type reads and writes serde. Names are exact and
//! must be quoted. Invariant: a table stands after the tables its foreign keys name, except in a cycle.

use serde::{Deserialize, Serialize};

/// Every table of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The tables, referenced ones first.
    pub tables: Vec<Table>,
    /// What other apps may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub public: Vec<PublicTable>,
    /// What is read of other apps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<ForeignTable>,
}

/// A table that other apps may read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicTable {
    /// The entity's name.
    pub name: String,
    /// Its table.
    pub table: String,
    /// Its attributes, each with its column.
    pub columns: Vec<(String, String)>,
    /// Where not all rows may be read: a column, and what it holds in those that may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only: Option<(String, Vec<String>)>,
}

/// A table of another app that is read through a view.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignTable {
    /// The other app's name.
    pub app: String,
    /// The entity's name there.
    pub name: String,
    /// The name of the view, in the schema of the app that reads.
    pub view: String,
    /// The attributes that the view shows, and their types.
    pub columns: Vec<(String, ColumnType)>,
    /// Those of them that are identifiers to the app that reads: NULL is the null identifier there, and every other
    /// attribute has a value. Schemas made before this was known do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identifiers: Option<Vec<String>>,
}

/// One entity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// The entity's name.
    pub name: String,
    /// The columns in the order of the model, the identifier first.
    pub columns: Vec<Column>,
    /// The column that identifies a row.
    pub primary_key: String,
    /// Indexes beyond the primary key.
    pub indexes: Vec<Index>,
    /// References to other entities.
    pub foreign_keys: Vec<ForeignKey>,
    /// The rows of a static entity: text literals in the order of `columns`.
    pub records: Vec<Vec<Option<String>>>,
    /// The rows are part of the model; the app only reads them.
    pub is_static: bool,
}

/// One attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// The attribute's name.
    pub name: String,
    /// Its type.
    pub column_type: ColumnType,
    /// May hold NULL: references only.
    pub nullable: bool,
    /// Literal text of the default, without quotes.
    pub default: Option<String>,
    /// The database counts the values.
    pub auto_number: bool,
}

/// The types a column may have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ColumnType {
    /// `boolean`.
    Boolean,
    /// `int4`.
    Integer,
    /// `int8`.
    #[default]
    LongInteger,
    /// `numeric(37,8)`.
    Decimal,
    /// `text` in the collation `odeon_text`.
    Text {
        /// Most characters allowed.
        length: Option<u32>,
    },
    /// `date`.
    Date,
    /// `time`.
    Time,
    /// `timestamp` in UTC.
    DateTime,
    /// `bytea`.
    Binary,
}

/// One index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    /// Its name, unique in the app.
    pub name: String,
    /// The indexed columns.
    pub columns: Vec<String>,
    /// No two rows may be equal in them.
    pub unique: bool,
}

/// One reference to another entity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The referring column.
    pub column: String,
    /// The table referred to, by its primary key.
    pub references: String,
    /// What deleting the target does.
    pub on_delete: DeleteRule,
}

/// What deleting a row does to the rows that refer to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum DeleteRule {
    /// The row cannot be deleted.
    #[default]
    Protect,
    /// They are deleted too.
    Delete,
    /// They stay and refer to nothing.
    Ignore,
}
