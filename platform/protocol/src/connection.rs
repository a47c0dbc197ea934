//! Connections to NATS: all processes of an installation notice in seconds that one is dead.
//!
//! A server that loses its power, or its network, says nothing. Whoever goes on sending into such a connection counts as away
//! for everybody else, and takes everybody else for away, while another server of the cluster is there.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::{Client, ConnectOptions};

use crate::subjects;

/// Time between two pings of the server, in seconds. The client gives up a connection when the third has no answer.
const PING_S: u64 = 2;

/// Why a process does not join its stage.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There are no credentials.
    #[error("read {0}")]
    Credentials(PathBuf, #[source] io::Error),
    /// The address is none, or the server refuses the credentials.
    #[error("connect to nats-server at {0}")]
    Server(String, #[source] async_nats::ConnectError),
}

/// Connects a host, router or migrator of this name to its stage, at once or as soon as a server is there.
pub async fn join(url: &str, credentials: &Path, name: &str) -> Result<Client, JoinError> {
    ConnectOptions::with_credentials_file(credentials)
        .await
        .map(watchful)
        .map_err(|error| JoinError::Credentials(credentials.to_owned(), error))?
        .name(name)
        .custom_inbox_prefix(subjects::inbox(name))
        .retry_on_initial_connect()
        .connect(url)
        .await
        .map_err(|error| JoinError::Server(url.to_owned(), error))
}

/// The options of every connection.
pub fn watchful(options: ConnectOptions) -> ConnectOptions {
    options.ping_interval(Duration::from_secs(PING_S))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use async_nats::connection::State;
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    /// How long a test waits, in seconds: less than with what the client does by default.
    const PATIENCE_S: u64 = 60;

    /// A server that answers the first ping, which ends the handshake, and nothing after it.
    async fn lose_power(listener: TcpListener) {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"INFO {\"server_id\":\"s\",\"version\":\"2.11.0\",\"max_payload\":1048576,\"headers\":true}\r\n").await.unwrap();
        let (reads, mut writes) = socket.split();
        let mut lines = BufReader::new(reads).lines();
        while lines.next_line().await.unwrap().unwrap() != "PING" {}
        writes.write_all(b"PONG\r\n").await.unwrap();
        while let Ok(Some(_)) = lines.next_line().await {}
    }

    #[tokio::test]
    async fn a_server_that_says_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let _server = tokio::spawn(lose_power(listener));
        let client = watchful(ConnectOptions::new()).connect(address).await.unwrap();
        let given_up = async {
            while client.connection_state() == State::Connected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(PATIENCE_S), given_up).await.expect("it is given up");
    }

    #[tokio::test]
    async fn who_has_no_credentials_is_told_which() {
        let error = join("nats://127.0.0.1:1", Path::new("/nowhere/host.creds"), "host").await.unwrap_err();
        assert_eq!(error.to_string(), "read /nowhere/host.creds");
    }
}
