//! The two WASIs: 0.2, whose guests do one thing at a time, and 0.3, whose guests wait for several.
//!
//! Support for the second costs the first: with it on, a request of a 0.2 guest took 1.3 times as long, in wasmtime's
//! bookkeeping of tasks. So a process has engines for each, and a linker for each engine. Which one a component
//! needs is seen in what it exports.

use wasmparser::Payload;
use wasmtime::component::{Component, HasData, Linker, ResourceTable};
use wasmtime_wasi::p2::bindings::io;
use wasmtime_wasi_http::handler::ProxyPre;
use wasmtime_wasi_http::p2::bindings::ProxyPre as ProxyPre2;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::client;
use crate::engine::Engine;
use crate::heap;
use crate::sections::sections;
use crate::state::{Capabilities, State};
use crate::streams;

/// What a component for WASI 0.3 exports, whatever comes behind the second dot.
const HANDLER: &str = "wasi:http/handler@0.3.";

/// Which WASI a component is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wasi {
    /// 0.2: it exports `wasi:http/incoming-handler`.
    P2,
    /// 0.3: it exports `wasi:http/handler`.
    P3,
}

impl Wasi {
    /// Looks at the exports of a component. What is no component is said to be for 0.2, whose compiler says why it is none.
    pub fn of(component: &[u8]) -> Self {
        // What components inside of it export is their affair.
        for payload in sections(component) {
            match payload {
                Ok(Payload::ComponentExportSection(exports)) => {
                    let mut names = exports.into_iter().filter_map(Result::ok);
                    if names.any(|export| export.name.name.starts_with(HANDLER)) {
                        return Self::P3;
                    }
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Self::P2
    }
}

/// Outgoing HTTP of WASI 0.2. Its requests are counted, allowed and logged as those of whom the instance works for, and it does not
/// say who called; the client of 0.3 does.
const OUTGOING_HANDLER: &str = "wasi:http/outgoing-handler";

/// What apps are linked against, for each WASI.
pub struct Linkers<C: 'static> {
    /// For each wasmtime engine one.
    linkers: Vec<(Wasi, Linker<State<C>>)>,
    /// Interfaces that keep an instance to one request at a time.
    alone: Vec<&'static str>,
}

impl<C: Capabilities> Linkers<C> {
    /// With everything of WASI that a guest may import: clocks, randomness, streams, HTTP; file system, sockets and
    /// environment, which are empty.
    pub fn new(engine: &Engine) -> wasmtime::Result<Self> {
        let linkers = engine.all().map(|(wasi, engine)| (wasi, Linker::new(engine))).collect();
        let mut linkers = Self { linkers, alone: vec![OUTGOING_HANDLER] };
        linkers.add(add_wasi_2)?;
        for (wasi, linker) in &mut linkers.linkers {
            if *wasi == Wasi::P3 {
                add_wasi_3(linker)?;
            }
        }
        Ok(linkers)
    }

    /// Adds an interface of the host's own, for guests of both.
    pub fn add(
        &mut self,
        add: impl Fn(&mut Linker<State<C>>) -> wasmtime::Result<()>,
    ) -> wasmtime::Result<()> {
        self.linkers.iter_mut().try_for_each(|(_, linker)| add(linker))
    }

    /// Adds an interface that acts within something of one request, and whose functions hold up the instance, like
    /// statements in a transaction: two requests in one instance could wait for each other for ever. Whoever imports it
    /// serves one request at a time, whatever the app asks for. `name` is without the version.
    pub fn add_alone(
        &mut self,
        name: &'static str,
        add: impl Fn(&mut Linker<State<C>>) -> wasmtime::Result<()>,
    ) -> wasmtime::Result<()> {
        self.alone.push(name);
        self.add(add)
    }

    /// Whether an instance of a component may serve several requests at once.
    pub(crate) fn may_share(&self, component: &Component) -> bool {
        !imports_any_of(component, &self.alone)
    }

    /// Resolves the imports of a component, and finds its handler.
    pub(crate) fn link(&self, component: &Component) -> wasmtime::Result<ProxyPre<State<C>>> {
        let is_of = |linker: &Linker<_>| wasmtime::Engine::same(component.engine(), linker.engine());
        let Some((wasi, linker)) = self.linkers.iter().find(|(_, linker)| is_of(linker)) else {
            wasmtime::bail!("the component was loaded for another engine");
        };
        let resolved = linker.instantiate_pre(component)?;
        Ok(match wasi {
            Wasi::P2 => ProxyPre::P2(ProxyPre2::new(resolved)?),
            Wasi::P3 => ProxyPre::P3(ServicePre::new(resolved)?),
        })
    }
}

fn imports_any_of(component: &Component, interfaces: &[&str]) -> bool {
    let ty = component.component_type();
    let mut imports = ty.imports(component.engine()).filter_map(|(name, _)| name.split('@').next());
    imports.any(|name| interfaces.contains(&name))
}

/// WASI 0.2, which guests of 0.3 import too: the libraries of their languages still use it.
fn add_wasi_2<C: Capabilities>(linker: &mut Linker<State<C>>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // Again, with nothing but the table behind them.
    linker.allow_shadowing(true);
    io::error::add_to_linker::<_, HasTable>(linker, State::table)?;
    io::poll::add_to_linker::<_, HasTable>(linker, State::table)?;
    streams::add_to_linker(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    heap::add_to_linker_p2(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn add_wasi_3<C: Capabilities>(linker: &mut Linker<State<C>>) -> wasmtime::Result<()> {
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    linker.allow_shadowing(true);
    client::add_to_linker(linker)?;
    heap::add_to_linker_p3(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Marks the table as what streams borrow.
pub(crate) struct HasTable;

impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        ComponentExportKind, ComponentExportSection, ComponentImportSection, ComponentInstanceSection,
        ComponentTypeRef, ComponentTypeSection, InstanceType,
    };

    use super::*;

    /// A component with an empty instance under that name, and perhaps an empty component before.
    fn exporting(name: &str, behind: bool) -> Vec<u8> {
        let mut component = wasm_encoder::Component::new();
        if behind {
            component
                .section(&wasm_encoder::RawSection { id: 4, data: &wasm_encoder::Component::new().finish() });
        }
        let mut instances = ComponentInstanceSection::new();
        instances.export_items::<&str, [(&str, ComponentExportKind, u32); 0]>([]);
        component.section(&instances);
        let mut exports = ComponentExportSection::new();
        exports.export(name, ComponentExportKind::Instance, 0, None);
        component.section(&exports);
        component.finish()
    }

    #[test]
    fn what_a_component_exports_says_which_wasi_it_needs() {
        assert_eq!(Wasi::of(&exporting("wasi:http/handler@0.3.0", false)), Wasi::P3);
        assert_eq!(
            Wasi::of(&exporting("wasi:http/handler@0.3.7", true)),
            Wasi::P3,
            "after an inner component"
        );
        assert_eq!(Wasi::of(&exporting("wasi:http/incoming-handler@0.2.9", false)), Wasi::P2);
        let mut outer = wasm_encoder::Component::new();
        let inner = exporting("wasi:http/handler@0.3.0", false);
        outer.section(&wasm_encoder::RawSection { id: 4, data: &inner });
        assert_eq!(Wasi::of(&outer.finish()), Wasi::P2, "what an inner component exports is its own affair");
        for nothing in [&b""[..], b"\0asm", b"no component at all"] {
            assert_eq!(Wasi::of(nothing), Wasi::P2);
        }
    }

    /// A component for WASI 0.3 that imports an empty instance under that name.
    fn importing(name: &str) -> Component {
        let mut component = wasm_encoder::Component::new();
        let mut types = ComponentTypeSection::new();
        types.instance(&InstanceType::new());
        component.section(&types);
        let mut imports = ComponentImportSection::new();
        imports.import(name, ComponentTypeRef::Instance(0));
        component.section(&imports);
        let engine = Engine::for_compiling().unwrap();
        Component::new(engine.of(Wasi::P3), component.finish()).unwrap()
    }

    #[test]
    fn an_import_is_known_whatever_its_version() {
        let component = importing("odeon:sql/session@0.1.0");
        assert!(imports_any_of(&component, &["odeon:events/publisher", "odeon:sql/session"]));
        assert!(!imports_any_of(&component, &["odeon:sql"]));
        assert!(imports_any_of(&importing("wasi:http/outgoing-handler@0.2.3"), &[OUTGOING_HANDLER]));
    }
}
