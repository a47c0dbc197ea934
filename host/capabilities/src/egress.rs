//! Outgoing HTTP: denied, unless the app's settings name the authority. Other apps of the stage have an authority of
//! their own, and are called through the host.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{RequestOptions, WasiBody, WasiHttpHooks, default_send_request};

/// Where one app may call.
#[derive(Clone, Default)]
pub struct Egress {
    /// `host` (any port) or `host:port`, lower case.
    allowed: Arc<[String]>,
    /// The authority of other apps, and who calls them.
    apps: Option<(&'static str, Arc<dyn CallApps>)>,
}

/// Calls other apps of the stage, for one request of one app.
pub trait CallApps: Send + Sync + 'static {
    /// Answers a request to another app.
    fn call(&self, request: http::Request<WasiBody>) -> BoxFuture<'static, Called>;
}

/// What another app answered, or why it was not asked.
pub type Called = Result<http::Response<WasiBody>, ErrorCode>;

impl Egress {
    /// Allows these authorities and no others.
    pub fn allow(authorities: impl IntoIterator<Item = String>) -> Self {
        let allowed = authorities.into_iter().map(|authority| authority.to_ascii_lowercase()).collect();
        Self { allowed, apps: None }
    }

    /// Lets requests to `authority` go to other apps.
    pub fn with_apps(self, authority: &'static str, apps: Arc<dyn CallApps>) -> Self {
        Self { apps: Some((authority, apps)), ..self }
    }

    fn permits(&self, uri: &http::Uri) -> bool {
        let Some(authority) = uri.authority() else { return false };
        let host = authority.host().to_ascii_lowercase();
        let with_port = authority.port_u16().map(|port| format!("{host}:{port}"));
        self.allowed.iter().any(|allowed| *allowed == host || Some(allowed) == with_port.as_ref())
    }
}

type Transfer = Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Transfer), wasmtime_wasi_http::Error>;

impl WasiHttpHooks for Egress {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _body: Transfer,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let authority = request.uri().authority();
        if let Some((own, apps)) = &self.apps
            && authority.is_some_and(|authority| authority.as_str() == *own)
        {
            let called = apps.call(request);
            let done = || Box::new(async { Ok(()) }) as Transfer;
            return Box::new(async move { Ok((called.await?, done())) });
        }
        if !self.permits(request.uri()) {
            tracing::debug!(to = ?request.uri().authority(), "outgoing request denied");
            return Box::new(async { Err(ErrorCode::HttpRequestDenied.into()) });
        }
        Box::new(async move {
            let (response, transfer) = default_send_request(request, options).await?;
            let body = |body| http_body_boxed(body);
            Ok((response.map(body), Box::new(transfer) as Transfer))
        })
    }
}

fn http_body_boxed<B>(body: B) -> WasiBody
where
    B: http_body::Body<Data = bytes::Bytes, Error = wasmtime_wasi_http::Error> + Send + 'static,
{
    http_body_util::BodyExt::boxed_unsync(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(allowed: &[&str], uri: &str, expect: bool) {
        let egress = Egress::allow(allowed.iter().map(|text| (*text).to_owned()));
        assert_eq!(egress.permits(&uri.parse().unwrap()), expect, "{allowed:?} {uri}");
    }

    #[test]
    fn only_named_authorities_are_reached() {
        check(&[], "https://example.com/", false);
        check(&["example.com"], "https://EXAMPLE.com:8443/x", true);
        check(&["example.com:443"], "https://example.com:8443/", false);
        check(&["example.com"], "https://example.com.evil.net/", false);
        check(&["example.com"], "https://example.com@evil.net/", false);
    }
}
