//! Entity actions and expressions over rows to SQL with bound parameters.
//!
//! A part of an expression that does not touch the tested row is evaluated in the guest and bound; only what
//! touches it becomes SQL. Names are quoted and unqualified, every parameter carries its type, so the
//! statement means the same however it is prepared. Values never become part of the text.
//! Invariant: parameters are bound in the order of their numbers, and computed only where the app would compute them.

use std::sync::LazyLock;

use wasm_encoder::Instruction;

use super::{Generator, load, word};
use crate::ast::Binary;
use crate::fold;
use crate::types::*;

impl Generator<'_, '_> {
    pub(super) fn get(&mut self, record: usize, id: &TExpr, lock: bool, out: usize) {
        let named = self.shared.named;
        let def = &named.records[record];
        self.expression(id);
        let key = self.bind_key(def);
        let locked = if lock { " FOR UPDATE" } else { "" };
        let (columns, table) = (columns(def), quoted(def.table()));
        self.statement(&format!("SELECT {columns} FROM {table} WHERE \"Id\" = $1::{key}{locked}"));
        let descriptor = self.shared.descriptor(&Type::Record(record));
        self.address(descriptor);
        self.absent(def);
        self.run(if lock { "rt_lock_one" } else { "rt_query_one" });
        self.code.push(Instruction::LocalSet(out as u32));
        self.leave_if_raised();
    }

    pub(super) fn create(&mut self, record: usize, value: &TExpr, out: usize) {
        let held = self.hold(value);
        self.insert(record, held);
        self.code.push(Instruction::LocalSet(out as u32));
        self.leave_if_raised();
    }

    /// Leaves the identifier on the stack; whether something was raised is to be asked when it is off it.
    pub(super) fn insert(&mut self, record: usize, held: u32) {
        let named = self.shared.named;
        let def = &named.records[record];
        let fields: Vec<usize> = (0..def.fields.len()).filter(|at| !def.fields[*at].auto_number).collect();
        self.bind_fields(record, held, &fields);
        let (names, values) = listed(def, &fields);
        let table = quoted(def.table());
        let sql = match names.is_empty() {
            true => format!("INSERT INTO {table} DEFAULT VALUES"),
            false => format!("INSERT INTO {table} ({names}) VALUES ({values})"),
        };
        if def.fields[0].auto_number {
            self.statement(&format!("{sql} RETURNING \"Id\""));
            self.run("rt_insert");
        } else {
            self.statement(&sql);
            self.absent(def); // never said: an insertion touches a row, or fails
            self.run("rt_update");
            self.key_of(def, held);
        }
    }

    /// Writes a row that the app identifies, whether or not there is one of its identifier.
    pub(super) fn upsert(&mut self, record: usize, held: u32) {
        let named = self.shared.named;
        let def = &named.records[record];
        let fields: Vec<usize> = (0..def.fields.len()).filter(|at| !def.fields[*at].auto_number).collect();
        self.bind_fields(record, held, &fields);
        let (names, values) = listed(def, &fields);
        let set = |field: &FieldDef| format!("{0} = EXCLUDED.{0}", quoted(&field.column));
        // Without another attribute, the Id is set to what it is, so that the row counts as touched.
        let others = if fields.len() > 1 { &fields[1..] } else { &fields[..] };
        let sets: Vec<String> = others.iter().map(|at| set(&def.fields[*at])).collect();
        self.statement(&format!(
            "INSERT INTO {} ({names}) VALUES ({values}) ON CONFLICT (\"Id\") DO UPDATE SET {}",
            quoted(def.table()),
            sets.join(", ")
        ));
        self.absent(def);
        self.run("rt_update");
        self.leave_if_raised();
    }

    pub(super) fn update(&mut self, record: usize, value: &TExpr) {
        let held = self.hold(value);
        self.write(record, held);
    }

    pub(super) fn write(&mut self, record: usize, held: u32) {
        let named = self.shared.named;
        let def = &named.records[record];
        let fields: Vec<usize> = (1..def.fields.len()).filter(|at| !def.fields[*at].auto_number).collect();
        self.bind_fields(record, held, &fields);
        self.key_of(def, held);
        let key = self.bind_key(def);
        let set = |(number, at): (usize, &usize)| {
            let field = &def.fields[*at];
            format!("{} = ${}::{}", quoted(&field.column), number + 1, sql_type(&field.ty))
        };
        let sets: Vec<String> = fields.iter().enumerate().map(set).collect();
        // An entity of nothing but its Id has nothing to set; the row must still be there.
        let sets = if sets.is_empty() { "\"Id\" = \"Id\"".to_owned() } else { sets.join(", ") };
        let (table, last) = (quoted(def.table()), fields.len() + 1);
        self.statement(&format!("UPDATE {table} SET {sets} WHERE \"Id\" = ${last}::{key}"));
        self.absent(def);
        self.run("rt_update");
        self.leave_if_raised();
    }

    pub(super) fn delete(&mut self, record: usize, id: &TExpr) {
        let named = self.shared.named;
        let def = &named.records[record];
        self.expression(id);
        let key = self.bind_key(def);
        self.statement(&format!("DELETE FROM {} WHERE \"Id\" = $1::{key}", quoted(def.table())));
        self.run("rt_delete");
        self.leave_if_raised();
    }

    /// Leaves the identifier of the record that a local holds on the stack.
    fn key_of(&mut self, def: &RecordDef, held: u32) {
        self.code.push(Instruction::LocalGet(held));
        self.code.push(load(&def.fields[0].ty, 0));
    }

    /// Binds an identifier that a row is looked for by, the null identifier too; gives its type in SQL.
    fn bind_key(&mut self, def: &RecordDef) -> &'static str {
        let key = &def.fields[0].ty;
        self.bind(if matches!(key, Type::TextIdentifier(_)) { &Type::Text } else { &Type::Long });
        sql_type(key)
    }

    /// The local that holds a value.
    pub(super) fn hold(&mut self, value: &TExpr) -> u32 {
        let held = self.temporary(word(&value.ty));
        self.expression(value);
        self.code.push(Instruction::LocalSet(held));
        held
    }

    /// Checks the record that a local holds, then binds attributes, in order.
    fn bind_fields(&mut self, record: usize, held: u32, fields: &[usize]) {
        let named = self.shared.named;
        let def = &named.records[record];
        // Before the first parameter is bound: a refused record leaves none behind.
        if fields.iter().map(|at| &def.fields[*at]).any(|f| f.mandatory || f.length.is_some()) {
            let (descriptor, entity) =
                (self.shared.descriptor(&Type::Record(record)), self.shared.data.text(&def.name));
            self.code.push(Instruction::LocalGet(held));
            self.address(descriptor);
            self.address(entity);
            self.call("rt_check");
            self.leave_if_raised();
        }
        for at in fields {
            let field = &def.fields[*at];
            self.code.push(Instruction::LocalGet(held));
            self.code.push(load(&field.ty, *at));
            if let Some(decimals) = field.decimals {
                self.code.push(Instruction::I32Const(decimals as i32));
                self.call("rt_dec_round");
            }
            self.bind(&field.ty);
        }
    }

    pub(super) fn bind(&mut self, ty: &Type) {
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
            Type::TextIdentifier(_) => "rt_param_text_id",
        });
    }

    pub(super) fn run(&mut self, statement: &str) {
        self.protect(1);
        self.call(statement);
        self.protect(-1);
    }

    pub(super) fn statement(&mut self, sql: &str) {
        let at = self.shared.data.text(sql);
        self.address(at);
    }

    fn absent(&mut self, def: &RecordDef) {
        let at = self.shared.data.text(&format!("Database exception: there is no such {}", def.name));
        self.address(at);
    }
}

/// Whether the database can evaluate an expression over rows; the part that it cannot.
pub(crate) fn refused(expr: &TExpr) -> Option<&TExpr> {
    if !touches_row(expr) {
        return None;
    }
    match &expr.kind {
        TKind::Attribute(..) | TKind::Calculated(_) => None,
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
                    Type::Text
                        | Type::Email
                        | Type::Phone
                        | Type::Integer
                        | Type::Long
                        | Type::Identifier(_)
                        | Type::TextIdentifier(_)
                );
            if text_of_other || (matches!(a.ty, Type::Text | Type::Time) && matches!(expr.ty, Type::DateTime))
            {
                Some(expr)
            } else {
                refused(a)
            }
        }
        TKind::Builtin(builtin, arguments) => {
            if builtin.sql(arguments).is_none() {
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

/// Whether the database has to compute an expression: it reads the row, or only the database can.
fn touches_row(expr: &TExpr) -> bool {
    matches!(expr.kind, TKind::Attribute(..) | TKind::Calculated(_) | TKind::Compare(Binary::Like, ..))
        || expr.parts().into_iter().any(touches_row)
}

/// A statement under construction.
pub(super) struct Statement<'s> {
    pub(super) named: &'s Named,
    pub(super) query: &'s Query,
    /// Which sources may have no row here, because a join keeps rows without one.
    pub(super) open: Vec<bool>,
    pub(super) text: String,
    pub(super) bound: Vec<Bound>,
    /// What must hold for the app to compute a value that is bound here.
    pub(super) guard: Option<usize>,
    pub(super) guards: Vec<Guard>,
}

/// A value that is computed by the app; where its guard does not hold, a default stands for it.
pub(super) struct Bound {
    pub(super) value: TExpr,
    pub(super) guard: Option<usize>,
}

/// A condition that does not touch the row: the app has its value, at a parameter, before those that depend on it.
pub(super) struct Guard {
    pub(super) parameter: usize,
    /// The value that lets the others be computed.
    pub(super) holds: bool,
    /// What must hold besides.
    pub(super) outer: Option<usize>,
}

/// Whether a value can be computed whatever a condition before it says: that raises nothing and asks nobody.
fn is_safe(value: &TExpr) -> bool {
    let own = match value.kind {
        TKind::Constant(_)
        | TKind::Null
        | TKind::Local(_)
        | TKind::Field(..)
        | TKind::Length(_)
        | TKind::Not(_)
        | TKind::Concat(..)
        | TKind::Compare(..)
        | TKind::Logic(..)
        | TKind::If(..) => true,
        TKind::Broken
        | TKind::Setting(_)
        | TKind::Attribute(..)
        | TKind::Calculated(_)
        | TKind::Item(..)
        | TKind::Negate(_)
        | TKind::Arithmetic(..)
        | TKind::Convert(_)
        | TKind::Builtin(..)
        | TKind::Invoke(..) => false,
    };
    own && value.parts().into_iter().all(is_safe)
}

impl Statement<'_> {
    /// The text of an expression, not yet part of the statement; its parameters have their numbers.
    pub(super) fn text_of(&mut self, write: impl FnOnce(&mut Self)) -> String {
        let text = std::mem::take(&mut self.text);
        write(self);
        std::mem::replace(&mut self.text, text)
    }

    /// A column as it is in the table; NULL where its source has no row.
    pub(super) fn column(&self, source: usize, index: usize) -> String {
        let source = &self.query.sources[source];
        format!(
            "{}.{}",
            quoted(&source.name),
            quoted(&self.named.records[source.record].fields[index].column)
        )
    }

    /// The default where the source of a column has no row.
    pub(super) fn or_default(&self, column: String, source: usize, ty: &Type) -> String {
        match default_of(ty).filter(|_| self.open[source]) {
            Some(default) => format!("COALESCE({column}, {default})"),
            None => column,
        }
    }

    /// Whether a value may be NULL: an identifier only, and no Id of a row that is there.
    pub(super) fn may_be_null(&self, expr: &TExpr) -> bool {
        let is_id = if let TKind::Attribute(source, index) = expr.kind {
            index == 0 && !self.open[source]
        } else {
            false
        };
        expr.ty.is_identifier() && !is_id
    }

    /// What must hold of a row. Here, unlike inside an expression, NULL is as good as false, so identifiers
    /// may be compared in the way that joins and indexes are made for.
    pub(super) fn condition(&mut self, expr: &TExpr) {
        match &expr.kind {
            TKind::Logic(Binary::And, a, b) if touches_row(expr) => {
                self.logic(Binary::And, [a, b], Self::condition);
            }
            TKind::Compare(Binary::Equal, a, b)
                if a.ty.is_identifier() && touches_row(a) && touches_row(b) =>
            {
                if self.may_be_null(a) && self.may_be_null(b) {
                    let null = null_of(&a.ty);
                    self.around("(COALESCE(", a, &format!(", {null}) = COALESCE("));
                    self.around("", b, &format!(", {null}))"));
                } else {
                    self.between(a, "=", b);
                }
            }
            TKind::Broken
            | TKind::Constant(_)
            | TKind::Null
            | TKind::Local(_)
            | TKind::Setting(_)
            | TKind::Field(..)
            | TKind::Attribute(..)
            | TKind::Calculated(_)
            | TKind::Item(..)
            | TKind::Length(_)
            | TKind::Negate(_)
            | TKind::Not(_)
            | TKind::Arithmetic(..)
            | TKind::Concat(..)
            | TKind::Compare(..)
            | TKind::Logic(..)
            | TKind::Convert(_)
            | TKind::If(..)
            | TKind::Builtin(..)
            | TKind::Invoke(..) => self.expression(expr),
        }
    }

    pub(super) fn parameter(&mut self, value: &TExpr) {
        let number = self.bind(value);
        self.text.push_str(&format!("${number}::{}", sql_type(&value.ty)));
    }

    /// The number of the parameter that a value is bound to.
    fn bind(&mut self, value: &TExpr) -> usize {
        let guard = self.guard.filter(|_| !is_safe(value));
        self.bound.push(Bound { value: value.clone(), guard });
        self.bound.len()
    }

    /// Both sides of `and` or `or`. As in the app, a side that does not touch the row decides whether
    /// what stands behind it is computed, however long the chain.
    fn logic(&mut self, op: Binary, sides: [&TExpr; 2], write: fn(&mut Self, &TExpr)) {
        let outer = self.guard;
        self.chain(op, sides, write);
        self.guard = outer;
    }

    fn chain(&mut self, op: Binary, [a, b]: [&TExpr; 2], write: fn(&mut Self, &TExpr)) {
        self.text.push('(');
        self.link(op, a, write);
        self.text.push_str(&format!(" {} ", op.symbol()));
        self.link(op, b, write);
        self.text.push(')');
    }

    /// One side of several; those behind it are guarded by it.
    pub(super) fn link(&mut self, op: Binary, side: &TExpr, write: fn(&mut Self, &TExpr)) {
        if !touches_row(side) {
            self.parameter(side);
            self.guard_by(Some(self.bound.len()), op == Binary::And);
        } else if let TKind::Logic(same, a, b) = &side.kind
            && *same == op
        {
            self.chain(op, [a, b], write);
        } else {
            write(self, side);
        }
    }

    /// What is bound from here on is computed only where the parameter of that number has this value.
    fn guard_by(&mut self, number: Option<usize>, holds: bool) {
        let Some(number) = number else { return };
        self.guards.push(Guard { parameter: number - 1, holds, outer: self.guard });
        self.guard = Some(self.guards.len() - 1);
    }

    pub(super) fn expression(&mut self, expr: &TExpr) {
        if !touches_row(expr) {
            return self.parameter(expr);
        }
        match &expr.kind {
            TKind::Attribute(source, index) => {
                let column = self.or_default(self.column(*source, *index), *source, &expr.ty);
                self.text.push_str(&column);
            }
            TKind::Calculated(index) => {
                let name = quoted(&self.query.calculated[*index].0);
                self.text.push_str(&format!("{name}.{name}"));
            }
            TKind::Negate(a) => self.around("(-", a, ")"),
            TKind::Not(a) => self.around("(NOT ", a, ")"),
            TKind::Arithmetic(op, a, b) if expr.ty == Type::Decimal => self.decimal(*op, a, b),
            TKind::Arithmetic(op, a, b) => self.between(a, op.symbol(), b),
            TKind::Logic(op, a, b) => self.logic(*op, [a, b], Self::expression),
            TKind::Concat(a, b) => self.between(a, "||", b),
            TKind::Compare(Binary::Like, a, b) => self.like(a, b),
            TKind::Compare(op, a, b) => self.compare(*op, a, b),
            TKind::Convert(a) if a.ty == Type::Decimal && matches!(expr.ty, Type::Integer | Type::Long) => {
                self.around("trunc(", a, &format!(")::{}", sql_type(&expr.ty)));
            }
            TKind::Convert(a) if self.may_be_null(a) => {
                self.around("(COALESCE(", a, &format!(", {}))::{}", null_of(&a.ty), sql_type(&expr.ty)));
            }
            TKind::Convert(a) if a.ty == Type::Boolean => {
                self.around("(", a, &format!(")::int4::{}", sql_type(&expr.ty)));
            }
            TKind::Convert(a) => self.around("(", a, &format!(")::{}", sql_type(&expr.ty))),
            TKind::If(c, a, b) => {
                self.around("(CASE WHEN ", c, " THEN ");
                let outer = self.guard;
                let condition = (!touches_row(c)).then_some(self.bound.len());
                self.guard_by(condition, true);
                self.around("", a, " ELSE ");
                self.guard = outer;
                self.guard_by(condition, false);
                self.around("", b, " END)");
                self.guard = outer;
            }
            TKind::Builtin(builtin, arguments) => {
                let mut rest = builtin.sql(arguments).unwrap_or_default();
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

    /// An expression by which rows are grouped, or a largest value is chosen.
    pub(super) fn comparable(&mut self, expr: &TExpr) {
        self.expression(expr);
        if is_text(&expr.ty) && !collates(expr) {
            self.text.push_str(&format!(" {COLLATION}"));
        }
    }

    /// Identifiers may be empty in the database, where the language knows the null identifier; it
    /// equals itself and nothing else.
    fn compare(&mut self, op: Binary, a: &TExpr, b: &TExpr) {
        let null_aware = a.ty.is_identifier() || b.ty.is_identifier();
        if !null_aware {
            if is_text(&a.ty) && !(collates(a) || collates(b)) {
                self.around("(", a, &format!(" {COLLATION} {} ", op.symbol()));
                return self.around("", b, ")");
            }
            return self.between(a, op.symbol(), b);
        }
        let (row, other) = if touches_row(a) { (a, b) } else { (b, a) };
        self.text.push_str(if op == Binary::NotEqual { "(NOT (" } else { "((" });
        // An attribute is named three times, so that its index can be used. Anything longer is named once:
        // repeated at each level, the text would grow with the power of the depth.
        if touches_row(other) || !matches!(row.kind, TKind::Attribute(..)) {
            self.between(row, "IS NOT DISTINCT FROM", other);
        } else {
            let other = format!("${}::{}", self.bind(other), sql_type(&other.ty));
            self.expression(row);
            self.text.push_str(&format!(" IS NOT NULL AND {other} IS NOT NULL AND "));
            self.expression(row);
            self.text.push_str(&format!(" = {other} OR "));
            self.expression(row);
            self.text.push_str(&format!(" IS NULL AND {other} IS NULL"));
        }
        self.text.push_str("))");
    }

    /// Products and quotients are rounded once, at the eighth digit: left to itself, the database keeps all digits of a
    /// product, and of a quotient 16 that count, wherever the point is. A quotient that is cut off behind the ninth
    /// digit rounds as the whole one does. What lies in the middle goes away from zero here, and to even in the app.
    fn decimal(&mut self, op: Binary, a: &TExpr, b: &TExpr) {
        if op == Binary::Multiply {
            self.around("round(", a, " * ");
            self.around("", b, ", 8)");
        } else if op == Binary::Divide {
            self.around("round(div(", a, " * 1000000000, ");
            self.around("", b, ") * 0.000000001, 8)");
        } else {
            self.between(a, op.symbol(), b);
        }
    }

    /// Both sides are folded by the rule of the app's own comparison: LIKE knows no collation that is not
    /// deterministic before PostgreSQL 18. Nothing escapes in a pattern, so that every one is valid.
    fn like(&mut self, value: &TExpr, pattern: &TExpr) {
        let (before, after) = &*FOLDED;
        self.around(&format!("({before}"), value, &format!("{after} LIKE "));
        // Folded once where it is the same for all rows.
        let (open, close) = if touches_row(pattern) { ("", "") } else { ("(SELECT ", ")") };
        self.around(&format!("{open}{before}"), pattern, &format!("{after}{close} ESCAPE '')"));
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

/// What stands around a text to fold it as [`crate::fold`] does. The collation is one that every database with
/// ICU has: deterministic, and with the small letters of all scripts.
static FOLDED: LazyLock<(String, String)> = LazyLock::new(|| {
    let mut pairs: Vec<(char, char)> = Vec::new();
    for (base, marked) in fold::BASES {
        pairs.extend(marked.chars().map(|marked| (marked, *base)));
    }
    let (from, to): (String, String) = pairs.into_iter().unzip();
    let marks: String = fold::MARKS.collect(); // without a counterpart, so they vanish
    let mut before = String::from("translate(lower(");
    let mut after = format!(" COLLATE \"und-x-icu\"), '{from}{marks}', '{to}')");
    for (letter, letters) in fold::SPREAD {
        before.insert_str(0, "replace(");
        after.push_str(&format!(", '{letter}', '{letters}')"));
    }
    (before, after)
});

/// How texts compare; a value that comes from no column has to be told.
pub(super) const COLLATION: &str = "COLLATE \"odeon_text\"";

pub(super) fn is_text(ty: &Type) -> bool {
    matches!(ty, Type::Text | Type::Email | Type::Phone)
}

/// Whether a text comes from a column, which says how it compares: as in the database, where what a text is made of
/// hands that on, and what only decides about it, as the condition of an `If` does, says nothing.
fn collates(expr: &TExpr) -> bool {
    if !is_text(&expr.ty) {
        return false;
    }
    match &expr.kind {
        TKind::Attribute(..) | TKind::Calculated(_) => true,
        TKind::Concat(a, b) | TKind::If(_, a, b) => collates(a) || collates(b),
        TKind::Convert(a) => collates(a),
        TKind::Builtin(_, arguments) => arguments.iter().any(collates),
        TKind::Broken
        | TKind::Constant(_)
        | TKind::Null
        | TKind::Local(_)
        | TKind::Setting(_)
        | TKind::Field(..)
        | TKind::Item(..)
        | TKind::Length(_)
        | TKind::Negate(_)
        | TKind::Not(_)
        | TKind::Arithmetic(..)
        | TKind::Compare(..)
        | TKind::Logic(..)
        | TKind::Invoke(..) => false,
    }
}

/// What stands for an attribute of a source without a row; none for identifiers, which may be NULL.
fn default_of(ty: &Type) -> Option<&'static str> {
    Some(match ty {
        Type::Identifier(_) | Type::TextIdentifier(_) => return None,
        Type::Unknown | Type::Boolean => "false",
        Type::Integer | Type::Long | Type::Decimal => "0",
        Type::Text | Type::Email | Type::Phone => "''",
        Type::Date => "date '1900-01-01'",
        Type::Time => "time '00:00:00'",
        Type::DateTime => "timestamp '1900-01-01 00:00:00'",
        Type::Binary | Type::Record(_) | Type::List(_) => "''::bytea",
    })
}

/// What the null identifier is to the language.
fn null_of(ty: &Type) -> &'static str {
    if matches!(ty, Type::TextIdentifier(_)) { "''" } else { "0" }
}

/// The columns of attributes, and the parameters for them, for an insertion.
fn listed(def: &RecordDef, fields: &[usize]) -> (String, String) {
    let name = |at: &usize| quoted(&def.fields[*at].column);
    let value = |(number, at): (usize, &usize)| format!("${}::{}", number + 1, sql_type(&def.fields[*at].ty));
    let names: Vec<String> = fields.iter().map(name).collect();
    let values: Vec<String> = fields.iter().enumerate().map(value).collect();
    (names.join(", "), values.join(", "))
}

fn columns(def: &RecordDef) -> String {
    def.fields.iter().map(|f| quoted(&f.column)).collect::<Vec<_>>().join(", ")
}

/// Names hold letters, digits and _ only, so quotes need no doubling.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

pub(super) fn sql_type(ty: &Type) -> &'static str {
    match ty {
        Type::Unknown | Type::Boolean => "boolean",
        Type::Integer => "int4",
        Type::Long | Type::Identifier(_) => "int8",
        Type::Decimal => "numeric",
        Type::Text | Type::Email | Type::Phone | Type::TextIdentifier(_) => "text",
        Type::Date => "date",
        Type::Time => "time",
        Type::DateTime => "timestamp",
        Type::Binary | Type::Record(_) | Type::List(_) => "bytea",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_folded_one_for_one() {
        let (before, after) = &*FOLDED;
        let quoted: Vec<&str> = after.split('\'').skip(1).step_by(2).collect();
        let [from, to, spread @ ..] = &quoted[..] else { panic!("{after}") };
        let from: Vec<char> = from.chars().collect();
        let mut unique = from.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), from.len(), "translate takes the first of two");
        assert_eq!(from.len() - to.chars().count(), fold::MARKS.count());
        assert_eq!(spread.len(), before.matches("replace(").count() * 2);
        // What a letter becomes is small and plain: it is not folded again.
        for to in to.chars().chain(spread.iter().skip(1).step_by(2).flat_map(|letters| letters.chars())) {
            assert!(to.is_lowercase() && !from.contains(&to), "{to}");
        }
    }
}
