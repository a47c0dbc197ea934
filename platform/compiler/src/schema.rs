//! Entities to the database schema that the migrator creates.
//!
//! Invariant: a table stands after the tables it refers to; where entities refer to each other in a
//! circle, the order of the model decides.

use std::collections::BTreeSet;

use odeon_oml::schema::{Column, ColumnType, ForeignKey, ForeignTable, Index, PublicTable, Schema, Table};

use crate::ast::Home;
use crate::interface::{foreign_entities, foreign_roles};
use crate::literal;
use crate::types::{EntityDef, FieldDef, Named, RecordDef, Type, Typed};

pub(crate) fn schema(typed: &Typed) -> Schema {
    let named = &typed.named;
    let placed = order(named);
    let tables = placed.iter().filter_map(|index| {
        let record = &named.records[*index];
        Some(table(named, record, record.entity.as_ref()?))
    });
    let mut tables: Vec<Table> = tables.collect();
    if named.events.iter().any(|event| event.own) {
        tables.push(own(OUTBOX, ["event", "payload"]));
    }
    if named.roles.iter().any(|role| role.own) {
        let index = Index {
            name: format!("{ROLES}_member"),
            columns: ROLE_COLUMNS.map(str::to_owned).to_vec(),
            unique: false,
        };
        tables.push(Table { indexes: vec![index], ..own(ROLES, ROLE_COLUMNS) });
    }
    let public = placed.iter().map(|index| &named.records[*index]);
    let public = public.filter(|record| record.entity.as_ref().is_some_and(|entity| entity.public));
    let mut public: Vec<PublicTable> = public.map(public_table).collect();
    let shown: Vec<String> =
        named.roles.iter().filter(|role| role.own && role.public).map(|role| role.name.clone()).collect();
    if !shown.is_empty() {
        let columns = ROLE_COLUMNS.map(|column| (column.to_owned(), column.to_owned())).to_vec();
        let only = Some((ROLE_COLUMNS[0].to_owned(), shown));
        public.push(PublicTable { name: ROLES.to_owned(), table: ROLES.to_owned(), columns, only });
    }
    let foreign = foreign_entities(typed).into_iter();
    let mut foreign: Vec<ForeignTable> =
        foreign.filter_map(|index| foreign_table(&named.records[index])).collect();
    let asked: BTreeSet<&str> =
        foreign_roles(typed).into_iter().filter_map(|role| Some(role.split_once('.')?.0)).collect();
    foreign.extend(asked.into_iter().map(|app| ForeignTable {
        app: app.to_owned(),
        name: ROLES.to_owned(),
        view: format!("{app}.{ROLES}"),
        columns: ROLE_COLUMNS.map(|c| (c.to_owned(), ColumnType::Text { length: None })).to_vec(),
        identifiers: Some(Vec::new()),
    }));
    Schema { tables, public, foreign }
}

/// The entities that have tables: the first in the model whose references are placed comes next, or else the first.
fn order(named: &Named) -> Vec<usize> {
    let records = || named.records.iter().enumerate();
    let mut waits = vec![0_usize; records().count()];
    let mut referrers: Vec<Vec<usize>> = vec![Vec::new(); waits.len()];
    // Rows of a library are in the code, and those of other apps are in other schemas.
    let own = |record: &RecordDef| record.entity.as_ref().is_some_and(|entity| entity.home == Home::Own);
    let mut left: BTreeSet<usize> = records().filter(|(_, r)| own(r)).map(|(index, _)| index).collect();
    for index in &left {
        let refers = named.records[*index].fields.iter().filter_map(|field| target(named, field));
        for to in refers.filter(|to| to != index) {
            waits[*index] += 1;
            referrers[to].push(*index);
        }
    }
    let mut ready: BTreeSet<usize> = left.iter().copied().filter(|index| waits[*index] == 0).collect();
    let mut placed = Vec::new();
    while let Some(next) = ready.pop_first().or_else(|| left.first().copied()) {
        left.remove(&next);
        placed.push(next);
        for referrer in &referrers[next] {
            waits[*referrer] -= 1;
            if waits[*referrer] == 0 && left.contains(referrer) {
                ready.insert(*referrer);
            }
        }
    }
    placed
}

fn public_table(record: &RecordDef) -> PublicTable {
    let columns = record.fields.iter().map(|field| (field.name.clone(), field.column.clone()));
    let (name, table) = (record.name.clone(), record.table().to_owned());
    PublicTable { name, table, columns: columns.collect(), only: None }
}

fn foreign_table(record: &RecordDef) -> Option<ForeignTable> {
    let Some(EntityDef { home: Home::App(app), table, .. }) = &record.entity else { return None };
    let (_, name) = record.name.split_once('.')?;
    let columns =
        record.fields.iter().map(|field| (field.name.clone(), column_type(&field.ty, field.length)));
    let identifiers = record.fields.iter().filter(|field| field.ty.is_identifier());
    Some(ForeignTable {
        app: app.clone(),
        name: name.to_owned(),
        view: table.clone(),
        columns: columns.collect(),
        identifiers: Some(identifiers.map(|field| field.name.clone()).collect()),
    })
}

/// A table of Odeon's in the app's schema: a number and texts.
fn own(name: &str, texts: [&str; 2]) -> Table {
    let column = |name: &str, column_type| Column {
        name: name.to_owned(),
        column_type,
        nullable: false,
        default: Some(String::new()),
        auto_number: false,
    };
    let id = Column { auto_number: true, default: None, ..column("id", ColumnType::LongInteger) };
    let texts = texts.map(|name| column(name, ColumnType::Text { length: None }));
    let columns = [id].into_iter().chain(texts).collect();
    Table { name: name.to_owned(), columns, primary_key: "id".to_owned(), ..Table::default() }
}

/// The table of roles and who has them; no entity has its name.
pub(crate) const ROLES: &str = "odeon_roles";
const ROLE_COLUMNS: [&str; 2] = ["role", "member"];
/// The table of events that wait to be sent; no entity has its name. See `host/capabilities/src/events.rs`.
pub(crate) const OUTBOX: &str = "odeon_outbox";

/// The entity whose table a column refers to.
fn target(named: &Named, field: &FieldDef) -> Option<usize> {
    let to = field.ty.identifies()?;
    named.records[to].entity.as_ref().is_some_and(|entity| entity.home == Home::Own).then_some(to)
}

fn table(named: &Named, record: &RecordDef, entity: &EntityDef) -> Table {
    let mut table = Table {
        name: record.table().to_owned(),
        primary_key: "Id".into(),
        is_static: entity.is_static,
        ..Table::default()
    };
    for (index, field) in record.fields.iter().enumerate() {
        let is_key = index == 0;
        let nullable = !is_key && field.ty.is_identifier();
        let default = field.default.clone().or_else(|| literal::default_of(&field.ty));
        table.columns.push(Column {
            name: field.column.clone(),
            column_type: column_type(&field.ty, field.length),
            nullable,
            default: if is_key || nullable {
                None
            } else {
                Some(default.map(|c| literal::shown(&c)).unwrap_or_default())
            },
            auto_number: field.auto_number && !entity.is_static,
        });
        let refers = field.ty.identifies().map(|to| &named.records[to]);
        if refers.is_some_and(|other| !(is_key && std::ptr::eq(other, record))) {
            let foreign_key = target(named, field).map(|to| ForeignKey {
                column: field.column.clone(),
                references: named.records[to].table().to_owned(),
                on_delete: field.delete_rule,
            });
            table.foreign_keys.extend(foreign_key);
            if is_key {
                continue; // it has the index of the primary key
            }
            table.indexes.push(Index {
                name: format!("{}_{}", record.table(), field.column),
                columns: vec![field.column.clone()],
                unique: false,
            });
        }
    }
    for (name, columns, unique) in &entity.indexes {
        let name = format!("{}_{name}", record.table());
        table.indexes.retain(|i| i.name != name);
        table.indexes.push(Index {
            name,
            columns: columns.iter().map(|name| column(record, name)).collect(),
            unique: *unique,
        });
    }
    table.records = entity.rows.iter().map(|(_, _, row)| row.clone()).collect();
    table
}

fn column(record: &RecordDef, attribute: &str) -> String {
    let field = record.fields.iter().find(|field| field.name == attribute);
    field.map_or(attribute, |field| &field.column).to_owned()
}

fn column_type(ty: &Type, length: Option<u32>) -> ColumnType {
    match ty {
        Type::Boolean => ColumnType::Boolean,
        Type::Integer => ColumnType::Integer,
        Type::Unknown | Type::Long | Type::Identifier(_) => ColumnType::LongInteger,
        Type::Decimal => ColumnType::Decimal,
        Type::Text | Type::Email | Type::Phone | Type::TextIdentifier(_) => ColumnType::Text { length },
        Type::Date => ColumnType::Date,
        Type::Time => ColumnType::Time,
        Type::DateTime => ColumnType::DateTime,
        Type::Binary | Type::Record(_) | Type::List(_) => ColumnType::Binary,
    }
}
