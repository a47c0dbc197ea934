//! `odeon new`: a folder with the sample app, named after the folder.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use odeon_protocol::AppName;

use crate::report::say;

/// The files of `guest-examples/expenses`, by path.
pub(crate) const SAMPLE: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/expenses.rs"));
/// The line that names the app.
const NAME_LINE: &str = "app: Expenses";

pub(crate) fn new(folder: &Path) -> Result<ExitCode> {
    let name = app_name(folder)?;
    if folder.exists() {
        bail!("{} is there already; choose another name, or remove it", folder.display());
    }
    for (file, text) in SAMPLE {
        let path = folder.join(file);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
        }
        let text = text.replace(NAME_LINE, &format!("app: {name}"));
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    say(format_args!(
        "made {}: the app `{name}`. Next: odeon publish {}",
        folder.display(),
        folder.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// `travel-costs` becomes `TravelCosts`.
fn app_name(folder: &Path) -> Result<AppName> {
    let base = folder
        .file_name()
        .and_then(|name| name.to_str())
        .context("name a folder, such as `odeon new expenses`")?;
    let name: String = base
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word[..1].to_ascii_uppercase() + &word[1..])
        .collect();
    name.parse().with_context(|| format!("`{base}` makes no app name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_named_after_its_folder() {
        assert_eq!(app_name(Path::new("a/travel-costs")).unwrap().as_str(), "TravelCosts");
        assert!(app_name(Path::new("42")).is_err());
    }

    #[test]
    fn the_sample_has_a_line_that_names_it() {
        assert!(SAMPLE.iter().any(|(_, text)| text.lines().any(|line| line == NAME_LINE)));
    }
}
