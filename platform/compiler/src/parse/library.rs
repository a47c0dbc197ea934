//! Libraries: what they declare becomes part of the app that uses them, under names with the library's in front.
//!
//! A copy of one revision lies in the project, as one file (`bundle.rs` writes it). It is read as a project of its own,
//! then every name that it declares is qualified, `Vat` to `TaxRules.Vat`, where it is declared and where it is used, so
//! that what follows knows of libraries nothing but whose an action is. A library in a library is qualified twice, and
//! nobody but its user can name it. Invariant: a library has no state: no tables, and nothing that starts by itself.

use std::collections::BTreeSet;

use super::{Keys, check_name, entries, reference::is_named, sections, text_of};
use crate::ast::*;
use crate::problem::Problems;
use crate::yaml;

/// Libraries in libraries, in levels.
const DEPTH_MAX: usize = 8;

/// The copy of a library that is a file of the project.
pub(super) fn read(
    name: Name,
    revision: &yaml::Node,
    mut file: Keys<'_>,
    parsed: &mut Parsed,
    problems: &mut Problems<'_>,
) {
    let Some(revision) = number(revision, problems) else { return };
    if parsed.libraries.iter().any(|other| other.name.text == name.text) {
        problems.error("OML0004", name.span, format!("there is a library `{}` already", name.text));
        return;
    }
    add(&name, &mut file, 1, parsed, problems);
    file.finish(problems);
    parsed.libraries.push(Library { name, revision });
}

fn number(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<u32> {
    let revision = text_of(node, problems)?.text.parse().ok();
    if revision.is_none() {
        problems.error("OML0003", node.span, "a revision is a number");
    }
    revision
}

/// Adds what a library declares, those that it uses included.
fn add(name: &Name, file: &mut Keys<'_>, depth: usize, parsed: &mut Parsed, problems: &mut Problems<'_>) {
    let mut library = Parsed::default();
    if let Some(node) = file.take("libraries") {
        for (inner, node) in entries(node, problems) {
            check_name(inner, problems);
            if depth == DEPTH_MAX {
                let message = format!("libraries use one another more than {DEPTH_MAX} deep");
                problems.error("OML0113", inner.span, message);
                break;
            }
            let mut keys = Keys::of(node, "a library", problems);
            keys.take("revision").and_then(|node| number(node, problems));
            add(inner, &mut keys, depth + 1, &mut library, problems);
            keys.finish(problems);
        }
    }
    sections(file, &mut library, problems);
    keeps_to_itself(&mut library, problems);
    super::records::name(&mut library);
    Qualifier::of(&name.text, &library).qualify(&mut library);
    parsed.entities.append(&mut library.entities);
    parsed.structures.append(&mut library.structures);
    parsed.settings.append(&mut library.settings);
    parsed.exceptions.append(&mut library.exceptions);
    parsed.actions.append(&mut library.actions);
}

/// Reports and removes what a library cannot have, and marks its static entities.
pub(super) fn keeps_to_itself(library: &mut Parsed, problems: &mut Problems<'_>) {
    let mut refuse = |name: &Name, what: &str| {
        let hint = "a library has structures, static entities, settings, exceptions and actions: what has tables, is \
                    called from outside or starts by itself belongs into an app";
        let message = format!("a library has no {what}");
        problems.error_hint("OML0113", name.span, message, Some(hint.to_owned()));
    };
    for entity in &mut library.entities {
        if !entity.is_static {
            refuse(&entity.name, "tables, so its entities are static");
        }
        entity.home = Home::Library;
    }
    for action in &library.actions {
        match &action.kind {
            ActionKind::Server => {}
            ActionKind::Exposed(_) => refuse(&action.name, "REST methods"),
            ActionKind::Consumed(_) => refuse(&action.name, "consumed APIs"),
            ActionKind::Timer(_) => refuse(&action.name, "timers"),
            ActionKind::Service => refuse(&action.name, "service actions"),
            ActionKind::Remote(_) => refuse(&action.name, "references to apps"),
            ActionKind::Handler { .. } => refuse(&action.name, "event handlers"),
        }
    }
    library.events.iter().for_each(|event| refuse(&event.name, "events"));
    library.roles.iter().for_each(|role| refuse(&role.name, "roles"));
}

/// What a library declares, and the name that goes in front of it.
struct Qualifier {
    library: String,
    types: BTreeSet<String>,
    actions: BTreeSet<String>,
    exceptions: BTreeSet<String>,
}

impl Qualifier {
    fn of(library: &str, parsed: &Parsed) -> Qualifier {
        let entities = parsed.entities.iter().map(|entity| &entity.name);
        let types = entities.chain(parsed.structures.iter().map(|structure| &structure.name));
        Qualifier {
            library: library.to_owned(),
            types: types.map(|name| name.text.clone()).collect(),
            actions: parsed.actions.iter().map(|action| action.name.text.clone()).collect(),
            exceptions: parsed.exceptions.iter().map(|name| name.text.clone()).collect(),
        }
    }

    fn qualify(&self, parsed: &mut Parsed) {
        for entity in &mut parsed.entities {
            self.prefix(&mut entity.name);
            self.declared(&mut entity.attributes);
        }
        for structure in &mut parsed.structures {
            self.prefix(&mut structure.name);
            self.declared(&mut structure.attributes);
        }
        for setting in &mut parsed.settings {
            setting.name.text = self.setting(&setting.name.text);
        }
        parsed.exceptions.iter_mut().for_each(|name| self.prefix(name));
        for action in &mut parsed.actions {
            self.prefix(&mut action.name);
            // Of a library in this one: nobody but this one may call it.
            action.library = Some(match action.library.take() {
                Some(inner) => format!("{}.{inner}", self.library),
                None => self.library.clone(),
            });
            for group in [&mut action.inputs, &mut action.outputs, &mut action.locals] {
                self.declared(group);
            }
            self.flow(&mut action.flow);
            self.handlers(&mut action.handlers);
        }
    }

    fn prefix(&self, name: &mut Name) {
        name.text = format!("{}.{}", self.library, name.text);
    }

    /// A setting's name is a name: it is written in commands.
    fn setting(&self, name: &str) -> String {
        format!("{}_{name}", self.library)
    }

    fn word(&self, name: &mut Name, known: &BTreeSet<String>) {
        if known.contains(&name.text) {
            self.prefix(name);
        }
    }

    fn type_word(&self, word: &mut Name) {
        let of = word.text.strip_suffix(" List").unwrap_or(&word.text);
        let of = of.strip_suffix(" Identifier").unwrap_or(of).trim();
        if is_named(&word.text) && self.types.contains(of) {
            self.prefix(word);
        }
    }

    fn declared(&self, declared: &mut [Declared]) {
        declared.iter_mut().for_each(|declared| self.type_word(&mut declared.type_name));
    }

    fn handlers(&self, handlers: &mut [Handler]) {
        for handler in handlers {
            self.word(&mut handler.exception, &self.exceptions);
            self.flow(&mut handler.flow);
        }
    }

    fn flow(&self, flow: &mut [Node]) {
        flow.iter_mut().for_each(|node| self.node(&mut node.kind));
    }

    fn node(&self, node: &mut NodeKind) {
        match node {
            NodeKind::Assign(pairs) => {
                for (target, value) in pairs {
                    self.expr(target);
                    self.expr(value);
                }
            }
            NodeKind::If { condition, then, otherwise } => {
                self.expr(condition);
                self.flow(then);
                self.flow(otherwise);
            }
            NodeKind::Switch { cases, otherwise } => {
                for (condition, flow) in cases {
                    self.expr(condition);
                    self.flow(flow);
                }
                self.flow(otherwise);
            }
            NodeKind::ForEach { list, start, max, body, .. } => {
                self.expr(list);
                start.iter_mut().chain(max).for_each(|expr| self.expr(expr));
                self.flow(body);
            }
            NodeKind::Try { body, handlers } => {
                self.flow(body);
                self.handlers(handlers);
            }
            NodeKind::Call { action, with } => {
                self.word(action, &self.actions);
                with.iter_mut().for_each(|(_, value)| self.expr(value));
            }
            NodeKind::Entity { entity, action } => {
                self.word(entity, &self.types);
                let (EntityAction::Get { id: value }
                | EntityAction::GetForUpdate { id: value }
                | EntityAction::Delete { id: value }
                | EntityAction::Create { record: value }
                | EntityAction::Update { record: value }
                | EntityAction::CreateOrUpdate { record: value }
                | EntityAction::CreateOrUpdateSome { records: value }) = action;
                self.expr(value);
            }
            // What needs tables is refused by its sources.
            NodeKind::Aggregate(query) => {
                query.sources.iter_mut().for_each(|source| self.word(&mut source.entity, &self.types));
            }
            NodeKind::Sql(_) => {}
            NodeKind::Raise { exception, message, .. } => {
                self.word(exception, &self.exceptions);
                self.expr(message);
            }
            NodeKind::Log { message: value, .. } | NodeKind::Serialize { value, .. } => self.expr(value),
            NodeKind::Deserialize { text, type_name } => {
                self.expr(text);
                self.type_word(type_name);
            }
            NodeKind::List { list, action } => {
                self.expr(list);
                match action {
                    ListAction::Append(value) | ListAction::AppendAll(value) => self.expr(value),
                    ListAction::Insert { element, at } => {
                        self.expr(element);
                        self.expr(at);
                    }
                    ListAction::Remove { at } => self.expr(at),
                    ListAction::Search { condition, .. } => self.expr(condition),
                    ListAction::Clear | ListAction::Sort { .. } | ListAction::Copy { .. } => {}
                }
            }
            NodeKind::Role { user, .. } => self.expr(user),
            NodeKind::Trigger { with, .. } => with.iter_mut().for_each(|(_, value)| self.expr(value)),
            NodeKind::Wake(_) | NodeKind::Commit | NodeKind::Abort | NodeKind::Leave(_) => {}
        }
    }

    fn expr(&self, expr: &mut Expr) {
        match &mut expr.kind {
            ExprKind::Broken
            | ExprKind::Number(_)
            | ExprKind::Text(_)
            | ExprKind::Moment(_)
            | ExprKind::Name(_) => {}
            ExprKind::Member(of, name) => {
                let of_root = |root: &str| matches!(&of.kind, ExprKind::Name(name) if name == root);
                if of_root("Settings") {
                    name.text = self.setting(&name.text);
                } else if of_root("Entities") {
                    // `Entities.Kind.Reduced`, or of a library in this one `Entities.Inner.Kind.Reduced`.
                    self.prefix(name);
                } else {
                    self.expr(of);
                }
            }
            ExprKind::Item(list, index) => {
                self.expr(list);
                self.expr(index);
            }
            ExprKind::Call(name, arguments) => {
                self.word(name, &self.actions);
                arguments.iter_mut().for_each(|argument| self.expr(argument));
            }
            ExprKind::Unary(_, operand) => self.expr(operand),
            ExprKind::Binary(_, _, left, right) => {
                self.expr(left);
                self.expr(right);
            }
        }
    }
}
