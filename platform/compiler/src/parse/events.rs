//! Events and what is done about them: a handler becomes an action of its own, with the payload as its inputs.
//!
//! Invariant: after [`link`] a handler's flow calls the action that the model names, if both are known.

use super::{Keys, declarations, text_of};
use crate::ast::*;
use crate::problem::Problems;
use crate::yaml;

pub(super) fn read(file: &mut Keys<'_>, own: bool, problems: &mut Problems<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    for (name, node) in file.named("events", problems) {
        let mut keys = Keys::of(node, "an event", problems);
        keys.take("description");
        let payload = declarations(&mut keys, "payload", problems);
        keys.finish(problems);
        events.push(Event { name, own, payload });
    }
    events
}

pub(super) fn handler(name: Name, node: &yaml::Node, problems: &mut Problems<'_>) -> Option<Action> {
    let mut keys = Keys::of(node, "an event handler", problems);
    let description = keys.text("description", problems);
    let mut need = |key: &str| {
        let found = keys.take(key).and_then(|n| text_of(n, problems));
        if found.is_none() {
            problems.error("OML0005", name.span, format!("the event handler `{}` needs `{key}`", name.text));
        }
        found
    };
    let (event, action) = (need("event"), need("action"));
    keys.finish(problems);
    let (event, action) = (event?, action?);
    let call = Node { name: None, span: action.span, kind: NodeKind::Call { action, with: Vec::new() } };
    let kind = ActionKind::Handler { event };
    Some(Action { description, flow: vec![call], ..Action::new(name, kind) })
}

/// Gives each handler the payload of its event as inputs, and hands on to its action what has the same name.
pub(super) fn link(parsed: &mut Parsed) {
    let inputs_of = |name: &str| {
        let found =
            parsed.actions.iter().find(|a| a.name.text == name && matches!(a.kind, ActionKind::Server));
        found.map(|action| action.inputs.iter().map(|input| input.name.text.clone()).collect::<Vec<_>>())
    };
    let mut links = Vec::new();
    for (at, handler) in parsed.actions.iter().enumerate() {
        let Some(name) = handler.kind.event() else { continue };
        // What is unknown is reported where names are looked up.
        let Some(event) = parsed.events.iter().find(|event| event.name.text == name.text) else { continue };
        let Some(Node { span, kind: NodeKind::Call { action, .. }, .. }) = handler.flow.first() else {
            continue;
        };
        let wanted = inputs_of(&action.text).unwrap_or_default();
        let given = event.payload.iter().filter(|field| wanted.contains(&field.name.text));
        let with = given.map(|field| {
            let name = Name { text: field.name.text.clone(), span: *span };
            let value = Expr { span: *span, kind: ExprKind::Name(name.text.clone()) };
            (name, value)
        });
        // A value that is missing has its default: the producer may be of another revision.
        let payload = event.payload.iter().map(|field| Declared { mandatory: false, ..field.clone() });
        links.push((at, payload.collect::<Vec<_>>(), with.collect::<Vec<_>>()));
    }
    for (at, payload, arguments) in links {
        let handler = &mut parsed.actions[at];
        handler.inputs = payload;
        for node in &mut handler.flow {
            if let NodeKind::Call { with, .. } = &mut node.kind {
                with.clone_from(&arguments);
            }
        }
    }
}
