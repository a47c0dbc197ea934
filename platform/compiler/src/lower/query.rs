//! Queries over entities and statements of the author's own, to SQL and the calls that run it.
//!
//! ```text
//! SELECT columns that are used
//!   FROM sources and their joins, CROSS JOIN LATERAL (SELECT …) per calculated attribute
//!  WHERE filters GROUP BY keys
//!  ORDER BY dynamic sort, fixed sorts, then what makes the order complete
//!  LIMIT … OFFSET …
//! ```
//! The text of a key or total is made once and repeated, parameters and all, so that PostgreSQL sees the same
//! expression in every clause. A calculated attribute is named, not repeated: written out, the text would grow
//! with the power of their number. A dynamic sort is looked up at run time among the texts that stand here.
//! Invariant: FROM, WHERE and GROUP BY are made first, so the query that counts binds the first parameters.

use wasm_encoder::{BlockType, Instruction, ValType};

use super::sql::{COLLATION, Statement, is_text, quoted, sql_type};
use super::stream::Opened;
use super::{Generator, word};
use crate::ast::{Binary, Join, TotalKind};
use crate::literal;
use crate::types::*;

/// The runtime's word for "the attribute itself is the column".
const WHOLE: u32 = u32::MAX;

/// A column of the result: where it goes, and its SQL.
struct Column {
    path: Vec<usize>,
    sql: String,
    /// Its parameters stand nowhere else in the statement, so it is fetched whoever reads it.
    binds: bool,
}

impl Generator<'_, '_> {
    pub(super) fn aggregate(&mut self, query: &Query, list: usize, count: usize) {
        let named = self.shared.named;
        let open = vec![false; query.sources.len()];
        let (text, bound, guard, guards) = (String::new(), Vec::new(), None, Vec::new());
        let mut statement = Statement { named, query, open, text, bound, guard, guards };
        let keys = statement.rows();
        let rows = std::mem::take(&mut statement.text);
        let counted = statement.bound.len();
        let (mut totals, mut binding) = (Vec::new(), Vec::new());
        for total in &query.totals {
            let before = statement.bound.len();
            totals.push(statement.total(total));
            binding.push(statement.bound.len() > before);
        }
        let wants_count = self.uses.reads(count);
        let wants_list = self.uses.reads(list) || !wants_count;
        // `max: 0` says in the model that all rows are meant.
        let is_zero = |max: &TExpr| matches!(max.kind, TKind::Constant(Constant::Integer(0)));
        let is_paged = query.start.is_some() || query.max.as_ref().is_some_and(|max| !is_zero(max));

        let columns = self.columns(&statement, &keys, &totals, &binding, list);
        let select: Vec<&str> = columns.iter().map(|column| column.sql.as_str()).collect();
        let head = format!("SELECT {}{rows}", select.join(", "));
        let order = statement.order(&keys, &totals);
        let page = statement.page();

        // All values first: one may come from an action that runs statements, too.
        let held = self.hold_all(&statement, if wants_list { usize::MAX } else { counted });
        if wants_list {
            let sql = self.temporary(ValType::I32);
            match &query.dynamic_sort {
                Some(sort) => {
                    let choices = self.choices(&statement, &keys, &totals);
                    let before = self.shared.data.text(&format!("{head} ORDER BY "));
                    let after = if order.is_empty() { format!("1{page}") } else { format!("{order}{page}") };
                    let after = self.shared.data.text(&after);
                    self.address(before);
                    self.expression(sort);
                    self.address(choices);
                    self.address(after);
                    self.call("rt_ordered");
                    self.code.push(Instruction::LocalSet(sql));
                    self.leave_if_raised();
                }
                None => {
                    let by = if order.is_empty() { "" } else { " ORDER BY " };
                    self.statement(&format!("{head}{by}{order}{page}"));
                    self.code.push(Instruction::LocalSet(sql));
                }
            }
            self.bind_held(&held);
            self.code.push(Instruction::LocalGet(sql));
            let descriptor = self.shared.descriptor(&Type::Record(query.row));
            let places = columns.iter().flat_map(|column| {
                [column.path[0] as u32, column.path.get(1).map_or(WHOLE, |inner| *inner as u32)]
            });
            let places: Vec<u32> = [columns.len() as u32].into_iter().chain(places).collect();
            let places = self.shared.data.words(&places);
            if self.streamed.contains(&list) {
                return self.open_cursor(list, Opened { descriptor, places });
            }
            self.address(descriptor);
            self.address(places);
            self.run("rt_select");
            self.code.push(Instruction::LocalSet(list as u32));
            self.leave_if_raised();
        }
        if !wants_count {
            return;
        }
        if query.is_grouped() && keys.is_empty() {
            self.code.push(Instruction::I64Const(1)); // totals of everything are one row
        } else if wants_list && !is_paged {
            self.code.push(Instruction::LocalGet(list as u32));
            self.call("rt_list_len");
            self.code.push(Instruction::I64ExtendI32S);
        } else {
            self.bind_held(&held[..counted]);
            self.statement(&if keys.is_empty() {
                format!("SELECT count(*){rows}")
            } else {
                format!("SELECT count(*) FROM (SELECT 1{rows}) AS \"rows\"")
            });
            self.run("rt_count");
        }
        self.code.push(Instruction::LocalSet(count as u32));
        self.leave_if_raised();
    }

    /// The locals that hold the first values of a statement.
    fn hold_all(&mut self, statement: &Statement<'_>, most: usize) -> Vec<(u32, Type)> {
        let mut held: Vec<(u32, Type)> = Vec::new();
        let mut guards: Vec<u32> = Vec::new();
        for bound in statement.bound.iter().take(most) {
            // Those that speak of the values before this one.
            while let Some(guard) = statement.guards.get(guards.len()).filter(|g| g.parameter < held.len()) {
                let holds = self.temporary(ValType::I32);
                self.code.push(Instruction::LocalGet(held[guard.parameter].0));
                if !guard.holds {
                    self.code.push(Instruction::I32Eqz);
                }
                if let Some(outer) = guard.outer {
                    self.code.extend([Instruction::LocalGet(guards[outer]), Instruction::I32And]);
                }
                self.code.push(Instruction::LocalSet(holds));
                guards.push(holds);
            }
            let ty = bound.value.ty.clone();
            let Some(guard) = bound.guard else {
                held.push((self.hold(&bound.value), ty));
                continue;
            };
            let local = self.temporary(word(&ty));
            self.code.push(Instruction::LocalGet(guards[guard]));
            self.open(Instruction::If(BlockType::Empty));
            self.expression(&bound.value);
            self.code.extend([Instruction::LocalSet(local), Instruction::Else]);
            match literal::default_of(&ty) {
                Some(default) => self.constant(&default),
                None => self.code.push(Instruction::I32Const(0)), // no bytes
            }
            self.code.push(Instruction::LocalSet(local));
            self.close();
            held.push((local, ty));
        }
        held
    }

    fn bind_held(&mut self, held: &[(u32, Type)]) {
        for (local, ty) in held {
            self.code.push(Instruction::LocalGet(*local));
            self.bind(ty);
        }
    }

    /// The columns that are used, and the totals that bind values; one at least, because a row of none is no row.
    fn columns(
        &self,
        statement: &Statement<'_>,
        keys: &[String],
        totals: &[String],
        binding: &[bool],
        list: usize,
    ) -> Vec<Column> {
        let query = statement.query;
        let mut columns: Vec<Column> = Vec::new();
        if query.is_grouped() {
            // The values of a key are those of GROUP BY.
            let binds = keys.iter().map(|_| false).chain(binding.iter().copied());
            let all = keys.iter().chain(totals).zip(binds).enumerate();
            columns.extend(all.map(|(at, (sql, binds))| Column { path: vec![at], sql: sql.clone(), binds }));
        } else {
            for (at, source) in query.sources.iter().enumerate() {
                for index in 0..self.shared.named.records[source.record].fields.len() {
                    let path = if query.short { vec![index] } else { vec![at, index] };
                    columns.push(Column { path, sql: statement.brief(at, index), binds: false });
                }
            }
            for (at, (name, _)) in query.calculated.iter().enumerate() {
                let path = vec![query.sources.len() + at];
                columns.push(Column { path, sql: format!("{0}.{0}", quoted(name)), binds: false });
            }
        }
        let used: Vec<bool> = columns.iter().map(|c| c.binds || self.fetches.uses(list, &c.path)).collect();
        let first = used.iter().position(|used| *used).unwrap_or(0);
        let kept = columns.into_iter().enumerate().filter(|(at, _)| *at == first || used[*at]);
        kept.map(|(_, column)| column).collect()
    }

    /// What a dynamic sort may name: rows of name, text when small values come first, text when large ones do.
    fn choices(&mut self, statement: &Statement<'_>, keys: &[String], totals: &[String]) -> u32 {
        let query = statement.query;
        let mut choices: Vec<(String, [String; 2])> = Vec::new();
        if query.is_grouped() {
            for ((name, key), sql) in query.keys.iter().zip(keys) {
                choices.push((name.clone(), directions(sql, statement.may_be_null(key))));
            }
            for (total, sql) in query.totals.iter().zip(totals) {
                choices.push((total.name.clone(), directions(sql, false)));
            }
        } else {
            for (name, value) in &query.calculated {
                let sql = format!("{0}.{0}", quoted(name));
                choices.push((name.clone(), directions(&sql, value.ty.is_identifier())));
            }
            for (at, source) in query.sources.iter().enumerate() {
                for (index, field) in self.shared.named.records[source.record].fields.iter().enumerate() {
                    let by = directions(&statement.sortable(at, index), statement.may_lack(at, index));
                    choices.push((format!("{}.{}", source.name, field.name), by.clone()));
                    if query.sources.len() == 1 && query.calculated.iter().all(|(c, _)| *c != field.name) {
                        choices.push((field.name.clone(), by));
                    }
                }
            }
        }
        let mut words = vec![choices.len() as u32];
        for (name, [up, down]) in choices {
            words.extend([&name, &up, &down].map(|text| self.shared.data.text(text)));
        }
        self.shared.data.words(&words)
    }

    pub(super) fn sql(&mut self, statement: &SqlStatement, list: Option<usize>, count: usize) {
        let mut text = String::new();
        for part in &statement.parts {
            match part {
                StatementPart::Text(part) => text.push_str(part),
                StatementPart::Name(name) => text.push_str(&quoted(name)),
                StatementPart::Parameter(at) => {
                    let ty = sql_type(&statement.parameters[*at].ty);
                    text.push_str(&format!("${}::{ty}", at + 1));
                }
            }
        }
        let values = statement.parameters.iter();
        let held: Vec<(u32, Type)> = values.map(|value| (self.hold(value), value.ty.clone())).collect();
        self.bind_held(&held);
        self.statement(text.trim());
        let Some(list) = list else {
            self.run("rt_touched");
            self.code.push(Instruction::LocalSet(count as u32));
            return self.leave_if_raised();
        };
        let of = if let Type::List(of) = &self.variables[list].ty { (**of).clone() } else { Type::Unknown };
        let descriptor = self.shared.descriptor(&of);
        self.address(descriptor);
        self.code.push(Instruction::I32Const(i32::from(statement.writes)));
        self.run("rt_rows");
        self.code.push(Instruction::LocalTee(list as u32));
        self.call("rt_list_len");
        self.code.extend([Instruction::I64ExtendI32S, Instruction::LocalSet(count as u32)]);
        self.leave_if_raised();
    }
}

impl Statement<'_> {
    /// FROM, WHERE and GROUP BY; gives the texts of the keys.
    fn rows(&mut self) -> Vec<String> {
        let query = self.query;
        for (at, source) in query.sources.iter().enumerate() {
            let join = source.join.as_ref().map(|(join, _)| *join);
            self.text.push_str(match join {
                None => " FROM ",
                Some(Join::Inner) => " INNER JOIN ",
                Some(Join::Left) => " LEFT JOIN ",
                Some(Join::Full) => " FULL JOIN ",
                Some(Join::Cross) => " CROSS JOIN ",
            });
            let table = self.named.records[source.record].table();
            self.text.push_str(&quoted(table));
            if source.name != table {
                self.text.push_str(&format!(" AS {}", quoted(&source.name)));
            }
            if let Some((_, Some(on))) = &source.join {
                self.text.push_str(" ON ");
                self.condition(on);
            }
            // In its own condition a source has a row; behind it, maybe not.
            self.open[at] = matches!(join, Some(Join::Left | Join::Full));
            if join == Some(Join::Full) {
                self.open[..at].fill(true);
            }
        }
        for (name, value) in &query.calculated {
            let collation = if is_text(&value.ty) { format!(" {COLLATION}") } else { String::new() };
            self.text.push_str(" CROSS JOIN LATERAL (SELECT ");
            self.expression(value);
            self.text.push_str(&format!("{collation} AS {0}) AS {0}", quoted(name)));
        }
        for (at, filter) in query.filters.iter().enumerate() {
            self.text.push_str(if at == 0 { " WHERE " } else { " AND " });
            self.link(Binary::And, filter, Self::condition);
        }
        self.guard = None;
        let keys: Vec<String> =
            query.keys.iter().map(|(_, key)| self.text_of(|this| this.comparable(key))).collect();
        if !keys.is_empty() {
            self.text.push_str(&format!(" GROUP BY {}", keys.join(", ")));
        }
        keys
    }

    fn total(&mut self, total: &Total) -> String {
        let of = match &total.of {
            None => return "count(*)".to_owned(),
            Some(of) => self.text_of(|this| this.comparable(of)),
        };
        match total.kind {
            TotalKind::Count => format!("count({of})"),
            TotalKind::Sum => format!("sum({of})::{}", sql_type(&total.ty)),
            TotalKind::Average => format!("avg({of})"),
            TotalKind::Min => format!("min({of})"),
            TotalKind::Max => format!("max({of})"),
        }
    }

    /// Fixed sorts, then what makes the order complete: equal rows keep one order, so pages do not overlap.
    fn order(&mut self, keys: &[String], totals: &[String]) -> String {
        let query = self.query;
        let mut order = Vec::new();
        for (by, descending) in &query.sort {
            let (sql, may_be_null) = match by {
                SortBy::Key(at) => (keys[*at].clone(), self.may_be_null(&query.keys[*at].1)),
                SortBy::Total(at) => (totals[*at].clone(), false),
                SortBy::Value(value) => {
                    let sql = if let TKind::Attribute(source, index) = value.kind {
                        self.sortable(source, index)
                    } else {
                        self.text_of(|this| this.expression(value))
                    };
                    (sql, self.may_be_null(value))
                }
            };
            let [up, down] = directions(&sql, may_be_null);
            order.push(if *descending { down } else { up });
        }
        if query.is_grouped() {
            order.extend(keys.iter().cloned());
        } else {
            order.extend((0..query.sources.len()).map(|source| self.brief(source, 0)));
        }
        order.join(", ")
    }

    fn page(&mut self) -> String {
        let query = self.query;
        self.text_of(|this| {
            if let Some(max) = &query.max {
                this.text.push_str(" LIMIT NULLIF(GREATEST(");
                this.parameter(max);
                this.text.push_str(", 0), 0)");
            }
            if let Some(start) = &query.start {
                this.text.push_str(" OFFSET GREATEST(");
                this.parameter(start);
                this.text.push_str(", 0)");
            }
        })
    }

    /// A column; where nothing else could be meant, by its own name.
    fn brief(&self, source: usize, index: usize) -> String {
        let only = self.query.sources.len() == 1 && self.query.calculated.is_empty();
        let column = self.column(source, index);
        match column.split_once('.') {
            Some((_, name)) if only => name.to_owned(),
            Some(_) | None => column,
        }
    }

    /// A column as it is to be sorted by: a source without a row has defaults.
    fn sortable(&self, source: usize, index: usize) -> String {
        let ty = &self.named.records[self.query.sources[source].record].fields[index].ty;
        self.or_default(self.brief(source, index), source, ty)
    }

    fn may_lack(&self, source: usize, index: usize) -> bool {
        let ty = &self.named.records[self.query.sources[source].record].fields[index].ty;
        ty.is_identifier() && (index != 0 || self.open[source])
    }
}

/// Small first, large first. The null identifier is 0 in the language, smaller than any other.
fn directions(sql: &str, may_be_null: bool) -> [String; 2] {
    let [first, last] = if may_be_null { [" NULLS FIRST", " NULLS LAST"] } else { ["", ""] };
    [format!("{sql}{first}"), format!("{sql} DESC{last}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_null_identifier_is_smaller_than_any_other() {
        assert_eq!(directions("x", true), ["x NULLS FIRST", "x DESC NULLS LAST"]);
        assert_eq!(directions("x", false), ["x", "x DESC"]);
    }
}
