//! The sections of a component, read without what other components and modules inside of it have.

use wasmparser::{Parser, Payload};

/// The sections of the component itself, in order, up to the first error, which may lie anywhere.
pub(crate) fn sections(component: &[u8]) -> impl Iterator<Item = wasmparser::Result<Payload<'_>>> {
    let mut depth = 0_usize;
    Parser::new(0).parse_all(component).filter(move |payload| {
        let is_own = depth == 0;
        match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => depth += 1,
            Ok(Payload::End(_)) => depth = depth.saturating_sub(1),
            Ok(_) => {}
            Err(_) => return true,
        }
        is_own
    })
}
