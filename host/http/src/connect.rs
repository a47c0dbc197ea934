//! Connections to hosts, of routers and of other hosts: TCP, and requests leave together with those of other connections
//! that are ready ([`LetOthers`]).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::turns::LetOthers;

/// A connection on which nothing comes, and nothing is under way, is asked after so long whether its host is there, in seconds; again and
/// again, as often. A host that lost its power says nothing, and whoever asked it would wait as for an app that thinks.
const KEEPALIVE_S: u64 = 2;
/// Questions without an answer after which it is given up. (`TCP_USER_TIMEOUT` would go before it, and end bodies that a host does not
/// read yet.)
const KEEPALIVE_QUESTIONS_MAX: u32 = 2;

/// Connects to hosts.
#[derive(Clone)]
pub struct Connector(HttpConnector);

impl Connector {
    /// One that gives up after so long.
    pub fn within(connect_max: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(connect_max));
        tcp.set_keepalive(Some(Duration::from_secs(KEEPALIVE_S)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(KEEPALIVE_S)));
        tcp.set_keepalive_retries(Some(KEEPALIVE_QUESTIONS_MAX));
        Self(tcp)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<LetOthers<TcpStream>>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, host: Uri) -> Self::Future {
        let connecting = self.0.call(host);
        Box::pin(async {
            let socket = connecting.await?.into_inner();
            // Giving up a request closes its connection, and whoever closes first keeps a port for a minute more, of which
            // there are 28,000: who goes on giving up would use up all. With a reset none is kept, and nothing is lost
            // that anybody waits for.
            let _ = socket.set_zero_linger();
            Ok(TokioIo::new(LetOthers::over(socket)))
        })
    }
}
