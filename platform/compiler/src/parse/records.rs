//! Records without a name: `{ type: Record, attributes: … }` becomes a structure named after what declares it.
//!
//! The name has three parts, which no author can write, so it cannot be taken. Invariant: after [`name`] no
//! declaration has attributes of its own, and every type word names a type or nothing.

use crate::ast::*;
use crate::problem::Problems;

/// A record, and a list of records.
const WORDS: [&str; 2] = ["Record", "Record List"];
/// The last parts of the names: an action and a structure may have one name.
const PARAMETER: &str = "Record";
const ATTRIBUTE: &str = "Attribute";

/// Reports attributes of what is no record, and a record without any.
pub(super) fn has_attributes(declared: &Declared, problems: &mut Problems<'_>) {
    let is_record = WORDS.contains(&declared.type_name.text.as_str());
    if is_record == declared.attributes.is_empty() {
        let message = match is_record {
            true => format!("the record `{}` has no `attributes`", declared.name.text),
            false => format!("`{}` is no record, so it has no `attributes`", declared.type_name.text),
        };
        let hint = "write `{ type: Record, attributes: { … } }`, or `Record List`, or name a structure";
        problems.error_hint("OML0303", declared.name.span, message, Some(hint.to_owned()));
    }
}

/// Gives each record without a name one.
pub(super) fn name(parsed: &mut Parsed) {
    let mut made = Vec::new();
    for action in &mut parsed.actions {
        let owner = action.shown();
        for group in [&mut action.inputs, &mut action.outputs, &mut action.locals] {
            lift(&owner, group, PARAMETER, &mut made);
        }
    }
    for structure in &mut parsed.structures {
        lift(&structure.name.text, &mut structure.attributes, ATTRIBUTE, &mut made);
    }
    for entity in &mut parsed.entities {
        lift(&entity.name.text, &mut entity.attributes, ATTRIBUTE, &mut made);
    }
    lift("Settings", &mut parsed.settings, ATTRIBUTE, &mut made);
    for event in &mut parsed.events {
        lift(&event.name.text, &mut event.payload, ATTRIBUTE, &mut made);
    }
    parsed.structures.extend(made);
}

fn lift(owner: &str, declared: &mut [Declared], kind: &str, made: &mut Vec<Structure>) {
    for declared in declared.iter_mut().filter(|declared| !declared.attributes.is_empty()) {
        let name = format!("{owner}.{}.{kind}", declared.name.text);
        let mut attributes = std::mem::take(&mut declared.attributes);
        lift(&name, &mut attributes, kind, made);
        // Two of one name were reported; another type of that name would be reported again.
        if made.iter().all(|other| other.name.text != name) {
            let name = Name { text: name.clone(), span: declared.name.span };
            made.push(Structure { name, inline: true, attributes });
        }
        let list = declared.type_name.text.ends_with(" List");
        declared.type_name.text = if list { format!("{name} List") } else { name };
    }
}
