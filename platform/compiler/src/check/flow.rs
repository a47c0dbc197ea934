//! Nodes: what each needs, what it gives, and where it may stand.
//!
//! Outputs of a node are variables; a handler's `ExceptionMessage` is one that is visible in its flow.
//! Invariant: handlers leave here most specific first, so the first that takes an exception is the right one.

use std::collections::BTreeSet;

use super::Checker;
use crate::ast::{self, EntityAction, Expr, Handler, Leave, Name, NodeKind};
use crate::problem::{Problems, near};
use crate::resolve::unknown_attribute;
use crate::types::*;

impl Checker<'_, '_> {
    /// The whole flow of an action, inside its handlers when it has any.
    pub(super) fn action(&mut self, action: &ast::Action) -> Vec<TNode> {
        let body = self.flow(&action.flow);
        if action.handlers.is_empty() {
            return body;
        }
        let handlers = self.handlers(&action.handlers);
        let span = action.name.span;
        vec![TNode { name: "Start".to_owned(), span, kind: TNodeKind::Try { body, handlers } }]
    }

    pub(super) fn flow(&mut self, nodes: &[ast::Node]) -> Vec<TNode> {
        for pair in nodes.windows(2) {
            if matches!(pair[0].kind, NodeKind::Leave(_) | NodeKind::Raise { .. }) {
                self.problems.warning(
                    "OML0602",
                    pair[1].span,
                    "nothing comes here: the node before ends the flow",
                );
            }
        }
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
            NodeKind::Switch { cases, otherwise } => {
                let case = |(condition, flow): &(Expr, Vec<ast::Node>)| {
                    (self.expect(condition, &Type::Boolean), self.flow(flow))
                };
                let cases = cases.iter().map(case).collect();
                ("Switch".to_owned(), TNodeKind::Switch { cases, otherwise: self.flow(otherwise) })
            }
            NodeKind::ForEach { list, element, start, max, body } => {
                let list = self.expression(list);
                let refused = |shown: &str| format!("`for_each` needs a list, not {shown}");
                let ty = self.element_of(&list, "OML0202", refused);
                let start = start.as_ref().map(|s| self.expect(s, &Type::Integer));
                let max = max.as_ref().map(|m| self.expect(m, &Type::Integer));
                let variable = self.element(element, ty);
                self.loops += 1;
                let body = self.flow(body);
                self.loops -= 1;
                self.forget(variable);
                ("ForEach".to_owned(), TNodeKind::ForEach { list, element: variable, start, max, body })
            }
            NodeKind::Try { body, handlers } => {
                let body = self.flow(body);
                ("Try".to_owned(), TNodeKind::Try { body, handlers: self.handlers(handlers) })
            }
            NodeKind::Call { action, with } => {
                let (name, kind) = self.call(node, action, with)?;
                shown.get_or_insert_with(|| name.clone());
                (name, kind)
            }
            NodeKind::Entity { entity, action } => self.entity_action(node, entity, action)?,
            NodeKind::Aggregate(aggregate) => self.aggregate(node, aggregate)?,
            NodeKind::Sql(sql) => self.statement(node, sql),
            NodeKind::Raise { exception, message, status } => {
                let message = self.expect(message, &Type::Text);
                self.raise(exception, message, *status)?
            }
            NodeKind::Log { message, level } => {
                let message = self.expect(message, &Type::Text);
                ("LogMessage".to_owned(), TNodeKind::Log { message, level: *level })
            }
            NodeKind::Serialize { value, defaults } => {
                let value = self.expression(value);
                if !matches!(value.ty, Type::Record(_) | Type::List(_) | Type::Unknown) {
                    let message = format!(
                        "`json_serialize` takes a record or a list, not {}",
                        self.named.shown(&value.ty)
                    );
                    self.problems.error("OML0202", value.span, message);
                }
                let default = "JSONSerialize".to_owned();
                let out = self.outputs(node, &default, &[("JSON", Type::Text)])[0];
                (default, TNodeKind::Serialize { value, defaults: *defaults, out })
            }
            NodeKind::Deserialize { text, type_name } => {
                let text = self.expect(text, &Type::Text);
                let ty = self.named.types.type_of(type_name, self.problems);
                if !matches!(ty, Type::Record(_) | Type::List(_) | Type::Unknown) {
                    let message =
                        format!("`json_deserialize` gives a record or a list, not {}", type_name.text);
                    self.problems.error("OML0202", type_name.span, message);
                }
                let default = "JSONDeserialize".to_owned();
                let out = self.outputs(node, &default, &[("Data", ty)])[0];
                (default, TNodeKind::Deserialize { text, out })
            }
            NodeKind::List { list, action } => self.list_action(node, list, action),
            NodeKind::Wake(timer) => {
                if !self.named.timers.contains_key(&timer.text) {
                    let hint = near(&timer.text, self.named.timers.keys().map(String::as_str));
                    let message = format!("there is no timer `{}`", timer.text);
                    self.problems.error_hint("OML0110", timer.span, message, hint);
                    return None;
                }
                (format!("Wake{}", timer.text), TNodeKind::Wake { timer: timer.text.clone() })
            }
            NodeKind::Role { role, user, granted } => self.role(node, (role, user), *granted),
            NodeKind::Trigger { event, with } => self.trigger(event, with)?,
            NodeKind::Commit => ("CommitTransaction".to_owned(), TNodeKind::Commit),
            NodeKind::Abort => ("AbortTransaction".to_owned(), TNodeKind::Abort),
            NodeKind::Leave(leave) => {
                if *leave != Leave::Return && self.loops == 0 {
                    let word = if *leave == Leave::Cycle { "cycle" } else { "exit" };
                    let message = format!("`{word}` stands in no `for_each`");
                    self.problems.error("OML0307", node.span, message);
                    return None;
                }
                ("End".to_owned(), TNodeKind::Leave(*leave))
            }
        };
        Some(TNode { name: shown.unwrap_or(default_name), span: node.span, kind })
    }

    fn entity_action(
        &mut self,
        node: &ast::Node,
        entity: &Name,
        action: &EntityAction,
    ) -> Option<(String, TNodeKind)> {
        Some(match action {
            EntityAction::Get { id } | EntityAction::GetForUpdate { id } => {
                let lock = matches!(action, EntityAction::GetForUpdate { .. });
                let record = if lock { self.writable(entity) } else { self.readable(entity) };
                let id = self.expect(id, &self.identifier_of(record));
                let default = format!("Get{}{}", entity.last(), if lock { "ForUpdate" } else { "" });
                let outputs = [("Record", record.map_or(Type::Unknown, Type::Record))];
                let out = self.outputs(node, &default, &outputs)[0];
                (default, TNodeKind::Get { record: record?, id, lock, out })
            }
            EntityAction::Create { record } => {
                let of = self.writable(entity);
                let value = self.expect(record, &of.map_or(Type::Unknown, Type::Record));
                let default = format!("Create{}", entity.text);
                let out = self.outputs(node, &default, &[("Id", self.identifier_of(of))])[0];
                (default, TNodeKind::Create { record: of?, value, out })
            }
            EntityAction::Update { record } => {
                let of = self.writable(entity);
                let value = self.expect(record, &of.map_or(Type::Unknown, Type::Record));
                (format!("Update{}", entity.text), TNodeKind::Update { record: of?, value })
            }
            EntityAction::CreateOrUpdate { record } => {
                let of = self.writable(entity);
                let value = self.expect(record, &of.map_or(Type::Unknown, Type::Record));
                let default = format!("CreateOrUpdate{}", entity.text);
                let out = self.outputs(node, &default, &[("Id", self.identifier_of(of))])[0];
                (default, TNodeKind::CreateOrUpdate { record: of?, value, out })
            }
            EntityAction::CreateOrUpdateSome { records } => {
                let of = self.writable(entity);
                let element = of.map_or(Type::Unknown, Type::Record);
                let some = of.map_or(Type::Unknown, |r| Type::List(Box::new(Type::Record(r))));
                let list = self.expect(records, &some);
                let element = self.variable("Current", element);
                let default = format!("CreateOrUpdateSome{}", entity.text);
                let ids = of.map_or(Type::Unknown, |_| Type::List(Box::new(self.identifier_of(of))));
                let out = self.outputs(node, &default, &[("Ids", ids)])[0];
                (default, TNodeKind::CreateOrUpdateSome { record: of?, list, element, out })
            }
            EntityAction::Delete { id } => {
                let of = self.writable(entity);
                let id = self.expect(id, &self.identifier_of(of));
                (format!("Delete{}", entity.text), TNodeKind::Delete { record: of?, id })
            }
        })
    }

    /// The type of the identifiers of an entity.
    fn identifier_of(&self, record: Option<usize>) -> Type {
        record.map_or(Type::Unknown, |record| self.named.types.keys[record].clone())
    }

    /// The place of an attribute, or a problem.
    pub(super) fn attribute(&mut self, record: usize, name: &Name) -> Option<usize> {
        let def = &self.named.records[record];
        let found = def.fields.iter().position(|f| f.name == name.text);
        if found.is_none() {
            unknown_attribute(name, &def.name, &def.fields, self.problems);
        }
        found
    }

    /// The variable for one element after the other; it is visible until it is forgotten.
    pub(super) fn element(&mut self, name: &Name, ty: Type) -> usize {
        if self.taken(&name.text) {
            self.problems.error("OML0004", name.span, format!("`{}` exists already", name.text));
        }
        self.visible(&name.text, ty)
    }

    fn handlers(&mut self, handlers: &[Handler]) -> Vec<THandler> {
        let mut typed: Vec<THandler> = Vec::new();
        let mut taken = BTreeSet::new();
        for handler in handlers {
            let takes = self.exception(&handler.exception).map(|(numbers, _)| numbers);
            let message = self.visible("ExceptionMessage", Type::Text);
            let flow = self.flow(&handler.flow);
            self.forget(message);
            let Some(takes) = takes else { continue };
            if !taken.insert(takes) {
                let message = format!("`{}` is handled here already", handler.exception.text);
                self.problems.error("OML0004", handler.exception.span, message);
            }
            typed.push(THandler { takes, abort: handler.abort, log: handler.log, message, flow });
        }
        // Ranges are inside one another or apart, so a smaller one is more specific.
        typed.sort_by_key(|handler| handler.takes.1 - handler.takes.0);
        typed
    }

    fn raise(
        &mut self,
        exception: &Name,
        message: TExpr,
        status: Option<u32>,
    ) -> Option<(String, TNodeKind)> {
        let (numbers, own) = self.exception(exception)?;
        let Some(own) = own else {
            let message = format!("`{}` is raised by Odeon, not by an app", exception.text);
            let hint =
                "raise User, Security, InvalidLogin, NotRegistered, or an exception of the app".to_owned();
            self.problems.error_hint("OML0308", exception.span, message, Some(hint));
            return None;
        };
        let kind = TNodeKind::Raise { exception: numbers.0, message, status: status.unwrap_or(own) };
        Some((format!("Raise{}", exception.text), kind))
    }

    /// The numbers of an exception, and its HTTP status when an app may raise it.
    fn exception(&mut self, name: &Name) -> Option<((u32, u32), Option<u32>)> {
        if let Some(built_in) = EXCEPTIONS.iter().find(|e| e.name == name.text) {
            return Some((built_in.numbers, built_in.status));
        }
        if let Some(number) = self.named.exceptions.get(&name.text) {
            return Some(((*number, *number), Some(USER_STATUS)));
        }
        let known = EXCEPTIONS.iter().map(|e| e.name).chain(self.named.exceptions.keys().map(String::as_str));
        let hint = near(&name.text, known);
        let message = format!("there is no exception `{}`", name.text);
        self.problems.error_hint("OML0108", name.span, message, hint);
        None
    }

    /// The action that can be called by this name, or the function that an expression can call.
    pub(super) fn action_named(&self, name: &str, function: bool) -> Option<usize> {
        let found = self.named.callable.get(name).copied()?;
        let def = &self.named.actions[found];
        (self.may_call(def) && (def.is_function || !function)).then_some(found)
    }

    /// A library's own actions are called by itself, the public ones by who uses it, and by nobody beyond.
    fn may_call(&self, def: &ActionDef) -> bool {
        let Some(library) = def.library.as_deref() else { return true };
        let user = library.rsplit_once('.').map(|(user, _)| user);
        self.library == Some(library) || (def.public && self.library == user)
    }

    fn call(
        &mut self,
        node: &ast::Node,
        action: &Name,
        with: &[(Name, Expr)],
    ) -> Option<(String, TNodeKind)> {
        let Some(index) = self.action_named(&action.text, false) else {
            let may_call = |at: &usize| self.may_call(&self.named.actions[*at]);
            let callable = self.named.callable.iter().filter(|(_, at)| may_call(at));
            let hint = match action.text.split_once('.') {
                Some((whose, _)) if self.named.callable.contains_key(&action.text) => {
                    Some(format!("`{whose}` offers what says `public: true`"))
                }
                whose => near(&action.text, callable.map(|(name, _)| name.as_str())).or_else(|| {
                    let (whose, _) = whose?;
                    Some(format!(
                        "what apps and libraries offer is known from copies: odeon reference {whose}"
                    ))
                }),
            };
            let message = format!("there is no action `{}` to call here", action.text);
            self.problems.error_hint("OML0105", action.span, message, hint);
            let name = node.name.as_ref().map_or(action.last(), |name| &name.text);
            self.broken.insert(name.to_owned());
            return None;
        };
        let def = &self.named.actions[index];
        let arguments = self.arguments(action, def.inputs(), with);
        let outputs: Vec<(&str, Type)> =
            def.outputs().iter().map(|o| (o.name.as_str(), o.ty.clone())).collect();
        // `Api.Method` is read as `Method`, as the names in expressions have no dots.
        let outputs = self.outputs(node, action.last(), &outputs);
        Some((action.text.clone(), TNodeKind::Call { action: index, arguments, outputs }))
    }
}

impl Checker<'_, '_> {
    /// The values of a call, by the places of what it takes.
    fn arguments(&mut self, of: &Name, inputs: &[LocalDef], with: &[(Name, Expr)]) -> Vec<Option<TExpr>> {
        let mut arguments: Vec<Option<TExpr>> = vec![None; inputs.len()];
        for (name, value) in with {
            match inputs.iter().position(|i| i.name == name.text) {
                Some(at) => arguments[at] = Some(self.expect(value, &inputs[at].ty)),
                None => {
                    let hint = near(&name.text, inputs.iter().map(|i| i.name.as_str()));
                    let message = format!("`{}` has no input `{}`", of.text, name.text);
                    self.problems.error_hint("OML0208", name.span, message, hint);
                }
            }
        }
        for (input, argument) in inputs.iter().zip(&arguments) {
            if input.mandatory && argument.is_none() {
                let message = format!("`{}` needs the input `{}`", of.text, input.name);
                self.problems.error("OML0208", of.span, message);
            }
        }
        arguments
    }

    fn trigger(&mut self, event: &Name, with: &[(Name, Expr)]) -> Option<(String, TNodeKind)> {
        let named = self.named;
        let Some(index) = named.events.iter().position(|e| e.name == event.text) else {
            unknown_event(event, named, |e| e.own, self.problems);
            return None;
        };
        if !named.events[index].own {
            let message = format!("`{}` is triggered by its own app only", event.text);
            self.problems.error("OML0111", event.span, message);
            return None;
        }
        let arguments = self.arguments(event, &named.events[index].payload, with);
        Some((format!("Trigger{}", event.text), TNodeKind::Trigger { event: index, arguments }))
    }
}

/// Says that there is no such event, and which one may be meant.
pub(super) fn unknown_event(
    name: &Name,
    named: &Named,
    fits: impl Fn(&EventDef) -> bool,
    problems: &mut Problems<'_>,
) {
    let known = named.events.iter().filter(|event| fits(event)).map(|event| event.name.as_str());
    let hint = near(&name.text, known).or_else(|| {
        let (app, _) = name.text.split_once('.')?;
        Some(format!("events of other apps are known from references: odeon reference {app}"))
    });
    problems.error_hint("OML0111", name.span, format!("there is no event `{}`", name.text), hint);
}
