//! Statements of the author's own: entities, attributes and parameters in the text of an `sql` node.
//!
//! The SQL itself is PostgreSQL's to read, when it runs. Invariant: every name in braces, brackets or behind
//! an `@` has been looked up, and no value becomes part of the text.

use super::Checker;
use crate::ast::{self, Name, SqlPart};
use crate::problem::near;
use crate::resolve::unknown_attribute;
use crate::types::*;

impl Checker<'_, '_> {
    pub(super) fn statement(&mut self, node: &ast::Node, sql: &ast::Sql) -> (String, TNodeKind) {
        let entities: Vec<usize> = sql
            .parts
            .iter()
            .filter_map(|part| {
                let (SqlPart::Entity(name) | SqlPart::Attribute(Some(name), _)) = part else { return None };
                self.readable(name)
            })
            .collect();
        let values: Vec<TExpr> = sql.parameters.iter().map(|parameter| self.parameter(parameter)).collect();
        // Numbered as they appear; what does not appear is not bound.
        let mut numbers: Vec<usize> = Vec::new();
        let mut parts = Vec::new();
        for part in &sql.parts {
            match part {
                SqlPart::Text(text) => parts.push(StatementPart::Text(text.clone())),
                SqlPart::Entity(name) => parts.push(StatementPart::Name(self.table(name))),
                SqlPart::Attribute(entity, name) => {
                    let column = self.column_of(entity.as_ref(), name, &entities);
                    if let Some(entity) = entity {
                        parts.push(StatementPart::Name(self.table(entity)));
                        parts.push(StatementPart::Text(".".to_owned()));
                    }
                    parts.extend(column.map(StatementPart::Name));
                }
                SqlPart::Parameter(name) => {
                    let Some(at) = sql.parameters.iter().position(|(n, _, _)| n.text == name.text) else {
                        let known = sql.parameters.iter().map(|(name, _, _)| name.text.as_str());
                        let hint = near(&name.text, known);
                        let hint = hint.or_else(|| Some("declare it under `parameters`".to_owned()));
                        let message = format!("the statement has no parameter `{}`", name.text);
                        self.problems.error_hint("OML0504", name.span, message, hint);
                        continue;
                    };
                    let number = numbers.iter().position(|n| *n == at).unwrap_or_else(|| {
                        numbers.push(at);
                        numbers.len() - 1
                    });
                    parts.push(StatementPart::Parameter(number));
                }
            }
        }
        for (at, (name, _, _)) in sql.parameters.iter().enumerate() {
            if !numbers.contains(&at) {
                let message = format!("the statement does not use `@{}`", name.text);
                self.problems.warning("OML0504", name.span, message);
            }
        }
        let parameters = numbers.iter().map(|at| values[*at].clone()).collect();
        let row = self.output(node, sql);
        let statement = Box::new(SqlStatement { parts, parameters, writes: sql.writes });
        let count = ("Count", Type::Long);
        let default = "SQL".to_owned();
        let (list, count) = match row {
            Some(row) => {
                let outs = self.outputs(node, &default, &[("List", Type::List(Box::new(row))), count]);
                (Some(outs[0]), outs[1])
            }
            None => (None, self.outputs(node, &default, &[count])[0]),
        };
        (default, TNodeKind::Sql { statement, list, count })
    }

    fn parameter(&mut self, (_, type_name, value): &(Name, Option<Name>, ast::Expr)) -> TExpr {
        let typed = match type_name {
            Some(name) => {
                let ty = self.named.types.type_of(name, self.problems);
                self.expect(value, &ty)
            }
            None => self.expression(value),
        };
        if matches!(typed.ty, Type::Record(_) | Type::List(_)) {
            let message = format!("a parameter is a basic value, not {}", self.named.shown(&typed.ty));
            self.problems.error("OML0202", typed.span, message);
        }
        typed
    }

    /// The table of an entity; an unknown one was reported.
    fn table(&self, entity: &Name) -> String {
        let place = self.named.types.places.get(&entity.text);
        place.map_or(&*entity.text, |place| self.named.records[*place].table()).to_owned()
    }

    /// The column of an attribute of its entity, or without one of any entity of the statement.
    fn column_of(&mut self, entity: Option<&Name>, name: &Name, entities: &[usize]) -> Option<String> {
        let named = self.named;
        if let Some(entity) = entity {
            let place = named.types.places.get(&entity.text).copied();
            // An unknown entity was reported.
            let record = place.filter(|place| *place < named.types.entities)?;
            let index = self.attribute(record, name)?;
            return Some(named.records[record].fields[index].column.clone());
        }
        let mut records = entities.iter().map(|entity| &named.records[*entity]);
        let fields = records.clone().flat_map(|record| &record.fields);
        let mut columns: Vec<&String> = fields.filter(|f| f.name == name.text).map(|f| &f.column).collect();
        columns.dedup();
        if let [column, others @ ..] = columns.as_slice() {
            if !others.is_empty() {
                let message =
                    format!("`{}` is stored differently in the entities of the statement", name.text);
                let hint = format!("write `{{Entity}}.[{}]`", name.text);
                self.problems.error_hint("OML0503", name.span, message, Some(hint));
            }
            return Some((*column).clone());
        }
        match (records.next(), records.next()) {
            (Some(only), None) => unknown_attribute(name, &only.name, &only.fields, self.problems),
            _ => {
                let message = format!("no entity of the statement has an attribute `{}`", name.text);
                self.problems.error("OML0104", name.span, message);
            }
        }
        None
    }

    /// The type of a row, for a statement that gives rows.
    fn output(&mut self, node: &ast::Node, sql: &ast::Sql) -> Option<Type> {
        let Some(name) = &sql.output else {
            if sql.gives_rows {
                let hint = "name the structure or entity of a row with `output`".to_owned();
                let message = "the statement gives rows, and nothing says what they are";
                self.problems.error_hint("OML0505", node.span, message, Some(hint));
            }
            return None;
        };
        if !sql.gives_rows {
            let hint = "end it with RETURNING, or take `output` away".to_owned();
            let message = "the statement gives no rows";
            self.problems.error_hint("OML0505", name.span, message, Some(hint));
        }
        let ty = self.named.types.type_of(name, self.problems);
        let Type::Record(record) = ty else {
            if ty != Type::Unknown {
                let message = format!("`output` is a structure or an entity, not {}", name.text);
                self.problems.error("OML0505", name.span, message);
            }
            return Some(Type::Unknown);
        };
        let fields = &self.named.records[record].fields;
        if let Some(deep) = fields.iter().find(|f| matches!(f.ty, Type::Record(_) | Type::List(_))) {
            let message = format!("`{}.{}` is no basic value, and a column is one", name.text, deep.name);
            self.problems.error("OML0505", name.span, message);
        }
        Some(ty)
    }
}
