//! What all apps of a host share to reach other servers: the networks that are open, one TLS configuration, and
//! the counts that keep an app from taking more than its part of the host's connections and resolver threads.
//!
//! Invariant: the counts belong to an app, not to a revision of it: during a rollout both revisions draw from one share.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::AppEgress;
use super::networks::Networks;
use crate::per_app::PerApp;

/// Outgoing connections of one app on a host at once; each is a socket and up to 128 KiB of buffers.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Outgoing connections of all apps of a host at once: sockets are a resource of the process.
pub(super) const HOST_CONNECTIONS_MAX: usize = 2_048;
/// Requests of one app on a host that have no answer yet, and calls of other apps whose answer it has not read to its end: twice the
/// instances that it may have. Each holds a body's buffer, and may hold a connection to another host; more are refused at once.
pub(super) const PENDING_MAX: usize = 512;
/// Names that are resolved for one app at once. The system's resolver takes a thread each, which cannot be ended.
pub(super) const RESOLVING_MAX: usize = 8;
/// Names that are resolved on a host at once: less than the threads that files and databases need as well.
pub(super) const HOST_RESOLVING_MAX: usize = 128;

/// Resolves a name to all its addresses.
pub(super) type Resolve = dyn Fn(&str, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// The way out of a host.
pub struct Gateway {
    pub(super) networks: Networks,
    pub(super) tls: TlsConnector,
    pub(super) connections: Arc<Semaphore>,
    resolving: Arc<Semaphore>,
    shares: PerApp<Share>,
    /// In place of the system's resolver.
    pub(super) resolver: Option<Box<Resolve>>,
}

/// An app's part of what a host has.
pub(super) struct Share {
    pub(super) pending: Arc<Semaphore>,
    pub(super) connections: Arc<Semaphore>,
    resolving: Arc<Semaphore>,
}

impl Gateway {
    /// Opens the Internet and `networks`. Fails when there is no TLS.
    pub fn new(networks: Networks) -> Result<Arc<Self>, rustls::Error> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        Ok(Arc::new(Self::trusting(roots, networks, None)?))
    }

    pub(super) fn trusting(
        roots: RootCertStore,
        networks: Networks,
        resolver: Option<Box<Resolve>>,
    ) -> Result<Self, rustls::Error> {
        // Named, because a process with two providers linked in has no default.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        Ok(Self {
            networks,
            tls: TlsConnector::from(Arc::new(tls)),
            connections: Arc::new(Semaphore::new(HOST_CONNECTIONS_MAX)),
            resolving: Arc::new(Semaphore::new(HOST_RESOLVING_MAX)),
            shares: PerApp::default(),
            resolver,
        })
    }

    /// The way out for one app, to these authorities and no others.
    pub fn app(self: &Arc<Self>, app: &str, allowed: impl IntoIterator<Item = String>) -> AppEgress {
        let allowed = allowed.into_iter().map(|authority| authority.to_ascii_lowercase()).collect();
        AppEgress { gateway: self.clone(), share: self.share(app), allowed, apps: None, payer: None }
    }

    fn share(&self, app: &str) -> Arc<Share> {
        let places = |count| Arc::new(Semaphore::new(count));
        self.shares.of(app, || Share {
            pending: places(PENDING_MAX),
            connections: places(CONNECTIONS_MAX),
            resolving: places(RESOLVING_MAX),
        })
    }

    /// All addresses of a name, or the address that it is. Other spellings of addresses (`0x7f.1`, `2130706433`)
    /// are names like any other here: what the system makes of them is judged.
    pub(super) async fn resolve(&self, share: &Share, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let closed = |_| io::Error::other("the resolver was closed");
        let turn = share.resolving.clone().acquire_owned().await.map_err(closed)?;
        let host_turn = self.resolving.clone().acquire_owned().await.map_err(closed)?;
        if let Some(resolver) = &self.resolver {
            return resolver(host, port).await;
        }
        let name = (host.to_owned(), port);
        let resolved = tokio::task::spawn_blocking(move || {
            let _until_the_thread_is_free = (turn, host_turn);
            name.to_socket_addrs().map(Iterator::collect)
        });
        resolved.await.map_err(io::Error::other)?
    }
}
