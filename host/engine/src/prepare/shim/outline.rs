//! What a component is made of, as far as its shim is concerned, and what is to be done about it.

use std::collections::BTreeSet;

use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Export, ExternalKind, FromReader, Instance, InstantiationArg, Parser, Payload,
    SectionLimited,
};

use super::module::{Main, Shim};
use super::{Error, Unfit};
use crate::sections::sections;

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

    /// Whether a module has this instance and no other.
    fn is_only(&self, module: u32, instance: u32) -> bool {
        let is_of = |one: &Instance<'_>| matches!(one, Instance::Instantiate { module_index, .. } if *module_index == module);
        let instances = (0..).zip(&self.instances).filter(|(_, one)| is_of(one)).map(|(number, _)| number);
        instances.eq([instance])
    }

    /// The core functions that are exports of an instance.
    fn functions_of(&self, instance: u32) -> BTreeSet<u32> {
        let is_of = |from: &Option<(u32, &str)>| from.is_some_and(|(of, _)| of == instance);
        (0..).zip(&self.functions).filter(|(_, from)| is_of(from)).map(|(number, _)| number).collect()
    }

    /// The one instance that is given some of these functions, and the lists of exports by which it is. None if several are,
    /// or if one is given all of the instance that they are exports of.
    fn user_of(&self, functions: &BTreeSet<u32>, of: u32) -> Option<(u32, BTreeSet<u32>)> {
        let (mut carriers, mut users) = (BTreeSet::new(), BTreeSet::new());
        for (number, instance) in (0..).zip(&self.instances) {
            match instance {
                Instance::FromExports(exports) => {
                    if exports.iter().any(|export| function(export).is_some_and(|it| functions.contains(&it)))
                    {
                        carriers.insert(number);
                    }
                }
                Instance::Instantiate { args, .. } if args.iter().any(|arg| arg.index == of) => return None,
                Instance::Instantiate { args, .. } => {
                    if args.iter().any(|arg| carriers.contains(&arg.index)) {
                        users.insert(number);
                    }
                }
            }
        }
        let user = users.pop_first()?;
        users.is_empty().then_some((user, carriers))
    }

    /// The core function that an instance is given as an import.
    fn given(&self, args: &[InstantiationArg<'_>], module: &str, name: &str) -> Option<u32> {
        let arg = args.iter().find(|arg| arg.name == module)?;
        let Instance::FromExports(exports) = self.instances.get(arg.index as usize)? else { return None };
        exports.iter().filter(|export| export.name == name).find_map(function)
    }
}

/// The core function that is exported.
fn function(export: &Export<'_>) -> Option<u32> {
    (export.kind == ExternalKind::Func).then_some(export.index)
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
        let gone = outline.functions_of(shim_instance);
        let (main_instance, carriers) = outline.user_of(&gone, shim_instance)?;
        let Instance::Instantiate { module_index: main_module, args } =
            outline.instances.get(main_instance as usize)?
        else {
            return None;
        };
        if !outline.is_only(shim_module, shim_instance) || !outline.is_only(*main_module, main_instance) {
            return None;
        }
        // What else the shim exports is its table, and whoever wants that can have it from the main module.
        let is_table_later = |other: &Other<'_>| {
            other.kind == ExternalKind::Table
                && other.name == shim.table_name
                && other.instances_before > main_instance
        };
        if !outline.others.iter().filter(|other| other.instance == shim_instance).all(is_table_later) {
            return None;
        }
        let by_shim = |module: &str, name: &str| {
            let function = outline.given(args, module, name).filter(|function| gone.contains(function))?;
            let (_, name) = (*outline.functions.get(function as usize)?)?;
            shim.functions.get(name).copied()
        };
        let main = Main::read(outline.modules.get(*main_module as usize)?, by_shim).ok()?;
        Some(Self {
            shim_module,
            shim_instance,
            shim,
            main_module: *main_module,
            main_instance,
            main,
            gone,
            carriers,
        })
    }
}

fn length<T>(items: &[T]) -> u32 {
    u32::try_from(items.len()).unwrap_or(u32::MAX)
}
