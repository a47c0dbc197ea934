//! What a component is made of, as far as its shim is concerned, and what is to be done about it.

use std::collections::BTreeSet;

use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Export, ExternalKind, FromReader, Instance, Parser, Payload, SectionLimited,
};

use super::module::{Main, Shim};
use super::{Error, Unfit};

/// The core parts of a component, by their indices.
#[derive(Default)]
pub(super) struct Outline<'a> {
    modules: Vec<&'a [u8]>,
    instances: Vec<Instance<'a>>,
    /// Of each core function, the export that it is an alias of. None for what the component itself defines.
    functions: Vec<Option<(u32, &'a str)>>,
    /// Aliases of exports that are no functions.
    others: Vec<Other<'a>>,
}

struct Other<'a> {
    kind: ExternalKind,
    instance: u32,
    name: &'a str,
    /// Instances that had been made where it stands.
    instances_before: u32,
}

/// The sections of a component, without those of what it contains.
pub(super) fn sections(component: &[u8]) -> impl Iterator<Item = wasmparser::Result<Payload<'_>>> {
    let mut depth = 0_usize;
    Parser::new(0).parse_all(component).filter(move |payload| {
        let is_top = depth == 0;
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            _ => {}
        }
        is_top
    })
}

impl<'a> Outline<'a> {
    pub(super) fn read(component: &'a [u8]) -> Result<Self, Error> {
        for payload in Parser::new(0).parse_all(component) {
            refuse_modules_from_elsewhere(&payload?)?;
        }
        let mut outline = Self::default();
        for payload in sections(component) {
            match payload? {
                Payload::ModuleSection { unchecked_range, .. } => {
                    outline.modules.push(component.get(unchecked_range).ok_or(Unfit)?);
                }
                Payload::InstanceSection(section) => {
                    for instance in section {
                        outline.instances.push(instance?);
                    }
                }
                Payload::ComponentAliasSection(section) => {
                    for alias in section {
                        outline.alias(alias?);
                    }
                }
                Payload::ComponentCanonicalSection(section) => {
                    for function in section {
                        if !matches!(function?, CanonicalFunction::Lift { .. }) {
                            outline.functions.push(None);
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }

    fn alias(&mut self, alias: ComponentAlias<'a>) {
        let ComponentAlias::CoreInstanceExport { kind, instance_index: instance, name } = alias else {
            return;
        };
        match kind {
            ExternalKind::Func | ExternalKind::FuncExact => self.functions.push(Some((instance, name))),
            _ => {
                let instances_before = length(&self.instances);
                self.others.push(Other { kind, instance, name, instances_before });
            }
        }
    }

    /// Instances of a module.
    fn of_module(&self, module: u32) -> impl Iterator<Item = u32> {
        let is_of = move |instance: &Instance<'_>| matches!(instance, Instance::Instantiate { module_index, .. } if *module_index == module);
        (0..).zip(&self.instances).filter(move |(_, instance)| is_of(instance)).map(|(number, _)| number)
    }
}

/// Modules are counted where they are defined. Those that come in or go out by other ways are not worth the trouble.
fn refuse_modules_from_elsewhere(payload: &Payload<'_>) -> Result<(), Error> {
    const MODULE: ComponentExternalKind = ComponentExternalKind::Module;
    match payload {
        Payload::ComponentImportSection(section) => {
            refuse(section, |import| matches!(import.ty, ComponentTypeRef::Module(_)))
        }
        Payload::ComponentExportSection(section) => refuse(section, |export| export.kind == MODULE),
        Payload::ComponentAliasSection(section) => refuse(section, |alias| match alias {
            ComponentAlias::InstanceExport { kind, .. } => *kind == MODULE,
            ComponentAlias::Outer { kind, .. } => *kind == ComponentOuterAliasKind::CoreModule,
            ComponentAlias::CoreInstanceExport { .. } => false,
        }),
        Payload::ComponentInstanceSection(section) => refuse(section, |instance| match instance {
            ComponentInstance::Instantiate { args, .. } => args.iter().any(|arg| arg.kind == MODULE),
            ComponentInstance::FromExports(exports) => exports.iter().any(|export| export.kind == MODULE),
        }),
        _ => Ok(()),
    }
}

fn refuse<'a, T: FromReader<'a>>(
    section: &SectionLimited<'a, T>,
    is_refused: impl Fn(&T) -> bool,
) -> Result<(), Error> {
    for item in section.clone() {
        if is_refused(&item?) {
            return Err(Unfit.into());
        }
    }
    Ok(())
}

/// What moves, and where to.
pub(super) struct Plan<'a> {
    pub(super) shim_module: u32,
    pub(super) shim_instance: u32,
    pub(super) shim: Shim<'a>,
    pub(super) main_module: u32,
    pub(super) main_instance: u32,
    pub(super) main: Main,
    /// Core functions of the component that are the shim's.
    pub(super) gone: BTreeSet<u32>,
    /// Instances that are lists of exports and hand such functions to the main module.
    pub(super) carriers: BTreeSet<u32>,
}

impl<'a> Plan<'a> {
    pub(super) fn of(outline: &Outline<'a>) -> Option<Self> {
        (0..).zip(&outline.instances).find_map(|(number, instance)| match instance {
            Instance::Instantiate { module_index, args } if args.is_empty() => {
                Self::with(outline, *module_index, number)
            }
            _ => None,
        })
    }

    /// If this module is a shim of which one other module uses the functions, all of the component being as we know it.
    fn with(outline: &Outline<'a>, shim_module: u32, shim_instance: u32) -> Option<Self> {
        let shim = Shim::read(outline.modules.get(shim_module as usize)?).ok()?;
        let is_only = |module, instance| outline.of_module(module).eq([instance]);
        if !is_only(shim_module, shim_instance) {
            return None;
        }
        let is_gone =
            |from: &Option<(u32, &str)>| from.is_some_and(|(instance, _)| instance == shim_instance);
        let functions = (0..).zip(&outline.functions);
        let gone: BTreeSet<u32> =
            functions.filter(|(_, from)| is_gone(from)).map(|(number, _)| number).collect();

        let (mut carriers, mut users) = (BTreeSet::new(), BTreeSet::new());
        for (number, instance) in (0..).zip(&outline.instances) {
            match instance {
                Instance::FromExports(exports) => {
                    let hands = |export: &Export<'_>| {
                        export.kind == ExternalKind::Func && gone.contains(&export.index)
                    };
                    if exports.iter().any(hands) {
                        carriers.insert(number);
                    }
                }
                Instance::Instantiate { args, .. } => {
                    if args.iter().any(|arg| arg.index == shim_instance) {
                        return None;
                    }
                    if args.iter().any(|arg| carriers.contains(&arg.index)) {
                        users.insert(number);
                    }
                }
            }
        }
        let [main_instance] = users.into_iter().collect::<Vec<_>>()[..] else { return None };
        let Instance::Instantiate { module_index: main_module, args } =
            outline.instances.get(main_instance as usize)?
        else {
            return None;
        };
        let is_table_later = |other: &Other<'_>| {
            other.kind == ExternalKind::Table
                && other.name == shim.table_name
                && other.instances_before > main_instance
        };
        let mut of_shim = outline.others.iter().filter(|other| other.instance == shim_instance);
        if !is_only(*main_module, main_instance) || !of_shim.all(is_table_later) {
            return None;
        }

        let given = |module: &str, name: &str| {
            let arg = args.iter().find(|arg| arg.name == module)?;
            let Instance::FromExports(exports) = outline.instances.get(arg.index as usize)? else {
                return None;
            };
            let is_it = |export: &&Export<'_>| export.kind == ExternalKind::Func && export.name == name;
            let from = outline.functions.get(exports.iter().find(is_it)?.index as usize)?;
            let (_, name) = from.filter(|_| is_gone(from))?;
            shim.functions.get(name).copied()
        };
        let main = Main::read(outline.modules.get(*main_module as usize)?, given).ok()?;
        Some(Self {
            shim_module,
            shim_instance,
            main_module: *main_module,
            main_instance,
            main,
            gone,
            carriers,
            shim,
        })
    }
}

fn length<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}
