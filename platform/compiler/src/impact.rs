//! Impact: what one app expects of another, compared with what there is.
//!
//! The rules of what may change are those of a message whose parts have names: what is unknown is passed over, what
//! is missing has its default. So an input may come, unless it is mandatory, and may go; an output may come; nothing
//! may change its type. Invariant: elements that are equal have no conflicts.

use serde::Serialize;

use crate::interface::{Elements, Parameter, Parameters};

/// A use that does not fit what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Conflict {
    /// `Missing…` or `Incompatible…`, with the kind of the element.
    pub kind: &'static str,
    /// The element.
    pub element: String,
    /// What is wrong, for people.
    pub detail: String,
}

/// Where `actual` is not what was expected.
pub fn conflicts(expected: &Elements, actual: &Elements) -> Vec<Conflict> {
    let mut found = Vec::new();
    let mut say = |kind, element: &str, details: Vec<String>| {
        found.extend(details.into_iter().map(|detail| Conflict {
            kind,
            element: element.to_owned(),
            detail,
        }));
    };
    for (name, signature) in &expected.service_actions {
        match actual.service_actions.get(name) {
            None => say("MissingServiceAction", name, vec![format!("there is no service action `{name}`")]),
            Some(now) => {
                let inputs = sent("input", &signature.inputs, &now.inputs);
                say("IncompatibleServiceAction", name, inputs);
                let outputs = received("output", &signature.outputs, &now.outputs);
                say("IncompatibleServiceAction", name, outputs);
            }
        }
    }
    for (name, event) in &expected.events {
        match actual.events.get(name) {
            None => say("MissingEvent", name, vec![format!("there is no event `{name}`")]),
            Some(now) => say("IncompatibleEvent", name, received("value", &event.payload, &now.payload)),
        }
    }
    for (name, entity) in &expected.entities {
        let (missing, incompatible) = match entity.is_static {
            true => ("MissingStaticEntity", "IncompatibleStaticEntity"),
            false => ("MissingEntity", "IncompatibleEntity"),
        };
        match actual.entities.get(name) {
            None => say(missing, name, vec![format!("there is no public entity `{name}`")]),
            Some(now) => {
                let mut details = received("attribute", &entity.attributes, &now.attributes);
                for (record, before) in &entity.records {
                    match now.records.get(record) {
                        None => details.push(format!("there is no record `{record}`")),
                        Some(now) if now.id != before.id => {
                            details.push(format!(
                                "the record `{record}` has the Id {}, and had {}",
                                now.id, before.id
                            ));
                        }
                        Some(_) => {}
                    }
                }
                say(incompatible, name, details);
            }
        }
    }
    for name in expected.roles.keys().filter(|name| !actual.roles.contains_key(*name)) {
        say("MissingRole", name, vec![format!("there is no public role `{name}`")]);
    }
    for (name, structure) in &expected.structures {
        match actual.structures.get(name) {
            // Then whatever named it has another type, and was said.
            None => {}
            Some(now) => {
                // A structure may go either way.
                let mut details = sent("attribute", &structure.attributes, &now.attributes);
                details.extend(received("attribute", &structure.attributes, &now.attributes));
                details.dedup();
                say("IncompatibleStructure", name, details);
            }
        }
    }
    found
}

/// What the user gives: new ones must not be mandatory.
fn sent(what: &str, expected: &Parameters, actual: &Parameters) -> Vec<String> {
    let mandatory = actual
        .iter()
        .filter(|(name, p)| p.mandatory && !expected.get(*name).is_some_and(|before| before.mandatory));
    let mandatory = mandatory.map(|(name, _)| format!("the {what} `{name}` is mandatory now"));
    mandatory.chain(changed(what, expected, actual)).collect()
}

/// What the user takes: nothing may be gone.
fn received(what: &str, expected: &Parameters, actual: &Parameters) -> Vec<String> {
    let gone = expected.keys().filter(|name| !actual.contains_key(*name));
    let gone = gone.map(|name| format!("there is no {what} `{name}`"));
    gone.chain(changed(what, expected, actual)).collect()
}

fn changed(what: &str, expected: &Parameters, actual: &Parameters) -> Vec<String> {
    let mut changed = Vec::new();
    for (name, before) in expected {
        let is_other = |now: &&Parameter| travels_as(&now.data_type) != travels_as(&before.data_type);
        if let Some(now) = actual.get(name).filter(is_other) {
            let (was, is) = (&before.data_type, &now.data_type);
            changed.push(format!("the {what} `{name}` is {is}, and was {was}"));
        }
    }
    changed
}

/// Identifiers of entities that become public, or no longer are, travel as what they were before.
fn travels_as(data_type: &str) -> &str {
    if data_type.ends_with(" Identifier") { "Long Integer" } else { data_type }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(json: &str) -> Elements {
        serde_json::from_str(json).unwrap()
    }

    #[track_caller]
    fn check(actual: &str, expect: &[&str]) {
        let expected = elements(
            r#"{
            "service_actions": {"Get": {"inputs": {"Id": {"type": "Long Integer", "mandatory": true}, "Note": {"type": "Text"}},
                                        "outputs": {"Ticket": {"type": "Ticket"}}}},
            "events": {"Closed": {"payload": {"Id": {"type": "Long Integer"}}}},
            "structures": {"Ticket": {"attributes": {"Id": {"type": "Long Integer"}, "Title": {"type": "Text"}}}}}"#,
        );
        let found = conflicts(&expected, &elements(actual));
        let shown: Vec<String> =
            found.iter().map(|c| format!("{} {}: {}", c.kind, c.element, c.detail)).collect();
        assert_eq!(shown, expect);
        assert_eq!(conflicts(&expected, &expected), []);
    }

    #[test]
    fn what_may_change_is_no_conflict() {
        check(
            r#"{
            "service_actions": {"Get": {"inputs": {"Id": {"type": "Ticket Identifier"}, "More": {"type": "Text"}},
                                        "outputs": {"Ticket": {"type": "Ticket"}, "Count": {"type": "Integer"}}},
                                "Other": {}},
            "events": {"Closed": {"payload": {"Id": {"type": "Long Integer"}, "By": {"type": "Text", "mandatory": true}}}},
            "structures": {"Ticket": {"attributes": {"Id": {"type": "Long Integer"}, "Title": {"type": "Text"}, "Due": {"type": "Date"}}}}}"#,
            &[],
        );
    }

    #[test]
    fn entities_are_compared_by_what_is_read_of_them() {
        let before = elements(
            r#"{"entities": {"Ticket": {"attributes": {"Title": {"type": "Text"}}},
                             "Status": {"static": true, "records": {"Open": {"Id": 1}, "Closed": {"Id": 2}}}}}"#,
        );
        let now = elements(
            r#"{"entities": {"Ticket": {"attributes": {"Name": {"type": "Text"}}},
                             "Status": {"static": true, "records": {"Open": {"Id": 2}, "New": {"Id": 1}}}}}"#,
        );
        let details =
            |found: Vec<Conflict>| found.into_iter().map(|c| (c.kind, c.detail)).collect::<Vec<_>>();
        assert_eq!(
            details(conflicts(&before, &now)),
            [
                ("IncompatibleStaticEntity", "there is no record `Closed`".to_owned()),
                ("IncompatibleStaticEntity", "the record `Open` has the Id 2, and had 1".to_owned()),
                ("IncompatibleEntity", "there is no attribute `Title`".to_owned()),
            ]
        );
        assert_eq!(
            details(conflicts(&before, &elements("{}")))[1],
            ("MissingEntity", "there is no public entity `Ticket`".to_owned())
        );
        assert_eq!(conflicts(&before, &before), []);
    }

    #[test]
    fn what_breaks_is_said_with_its_element() {
        check(
            r#"{
            "service_actions": {"Get": {"inputs": {"Id": {"type": "Text"}, "By": {"type": "Text", "mandatory": true}}}},
            "structures": {"Ticket": {"attributes": {"Id": {"type": "Long Integer"}, "Due": {"type": "Date", "mandatory": true}}}}}"#,
            &[
                "IncompatibleServiceAction Get: the input `By` is mandatory now",
                "IncompatibleServiceAction Get: the input `Id` is Text, and was Long Integer",
                "IncompatibleServiceAction Get: there is no output `Ticket`",
                "MissingEvent Closed: there is no event `Closed`",
                "IncompatibleStructure Ticket: the attribute `Due` is mandatory now",
                "IncompatibleStructure Ticket: there is no attribute `Title`",
            ],
        );
        check(
            "{}",
            &[
                "MissingServiceAction Get: there is no service action `Get`",
                "MissingEvent Closed: there is no event `Closed`",
            ],
        );
    }
}
