//! From one schema to the next, as statements. Pure: what is there and what is wanted in, a plan or
//! reasons against it out.
//!
//! Two revisions serve during a rollout, so each step must suit the running one too: tables and columns are
//! added (with a default, so that inserts which do not know them go through), indexes and references follow
//! the model, and nothing else happens. A table or column that left the model stays, with its data, and refers to
//! nothing any more. What cannot be done this way is refused with a code, all reasons at once; rows refuse what is new
//! only, never the way back.

use odeon_oml::schema::{Column, ColumnType, DeleteRule, ForeignKey, ForeignTable, Index, Schema, Table};
use odeon_protocol::Refusal;

/// Whether rows that are there may refuse a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rows {
    /// They have to fit: the revision is new here.
    Fit,
    /// They need not: the revision was here before, and no row holds up the way back to it.
    MayNotFit,
}

/// A unique index that is left out where rows do not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UniqueIndex {
    /// Makes it.
    pub statement: String,
    /// The table that it is on.
    pub table: String,
    /// Its name in the model.
    pub name: String,
}

/// What to run, and what is there afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Statements in order, for the role that owns the tables, in the app's schema.
    pub statements: Vec<String>,
    /// What to run after them, each of which may find that rows do not fit.
    pub where_rows_fit: Vec<UniqueIndex>,
    /// What they do, for people.
    pub steps: Vec<String>,
    /// Everything that is there afterwards, what left the model and what is left out where rows do not fit included.
    pub after: Schema,
}

/// Plans the way from `have` to `want`.
pub fn plan(have: &Schema, want: &Schema, rows: Rows) -> Result<Plan, Refusal> {
    let mut plan = Plan { after: have.clone(), ..Plan::default() };
    let mut reasons = Vec::new();
    for table in &want.tables {
        match have.tables.iter().find(|there| there.name == table.name) {
            None => create_table(&mut plan, table),
            Some(there) => change_table(&mut plan, there, table, &mut reasons),
        }
    }
    for table in &want.tables {
        let there = have.tables.iter().find(|there| there.name == table.name);
        change_references(&mut plan, there, table, rows);
        change_indexes(&mut plan, there, table, rows);
        write_records(&mut plan, table);
    }
    for table in have.tables.iter().filter(|there| !want.tables.iter().any(|table| table.name == there.name))
    {
        plan.steps.push(format!("entity {} left the model; its table stays", table.name));
        leave_references(&mut plan, table);
    }
    plan.after.public.clone_from(&want.public);
    plan.after.foreign = both(&have.foreign, &want.foreign);
    if reasons.is_empty() {
        Ok(plan)
    } else {
        Err(Refusal::new(
            "OS-DPL-40910",
            format!("{}. Nothing was changed; the old revision keeps serving", reasons.join("; ")),
        ))
    }
}

/// What is read of other apps, before and now: until the app is undeployed the revision before may still serve.
fn both(have: &[ForeignTable], want: &[ForeignTable]) -> Vec<ForeignTable> {
    let mut all = want.to_vec();
    for old in have {
        match all.iter_mut().find(|table| table.view == old.view) {
            Some(table) => {
                let is_gone =
                    |(name, _): &&(String, ColumnType)| !table.columns.iter().any(|(n, _)| n == name);
                let gone: Vec<_> = old.columns.iter().filter(is_gone).cloned().collect();
                let is_identifier = |name: &&String| gone.iter().any(|(gone, _)| gone == *name);
                let of_old = old.identifiers.iter().flatten().filter(is_identifier).cloned();
                if let Some(identifiers) = &mut table.identifiers {
                    identifiers.extend(of_old);
                }
                table.columns.extend(gone);
            }
            None => all.push(old.clone()),
        }
    }
    all.sort_by(|a, b| a.view.cmp(&b.view));
    all
}

fn create_table(plan: &mut Plan, table: &Table) {
    let mut parts: Vec<String> = table.columns.iter().map(column_definition).collect();
    parts.push(format!("primary key ({})", quoted(&table.primary_key)));
    plan.statements.push(format!("create table {} ({})", quoted(&table.name), parts.join(", ")));
    plan.steps.push(format!("created the table of entity {}", table.name));
    plan.after.tables.push(table.clone());
}

fn change_table(plan: &mut Plan, there: &Table, want: &Table, reasons: &mut Vec<String>) {
    let name = &want.name;
    if there.primary_key != want.primary_key {
        reasons.push(format!(
            "the identifier of entity {name} is {} and cannot become {}: other rows refer to it",
            there.primary_key, want.primary_key
        ));
    }
    let mut merged = want.clone();
    for column in &want.columns {
        match there.columns.iter().find(|old| old.name == column.name) {
            None => {
                plan.statements.push(format!(
                    "alter table {} add column {}",
                    quoted(name),
                    column_definition(column)
                ));
                plan.steps.push(format!("added attribute {name}.{}", column.name));
            }
            Some(old) if old.auto_number != column.auto_number => {
                let (is, becomes) = match old.auto_number {
                    true => ("numbered by the database", "given by the app"),
                    false => ("given by the app", "numbered by the database"),
                };
                reasons.push(format!(
                    "attribute {name}.{} is {is} and cannot become {becomes}: the running revision still uses it; add an attribute of another name",
                    column.name
                ));
            }
            Some(old) if !same_type(old.column_type, column.column_type) => {
                reasons.push(format!(
                    "attribute {name}.{} is {} in the database and cannot become {}: the running revision still uses it; add an attribute of another name",
                    column.name,
                    sql_type(old.column_type),
                    sql_type(column.column_type)
                ));
            }
            Some(old) => {
                if old.default != column.default && !column.auto_number {
                    let default = default_clause(column).unwrap_or_else(|| "default null".to_owned());
                    let at = quoted(&column.name);
                    plan.statements
                        .push(format!("alter table {} alter column {at} set {default}", quoted(name)));
                    plan.steps.push(format!("changed the default of {name}.{}", column.name));
                }
                if !old.nullable && column.nullable {
                    let at = quoted(&column.name);
                    plan.statements
                        .push(format!("alter table {} alter column {at} drop not null", quoted(name)));
                }
                if old.nullable && !column.nullable {
                    // Rows of the running revision may be null: the stricter rule is the guest's to keep.
                    if let Some(kept) = merged.columns.iter_mut().find(|kept| kept.name == column.name) {
                        kept.nullable = true;
                    }
                }
            }
        }
    }
    for old in there.columns.iter().filter(|old| !want.columns.iter().any(|column| column.name == old.name)) {
        if !old.nullable && old.default.is_none() && default_clause(old).is_none() && !old.auto_number {
            let at = quoted(&old.name);
            plan.statements.push(format!("alter table {} alter column {at} drop not null", quoted(name)));
        }
        merged.columns.push(old.clone());
    }
    if let Some(kept) = plan.after.tables.iter_mut().find(|kept| kept.name == *name) {
        *kept = merged;
    }
}

/// Rows of an entity that left the model would keep those that they refer to from being deleted, and nobody sees them. Those that
/// are deleted with what they refer to go on doing that.
fn leave_references(plan: &mut Plan, table: &Table) {
    let holds_up = |key: &&ForeignKey| key.on_delete == DeleteRule::Protect;
    for gone in table.foreign_keys.iter().filter(holds_up) {
        drop_reference(plan, table, gone);
    }
    if let Some(kept) = plan.after.tables.iter_mut().find(|kept| kept.name == table.name) {
        kept.foreign_keys.retain(|key| !holds_up(&key));
    }
}

fn drop_reference(plan: &mut Plan, table: &Table, gone: &ForeignKey) {
    plan.statements.push(format!(
        "alter table {} drop constraint if exists {}",
        quoted(&table.name),
        quoted(&reference_name(table, gone))
    ));
}

fn change_references(plan: &mut Plan, there: Option<&Table>, want: &Table, rows: Rows) {
    let table = quoted(&want.name);
    let old = there.map_or(&[][..], |there| &there.foreign_keys);
    for gone in old.iter().filter(|gone| !want.foreign_keys.contains(gone)) {
        drop_reference(plan, want, gone);
    }
    for new in want.foreign_keys.iter().filter(|new| !old.contains(new)) {
        let name = quoted(&reference_name(want, new));
        let column = quoted(&new.column);
        let action = match new.on_delete {
            DeleteRule::Protect => "on delete restrict",
            DeleteRule::Delete => "on delete cascade",
            DeleteRule::Ignore => continue, // no constraint: rows may refer to nothing
        };
        let target = quoted(&new.references);
        // What is written from now on has to fit in any case.
        let has_rows = there.is_some_and(|there| there.columns.iter().any(|old| old.name == new.column));
        let checked = if has_rows && rows == Rows::MayNotFit { " not valid" } else { "" };
        plan.statements.push(format!(
            "alter table {table} add constraint {name} foreign key ({column}) references {target} {action}{checked}"
        ));
        plan.steps.push(format!("{}.{} refers to {}", want.name, new.column, new.references));
    }
}

fn change_indexes(plan: &mut Plan, there: Option<&Table>, want: &Table, rows: Rows) {
    let old = there.map_or(&[][..], |there| &there.indexes);
    for gone in old.iter().filter(|gone| !want.indexes.contains(gone)) {
        plan.statements.push(format!("drop index if exists {}", quoted(&shortened(&gone.name))));
        plan.steps.push(format!("dropped index {}", gone.name));
    }
    for Index { name, columns, unique } in want.indexes.iter().filter(|new| !old.contains(new)) {
        let columns: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let kind = if *unique { "unique " } else { "" };
        let (index, table) = (quoted(&shortened(name)), quoted(&want.name));
        let statement = format!("create {kind}index {index} on {table} ({})", columns.join(", "));
        if *unique && rows == Rows::MayNotFit && there.is_some() {
            let (table, name) = (want.name.clone(), name.clone());
            plan.where_rows_fit.push(UniqueIndex { statement, table, name });
            continue;
        }
        plan.statements.push(statement);
        plan.steps.push(format!("created {kind}index {name}"));
    }
}

/// Records of a static entity are part of the model: they are written, never removed, because rows may refer to them.
fn write_records(plan: &mut Plan, table: &Table) {
    for record in &table.records {
        let columns: Vec<String> = table.columns.iter().map(|column| quoted(&column.name)).collect();
        let values: Vec<String> =
            table.columns.iter().zip(record).map(|(column, value)| literal(column, value)).collect();
        let updates: Vec<String> = table
            .columns
            .iter()
            .filter(|column| column.name != table.primary_key)
            .map(|column| format!("{0} = excluded.{0}", quoted(&column.name)))
            .collect();
        let conflict = if updates.is_empty() {
            "nothing".to_owned()
        } else {
            format!("update set {}", updates.join(", "))
        };
        plan.statements.push(format!(
            "insert into {} ({}) overriding system value values ({}) on conflict ({}) do {conflict}",
            quoted(&table.name),
            columns.join(", "),
            values.join(", "),
            quoted(&table.primary_key),
        ));
    }
}

fn column_definition(column: &Column) -> String {
    let mut text = format!("{} {}", quoted(&column.name), sql_type(column.column_type));
    if column.auto_number {
        text.push_str(" generated by default as identity");
        return text;
    }
    if !column.nullable {
        text.push_str(" not null");
    }
    if let Some(default) = default_clause(column) {
        text.push(' ');
        text.push_str(&default);
    }
    text
}

/// The default of a column: the model's, or that of its type, so that an insert which does not name it goes through.
fn default_clause(column: &Column) -> Option<String> {
    if column.default.is_none() && column.nullable {
        return None;
    }
    let value = column.default.as_deref().unwrap_or(default_value(column.column_type));
    Some(format!("default {}", quoted_literal(value)))
}

/// The default of a type, as a literal without quotes.
pub(crate) fn default_value(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Boolean => "false",
        ColumnType::Integer | ColumnType::LongInteger | ColumnType::Decimal => "0",
        ColumnType::Text { .. } | ColumnType::Binary => "",
        ColumnType::Date => "1900-01-01",
        ColumnType::Time => "00:00:00",
        ColumnType::DateTime => "1900-01-01 00:00:00",
    }
}

fn literal(column: &Column, value: &Option<String>) -> String {
    match value {
        Some(text) => quoted_literal(text),
        None if column.nullable => "null".to_owned(),
        None => "default".to_owned(),
    }
}

fn same_type(old: ColumnType, new: ColumnType) -> bool {
    sql_type(old) == sql_type(new) // the length of a text is the guest's to check
}

pub(crate) fn sql_type(column_type: ColumnType) -> &'static str {
    match column_type {
        ColumnType::Boolean => "boolean",
        ColumnType::Integer => "integer",
        ColumnType::LongInteger => "bigint",
        ColumnType::Decimal => "numeric(37,8)",
        ColumnType::Text { .. } => "text collate public.odeon_text",
        ColumnType::Date => "date",
        ColumnType::Time => "time",
        ColumnType::DateTime => "timestamp",
        ColumnType::Binary => "bytea",
    }
}

fn reference_name(table: &Table, reference: &ForeignKey) -> String {
    shortened(&format!("fk_{}_{}", table.name, reference.column))
}

/// PostgreSQL cuts names at 63 bytes without a word, so that two could become one: we cut with a hash.
fn shortened(name: &str) -> String {
    const BYTES_MAX: usize = 63;
    if name.len() <= BYTES_MAX {
        return name.to_owned();
    }
    let digest = odeon_protocol::Digest::of(name.as_bytes());
    let kept: String = name.chars().take(BYTES_MAX / 4).collect();
    format!("{kept}_{}", &digest.as_str()[..16])
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn quoted_literal(text: &str) -> String {
    // `E''` where a backslash could be read in two ways, depending on a server setting.
    if text.contains('\\') {
        format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", text.replace('\'', "''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(have: &Schema, want: &Schema) -> Result<Plan, Refusal> {
        super::plan(have, want, Rows::Fit)
    }

    fn column(name: &str, column_type: ColumnType) -> Column {
        Column { name: name.into(), column_type, ..Column::default() }
    }
    fn expense(columns: Vec<Column>) -> Schema {
        let id = Column { auto_number: true, ..column("Id", ColumnType::LongInteger) };
        let columns = std::iter::once(id).chain(columns).collect();
        Schema {
            tables: vec![Table {
                name: "Expense".into(),
                columns,
                primary_key: "Id".into(),
                ..Table::default()
            }],
            ..Schema::default()
        }
    }

    #[test]
    fn a_new_entity_gets_a_table_in_which_nothing_is_null() {
        let plan = plan(&Schema::default(), &expense(vec![column("Amount", ColumnType::Decimal)])).unwrap();
        assert_eq!(
            plan.statements,
            ["create table \"Expense\" (\"Id\" bigint generated by default as identity, \
              \"Amount\" numeric(37,8) not null default '0', primary key (\"Id\"))"]
        );
    }

    #[test]
    fn a_removed_attribute_stays_and_comes_back() {
        let old = expense(vec![column("Note", ColumnType::Text { length: Some(50) })]);
        let removed = plan(&old, &expense(vec![])).unwrap();
        assert!(removed.statements.is_empty(), "{:?}", removed.statements);
        let back = plan(&removed.after, &old).unwrap();
        assert!(back.statements.is_empty(), "{:?}", back.statements);
    }

    #[test]
    fn a_changed_type_is_refused_with_all_reasons() {
        let old = expense(vec![column("A", ColumnType::Integer), column("B", ColumnType::Date)]);
        let new = expense(vec![column("A", ColumnType::Decimal), column("B", ColumnType::Boolean)]);
        let refusal = plan(&old, &new).unwrap_err();
        assert_eq!(refusal.code, "OS-DPL-40910");
        assert!(refusal.message.contains("Expense.A is integer"), "{}", refusal.message);
        assert!(refusal.message.contains("Expense.B is date"), "{}", refusal.message);
    }

    #[test]
    fn what_is_read_stays_until_the_app_is_undeployed() {
        let reads = |view: &str, columns: &[&str]| Schema {
            foreign: vec![ForeignTable {
                view: view.to_owned(),
                columns: columns.iter().map(|name| ((*name).to_owned(), ColumnType::LongInteger)).collect(),
                identifiers: Some(columns.iter().map(|name| (*name).to_owned()).collect()),
                ..ForeignTable::default()
            }],
            ..Schema::default()
        };
        let after = plan(&reads("S.T", &["Id", "A"]), &reads("S.T", &["Id", "B"])).unwrap().after;
        assert_eq!(after.foreign, reads("S.T", &["Id", "B", "A"]).foreign);
        let after = plan(&after, &Schema::default()).unwrap().after;
        assert_eq!(after.foreign.len(), 1, "a removed one stays");
    }

    #[test]
    fn no_row_holds_up_the_way_back() {
        let owner = || expense(Vec::new()).tables.remove(0);
        let thing = |strict: bool| {
            let mut thing = Table { name: "Thing".into(), ..owner() };
            thing.columns.push(Column { nullable: true, ..column("OwnerId", ColumnType::LongInteger) });
            if strict {
                let (column, references) = ("OwnerId".into(), "Expense".into());
                thing.foreign_keys.push(ForeignKey { column, references, on_delete: DeleteRule::Protect });
                let columns = vec!["OwnerId".into()];
                thing.indexes.push(Index { name: "One".into(), columns, unique: true });
            }
            thing
        };
        let schema = |tables: Vec<Table>| Schema { tables, ..Schema::default() };
        let (strict, loose) = (schema(vec![owner(), thing(true)]), schema(vec![owner(), thing(false)]));
        let reference = "alter table \"Thing\" add constraint \"fk_Thing_OwnerId\" foreign key (\"OwnerId\") \
                         references \"Expense\" on delete restrict";
        let index = "create unique index \"One\" on \"Thing\" (\"OwnerId\")";
        assert_eq!(plan(&loose, &strict).unwrap().statements, [reference, index], "what is new has to fit");
        let back = super::plan(&loose, &strict, Rows::MayNotFit).unwrap();
        assert_eq!(back.statements, [format!("{reference} not valid")]);
        assert_eq!(back.where_rows_fit.len(), 1);
        assert_eq!(back.where_rows_fit[0].statement, index);

        // An entity that leaves the model lets go of what it referred to, and refers to it again when it comes back.
        let left = plan(&strict, &schema(vec![owner()])).unwrap();
        assert_eq!(left.statements, ["alter table \"Thing\" drop constraint if exists \"fk_Thing_OwnerId\""]);
        let back = super::plan(&left.after, &strict, Rows::MayNotFit).unwrap();
        assert_eq!(back.statements, [format!("{reference} not valid")]);
        let mut owned = thing(true);
        owned.foreign_keys[0].on_delete = DeleteRule::Delete;
        let kept = plan(&schema(vec![owner(), owned.clone()]), &schema(vec![owner()])).unwrap();
        assert!(kept.statements.is_empty(), "what is deleted with its owner still is");
        assert_eq!(kept.after.tables[1].foreign_keys, owned.foreign_keys);
    }

    #[test]
    fn who_numbers_rows_is_told_when_it_changes() {
        let with =
            |auto_number| expense(vec![Column { auto_number, ..column("Number", ColumnType::LongInteger) }]);
        let why = plan(&with(true), &with(false)).unwrap_err().message;
        let expect =
            "attribute Expense.Number is numbered by the database and cannot become given by the app";
        assert!(why.contains(expect), "{why}");
    }

    #[test]
    fn quotes_in_texts_stay_texts() {
        assert_eq!(quoted_literal("O'Hara"), "'O''Hara'");
        assert_eq!(quoted_literal(r"a\'b"), r"E'a\\''b'");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
    }

    #[test]
    fn long_names_are_cut_without_becoming_equal() {
        let (a, b) = (shortened(&format!("{}a", "x".repeat(80))), shortened(&format!("{}b", "x".repeat(80))));
        assert!(a.len() <= 63 && a != b);
    }
}
