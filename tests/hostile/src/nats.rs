//! NATS by the credentials of an installation's own processes, and by what only the operator can make: a user of a
//! stage's account that may do everything, for the control of a test.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Subscriber};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use nkeys::KeyPair;
use odeon_tests::{Installation, PATIENCE, eventually};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Wait for a message that may not come, before it is sent again.
const PAUSE: Duration = Duration::from_millis(200);
/// The organization that an installation begins with.
pub const FIRST: &str = "demo";

/// The credentials file of a process of a stage.
pub fn credentials(site: &Installation, stage: &str, process: &str) -> String {
    let folder = site.data().join("run/stages").join(stage);
    let mut files = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let begin = format!("{process}.");
    let file = files.find(|file| {
        let name = file.file_name().unwrap().to_str().unwrap();
        name.starts_with(&begin) && name.ends_with(".creds")
    });
    fs::read_to_string(file.unwrap_or_else(|| panic!("{process} in {}", folder.display()))).unwrap()
}

/// The key that issues the users of a stage.
pub fn account(site: &Installation, organization: &str, stage: &str) -> KeyPair {
    let keys = site.data().join("run/keys");
    let ids: BTreeMap<String, String> =
        serde_json::from_slice(&fs::read(keys.join("organizations.json")).unwrap()).unwrap();
    let id = ids.get(organization).unwrap_or_else(|| panic!("{organization} in {ids:?}"));
    key(&fs::read_to_string(keys.join(format!("account-{id}-{stage}.nk"))).unwrap())
}

/// A key from its seed.
pub fn key(seed: &str) -> KeyPair {
    KeyPair::from_seed(seed.trim()).unwrap()
}

/// A user that may do everything in an account, as the holder of `issuer` would make one.
pub fn user_of(issuer: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let all = json!({ "allow": [">"] });
    let nats = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": all, "sub": all });
    let claims = json!({
        "iat": 1_700_000_000, "iss": issuer.public_key(), "jti": "test", "name": "test", "sub": user.public_key(), "nats": nats,
    });
    let signed = format!("{}.{}", base64(&json!({ "typ": "JWT", "alg": "ed25519-nkey" })), base64(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    file(&format!("{signed}.{signature}"), &user.seed().unwrap())
}

/// The same credentials with other claims, and the signature that they had.
pub fn changed(credentials: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut lines = credentials.lines();
    let token = lines.find(|line| line.starts_with("ey")).unwrap();
    let seed = lines.find(|line| line.starts_with("SU")).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
    change(&mut claims);
    file(&format!("{}.{}.{}", parts[0], base64(&claims), parts[2]), seed)
}

fn base64(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn file(token: &str, seed: &str) -> String {
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

/// Connects, with replies at the inbox of that name.
pub async fn connect(
    site: &Installation,
    credentials: &str,
    inbox: &str,
) -> Result<Client, async_nats::ConnectError> {
    let address = site.process("nats-server")["address"].as_str().unwrap().to_owned();
    let options = ConnectOptions::with_credentials(credentials).unwrap();
    options.custom_inbox_prefix(format!("_INBOX.{inbox}")).connect(address).await
}

/// Waits until the server knows all that `client` has subscribed to: what it says to the last one comes. `inbox` is the client's.
pub async fn settled(client: &Client, operator: &Client, inbox: &str) {
    let subject = format!("_INBOX.{inbox}.settled");
    let mut last = client.subscribe(subject.clone()).await.unwrap();
    eventually("the server knows what is listened to", async || {
        operator.publish(subject.clone(), "settled".into()).await.unwrap();
        timeout(PAUSE, last.next()).await.ok().flatten().map(drop)
    })
    .await;
}

/// Reads a subscription until a message is `wanted`, by its subject and its text.
pub async fn until(subscriber: &mut Subscriber, what: &str, mut wanted: impl FnMut(&str, &str) -> bool) {
    let reading = async {
        while let Some(message) = subscriber.next().await {
            if wanted(&message.subject, &String::from_utf8_lossy(&message.payload)) {
                return true;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, reading).await.unwrap_or(false), "{what} did not come within {PATIENCE:?}");
}
