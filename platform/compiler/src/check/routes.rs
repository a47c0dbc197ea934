//! REST methods: paths against inputs, inputs against verbs, methods against each other.
//!
//! Invariant: every `{Name}` of a path is an input, every path input is in the path, and no request
//! fits two methods equally well.

use std::collections::{BTreeMap, BTreeSet};

use super::roles::known;
use crate::ast::{Action, Name, Parsed, RestMethod, Source};
use crate::problem::{Problems, near};
use crate::types::{LocalDef, Named, Route, Segment, Type};

const GET: u32 = 0;
const DELETE: u32 = 3;

pub(super) fn routes(parsed: &Parsed, named: &Named, problems: &mut Problems<'_>) -> Vec<Route> {
    let mut routes: Vec<Route> = Vec::new();
    let mut taken = BTreeSet::new();
    let checks: BTreeMap<&str, Option<usize>> = parsed
        .apis
        .iter()
        .map(|api| {
            let action = api.authentication.as_ref().and_then(|name| authentication(name, named, problems));
            (api.name.text.as_str(), action)
        })
        .collect();
    for (index, action) in parsed.actions.iter().enumerate() {
        let Some(rest) = action.kind.exposed() else { continue };
        let def = &named.actions[index];
        let (own, sources) = shape(rest, &def.variables[..def.inputs], action, problems);
        let authentication = checks.get(rest.api.as_str()).copied().flatten();
        let of_api = parsed.apis.iter().find(|api| api.name.text == rest.api).map(|api| &api.roles);
        let asked = rest.roles.as_ref().or(of_api).map_or(&[][..], Vec::as_slice);
        let roles = roles(asked, authentication, named, problems);
        let base = ["rest", &rest.api].map(|segment| Segment::Literal(segment.to_owned()));
        let route = Route {
            action: index,
            verb: rest.verb,
            status: rest.status,
            authentication,
            roles,
            segments: base.into_iter().chain(own).collect(),
            sources,
        };
        if !taken.insert((route.verb, words(&route.segments))) {
            let message = format!("another method answers `{}` with this verb", rest.path.text);
            problems.error("OML0402", rest.path.span, message);
        }
        routes.push(route);
    }
    routes
}

/// The roles of which a caller needs one. Whoever asks for a role has to know who calls.
fn roles(
    asked: &[Name],
    authentication: Option<usize>,
    named: &Named,
    problems: &mut Problems<'_>,
) -> Vec<String> {
    let knows = authentication.is_some_and(|action| {
        named.actions[action].outputs().iter().any(|o| o.name == USER && o.ty == Type::Text)
    });
    if let Some(role) = asked.first().filter(|_| !knows) {
        let message = format!("nothing says who calls, so nobody has the role `{}`", role.text);
        let hint =
            format!("give the API `on_authentication` with an action that has the output {USER}: Text");
        problems.error_hint("OML0406", role.span, message, Some(hint));
    }
    asked.iter().for_each(|role| known(role, named, problems));
    asked.iter().map(|role| role.text.clone()).collect()
}

/// The output of an authentication that says who calls.
pub(crate) const USER: &str = "UserId";

/// The action that checks who calls: it takes a user name and a password, and refuses by an exception.
fn authentication(name: &Name, named: &Named, problems: &mut Problems<'_>) -> Option<usize> {
    let Some(index) = named.callable.get(&name.text).copied() else {
        let hint = near(&name.text, named.callable.keys().map(String::as_str));
        problems.error_hint("OML0105", name.span, format!("there is no action `{}`", name.text), hint);
        return None;
    };
    let def = &named.actions[index];
    let inputs: Vec<(&str, &Type)> =
        def.variables[..def.inputs].iter().map(|i| (i.name.as_str(), &i.ty)).collect();
    if inputs != [("Username", &Type::Text), ("Password", &Type::Text)] {
        let message = format!("`{}` cannot check who calls", name.text);
        let hint = "it needs the inputs Username and Password, both Text, and raises InvalidLogin to refuse"
            .to_owned();
        problems.error_hint("OML0406", name.span, message, Some(hint));
        return None;
    }
    Some(index)
}

/// The path of a method below its API, and where each of its inputs stands in a request.
pub(super) fn shape(
    rest: &RestMethod,
    inputs: &[LocalDef],
    action: &Action,
    problems: &mut Problems<'_>,
) -> (Vec<Segment>, Vec<Source>) {
    let mut segments = Vec::new();
    let mut in_path = vec![false; inputs.len()];
    for segment in rest.path.text.split('/').filter(|s| !s.is_empty()) {
        match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            Some(name) => match inputs.iter().position(|i| i.name == name) {
                Some(at) => {
                    in_path[at] = true;
                    segments.push(Segment::Input(at));
                }
                None => {
                    let hint = near(name, inputs.iter().map(|i| i.name.as_str()));
                    let message = format!("the path takes `{name}`, which is no input");
                    problems.error_hint("OML0401", rest.path.span, message, hint);
                }
            },
            None if segment.contains(['{', '}', '?', '#', '%']) => {
                let message = format!("`{segment}` is neither a plain segment nor one `{{Input}}`");
                problems.error("OML0401", rest.path.span, message);
            }
            None => segments.push(Segment::Literal(segment.to_owned())),
        }
    }
    let mut bodies = 0;
    let mut sources = Vec::new();
    for (at, (input, declared)) in inputs.iter().zip(&action.inputs).enumerate() {
        let compound = matches!(input.ty, Type::Record(_) | Type::List(_) | Type::Binary);
        let chosen = match input.source {
            Some((source, _)) => source,
            None if in_path[at] => Source::Path,
            None if compound => Source::Body,
            None => Source::Query,
        };
        let span = input.source.map_or(declared.type_name.span, |(_, at)| at);
        if (chosen == Source::Path) != in_path[at] {
            let message = format!("`{}` and the path `{}` do not agree", input.name, rest.path.text);
            problems.error("OML0401", span, message);
        }
        if compound && chosen != Source::Body {
            let message = format!("`{}` is no single value; it can come from the body only", input.name);
            problems.error("OML0403", span, message);
        }
        if chosen == Source::Body {
            bodies += 1;
            if rest.verb == GET || rest.verb == DELETE {
                problems.error("OML0403", span, "a GET or DELETE has no body");
            } else if bodies > 1 {
                problems.error("OML0403", span, "the body is one input already");
            }
        }
        sources.push(chosen);
    }
    (segments, sources)
}

/// What two methods that answer the same requests have in common: the words of their paths, in their places.
fn words(segments: &[Segment]) -> Vec<Option<String>> {
    let word = |segment: &Segment| match segment {
        Segment::Literal(word) => Some(word.clone()),
        Segment::Input(_) => None,
    };
    segments.iter().map(word).collect()
}
