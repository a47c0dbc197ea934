//! Consumed REST: URLs, paths against inputs, and the actions that see requests and answers.
//!
//! Invariant: a hook takes one structure and gives the same one back.

use super::routes::shape;
use crate::ast::{Name, Parsed};
use crate::problem::{Problems, near};
use crate::types::{Named, Request, Type};

pub(super) fn requests(parsed: &Parsed, named: &Named, problems: &mut Problems<'_>) -> Vec<Request> {
    let mut hooks = Vec::new();
    for api in &parsed.consumed {
        if let Some(url) = &api.url {
            base_url(url, problems);
        }
        let request = ["Request", "HTTPRequest", "CustomizedRequest"];
        let response = ["Response", "HTTPResponse", "CustomizedResponse"];
        let mut of = |name: &Option<Name>, shape| hook(name.as_ref()?, shape, named, problems);
        hooks.push((of(&api.before, request), of(&api.after, response)));
    }
    let mut requests = Vec::new();
    for (index, action) in parsed.actions.iter().enumerate() {
        let Some(method) = action.kind.consumed() else { continue };
        let def = &named.actions[index];
        let (segments, sources) = shape(method, &def.variables[..def.inputs], action, problems);
        let Some(api) = parsed.consumed.iter().position(|api| api.name.text == method.api) else { continue };
        let (before, after) = hooks[api];
        requests.push(Request { action: index, api, verb: method.verb, segments, sources, before, after });
    }
    requests
}

/// What paths are put behind: a scheme, a host, and maybe a path.
fn base_url(url: &Name, problems: &mut Problems<'_>) {
    let rest = url.text.strip_prefix("https://").or_else(|| url.text.strip_prefix("http://"));
    let plain = |c: char| c.is_ascii_graphic() && !"?#{}@\\\"<>".contains(c);
    if rest.is_some_and(|rest| !rest.starts_with(['/', ':']) && !rest.is_empty() && rest.chars().all(plain)) {
        return;
    }
    let message = format!("`{}` is not the URL of an API", url.text);
    let hint = "http:// or https://, a host, and maybe a path: https://api.example.com/v1".to_owned();
    problems.error_hint("OML0407", url.span, message, Some(hint));
}

/// The action of a hook: its input, their type, its output.
fn hook(name: &Name, shape: [&str; 3], named: &Named, problems: &mut Problems<'_>) -> Option<usize> {
    let Some(index) = named.callable.get(&name.text).copied() else {
        let hint = near(&name.text, named.callable.keys().map(String::as_str));
        problems.error_hint("OML0105", name.span, format!("there is no action `{}`", name.text), hint);
        return None;
    };
    let [input, structure, output] = shape;
    let ty = named.types.places.get(structure).map(|place| Type::Record(*place));
    let def = &named.actions[index];
    let is = |variable: &crate::types::LocalDef, name: &str| {
        variable.name == name && Some(&variable.ty) == ty.as_ref()
    };
    let fits = def.inputs == 1
        && def.outputs == 1
        && is(&def.variables[0], input)
        && def.outputs().iter().all(|o| is(o, output));
    if !fits {
        let message = format!("`{}` cannot be called here", name.text);
        let hint = format!("it needs the input {input} and the output {output}, both {structure}");
        problems.error_hint("OML0406", name.span, message, Some(hint));
        return None;
    }
    Some(index)
}
