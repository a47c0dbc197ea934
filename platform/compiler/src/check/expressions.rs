//! Expressions: types, implicit conversions, and what operators take.
//!
//! The conversions are ODC's (odc-features 1.6). A mistake is reported at the smallest part that is
//! wrong, and the whole becomes `Type::Unknown`, which fits everywhere.

use super::Checker;
use crate::ast::{Binary, Expr, ExprKind, Name, Unary};
use crate::builtins::{BUILTINS, SPECIAL};
use crate::literal;
use crate::problem::near;
use crate::sources::Span;
use crate::types::*;

impl Checker<'_, '_> {
    pub(super) fn expression(&mut self, expr: &Expr) -> TExpr {
        let made = |ty: Type, kind: TKind| TExpr { ty, span: expr.span, kind };
        let broken = || made(Type::Unknown, TKind::Broken);
        match &expr.kind {
            ExprKind::Broken => broken(),
            ExprKind::Number(text) => {
                let ty = match text {
                    t if t.contains('.') => Type::Decimal,
                    t if t.parse::<i32>().is_ok() => Type::Integer,
                    t if t.parse::<i64>().is_ok() => Type::Long,
                    _ => Type::Decimal,
                };
                match literal::read(text, &ty) {
                    Some(constant) => made(ty, TKind::Constant(constant)),
                    None => {
                        self.problems.error(
                            "OML0207",
                            expr.span,
                            format!("`{text}` is no number that fits a type"),
                        );
                        broken()
                    }
                }
            }
            ExprKind::Text(text) => made(Type::Text, TKind::Constant(Constant::Text(text.clone()))),
            ExprKind::Moment(text) => {
                let read = [Type::Date, Type::Time, Type::DateTime]
                    .into_iter()
                    .find_map(|ty| literal::read(text, &ty).map(|constant| (ty, constant)));
                match read {
                    Some((ty, constant)) => made(ty, TKind::Constant(constant)),
                    None => {
                        self.problems.error("OML0207", expr.span, format!("`{text}` is no date or time"));
                        broken()
                    }
                }
            }
            ExprKind::Name(name) => self.name(name, expr.span),
            ExprKind::Member(of, member) => self.member(of, member, expr.span),
            ExprKind::Item(list, index) => {
                let list = self.expression(list);
                let index = self.expect(index, &Type::Integer);
                let of = self.element_of(&list, "OML0203", |shown| format!("{shown} has no elements"));
                if of == Type::Unknown {
                    return broken();
                }
                made(of, TKind::Item(Box::new(list), Box::new(index)))
            }
            ExprKind::Call(name, arguments) => self.function(name, arguments, expr.span),
            ExprKind::Unary(Unary::Not, operand) => {
                let operand = self.expect(operand, &Type::Boolean);
                made(Type::Boolean, TKind::Not(Box::new(operand)))
            }
            ExprKind::Unary(Unary::Minus, operand) => {
                let operand = self.expression(operand);
                match operand.ty {
                    Type::Integer | Type::Long | Type::Decimal => {
                        made(operand.ty.clone(), TKind::Negate(Box::new(operand)))
                    }
                    Type::Unknown => broken(),
                    Type::Boolean
                    | Type::Text
                    | Type::Email
                    | Type::Phone
                    | Type::Date
                    | Type::Time
                    | Type::DateTime
                    | Type::Binary
                    | Type::Identifier(_)
                    | Type::TextIdentifier(_)
                    | Type::Record(_)
                    | Type::List(_) => {
                        let message = format!("`-` does not take {}", self.named.shown(&operand.ty));
                        self.problems.error("OML0203", expr.span, message);
                        broken()
                    }
                }
            }
            ExprKind::Binary(op, at, left, right) => {
                let (left, right) = (self.expression(left), self.expression(right));
                self.binary(*op, *at, left, right, expr.span)
            }
        }
    }

    fn name(&mut self, name: &str, span: Span) -> TExpr {
        if let Some((index, ty)) = self.rows.calculated(name) {
            return TExpr { ty: ty.clone(), span, kind: TKind::Calculated(index) };
        }
        let found = self.scope.get(name).and_then(|variables| variables.last()).copied();
        if let Some(variable) = found {
            return TExpr { ty: self.variables[variable].ty.clone(), span, kind: TKind::Local(variable) };
        }
        let constant = match name {
            "True" | "true" => Some(true),
            "False" | "false" => Some(false),
            _ => None,
        };
        if let Some(value) = constant {
            return TExpr { ty: Type::Boolean, span, kind: TKind::Constant(Constant::Boolean(value)) };
        }
        let known = self.scope.keys().map(String::as_str);
        let known = known.chain(self.nodes.keys().map(String::as_str)).chain(["True", "False"]);
        let known = known.chain(self.rows.names());
        let hint = near(name, known);
        self.problems.error_hint("OML0103", span, format!("there is no variable `{name}` here"), hint);
        TExpr { ty: Type::Unknown, span, kind: TKind::Broken }
    }

    fn member(&mut self, of: &Expr, member: &Name, span: Span) -> TExpr {
        let broken = TExpr { ty: Type::Unknown, span, kind: TKind::Broken };
        if let ExprKind::Name(root) = &of.kind {
            // In a query a source's name is the row under test, whatever else has that name.
            if let Some((source, record)) = self.rows.source(root) {
                let kind = |index| TKind::Attribute(source, index);
                return record.and_then(|r| self.field(r, member, span, kind)).unwrap_or(broken);
            }
            let is_variable = self.scope.contains_key(root);
            if !is_variable && self.broken.contains(root) {
                return broken;
            }
            if !is_variable && let Some(outputs) = self.nodes.get(root) {
                if let Some((_, variable)) = outputs.iter().find(|(n, _)| *n == member.text) {
                    let ty = self.variables[*variable].ty.clone();
                    return TExpr { ty, span, kind: TKind::Local(*variable) };
                }
                let hint = near(&member.text, outputs.iter().map(|(n, _)| n.as_str()));
                let message = format!("the node `{root}` has no output `{}`", member.text);
                self.problems.error_hint("OML0104", member.span, message, hint);
                return broken;
            }
        }
        if matches!(&of.kind, ExprKind::Name(n) if n == "Settings") {
            return self.setting(member, span).unwrap_or(broken);
        }
        if let Some(entity) = entity_of(of) {
            return self.static_record(&entity, member, span).unwrap_or(broken);
        }
        let base = self.expression(of);
        if let Type::Record(record) = base.ty {
            let kind = |index| TKind::Field(Box::new(base), index);
            return self.field(record, member, span, kind).unwrap_or(broken);
        }
        let is_list = matches!(base.ty, Type::List(_));
        if is_list && matches!(member.text.as_str(), "Length" | "Empty") {
            let length = TExpr { ty: Type::Integer, span, kind: TKind::Length(Box::new(base)) };
            if member.text == "Length" {
                return length;
            }
            let zero = TExpr { ty: Type::Integer, span, kind: TKind::Constant(Constant::Integer(0)) };
            let kind = TKind::Compare(Binary::Equal, Box::new(length), Box::new(zero));
            return TExpr { ty: Type::Boolean, span, kind };
        }
        if base.ty != Type::Unknown {
            let message = format!("{} has no `{}`", self.named.shown(&base.ty), member.text);
            let hint = is_list.then(|| "a list has Length and Empty".to_owned());
            self.problems.error_hint("OML0104", member.span, message, hint);
        }
        broken
    }

    /// The type of a list's elements; `Type::Unknown` and a problem where there are none.
    pub(super) fn element_of(
        &mut self,
        list: &TExpr,
        code: &'static str,
        refused: impl FnOnce(&str) -> String,
    ) -> Type {
        if let Type::List(of) = &list.ty {
            return (**of).clone();
        }
        if list.ty != Type::Unknown {
            self.problems.error(code, list.span, refused(&self.named.shown(&list.ty)));
        }
        Type::Unknown
    }

    fn field(
        &mut self,
        record: usize,
        member: &Name,
        span: Span,
        kind: impl FnOnce(usize) -> TKind,
    ) -> Option<TExpr> {
        let def = &self.named.records[record];
        match def.fields.iter().position(|f| f.name == member.text) {
            Some(index) => Some(TExpr { ty: def.fields[index].ty.clone(), span, kind: kind(index) }),
            None => {
                crate::resolve::unknown_attribute(member, &def.name, &def.fields, self.problems);
                None
            }
        }
    }

    fn setting(&mut self, name: &Name, span: Span) -> Option<TExpr> {
        let settings = &self.named.settings;
        if let Some(index) = self.named.setting_places.get(&name.text).copied() {
            return Some(TExpr { ty: settings[index].ty.clone(), span, kind: TKind::Setting(index) });
        }
        let hint = near(&name.text, settings.iter().map(|setting| setting.name.as_str()));
        let message = format!("there is no setting `{}`", name.text);
        self.problems.error_hint("OML0109", name.span, message, hint);
        None
    }

    fn static_record(&mut self, entity: &Name, record: &Name, span: Span) -> Option<TExpr> {
        let index = self.entity(entity)?;
        let ids = &self.named.records[index].entity.as_ref()?.ids;
        match ids.get(&record.text) {
            Some(id) => {
                let kind = TKind::Constant(Constant::Long(*id));
                Some(TExpr { ty: Type::Identifier(Some(index)), span, kind })
            }
            None => {
                let hint = near(&record.text, ids.keys().map(String::as_str));
                let message = format!("`{}` has no record `{}`", entity.text, record.text);
                self.problems.error_hint("OML0107", record.span, message, hint);
                None
            }
        }
    }

    fn function(&mut self, name: &Name, arguments: &[Expr], span: Span) -> TExpr {
        let made = |ty: Type, kind: TKind| TExpr { ty, span, kind };
        if let Some(action) = self.action_named(&name.text, true) {
            return self.invoke(name, action, arguments, span);
        }
        if let Some(check) = self.check_role(&name.text, arguments, span) {
            return check;
        }
        match (name.text.as_str(), arguments) {
            ("If", [condition, then, otherwise]) => {
                let condition = self.expect(condition, &Type::Boolean);
                let (then, otherwise) = (self.expression(then), self.expression(otherwise));
                let ty = match (&then.ty, &otherwise.ty) {
                    (a, b) if a == b => a.clone(),
                    (Type::Identifier(None), b) if b.is_identifier() => b.clone(),
                    (a, Type::Identifier(None)) if a.is_identifier() => a.clone(),
                    (a, b) => wider(a, b).unwrap_or_else(|| a.clone()),
                };
                let (then, otherwise) = (self.convert(then, &ty), self.convert(otherwise, &ty));
                made(ty, TKind::If(Box::new(condition), Box::new(then), Box::new(otherwise)))
            }
            ("NullIdentifier", []) => made(Type::Identifier(None), TKind::Null),
            ("NullTextIdentifier", []) => TExpr { ty: Type::TextIdentifier(None), ..self.text("", span) },
            ("GetAppName", []) => self.text(&self.named.app, span),
            ("GetOwnerURLPath", []) => self.text(&format!("/{}", self.named.app), span),
            ("GetCurrentLocale", []) => self.text("en-US", span),
            (word, _) => {
                if let Some((_, parameters, _)) = SPECIAL.iter().find(|(name, ..)| *name == word) {
                    return self.wrong_count(format!("{word}({parameters})"), arguments.len(), span);
                }
                let Some(builtin) = BUILTINS.iter().find(|b| b.name == word) else {
                    let known = BUILTINS.iter().map(|b| b.name).chain(SPECIAL.iter().map(|(name, ..)| *name));
                    let hint = near(word, known);
                    let message = format!("there is no function `{word}`");
                    self.problems.error_hint("OML0106", name.span, message, hint);
                    return made(Type::Unknown, TKind::Broken);
                };
                if !(builtin.required..=builtin.parameters.len()).contains(&arguments.len()) {
                    let note = if builtin.note.is_empty() { "" } else { ": " };
                    let wanted = format!("{}{note}{}", builtin.signature(), builtin.note);
                    return self.wrong_count(wanted, arguments.len(), span);
                }
                // What it gives of a number, it gives of a text.
                if let ("IdentifierToText", [id]) = (word, arguments) {
                    let id = self.expression(id);
                    if matches!(id.ty, Type::TextIdentifier(_)) {
                        return self.convert(id, &Type::Text);
                    }
                }
                let given = arguments.iter().zip(builtin.parameters).map(|(a, p)| self.expect(a, p));
                let mut typed: Vec<TExpr> = given.collect();
                for ty in &builtin.parameters[arguments.len()..] {
                    let kind = literal::default_of(ty).map_or(TKind::Broken, TKind::Constant);
                    typed.push(TExpr { ty: ty.clone(), span, kind });
                }
                made(builtin.result.clone(), TKind::Builtin(builtin, typed))
            }
        }
    }

    pub(super) fn text(&self, text: &str, span: Span) -> TExpr {
        TExpr { ty: Type::Text, span, kind: TKind::Constant(Constant::Text(text.to_owned())) }
    }

    pub(super) fn wrong_count(&mut self, wanted: String, given: usize, span: Span) -> TExpr {
        let message = format!("the function does not take {given} arguments");
        self.problems.error_hint("OML0204", span, message, Some(wanted));
        TExpr { ty: Type::Unknown, span, kind: TKind::Broken }
    }

    /// A call of the app's own function: inputs by their order, optional ones at the end may be left out.
    fn invoke(&mut self, name: &Name, action: usize, arguments: &[Expr], span: Span) -> TExpr {
        let def = &self.named.actions[action];
        let inputs = &def.variables[..def.inputs];
        if arguments.len() > inputs.len() {
            let message =
                format!("`{}` takes {} arguments, not {}", name.text, inputs.len(), arguments.len());
            self.problems.error("OML0204", span, message);
        }
        if let Some(missing) = inputs.iter().skip(arguments.len()).find(|input| input.mandatory) {
            let message = format!("`{}` needs the input `{}`", name.text, missing.name);
            self.problems.error("OML0208", span, message);
        }
        let given = inputs.iter().zip(arguments).map(|(input, value)| Some(self.expect(value, &input.ty)));
        let mut typed: Vec<Option<TExpr>> = given.collect();
        typed.resize(inputs.len(), None);
        // A function without its one output was reported where it is declared.
        let ty = def.outputs().first().map_or(Type::Unknown, |output| output.ty.clone());
        TExpr { ty, span, kind: TKind::Invoke(action, typed) }
    }

    fn binary(&mut self, op: Binary, at: Span, left: TExpr, right: TExpr, span: Span) -> TExpr {
        let made = |ty: Type, kind: TKind| TExpr { ty, span, kind };
        if left.ty == Type::Unknown || right.ty == Type::Unknown {
            return made(Type::Unknown, TKind::Broken);
        }
        let refused = |checker: &mut Self, left: &TExpr, right: &TExpr| {
            let (l, r) = (checker.named.shown(&left.ty), checker.named.shown(&right.ty));
            checker.problems.error("OML0203", at, format!("`{}` does not take {l} and {r}", op.symbol()));
            TExpr { ty: Type::Unknown, span, kind: TKind::Broken }
        };
        match op {
            Binary::And | Binary::Or => {
                let (left, right) = (self.convert(left, &Type::Boolean), self.convert(right, &Type::Boolean));
                made(Type::Boolean, TKind::Logic(op, Box::new(left), Box::new(right)))
            }
            Binary::Like => {
                if !self.rows.is_query() {
                    let message = "`LIKE` is for queries: only the database computes it";
                    let hint = "Index(Text, Search) >= 0 finds a text in another".to_owned();
                    self.problems.error_hint("OML0506", at, message, Some(hint));
                }
                let (left, right) = (self.convert(left, &Type::Text), self.convert(right, &Type::Text));
                made(Type::Boolean, TKind::Compare(op, Box::new(left), Box::new(right)))
            }
            Binary::Add if is_text(&left.ty) || is_text(&right.ty) => {
                let (left, right) = (self.convert(left, &Type::Text), self.convert(right, &Type::Text));
                made(Type::Text, TKind::Concat(Box::new(left), Box::new(right)))
            }
            Binary::Add | Binary::Subtract | Binary::Multiply | Binary::Divide => {
                let Some(wide) = wider(&left.ty, &right.ty).filter(is_number) else {
                    return refused(self, &left, &right);
                };
                let ty = if op == Binary::Divide { Type::Decimal } else { wide };
                let (left, right) = (self.convert(left, &ty), self.convert(right, &ty));
                made(ty, TKind::Arithmetic(op, Box::new(left), Box::new(right)))
            }
            Binary::Less
            | Binary::LessEqual
            | Binary::Greater
            | Binary::GreaterEqual
            | Binary::Equal
            | Binary::NotEqual => {
                let equality = matches!(op, Binary::Equal | Binary::NotEqual);
                let left = self.meant(left, &right.ty);
                let right = self.meant(right, &left.ty);
                let common = match (&left.ty, &right.ty) {
                    (Type::TextIdentifier(a), Type::TextIdentifier(b)) if equality => {
                        if a.is_some() && b.is_some() && a != b {
                            self.problems.warning("OML0205", at, "these are identifiers of two entities");
                        }
                        Some(Type::TextIdentifier(a.or(*b)))
                    }
                    (Type::Identifier(a), Type::Identifier(b)) if equality => {
                        if a.is_some() && b.is_some() && a != b {
                            self.problems.warning("OML0205", at, "these are identifiers of two entities");
                        }
                        Some(Type::Identifier(a.or(*b)))
                    }
                    (Type::Record(a), Type::Record(b)) if equality && a == b => Some(Type::Record(*a)),
                    (Type::Binary | Type::Record(_) | Type::List(_), _) => None,
                    (Type::Boolean, Type::Boolean) if equality => Some(Type::Boolean),
                    (Type::Boolean, _) | (_, Type::Boolean) => None,
                    (a, b) if a.is_identifier() || b.is_identifier() => None,
                    (a, b) if a == b => Some(a.clone()),
                    (a, b) => wider(a, b),
                };
                let Some(ty) = common else { return refused(self, &left, &right) };
                let (left, right) = (self.retype(left, &ty), self.retype(right, &ty));
                made(Type::Boolean, TKind::Compare(op, Box::new(left), Box::new(right)))
            }
        }
    }

    /// Identifiers of two entities compare as they are; everything else converts.
    fn retype(&mut self, value: TExpr, ty: &Type) -> TExpr {
        if value.ty.is_identifier() { value } else { self.convert(value, ty) }
    }

    /// An identifier of any entity, where one that is a text is meant: `NullIdentifier()` and `TextToIdentifier(…)`.
    fn meant(&self, value: TExpr, ty: &Type) -> TExpr {
        if value.ty != Type::Identifier(None) || !matches!(ty, Type::TextIdentifier(_)) {
            return value;
        }
        if let TKind::Null = value.kind {
            return TExpr { ty: ty.clone(), ..self.text("", value.span) };
        }
        if let TKind::Builtin(builtin, arguments) = &value.kind
            && builtin.name == "TextToIdentifier"
            && let [text] = &arguments[..]
        {
            return TExpr { ty: ty.clone(), ..text.clone() };
        }
        value
    }

    /// Records are one another when one has no name of its own and they have the same attributes in one order.
    fn is_same_shape(&self, from: &Type, to: &Type) -> bool {
        match (from, to) {
            (Type::List(from), Type::List(to)) => self.is_same_shape(from, to),
            (Type::Record(from), Type::Record(to)) => {
                let (from, to) = (&self.named.records[*from], &self.named.records[*to]);
                let is_same = |a: &FieldDef, b: &FieldDef| {
                    a.name == b.name && (a.ty == b.ty || self.is_same_shape(&a.ty, &b.ty))
                };
                (from.inline || to.inline)
                    && from.fields.len() == to.fields.len()
                    && from.fields.iter().zip(&to.fields).all(|(a, b)| is_same(a, b))
            }
            _ => false,
        }
    }

    /// Converts as ODC does without being asked, or reports.
    pub(super) fn convert(&mut self, value: TExpr, ty: &Type) -> TExpr {
        if value.ty == *ty || value.ty == Type::Unknown || *ty == Type::Unknown {
            return value;
        }
        let value = self.meant(value, ty);
        if let (Type::Identifier(from), Type::Identifier(to))
        | (Type::TextIdentifier(from), Type::TextIdentifier(to)) = (&value.ty, ty)
        {
            if from.is_some() && to.is_some() {
                let (from, to) = (self.named.shown(&value.ty), self.named.shown(ty));
                self.problems.warning(
                    "OML0205",
                    value.span,
                    format!("this is a {from}, where a {to} is expected"),
                );
            }
            return TExpr { ty: ty.clone(), ..value };
        }
        if self.is_same_shape(&value.ty, ty) {
            return TExpr { ty: ty.clone(), ..value };
        }
        if !converts(&value.ty, ty) {
            let (from, to) = (self.named.shown(&value.ty), self.named.shown(ty));
            let hint = match (&value.ty, ty) {
                (Type::Text, Type::Integer) => Some("TextToInteger converts it".to_owned()),
                (Type::Text, Type::Decimal) => Some("TextToDecimal converts it".to_owned()),
                (Type::Text, Type::Date) => Some("TextToDate converts it".to_owned()),
                (Type::Long, Type::Integer) => Some("LongIntegerToInteger converts it".to_owned()),
                (Type::Integer | Type::Long, Type::Identifier(_)) => {
                    Some("LongIntegerToIdentifier converts it".to_owned())
                }
                (Type::Text, Type::Identifier(_) | Type::TextIdentifier(_)) => {
                    Some("TextToIdentifier converts it".to_owned())
                }
                _ => None,
            };
            self.problems.error_hint("OML0202", value.span, format!("expected {to}, found {from}"), hint);
            return TExpr { ty: Type::Unknown, span: value.span, kind: TKind::Broken };
        }
        let span = value.span;
        TExpr { ty: ty.clone(), span, kind: TKind::Convert(Box::new(value)) }
    }
}

/// The static entity that `Entities.Kind` or `Entities.Library.Kind` names.
fn entity_of(expr: &Expr) -> Option<Name> {
    let ExprKind::Member(of, last) = &expr.kind else { return None };
    if matches!(&of.kind, ExprKind::Name(root) if root == "Entities") {
        return Some(last.clone());
    }
    let whose = entity_of(of)?;
    Some(Name { text: format!("{}.{}", whose.text, last.text), span: expr.span })
}

fn is_number(ty: &Type) -> bool {
    matches!(ty, Type::Integer | Type::Long | Type::Decimal)
}

/// The type two values meet in.
fn wider(a: &Type, b: &Type) -> Option<Type> {
    let rank = |ty: &Type| match ty {
        Type::Integer => Some(1),
        Type::Long => Some(2),
        Type::Decimal => Some(3),
        Type::Unknown
        | Type::Boolean
        | Type::Text
        | Type::Email
        | Type::Phone
        | Type::Date
        | Type::Time
        | Type::DateTime
        | Type::Binary
        | Type::Identifier(_)
        | Type::TextIdentifier(_)
        | Type::Record(_)
        | Type::List(_) => None,
    };
    match (a, b) {
        _ if is_text(a) && is_text(b) => Some(Type::Text),
        (Type::Date | Type::DateTime, Type::Date | Type::DateTime) => {
            Some(if a == b { a.clone() } else { Type::DateTime })
        }
        (Type::Time, Type::Time) => Some(Type::Time),
        _ => Some(if rank(a)? >= rank(b)? { a.clone() } else { b.clone() }),
    }
}

fn converts(from: &Type, to: &Type) -> bool {
    match to {
        Type::Integer => matches!(from, Type::Decimal | Type::Boolean),
        Type::Long => matches!(from, Type::Integer | Type::Decimal | Type::Boolean),
        Type::Decimal => matches!(from, Type::Integer | Type::Long | Type::Boolean),
        Type::Date => matches!(from, Type::DateTime),
        Type::DateTime => matches!(from, Type::Date | Type::Text | Type::Time),
        Type::Text => {
            is_number(from) || is_text(from) || from.is_identifier() || matches!(from, Type::Boolean)
        }
        Type::Email | Type::Phone => {
            is_number(from)
                || is_text(from)
                || from.is_identifier()
                || matches!(from, Type::Boolean | Type::Date | Type::Time | Type::DateTime)
        }
        Type::Unknown
        | Type::Boolean
        | Type::Time
        | Type::Binary
        | Type::Identifier(_)
        | Type::TextIdentifier(_)
        | Type::Record(_)
        | Type::List(_) => false,
    }
}
