//! The build service: a project or a component in, a signed revision out.
//!
//! Steps: compile the model (or check the component), make native code for the pool's target, sign the
//! claim, store everything. Nothing is stored unless all steps succeed. Compilation is pure and runs on
//! a blocking thread; native code is made by a child process of the host's own binary, so that the artefact
//! fits the engine that will load it, and within limits of its own.

pub(crate) mod api;
mod component;
pub(crate) mod libraries;
mod native;
pub(crate) mod store;

use std::time::Instant;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use odeon_compiler::{Interface, Setting, Timer};
use odeon_protocol::{AppId, AppName, Claim, NativeArtefact, OrganizationId, Revision};
use serde_json::json;

use self::libraries::LIBRARY;
use crate::Platform;
use crate::assets;
use crate::assets::store::{NewRevision, add_revision};
use crate::assets::uploads::Upload;
use crate::deployments::progress::{Message, Progress};

/// Builds at once; more wait. Two: one build keeps one core busy.
pub(crate) const BUILDS_AT_ONCE: usize = 2;

/// What to build.
pub(crate) struct BuildRequest<'a> {
    pub(crate) organization: &'a OrganizationId,
    pub(crate) actor: &'a str,
    pub(crate) upload: Upload,
    /// The name of a component's app; a model carries its own.
    pub(crate) name: Option<AppName>,
    pub(crate) message: &'a str,
}

/// A stored revision.
pub(crate) struct Built {
    pub(crate) app: AppId,
    pub(crate) name: AppName,
    pub(crate) revision: Revision,
    /// It is compiled into apps, and never deployed itself.
    pub(crate) is_library: bool,
}

/// What the first step of a build makes.
struct Compiled {
    name: AppName,
    kind: &'static str,
    model: Option<Bytes>,
    component: Bytes,
    schema: Option<serde_json::Value>,
    settings: Vec<Setting>,
    timers: Vec<Timer>,
    interface: Interface,
    libraries: Vec<libraries::Copy>,
    warnings: Vec<Message>,
}

/// Runs a build. `Ok(None)`: the input has problems, which `progress` now tells.
pub(crate) async fn build(
    platform: &Platform,
    request: BuildRequest<'_>,
    progress: &mut Progress,
) -> Result<Option<Built>> {
    let _turn = platform.builds.acquire().await.context("the build service is shutting down")?;
    let started = Instant::now();
    let compiled = match compile(request.upload, request.name).await? {
        Ok(compiled) => compiled,
        Err(problems) => {
            progress.messages.extend(problems);
            return Ok(None);
        }
    };
    progress.step("compile", started);
    progress.messages.extend(compiled.warnings);
    let mut told = libraries::compare(platform, request.organization, &compiled.libraries).await?;
    told.extend(other_kind(platform, request.organization, &compiled.name, compiled.kind).await?);
    let refused = told.iter().any(Message::is_error);
    progress.messages.append(&mut told);
    if refused {
        return Ok(None);
    }

    let started = Instant::now();
    let is_library = compiled.kind == LIBRARY;
    // A library is built as an app that nothing leads into, which proves that it can be compiled in; nobody runs it.
    let made = match is_library {
        true => native::Outcome::NotConfigured,
        false => native::precompile(platform, &compiled.component).await?,
    };
    let native = match made {
        native::Outcome::Made(native) => {
            progress.step("native code", started);
            Some(native)
        }
        native::Outcome::NotConfigured => None,
        native::Outcome::Refused(message) => {
            progress.messages.push(Message::error("OS-BLD-40002", message));
            return Ok(None);
        }
    };

    let started = Instant::now();
    let dependencies = component::imports(&compiled.component).context("a component that was checked")?;
    let wasm_bytes = compiled.component.len() as u64;
    let wasm = platform.blobs.put(compiled.component).await?;
    let model_digest = match compiled.model {
        Some(model) => Some(platform.blobs.put(model).await?),
        None => None,
    };
    let native = match native {
        Some(made) => {
            let bytes = made.artefact.len() as u64;
            let digest = platform.blobs.put(made.artefact).await?;
            Some(NativeArtefact { digest, bytes, target: made.target, engine: made.engine })
        }
        None => None,
    };
    let new = NewRevision {
        organization: request.organization,
        name: &compiled.name,
        kind: compiled.kind,
        message: request.message,
        model_digest,
        wasm_digest: wasm.clone(),
        native_digest: native.as_ref().map(|native| native.digest.clone()),
        schema: compiled.schema,
        settings: compiled.settings,
        timers: compiled.timers,
        interface: compiled.interface,
        dependencies: json!(dependencies),
        created_by: request.actor,
    };
    let (app, revision) = add_revision(&platform.database, new, |app, revision| {
        platform.signer.seal(&Claim {
            organization: request.organization.clone(),
            app: app.clone(),
            revision,
            wasm,
            wasm_bytes,
            native,
        })
    })
    .await?;
    progress.step("sign and store", started);
    Ok(Some(Built { app, name: compiled.name, revision, is_library }))
}

/// A library and an app cannot have one name: projects say it.
async fn other_kind(
    platform: &Platform,
    organization: &OrganizationId,
    name: &AppName,
    kind: &str,
) -> Result<Option<Message>> {
    let (found, _) =
        assets::store::list(&platform.database, organization, Some(name.as_str()), (0, 1)).await?;
    let other = found.first().filter(|asset| (asset.kind == LIBRARY) != (kind == LIBRARY));
    Ok(other.map(|other| {
        let (is, other) =
            if other.kind == LIBRARY { ("a library", "an app") } else { ("an app", "a library") };
        let text = format!("`{name}` is {is} already, and cannot become {other}; take another name");
        Message::error("OS-BLD-40006", text)
    }))
}

/// The inner result is the user's: their input compiles, or has problems.
async fn compile(upload: Upload, name: Option<AppName>) -> Result<Result<Compiled, Vec<Message>>> {
    match upload {
        Upload::Component(component) => {
            let Some(name) = name else {
                let text = "a component needs a name: odeon publish app.wasm --name Hello";
                return Ok(Err(vec![Message::error("OS-BLD-40001", text)]));
            };
            Ok(tokio::task::spawn_blocking(move || check_component(name, component)).await?)
        }
        Upload::Project(project) => Ok(tokio::task::spawn_blocking(move || compile_project(project)).await?),
    }
}

fn check_component(name: AppName, component: Bytes) -> Result<Compiled, Vec<Message>> {
    match component::check(&component) {
        Ok(()) => Ok(Compiled {
            name,
            kind: "component",
            model: None,
            component,
            schema: None,
            settings: Vec::new(),
            timers: Vec::new(),
            interface: Interface::default(),
            libraries: Vec::new(),
            warnings: Vec::new(),
        }),
        Err(reason) => Err(vec![Message::error("OS-BLD-40002", reason)]),
    }
}

fn compile_project(project: crate::assets::uploads::Project) -> Result<Compiled, Vec<Message>> {
    let model = Bytes::from(serde_json::to_vec(&project).expect("a map of texts is JSON"));
    let sources = odeon_compiler::Sources::new(project.files.clone());
    let compiled = odeon_compiler::compile(&sources);
    let problems = compiled.problems.iter().map(Message::problem).collect();
    let (Some(app), Some(component)) = (compiled.app, compiled.component) else { return Err(problems) };
    let name = app
        .parse()
        .map_err(|error: odeon_protocol::IdError| vec![Message::error("OS-BLD-40003", error.to_string())])?;
    let schema = serde_json::to_value(&compiled.schema).expect("a schema is JSON");
    Ok(Compiled {
        name,
        kind: if compiled.is_library { LIBRARY } else { "oml" },
        libraries: libraries::copies(compiled.libraries, &project.files),
        model: Some(model),
        component: component.into(),
        schema: Some(schema),
        settings: compiled.settings,
        timers: compiled.timers,
        interface: compiled.interface,
        warnings: problems,
    })
}
