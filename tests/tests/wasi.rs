//! WASI means the same here as under `wasmtime serve`: the same components, asked the same, find the same.
//!
//! `tests/wasi/p2` and `tests/wasi/p3` try WASI 0.2 and 0.3, a case per path. Where Odeon gives an app less on purpose, the
//! case is in a list of exceptions with the reason. A case of the list that no longer differs fails the test, so that
//! the list can only shrink.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use odeon_tests::{Installation, eventually, guest};
use reqwest::{Client, Method};

/// What differs for an app of WASI 0.2, and why.
const EXCEPTIONS_P2: [(&str, &str); 7] = [
    ("environment", "there it has the number of the instance; an app of ours learns nothing of its host"),
    ("fields-of-70-kib", "64 KiB of headers are allowed, of 128 there"),
    ("outgoing-parts", "wasmtime 49 refuses an authority with a user at once, 48 when it is sent"),
    ("outgoing-refused", "the deployment allows no calls, and never one into a closed network"),
    ("response-half-and-a-trap", "half an answer breaks, and looks whole there"),
    ("stream-4097-at-once", "a trap before anything was sent is a 500, and an empty answer there"),
    ("stream-past-its-permit", "the same"),
];
/// What differs for an app of WASI 0.3, and why.
const EXCEPTIONS_P3: [(&str, &str); 2] = [
    ("environment", "there it has the number of the instance; an app of ours learns nothing of its host"),
    ("outgoing-refused", "the deployment allows no calls, and never one into a closed network"),
];
/// What comes of a guest that fails: an error of the server, or an answer that breaks, as far as it was sent.
const NOT_WHOLE: &str = "no whole answer";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wasi_is_as_under_wasmtime_serve() {
    let site = Installation::start().await;
    for (name, exceptions) in [("wasi_p2", &EXCEPTIONS_P2[..]), ("wasi_p3", &EXCEPTIONS_P3[..])] {
        let component = guest(name);
        let app = name.replace('_', "");
        site.succeed(&["publish", component.to_str().unwrap(), "--name", &app]);
        let ours = site.url("development", &format!("/{app}"));
        let peer = Peer::serve(component.to_str().unwrap(), &site.client).await;
        let theirs = format!("{}/{app}", peer.url);
        let cases = site.client.get(format!("{ours}/")).send().await.unwrap().text().await.unwrap();
        let cases: Vec<&str> = cases.lines().collect();
        assert!(cases.len() > 40, "{cases:?}");
        let mut differ = BTreeMap::new();
        for case in cases {
            for method in [Method::GET, Method::POST] {
                let (here, there) = (format!("{ours}/{case}"), format!("{theirs}/{case}"));
                let (here, there) =
                    (ask(&site.client, &method, &here).await, ask(&site.client, &method, &there).await);
                if here != there {
                    differ.insert(case, format!("{method} {case}\n  here: {here}\n  there: {there}"));
                }
            }
        }
        let expected: Vec<&str> = exceptions.iter().map(|(case, _)| *case).collect();
        let found: Vec<&str> = differ.keys().copied().collect();
        let told = differ.values().map(String::as_str).collect::<Vec<_>>().join("\n");
        assert_eq!(
            found, expected,
            "{name}: what differs from `wasmtime serve` is not what the list says:\n{told}"
        );
    }
}

/// What an answer comes to, without what a host may say in its own words.
async fn ask(client: &Client, method: &Method, url: &str) -> String {
    let mut request =
        client.request(method.clone(), url).header("x-one", "1").header("x-one", "2").header("x-two", "b");
    if *method == Method::POST {
        request = request.body("0123456789");
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(_) => return NOT_WHOLE.to_owned(), // the connection broke; a router would say 502
    };
    let status = answer.status();
    if status.is_server_error() && status.as_u16() != 599 {
        return NOT_WHOLE.to_owned();
    }
    // How a body is framed is HTTP's affair; a length is compared where the guest says one.
    let of_guest = if ["-a-length", "/response-too"].iter().any(|part| url.contains(part)) {
        "content-length"
    } else {
        "x-twice"
    };
    let headers = [of_guest, "content-type"].map(|name| {
        let values: Vec<_> =
            answer.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        format!("{name}: {values:?}")
    });
    let body = match answer.bytes().await {
        Ok(bytes) if bytes.len() < 5_000 => String::from_utf8_lossy(&bytes).into_owned(),
        Ok(bytes) => format!("{} bytes", bytes.len()),
        Err(_) => return NOT_WHOLE.to_owned(),
    };
    format!("{status} {} {body}", headers.join(", "))
}

/// `wasmtime serve` with what an app of Odeon is given: the command line, and outgoing HTTP.
struct Peer {
    child: Child,
    url: String,
}

impl Peer {
    async fn serve(component: &str, client: &Client) -> Self {
        let mut peer = Self::start(component);
        eventually("wasmtime serve answers", async || {
            if peer.child.try_wait().unwrap().is_some() {
                peer = Self::start(component); // somebody else had taken its port
            }
            client.get(&peer.url).send().await.ok()
        })
        .await;
        peer
    }

    fn start(component: &str) -> Self {
        let wasmtime = std::env::var("ODEON_WASMTIME").expect("`make test` says where wasmtime is");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(wasmtime);
        command.args(["serve", "-Scli", "--addr"]).arg(format!("127.0.0.1:{port}")).arg(component);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, url: format!("http://127.0.0.1:{port}") }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
