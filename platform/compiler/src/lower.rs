//! Lower: typed actions to Wasm functions, types to descriptors, queries to SQL.
//!
//! An action is a function from its inputs to its outputs; its body is one block, and leaving the
//! action, by return or by an exception, is a branch out of that block; a handler is the end of a block
//! inside it. An exception is a word in the runtime's memory that is looked at after everything that may
//! raise. Rejected: Wasm exceptions, whose tags the runtime library would have to share. Records and lists are values: they are copied when
//! they are stored. What every request does a thousand times is Wasm's own instructions, and a call only where
//! it goes wrong. Invariant: lowering cannot fail on a model without errors.

mod expressions;
mod fetch;
mod flow;
mod keep;
mod lists;
mod query;
mod recursion;
mod requests;
mod rows;
mod sql;
mod stream;
mod texts;

pub(crate) use sql::refused;

use std::collections::{BTreeMap, BTreeSet};

use wasm_encoder::{BlockType, Instruction, MemArg, MemArgTarget, ValType};

use crate::ast::Source;
use crate::check::routes::USER;
use crate::literal;
use crate::openapi::Document;
use crate::plan::{Data, Function, Mark, Plan};
use crate::runtime::Runtime;
use crate::sources::Span;
use crate::types::*;
use crate::walk::calls;

// Kinds of descriptors, as in the runtime's `values`.
const BOOLEAN: u32 = 0;
const INTEGER: u32 = 1;
const LONG: u32 = 2;
const DECIMAL: u32 = 3;
const TEXT: u32 = 4;
const DATE: u32 = 5;
const TIME: u32 = 6;
const DATE_TIME: u32 = 7;
const BINARY: u32 = 8;
const RECORD: u32 = 9;
const LIST: u32 = 10;
const IDENTIFIER: u32 = 11;
const EMAIL: u32 = 12;
const PHONE: u32 = 13;
/// Beside the count of a record's fields, as in the runtime's `values`: none of them is a record or a list.
const FLAT: u32 = 1 << 31;

pub(crate) fn lower(typed: &Typed, documents: &[Document], runtime: &Runtime) -> Plan {
    let calls = calls(typed);
    let mut shared = Shared {
        named: &typed.named,
        runtime,
        data: Data::new(runtime.heap_base.next_multiple_of(16)),
        descriptors: BTreeMap::new(),
        ending: stream::ending(&typed.bodies, &calls),
        entries: Vec::new(),
        entry_places: BTreeMap::new(),
    };
    let descriptor = shared.data.reserve(6);
    let mut plan = Plan { descriptor, ..Plan::default() };
    let recursive = recursion::recursive(&calls);
    let requests: BTreeMap<usize, &Request> = typed.requests.iter().map(|r| (r.action, r)).collect();
    for (index, (def, body)) in typed.named.actions.iter().zip(&typed.bodies).enumerate() {
        plan.functions.push(match (requests.get(&index), typed.remotes.get(&index)) {
            (Some(request), _) => requests::send(request, &mut shared),
            (_, Some(remote)) => requests::call(def, remote, &mut shared),
            (None, None) => action(def, body, recursive[index], &mut shared),
        });
    }
    let mut routes = Vec::new();
    for route in &typed.routes {
        routes.extend(route_row(route, &mut shared));
    }
    let routes = shared.data.words(&routes);
    let triggers = trigger_table(&typed.triggers, &mut shared);
    let mut pages = Vec::new();
    for page in documents {
        let texts = [&page.path, page.content_type, &page.text];
        pages.extend(texts.map(|text| shared.data.text(text)));
    }
    let pages = shared.data.words(&pages);
    for entry in std::mem::take(&mut shared.entries) {
        plan.table.push(plan.functions.len() as u32);
        plan.functions.push(wrapper(entry, &shared));
    }
    let heap = shared.data.place(16);
    let [routes_count, pages_count] = [typed.routes.len(), documents.len()].map(|count| count as u32);
    shared.data.fill(descriptor, &[heap, routes_count, routes, triggers, pages_count, pages]);
    plan.data = shared.data;
    plan
}

struct Shared<'l> {
    named: &'l Named,
    runtime: &'l Runtime,
    data: Data,
    descriptors: BTreeMap<usize, u32>,
    /// Which actions may end the transaction.
    ending: Vec<bool>,
    /// The actions that the runtime calls through the table, in its order.
    entries: Vec<usize>,
    /// Where each of them is.
    entry_places: BTreeMap<usize, usize>,
}

impl Shared<'_> {
    /// Where the table holds an action.
    fn entry(&mut self, action: usize) -> u32 {
        let next = self.entries.len();
        let at = *self.entry_places.entry(action).or_insert(next);
        if at == next {
            self.entries.push(action);
        }
        self.runtime.table as u32 + at as u32
    }

    /// The address of a type's descriptor.
    fn descriptor(&mut self, ty: &Type) -> u32 {
        match ty {
            Type::Record(record) => {
                if let Some(at) = self.descriptors.get(record) {
                    return *at;
                }
                let named = self.named;
                let fields = named.records[*record].fields.iter().map(|field| {
                    // The runtime's `Field`: bit 0 mandatory, the rest the most characters.
                    let flags = u32::from(field.mandatory) | field.length.unwrap_or(0) << 1;
                    (field.name.as_str(), &field.ty, field.default.as_ref(), flags)
                });
                let at = self.record(fields.collect());
                self.descriptors.insert(*record, at);
                at
            }
            Type::List(of) => {
                let of = self.descriptor(of);
                self.data.words(&[LIST, of])
            }
            Type::Unknown | Type::Boolean => self.data.words(&[BOOLEAN]),
            Type::Integer => self.data.words(&[INTEGER]),
            Type::Long => self.data.words(&[LONG]),
            Type::Decimal => self.data.words(&[DECIMAL]),
            Type::Text | Type::TextIdentifier(_) => self.data.words(&[TEXT]),
            Type::Email => self.data.words(&[EMAIL]),
            Type::Phone => self.data.words(&[PHONE]),
            Type::Date => self.data.words(&[DATE]),
            Type::Time => self.data.words(&[TIME]),
            Type::DateTime => self.data.words(&[DATE_TIME]),
            Type::Binary => self.data.words(&[BINARY]),
            Type::Identifier(_) => self.data.words(&[IDENTIFIER]),
        }
    }

    /// The address of the descriptor of a record that has parameters as its attributes.
    fn parameters(&mut self, parameters: &[LocalDef]) -> u32 {
        let fields =
            parameters.iter().map(|p| (p.name.as_str(), &p.ty, p.default.as_ref(), u32::from(p.mandatory)));
        self.record(fields.collect())
    }

    /// Name, type, default, and the runtime's `Field` flags of each attribute; the runtime gets its key in JSON too.
    fn record(&mut self, fields: Vec<(&str, &Type, Option<&Constant>, u32)>) -> u32 {
        let mut template = Vec::new();
        let is_flat = !fields.iter().any(|(_, ty, ..)| matches!(ty, Type::Record(_) | Type::List(_)));
        let mut words = vec![RECORD, fields.len() as u32 | if is_flat { FLAT } else { 0 }, 0];
        for (name, ty, default, flags) in fields {
            template.extend(self.slot(default, ty));
            let key = format!("\"{}\":", name.replace('\\', "\\\\").replace('"', "\\\""));
            words.extend([self.data.text(name), self.descriptor(ty), flags, self.data.text(&key)]);
        }
        words[2] = self.data.words(&template);
        // Not shared with an equal row: the words of a template may look like a descriptor.
        let at = self.data.reserve(words.len());
        self.data.fill(at, &words);
        at
    }

    /// A path, as the runtime reads it.
    fn segments(&mut self, path: &[Segment]) -> u32 {
        let mut segments = Vec::new();
        for segment in path {
            segments.extend(match segment {
                Segment::Literal(text) => [0, self.data.text(text)],
                Segment::Input(index) => [1, *index as u32],
            });
        }
        self.data.words(&segments)
    }

    /// The inputs of a REST method, as the runtime reads them.
    fn inputs(&mut self, def: &ActionDef, sources: &[Source]) -> u32 {
        let mut inputs = Vec::new();
        for (input, source) in def.variables[..def.inputs].iter().zip(sources) {
            let default = match &input.default {
                Some(constant) => {
                    let slot = self.slot(Some(constant), &input.ty);
                    self.data.words(&slot)
                }
                None => 0,
            };
            // A path parameter is there by definition.
            let mandatory = input.mandatory && *source != Source::Path;
            // What the client reads about a header says the name that the client sends.
            let name = self.data.text(input.header.as_deref().unwrap_or(&input.name));
            inputs.extend([name, self.descriptor(&input.ty), *source as u32, u32::from(mandatory), default]);
        }
        self.data.words(&inputs)
    }

    /// The two words of a slot that holds a default; records and lists are made at run time.
    fn slot(&mut self, default: Option<&Constant>, ty: &Type) -> [u32; 2] {
        let wide = |v: i64| [v as u32, (v >> 32) as u32];
        match default.cloned().or_else(|| literal::default_of(ty)) {
            None => [0, 0],
            Some(Constant::Boolean(v)) => [u32::from(v), 0],
            Some(Constant::Integer(v) | Constant::Date(v)) => wide(i64::from(v)),
            Some(Constant::Long(v) | Constant::Time(v) | Constant::DateTime(v)) => wide(v),
            Some(Constant::Decimal(v)) => [self.data.decimal(v), 0],
            Some(Constant::Text(v)) => [self.data.text(&v), 0],
        }
    }
}

fn route_row(route: &Route, shared: &mut Shared<'_>) -> [u32; 13] {
    let def = &shared.named.actions[route.action];
    let named = shared.named;
    let (authentication, slots, user) = match route.authentication {
        Some(action) => {
            let check = &named.actions[action];
            let user = check.outputs().iter().position(|o| o.name == USER && o.ty == Type::Text);
            let user = user.map_or(0, |at| (check.inputs + at) as u32);
            (shared.entry(action), check.frame(), user)
        }
        None => (0, 0, 0),
    };
    let roles: Vec<u32> = route.roles.iter().map(|role| shared.data.text(role)).collect();
    [
        route.verb,
        route.segments.len() as u32,
        shared.segments(&route.segments),
        def.inputs as u32,
        shared.inputs(def, &route.sources),
        shared.parameters(def.outputs()),
        shared.entry(route.action),
        route.status,
        authentication,
        slots,
        // The slot of who calls; the first two are what the action takes.
        user,
        roles.len() as u32,
        shared.data.words(&roles),
    ]
}

/// What hosts start in the app: the path, the action, and records of its inputs and outputs.
fn trigger_table(triggers: &[(String, usize)], shared: &mut Shared<'_>) -> u32 {
    let mut rows = vec![triggers.len() as u32];
    for (path, action) in triggers {
        let def = &shared.named.actions[*action];
        rows.extend([
            shared.data.text(path),
            shared.entry(*action),
            shared.parameters(def.inputs()),
            shared.parameters(def.outputs()),
        ]);
    }
    shared.data.words(&rows)
}

/// What the table holds for an action that the runtime calls: takes a frame of slots, calls the action, fills in outputs.
fn wrapper(action: usize, shared: &Shared<'_>) -> Function {
    let def = &shared.named.actions[action];
    let outputs = def.outputs();
    let mut code = Vec::new();
    for (index, input) in def.variables[..def.inputs].iter().enumerate() {
        code.push(Instruction::LocalGet(0));
        code.push(load(&input.ty, index));
    }
    code.push(Instruction::Call(shared.runtime.functions + action as u32));
    for (index, output) in outputs.iter().enumerate().rev() {
        code.push(Instruction::LocalSet(1 + index as u32));
        code.push(Instruction::LocalGet(0));
        code.push(Instruction::LocalGet(1 + index as u32));
        code.push(store(&output.ty, def.inputs + index));
    }
    code.push(Instruction::I32Const(0));
    code.push(Instruction::End);
    Function {
        params: vec![ValType::I32],
        results: vec![ValType::I32],
        locals: outputs.iter().map(|o| word(&o.ty)).collect(),
        code,
        ..Function::default()
    }
}

fn word(ty: &Type) -> ValType {
    match ty {
        Type::Long | Type::Identifier(_) | Type::Time | Type::DateTime => ValType::I64,
        Type::Unknown
        | Type::Boolean
        | Type::Integer
        | Type::Decimal
        | Type::Text
        | Type::TextIdentifier(_)
        | Type::Email
        | Type::Phone
        | Type::Date
        | Type::Binary
        | Type::Record(_)
        | Type::List(_) => ValType::I32,
    }
}

fn slot_at(index: usize) -> MemArg {
    MemArg { offset: index as u64 * 8, align: 2, target: MemArgTarget::Memory(0), ordering: None }
}

fn load(ty: &Type, index: usize) -> Instruction<'static> {
    if word(ty) == ValType::I64 {
        Instruction::I64Load(slot_at(index))
    } else {
        Instruction::I32Load(slot_at(index))
    }
}

fn store(ty: &Type, index: usize) -> Instruction<'static> {
    if word(ty) == ValType::I64 {
        Instruction::I64Store(slot_at(index))
    } else {
        Instruction::I32Store(slot_at(index))
    }
}

/// `guarded` actions may call themselves, and count how deep they are.
fn action(def: &ActionDef, body: &Body, guarded: bool, shared: &mut Shared<'_>) -> Function {
    let params: Vec<ValType> = body.variables[..def.inputs].iter().map(|v| word(&v.ty)).collect();
    let locals = body.variables[def.inputs..].iter().map(|v| word(&v.ty)).collect();
    let uses = keep::Uses::of(&body.nodes);
    let streamed = stream::streamed(&body.nodes, &uses, shared);
    let grown = texts::grown(&body.nodes, &body.variables[..def.variables.len()]);
    let mut generator = Generator {
        shared,
        def,
        variables: &body.variables,
        params: params.len(),
        locals,
        code: Vec::new(),
        depth: 0,
        caught: 0,
        loops: Vec::new(),
        protected: 0,
        streamed,
        opened: BTreeMap::new(),
        uses,
        fetches: fetch::Fetches::of(&body.nodes),
        node: 0,
        nodes: Vec::new(),
        marks: Vec::new(),
        is_marked: true,
        scratch: BTreeMap::new(),
        rooms: BTreeMap::new(),
    };
    for variable in grown {
        let room = generator.temporary(ValType::I32);
        generator.rooms.insert(variable, room);
    }
    generator.code.push(Instruction::Block(BlockType::Empty));
    for variable in def.inputs..body.variables.len() {
        generator.initialise(variable);
    }
    // After the outputs have values: a handler of the caller may read them.
    if guarded {
        generator.call("rt_enter");
        generator.leave_if_raised();
    }
    generator.nodes(&body.nodes);
    generator.code.push(Instruction::End);
    if guarded {
        generator.call("rt_leave");
    }
    for output in def.inputs..def.inputs + def.outputs {
        generator.code.push(Instruction::LocalGet(output as u32));
    }
    generator.code.push(Instruction::End);
    let results = body.variables[def.inputs..def.inputs + def.outputs].iter().map(|v| word(&v.ty)).collect();
    Function {
        params,
        results,
        locals: generator.locals,
        code: generator.code,
        name: def.name.clone(),
        nodes: generator.nodes,
        marks: generator.marks,
    }
}

struct Generator<'g, 'l> {
    shared: &'g mut Shared<'l>,
    def: &'g ActionDef,
    variables: &'g [LocalDef],
    params: usize,
    locals: Vec<ValType>,
    code: Vec<Instruction<'static>>,
    /// Blocks open inside the action's own.
    depth: u32,
    /// The depth of the block that an exception leaves; 0 is the action.
    caught: u32,
    /// The loops around the node, the inner one last.
    loops: Vec<flow::LoopBlocks>,
    /// Handlers around the node that leave the transaction open.
    protected: u32,
    uses: keep::Uses,
    /// The lists that are read in batches, and those whose cursors were opened.
    streamed: BTreeSet<usize>,
    opened: stream::OpenedCursors,
    fetches: fetch::Fetches,
    /// Where the names of the node stand that runs, and whether the runtime knows it already.
    node: u32,
    is_marked: bool,
    /// What emit says about the code: its nodes, and where each begins.
    nodes: Vec<(String, Span)>,
    marks: Vec<Mark>,
    /// Locals that hold a value for a few instructions.
    scratch: BTreeMap<(u8, usize), u32>,
    /// The texts that grow in place, and the locals with the ends of their rooms.
    rooms: BTreeMap<usize, u32>,
}

impl Generator<'_, '_> {
    fn initialise(&mut self, variable: usize) {
        self.default_value(&self.variables[variable]);
        self.code.push(Instruction::LocalSet(variable as u32));
    }

    /// Says which node runs, for the log line of an exception: at once, or where the node raises, and only then.
    fn mark(&mut self, node: &str, at_once: bool) {
        let names = [self.shared.data.text(&self.def.name), self.shared.data.text(node)];
        self.node = self.shared.data.words(&names);
        self.is_marked = at_once;
        self.mark_again();
    }

    /// Says it again, where a function that has ended said its own.
    fn mark_again(&mut self) {
        if self.is_marked {
            self.tell_node();
        }
    }

    fn tell_node(&mut self) {
        self.address(self.shared.runtime.node);
        self.address(self.node);
        self.code.push(Instruction::I32Store(slot_at(0)));
    }

    /// When the condition on the stack holds: raises by a call of the runtime, if it is not raised yet, and leaves.
    fn raise_if(&mut self, raise: Option<&str>) {
        self.open(Instruction::If(BlockType::Empty));
        if !self.is_marked {
            self.tell_node();
        }
        if let Some(raise) = raise {
            self.call(raise);
        }
        self.code.push(Instruction::Br(self.depth - self.caught));
        self.close();
    }

    /// Leaves when the node's own computation has raised.
    fn leave_if_failed(&mut self) {
        self.address(self.shared.runtime.pending);
        self.code.push(Instruction::I32Load(slot_at(0)));
        self.raise_if(None);
    }

    /// A local for a value that is used up before anything else is computed.
    fn scratch(&mut self, ty: ValType, number: usize) -> u32 {
        let key = (u8::from(ty == ValType::I64), number);
        if let Some(local) = self.scratch.get(&key) {
            return *local;
        }
        let local = self.temporary(ty);
        self.scratch.insert(key, local);
        local
    }

    /// The default of a variable, or of an input that a call leaves out.
    fn default_value(&mut self, of: &LocalDef) {
        if matches!(of.ty, Type::Record(_)) {
            let descriptor = self.shared.descriptor(&of.ty);
            self.address(descriptor);
            self.call("rt_new_record");
        } else if matches!(of.ty, Type::List(_)) {
            self.call("rt_new_list");
        } else if let Some(constant) = of.default.clone().or_else(|| literal::default_of(&of.ty)) {
            self.constant(&constant);
        } else {
            self.code.push(Instruction::I32Const(0));
        }
    }

    fn open(&mut self, block: Instruction<'static>) {
        self.depth += 1;
        self.code.push(block);
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.code.push(Instruction::End);
    }

    /// Leaves the action, or the innermost `try`, when an exception is on its way; what is on the stack is
    /// dropped by the branch.
    fn leave_if_raised(&mut self) {
        self.address(self.shared.runtime.pending);
        self.code.push(Instruction::I32Load(slot_at(0)));
        self.code.push(Instruction::BrIf(self.depth - self.caught));
    }

    fn temporary(&mut self, ty: ValType) -> u32 {
        self.locals.push(ty);
        (self.params + self.locals.len() - 1) as u32
    }

    fn call(&mut self, runtime: &str) {
        self.code.push(Instruction::Call(self.shared.runtime.function(runtime)));
    }

    fn address(&mut self, at: u32) {
        self.code.push(Instruction::I32Const(at as i32));
    }
}
