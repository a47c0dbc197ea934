//! A server as hyper makes it, without any limit of ours, and with hyper's own opened where it has a setting for them: what
//! an attack does where nobody defends.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

/// More than any test sends, and what hyper keeps in memory for each connection.
const HEADERS_MAX: usize = 1_000;
const HEAD_BYTES_MAX: usize = 16 << 20;

/// Starts one; its address. It reads each request to its end and answers with so many bytes.
pub async fn server(answer_bytes: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let answer = |request: Request<Incoming>| async move {
                    let _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(hyper::Response::new(Full::new(Bytes::from(vec![
                        b'x';
                        answer_bytes
                    ]))))
                };
                let mut builder = auto::Builder::new(TokioExecutor::new());
                builder.http1().max_headers(HEADERS_MAX).max_buf_size(HEAD_BYTES_MAX);
                builder
                    .http2()
                    .max_concurrent_streams(None)
                    .max_header_list_size(u32::MAX)
                    .max_pending_accept_reset_streams(usize::MAX)
                    .max_local_error_reset_streams(None);
                let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            });
        }
    });
    address
}

/// Starts a server that says these bytes to whoever connects; its address.
pub async fn bytes(said: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(said.as_bytes()).await;
        }
    });
    address
}
