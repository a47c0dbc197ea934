//! A library as one file: the copy of a revision that the projects of its users hold.
//!
//! The files of the library's project are merged, key by key in the order in which they are written, and the libraries
//! that it uses itself lie inside, so that the copy needs nothing else. JSON with one entry a line, so that a diff shows
//! what changed. Invariant: the same project and revision give the same text, by which a copy is told from a forgery.

use crate::problem::Problems;
use crate::sources::Sources;
use crate::yaml::{self, Name, Node, Shape};

/// The copy of a library's revision. None when the project is no library, or cannot be read.
pub fn bundle(sources: &Sources, revision: u32) -> Option<String> {
    let mut problems = Problems::new(sources);
    let mut name = None;
    let mut sections: Vec<(String, Vec<(Name, Node)>)> = Vec::new();
    let mut libraries: Vec<(Name, Node)> = Vec::new();
    for file in 0..sources.files.len() {
        let Shape::Mapping(mut entries) = yaml::read(sources, file, &mut problems)?.shape else {
            return None;
        };
        let library = entries.iter().position(|(key, _)| key.text == "library");
        let library = library.map(|at| entries.remove(at).1);
        if let Some(Node { span, shape: Shape::Scalar(scalar) }) = library {
            let its = Name { text: scalar.text, span };
            if entries.iter().any(|(key, _)| key.text == "revision") {
                libraries.push((its, Node { span, shape: Shape::Mapping(entries) }));
                continue;
            }
            name = Some(its.text);
        }
        for (key, node) in entries {
            let Shape::Mapping(mut declared) = node.shape else { continue }; // the description
            match sections.iter_mut().find(|(section, _)| *section == key.text) {
                Some((_, all)) => all.append(&mut declared),
                None => sections.push((key.text, declared)),
            }
        }
    }
    if problems.has_errors() {
        return None;
    }
    sections.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut text = format!("{{\n  \"library\": {},\n  \"revision\": {revision}", json(&name?));
    if !libraries.is_empty() {
        sections.push(("libraries".to_owned(), libraries));
    }
    for (section, entries) in &sections {
        text.push_str(&format!(",\n  {}: {{", json(section)));
        for (at, (key, node)) in entries.iter().enumerate() {
            text.push_str(if at == 0 { "\n    " } else { ",\n    " });
            text.push_str(&json(&key.text));
            text.push_str(": ");
            write(node, &mut text);
        }
        text.push_str("\n  }");
    }
    text.push_str("\n}\n");
    Some(text)
}

/// Read again, it is the same tree: depth is bounded where it was read.
fn write(node: &Node, text: &mut String) {
    match &node.shape {
        Shape::Null => text.push_str("null"),
        Shape::Scalar(scalar) if !scalar.quoted && matches!(&*scalar.text, "true" | "false") => {
            text.push_str(&scalar.text);
        }
        Shape::Scalar(scalar) => text.push_str(&json(&scalar.text)),
        Shape::Sequence(items) => {
            text.push('[');
            for (at, item) in items.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                write(item, text);
            }
            text.push(']');
        }
        Shape::Mapping(entries) => {
            text.push('{');
            for (at, (key, value)) in entries.iter().enumerate() {
                text.push_str(if at == 0 { "" } else { ", " });
                text.push_str(&json(&key.text));
                text.push_str(": ");
                write(value, text);
            }
            text.push('}');
        }
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}
