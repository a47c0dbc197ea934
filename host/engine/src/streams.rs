//! `wasi:io/streams` of WASI 0.2, with two shortcuts for what nearly every guest does: it writes a little into a stream that
//! has room for it, and drops the stream. Neither has to wait, and wasmtime's ways, which may, make nine futures on the heap.
//!
//! What must stay true: a guest sees what it would see without this file.

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceTable, ResourceType};
use wasmtime_wasi::p2::bindings::io::streams::{self, Host as _, HostOutputStream};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, StreamError, StreamResult};

use crate::state::{Capabilities, State};
use crate::wasi::HasTable;

/// The interface, by the name under which wasmtime has it.
const STREAMS: &str = "wasi:io/streams@0.2.12";
/// Bytes that a guest may write with a call that waits: a bound of WASI.
const WRITE_BYTES_MAX: usize = 4_096;

/// To a linker that allows shadowing.
pub(crate) fn add_to_linker<C: Capabilities>(linker: &mut Linker<State<C>>) -> wasmtime::Result<()> {
    streams::add_to_linker::<_, HasTable>(linker, State::table)?;
    add_shortcuts(linker)
}

fn add_shortcuts<C: Capabilities>(linker: &mut Linker<State<C>>) -> wasmtime::Result<()> {
    let mut streams = linker.instance(STREAMS)?;
    streams.func_wrap_async(
        "[method]output-stream.blocking-write-and-flush",
        |mut store, (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            Box::new(async move {
                let table = store.data_mut().table();
                let written = write_and_flush(table, stream, bytes).await;
                Ok((match written {
                    Ok(()) => Ok(()),
                    Err(error) => Err(table.convert_stream_error(error)?),
                },))
            })
        },
    )?;
    streams.resource(
        "output-stream",
        ResourceType::host::<DynOutputStream>(),
        dropped::<C, DynOutputStream>,
    )?;
    streams.resource("input-stream", ResourceType::host::<DynInputStream>(), dropped::<C, DynInputStream>)
}

/// No stream that a guest of ours may have waits for anything when it is dropped: those of files and sockets would.
fn dropped<C: Capabilities, T: 'static>(
    mut store: StoreContextMut<'_, State<C>>,
    rep: u32,
) -> wasmtime::Result<()> {
    drop(store.data_mut().table().delete(Resource::<T>::new_own(rep))?);
    Ok(())
}

async fn write_and_flush(
    table: &mut ResourceTable,
    stream: Resource<DynOutputStream>,
    bytes: Vec<u8>,
) -> StreamResult<()> {
    let may_fit = (1..=WRITE_BYTES_MAX).contains(&bytes.len());
    if !may_fit || table.get_mut(&stream)?.check_write()? < bytes.len() {
        return table.blocking_write_and_flush(stream, bytes).await;
    }
    let output = table.get_mut(&stream)?;
    output.write(bytes.into())?;
    unless_closed(output.flush())?;
    if unless_closed(output.check_write())? == Some(0) {
        unless_closed(output.write_ready().await)?; // it is flushed when there is room again
    }
    Ok(())
}

/// A stream that was closed after it had taken what was written is no error of the writer.
fn unless_closed<T>(result: StreamResult<T>) -> StreamResult<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(StreamError::Closed) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use wasmtime_wasi::WasiCtx;
    use wasmtime_wasi_http::WasiHttpHooks;

    use super::*;
    use crate::state::Finish;

    struct Nobody;

    impl WasiHttpHooks for Nobody {}

    impl Capabilities for Nobody {
        async fn finish(&mut self, _: Finish) {}

        fn wasi(&self) -> WasiCtx {
            WasiCtx::builder().build()
        }

        fn take_over(&mut self, _: &Self) {}

        fn http_hooks(&mut self) -> &mut dyn WasiHttpHooks {
            self
        }
    }

    #[test]
    fn the_shortcuts_have_the_names_of_what_they_replace() {
        let mut linker = Linker::<State<Nobody>>::new(&wasmtime::Engine::default());
        streams::add_to_linker::<_, HasTable>(&mut linker, State::table).unwrap();
        let said = add_shortcuts(&mut linker).unwrap_err().to_string();
        assert!(said.contains("blocking-write-and-flush` defined twice"), "{said}");
    }
}
