//! REST APIs of others: each method becomes an action without a flow, each API brings its settings.
//!
//! Invariant: the structures that hooks work with are in the model whenever an API is consumed.

use super::{Keys, choice, declarations, text_of, verb_and_path};
use crate::ast::*;
use crate::problem::Problems;
use crate::sources::Span;
use crate::yaml;

/// Seconds that an answer may take when the model does not say.
const TIMEOUT_S: u32 = 30;
/// Most seconds; a request to the app itself has as many.
const TIMEOUT_S_MAX: u32 = 60;

pub(super) fn read(api: Name, node: &yaml::Node, parsed: &mut Parsed, problems: &mut Problems<'_>) {
    let mut keys = Keys::of(node, "a consumed REST API", problems);
    keys.take("description");
    let url = keys.take("url").and_then(|n| text_of(n, problems));
    let basic = keys.take("authentication").and_then(|n| choice(n, &["basic"], problems)).is_some();
    let timeout_s = keys.take("timeout").and_then(|n| seconds(n, problems)).unwrap_or(TIMEOUT_S);
    let before = keys.take("on_before_request").and_then(|n| text_of(n, problems));
    let after = keys.take("on_after_response").and_then(|n| text_of(n, problems));
    for (name, node) in keys.named("methods", problems) {
        let mut method = Keys::of(node, "a consumed REST method", problems);
        let description = method.text("description", problems);
        let (verb, path) = verb_and_path(&name, &mut method, problems);
        let (api, roles) = (api.text.clone(), None);
        let kind = ActionKind::Consumed(RestMethod { api, verb, path, status: 0, roles });
        let action = Action {
            description,
            inputs: declarations(&mut method, "inputs", problems),
            outputs: declarations(&mut method, "outputs", problems),
            ..Action::new(name, kind)
        };
        method.finish(problems);
        parsed.actions.push(action);
    }
    keys.finish(problems);
    let text = |suffix: &str| plain(&format!("{}_{suffix}", api.text), "Text", api.span);
    parsed.settings.push(Declared { default: url.clone(), ..text("BaseURL") });
    if basic {
        parsed.settings.push(text("Username"));
        parsed.settings.push(Declared { secret: Some(api.span), ..text("Password") });
    }
    parsed.consumed.push(ConsumedApi { name: api, url, basic, timeout_s, before, after });
}

/// Adds what hooks see of a request and of an answer.
pub(super) fn add_structures(parsed: &mut Parsed) {
    let Some(span) = parsed.consumed.first().map(|api| api.name.span) else { return };
    let structures: [(&str, &[(&str, &str)]); 3] = [
        ("HTTPHeader", &[("Name", "Text"), ("Value", "Text")]),
        ("HTTPRequest", &[("URL", "Text"), ("Headers", "HTTPHeader List"), ("Body", "Text")]),
        ("HTTPResponse", &[("StatusCode", "Integer"), ("Headers", "HTTPHeader List"), ("Body", "Text")]),
    ];
    for (name, attributes) in structures {
        let attributes = attributes.iter().map(|(name, ty)| plain(name, ty, span)).collect();
        parsed.structures.push(Structure {
            name: Name { text: name.to_owned(), span },
            inline: false,
            attributes,
        });
    }
}

fn plain(name: &str, type_name: &str, span: Span) -> Declared {
    let word = |text: &str| Name { text: text.to_owned(), span };
    Declared::plain(word(name), word(type_name))
}

fn seconds(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<u32> {
    let text = text_of(node, problems)?;
    let seconds = text.text.parse().ok().filter(|s| (1..=TIMEOUT_S_MAX).contains(s));
    if seconds.is_none() {
        let message = format!("a timeout is a number of seconds from 1 to {TIMEOUT_S_MAX}");
        problems.error("OML0003", node.span, message);
    }
    seconds
}
