//! What the host keeps on its heap for the messages of a guest: `wasi:http` takes texts (fields, methods, paths, authorities) and
//! pieces of bodies, and keeps them in resources, which a guest may make by the hundred and never use. So it does with heads of answers.
//!
//! They count for the memory of the instance, and of its app. Most guests have few: what is added is summed up, and taken from the
//! budget a step at a time. It is measured what is really there before somebody is refused, and when much may have been dropped.
//!
//! What must stay true: of an instance, less than two steps are not counted; whoever dropped what it made is not refused for it.

use std::any::Any;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime_wasi_http::p2::types::{
    HostFutureIncomingResponse, HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::{FieldMap, WasiHttpHooks, WasiHttpView as _, p2, p3};

use crate::state::{Capabilities, Denied, HEADER_BYTES_MAX, State};

/// What is taken from the budget at a time, in bytes.
const STEP_BYTES: u64 = 256 << 10;
/// What a header takes besides its name and its value, in bytes.
const HEADER_BYTES: usize = 128;
/// The interfaces, by the names under which wasmtime has them.
const P2_TYPES: &str = "wasi:http/types@0.2.12";
const P3_TYPES: &str = "wasi:http/types@0.3.0";

/// What is known of an instance's part of the heap, in bytes.
#[derive(Default)]
pub(crate) struct Heap {
    /// Taken from the budget.
    counted: u64,
    /// Added since.
    fresh: u64,
    /// What was there when it was measured last.
    measured: u64,
}

impl<C: Capabilities> State<C> {
    /// The guest gave the host so many bytes that it keeps.
    fn keep(&mut self, bytes: usize) -> wasmtime::Result<()> {
        self.heap.fresh += bytes as u64;
        if self.heap.fresh < STEP_BYTES { Ok(()) } else { self.count_heap() }
    }

    /// The same, of something that came from elsewhere.
    pub(crate) fn keep_resource<T: 'static>(&mut self, resource: &Resource<T>) -> wasmtime::Result<()> {
        let bytes = bytes_of(self.table().get(resource)?, 0);
        self.keep(bytes)
    }

    #[cold]
    fn count_heap(&mut self) -> wasmtime::Result<()> {
        let much = 2 * self.heap.measured + 4 * STEP_BYTES;
        if self.heap.counted + self.heap.fresh > much || self.take_fresh().is_err() {
            self.measure_heap();
            self.take_fresh().map_err(|denied| {
                self.memory.denied = Some(denied);
                wasmtime::Error::msg("the host keeps as much for its messages as it may")
            })?;
        }
        Ok(())
    }

    fn take_fresh(&mut self) -> Result<(), Denied> {
        self.memory.take(self.heap.fresh, 0)?;
        self.heap.counted += std::mem::take(&mut self.heap.fresh);
        Ok(())
    }

    /// Gives back what is not there any more. An instance that waits for another request keeps little.
    pub(crate) fn measure_heap(&mut self) {
        let body = body_bytes(self.capabilities.http_hooks());
        let there = measure(self.table(), body);
        self.memory.give_back(self.heap.counted.saturating_sub(there));
        let counted = self.heap.counted.min(there);
        self.heap = Heap { counted, fresh: there - counted, measured: there };
    }
}

/// What the host keeps of a message whose body was begun, at most: the pieces that wait, one that is written, and trailers.
fn body_bytes(hooks: &mut dyn WasiHttpHooks) -> usize {
    (hooks.p2_outgoing_body_buffer_chunks() + 1) * hooks.p2_outgoing_body_chunk_size() + HEADER_BYTES_MAX
}

fn measure(table: &mut ResourceTable, body: usize) -> u64 {
    table.iter_mut().map(|entry| bytes_of(entry, body) as u64).sum()
}

fn bytes_of(entry: &dyn Any, body: usize) -> usize {
    if let Some(fields) = entry.downcast_ref() {
        of_fields(fields)
    } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
        let texts = of_method(&request.method) + of(&request.path_with_query) + of(&request.authority);
        texts + of_fields(&request.headers) + if request.body.is_some() { body } else { 0 }
    } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
        of_fields(&response.headers) + if response.body.is_some() { body } else { 0 }
    } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
        of_fields(&response.headers)
    } else if let Some(request) = entry.downcast_ref::<p3::Request>() {
        let path = request.path_with_query.as_ref().map_or(0, |path| path.as_str().len());
        let authority = request.authority.as_ref().map_or(0, |authority| authority.as_str().len());
        request.method.as_str().len() + path + authority + of_fields(&request.headers)
    } else if let Some(response) = entry.downcast_ref::<p3::Response>() {
        of_fields(&response.headers)
    } else {
        0
    }
}

fn of_fields(fields: &FieldMap) -> usize {
    fields.iter().map(|(name, value)| of_header(name.as_str(), value.as_bytes())).sum()
}

fn of_header(name: &str, value: &[u8]) -> usize {
    name.len() + value.len() + HEADER_BYTES
}

fn of(text: &Option<String>) -> usize {
    text.as_ref().map_or(0, String::len)
}

fn of_method(method: &p2::bindings::http::types::Method) -> usize {
    if let p2::bindings::http::types::Method::Other(name) = method { name.len() } else { 0 }
}

fn of_method_p3(method: &p3::bindings::http::types::Method) -> usize {
    if let p3::bindings::http::types::Method::Other(name) = method { name.len() } else { 0 }
}

/// Replaces a function with one that counts what the host keeps of its arguments. It does so when the function has returned: what
/// is measured then includes them.
macro_rules! counted {
    ($types:ident, $name:expr, |$http:ident, $($argument:ident: $type:ty),+| $keeps:expr, $call:expr) => {
        $types.func_wrap($name, |mut store: StoreContextMut<'_, State<C>>, ($($argument,)+): ($($type,)+)| {
            let state = store.data_mut();
            let mut $http = state.http();
            let keeps: usize = $keeps;
            let result = $call;
            state.keep(keeps)?;
            Ok((result,))
        })?;
    };
}

/// What is the same in both WASIs, for the `HostFields` in scope.
macro_rules! add_fields {
    ($types:ident) => {
        counted!(
            $types,
            "[static]fields.from-list",
            |http, entries: Vec<(String, Vec<u8>)>| entries
                .iter()
                .map(|(name, value)| of_header(name, value))
                .sum(),
            match http.from_list(entries) {
                Ok(fields) => Ok(fields),
                Err(error) => Err(http.convert_header_error(error)?),
            }
        );
        counted!(
            $types,
            "[method]fields.append",
            |http, fields: Resource<FieldMap>, name: String, value: Vec<u8>| of_header(&name, &value),
            match http.append(fields, name, value) {
                Ok(()) => Ok(()),
                Err(error) => Err(http.convert_header_error(error)?),
            }
        );
        counted!(
            $types,
            "[method]fields.set",
            |http, fields: Resource<FieldMap>, name: String, values: Vec<Vec<u8>>| values
                .iter()
                .map(|value| of_header(&name, value))
                .sum(),
            match http.set(fields, name, values) {
                Ok(()) => Ok(()),
                Err(error) => Err(http.convert_header_error(error)?),
            }
        );
        counted!(
            $types,
            "[method]fields.clone",
            |http, fields: Resource<FieldMap>| of_fields(http.table.get(&fields)?),
            HostFields::clone(&mut http, fields)?
        );
    };
}

/// The same for the line of a request, and the `Method` in scope.
macro_rules! add_setters {
    ($types:ident, $name:literal, $request:ty, $of_method:ident) => {
        counted!(
            $types,
            concat!("[method]", $name, ".set-method"),
            |http, request: $request, method: Method| $of_method(&method),
            http.set_method(request, method)?
        );
        counted!(
            $types,
            concat!("[method]", $name, ".set-path-with-query"),
            |http, request: $request, path: Option<String>| of(&path),
            http.set_path_with_query(request, path)?
        );
        counted!(
            $types,
            concat!("[method]", $name, ".set-authority"),
            |http, request: $request, authority: Option<String>| of(&authority),
            http.set_authority(request, authority)?
        );
    };
}

/// To a linker that allows shadowing.
pub(crate) fn add_to_linker_p2<C: Capabilities>(linker: &mut Linker<State<C>>) -> wasmtime::Result<()> {
    use wasmtime_wasi_http::p2::bindings::http::types::{self as wit, Host as _, HostFields, Method};
    use wit::HostOutgoingRequest as _;
    type Request = Resource<HostOutgoingRequest>;
    type Response = Resource<HostOutgoingResponse>;
    let mut types = linker.instance(P2_TYPES)?;
    add_fields!(types);
    add_setters!(types, "outgoing-request", Request, of_method);
    counted!(
        types,
        "[method]outgoing-request.body",
        |http, request: Request| body_bytes(http.hooks),
        wit::HostOutgoingRequest::body(&mut http, request)?
    );
    counted!(
        types,
        "[method]outgoing-response.body",
        |http, response: Response| body_bytes(http.hooks),
        wit::HostOutgoingResponse::body(&mut http, response)?
    );
    types.func_wrap(
        "[method]future-incoming-response.get",
        |mut store: StoreContextMut<'_, State<C>>, (coming,): (Resource<HostFutureIncomingResponse>,)| {
            let state = store.data_mut();
            let came = wit::HostFutureIncomingResponse::get(&mut state.http(), coming)?;
            if let Some(Ok(Ok(response))) = &came {
                state.keep_resource(response)?;
            }
            Ok((came,))
        },
    )
}

/// To a linker that allows shadowing.
pub(crate) fn add_to_linker_p3<C: Capabilities>(linker: &mut Linker<State<C>>) -> wasmtime::Result<()> {
    use wasmtime_wasi_http::p3::bindings::http::types::{Host as _, HostFields, HostRequest as _, Method};
    type Request = Resource<p3::Request>;
    let mut types = linker.instance(P3_TYPES)?;
    add_fields!(types);
    add_setters!(types, "request", Request, of_method_p3);
    Ok(())
}
