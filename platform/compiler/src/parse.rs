//! Parse: YAML trees to the model's shape. Keys are checked, names are not looked up.
//!
//! Unknown keys, wrong shapes and missing keys are all reported; reading goes on with what is left.
//! Invariant: whatever the text, a [`Parsed`] comes out, with every node that could be read.

mod consume;
mod events;
mod expression;
mod flow;
mod library;
mod query;
mod records;
mod reference;
mod statement;
pub(crate) mod timer;

use odeon_oml::schema::DeleteRule;

use crate::ast::*;
use crate::problem::{Problems, near};
use crate::sources::{Sources, Span};
use crate::yaml::{self, Shape};

/// Reads and merges all files.
pub(crate) fn parse(sources: &Sources, problems: &mut Problems<'_>) -> Parsed {
    let mut parsed = Parsed::default();
    for file in 0..sources.files.len() {
        if let Some(root) = yaml::read(sources, file, problems) {
            read_file(&root, &mut parsed, problems);
        }
    }
    if parsed.is_library {
        library::keeps_to_itself(&mut parsed, problems);
    }
    consume::add_structures(&mut parsed);
    events::link(&mut parsed);
    records::name(&mut parsed);
    if parsed.app.is_none() && !problems.has_errors() {
        let at = Span::default();
        problems.error_hint(
            "OML0007",
            at,
            "no file names the app",
            Some("write `app: <Name>`, or `library: <Name>`, in one file".into()),
        );
    }
    parsed
}

fn read_file(root: &yaml::Node, parsed: &mut Parsed, problems: &mut Problems<'_>) {
    let mut file = Keys::of(root, "the file", problems);
    if let Some(node) = file.take("reference") {
        return reference::read(node, file, parsed, problems);
    }
    if let Some(node) = file.take("library")
        && let Some(name) = text_of(node, problems)
    {
        check_name(&name, problems);
        if let Some(revision) = file.take("revision") {
            return library::read(name, revision, file, parsed, problems);
        }
        parsed.is_library = true;
        name_project(name, parsed, problems);
    }
    if let Some(node) = file.take("app")
        && let Some(name) = text_of(node, problems)
    {
        check_name(&name, problems);
        name_project(name, parsed, problems);
    }
    sections(&mut file, parsed, problems);
    file.finish(problems);
}

fn name_project(name: Name, parsed: &mut Parsed, problems: &mut Problems<'_>) {
    match &parsed.app {
        Some(first) => {
            problems.error("OML0007", name.span, format!("the project is already named `{}`", first.text));
        }
        None => parsed.app = Some(name),
    }
}

/// What a file declares, besides whose it is.
fn sections(file: &mut Keys<'_>, parsed: &mut Parsed, problems: &mut Problems<'_>) {
    if let Some(description) = file.text("description", problems) {
        parsed.description.get_or_insert(description);
    }
    for (name, node) in file.named("entities", problems) {
        parsed.entities.push(read_entity(name, node, problems));
    }
    parsed.structures.extend(structures(file, problems));
    parsed.settings.extend(declarations(file, "settings", problems));
    for (name, node) in file.named("exceptions", problems) {
        let mut keys = Keys::of(node, "an exception", problems);
        keys.take("description");
        keys.finish(problems);
        parsed.exceptions.push(name);
    }
    for (name, node) in file.named("roles", problems) {
        parsed.roles.push(read_role(name, node, problems));
    }
    for (name, node) in file.named("actions", problems) {
        let mut keys = Keys::of(node, "an action", problems);
        let is_function = keys.flag("function", false, problems);
        let public = keys.flag("public", false, problems);
        let action =
            Action { is_function, public, ..read_action(name, ActionKind::Server, &mut keys, problems) };
        keys.finish(problems);
        parsed.actions.push(action);
    }
    for (name, node) in file.named("service_actions", problems) {
        let mut keys = Keys::of(node, "a service action", problems);
        let action = read_action(name, ActionKind::Service, &mut keys, problems);
        keys.finish(problems);
        parsed.actions.push(action);
    }
    parsed.events.extend(events::read(file, true, problems));
    for (name, node) in file.named("event_handlers", problems) {
        parsed.actions.extend(events::handler(name, node, problems));
    }
    for (name, node) in file.named("timers", problems) {
        parsed.actions.extend(timer::read(name, node, problems));
    }
    for (api, node) in file.named("rest", problems) {
        let mut keys = Keys::of(node, "a REST API", problems);
        let description = keys.text("description", problems);
        let authentication = keys.take("on_authentication").and_then(|n| text_of(n, problems));
        let roles = keys.take("roles").map(|n| names(n, problems)).unwrap_or_default();
        for (name, node) in keys.named("methods", problems) {
            let mut method = Keys::of(node, "a REST method", problems);
            let (verb, path) = verb_and_path(&name, &mut method, problems);
            let status = method.take("status").and_then(|n| success(n, problems));
            let status = status.unwrap_or(STATUS_OK);
            let roles = method.take("roles").map(|n| names(n, problems));
            let api = api.text.clone();
            let rest = ActionKind::Exposed(RestMethod { api, verb, path, status, roles });
            let action = read_action(name, rest, &mut method, problems);
            method.finish(problems);
            parsed.actions.push(action);
        }
        keys.finish(problems);
        parsed.apis.push(Api { name: api, description, authentication, roles });
    }
    for (name, node) in file.named("consume", problems) {
        consume::read(name, node, parsed, problems);
    }
}

fn names(node: &yaml::Node, problems: &mut Problems<'_>) -> Vec<Name> {
    items(node, problems).iter().filter_map(|n| text_of(n, problems)).collect()
}

/// The verb of a REST method as the runtime numbers it, and its path.
fn verb_and_path(name: &Name, keys: &mut Keys<'_>, problems: &mut Problems<'_>) -> (u32, Name) {
    let verb = keys.take("verb").and_then(|n| choice(n, &["GET", "POST", "PUT", "DELETE"], problems));
    let path = keys.take("path").and_then(|n| text_of(n, problems));
    let path = path.unwrap_or_else(|| Name { text: format!("/{}", name.text), span: name.span });
    (verb.unwrap_or(0) as u32, path)
}

fn structures(file: &mut Keys<'_>, problems: &mut Problems<'_>) -> Vec<Structure> {
    let mut structures = Vec::new();
    for (name, node) in file.named("structures", problems) {
        let mut keys = Keys::of(node, "a structure", problems);
        keys.take("description");
        let attributes = declarations(&mut keys, "attributes", problems);
        keys.finish(problems);
        structures.push(Structure { name, inline: false, attributes });
    }
    structures
}

fn read_role(name: Name, node: &yaml::Node, problems: &mut Problems<'_>) -> Role {
    let mut keys = Keys::of(node, "a role", problems);
    keys.take("description");
    let public = keys.flag("public", false, problems);
    keys.finish(problems);
    Role { name, own: true, public }
}

fn read_entity(name: Name, node: &yaml::Node, problems: &mut Problems<'_>) -> Entity {
    let mut keys = Keys::of(node, "an entity", problems);
    keys.take("description");
    let is_static = keys.flag("static", false, problems);
    let public = keys.flag("public", false, problems);
    let stored_as = stored_as(&mut keys, problems);
    let attributes = declarations(&mut keys, "attributes", problems);
    let mut records = Vec::new();
    for (record, node) in keys.named("records", problems) {
        if !is_static {
            problems.error("OML0303", record.span, "only a static entity lists its records");
        }
        let values = entries(node, problems)
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), text_of(value, problems)?)))
            .collect();
        records.push((record, values));
    }
    let mut indexes = Vec::new();
    for (index, node) in keys.named("indexes", problems) {
        let mut keys = Keys::of(node, "an index", problems);
        let attributes = match keys.take("attributes") {
            Some(list) => items(list, problems).iter().filter_map(|n| text_of(n, problems)).collect(),
            None => {
                problems.error(
                    "OML0005",
                    index.span,
                    format!("index `{}` names no `attributes`", index.text),
                );
                Vec::new()
            }
        };
        let unique = keys.flag("unique", false, problems);
        keys.finish(problems);
        indexes.push((index, attributes, unique));
    }
    keys.finish(problems);
    Entity { name, home: Home::Own, public, is_static, stored_as, attributes, records, indexes }
}

fn read_action(name: Name, kind: ActionKind, keys: &mut Keys<'_>, problems: &mut Problems<'_>) -> Action {
    Action {
        description: keys.text("description", problems),
        inputs: declarations(keys, "inputs", problems),
        outputs: declarations(keys, "outputs", problems),
        locals: declarations(keys, "locals", problems),
        flow: keys.take("flow").map(|n| flow::read(n, problems)).unwrap_or_default(),
        handlers: flow::handlers(keys, problems).unwrap_or_default(),
        ..Action::new(name, kind)
    }
}

fn declarations(keys: &mut Keys<'_>, key: &str, problems: &mut Problems<'_>) -> Vec<Declared> {
    let mut out = Vec::new();
    for (name, node) in keys.named(key, problems) {
        let empty = Name { text: String::new(), span: name.span };
        let plain = |type_name| Declared::plain(name.clone(), type_name);
        out.push(match &node.shape {
            Shape::Scalar(_) => plain(text_of(node, problems).unwrap_or(empty)),
            Shape::Null | Shape::Sequence(_) | Shape::Mapping(_) => {
                let mut keys = Keys::of(node, "a declaration", problems);
                let description = keys.text("description", problems);
                let type_name = keys.take("type").and_then(|n| text_of(n, problems));
                if type_name.is_none() {
                    problems.error("OML0005", name.span, format!("`{}` has no `type`", name.text));
                }
                let mut declared = plain(type_name.unwrap_or(empty));
                declared.description = description;
                declared.mandatory = keys.flag("mandatory", false, problems);
                declared.default = keys.take("default").and_then(|n| text_of(n, problems));
                declared.length = keys.take("length").and_then(|n| {
                    let text = text_of(n, problems)?;
                    let length = text.text.parse().ok().filter(|l| (1..=10_485_760).contains(l));
                    if length.is_none() {
                        problems.error("OML0003", n.span, "a length is a number from 1 to 10485760");
                    }
                    Some((length?, n.span))
                });
                declared.delete_rule = keys.take("delete_rule").and_then(|n| {
                    let rules = [DeleteRule::Protect, DeleteRule::Delete, DeleteRule::Ignore];
                    Some((rules[choice(n, &["Protect", "Delete", "Ignore"], problems)?], n.span))
                });
                declared.source = keys.take("in").and_then(|n| {
                    let sources = [Source::Path, Source::Query, Source::Header, Source::Body];
                    Some((sources[choice(n, &["path", "query", "header", "body"], problems)?], n.span))
                });
                declared.stored_as = stored_as(&mut keys, problems);
                declared.secret = keys.take("secret").filter(|n| flag(n, problems)).map(|n| n.span);
                declared.header = keys.take("header").and_then(|n| header_of(n, problems));
                if let (None, Some(header)) = (&declared.source, &declared.header) {
                    declared.source = Some((Source::Header, header.span));
                }
                declared.label = keys.text("label", problems);
                declared.decimals = keys.take("decimals").and_then(|n| {
                    let text = text_of(n, problems)?;
                    let decimals = text.text.parse().ok().filter(|d| *d <= DECIMALS_MAX);
                    if decimals.is_none() {
                        let message = format!("decimals are a number from 0 to {DECIMALS_MAX}");
                        problems.error("OML0003", n.span, message);
                    }
                    Some((decimals?, n.span))
                });
                declared.auto_number = keys.take("auto_number").map(|n| (flag(n, problems), n.span));
                declared.attributes = declarations(&mut keys, "attributes", problems);
                records::has_attributes(&declared, problems);
                keys.finish(problems);
                declared
            }
        });
    }
    out
}

/// The name in the database, where it is not the element's own.
fn stored_as(keys: &mut Keys<'_>, problems: &mut Problems<'_>) -> Option<Name> {
    let name = keys.take("stored_as").and_then(|n| text_of(n, problems))?;
    check_name(&name, problems);
    Some(name)
}

/// The HTTP name of a header: a token, as RFC 9110 calls it.
fn header_of(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<Name> {
    let name = text_of(node, problems)?;
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.text.is_empty() || name.text.len() > HEADER_BYTES_MAX || !name.text.chars().all(is_token) {
        let message = format!("`{}` is not the name of a header", name.text);
        let hint = format!("letters, digits and `-`, such as X-Tenant, {HEADER_BYTES_MAX} at most");
        problems.error_hint("OML0006", name.span, message, Some(hint));
        return None;
    }
    Some(name)
}

/// A mapping whose keys are taken one by one; what is left at the end is unknown.
struct Keys<'n> {
    entries: Vec<(&'n Name, &'n yaml::Node)>,
    asked: Vec<String>,
    what: &'static str,
}

impl<'n> Keys<'n> {
    fn of(node: &'n yaml::Node, what: &'static str, problems: &mut Problems<'_>) -> Keys<'n> {
        let entries = entries(node, problems).iter().map(|(k, v)| (k, v)).collect();
        Keys { entries, asked: Vec::new(), what }
    }

    fn take(&mut self, key: &str) -> Option<&'n yaml::Node> {
        self.asked.push(key.to_owned());
        let at = self.entries.iter().position(|(k, _)| k.text == key)?;
        Some(self.entries.remove(at).1)
    }

    fn text(&mut self, key: &str, problems: &mut Problems<'_>) -> Option<String> {
        self.take(key).and_then(|node| text_of(node, problems)).map(|name| name.text)
    }

    /// True or false under a key that may be missing.
    fn flag(&mut self, key: &str, absent: bool, problems: &mut Problems<'_>) -> bool {
        self.take(key).map_or(absent, |node| flag(node, problems))
    }

    /// The entries of a mapping from names, under a key that may be missing.
    fn named(&mut self, key: &str, problems: &mut Problems<'_>) -> Vec<(Name, &'n yaml::Node)> {
        let Some(node) = self.take(key) else { return Vec::new() };
        let found = entries(node, problems);
        for (name, _) in found {
            check_name(name, problems);
        }
        found.iter().map(|(k, v)| (k.clone(), v)).collect()
    }

    fn finish(self, problems: &mut Problems<'_>) {
        for (key, _) in &self.entries {
            let hint = near(&key.text, self.asked.iter().map(String::as_str));
            let hint = hint.or_else(|| Some(format!("it takes {}", self.asked.join(", "))));
            problems.error_hint(
                "OML0002",
                key.span,
                format!("{} has no key `{}`", self.what, key.text),
                hint,
            );
        }
    }
}

fn entries<'n>(node: &'n yaml::Node, problems: &mut Problems<'_>) -> &'n [(Name, yaml::Node)] {
    match &node.shape {
        Shape::Mapping(entries) => entries,
        Shape::Null => &[],
        Shape::Scalar(_) | Shape::Sequence(_) => {
            problems.error("OML0003", first_line(node), "expected keys with values");
            &[]
        }
    }
}

fn items<'n>(node: &'n yaml::Node, problems: &mut Problems<'_>) -> &'n [yaml::Node] {
    match &node.shape {
        Shape::Sequence(items) => items,
        Shape::Null => &[],
        Shape::Scalar(_) | Shape::Mapping(_) => {
            problems.error("OML0003", first_line(node), "expected a list");
            &[]
        }
    }
}

fn text_of(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<Name> {
    match &node.shape {
        Shape::Scalar(scalar) => Some(Name { text: scalar.text.clone(), span: node.span }),
        Shape::Null | Shape::Sequence(_) | Shape::Mapping(_) => {
            problems.error("OML0003", first_line(node), "expected a text");
            None
        }
    }
}

/// The status of a success that is not the usual one.
fn success(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<u32> {
    let text = text_of(node, problems)?;
    let status = text.text.parse().ok().filter(|s| (200..=299).contains(s));
    if status.is_none() {
        let message =
            format!("`{}` is not 200 to 299; an error gets its status where it is raised", text.text);
        problems.error("OML0404", node.span, message);
    }
    status
}

fn flag(node: &yaml::Node, problems: &mut Problems<'_>) -> bool {
    match &node.shape {
        Shape::Scalar(s) if !s.quoted && s.text == "true" => true,
        Shape::Scalar(s) if !s.quoted && s.text == "false" => false,
        Shape::Null | Shape::Scalar(_) | Shape::Sequence(_) | Shape::Mapping(_) => {
            problems.error("OML0003", first_line(node), "expected true or false");
            false
        }
    }
}

fn choice(node: &yaml::Node, words: &[&str], problems: &mut Problems<'_>) -> Option<usize> {
    let word = text_of(node, problems)?;
    let found = words.iter().position(|w| *w == word.text);
    if found.is_none() {
        let hint = near(&word.text, words.iter().copied());
        problems.error_hint("OML0003", word.span, format!("expected one of {}", words.join(", ")), hint);
    }
    found
}

fn check_name(name: &Name, problems: &mut Problems<'_>) {
    let mut chars = name.text.chars();
    let valid = chars.next().is_some_and(|c| c.is_ascii_alphabetic())
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && name.text.len() <= NAME_BYTES_MAX;
    if !valid {
        let message = format!("`{}` is not a name", name.text);
        let hint = format!("a name is a letter, then letters, digits and _, {NAME_BYTES_MAX} at most");
        problems.error_hint("OML0006", name.span, message, Some(hint));
    }
}

/// The HTTP status of a method that does not say one.
const STATUS_OK: u32 = 200;
/// PostgreSQL cuts identifiers at 63 bytes; some room is left for names built from two.
const NAME_BYTES_MAX: usize = 50;
/// Digits that a Decimal has behind the point.
const DECIMALS_MAX: u32 = 8;
/// Longest name of a header; the ones in use are far shorter.
const HEADER_BYTES_MAX: usize = 100;

/// A whole mapping as a span would underline pages; its first character says enough.
fn first_line(node: &yaml::Node) -> Span {
    match node.shape {
        Shape::Null | Shape::Scalar(_) => node.span,
        Shape::Sequence(_) | Shape::Mapping(_) => Span { end: node.span.start + 1, ..node.span },
    }
}
