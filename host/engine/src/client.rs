//! `wasi:http/client` of WASI 0.3, in the name of the request that calls: an instance may have several. What
//! comes back counts as its memory.

use wasmtime::AsContextMut as _;
use wasmtime::component::{Accessor, HasData, Linker, Resource};
use wasmtime_wasi::TrappableError;
use wasmtime_wasi_http::p3::bindings::http::client::{self, HostWithStore};
use wasmtime_wasi_http::p3::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::p3::{Request, Response};
use wasmtime_wasi_http::{WasiHttp, WasiHttpCtxView, WasiHttpView as _};

use crate::state::{Capabilities, State};
use crate::together;

/// Replaces the client of WASI, in a linker that allows shadowing.
pub(crate) fn add_to_linker<C: Capabilities>(linker: &mut Linker<State<C>>) -> wasmtime::Result<()> {
    client::add_to_linker::<_, Client>(linker, State::http)
}

/// Marks the view of WASI's HTTP as what this client borrows.
struct Client;

impl HasData for Client {
    type Data<'a> = WasiHttpCtxView<'a>;
}

impl<C: Capabilities> HostWithStore<State<C>> for Client {
    async fn send(
        store: &Accessor<State<C>, Self>,
        request: Resource<Request>,
    ) -> Result<Resource<Response>, TrappableError<ErrorCode>> {
        // What comes next asks the hooks at once, before anybody else runs.
        let turned = store.with(|mut access| together::turn_to_caller(&mut access.as_context_mut()));
        turned.map_err(TrappableError::trap)?;
        let response = WasiHttp::send(&store.with_getter::<WasiHttp>(State::http), request).await?;
        let kept = store.with(|mut access| access.as_context_mut().data_mut().keep_resource(&response));
        kept.map_err(TrappableError::trap)?;
        Ok(response)
    }
}
