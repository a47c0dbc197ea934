//! A request's way into an instance, and the way of its answer out, for both WASIs.

use std::pin::Pin;

use http::{Request, Response};
use tokio::sync::oneshot;
use wasmtime::component::{Accessor, GuestTaskId, Resource, TypedFuncCallConcurrent};
use wasmtime::{Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::handler::Proxy;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p3::bindings::Service;
use wasmtime_wasi_http::p3::bindings::http::types as p3;

use crate::app::Body;
use crate::error::shown;
use crate::state::{Capabilities, State};

/// What a guest of WASI 0.2 sets, once.
pub(crate) type Answer = Result<Response<Body>, ErrorCode>;

/// There is no answer: the guest said an error instead, or the request is none for guests.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoAnswer(pub(crate) String);

impl NoAnswer {
    fn because(error: impl std::fmt::Display) -> wasmtime::Error {
        Self(shown(&error)).into()
    }
}

/// Gives an instance its only request, and lets it work until it has nothing more to do for it.
pub(crate) async fn call<C: Capabilities>(
    store: &mut Store<State<C>>,
    proxy: &Proxy,
    request: Request<Body>,
    head: oneshot::Sender<Answer>,
) -> wasmtime::Result<()> {
    match proxy {
        Proxy::P2(proxy) => {
            let mut http = store.data_mut().http();
            let request = http.new_incoming_request(Scheme::Http, request).map_err(NoAnswer::because)?;
            let out = http.new_response_outparam(head).map_err(NoAnswer::because)?;
            proxy.wasi_http_incoming_handler().call_handle(&mut *store, request, out).await
        }
        Proxy::P3(service) => {
            // On the heap: a request of 0.2 is moved now and then, and need not be as large as one of 0.3.
            Box::pin(store.run_concurrent(async |accessor| alone(accessor, service, request, head).await))
                .await?
        }
    }
}

async fn alone<C: Capabilities>(
    accessor: &Accessor<State<C>>,
    service: &Service,
    request: Request<Body>,
    head: oneshot::Sender<Answer>,
) -> wasmtime::Result<()> {
    let begun = accessor.with(|mut access| {
        Begun::new(wasmtime::AsContextMut::as_context_mut(&mut access), service, request)
    })?;
    let response = begun.answer(accessor, service).await?;
    let _ = head.send(Ok(response)); // the caller may have gone
    std::future::poll_fn(|cx| accessor.poll_no_interesting_tasks(cx)).await;
    Ok(())
}

type Call<C> = TypedFuncCallConcurrent<
    State<C>,
    (Resource<p3::Request>,),
    (Result<Resource<p3::Response>, p3::ErrorCode>,),
>;

/// A call of a guest of WASI 0.3.
pub(crate) struct Begun<C: 'static> {
    call: Call<C>,
    /// What becomes of the request's body, for the guest to learn.
    received: Pin<Box<dyn Future<Output = Result<(), wasmtime_wasi_http::Error>> + Send>>,
}

impl<C: Capabilities> Begun<C> {
    pub(crate) fn new(
        mut store: StoreContextMut<'_, State<C>>,
        service: &Service,
        request: Request<Body>,
    ) -> wasmtime::Result<Self> {
        let hooks = store.data_mut().http().hooks;
        let (request, received) = p3::Request::from_http(hooks, request);
        let request = store.data_mut().table().push(request)?;
        let handle = service.wasi_http_handler().func_handle();
        Ok(Self { call: handle.start_call_concurrent(store, (request,))?, received: Box::pin(received) })
    }

    /// The guest's task, by which its calls of the host are known.
    pub(crate) fn task(&self) -> GuestTaskId {
        self.call.task()
    }

    /// Waits for the answer. Its body may still be on its way, and the guest may work on.
    pub(crate) async fn answer(
        self,
        accessor: &Accessor<State<C>>,
        service: &Service,
    ) -> wasmtime::Result<Response<Body>> {
        let handle = service.wasi_http_handler().func_handle();
        let (answer,) = handle.finish_call_concurrent(accessor, self.call).await?;
        let response = answer.map_err(|code| NoAnswer::because(format_args!("{code:?}")))?;
        accessor.with(|mut access| {
            let response = access.get().table().delete(response)?;
            response.into_http(&mut access, self.received)
        })
    }
}
