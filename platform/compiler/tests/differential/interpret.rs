//! Runs a program by walking its tree, as docs/oml/language.md says that it runs.
//!
//! Written from the reference and the tree of [`super::program`] alone: nothing of the compiler or the runtime library
//! is used. A run ends early without a result ([`Stop::TooMuch`], [`Stop::Unknown`]) where it would go on for too
//! long, or where the reference does not say what comes out; such a run is compared with nothing.

use std::cell::RefCell;
use std::rc::Rc;

use num_bigint::BigInt;

use super::builtins;
use super::program::*;
use super::values::*;

/// Nodes and expressions of one run.
const STEPS_MAX: usize = 20_000;
/// Bytes of texts, records and lists made by one run. An instance of the test has six times as many.
const BYTES_MAX: usize = 20 << 20;
/// "Actions may call themselves, up to 250 levels deep."
const LEVELS_MAX: usize = 250;

/// What the client sees, and the app's owner in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) status: u16,
    /// The JSON of a success, the message of an exception.
    pub(crate) answer: String,
    pub(crate) log: Vec<String>,
}

/// Why there is nothing to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unclear {
    TooMuch,
    Unknown,
}

enum Stop {
    Raised(Raised),
    TooMuch,
    Unknown,
}

#[derive(Debug, Clone)]
struct Raised {
    /// None is what only All takes.
    kind: Option<Exception>,
    status: u16,
    message: String,
    /// Action and node.
    origin: (String, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Cycle,
    Exit,
    Return,
}

type Done<T> = Result<T, Stop>;

/// Runs a method with the JSON text of its inputs.
pub(crate) fn run(program: &Program, method: usize, body: &str) -> Result<Outcome, Unclear> {
    let action = &program.methods[method];
    let mut run = Run { program, steps: 0, bytes: 0, levels: 0, log: Vec::new(), at: Vec::new() };
    let input = from_json(body, &action.vars[0].ty, &program.structures).ok_or(Unclear::Unknown)?;
    let result = run.action(action, &format!("A.{}", action.name), vec![input]);
    match result {
        Ok(outputs) => {
            let vars = &action.vars[action.inputs..];
            let mut shown: Vec<String> = Vec::new();
            for (var, value) in vars.iter().zip(&outputs) {
                shown.push(to_json(value, &var.ty, &program.structures, true));
            }
            let answer = if let [one] = &shown[..] {
                one.clone()
            } else {
                let pairs = vars.iter().zip(&shown).map(|(var, value)| format!("\"{}\":{value}", var.name));
                format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
            };
            Ok(Outcome { status: 200, answer, log: run.log })
        }
        Err(Stop::Raised(raised)) => {
            run.report(&raised);
            Ok(Outcome { status: raised.status, answer: raised.message, log: run.log })
        }
        Err(Stop::TooMuch) => Err(Unclear::TooMuch),
        Err(Stop::Unknown) => Err(Unclear::Unknown),
    }
}

/// The parent of an exception; nothing is above All.
fn parent(exception: Exception) -> Option<Exception> {
    match exception {
        Exception::All => None,
        Exception::Own(_) => Some(Exception::User),
        Exception::InvalidLogin | Exception::NotRegistered => Some(Exception::Security),
        Exception::User | Exception::Database | Exception::Security | Exception::Communication => {
            Some(Exception::All)
        }
    }
}

fn status_of(exception: Exception) -> u16 {
    match exception {
        Exception::InvalidLogin => 401,
        Exception::Security | Exception::NotRegistered => 403,
        _ => 400,
    }
}

fn default_name(kind: &NodeKind, program: &Program) -> String {
    match kind {
        NodeKind::Assign(_) => "Assign",
        NodeKind::If { .. } => "If",
        NodeKind::Switch { .. } => "Switch",
        NodeKind::ForEach { .. } => "ForEach",
        NodeKind::Cycle | NodeKind::Exit | NodeKind::Return => "End",
        NodeKind::Call { action, .. } => &program.actions[*action].name,
        NodeKind::Append { .. } => "ListAppend",
        NodeKind::AppendAll { .. } => "ListAppendAll",
        NodeKind::Insert { .. } => "ListInsert",
        NodeKind::Remove { .. } => "ListRemove",
        NodeKind::Clear { .. } => "ListClear",
        NodeKind::Sort { .. } => "ListSort",
        NodeKind::Search { .. } => "Search",
        NodeKind::Copy { .. } => "Copy",
        NodeKind::Serialize { .. } => "JSONSerialize",
        NodeKind::Deserialize { .. } => "JSONDeserialize",
        NodeKind::Try { .. } => "Try",
        NodeKind::Raise { exception, .. } => return format!("Raise{}", exception.name()),
        NodeKind::Log { .. } => "LogMessage",
    }
    .to_owned()
}

struct Run<'p> {
    program: &'p Program,
    steps: usize,
    bytes: usize,
    levels: usize,
    log: Vec<String>,
    /// The actions and nodes that run, innermost last.
    at: Vec<(String, String)>,
}

/// Where an action's variables are.
struct Frame<'p> {
    action: &'p Action,
    shown: String,
    vars: Vec<Value>,
}

impl<'p> Run<'p> {
    fn step(&mut self) -> Done<()> {
        self.steps += 1;
        if self.steps > STEPS_MAX { Err(Stop::TooMuch) } else { Ok(()) }
    }

    fn made(&mut self, value: Value) -> Done<Value> {
        self.bytes += value.weight();
        if self.bytes > BYTES_MAX { Err(Stop::TooMuch) } else { Ok(value) }
    }

    fn raise<T>(&self, message: impl Into<String>) -> Done<T> {
        self.raise_as(None, 500, message.into())
    }

    fn raise_as<T>(&self, kind: Option<Exception>, status: u16, message: String) -> Done<T> {
        let origin = self.at.last().cloned().unwrap_or_default();
        Err(Stop::Raised(Raised { kind, status, message, origin }))
    }

    fn report(&mut self, raised: &Raised) {
        let level = if raised.status < 500 { "warning" } else { "error" };
        self.write(level, &raised.message, &raised.origin);
    }

    fn write(&mut self, level: &str, message: &str, (action, node): &(String, String)) {
        self.log.push(format!("{level} {message:?} action={action:?} node={node:?}"));
    }

    /// Runs an action; gives its outputs.
    fn action(&mut self, action: &'p Action, shown: &str, inputs: Vec<Value>) -> Done<Vec<Value>> {
        let structures = &self.program.structures;
        let mut vars = inputs;
        for var in &action.vars[vars.len()..] {
            let declared = var.default.as_ref().map(|(_, value)| value.clone());
            vars.push(declared.unwrap_or_else(|| Value::default_of(&var.ty, structures)));
        }
        let mut frame = Frame { action, shown: shown.to_owned(), vars };
        let running = self.at.len();
        let flow = self.flow(&action.flow, &mut frame);
        let flow = match flow {
            Err(Stop::Raised(raised)) if !action.handlers.is_empty() => {
                self.handle(raised, &action.handlers, &mut frame)
            }
            other => other,
        };
        self.at.truncate(running);
        flow?;
        Ok(frame.vars.drain(action.inputs..action.inputs + action.outputs).collect())
    }

    fn flow(&mut self, nodes: &'p [Node], frame: &mut Frame<'p>) -> Done<Flow> {
        for node in nodes {
            self.step()?;
            let name = node.name.clone().unwrap_or_else(|| default_name(&node.kind, self.program));
            self.at.push((frame.shown.clone(), name));
            let flow = self.node(node, frame)?;
            self.at.pop();
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn node(&mut self, node: &'p Node, frame: &mut Frame<'p>) -> Done<Flow> {
        match &node.kind {
            NodeKind::Assign(pairs) => {
                for (place, value) in pairs {
                    let value = self.owned(value, frame)?;
                    self.assign(place, value, frame)?;
                }
            }
            NodeKind::If { condition, then, otherwise } => {
                let flow = if self.bool(condition, frame)? { then } else { otherwise };
                return self.flow(flow, frame);
            }
            NodeKind::Switch { cases, otherwise } => {
                for (condition, flow) in cases {
                    if self.bool(condition, frame)? {
                        return self.flow(flow, frame);
                    }
                }
                return self.flow(otherwise, frame);
            }
            NodeKind::ForEach { list, element, start, max, body } => {
                let list = self.list(list, frame)?;
                let count = list.borrow().len() as i64;
                let start = start.as_ref().map_or(Ok(0), |start| self.int(start, frame))?.max(0);
                let max = max.as_ref().map_or(Ok(0), |max| self.int(max, frame))?;
                let end = if max > 0 { count.min(start + max) } else { count };
                for index in start..end {
                    frame.vars[*element] = self.element(&list, index)?;
                    match self.flow(body, frame)? {
                        Flow::Next | Flow::Cycle => {}
                        Flow::Exit => break,
                        Flow::Return => return Ok(Flow::Return),
                    }
                }
            }
            NodeKind::Cycle => return Ok(Flow::Cycle),
            NodeKind::Exit => return Ok(Flow::Exit),
            NodeKind::Return => return Ok(Flow::Return),
            NodeKind::Call { action, with, outs } => {
                let mut inputs = Vec::new();
                for (var, value) in self.program.actions[*action].vars.iter().zip(with) {
                    inputs.push(self.input(var, value.as_ref(), frame)?);
                }
                let outputs = self.invoke(*action, inputs)?;
                for (out, value) in outs.iter().zip(outputs) {
                    frame.vars[*out] = value;
                }
            }
            NodeKind::Append { list, element } => {
                let element = self.owned(element, frame)?;
                self.list(list, frame)?.borrow_mut().push(element);
            }
            NodeKind::AppendAll { list, elements } => {
                let list = self.list(list, frame)?;
                let elements = self.owned(elements, frame)?;
                let Value::List(elements) = elements else { panic!("a list") };
                list.borrow_mut().extend(elements.take());
            }
            NodeKind::Insert { list, element, at } => {
                let element = self.owned(element, frame)?;
                let list = self.list(list, frame)?;
                let at = self.int(at, frame)?;
                let len = list.borrow().len() as i64;
                if !(0..=len).contains(&at) {
                    return self.raise(format!("Index {at} is out of range"));
                }
                list.borrow_mut().insert(at as usize, element);
            }
            NodeKind::Remove { list, at } => {
                let list = self.list(list, frame)?;
                let at = self.int(at, frame)?;
                self.element(&list, at)?;
                list.borrow_mut().remove(at as usize);
            }
            NodeKind::Clear { list } => self.list(list, frame)?.borrow_mut().clear(),
            NodeKind::Sort { list, by } => {
                let list = self.list(list, frame)?;
                list.borrow_mut().sort_by(|a, b| {
                    let part = |value: &Value, attribute: Option<usize>| match (attribute, value) {
                        (Some(at), Value::Rec(record)) => record.borrow()[at].clone(),
                        _ => value.clone(),
                    };
                    let orders = by.iter().map(|(attribute, descending)| {
                        let order = part(a, *attribute).compare(&part(b, *attribute));
                        if *descending { order.reverse() } else { order }
                    });
                    orders.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
                });
            }
            NodeKind::Search { search, list, element, condition, out } => {
                let list = self.list(list, frame)?;
                frame.vars[*out] = match search {
                    Search::Filter => Value::new_list(Vec::new()),
                    Search::Any => Value::Bool(false),
                    Search::All => Value::Bool(true),
                    Search::IndexOf => Value::Int(-1),
                };
                let elements = list.borrow().clone();
                for (at, value) in elements.into_iter().enumerate() {
                    frame.vars[*element] = value.clone();
                    let holds = self.bool(condition, frame)?;
                    match (search, holds, &mut frame.vars[*out]) {
                        (Search::Filter, true, Value::List(found)) => {
                            let found = found.clone();
                            let value = self.made(value.owned())?;
                            found.borrow_mut().push(value);
                        }
                        (Search::Any, true, out) => {
                            *out = Value::Bool(true);
                            break;
                        }
                        (Search::All, false, out) => {
                            *out = Value::Bool(false);
                            break;
                        }
                        (Search::IndexOf, true, out) => {
                            *out = Value::Int(at as i32);
                            break;
                        }
                        _ => {}
                    }
                }
            }
            NodeKind::Copy { distinct, list, out } => {
                let Value::List(copy) = self.owned(list, frame)? else { panic!("a list") };
                if *distinct {
                    let mut kept: Vec<Value> = Vec::new();
                    for value in copy.take() {
                        self.step()?;
                        if !kept.iter().any(|other| other.compare(&value).is_eq()) {
                            kept.push(value);
                        }
                    }
                    copy.replace(kept);
                }
                frame.vars[*out] = Value::List(copy);
            }
            NodeKind::Serialize { value, defaults, out } => {
                let json = to_json(&self.eval(value, frame)?, &value.ty, &self.program.structures, *defaults);
                frame.vars[*out] = self.made(Value::text(&json))?;
            }
            NodeKind::Deserialize { text, out } => {
                let text = self.text(text, frame)?;
                let ty = &frame.action.vars[*out].ty;
                let value = from_json(&text, ty, &self.program.structures).ok_or(Stop::Unknown)?;
                frame.vars[*out] = self.made(value)?;
            }
            NodeKind::Try { body, handlers } => {
                let running = self.at.len();
                return match self.flow(body, frame) {
                    Err(Stop::Raised(raised)) => {
                        self.at.truncate(running);
                        self.handle(raised, handlers, frame)
                    }
                    other => other,
                };
            }
            NodeKind::Raise { exception, message, status } => {
                let message = self.text(message, frame)?;
                let status = status.unwrap_or_else(|| status_of(*exception));
                return self.raise_as(Some(*exception), status, message.to_string());
            }
            NodeKind::Log { message, level } => {
                let message = self.text(message, frame)?;
                let origin = self.at.last().cloned().unwrap_or_default();
                self.write(level, &message, &origin);
            }
        }
        Ok(Flow::Next)
    }

    /// The handler that names the exception most closely; without one it goes on.
    fn handle(&mut self, raised: Raised, handlers: &'p [Handler], frame: &mut Frame<'p>) -> Done<Flow> {
        let mut name = Some(raised.kind.unwrap_or(Exception::All));
        while let Some(exception) = name {
            if let Some(handler) = handlers.iter().find(|handler| handler.exception == exception) {
                if handler.log {
                    self.report(&raised);
                }
                frame.vars[handler.message] = Value::text(&raised.message);
                return self.flow(&handler.flow, frame);
            }
            name = parent(exception);
        }
        Err(Stop::Raised(raised))
    }

    fn input(&mut self, var: &Var, value: Option<&'p Expr>, frame: &mut Frame<'p>) -> Done<Value> {
        match (value, &var.default) {
            (Some(value), _) => self.owned(value, frame),
            (None, Some((_, value))) => Ok(value.clone()),
            (None, None) => Ok(Value::default_of(&var.ty, &self.program.structures)),
        }
    }

    fn invoke(&mut self, action: usize, inputs: Vec<Value>) -> Done<Vec<Value>> {
        let callee = &self.program.actions[action];
        let recursive = calls(&callee.flow, action);
        self.levels += usize::from(recursive);
        if self.levels > LEVELS_MAX {
            self.levels -= 1;
            return self.raise(format!("Actions call one another more than {LEVELS_MAX} levels deep"));
        }
        let outputs = self.action(callee, &callee.name, inputs);
        self.levels -= usize::from(recursive);
        outputs
    }

    fn assign(&mut self, place: &'p Expr, value: Value, frame: &mut Frame<'p>) -> Done<()> {
        match &place.kind {
            Kind::Var(var) => frame.vars[*var] = value,
            Kind::Field(of, field) => {
                let Value::Rec(record) = self.eval(of, frame)? else { panic!("a record") };
                record.borrow_mut()[*field] = value;
            }
            Kind::Item(list, index) => {
                let list = self.list(list, frame)?;
                let index = self.int(index, frame)?;
                self.element(&list, index)?;
                list.borrow_mut()[index as usize] = value;
            }
            other => panic!("{other:?} is no place"),
        }
        Ok(())
    }

    fn element(&self, list: &Rc<RefCell<Vec<Value>>>, index: i64) -> Done<Value> {
        let found = usize::try_from(index).ok().and_then(|at| list.borrow().get(at).cloned());
        found.map_or_else(|| self.raise(format!("Index {index} is out of range")), Ok)
    }

    fn owned(&mut self, expr: &'p Expr, frame: &mut Frame<'p>) -> Done<Value> {
        let value = self.eval(expr, frame)?;
        match value {
            Value::Rec(_) | Value::List(_) => self.made(value.owned()),
            other => Ok(other),
        }
    }

    fn bool(&mut self, expr: &'p Expr, frame: &mut Frame<'p>) -> Done<bool> {
        let Value::Bool(value) = self.eval(expr, frame)? else { panic!("a Boolean") };
        Ok(value)
    }

    fn int(&mut self, expr: &'p Expr, frame: &mut Frame<'p>) -> Done<i64> {
        let Value::Int(value) = self.eval(expr, frame)? else { panic!("an Integer") };
        Ok(i64::from(value))
    }

    fn text(&mut self, expr: &'p Expr, frame: &mut Frame<'p>) -> Done<Rc<str>> {
        let Value::Text(value) = self.eval(expr, frame)? else { panic!("a Text") };
        Ok(value)
    }

    fn list(&mut self, expr: &'p Expr, frame: &mut Frame<'p>) -> Done<Rc<RefCell<Vec<Value>>>> {
        let Value::List(value) = self.eval(expr, frame)? else { panic!("a list") };
        Ok(value)
    }

    fn eval(&mut self, expr: &'p Expr, frame: &mut Frame<'p>) -> Done<Value> {
        self.step()?;
        Ok(match &expr.kind {
            Kind::Literal(value) => value.clone(),
            Kind::Var(var) => frame.vars[*var].clone(),
            Kind::Field(of, field) => {
                let Value::Rec(record) = self.eval(of, frame)? else { panic!("a record") };
                record.borrow()[*field].clone()
            }
            Kind::Item(list, index) => {
                let list = self.list(list, frame)?;
                let index = self.int(index, frame)?;
                self.element(&list, index)?
            }
            Kind::Length(list) => Value::Int(self.list(list, frame)?.borrow().len() as i32),
            Kind::Empty(list) => Value::Bool(self.list(list, frame)?.borrow().is_empty()),
            Kind::Minus(of) => {
                let zero = Value::default_of(&of.ty, &[]);
                let value = self.eval(of, frame)?;
                self.arithmetic(Op::Subtract, &zero, &value)?
            }
            Kind::Not(of) => Value::Bool(!self.bool(of, frame)?),
            Kind::Binary(Op::And, left, right) => {
                Value::Bool(self.bool(left, frame)? && self.bool(right, frame)?)
            }
            Kind::Binary(Op::Or, left, right) => {
                Value::Bool(self.bool(left, frame)? || self.bool(right, frame)?)
            }
            Kind::Binary(op, left, right) => {
                let (left, right) = (self.eval(left, frame)?, self.eval(right, frame)?);
                let order = |fits: fn(std::cmp::Ordering) -> bool| Value::Bool(fits(left.compare(&right)));
                match op {
                    Op::Less => order(std::cmp::Ordering::is_lt),
                    Op::LessEqual => order(std::cmp::Ordering::is_le),
                    Op::Greater => order(std::cmp::Ordering::is_gt),
                    Op::GreaterEqual => order(std::cmp::Ordering::is_ge),
                    Op::Equal => order(std::cmp::Ordering::is_eq),
                    Op::NotEqual => order(std::cmp::Ordering::is_ne),
                    Op::Join => {
                        let (Value::Text(left), Value::Text(right)) = (&left, &right) else {
                            panic!("texts")
                        };
                        self.made(Value::text(&format!("{left}{right}")))?
                    }
                    Op::Add | Op::Subtract | Op::Multiply | Op::Divide | Op::And | Op::Or => {
                        self.arithmetic(*op, &left, &right)?
                    }
                }
            }
            Kind::If(condition, then, otherwise) => {
                let chosen = if self.bool(condition, frame)? { then } else { otherwise };
                self.eval(chosen, frame)?
            }
            Kind::Builtin(builtin, arguments) => {
                let mut values = Vec::new();
                for argument in arguments {
                    values.push(self.eval(argument, frame)?);
                }
                self.made(builtins::call(builtin.name, &values))?
            }
            Kind::Invoke(function, arguments) => {
                let mut inputs = Vec::new();
                let vars = &self.program.actions[*function].vars;
                for (at, var) in vars.iter().take(self.program.actions[*function].inputs).enumerate() {
                    inputs.push(self.input(var, arguments.get(at), frame)?);
                }
                self.invoke(*function, inputs)?.remove(0)
            }
            Kind::Convert(of) => {
                let value = self.eval(of, frame)?;
                self.convert(value, &of.ty, &expr.ty)?
            }
            Kind::Parens(of) => self.eval(of, frame)?,
        })
    }

    fn arithmetic(&self, op: Op, left: &Value, right: &Value) -> Done<Value> {
        let exact = |a: BigInt, b: BigInt| match op {
            Op::Add => a + b,
            Op::Subtract => a - b,
            _ => a * b,
        };
        match (left, right) {
            (Value::Int(a), Value::Int(b)) => match i32::try_from(exact((*a).into(), (*b).into())) {
                Ok(value) => Ok(Value::Int(value)),
                Err(_) => self.raise("Integer overflow"),
            },
            (Value::Long(a), Value::Long(b)) => match i64::try_from(exact((*a).into(), (*b).into())) {
                Ok(value) => Ok(Value::Long(value)),
                Err(_) => self.raise("Long Integer overflow"),
            },
            (Value::Dec(a), Value::Dec(b)) => {
                let value = match op {
                    Op::Divide if *b == BigInt::ZERO => return self.raise("Division by zero"),
                    Op::Divide => builtins::divide_half_even(&(a * unit()), b),
                    Op::Multiply => builtins::divide_half_even(&(a * b), &unit()),
                    _ => exact(a.clone(), b.clone()),
                };
                if fits(&value) { Ok(Value::Dec(value)) } else { self.raise("Decimal overflow") }
            }
            _ => panic!("{op:?} of {left:?} and {right:?}"),
        }
    }

    fn convert(&mut self, value: Value, from: &Ty, to: &Ty) -> Done<Value> {
        Ok(match (value, to) {
            (Value::Bool(v), Ty::Int) => Value::Int(i32::from(v)),
            (Value::Bool(v), Ty::Long) => Value::Long(i64::from(v)),
            (Value::Bool(v), Ty::Dec) => Value::Dec(BigInt::from(u8::from(v)) * unit()),
            (Value::Int(v), Ty::Long) => Value::Long(v.into()),
            (Value::Int(v), Ty::Dec) => Value::Dec(BigInt::from(v) * unit()),
            (Value::Long(v), Ty::Dec) => Value::Dec(BigInt::from(v) * unit()),
            (Value::Dec(v), Ty::Int) => match i32::try_from(v / unit()) {
                Ok(value) => Value::Int(value),
                Err(_) => return self.raise("Integer overflow"),
            },
            (Value::Dec(v), Ty::Long) => match i64::try_from(v / unit()) {
                Ok(value) => Value::Long(value),
                Err(_) => return self.raise("Long Integer overflow"),
            },
            (Value::DateTime(v), Ty::Date) => Value::Date(v / DAY),
            (Value::Date(v), Ty::DateTime) => Value::DateTime(v * DAY),
            (Value::Time(v), Ty::DateTime) => Value::DateTime(v),
            (Value::Text(v), Ty::DateTime) => {
                Value::DateTime(builtins::read_date_time(v.trim()).unwrap_or(0))
            }
            (value, to) if to.is_text() => {
                let text = match value {
                    Value::Bool(v) => if v { "True" } else { "False" }.to_owned(),
                    Value::Int(v) => v.to_string(),
                    Value::Long(v) | Value::Id(v) => v.to_string(),
                    Value::Dec(v) => decimal_text(&v),
                    Value::Date(v) => date_text(v),
                    Value::Time(v) => time_text(v),
                    Value::DateTime(v) => date_time_text(v, " "),
                    Value::Text(v) => return Ok(Value::Text(v)),
                    other => panic!("{other:?} is no text"),
                };
                self.made(Value::text(&text))?
            }
            (Value::Id(v), Ty::Id | Ty::AnyId) => Value::Id(v),
            (value, to) => panic!("{value:?} of {from:?} does not become {to:?}"),
        })
    }
}

/// Whether a flow calls an action.
fn calls(nodes: &[Node], action: usize) -> bool {
    nodes.iter().any(|node| match &node.kind {
        NodeKind::Call { action: called, .. } => *called == action,
        NodeKind::If { then, otherwise, .. } => calls(then, action) || calls(otherwise, action),
        _ => false,
    })
}
