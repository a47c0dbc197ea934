//! Timers: each becomes an action of its own, whose flow calls the action that the model names.

use super::{Keys, text_of};
use crate::ast::*;
use crate::problem::Problems;
use crate::yaml;

/// Minutes that a run may take when the model does not say; ODC's default.
const TIMEOUT_MINUTES: u32 = 20;
/// Most minutes that a run may take, as in ODC.
pub(crate) const TIMEOUT_MINUTES_MAX: u32 = 60;

pub(super) fn read(name: Name, node: &yaml::Node, problems: &mut Problems<'_>) -> Option<Action> {
    let mut keys = Keys::of(node, "a timer", problems);
    let description = keys.text("description", problems);
    let action = keys.take("action").and_then(|n| text_of(n, problems));
    if action.is_none() {
        problems.error("OML0005", name.span, format!("the timer `{}` needs `action`", name.text));
    }
    let schedule = keys.take("schedule").and_then(|n| text_of(n, problems));
    let timer = Timer {
        schedule: schedule.filter(|pattern| is_schedule(pattern, problems)),
        when_published: keys.flag("when_published", false, problems),
        timeout: keys.take("timeout").and_then(|n| minutes(n, problems)).unwrap_or(TIMEOUT_MINUTES),
    };
    let with = keys.named("with", problems);
    let with = with.into_iter().map(|(k, v)| (k, super::flow::expr(v, problems))).collect();
    keys.finish(problems);
    let action = action?;
    let span = action.span;
    let call = Node { name: None, span, kind: NodeKind::Call { action, with } };
    Some(Action { description, flow: vec![call], ..Action::new(name, ActionKind::Timer(timer)) })
}

/// Reports a pattern that is no schedule.
fn is_schedule(pattern: &Name, problems: &mut Problems<'_>) -> bool {
    let Err(refused) = schedule(&pattern.text) else { return true };
    let message = format!("`{}` is no schedule: {refused}", pattern.text);
    let hint = "minute, hour, day of the month, month, day of the week, in UTC: `30 3 * * 1-5`".to_owned();
    problems.error_hint("OML0405", pattern.span, message, Some(hint));
    false
}

/// Five fields, as cron has them: a host looks at its timers every second, but nobody should need that.
pub(crate) fn schedule(pattern: &str) -> Result<(), String> {
    match pattern.parse::<croner::Cron>() {
        Ok(_) if pattern.split_whitespace().count() == 5 => Ok(()),
        Ok(_) => Err("it has not five fields".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn minutes(node: &yaml::Node, problems: &mut Problems<'_>) -> Option<u32> {
    let text = text_of(node, problems)?;
    let minutes = text.text.parse().ok().filter(|m| (1..=TIMEOUT_MINUTES_MAX).contains(m));
    if minutes.is_none() {
        let message = format!("a timeout is a number of minutes from 1 to {TIMEOUT_MINUTES_MAX}");
        problems.error("OML0003", node.span, message);
    }
    minutes
}
