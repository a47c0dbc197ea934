//! Impact analysis: a revision against the apps that serve in a stage.

use std::collections::BTreeMap;

use anyhow::Result;
use odeon_compiler::{Interface, conflicts};
use odeon_protocol::{AppName, OrganizationId, StageName};
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{PgPool, Row as _};
use utoipa::ToSchema;

/// Something that would not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Inconsistency {
    /// `Producers`: the app would miss something. `Consumers`: another app would.
    pub(crate) section: &'static str,
    /// The other app.
    pub(crate) app: String,
    /// `MissingApplication`, or `Missing…` or `Incompatible…` of a `ServiceAction`, `Event`, `Entity`, `StaticEntity`, `Role`
    /// or `Structure`.
    pub(crate) kind: &'static str,
    /// The element; empty for a whole app.
    pub(crate) element: String,
    /// What is wrong, for people.
    pub(crate) detail: String,
}

/// Where a revision of an app would not fit the apps that serve in a stage.
pub(crate) async fn analyse(
    database: &PgPool,
    organization: &OrganizationId,
    stage: &StageName,
    app: &AppName,
    interface: &Interface,
) -> Result<Vec<Inconsistency>> {
    let mut serving = serving(database, organization, stage).await?;
    serving.remove(app.as_str());
    Ok(compare(app.as_str(), interface, &serving))
}

/// The apps that serve in a stage and use something of another one.
pub(crate) async fn users(
    database: &PgPool,
    organization: &OrganizationId,
    stage: &StageName,
    app: &AppName,
) -> Result<Vec<String>> {
    let serving = serving(database, organization, stage).await?;
    let using = serving.into_iter().filter(|(_, interface)| interface.uses.contains_key(app.as_str()));
    Ok(using.map(|(name, _)| name).collect())
}

fn compare(app: &str, interface: &Interface, serving: &BTreeMap<String, Interface>) -> Vec<Inconsistency> {
    let mut found = Vec::new();
    let mut say = |section, other: &str, wrong: Vec<odeon_compiler::Conflict>| {
        found.extend(wrong.into_iter().map(|conflict| Inconsistency {
            section,
            app: other.to_owned(),
            kind: conflict.kind,
            element: conflict.element,
            detail: conflict.detail,
        }));
    };
    for (name, expected) in &interface.uses {
        match serving.get(name) {
            Some(producer) => say("Producers", name, conflicts(expected, &producer.public)),
            None => {
                let detail = format!("`{name}` is not deployed");
                let missing =
                    odeon_compiler::Conflict { kind: "MissingApplication", element: String::new(), detail };
                say("Producers", name, vec![missing]);
            }
        }
    }
    for (name, consumer) in serving {
        if let Some(expected) = consumer.uses.get(app) {
            say("Consumers", name, conflicts(expected, &interface.public));
        }
    }
    found
}

/// The interfaces of the revisions that serve in a stage, by the names of their apps.
async fn serving(
    database: &PgPool,
    organization: &OrganizationId,
    stage: &StageName,
) -> Result<BTreeMap<String, Interface>> {
    let rows = sqlx::query(
        "select a.name, r.interface from deployments.deployments d \
         join assets.assets a on a.key = d.asset_key \
         join assets.revisions r on r.asset_key = d.asset_key and r.revision = d.revision \
         where d.organization_id = $1 and d.stage = $2 and d.serving",
    )
    .bind(organization.as_str())
    .bind(stage.as_str())
    .fetch_all(database)
    .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get::<Json<Interface>, _>(1).0)).collect())
}

/// In words, for the messages of an operation.
pub(crate) fn in_words(inconsistency: &Inconsistency, stage: &StageName, app: &AppName) -> String {
    let Inconsistency { section, app: other, element, detail, .. } = inconsistency;
    match (*section, element.is_empty()) {
        ("Producers", true) => format!("`{app}` uses `{other}`, which is not deployed to {stage}"),
        ("Producers", false) => format!("`{app}` uses `{other}.{element}`, but in {stage} {detail}"),
        _ => format!("`{other}` in {stage} uses `{app}.{element}`, but {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(json: &str) -> Interface {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn both_directions_are_told() {
        let get = r#"{"service_actions": {"Get": {"inputs": {"Id": {"type": "Text"}}}}}"#;
        let desk = interface(&format!(
            r#"{{"public": {{}}, "uses": {{"Support": {get}, "Mail": {get}}}, "handlers": []}}"#
        ));
        let support = interface(r#"{"public": {}, "uses": {}, "handlers": []}"#);
        let serving =
            |name: &str, interface: &Interface| BTreeMap::from([(name.to_owned(), interface.clone())]);
        let told = |app: &str, interface: &Interface, serving| {
            let app: AppName = app.parse().unwrap();
            let words = |i: &Inconsistency| in_words(i, &"test".parse().unwrap(), &app);
            compare(app.as_str(), interface, &serving).iter().map(words).collect::<Vec<_>>()
        };
        assert_eq!(
            told("Desk", &desk, serving("Support", &support)),
            [
                "`Desk` uses `Mail`, which is not deployed to test",
                "`Desk` uses `Support.Get`, but in test there is no service action `Get`",
            ]
        );
        assert_eq!(
            told("Support", &support, serving("Desk", &desk)),
            ["`Desk` in test uses `Support.Get`, but there is no service action `Get`"]
        );
    }
}
