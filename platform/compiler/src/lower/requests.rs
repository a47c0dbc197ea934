//! What others do: methods of consumed REST APIs and service actions of other apps. Each is a function that hands
//! its inputs to the runtime library and takes the outputs.
//!
//! Invariant: the outputs have values whatever happens, as the caller's handlers may read them.

use wasm_encoder::{Instruction, ValType};

use super::{Shared, load, store, word};
use crate::plan::Function;
use crate::types::*;

/// What the runtime's `rt_request` reads of a method.
pub(super) fn send(request: &Request, shared: &mut Shared<'_>) -> Function {
    let named = shared.named;
    let (def, api) = (&named.actions[request.action], &named.consumed[request.api]);
    let method = def.name.split_once('.').map_or("", |(_, method)| method);
    let setting = |suffix: &str| format!("{}_{suffix}", api.name);
    let (user, password) = match api.basic {
        true => (shared.data.text(&setting("Username")), shared.data.text(&setting("Password"))),
        false => (0, 0),
    };
    let mut hook = |action: Option<usize>| action.map_or(0, |action| shared.entry(action));
    let (before, after) = (hook(request.before), hook(request.after));
    let mut structure = |name: &str| {
        let place = named.types.places.get(name).copied();
        place.map_or(0, |place| shared.descriptor(&Type::Record(place)))
    };
    let (http_request, http_response) = (structure("HTTPRequest"), structure("HTTPResponse"));
    let row = [
        shared.data.text(method),
        shared.data.text(&setting("BaseURL")),
        shared.data.text(api.url.as_deref().unwrap_or_default()),
        user,
        password,
        api.timeout_s,
        request.verb,
        request.segments.len() as u32,
        shared.segments(&request.segments),
        def.inputs as u32,
        shared.inputs(def, &request.sources),
        shared.parameters(def.outputs()),
        before,
        after,
        http_request,
        http_response,
    ];
    let row = shared.data.words(&row);
    remote("rt_request", row, def, shared)
}

/// A service action of another app.
pub(super) fn call(def: &ActionDef, remote: &RemoteDef, shared: &mut Shared<'_>) -> Function {
    let RemoteDef { app, action } = remote;
    let row = [
        shared.data.text(&format!("{app}.{action}")),
        shared.data.text(&format!("http://apps.odeon.internal/{app}/services/{action}")),
        shared.parameters(def.inputs()),
        shared.parameters(def.outputs()),
    ];
    let row = shared.data.words(&row);
    self::remote("rt_call_service", row, def, shared)
}

/// A function that puts its inputs into a frame, calls the runtime with it, and takes a record of outputs.
fn remote(runtime: &str, row: u32, def: &ActionDef, shared: &Shared<'_>) -> Function {
    let params: Vec<ValType> = def.inputs().iter().map(|input| word(&input.ty)).collect();
    let frame = params.len() as u32;
    let mut code = vec![
        Instruction::I32Const(def.inputs as i32 * 8),
        Instruction::Call(shared.runtime.function("rt_alloc")),
        Instruction::LocalSet(frame),
    ];
    for (index, input) in def.inputs().iter().enumerate() {
        code.extend([Instruction::LocalGet(frame), Instruction::LocalGet(index as u32)]);
        code.push(store(&input.ty, index));
    }
    code.extend([Instruction::I32Const(row as i32), Instruction::LocalGet(frame)]);
    code.extend([Instruction::Call(shared.runtime.function(runtime)), Instruction::LocalSet(frame)]);
    for (index, output) in def.outputs().iter().enumerate() {
        code.extend([Instruction::LocalGet(frame), load(&output.ty, index)]);
    }
    code.push(Instruction::End);
    let results = def.outputs().iter().map(|output| word(&output.ty)).collect();
    Function { params, results, locals: vec![ValType::I32], code, ..Function::default() }
}
