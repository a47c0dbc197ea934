//! Compiles an OML model to a component. Pure: text in, bytes and problems out.
//!
//! Stages, one module and one type each: [`parse`] (shape), [`resolve`] (names), [`check`] (types),
//! [`lower`] (functions, data, SQL) and [`emit`] (bytes). Each takes what the one before made and adds
//! its problems; a later stage runs on a model with mistakes as long as it can say something new, and
//! nothing is emitted once there is an error. The model's words end in `lower`.
//! Invariant: the same sources give the same bytes and the same problems.

extern crate alloc; // the shared sources of the runtime name it

mod ast;
mod builtins;
mod bundle;
mod check;
mod emit;
mod impact;
mod interface;
mod literal;
mod lower;
mod openapi;
mod parse;
mod plan;
mod problem;
mod resolve;
mod runtime;
mod schema;
mod sources;
mod types;
mod walk;
mod yaml;

#[allow(dead_code, unreachable_pub, reason = "the runtime's source is shared as it is")]
#[path = "../../oml-runtime/src/fold.rs"]
mod fold;

// A source of the runtime library that nothing here calls, for the sake of its tests.
#[cfg(test)]
use literal::{calendar, decimal};
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "the runtime's source is shared as it is")]
#[path = "../../oml-runtime/src/format.rs"]
mod format;

use odeon_oml::schema::Schema;
use serde::{Deserialize, Serialize};

pub use bundle::bundle;
pub use impact::{Conflict, conflicts};
pub use interface::{Elements, Handler, Interface, Parameter, Parameters, Signature};
pub use problem::{CODES, Problem, Severity, render};
pub use sources::{Sources, Span};

use emit::Refused;
use problem::Problems;
use types::is_text;

/// What came of a model.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The name of the app, or of the library, when the model says one.
    pub app: Option<String>,
    /// It is a library: compiled into apps, and never deployed itself.
    pub is_library: bool,
    /// The copies of libraries that the project holds.
    pub libraries: Vec<Library>,
    /// The component; none when any problem is an error.
    pub component: Option<Vec<u8>>,
    /// The tables that the component expects.
    pub schema: Schema,
    /// All problems, by place.
    pub problems: Vec<Problem>,
    /// What runs by itself.
    pub timers: Vec<Timer>,
    /// What a stage may set for the app.
    pub settings: Vec<Setting>,
    /// What the app is to other apps.
    pub interface: Interface,
}

/// A copy of a library's revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: u32,
    /// The file of the project.
    pub file: String,
}

/// A value that each stage may set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its type, as in the model.
    pub data_type: String,
    /// Nobody may read the value but the app.
    pub secret: bool,
    /// The value when a stage sets none.
    pub default: Option<String>,
}

impl Setting {
    /// Whether a text is a value of the setting's type.
    pub fn accepts(&self, value: &str) -> bool {
        let ty = resolve::basic(&self.data_type);
        ty.is_some_and(|ty| is_text(&ty) || literal::read(value, &ty).is_some())
    }
}

/// An action that runs by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// Its name.
    pub name: String,
    /// A cron pattern of five fields, in UTC.
    pub schedule: Option<String>,
    /// It runs whenever a revision was deployed.
    pub when_published: bool,
    /// Minutes that a run may take.
    pub timeout_minutes: u32,
}

impl Timer {
    /// Most minutes that a run may take.
    pub const TIMEOUT_MINUTES_MAX: u32 = parse::timer::TIMEOUT_MINUTES_MAX;

    /// Whether a text is a schedule, or why not.
    pub fn check_schedule(pattern: &str) -> Result<(), String> {
        parse::timer::schedule(pattern)
    }
}

/// The runtime library, as it is linked into every app: for whoever measures it.
pub fn runtime_library() -> &'static [u8] {
    runtime::MODULE
}

/// Compiles; a component comes out when no problem is an error.
pub fn compile(sources: &Sources) -> Compiled {
    let (mut compiled, parsed, typed) = analyse(sources);
    if compiled.problems.iter().all(|p| p.severity != Severity::Error) {
        let broken = |reason: &String| Refused::Broken(reason.clone());
        let component = runtime::RUNTIME.as_ref().map_err(broken).and_then(|runtime| {
            let plan = lower::lower(&typed, &openapi::documents(&parsed, &typed), runtime);
            emit::emit(&plan, runtime, sources)
        });
        match component {
            Ok(component) => compiled.component = Some(component),
            Err(refused) => compiled.problems.push(match &refused {
                Refused::TooLarge(function, excess) => match parsed.actions.get(*function) {
                    Some(action) => problem::too_large(sources, &action.name, excess),
                    None => problem::internal(sources, &excess.0),
                },
                Refused::Broken(reason) => problem::internal(sources, reason),
            }),
        }
    }
    compiled
}

fn timers(actions: &[ast::Action]) -> Vec<Timer> {
    let timer = |action: &ast::Action| {
        let timer = action.kind.timer()?;
        Some(Timer {
            name: action.name.text.clone(),
            schedule: timer.schedule.as_ref().map(|pattern| pattern.text.clone()),
            when_published: timer.when_published,
            timeout_minutes: timer.timeout,
        })
    };
    actions.iter().filter_map(timer).collect()
}

fn settings(named: &types::Named) -> Vec<Setting> {
    let setting = |def: &types::SettingDef| Setting {
        name: def.name.clone(),
        data_type: named.shown(&def.ty),
        secret: def.secret,
        default: def.default.as_ref().map(literal::shown),
    };
    named.settings.iter().map(setting).collect()
}

/// Finds the problems and the schema, and emits nothing.
pub fn check(sources: &Sources) -> Compiled {
    analyse(sources).0
}

fn analyse(sources: &Sources) -> (Compiled, ast::Parsed, types::Typed) {
    let mut problems = Problems::new(sources);
    let parsed = parse::parse(sources, &mut problems);
    let named = resolve::resolve(&parsed, &mut problems);
    let typed = check::check(&parsed, named, &mut problems);
    let libraries = parsed.libraries.iter().map(|library| Library {
        name: library.name.text.clone(),
        revision: library.revision,
        file: sources.position(library.name.span).0,
    });
    let libraries: Vec<Library> = libraries.collect();
    let mut problems = problems.into_sorted();
    // Whoever uses a library did not write it: its warnings were its author's to read.
    let is_ours = |problem: &Problem| libraries.iter().all(|library| library.file != problem.file);
    problems.retain(|problem| problem.severity == Severity::Error || is_ours(problem));
    let compiled = Compiled {
        app: parsed.app.as_ref().map(|name| name.text.clone()),
        is_library: parsed.is_library,
        libraries,
        component: None,
        schema: schema::schema(&typed),
        problems,
        timers: timers(&parsed.actions),
        settings: settings(&typed.named),
        interface: interface::interface(&parsed, &typed),
    };
    (compiled, parsed, typed)
}
