//! The Platform's REST services, as the commands use them.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::commands;
use crate::layout::{Layout, Status};
use crate::report;

/// How long an answer may take, in seconds; following logs and operations is made of many answers.
const ANSWER_S_MAX: u64 = 60;
/// Looks at an operation that may fail one after another, and the pause after each, in milliseconds.
const LOOKS_FAILED_MAX: u32 = 3;
const POLL_AGAIN_MS: u64 = 1_000;
/// Wait between two looks at an operation, in milliseconds.
const POLL_MS: u64 = 40;
/// How long an operation is waited for, in seconds: longer than one that meets the limit of a migration and that of a rollout.
const OPERATION_S_MAX: u64 = 420;

/// What a deployment may say.
#[derive(Default)]
pub(crate) struct How<'h> {
    pub(crate) revision: Option<u32>,
    pub(crate) egress_allow: Option<&'h [String]>,
    pub(crate) limits: Option<&'h Value>,
    pub(crate) accept_impact: bool,
}

/// A connection to a Platform.
pub(crate) struct Api {
    client: Client,
    url: String,
    token: String,
}

/// An app.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Asset {
    pub(crate) key: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) latest_revision: Option<u32>,
}

/// An app in a stage.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeployedAsset {
    pub(crate) asset_key: String,
    pub(crate) environment: String,
    pub(crate) revision: u32,
}

/// A stage.
#[derive(Debug, Deserialize)]
pub(crate) struct Environment {
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) urls: Vec<String>,
}

/// An operation, finished or not.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operation {
    pub(crate) asset_name: Option<String>,
    pub(crate) asset_kind: Option<String>,
    pub(crate) revision: Option<u32>,
    pub(crate) environment: String,
    pub(crate) status: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) steps: Vec<Step>,
}

/// A finished step.
#[derive(Debug, Deserialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) millis: f64,
}

/// Something an operation tells.
#[derive(Debug, Deserialize)]
pub(crate) struct Message {
    pub(crate) severity: String,
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) place: Option<Place>,
    pub(crate) hint: Option<String>,
}

/// A place in the project.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) end_column: u32,
}

/// A setting of an app in a stage.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) data_type: String,
    pub(crate) is_secret: bool,
    pub(crate) value: Option<String>,
    pub(crate) origin: String,
}

/// A timer of an app in a stage.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Timer {
    pub(crate) name: String,
    pub(crate) schedule: Option<String>,
    pub(crate) timeout_minutes: u32,
    pub(crate) is_active: bool,
    pub(crate) origin: String,
    pub(crate) next_run_at: Option<String>,
    pub(crate) running_on: Option<String>,
    pub(crate) last_run_at: Option<String>,
    pub(crate) last_failure: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    operation_key: Option<String>,
}

#[derive(Deserialize)]
struct Page<T> {
    results: Vec<T>,
    total: usize,
}

#[derive(Deserialize)]
struct Key {
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    detail: String,
    error_code: String,
    trace_id: String,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

impl Api {
    /// The Platform of `ODEON_URL` and `ODEON_TOKEN`, or the local one.
    pub(crate) fn connect(layout: &Layout) -> Result<Self> {
        match (std::env::var("ODEON_URL"), std::env::var("ODEON_TOKEN")) {
            (Ok(url), Ok(token)) => Self::new(&url, &token),
            // The local token is for the local Platform: it is not sent anywhere else.
            (Ok(url), Err(_)) => {
                bail!("ODEON_URL is {url}, but ODEON_TOKEN is not set; set it to a token of that Platform")
            }
            (Err(_), token) => match (layout.status()?, token) {
                (Some(status), Ok(token)) => Self::new(&status.platform, &token),
                (Some(status), Err(_)) => Self::local(layout, &status),
                (None, _) => bail!(
                    "no Platform is running here; start one with `odeon up`, or set ODEON_URL and ODEON_TOKEN"
                ),
            },
        }
    }

    /// The local Platform, with the token that `odeon up` made.
    pub(crate) fn local(layout: &Layout, status: &Status) -> Result<Self> {
        let file = layout.token_file();
        let token = std::fs::read_to_string(&file).with_context(|| {
            format!("read the token in {}; are you the user who ran `odeon up`?", file.display())
        })?;
        Self::new(&status.platform, &token)
    }

    fn new(url: &str, token: &str) -> Result<Self> {
        let client = Client::builder().no_proxy().build().context("start the HTTP client")?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), token: token.trim().to_owned() })
    }

    /// The app of that name.
    pub(crate) async fn asset(&self, name: &str) -> Result<Asset> {
        let request = self.request(Method::GET, "/api/asset-repository/v1/assets").query(&[("name", name)]);
        let page: Page<Asset> = read(request).await?;
        page.results
            .into_iter()
            .next()
            .with_context(|| format!("no app is called `{name}`; `odeon apps` lists them"))
    }
    /// All apps.
    pub(crate) async fn assets(&self) -> Result<Vec<Asset>> {
        self.all("/api/asset-repository/v1/assets").await
    }
    /// What is deployed where.
    pub(crate) async fn deployed(&self) -> Result<Vec<DeployedAsset>> {
        self.all("/api/portfolios/v2/deployed-assets").await
    }
    /// All pages of a list.
    async fn all<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>> {
        let mut found = Vec::new();
        loop {
            let request = self.request(Method::GET, path).query(&[("offset", found.len())]);
            let page: Page<T> = read(request).await?;
            let is_last = page.results.is_empty();
            found.extend(page.results);
            if is_last || found.len() >= page.total {
                return Ok(found);
            }
        }
    }
    /// The stages.
    pub(crate) async fn environments(&self) -> Result<Vec<Environment>> {
        read(self.request(Method::GET, "/api/portfolios/v2/environments")).await
    }

    /// Uploads a project or component and publishes it; gives the finished operation.
    pub(crate) async fn publish(
        &self,
        upload: Vec<u8>,
        name: Option<&str>,
        message: &str,
    ) -> Result<Operation> {
        let request = self.request(Method::POST, "/api/asset-repository/v1/uploads").body(upload);
        let uploaded: Key = read(request).await?;
        let body = json!({ "uploadKey": uploaded.key, "name": name, "message": message });
        self.operate("/api/deployments/v1/publish-operations", &body).await
    }

    /// Runs a deployment operation to its end.
    pub(crate) async fn deploy(
        &self,
        operation: &str,
        asset: &Asset,
        stage: &str,
        how: How<'_>,
    ) -> Result<Operation> {
        let How { revision, egress_allow, limits, accept_impact } = how;
        let body = json!({
            "operation": operation, "assetKey": asset.key, "revision": revision, "environment": stage,
            "egressAllow": egress_allow, "limits": limits, "acceptImpact": accept_impact,
        });
        self.operate("/api/deployments/v1/deployment-operations", &body).await
    }

    /// What others may use of a revision.
    pub(crate) async fn public_elements(&self, asset: &Asset, revision: u32) -> Result<Value> {
        let key = &asset.key;
        let path = format!("/api/dependency-management/v1/assets/{key}/revisions/{revision}/public-elements");
        read(self.request(Method::GET, &path)).await
    }

    /// The copy of a library's revision, to the letter.
    pub(crate) async fn library(&self, asset: &Asset, revision: u32) -> Result<String> {
        let key = &asset.key;
        let path = format!("/api/dependency-management/v1/assets/{key}/revisions/{revision}/library");
        let answer = checked(self.request(Method::GET, &path)).await?;
        answer.text().await.context("read the answer of the Platform")
    }

    /// The settings of an app in a stage.
    pub(crate) async fn settings(&self, asset: &Asset, stage: &str) -> Result<Vec<Setting>> {
        read(self.request(Method::GET, &configuration_path(asset, stage, "settings"))).await
    }
    /// Changes settings; gives the finished operation that applies them, where the app serves.
    pub(crate) async fn change_settings(
        &self,
        asset: &Asset,
        stage: &str,
        changes: &[(String, Option<String>)],
    ) -> Result<Option<Operation>> {
        let change = |(name, value): &(String, Option<String>)| json!({ "name": name, "value": value });
        let body = json!({ "settings": changes.iter().map(change).collect::<Vec<_>>() });
        let request = self.request(Method::PATCH, &configuration_path(asset, stage, "settings")).json(&body);
        self.applied(request).await
    }

    /// Changes what a stage sets, and waits until that is applied.
    async fn applied(&self, request: RequestBuilder) -> Result<Option<Operation>> {
        match read::<Changed>(request).await?.operation_key {
            Some(key) => self.follow("/api/deployments/v1/deployment-operations", &key).await.map(Some),
            None => Ok(None),
        }
    }

    /// The timers of an app in a stage.
    pub(crate) async fn timers(&self, asset: &Asset, stage: &str) -> Result<Vec<Timer>> {
        read(self.request(Method::GET, &configuration_path(asset, stage, "timers"))).await
    }
    /// Makes the next run of a timer be now.
    pub(crate) async fn run_timer(&self, asset: &Asset, stage: &str, timer: &str) -> Result<()> {
        let path = configuration_path(asset, stage, &format!("timers/{timer}/runs"));
        checked(self.request(Method::POST, &path)).await.map(drop)
    }

    /// Says how a timer runs in a stage; gives the finished operation that applies it, where the app serves.
    pub(crate) async fn change_timer(
        &self,
        asset: &Asset,
        stage: &str,
        timer: &str,
        change: &Value,
    ) -> Result<Option<Operation>> {
        let path = configuration_path(asset, stage, &format!("timers/{timer}"));
        self.applied(self.request(Method::PATCH, &path).json(change)).await
    }

    /// Adds an organization and gives its first token.
    pub(crate) async fn add_organization(&self, name: &str) -> Result<String> {
        let request = self.request(Method::POST, "/api/identity/v1/organizations");
        Ok(read::<Token>(request.json(&json!({ "name": name }))).await?.token)
    }
    /// Makes the first token of an organization anew.
    pub(crate) async fn renew_first_token(&self, organization: &str) -> Result<String> {
        let path = self.path(&["api", "identity", "v1", "organizations", organization, "first-token"])?;
        Ok(read::<Token>(self.request(Method::POST, &path)).await?.token)
    }
    /// Makes a token.
    pub(crate) async fn create_token(&self, name: &str, scopes: &[String], days: u32) -> Result<String> {
        let body = json!({ "name": name, "scopes": scopes, "days": days });
        let request = self.request(Method::POST, "/api/identity/v1/tokens").json(&body);
        Ok(read::<Token>(request).await?.token)
    }
    /// Revokes the tokens of a name.
    pub(crate) async fn revoke_token(&self, name: &str) -> Result<()> {
        let path = self.path(&["api", "identity", "v1", "tokens", name])?;
        checked(self.request(Method::DELETE, &path)).await.map(drop)
    }
    /// A path of names that may have any characters.
    fn path(&self, segments: &[&str]) -> Result<String> {
        let mut url = reqwest::Url::parse(&self.url).context("understand the Platform's URL")?;
        url.path_segments_mut().ok().context("the Platform's URL takes no path")?.extend(segments);
        Ok(url.path().to_owned())
    }

    /// Log lines as they come.
    pub(crate) async fn logs(&self, asset: &Asset, which: &commands::logs::Which) -> Result<Response> {
        let limit = which.lines.to_string();
        let mut query =
            vec![("assetKey", asset.key.as_str()), ("environment", &which.stage), ("limit", &limit)];
        if let Some(id) = &which.request {
            query.push(("requestId", id));
        }
        if which.follow {
            query.push(("follow", "true"));
        }
        let request = self
            .client
            .get(format!("{}/api/monitoring/v1/logs", self.url))
            .bearer_auth(&self.token)
            .query(&query);
        checked(request).await
    }

    async fn operate(&self, path: &str, body: &Value) -> Result<Operation> {
        let accepted: Key = read(self.request(Method::POST, path).json(body)).await?;
        self.follow(path, &accepted.key).await
    }

    /// Tells the steps of an operation until it ends.
    async fn follow(&self, path: &str, key: &str) -> Result<Operation> {
        let path = format!("{path}/{key}");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(OPERATION_S_MAX);
        let (mut told, mut failed) = (0, 0);
        loop {
            let operation: Operation = match read(self.request(Method::GET, &path)).await {
                Ok(operation) => operation,
                // The operation goes on whoever looks, so a Platform that has much to do is asked again.
                Err(_) if failed < LOOKS_FAILED_MAX => {
                    failed += 1;
                    tokio::time::sleep(Duration::from_millis(POLL_AGAIN_MS)).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            failed = 0;
            for step in operation.steps.iter().skip(told) {
                report::progress(format_args!("  {:<16} {:>8.1} ms", step.name, step.millis));
            }
            told = operation.steps.len();
            if operation.status != "Running" {
                return Ok(operation);
            }
            if tokio::time::Instant::now() > deadline {
                bail!("the operation {key} still runs after {OPERATION_S_MAX} s; look at {path}");
            }
            tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let timeout = Duration::from_secs(ANSWER_S_MAX);
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token).timeout(timeout)
    }
}

fn configuration_path(asset: &Asset, stage: &str, what: &str) -> String {
    format!("/api/asset-configurations/v1/environments/{stage}/applications/{}/{what}", asset.key)
}

async fn read<T: DeserializeOwned>(request: RequestBuilder) -> Result<T> {
    checked(request)
        .await?
        .json()
        .await
        .context("understand the Platform's answer; is it of another version?")
}

async fn checked(request: RequestBuilder) -> Result<Response> {
    let response = request.send().await.context("reach the Platform; is `odeon up` running?")?;
    if response.status().is_success() {
        return Ok(response);
    }
    let status = response.status();
    match response.json::<Problem>().await {
        Ok(problem) => bail!("{} ({}, trace id {})", problem.detail, problem.error_code, problem.trace_id),
        Err(_) => bail!("the Platform answered {status}"),
    }
}
