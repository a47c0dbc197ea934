//! Libraries: the copy of a revision that projects hold, and whether a copy in a project is one.
//!
//! A library is compiled into each app that uses it, from the copy in the app's project, so that a project builds the same
//! bits without the Platform. What is stored of a library is its project; the copy is made of that when it is asked for.
//! Invariant: no revision is stored with a library that was never published in its organization.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use odeon_compiler::{Library, Sources, bundle};
use odeon_protocol::{AppId, OrganizationId, Revision};

use crate::Platform;
use crate::assets;
use crate::assets::store::{Asset, StoredRevision};
use crate::assets::uploads::Project;
use crate::deployments::progress::Message;

/// The kind of an asset that is a library.
pub(crate) const LIBRARY: &str = "library";

/// A library in a project.
pub(super) struct Copy {
    library: Library,
    text: String,
}

/// What a project says of the libraries that it uses, with the texts of their copies.
pub(super) fn copies(libraries: Vec<Library>, files: &BTreeMap<String, String>) -> Vec<Copy> {
    let copy = |library: Library| {
        let text = files.get(&library.file).cloned().unwrap_or_default();
        Copy { library, text }
    };
    libraries.into_iter().map(copy).collect()
}

/// Compares copies with what was published; gives messages, of which errors end the build.
pub(super) async fn compare(
    platform: &Platform,
    organization: &OrganizationId,
    copies: &[Copy],
) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    for Copy { library: Library { name, revision, file }, text } in copies {
        let published = find(platform, organization, name, *revision).await?;
        let Some((asset, stored)) = published else {
            let text =
                format!("{file}: there is no revision {revision} of a library `{name}`; publish it first");
            messages.push(Message::error("OS-BLD-40004", text));
            continue;
        };
        let original = source(platform, &stored).await?;
        // A checkout may have changed how lines end.
        if original.as_deref() != Some(&*text.replace("\r\n", "\n")) {
            let text = format!(
                "{file} is not what was published as revision {revision} of `{name}`; \
                 write it again with `odeon reference {name} --revision {revision} --project <folder>`, and change the library itself"
            );
            messages.push(Message::error("OS-BLD-40005", text));
        }
        if let Some(latest) = asset.latest_revision.filter(|latest| i64::from(*latest) > i64::from(*revision))
        {
            let text = format!("`{name}` has revision {latest}; this project has revision {revision} of it");
            messages.push(Message::information("OS-BLD-20001", text));
        }
    }
    Ok(messages)
}

async fn find(
    platform: &Platform,
    organization: &OrganizationId,
    name: &str,
    revision: u32,
) -> Result<Option<(Asset, StoredRevision)>> {
    let database = &platform.database;
    let (found, _) = assets::store::list(database, organization, Some(name), (0, 1)).await?;
    let Some(asset) = found.into_iter().next().filter(|asset| asset.kind == LIBRARY) else { return Ok(None) };
    let stored = assets::store::find_revision(database, organization, &asset.key, Revision(revision)).await?;
    Ok(stored.map(|stored| (asset, stored)))
}

/// The copy of a stored revision; none of what is no library.
pub(crate) async fn source(platform: &Platform, stored: &StoredRevision) -> Result<Option<String>> {
    let Some(digest) = &stored.model_digest else { return Ok(None) };
    let bytes = platform.blobs.get(&digest.parse().context("the stored digest of a model")?).await?;
    let project: Project = serde_json::from_slice(&bytes).context("read a stored project")?;
    Ok(bundle(&Sources::new(project.files), stored.revision.0))
}

/// The apps whose newest revision holds another revision of a library, with the one that they hold.
pub(crate) async fn behind(
    platform: &Platform,
    library: &AppId,
    revision: Revision,
) -> Result<Vec<(String, u32)>> {
    let users = assets::store::users_of_library(&platform.database, library).await?;
    Ok(users.into_iter().filter(|(_, held)| *held != revision.0).collect())
}
