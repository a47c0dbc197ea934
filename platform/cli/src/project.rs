//! A project on disk: one OML file or a folder of them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Deepest nesting of folders that is read.
const DEPTH_MAX: u32 = 8;
/// Most bytes of all files together; the Platform refuses more.
const BYTES_MAX: usize = 16 << 20;

/// The project's files by relative path. Hidden files and other endings are passed over.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    if path.is_dir() {
        read_folder(path, path, 0, &mut files)?;
        if files.is_empty() {
            bail!("{} holds no .yaml, .yml or .json file; `odeon new` makes an example", path.display());
        }
    } else {
        let name =
            path.file_name().and_then(|name| name.to_str()).context("the file has no readable name")?;
        files.insert(name.to_owned(), read_text(path)?);
    }
    let bytes: usize = files.values().map(String::len).sum();
    if bytes > BYTES_MAX {
        bail!("{} holds {bytes} bytes of OML; the limit is {BYTES_MAX}", path.display());
    }
    Ok(files)
}

fn read_folder(root: &Path, folder: &Path, depth: u32, files: &mut BTreeMap<String, String>) -> Result<()> {
    if depth > DEPTH_MAX {
        bail!("{} lies deeper than {DEPTH_MAX} folders", folder.display());
    }
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("read the folder {}", folder.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("read the folder {}", folder.display()))?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let ending = path.extension().and_then(|ending| ending.to_str());
        if hidden {
        } else if path.is_dir() {
            read_folder(root, &path, depth + 1, files)?;
        } else if matches!(ending, Some("yaml" | "yml" | "json")) {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.insert(name, read_text(&path)?);
        }
    }
    Ok(())
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
