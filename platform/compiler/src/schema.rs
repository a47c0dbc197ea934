//! Entities to the database schema that the migrator creates.
//!
//! Invariant: a table stands after the tables it refers to; where entities refer to each other in a
//! circle, the order of the model decides.

use odeon_oml::schema::{Column, ColumnType, ForeignKey, Index, Schema, Table};

use crate::literal;
use crate::types::{EntityDef, Named, RecordDef, Type};

pub(crate) fn schema(named: &Named) -> Schema {
    let entities: Vec<(usize, &RecordDef, &EntityDef)> = named
        .records
        .iter()
        .enumerate()
        .filter_map(|(index, record)| Some((index, record, record.entity.as_ref()?)))
        .collect();
    let mut placed: Vec<usize> = Vec::new();
    while placed.len() < entities.len() {
        let left: Vec<usize> = entities.iter().map(|(i, ..)| *i).filter(|i| !placed.contains(i)).collect();
        let ready = |record: &usize| {
            let refers = named.records[*record].fields.iter().skip(1).filter_map(target);
            refers.into_iter().all(|to| to == *record || placed.contains(&to))
        };
        let next = left.iter().copied().find(|r| ready(r)).unwrap_or(left[0]);
        placed.push(next);
    }
    let tables = placed.iter().filter_map(|index| {
        let record = &named.records[*index];
        Some(table(named, record, record.entity.as_ref()?))
    });
    let mut tables: Vec<Table> = tables.collect();
    if named.events.iter().any(|event| event.own) {
        tables.push(own(OUTBOX, ["event", "payload"]));
    }
    if !named.roles.is_empty() {
        let columns = ["role", "member"];
        let index = Index {
            name: format!("{ROLES}_member"),
            columns: columns.map(str::to_owned).to_vec(),
            unique: false,
        };
        tables.push(Table { indexes: vec![index], ..own(ROLES, columns) });
    }
    Schema { tables }
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
/// The table of events that wait to be sent; no entity has its name. See `host/capabilities/src/events.rs`.
pub(crate) const OUTBOX: &str = "odeon_outbox";

fn target(field: &crate::types::FieldDef) -> Option<usize> {
    if let Type::Identifier(to) = field.ty { to } else { None }
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
        let nullable = !is_key && matches!(field.ty, Type::Identifier(_));
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
            auto_number: is_key && !entity.is_static,
        });
        if let (false, Some(to)) = (is_key, target(field)) {
            table.foreign_keys.push(ForeignKey {
                column: field.column.clone(),
                references: named.records[to].table().to_owned(),
                on_delete: field.delete_rule,
            });
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
        Type::Text | Type::Email | Type::Phone => ColumnType::Text { length },
        Type::Date => ColumnType::Date,
        Type::Time => ColumnType::Time,
        Type::DateTime => ColumnType::DateTime,
        Type::Binary | Type::Record(_) | Type::List(_) => ColumnType::Binary,
    }
}
