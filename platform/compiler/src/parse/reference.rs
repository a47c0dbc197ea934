//! References: what another app lets others use, as one of its revisions was.
//!
//! Everything gets the other app's name in front: `Support.GetTicket`, `Support.Ticket`. Invariant: a reference adds
//! names and nothing that runs.

use super::{Keys, check_name, declarations, events, structures, text_of};
use crate::ast::*;
use crate::problem::Problems;
use crate::resolve::basic;
use crate::yaml;

pub(super) fn read(node: &yaml::Node, mut file: Keys<'_>, parsed: &mut Parsed, problems: &mut Problems<'_>) {
    let Some(app) = text_of(node, problems) else { return };
    check_name(&app, problems);
    if let Some(node) = file.take("revision")
        && let Some(revision) = text_of(node, problems)
        && revision.text.parse::<u32>().is_err()
    {
        problems.error("OML0003", node.span, "a revision is a number");
    }
    if parsed.references.iter().any(|other| other.app.text == app.text) {
        problems.error("OML0004", app.span, format!("`{}` has a reference already", app.text));
    }
    for (name, node) in file.named("entities", problems) {
        let mut entity = super::read_entity(name, node, problems);
        entity.name.text = qualified(&app, &entity.name.text);
        entity.home = Home::App(app.text.clone());
        entity.attributes.iter_mut().for_each(|declared| qualify(&app, declared));
        parsed.entities.push(entity);
    }
    for (name, node) in file.named("roles", problems) {
        let mut role = super::read_role(name, node, problems);
        role.name.text = qualified(&app, &role.name.text);
        role.own = false;
        parsed.roles.push(role);
    }
    for mut structure in structures(&mut file, problems) {
        structure.name.text = qualified(&app, &structure.name.text);
        structure.attributes.iter_mut().for_each(|declared| qualify(&app, declared));
        parsed.structures.push(structure);
    }
    for mut event in events::read(&mut file, false, problems) {
        event.name.text = qualified(&app, &event.name.text);
        event.payload.iter_mut().for_each(|declared| qualify(&app, declared));
        parsed.events.push(event);
    }
    for (name, node) in file.named("service_actions", problems) {
        let mut keys = Keys::of(node, "a service action of another app", problems);
        let description = keys.text("description", problems);
        let mut parameters = |key: &str| {
            let mut declared = declarations(&mut keys, key, problems);
            declared.iter_mut().for_each(|declared| qualify(&app, declared));
            declared
        };
        let (inputs, outputs) = (parameters("inputs"), parameters("outputs"));
        keys.finish(problems);
        let remote = Remote { app: app.text.clone(), action: name.text.clone() };
        let kind = ActionKind::Remote(remote);
        parsed.actions.push(Action { description, inputs, outputs, ..Action::new(name, kind) });
    }
    file.finish(problems);
    parsed.references.push(Reference { app });
}

/// Whether a type word names something that the author declared.
pub(super) fn is_named(word: &str) -> bool {
    basic(word.strip_suffix(" List").unwrap_or(word)).is_none()
}

fn qualified(app: &Name, name: &str) -> String {
    format!("{}.{name}", app.text)
}

/// A type word of the other app, as this one says it.
fn qualify(app: &Name, declared: &mut Declared) {
    if is_named(&declared.type_name.text) {
        declared.type_name.text = qualified(app, &declared.type_name.text);
    }
}
