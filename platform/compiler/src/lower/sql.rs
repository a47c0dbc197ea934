//! Entity actions and filters to SQL with bound parameters.
//!
//! A part of a filter that does not touch the tested row is evaluated in the guest and bound; only what
//! touches it becomes SQL. Names are quoted and unqualified, every parameter carries its type, so the
//! statement means the same however it is prepared. Values never become part of the text.
//! Invariant: parameters are bound in the order of their numbers.

use wasm_encoder::{Instruction, ValType};

use super::{Generator, load};
use crate::ast::Binary;
use crate::types::*;

impl Generator<'_, '_> {
    pub(super) fn get(&mut self, record: usize, id: &TExpr, out: usize) {
        let named = self.shared.named;
        let def = &named.records[record];
        self.expression(id);
        self.bind(&Type::Long);
        let sql = format!("SELECT {} FROM {} WHERE \"Id\" = $1::int8", columns(def), quoted(&def.name));
        self.statement(&sql);
        let descriptor = self.shared.descriptor(&Type::Record(record));
        self.address(descriptor);
        self.absent(def);
        self.run("rt_query_one");
        self.code.push(Instruction::LocalSet(out as u32));
        self.leave_if_raised();
    }

    pub(super) fn list(&mut self, query: &Query, list: usize, count: usize) {
        let named = self.shared.named;
        let def = &named.records[query.record];
        let mut statement = Statement { named, text: String::new(), bound: Vec::new() };
        statement.text = format!("SELECT {} FROM {}", columns(def), quoted(&def.name));
        if let Some(filter) = &query.filter {
            statement.text.push_str(" WHERE ");
            statement.expression(filter);
        }
        statement.text.push_str(" ORDER BY ");
        for (attribute, descending) in &query.sort {
            let direction = if *descending { " DESC" } else { "" };
            statement.text.push_str(&format!("{}{direction}, ", quoted(&def.fields[*attribute].name)));
        }
        statement.text.push_str("\"Id\""); // equal rows keep one order, so pages do not overlap
        if let Some(max) = &query.max {
            statement.text.push_str(" LIMIT NULLIF(GREATEST(");
            statement.parameter(max);
            statement.text.push_str(", 0), 0)");
        }
        if let Some(start) = &query.start {
            statement.text.push_str(" OFFSET GREATEST(");
            statement.parameter(start);
            statement.text.push_str(", 0)");
        }
        let Statement { text, bound, .. } = statement;
        for value in &bound {
            self.expression(value);
            self.bind(&value.ty);
        }
        self.statement(&text);
        let descriptor = self.shared.descriptor(&Type::Record(query.record));
        self.address(descriptor);
        self.run("rt_query");
        self.code.push(Instruction::LocalTee(list as u32));
        self.call("rt_list_len");
        self.code.push(Instruction::LocalSet(count as u32));
        self.leave_if_raised();
    }

    pub(super) fn create(&mut self, record: usize, value: &TExpr, out: usize) {
        let named = self.shared.named;
        let def = &named.records[record];
        self.bind_fields(record, value);
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (index, field) in def.fields.iter().enumerate().skip(1) {
            names.push(quoted(&field.name));
            values.push(format!("${index}::{}", sql_type(&field.ty)));
        }
        let table = quoted(&def.name);
        let sql = if names.is_empty() {
            format!("INSERT INTO {table} DEFAULT VALUES RETURNING \"Id\"")
        } else {
            format!(
                "INSERT INTO {table} ({}) VALUES ({}) RETURNING \"Id\"",
                names.join(", "),
                values.join(", ")
            )
        };
        self.statement(&sql);
        self.run("rt_insert");
        self.code.push(Instruction::LocalSet(out as u32));
        self.leave_if_raised();
    }

    pub(super) fn update(&mut self, record: usize, value: &TExpr) {
        let named = self.shared.named;
        let def = &named.records[record];
        let held = self.bind_fields(record, value);
        self.code.push(Instruction::LocalGet(held));
        self.code.push(load(&Type::Long, 0));
        self.bind(&Type::Long);
        let sets: Vec<String> = def
            .fields
            .iter()
            .enumerate()
            .skip(1)
            .map(|(index, field)| format!("{} = ${index}::{}", quoted(&field.name), sql_type(&field.ty)))
            .collect();
        // An entity of nothing but its Id has nothing to set; the row must still be there.
        let sets = if sets.is_empty() { "\"Id\" = \"Id\"".to_owned() } else { sets.join(", ") };
        let last = def.fields.len();
        self.statement(&format!("UPDATE {} SET {sets} WHERE \"Id\" = ${last}::int8", quoted(&def.name)));
        self.absent(def);
        self.run("rt_update");
        self.leave_if_raised();
    }

    pub(super) fn delete(&mut self, record: usize, id: &TExpr) {
        let named = self.shared.named;
        let def = &named.records[record];
        self.expression(id);
        self.bind(&Type::Long);
        self.statement(&format!("DELETE FROM {} WHERE \"Id\" = $1::int8", quoted(&def.name)));
        self.run("rt_delete");
        self.leave_if_raised();
    }

    /// Checks the record, then binds every attribute but the Id, in order; returns the local that holds it.
    fn bind_fields(&mut self, record: usize, value: &TExpr) -> u32 {
        let named = self.shared.named;
        let def = &named.records[record];
        let held = self.temporary(ValType::I32);
        self.expression(value);
        self.code.push(Instruction::LocalSet(held));
        // Before the first parameter is bound: a refused record leaves none behind.
        if def.fields.iter().skip(1).any(|f| f.mandatory || f.length.is_some()) {
            let (descriptor, entity) =
                (self.shared.descriptor(&Type::Record(record)), self.shared.data.text(&def.name));
            self.code.push(Instruction::LocalGet(held));
            self.address(descriptor);
            self.address(entity);
            self.call("rt_check");
            self.leave_if_raised();
        }
        for (index, field) in def.fields.iter().enumerate().skip(1) {
            self.code.push(Instruction::LocalGet(held));
            self.code.push(load(&field.ty, index));
            self.bind(&field.ty);
        }
        held
    }

    fn bind(&mut self, ty: &Type) {
        self.call(match ty {
            Type::Unknown | Type::Boolean => "rt_param_bool",
            Type::Integer => "rt_param_int",
            Type::Long => "rt_param_long",
            Type::Decimal => "rt_param_dec",
            Type::Text | Type::Email | Type::Phone => "rt_param_text",
            Type::Date => "rt_param_date",
            Type::Time => "rt_param_time",
            Type::DateTime => "rt_param_datetime",
            Type::Binary | Type::Record(_) | Type::List(_) => "rt_param_bytes",
            Type::Identifier(_) => "rt_param_id",
        });
    }

    fn run(&mut self, statement: &str) {
        self.protect(1);
        self.call(statement);
        self.protect(-1);
    }

    fn statement(&mut self, sql: &str) {
        let at = self.shared.data.text(sql);
        self.address(at);
    }

    fn absent(&mut self, def: &RecordDef) {
        let at = self.shared.data.text(&format!("Database exception: there is no such {}", def.name));
        self.address(at);
    }
}

/// Whether the database can evaluate a filter; the part that it cannot.
pub(crate) fn refused(expr: &TExpr) -> Option<&TExpr> {
    if !touches_row(expr) {
        return None;
    }
    match &expr.kind {
        TKind::Attribute(..) => None,
        TKind::Negate(a) | TKind::Not(a) => refused(a),
        TKind::Arithmetic(_, a, b)
        | TKind::Concat(a, b)
        | TKind::Compare(_, a, b)
        | TKind::Logic(_, a, b) => refused(a).or_else(|| refused(b)),
        TKind::If(a, b, c) => refused(a).or_else(|| refused(b)).or_else(|| refused(c)),
        TKind::Convert(a) => {
            let text_of_other = matches!(expr.ty, Type::Text | Type::Email | Type::Phone)
                && !matches!(
                    a.ty,
                    Type::Text | Type::Email | Type::Phone | Type::Integer | Type::Long | Type::Identifier(_)
                );
            if text_of_other || (matches!(a.ty, Type::Text | Type::Time) && matches!(expr.ty, Type::DateTime))
            {
                Some(expr)
            } else {
                refused(a)
            }
        }
        TKind::Builtin(builtin, arguments) => {
            if builtin.sql.is_none() {
                Some(expr)
            } else {
                arguments.iter().find_map(refused)
            }
        }
        TKind::Broken
        | TKind::Constant(_)
        | TKind::Null
        | TKind::Local(_)
        | TKind::Setting(_)
        | TKind::Field(..)
        | TKind::Item(..)
        | TKind::Length(_)
        | TKind::Invoke(..) => Some(expr),
    }
}

fn touches_row(expr: &TExpr) -> bool {
    matches!(expr.kind, TKind::Attribute(..)) || expr.parts().into_iter().any(touches_row)
}

struct Statement<'s> {
    named: &'s Named,
    text: String,
    bound: Vec<TExpr>,
}

impl Statement<'_> {
    fn parameter(&mut self, value: &TExpr) {
        self.bound.push(value.clone());
        self.text.push_str(&format!("${}::{}", self.bound.len(), sql_type(&value.ty)));
    }

    fn expression(&mut self, expr: &TExpr) {
        if !touches_row(expr) {
            return self.parameter(expr);
        }
        match &expr.kind {
            TKind::Attribute(record, index) => {
                let def = &self.named.records[*record];
                self.text.push_str(&format!("{}.{}", quoted(&def.name), quoted(&def.fields[*index].name)));
            }
            TKind::Negate(a) => self.around("(-", a, ")"),
            TKind::Not(a) => self.around("(NOT ", a, ")"),
            TKind::Arithmetic(op, a, b) | TKind::Logic(op, a, b) => self.between(a, op.symbol(), b),
            TKind::Concat(a, b) => self.between(a, "||", b),
            TKind::Compare(op, a, b) => self.compare(*op, a, b),
            TKind::Convert(a) if a.ty == Type::Decimal && matches!(expr.ty, Type::Integer | Type::Long) => {
                self.around("trunc(", a, &format!(")::{}", sql_type(&expr.ty)));
            }
            TKind::Convert(a) if a.ty == Type::Boolean => {
                self.around("(", a, &format!(")::int4::{}", sql_type(&expr.ty)));
            }
            TKind::Convert(a) => self.around("(", a, &format!(")::{}", sql_type(&expr.ty))),
            TKind::If(c, a, b) => {
                self.around("(CASE WHEN ", c, " THEN ");
                self.around("", a, " ELSE ");
                self.around("", b, " END)");
            }
            TKind::Builtin(builtin, arguments) => {
                let mut rest = builtin.sql.unwrap_or_default();
                while let Some(at) = rest.find('$') {
                    self.text.push_str(&rest[..at]);
                    let index = usize::from(rest.as_bytes()[at + 1] - b'a');
                    self.expression(&arguments[index]);
                    rest = &rest[at + 2..];
                }
                self.text.push_str(rest);
            }
            TKind::Broken
            | TKind::Constant(_)
            | TKind::Null
            | TKind::Local(_)
            | TKind::Setting(_)
            | TKind::Field(..)
            | TKind::Item(..)
            | TKind::Length(_)
            | TKind::Invoke(..) => self.text.push_str("NULL"), // `refused` has reported it
        }
    }

    /// Identifiers may be empty in the database, where the language knows the null identifier; it
    /// equals itself and nothing else.
    fn compare(&mut self, op: Binary, a: &TExpr, b: &TExpr) {
        let null_aware = matches!(a.ty, Type::Identifier(_)) || matches!(b.ty, Type::Identifier(_));
        if !null_aware {
            return self.between(a, op.symbol(), b);
        }
        let (row, other) = if touches_row(a) { (a, b) } else { (b, a) };
        self.text.push_str(if op == Binary::NotEqual { "(NOT (" } else { "((" });
        // An attribute is named three times, so that its index can be used. Anything longer is named once:
        // repeated at each level, the text would grow with the power of the depth.
        if touches_row(other) || !matches!(row.kind, TKind::Attribute(..)) {
            self.between(row, "IS NOT DISTINCT FROM", other);
        } else {
            self.bound.push(other.clone());
            let number = self.bound.len();
            self.expression(row);
            self.text.push_str(&format!(" IS NOT NULL AND ${number}::int8 IS NOT NULL AND "));
            self.expression(row);
            self.text.push_str(&format!(" = ${number}::int8 OR "));
            self.expression(row);
            self.text.push_str(&format!(" IS NULL AND ${number}::int8 IS NULL"));
        }
        self.text.push_str("))");
    }

    fn between(&mut self, a: &TExpr, symbol: &str, b: &TExpr) {
        self.around("(", a, &format!(" {symbol} "));
        self.around("", b, ")");
    }

    fn around(&mut self, before: &str, inner: &TExpr, after: &str) {
        self.text.push_str(before);
        self.expression(inner);
        self.text.push_str(after);
    }
}

fn columns(def: &RecordDef) -> String {
    def.fields.iter().map(|f| quoted(&f.name)).collect::<Vec<_>>().join(", ")
}

/// Names hold letters, digits and _ only, so quotes need no doubling.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn sql_type(ty: &Type) -> &'static str {
    match ty {
        Type::Unknown | Type::Boolean => "boolean",
        Type::Integer => "int4",
        Type::Long | Type::Identifier(_) => "int8",
        Type::Decimal => "numeric",
        Type::Text | Type::Email | Type::Phone => "text",
        Type::Date => "date",
        Type::Time => "time",
        Type::DateTime => "timestamp",
        Type::Binary | Type::Record(_) | Type::List(_) => "bytea",
    }
}
