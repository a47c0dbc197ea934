//! Writes a component anew, by its plan.

use wasm_encoder::reencode::{Reencode, ReencodeComponent};
use wasm_encoder::{
    Alias, CanonicalFunctionSection, Component, ComponentAliasSection, ComponentSectionId,
    ComponentTypeSection, ExportKind, InstanceSection, ModuleSection, RawSection,
};
use wasmparser::{ComponentAlias, ExternalKind, Instance, Payload};

use super::outline::Plan;
use super::{Error, Unfit};
use crate::sections::sections;

pub(super) fn rewrite(component: &[u8], plan: &Plan<'_>) -> Result<Vec<u8>, Error> {
    let mut out = Component::new();
    let (mut modules, mut indices) = (0_u32.., Indices { plan, instances: 0 });
    for payload in sections(component) {
        match payload? {
            Payload::ModuleSection { unchecked_range, .. } => {
                let (number, module) = (modules.next(), component.get(unchecked_range).ok_or(Unfit)?);
                if number == Some(plan.main_module) {
                    out.section(&ModuleSection(&plan.main.with_shim(&plan.shim, module)?));
                } else if number != Some(plan.shim_module) {
                    out.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: module });
                }
            }
            Payload::InstanceSection(section) => {
                let mut instances = InstanceSection::new();
                indices.parse_instance_section(&mut instances, section)?;
                out.section(&instances);
            }
            Payload::ComponentAliasSection(section) => {
                let mut aliases = ComponentAliasSection::new();
                indices.parse_component_alias_section(&mut aliases, section)?;
                out.section(&aliases);
            }
            // Resources name their destructors, which are core functions.
            Payload::ComponentTypeSection(section) => {
                let mut types = ComponentTypeSection::new();
                indices.parse_component_type_section(&mut types, section)?;
                out.section(&types);
            }
            Payload::ComponentCanonicalSection(section) => {
                let mut functions = CanonicalFunctionSection::new();
                indices.parse_component_canonical_section(&mut functions, section)?;
                out.section(&functions);
            }
            // It names what has another index now, and nobody reads it.
            Payload::CustomSection(section) if section.name() == "component-name" => {}
            other => {
                if let Some((id, range)) = other.as_section() {
                    out.section(&RawSection { id, data: component.get(range).ok_or(Unfit)? });
                }
            }
        }
    }
    Ok(out.finish())
}

/// What has another index now: modules, instances and functions, those of the core.
struct Indices<'a> {
    plan: &'a Plan<'a>,
    /// Core instances that were read.
    instances: u32,
}

impl Reencode for Indices<'_> {
    type Error = Unfit;

    fn function_index(&mut self, function: u32) -> Result<u32, Error> {
        if self.plan.gone.contains(&function) {
            return Err(Unfit.into()); // somebody but the main module wants it
        }
        let before = self.plan.gone.range(..function).count();
        Ok(function - u32::try_from(before).map_err(|_| Unfit)?)
    }
}

impl ReencodeComponent for Indices<'_> {
    fn module_index(&mut self, module: u32) -> u32 {
        module - u32::from(module > self.plan.shim_module)
    }

    fn instance_index(&mut self, instance: u32) -> u32 {
        instance - u32::from(instance > self.plan.shim_instance)
    }

    fn parse_instance_section(
        &mut self,
        instances: &mut InstanceSection,
        section: wasmparser::InstanceSectionReader<'_>,
    ) -> Result<(), Error> {
        for instance in section {
            let (number, mut instance) = (self.instances, instance?);
            self.instances += 1;
            if number == self.plan.shim_instance {
                continue;
            }
            if let Instance::FromExports(exports) = &mut instance
                && self.plan.carriers.contains(&number)
            {
                let gone = |export: &wasmparser::Export<'_>| {
                    export.kind == ExternalKind::Func && self.plan.gone.contains(&export.index)
                };
                *exports = exports.iter().filter(|export| !gone(export)).copied().collect();
            }
            self.parse_instance(instances, instance)?;
        }
        Ok(())
    }

    fn parse_component_alias_section(
        &mut self,
        aliases: &mut ComponentAliasSection,
        section: wasmparser::ComponentAliasSectionReader<'_>,
    ) -> Result<(), Error> {
        for alias in section {
            match alias? {
                ComponentAlias::CoreInstanceExport { kind, instance_index, .. }
                    if instance_index == self.plan.shim_instance =>
                {
                    if kind == ExternalKind::Table {
                        aliases.alias(Alias::CoreInstanceExport {
                            instance: self.instance_index(self.plan.main_instance),
                            kind: ExportKind::Table,
                            name: &self.plan.main.table_name,
                        });
                    }
                }
                alias => {
                    aliases.alias(self.component_alias(alias)?);
                }
            }
        }
        Ok(())
    }
}
