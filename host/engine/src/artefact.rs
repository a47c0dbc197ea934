//! Native code: made here, and made to run here. Loading native code is trusting it with the process, so
//! it is `unsafe`, behind types that say what their caller vouches for.
//!
//! Code is mapped from its file, so that its pages are the page cache's: clean, shared, and dropped by the kernel
//! when memory runs short. A mapping shows its file as it is, not as it was when it was checked. So the file is
//! opened once, what is checked and what is mapped is that open file whatever happens to its name, and a file that
//! changed between the beginning of the check and the end of loading is refused. What must stay true: nothing that was
//! loaded runs before that comparison.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use wasmtime::component::Component;

use crate::begin::Beginning;
use crate::engine::Engine;
use crate::parts;
use crate::prepare::prepared;
use crate::wasi::Wasi;

/// Compiles a component to native code for the WASI that it needs. Runs long and takes memory in proportion to
/// the input: call it in a limited child process.
pub fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    of_prepared(engine, component, |engine, component| engine.precompile_component(component))
}

/// Compiles a component, like [`compile`], to run it or to look at it.
pub fn component(engine: &Engine, component: &[u8]) -> wasmtime::Result<Component> {
    of_prepared(engine, component, |engine, component| Component::new(engine, component))
}

/// Makes something of a component as it is prepared. Of what cannot be made so, it is made of the component as it was published,
/// and whoever published it is told of what is wrong with that.
fn of_prepared<T>(
    engine: &Engine,
    component: &[u8],
    make: impl Fn(&wasmtime::Engine, &[u8]) -> wasmtime::Result<T>,
) -> wasmtime::Result<T> {
    let wasi = Wasi::of(component);
    if wasi == Wasi::P3 {
        parts::check(component)?;
    }
    let make = |component: &[u8]| make(engine.for_kind(wasi, Beginning::of(component)), component);
    let made = prepared(component).and_then(|prepared| make(&prepared).ok());
    made.map_or_else(|| make(component), Ok)
}

/// Native code whose digest and signature were checked, in these very bytes.
pub struct Verified<'a>(&'a [u8]);

impl<'a> Verified<'a> {
    /// The caller vouches: these bytes, not a file of the same name, are what a trusted key signed or
    /// what our own compiler just made.
    pub fn vouch(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

/// Loads native code into memory of its own. Fails when it was made for another engine; it is then compiled anew.
#[expect(unsafe_code, reason = "native code can only be trusted, and `Verified` says by whom")]
pub fn load(engine: &Engine, native: Verified<'_>) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` requires bytes that wasmtime's compiler made, unchanged. `Verified` is made
    // from bytes whose digest was compared with a signed claim, or which come from our own compiler.
    for_any(engine, |engine| unsafe { Component::deserialize(engine, native.0) })
}

/// A file of native code whose content was checked, open since before the check.
pub struct VerifiedFile {
    file: File,
    before: Stamp,
}

impl VerifiedFile {
    /// Lets `is_trusted` read the whole file and say whether it is native code that a trusted key signed or our own
    /// compiler made. Bytes behind the code, which are no part of it, may be there.
    ///
    /// The caller also vouches for the owner of the file: nobody but this process's own user may write to it.
    pub fn check(
        file: File,
        is_trusted: impl FnOnce(&File) -> io::Result<bool>,
    ) -> io::Result<Option<VerifiedFile>> {
        let before = Stamp::of(&file)?;
        Ok(is_trusted(&file)?.then_some(Self { file, before }))
    }

    /// Bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.before.bytes
    }
}

/// Maps native code from its file. Fails when it was made for another engine, or when the file is not as it was.
#[expect(unsafe_code, reason = "native code can only be trusted, and `VerifiedFile` says by whom")]
pub fn load_file(engine: &Engine, native: &VerifiedFile) -> wasmtime::Result<Component> {
    // The name of an open file: wasmtime takes a path, and a path of the folder might lead to another file by now.
    let path = format!("/proc/self/fd/{}", native.file.as_raw_fd());
    // SAFETY: `deserialize_file` requires a file that wasmtime's compiler made, and that stays unchanged. Its content
    // was checked through this very descriptor, and below we see that nobody wrote to it since, before anything of it
    // runs. From then on it is only ours to write (see `VerifiedFile::check`), and we remove files but never write to one:
    // whoever else acts as our user can also write to our memory.
    let component = for_any(engine, |engine| unsafe { Component::deserialize_file(engine, &path) })?;
    if Stamp::of(&native.file)? != native.before {
        wasmtime::bail!("the file of native code was changed while it was loaded");
    }
    Ok(component)
}

/// Native code says itself which engine it was made for; that of WASI 0.2 is asked first, for most of it is for that one.
fn for_any(
    engine: &Engine,
    load: impl Fn(&wasmtime::Engine) -> wasmtime::Result<Component>,
) -> wasmtime::Result<Component> {
    let first = load(engine.of(Wasi::P2));
    first.or_else(|error| engine.all().skip(1).find_map(|(_, engine)| load(engine).ok()).ok_or(error))
}

/// What the kernel changes when somebody writes to a file, and nobody can set back.
#[derive(PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    changed: (i64, i64),
    mode: u32,
    owner: u32,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let about = file.metadata()?;
        Ok(Self {
            bytes: about.len(),
            changed: (about.ctime(), about.ctime_nsec()),
            mode: about.mode(),
            owner: about.uid(),
        })
    }
}
