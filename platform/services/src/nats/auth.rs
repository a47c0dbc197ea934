//! Who may say what on NATS: an operator issues accounts, an account (one per organization and stage)
//! issues users. Tokens are signed here and checked by the server alone; adding an organization or a
//! stage to a running server is one message to its resolver.
//!
//! The claims follow NATS' "JWT version 2" (nats-io/jwt, `v2`): `alg` is `ed25519-nkey`, times are Unix seconds.
//!
//! Invariant: a host, router or migrator may write only subjects and keys that carry its own name, and
//! listens only to its own inbox besides what all of a stage may read.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::BASE32_NOPAD;
use nkeys::KeyPair;
use odeon_protocol::{HostId, RouterId, events, subjects};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// The operator's token: names the account that may manage others.
pub(crate) fn operator_token(operator: &KeyPair, system_account: &KeyPair) -> Result<String> {
    let nats = json!({ "type": "operator", "version": 2, "system_account": system_account.public_key() });
    token(operator, &operator.public_key(), "odeon", nats)
}

/// The system account: sees no stage, manages accounts.
pub(crate) fn system_account_token(operator: &KeyPair, account: &KeyPair) -> Result<String> {
    account_token(operator, account, "SYS", json!(0))
}

/// The account of one stage of one organization.
pub(crate) fn stage_account_token(operator: &KeyPair, account: &KeyPair, name: &str) -> Result<String> {
    account_token(operator, account, name, json!(-1))
}

fn account_token(operator: &KeyPair, account: &KeyPair, name: &str, jetstream: Value) -> Result<String> {
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1,
        "leaf": -1, "mem_storage": jetstream, "disk_storage": jetstream, "streams": jetstream, "consumer": jetstream,
    });
    let nats = json!({ "type": "account", "version": 2, "limits": limits, "default_permissions": { "pub": {}, "sub": {} } });
    token(operator, &account.public_key(), name, nats)
}

/// What a user may publish to and listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Permissions {
    publish: Vec<String>,
    subscribe: Vec<String>,
}

impl Permissions {
    /// The Platform in a stage: everything in that account, and nothing in another.
    pub(crate) fn platform() -> Self {
        Self { publish: vec![">".into()], subscribe: vec![">".into()] }
    }

    /// A host: reads desired state and components, writes its own statuses, heartbeats and logs.
    pub(crate) fn host(host: &HostId) -> Self {
        let mut publish = vec![
            subjects::host_heartbeat(host),
            subjects::credentials(host),
            format!("logs.*.{host}"),
            format!("$KV.{}.host.{host}.>", subjects::OBSERVED_BUCKET),
            // Shared: the first write of a state decides which host runs a timer.
            format!("$KV.{}.>", subjects::TIMERS_BUCKET),
            // Events of the apps that it serves, and those that their handlers did not take.
            format!("{}.>", events::STREAM),
            "dead.>".to_owned(),
            format!("$JS.API.STREAM.INFO.{}", events::STREAM),
            format!("$JS.API.CONSUMER.INFO.{}.>", events::STREAM),
            format!("$JS.API.CONSUMER.MSG.NEXT.{}.>", events::STREAM),
            format!("$JS.ACK.{}.>", events::STREAM),
        ];
        publish.extend(read_stream(&format!("KV_{}", subjects::DESIRED_BUCKET)));
        publish.extend(read_stream(&format!("OBJ_{}", subjects::COMPONENTS_BUCKET)));
        publish.extend(read_stream(&format!("KV_{}", subjects::TIMERS_BUCKET)));
        publish.extend(read_stream(&format!("KV_{}", subjects::OBSERVED_BUCKET)));
        let subscribe =
            vec![format!("{}.>", subjects::inbox(host.as_str())), subjects::HOST_HEARTBEATS.to_owned()];
        Self { publish, subscribe }
    }

    /// A router: reads desired and observed state and heartbeats, writes its own statuses.
    pub(crate) fn router(router: &RouterId) -> Self {
        let mut publish = vec![
            subjects::router_heartbeat(router),
            format!("$KV.{}.router.{router}.>", subjects::OBSERVED_BUCKET),
        ];
        publish.extend(read_stream(&format!("KV_{}", subjects::DESIRED_BUCKET)));
        publish.extend(read_stream(&format!("KV_{}", subjects::OBSERVED_BUCKET)));
        let subscribe =
            vec![format!("{}.>", subjects::inbox(router.as_str())), subjects::HOST_HEARTBEATS.to_owned()];
        Self { publish, subscribe }
    }

    /// A migrator: answers migrations and credentials requests, reads desired state.
    pub(crate) fn migrator() -> Self {
        let mut publish = read_stream(&format!("KV_{}", subjects::DESIRED_BUCKET));
        publish.push("_INBOX.>".into()); // replies to hosts and to the Platform
        let subscribe = vec![
            format!("{}.>", subjects::inbox("migrator")),
            subjects::MIGRATE.to_owned(),
            subjects::CREDENTIALS.to_owned(),
        ];
        Self { publish, subscribe }
    }
}

/// What a JetStream client publishes to read one stream and nothing else.
fn read_stream(stream: &str) -> Vec<String> {
    let api = "$JS.API";
    vec![
        format!("{api}.STREAM.INFO.{stream}"),
        format!("{api}.STREAM.MSG.GET.{stream}"),
        format!("{api}.DIRECT.GET.{stream}"),
        format!("{api}.DIRECT.GET.{stream}.>"),
        format!("{api}.CONSUMER.CREATE.{stream}"),
        format!("{api}.CONSUMER.CREATE.{stream}.>"),
        format!("{api}.CONSUMER.INFO.{stream}.>"),
        format!("{api}.CONSUMER.DELETE.{stream}.>"),
        format!("{api}.CONSUMER.MSG.NEXT.{stream}.>"),
        format!("$JS.ACK.{stream}.>"),
        format!("$JS.FC.{stream}.>"),
    ]
}

/// A credentials file for a new user of `account`, as nats clients read it.
pub(crate) fn user_credentials(account: &KeyPair, name: &str, permissions: &Permissions) -> Result<String> {
    let user = KeyPair::new_user();
    let nats = json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "pub": { "allow": permissions.publish }, "sub": { "allow": permissions.subscribe },
    });
    let token = token(account, &user.public_key(), name, nats)?;
    let seed = user.seed().context("encode a user seed")?;
    Ok(format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    ))
}

fn token(issuer: &KeyPair, subject: &str, name: &str, nats: Value) -> Result<String> {
    let issued_at = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("the clock of this machine is before 1970")?
        .as_secs();
    let mut claims =
        json!({ "iat": issued_at, "iss": issuer.public_key(), "name": name, "sub": subject, "nats": nats });
    let id = BASE32_NOPAD.encode(&Sha256::digest(claims.to_string().as_bytes()));
    claims["jti"] = json!(id);
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let body = URL_SAFE_NO_PAD.encode(claims.to_string());
    let signed = format!("{header}.{body}");
    let signature = issuer.sign(signed.as_bytes()).context("sign a NATS token")?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_writes_what_carries_its_name_and_what_the_stage_shares() {
        let permissions = Permissions::host(&"dev-1".parse().unwrap());
        for subject in &permissions.publish {
            let reads = subject.starts_with("$JS.");
            let shared = ["$KV.timers.>", "events.>", "dead.>"].contains(&subject.as_str());
            assert!(reads || shared || subject.contains("dev-1"), "{subject}");
        }
        assert_eq!(permissions.subscribe, ["_INBOX.dev-1.>", "heartbeat.host.*"]);
    }
}
