//! Sends one request: resolve, judge, dial, and TLS where it is asked for. A connection serves one request.
//!
//! Invariants: the name is resolved once, and what is dialled is an address that was judged, so that a name that points
//! elsewhere a moment later changes nothing; a guest may wait less than our bounds, never more.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::answer::{ANSWER_BYTES_MAX, Answer, too_large};
use super::{AppEgress, CLOSED_NETWORK, Sent, TOO_MANY, Transfer};
use crate::log::RequestLog;

/// How long a request waits for a place among the app's connections, in seconds.
const PLACE_S_MAX: u64 = 5;
/// How long resolving a name, connecting and TLS may take together, in seconds.
const CONNECT_S_MAX: u64 = 10;
/// How long the head of an answer may take, in seconds: no longer than a request of the app.
const FIRST_BYTE_S_MAX: u64 = 60;
/// How long a server may be silent in the middle of a body, in seconds; a model may ask for as many.
const BETWEEN_BYTES_S_MAX: u64 = 60;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;
/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: u32 = 64 << 10;

/// A connection with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Our bound, or less if the guest asks for less.
pub(super) fn at_most(asked: Option<Duration>, seconds_max: u64) -> Duration {
    let most = Duration::from_secs(seconds_max);
    asked.map_or(most, |asked| asked.min(most))
}

/// Sends a request that the app's allow-list permits.
pub(super) async fn send(
    app: &AppEgress,
    mut request: Request<WasiBody>,
    options: RequestOptions,
    log: &RequestLog,
) -> Sent {
    let target = Target::of(request.uri())?;
    let place = timeout(Duration::from_secs(PLACE_S_MAX), place(app)).await.unwrap_or_else(|_| {
        log.denied(TOO_MANY, || {
            format!("`{}` was not asked: the app has as many connections as it may", target.host)
        });
        Err(Error::ConnectionLimitReached)
    })?;
    let connect = timeout(at_most(options.connect_timeout, CONNECT_S_MAX), connect(app, &target, log));
    let stream = connect.await.map_err(|_| Error::ConnectionTimeout)??;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX as usize);
    let (mut sender, connection) =
        builder.handshake::<_, WasiBody>(TokioIo::new(stream)).await.map_err(|error| error_of(&error))?;

    // The name goes into a header; what is left of the URI is what a server (not a proxy) wants.
    let authority = HeaderValue::from_str(&target.authority).map_err(|_| Error::HttpRequestUriInvalid)?;
    request.headers_mut().insert(header::HOST, authority);
    let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let mut connection = Box::pin(connection);
    let head = async {
        let sent = timeout(at_most(options.first_byte_timeout, FIRST_BYTE_S_MAX), async {
            sender.send_request(request).await
        });
        sent.await.map_err(|_| Error::ConnectionReadTimeout)?.map_err(|error| error_of(&error))
    };
    let (response, ended) = drive(head, connection.as_mut()).await?;
    let between_bytes = at_most(options.between_bytes_timeout, BETWEEN_BYTES_S_MAX);
    let response = response?;
    announced(response.headers(), log)?;
    let response = response.map(|body| Answer::new(body, between_bytes, log.clone()).boxed_unsync());
    let transfer = async move {
        let _held_by_the_connection = place;
        if ended { Ok(()) } else { connection.await.map_err(|error| error_of(&error)) }
    };
    Ok((response, Box::new(transfer) as Transfer))
}

/// A place among the connections of the app, then of the host.
async fn place(app: &AppEgress) -> Result<impl Send + use<>, Error> {
    let (own, all) = (app.share.connections.clone(), app.gateway.connections.clone());
    let own = own.acquire_owned().await.map_err(|_| Error::ConnectionLimitReached)?;
    let all = all.acquire_owned().await.map_err(|_| Error::ConnectionLimitReached)?;
    Ok((own, all))
}

/// A body that says that it is too large is not begun.
fn announced(headers: &HeaderMap, log: &RequestLog) -> Result<(), Error> {
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match length {
        Some(bytes) if bytes > ANSWER_BYTES_MAX => Err(too_large(log)),
        Some(_) | None => Ok(()),
    }
}

/// Waits for `head` while the connection does its work; says whether the connection has ended.
async fn drive<T>(
    head: impl Future<Output = T>,
    mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
) -> Result<(T, bool), Error> {
    let mut head = pin!(head);
    let mut ended = false;
    poll_fn(|context| {
        if let Poll::Ready(head) = head.as_mut().poll(context) {
            return Poll::Ready(Ok((head, ended)));
        }
        if ended {
            return Poll::Pending;
        }
        match connection.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error_of(&error))),
            Poll::Ready(Ok(())) => {
                ended = true;
                head.as_mut().poll(context).map(|head| Ok((head, ended)))
            }
        }
    })
    .await
}

/// Whom a request is for.
struct Target {
    host: String,
    port: u16,
    authority: String,
    is_tls: bool,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, Error> {
        let authority = uri.authority().ok_or(Error::HttpRequestUriInvalid)?;
        Ok(Self {
            host: authority.host().to_ascii_lowercase(),
            port: port_of(uri, authority),
            authority: authority.as_str().to_owned(),
            is_tls: is_tls(uri),
        })
    }
}

fn is_tls(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTPS)
}

/// The port that a request is for, which most do not name.
pub(super) fn port_of(uri: &Uri, authority: &Authority) -> u16 {
    authority.port_u16().unwrap_or(if is_tls(uri) { 443 } else { 80 })
}

async fn connect(app: &AppEgress, target: &Target, log: &RequestLog) -> Result<Box<dyn Stream>, Error> {
    let found = app.gateway.resolve(&app.share, &target.host, target.port).await;
    let found = found.map_err(|error| {
        tracing::debug!(host = target.host, "not resolved: {error}");
        Error::DnsError { rcode: Some("the name has no address".into()), info_code: None }
    })?;
    let addresses = permitted(app, target, &found, log)?;
    let stream = dial(&addresses).await?;
    if !target.is_tls {
        return Ok(Box::new(stream));
    }
    let bare = target.host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(bare.to_owned()).map_err(|_| Error::TlsCertificateError)?;
    let stream = app.gateway.tls.connect(name, stream).await.map_err(|error| tls_error(&error))?;
    Ok(Box::new(stream))
}

/// The addresses that the app may be connected to. None at all is told.
fn permitted(
    app: &AppEgress,
    target: &Target,
    found: &[SocketAddr],
    log: &RequestLog,
) -> Result<Vec<SocketAddr>, Error> {
    let denies = |address: &SocketAddr| app.gateway.networks.denies(address.ip());
    let addresses: Vec<_> =
        found.iter().filter(|address| denies(address).is_none()).take(ADDRESSES_MAX).copied().collect();
    if !addresses.is_empty() {
        return Ok(addresses);
    }
    let Some((address, why)) = found.iter().find_map(|address| Some((address.ip(), denies(address)?))) else {
        return Err(Error::DnsError { rcode: Some("the name has no address".into()), info_code: None });
    };
    log.denied(CLOSED_NETWORK, || {
        let host = &target.host;
        format!(
            "`{host}` is at {address} ({why}), which apps may not reach; the operator opens networks with \
             `egress_networks` in the host's settings (`odeon up --egress-network`)"
        )
    });
    Err(Error::DestinationIpProhibited)
}

/// Connects to the first that answers. Each but the last has a part of the time only: one that says nothing leaves the others theirs.
async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
    let each = Duration::from_secs(CONNECT_S_MAX) / u32::try_from(ADDRESSES_MAX).unwrap_or(1);
    let mut failed = Error::DestinationUnavailable;
    for address in addresses {
        match timeout(each, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failed = connect_error(&error),
            Err(_) => failed = Error::ConnectionTimeout,
        }
    }
    Err(failed)
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the library adds kinds")]
fn connect_error(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Error::DestinationIpUnroutable,
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        _ => Error::DestinationUnavailable,
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the library adds errors")]
fn tls_error(error: &io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Error::TlsCertificateError
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            let (id, text) = (u8::from(*alert), format!("{alert:?}"));
            Error::TlsAlertReceived { alert_id: Some(id), alert_message: Some(text) }
        }
        _ => Error::TlsProtocolError,
    }
}

/// What the guest is told when HTTP itself fails.
pub(super) fn error_of(error: &hyper::Error) -> Error {
    tracing::debug!("outgoing request: {error:?}");
    if error.is_parse_too_large() {
        return Error::HttpResponseHeaderSectionSize(Some(HEAD_BYTES_MAX));
    }
    if error.is_parse() {
        return Error::HttpProtocolError;
    }
    if error.is_incomplete_message() || error.is_body_write_aborted() {
        return Error::HttpResponseIncomplete;
    }
    let is_io = error.source().is_some_and(<dyn std::error::Error>::is::<io::Error>);
    if is_io || error.is_closed() || error.is_canceled() {
        return Error::ConnectionTerminated;
    }
    Error::HttpProtocolError
}
