//! Check: every flow against what the names stand for; every expression gets a type.
//!
//! Variables are visible from the top of an action, outputs of a node after the node, the element of a
//! For Each inside it. Invariant: what leaves here without an error can be lowered; `Type::Unknown`
//! remains only where an error was reported.

mod expressions;
mod routes;

use crate::ast::{self, Expr, ExprKind, Name, NodeKind, Parsed};
use crate::problem::{Problems, near};
use crate::resolve::unknown_attribute;
use crate::types::*;

pub(crate) fn check(parsed: &Parsed, named: Named, problems: &mut Problems<'_>) -> Typed {
    let mut bodies = Vec::new();
    for (action, def) in parsed.actions.iter().zip(&named.actions) {
        let mut checker = Checker {
            parsed,
            named: &named,
            problems,
            variables: def.variables.clone(),
            scope: (0..def.variables.len()).map(Some).collect(),
            nodes: Vec::new(),
            row: None,
        };
        let nodes = checker.flow(&action.flow);
        let variables = checker.variables;
        bodies.push(Body { variables, nodes });
    }
    let routes = routes::routes(parsed, &named, problems);
    Typed { named, bodies, routes }
}

struct Checker<'c, 'p> {
    parsed: &'c Parsed,
    named: &'c Named,
    problems: &'c mut Problems<'p>,
    variables: Vec<LocalDef>,
    /// The variables that can be named now, `None` where one went out of scope.
    scope: Vec<Option<usize>>,
    /// Names of nodes and their outputs.
    nodes: Vec<(String, Vec<(String, usize)>)>,
    /// The entity whose rows a filter tests.
    row: Option<usize>,
}

impl Checker<'_, '_> {
    fn flow(&mut self, nodes: &[ast::Node]) -> Vec<TNode> {
        nodes.iter().filter_map(|node| self.node(node)).collect()
    }

    fn node(&mut self, node: &ast::Node) -> Option<TNode> {
        let mut shown = node.name.as_ref().map(|n| n.text.clone());
        let (default_name, kind) = match &node.kind {
            NodeKind::Assign(pairs) => {
                let pairs = pairs.iter().map(|(target, value)| self.assignment(target, value)).collect();
                ("Assign".to_owned(), TNodeKind::Assign(pairs))
            }
            NodeKind::If { condition, then, otherwise } => {
                let condition = self.expect(condition, &Type::Boolean);
                let (then, otherwise) = (self.flow(then), self.flow(otherwise));
                ("If".to_owned(), TNodeKind::If { condition, then, otherwise })
            }
            NodeKind::ForEach { list, element, body } => {
                let list = self.expression(list);
                let refused = |shown: &str| format!("`for_each` needs a list, not {shown}");
                let ty = self.element_of(&list, "OML0202", refused);
                if self.taken(&element.text) {
                    self.problems.error(
                        "OML0004",
                        element.span,
                        format!("`{}` exists already", element.text),
                    );
                }
                let variable = self.variable(&element.text, ty);
                self.scope.push(Some(variable));
                let at = self.scope.len() - 1;
                let body = self.flow(body);
                self.scope[at] = None;
                ("ForEach".to_owned(), TNodeKind::ForEach { list, element: variable, body })
            }
            NodeKind::Call { action, with } => {
                let (name, kind) = self.call(node, action, with)?;
                shown.get_or_insert_with(|| name.clone());
                (name, kind)
            }
            NodeKind::Get { entity, id } => {
                let record = self.entity(entity);
                let id = self.expect(id, &record.map_or(Type::Unknown, |r| Type::Identifier(Some(r))));
                let default = format!("Get{}", entity.text);
                let outputs = [("Record", record.map_or(Type::Unknown, Type::Record))];
                let out = self.outputs(node, &default, &outputs)[0];
                (default, TNodeKind::Get { record: record?, id, out })
            }
            NodeKind::List { entity, filter, sort, max, start } => {
                let record = self.entity(entity);
                let element = record.map_or(Type::Unknown, |r| Type::List(Box::new(Type::Record(r))));
                self.row = record;
                let filter = filter.as_ref().map(|f| self.expect(f, &Type::Boolean));
                self.row = None;
                if let Some(part) = filter.as_ref().and_then(crate::lower::refused) {
                    let message = "this part of the filter needs the row, but cannot run in the database";
                    self.problems.error("OML0501", part.span, message);
                }
                let mut order = Vec::new();
                for (attribute, descending) in sort {
                    let Some(record) = record else { break };
                    let fields = &self.named.records[record].fields;
                    match fields.iter().position(|f| f.name == attribute.text) {
                        Some(index) => order.push((index, *descending)),
                        None => unknown_attribute(attribute, &entity.text, fields, self.problems),
                    }
                }
                let max = max.as_ref().map(|m| self.expect(m, &Type::Integer));
                let start = start.as_ref().map(|s| self.expect(s, &Type::Integer));
                let default = format!("List{}", entity.text);
                let outs = self.outputs(node, &default, &[("List", element), ("Count", Type::Integer)]);
                let query = Query { record: record?, filter, sort: order, max, start };
                (default, TNodeKind::List { query, list: outs[0], count: outs[1] })
            }
            NodeKind::Create { entity, record } => {
                let of = self.writable(entity);
                let value = self.expect(record, &of.map_or(Type::Unknown, Type::Record));
                let default = format!("Create{}", entity.text);
                let id = of.map_or(Type::Unknown, |r| Type::Identifier(Some(r)));
                let out = self.outputs(node, &default, &[("Id", id)])[0];
                (default, TNodeKind::Create { record: of?, value, out })
            }
            NodeKind::Update { entity, record } => {
                let of = self.writable(entity);
                let value = self.expect(record, &of.map_or(Type::Unknown, Type::Record));
                (format!("Update{}", entity.text), TNodeKind::Update { record: of?, value })
            }
            NodeKind::Delete { entity, id } => {
                let of = self.writable(entity);
                let id = self.expect(id, &of.map_or(Type::Unknown, |r| Type::Identifier(Some(r))));
                (format!("Delete{}", entity.text), TNodeKind::Delete { record: of?, id })
            }
            NodeKind::Append { element, list } => {
                let list = self.place(list);
                let refused = |shown: &str| format!("`to` needs a list, not {shown}");
                let of = self.element_of(&list, "OML0202", refused);
                let element = self.expect(element, &of);
                ("ListAppend".to_owned(), TNodeKind::Append { element, list })
            }
            NodeKind::Raise { message, status } => {
                let message = self.expect(message, &Type::Text);
                ("RaiseUserException".to_owned(), TNodeKind::Raise { message, status: *status })
            }
            NodeKind::Return => ("End".to_owned(), TNodeKind::Return),
        };
        Some(TNode { name: shown.unwrap_or(default_name), kind })
    }

    fn assignment(&mut self, target: &Expr, value: &Expr) -> (TExpr, TExpr) {
        let target = self.place(target);
        let value = self.expect(value, &target.ty);
        (target, value)
    }

    /// An expression that can stand on the left: a variable, or an attribute or element inside one.
    fn place(&mut self, target: &Expr) -> TExpr {
        let typed = self.expression(target);
        let mut inner = &typed;
        loop {
            inner = match &inner.kind {
                TKind::Field(of, _) | TKind::Item(of, _) => of,
                TKind::Local(_) | TKind::Broken => return typed,
                TKind::Constant(_)
                | TKind::Null
                | TKind::Attribute(..)
                | TKind::Length(_)
                | TKind::Negate(_)
                | TKind::Not(_)
                | TKind::Arithmetic(..)
                | TKind::Concat(..)
                | TKind::Compare(..)
                | TKind::Logic(..)
                | TKind::Convert(_)
                | TKind::If(..)
                | TKind::Builtin(..) => {
                    self.problems.error("OML0206", target.span, "this is a value, not a variable");
                    return TExpr { ty: Type::Unknown, span: target.span, kind: TKind::Broken };
                }
            };
        }
    }

    fn call(
        &mut self,
        node: &ast::Node,
        action: &Name,
        with: &[(Name, Expr)],
    ) -> Option<(String, TNodeKind)> {
        let callable = || self.parsed.actions.iter().zip(&self.named.actions).enumerate();
        let found = callable().find(|(_, (a, _))| a.rest.is_none() && a.name.text == action.text);
        let Some((index, (_, def))) = found else {
            let known =
                callable().filter(|(_, (a, _))| a.rest.is_none()).map(|(_, (a, _))| a.name.text.as_str());
            let hint = near(&action.text, known);
            self.problems.error_hint(
                "OML0105",
                action.span,
                format!("there is no action `{}`", action.text),
                hint,
            );
            return None;
        };
        let inputs = &def.variables[..def.inputs];
        let mut arguments: Vec<Option<TExpr>> = vec![None; inputs.len()];
        for (name, value) in with {
            match inputs.iter().position(|i| i.name == name.text) {
                Some(at) => arguments[at] = Some(self.expect(value, &inputs[at].ty)),
                None => {
                    let hint = near(&name.text, inputs.iter().map(|i| i.name.as_str()));
                    let message = format!("`{}` has no input `{}`", action.text, name.text);
                    self.problems.error_hint("OML0208", name.span, message, hint);
                }
            }
        }
        for (input, argument) in inputs.iter().zip(&arguments) {
            if input.mandatory && argument.is_none() {
                let message = format!("`{}` needs the input `{}`", action.text, input.name);
                self.problems.error("OML0208", action.span, message);
            }
        }
        let outputs: Vec<(String, Type)> = def.variables[def.inputs..def.inputs + def.outputs]
            .iter()
            .map(|o| (o.name.clone(), o.ty.clone()))
            .collect();
        let shown: Vec<(&str, Type)> = outputs.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let outputs = self.outputs(node, &action.text, &shown);
        Some((action.text.clone(), TNodeKind::Call { action: index, arguments, outputs }))
    }

    /// Makes the variables that hold a node's outputs; they are read as `Node.Output`.
    fn outputs(&mut self, node: &ast::Node, default: &str, outputs: &[(&str, Type)]) -> Vec<usize> {
        let variables: Vec<usize> =
            outputs.iter().map(|(name, ty)| self.variable(name, ty.clone())).collect();
        let named: Vec<(String, usize)> =
            outputs.iter().zip(&variables).map(|((name, _), v)| ((*name).to_owned(), *v)).collect();
        if let Some(name) = &node.name {
            if self.taken(&name.text) {
                self.problems.error("OML0004", name.span, format!("`{}` exists already", name.text));
            }
            self.nodes.push((name.text.clone(), named));
        } else {
            // Two nodes without a name may share one: the last one before the reader is meant.
            self.nodes.retain(|(n, _)| n != default);
            self.nodes.push((default.to_owned(), named));
        }
        variables
    }

    fn variable(&mut self, name: &str, ty: Type) -> usize {
        self.variables.push(LocalDef {
            name: name.to_owned(),
            ty,
            mandatory: false,
            default: None,
            source: None,
            header: None,
        });
        self.variables.len() - 1
    }

    fn taken(&self, name: &str) -> bool {
        self.scope.iter().flatten().any(|v| self.variables[*v].name == name)
            || self.nodes.iter().any(|(n, _)| n == name)
    }

    fn entity(&mut self, name: &Name) -> Option<usize> {
        let entities = self.named.records.iter().enumerate().filter(|(_, r)| r.entity.is_some());
        let found = entities.clone().find(|(_, r)| r.name == name.text).map(|(index, _)| index);
        if found.is_none() {
            let hint = near(&name.text, entities.map(|(_, r)| r.name.as_str()));
            self.problems.error_hint(
                "OML0102",
                name.span,
                format!("there is no entity `{}`", name.text),
                hint,
            );
        }
        found
    }

    fn writable(&mut self, name: &Name) -> Option<usize> {
        let found = self.entity(name)?;
        if self.named.records[found].entity.as_ref().is_some_and(|e| e.is_static) {
            self.problems.error(
                "OML0302",
                name.span,
                format!("`{}` is static; its records are the model's", name.text),
            );
        }
        Some(found)
    }

    /// Checks an expression and converts it to a type, or says why it cannot be.
    fn expect(&mut self, expr: &Expr, ty: &Type) -> TExpr {
        if matches!(expr.kind, ExprKind::Broken) {
            return TExpr { ty: ty.clone(), span: expr.span, kind: TKind::Broken };
        }
        let typed = self.expression(expr);
        self.convert(typed, ty)
    }
}
