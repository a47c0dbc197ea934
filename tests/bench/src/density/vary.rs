//! Apps that differ: one component, with another text in its data and another function in its code.
//!
//! Done on the bytes of the component, section by section: the largest core module gets one function more, whose
//! constants come from the app's number, and the greeting in its data becomes the app's own. Everything else stays, so
//! each app is as large and as fast as the first. Each is compiled for itself; nothing of its native code is copied.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use wasm_encoder::{ComponentSectionId, Encode as _, Function, Instruction, SectionId};

/// What the component says; what an app says is as long.
const GREETING: &str = "Hello from Odeon\n";
/// Rounds of the function that differs; some ten bytes of code each.
const ROUNDS: i64 = 64;
/// Bytes before the first section.
const HEADER_BYTES: usize = 8;

/// What the app of a number answers.
pub(super) fn greeting(number: usize) -> String {
    format!("Hello app {number:06}\n")
}

/// The app of a number.
pub(super) fn app(component: &[u8], number: usize) -> Result<Vec<u8>> {
    let parts = sections(component)?;
    let module = ComponentSectionId::CoreModule as u8;
    let largest = parts.iter().enumerate().filter(|(_, (id, _))| *id == module);
    let (largest, _) =
        largest.max_by_key(|(_, (_, payload))| payload.len()).context("a component with a core module")?;
    let mut varied = component[..HEADER_BYTES].to_vec();
    for (at, (id, payload)) in parts.into_iter().enumerate() {
        if at == largest {
            push(&mut varied, id, &vary(payload, number)?);
        } else {
            push(&mut varied, id, payload);
        }
    }
    Ok(varied)
}

fn vary(module: &[u8], number: usize) -> Result<Vec<u8>> {
    let mut varied = module[..HEADER_BYTES].to_vec();
    let mut type_index = None;
    for (id, payload) in sections(module)? {
        let payload = if id == SectionId::Type as u8 {
            let (count, _) = leb(payload)?;
            type_index = Some(count);
            // A function from i32 to i32.
            one_more(payload, &[0x60, 1, 0x7f, 1, 0x7f])?
        } else if id == SectionId::Function as u8 {
            let mut index = Vec::new();
            u32::try_from(type_index.context("types before functions")?)?.encode(&mut index);
            one_more(payload, &index)?
        } else if id == SectionId::Code as u8 {
            one_more(payload, &body(number))?
        } else if id == SectionId::Data as u8 {
            let at = payload.windows(GREETING.len()).position(|text| text == GREETING.as_bytes());
            let at = at.context("the greeting in the data of the component")?;
            let mut payload = payload.to_vec();
            payload[at..at + GREETING.len()].copy_from_slice(greeting(number).as_bytes());
            payload
        } else {
            payload.to_vec()
        };
        push(&mut varied, id, &payload);
    }
    Ok(varied)
}

/// The function that differs.
fn body(number: usize) -> Vec<u8> {
    let mut function = Function::new([]);
    function.instruction(&Instruction::LocalGet(0));
    for round in 0..ROUNDS {
        let constant = (number as i64 + 1).wrapping_mul(0x9e37_79b9).wrapping_add(round * 0x85eb_ca6b) as i32;
        function.instruction(&Instruction::I32Const(constant));
        function.instruction(&if round % 2 == 0 { Instruction::I32Xor } else { Instruction::I32Add });
        function.instruction(&Instruction::I32Const(constant | 1));
        function.instruction(&Instruction::I32Mul);
    }
    function.instruction(&Instruction::End);
    let mut code = Vec::new();
    function.encode(&mut code); // with its length before it
    code
}

/// A section that is a vector, with one element more at its end.
fn one_more(section: &[u8], element: &[u8]) -> Result<Vec<u8>> {
    let (count, bytes) = leb(section)?;
    let mut more = Vec::new();
    u32::try_from(count + 1)?.encode(&mut more);
    more.extend_from_slice(&section[bytes..]);
    more.extend_from_slice(element);
    Ok(more)
}

fn push(to: &mut Vec<u8>, id: u8, payload: &[u8]) {
    to.push(id);
    payload.encode(to); // with its length before it
}

/// The sections of a module or a component, by id.
fn sections(binary: &[u8]) -> Result<Vec<(u8, &[u8])>> {
    ensure!(binary.starts_with(b"\0asm") && binary.len() >= HEADER_BYTES, "no Wasm");
    let mut rest = &binary[HEADER_BYTES..];
    let mut sections = Vec::new();
    while let Some((&id, after)) = rest.split_first() {
        let (bytes, size_bytes) = leb(after)?;
        let end = size_bytes + bytes;
        sections.push((id, after.get(size_bytes..end).context("a section that ends")?));
        rest = &after[end..];
    }
    Ok(sections)
}

/// A number, and how many bytes it takes.
fn leb(bytes: &[u8]) -> Result<(usize, usize)> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, at + 1));
        }
    }
    anyhow::bail!("a number that does not end")
}

/// The id of the placement of a number.
pub(super) fn id(number: usize) -> String {
    let mut id = String::from("0d000000-0000-4000-8000-");
    let _ = write!(id, "{number:012x}");
    id
}
