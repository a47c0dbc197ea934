//! Who may see and do what: organizations, tokens, the audit trail, and secrets that stay secret.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Stdio};

use odeon_tests::{Installation, eventually, odeon};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const ASSETS: &str = "/api/asset-repository/v1/assets";
const TOKENS: &str = "/api/identity/v1/tokens";

#[tokio::test]
async fn an_organization_keeps_to_itself() {
    let site = Installation::start().await;
    let follower = a_follower_whose_token_is_revoked(&site).await;
    a_second_organization_sees_nothing_of_the_first(&site).await;
    a_token_allows_what_its_scopes_say_until_it_ends(&site).await;
    every_change_is_written_down(&site).await;
    no_secret_is_told(&site).await;
    what_cannot_be_read_is_a_problem_too(&site).await;
    long_lists_are_whole(&site).await;
    who_hangs_up_leaves_nothing_half_done(&site).await;
    an_organization_is_there_with_its_stages_or_not_at_all(&site);
    it_reads_no_longer(follower).await;
}

async fn what_cannot_be_read_is_a_problem_too(site: &Installation) {
    let token = site.token();
    for (method, path, body, code) in [
        (Method::GET, format!("{ASSETS}?offset=few"), None, "OS-PLT-40002"),
        (Method::GET, "/api/deployments/v1/publish-operations/first".to_owned(), None, "OS-PLT-40002"),
        (Method::POST, TOKENS.to_owned(), Some(json!({ "called": "x" })), "OS-PLT-42201"),
        (Method::POST, TOKENS.to_owned(), None, "OS-PLT-41501"),
    ] {
        let (status, problem) = site.call(&token, method, &path, body).await;
        assert!(status.is_client_error() && problem["traceId"].is_string(), "{path}: {status} {problem}");
        assert_eq!(problem["errorCode"], code, "{path}: {problem}");
    }
}

async fn long_lists_are_whole(site: &Installation) {
    let more = "insert into assets.assets (key, organization_id, name, kind) \
                select gen_random_uuid()::text, organization_id, 'More' || n, 'oml' \
                from assets.assets, generate_series(1, 150) n where name = 'Expenses'";
    site.database("platform").await.batch_execute(more).await.unwrap();
    let apps: Value = serde_json::from_str(&site.succeed(&["apps", "--json"])).unwrap();
    let names = apps.as_array().unwrap().iter().map(|app| app["name"].as_str().unwrap());
    assert_eq!(names.filter(|name| name.starts_with("More")).count(), 150);
    let token = site.token();
    let total = async |path: &str, offset: u32| {
        let (status, page) = site.call(&token, Method::GET, &format!("{path}?offset={offset}"), None).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        page["total"].as_i64().unwrap()
    };
    let revisions = format!("{ASSETS}/{}/revisions", site.key_of("Expenses"));
    for path in [
        ASSETS,
        &revisions,
        "/api/portfolios/v2/deployed-assets",
        "/api/deployments/v1/publish-operations",
        "/api/identity/v1/audit-events",
    ] {
        let all = total(path, 0).await;
        assert!(all > 0);
        assert_eq!(total(path, 1000).await, all, "{path} says how many there are, also behind the last one");
    }
}

async fn who_hangs_up_leaves_nothing_half_done(site: &Installation) {
    let mut database = site.database("platform").await;
    let watcher = site.database("platform").await;
    let held = database.transaction().await.unwrap();
    held.batch_execute("lock table identity.organizations").await.unwrap();
    let request = site.client.post(site.platform("/api/identity/v1/organizations"));
    let request = request.bearer_auth(site.token().trim()).json(&json!({ "name": "hasty" }));
    let adding = tokio::spawn(request.send());
    let waits = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like '%identity.organizations%'";
    eventually("the Platform is at it", async || watcher.query_opt(waits, &[]).await.unwrap()).await;
    adding.abort();
    assert!(adding.await.unwrap_err().is_cancelled());
    held.rollback().await.unwrap();
    let added = "select 1 from identity.organizations o join deployments.stages s on s.organization_id = o.id \
                 where o.name = 'hasty' having count(*) = 3";
    eventually("it is added", async || watcher.query_opt(added, &[]).await.unwrap()).await;
}

async fn a_follower_whose_token_is_revoked(site: &Installation) -> Child {
    let token = site.succeed(&["token", "create", "follower", "--scope", "read"]);
    let mut follow = odeon(site.data());
    follow
        .args(["logs", "Expenses", "--follow"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut follow =
        follow.env("ODEON_URL", site.platform("/")).env("ODEON_TOKEN", token.trim()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.as_mut().unwrap()).lines();
    let url = site.url("development", "/Expenses/rest/Expenses/Approve/0");
    site.client.post(url).send().await.unwrap();
    assert!(lines.next().unwrap().is_ok(), "it reads");
    site.succeed(&["token", "revoke", "follower"]);
    follow
}

async fn it_reads_no_longer(mut follow: Child) {
    let ended = eventually("its answer ends", async || follow.try_wait().unwrap()).await;
    let mut said = String::new();
    follow.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!ended.success() && said.contains("the log broke off; ask again"), "{said}");
}

/// Streams are promised what they may keep, and nats-server promises no more than it was told to have.
fn an_organization_is_there_with_its_stages_or_not_at_all(site: &Installation) {
    const MORE_THAN_FIT: usize = 20;
    let names: Vec<_> = (0..MORE_THAN_FIT).map(|number| format!("other-{number}")).collect();
    let added = names.iter().take_while(|name| site.run(&["organization", "add", name]).status.success());
    let added = added.count();
    assert!((10..MORE_THAN_FIT).contains(&added), "{added}");
    for _ in 0..2 {
        let said = site.fail(&["organization", "add", &names[added]]);
        assert!(said.contains("OS-IDCO-40902") && said.contains("max_file_store"), "{said}");
    }
}

async fn a_second_organization_sees_nothing_of_the_first(site: &Installation) {
    let said = site.fail(&["organization", "add", "Not A Name"]);
    assert!(said.contains("`Not A Name` is no name of an organization"), "{said}");
    let token = site.succeed(&["organization", "add", "acme"]).trim().to_owned();
    let said = site.fail(&["organization", "add", "acme"]);
    assert!(said.contains("an organization named `acme` exists"), "{said}");

    let (status, assets) = site.call(&token, Method::GET, ASSETS, None).await;
    assert_eq!((status, &assets["total"]), (StatusCode::OK, &json!(0)), "{assets}");
    let (_, stages) = site.call(&token, Method::GET, "/api/portfolios/v2/environments", None).await;
    assert_eq!(stages.as_array().map(Vec::len), Some(3), "it has stages of its own: {stages}");

    // The command line works for whoever has a URL and a token, and keeps the local token to itself.
    let mut apps = odeon(site.data());
    apps.arg("apps").env("ODEON_URL", site.platform("/"));
    let said = String::from_utf8(apps.output().unwrap().stderr).unwrap();
    assert!(said.contains("ODEON_TOKEN is not set; set it to a token of that Platform"), "{said}");
    let theirs = apps.env("ODEON_TOKEN", &token).args(["--json"]).output().unwrap();
    assert_eq!(String::from_utf8(theirs.stdout).unwrap().trim(), "[]");

    let hello = odeon_tests::hello();
    let mut publish = odeon(site.data());
    publish.args(["publish", hello.to_str().unwrap(), "--name", "Hello"]);
    let publish = publish.env("ODEON_URL", site.platform("/")).env("ODEON_TOKEN", &token).output().unwrap();
    let said = String::from_utf8(publish.stderr).unwrap();
    assert!(said.contains("error[OS-DPL-50302]: stage development has no live host"), "{said}");

    // Whatever belongs to the first organization does not exist for the second.
    let owner = site.token();
    let key = site.key_of("Expenses");
    let publishes = "/api/deployments/v1/publish-operations";
    let (_, operations) = site.call(&owner, Method::GET, publishes, None).await;
    let operation = operations["results"][0]["key"].as_str().unwrap();
    let build = operations["results"][0]["buildKey"].as_str().unwrap();
    for path in [
        format!("{ASSETS}/{key}"),
        format!("{ASSETS}/{key}/revisions"),
        format!("{ASSETS}/{key}/revisions/1"),
        format!("/api/builds/v1/build-operations/{build}"),
        format!("{publishes}/{operation}"),
        format!("/api/monitoring/v1/logs?assetKey={key}&environment=development"),
    ] {
        assert_eq!(site.call(&owner, Method::GET, &path, None).await.0, StatusCode::OK, "{path}");
        let (status, problem) = site.call(&token, Method::GET, &path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {problem}");
        assert!(problem["traceId"].is_string() && problem["errorCode"].is_string(), "{problem}");
    }
    let deploy = json!({ "operation": "Undeploy", "assetKey": key, "environment": "development" });
    let path = "/api/deployments/v1/deployment-operations";
    let (status, problem) = site.call(&token, Method::POST, path, Some(deploy)).await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{problem}");
    let new = json!({ "name": "other" });
    let (status, problem) =
        site.call(&token, Method::POST, "/api/identity/v1/organizations", Some(new)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    let (status, _) = site.get(&site.platform(ASSETS)).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    a_lost_token_is_made_anew(site, &token).await;
}

async fn a_lost_token_is_made_anew(site: &Installation, lost: &str) {
    let path = "/api/identity/v1/organizations/acme/first-token";
    let (status, problem) = site.call(lost, Method::POST, path, None).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    let said = site.fail(&["organization", "renew-token", "nobody"]);
    assert!(said.contains("no organization is named `nobody`"), "{said}");
    let token = site.succeed(&["organization", "renew-token", "acme"]).trim().to_owned();
    assert_eq!(site.call(lost, Method::GET, ASSETS, None).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(site.call(&token, Method::GET, ASSETS, None).await.0, StatusCode::OK);
    let (_, events) = site.call(&token, Method::GET, "/api/identity/v1/audit-events", None).await;
    assert_eq!(events["results"][0]["action"], "token.renew", "{events}");
}

async fn a_token_allows_what_its_scopes_say_until_it_ends(site: &Installation) {
    let reader = site.succeed(&["token", "create", "reader", "--scope", "read", "--days", "1"]);
    let reader = reader.trim();
    assert_eq!(site.call(reader, Method::GET, ASSETS, None).await.0, StatusCode::OK);
    let said = site.fail(&["token", "create", "reader", "--scope", "read"]);
    assert!(said.contains("a valid token named `reader` exists"), "{said}");
    let more = json!({ "name": "more", "scopes": ["admin"], "days": 1 });
    for (method, path, body) in [
        (Method::POST, "/api/asset-repository/v1/uploads", json!({ "files": {} })),
        (Method::POST, TOKENS, more),
        (Method::GET, "/api/identity/v1/audit-events", Value::Null),
    ] {
        let (status, problem) = site.call(reader, method, path, Some(body)).await;
        assert_eq!(
            (status, &problem["errorCode"]),
            (StatusCode::FORBIDDEN, &json!("OS-IDCO-40301")),
            "{path}"
        );
    }
    // Nobody gives what they do not have.
    let admin = site.succeed(&["token", "create", "admin", "--scope", "admin"]);
    let operator = json!({ "name": "grab", "scopes": ["operator"], "days": 1 });
    let (status, problem) = site.call(admin.trim(), Method::POST, TOKENS, Some(operator)).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{problem}");
    let said = site.fail(&["token", "create", "wrong", "--scope", "everything"]);
    assert!(said.contains("`everything` is not a scope; use read, deploy, admin or operator"), "{said}");
    let said = site.fail(&["token", "create", "long", "--scope", "read", "--days", "1000"]);
    assert!(said.contains("days 1 to 366"), "{said}");

    site.succeed(&["token", "revoke", "reader"]);
    assert_eq!(site.call(reader, Method::GET, ASSETS, None).await.0, StatusCode::UNAUTHORIZED);
    assert!(site.fail(&["token", "revoke", "reader"]).contains("a valid token named `reader`"));
    // Time passes in the database: a test cannot wait for a day.
    let database = site.database("platform").await;
    let expire = "update identity.tokens set expires_at = now() - interval '1 second' where name = 'admin'";
    assert_eq!(database.execute(expire, &[]).await.unwrap(), 1);
    let audit = "/api/identity/v1/audit-events";
    assert_eq!(site.call(admin.trim(), Method::GET, audit, None).await.0, StatusCode::UNAUTHORIZED);
    // Only hashes are stored.
    let owner = site.token();
    let rows = database.query("select t::text from identity.tokens t", &[]).await.unwrap();
    assert!(rows.iter().all(|row| !row.get::<_, String>(0).contains(owner.trim())));
}

async fn every_change_is_written_down(site: &Installation) {
    site.succeed(&["deploy", "Expenses", "--revision", "1", "--to", "test"]);
    site.succeed(&["undeploy", "Expenses", "--stage", "test"]);
    let path = "/api/identity/v1/audit-events?limit=100";
    let (_, audit) = site.call(&site.token(), Method::GET, path, None).await;
    let events = audit["results"].as_array().unwrap();
    for (action, subject) in [
        ("revision.create", "Expenses"),
        ("deployment.publish", "Expenses"),
        ("deployment.deploy", "Expenses"),
        ("deployment.undeploy", "Expenses"),
        ("token.create", "reader"),
        ("token.revoke", "reader"),
        ("organization.create", "acme"),
    ] {
        let event = events.iter().find(|event| event["action"] == action && event["subject"] == subject);
        let event = event.unwrap_or_else(|| panic!("{action} of {subject} in {audit}"));
        assert!(event["at"].is_string(), "{event}");
        assert_eq!(event["actor"], "token:owner", "{event}");
    }
    let database = site.database("platform").await;
    for change in
        ["update audit.events set actor = 'nobody'", "delete from audit.events", "truncate audit.events"]
    {
        let error = database.batch_execute(change).await.expect_err(change);
        assert!(error.as_db_error().unwrap().message().contains("append-only"), "{change}: {error}");
    }
}

/// Every secret of the installation is a canary: none may be found where people and programs look.
async fn no_secret_is_told(site: &Installation) {
    let mut secrets = vec![("the owner's token".to_owned(), site.token().trim().to_owned())];
    for folder in ["run/secrets", "run/keys"] {
        for file in files_below(&site.data().join(folder)) {
            let is_public = ["trusted.json", "organizations.json"].iter().any(|name| file.ends_with(name));
            let text = fs::read_to_string(&file).unwrap().trim().to_owned();
            if !is_public && !text.is_empty() {
                secrets.push((file.display().to_string(), text));
            }
        }
    }
    for host in files_below(&site.data().join("run/stages")) {
        let is_login = host.parent().is_some_and(|folder| folder.ends_with("logins"));
        if is_login {
            let Ok(login) = fs::read(&host) else { continue }; // of an app that has left
            let login: Value = serde_json::from_slice(&login).unwrap();
            secrets.push((host.display().to_string(), login["password"].as_str().unwrap().to_owned()));
        }
    }
    assert!(secrets.len() > 8, "{} secrets found", secrets.len());

    let canary = "odn_canary-in-a-header";
    let (_, refused) = site.call(canary, Method::GET, ASSETS, None).await;
    let broken = odeon(site.data()).env("ODEON_TOKEN", canary).arg("apps").output().unwrap();
    secrets.push(("a token that is not valid".into(), canary.into()));
    let said = [
        ("status", site.succeed(&["status", "--json"])),
        ("apps", site.succeed(&["apps", "--json"])),
        ("logs", site.succeed(&["logs", "Expenses", "--json"])),
        ("a refusal", refused.to_string()),
        ("the error of a command", String::from_utf8(broken.stderr).unwrap()),
        ("the output of `odeon up`", fs::read_to_string(site.folder.join("up.log")).unwrap()),
    ];
    let logs = files_below(&site.data().join("run/logs"));
    assert!(logs.len() > 10, "{} logs", logs.len());
    let logs = logs.iter().map(|file| (file.to_str().unwrap(), fs::read_to_string(file).unwrap()));
    for (place, text) in said.into_iter().chain(logs) {
        for (what, secret) in &secrets {
            assert!(!text.contains(secret.as_str()), "{place} tells {what}");
        }
    }
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
