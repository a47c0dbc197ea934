//! Makes a program that fails smaller, as long as it fails: nodes are cut out or replaced by what is in them,
//! expressions by a part of them or by a default.
//!
//! A cut may take away what another part needs; the compiler refuses that, and the cut is not taken.

use super::program::*;
use super::values::*;

/// Smaller programs that were tried at most: each is compiled.
const TRIES_MAX: usize = 1500;

/// The smallest program found for which `fails` holds.
pub(crate) fn shrink(program: &Program, fails: impl Fn(&Program) -> bool) -> Program {
    let mut smallest = program.clone();
    let mut tries = 0;
    loop {
        let mut found = false;
        let mut at = 0;
        while tries < TRIES_MAX {
            let mut smaller = smallest.clone();
            let mut edit = Edit { left: at, done: false };
            edit.program(&mut smaller);
            if !edit.done {
                break;
            }
            tries += 1;
            if fails(&smaller) {
                (smallest, found) = (smaller, true);
            } else {
                at += 1;
            }
        }
        if !found {
            return smallest;
        }
    }
}

/// Does one of all edits: the one that is reached after passing over `left` others.
struct Edit {
    left: usize,
    done: bool,
}

impl Edit {
    /// Whether this is the edit to do.
    fn here(&mut self) -> bool {
        if self.done {
            return false;
        }
        self.done = self.left == 0;
        self.left = self.left.wrapping_sub(1);
        self.done
    }

    fn program(&mut self, program: &mut Program) {
        // The first is the one that fails, where a run and not the compiler told it.
        for at in (1..program.methods.len()).rev() {
            if self.here() {
                program.methods.remove(at);
                return;
            }
        }
        for action in program.methods.iter_mut().chain(program.actions.iter_mut().rev()) {
            if !action.handlers.is_empty() && self.here() {
                action.handlers.clear();
                return;
            }
            self.flow(&mut action.flow);
            action.handlers.iter_mut().for_each(|handler| self.flow(&mut handler.flow));
        }
        // What nothing uses any more.
        for action in program.methods.iter_mut().chain(&mut program.actions) {
            for at in (action.inputs + action.outputs..action.inputs + action.outputs + action.locals).rev() {
                let var = &mut action.vars[at];
                if var.default.is_some() && self.here() {
                    var.default = None;
                    return;
                }
            }
        }
        for structure in &mut program.structures {
            for field in &mut structure.fields {
                if field.default.is_some() && self.here() {
                    field.default = None;
                    return;
                }
            }
        }
    }

    fn flow(&mut self, nodes: &mut Vec<Node>) {
        // Halves first, then one after the other.
        let half = nodes.len() / 2;
        if half > 1 && self.here() {
            nodes.drain(half..);
            return;
        }
        if half > 1 && self.here() {
            nodes.drain(..half);
            return;
        }
        for at in 0..nodes.len() {
            if self.here() {
                nodes.remove(at);
                return;
            }
            for flow in 0..flows(&mut nodes[at]).len() {
                if self.here() {
                    let inner = flows(&mut nodes[at])[flow].clone();
                    nodes.splice(at..=at, inner);
                    return;
                }
            }
            self.node(&mut nodes[at]);
            if self.done {
                return;
            }
        }
    }

    fn node(&mut self, node: &mut Node) {
        if let NodeKind::Assign(pairs) = &mut node.kind
            && pairs.len() > 1
        {
            for at in 0..pairs.len() {
                if self.here() {
                    pairs.remove(at);
                    return;
                }
            }
        }
        if let NodeKind::Switch { cases, .. } = &mut node.kind
            && cases.len() > 1
            && self.here()
        {
            cases.remove(0);
            return;
        }
        if let NodeKind::Try { handlers, .. } = &mut node.kind
            && handlers.len() > 1
        {
            for at in 0..handlers.len() {
                if self.here() {
                    handlers.remove(at);
                    return;
                }
            }
        }
        if let NodeKind::ForEach { start, max, .. } = &mut node.kind {
            for limit in [start, max] {
                if limit.is_some() && self.here() {
                    *limit = None;
                    return;
                }
            }
        }
        expressions(node).into_iter().for_each(|expr| self.expression(expr));
        flows(node).into_iter().for_each(|flow| self.flow(flow));
    }

    fn expression(&mut self, expr: &mut Expr) {
        let ty = expr.ty.clone();
        for at in 0..parts(expr).len() {
            let part = parts(expr)[at].clone();
            // A conversion prints as nothing, so that it must stand where it is.
            if part.ty == ty && !matches!(part.kind, Kind::Convert(_)) && self.here() {
                *expr = part;
                return;
            }
        }
        let is_leaf = matches!(expr.kind, Kind::Literal(_) | Kind::Var(_));
        let has_literal = matches!(ty, Ty::Bool | Ty::Int | Ty::Text | Ty::Date | Ty::Time | Ty::Dec);
        if !is_leaf && has_literal && self.here() {
            *expr = Expr { kind: Kind::Literal(Value::default_of(&ty, &[])), ty };
            return;
        }
        parts(expr).into_iter().for_each(|part| self.expression(part));
    }
}

fn parts(expr: &mut Expr) -> Vec<&mut Expr> {
    match &mut expr.kind {
        Kind::Literal(_) | Kind::Var(_) => Vec::new(),
        Kind::Field(of, _)
        | Kind::Length(of)
        | Kind::Empty(of)
        | Kind::Minus(of)
        | Kind::Not(of)
        | Kind::Convert(of)
        | Kind::Parens(of) => vec![of],
        Kind::Item(a, b) | Kind::Binary(_, a, b) => vec![a, b],
        Kind::If(a, b, c) => vec![a, b, c],
        Kind::Builtin(_, of) | Kind::Invoke(_, of) => of.iter_mut().collect(),
    }
}

fn expressions(node: &mut Node) -> Vec<&mut Expr> {
    match &mut node.kind {
        NodeKind::Assign(pairs) => pairs.iter_mut().flat_map(|(place, value)| [place, value]).collect(),
        NodeKind::If { condition, .. } => vec![condition],
        NodeKind::Switch { cases, .. } => cases.iter_mut().map(|(condition, _)| condition).collect(),
        NodeKind::ForEach { list, start, max, .. } => {
            [Some(list), start.as_mut(), max.as_mut()].into_iter().flatten().collect()
        }
        NodeKind::Cycle | NodeKind::Exit | NodeKind::Return | NodeKind::Try { .. } => Vec::new(),
        NodeKind::Call { with, .. } => with.iter_mut().flatten().collect(),
        NodeKind::Append { list, element } => vec![list, element],
        NodeKind::AppendAll { list, elements } => vec![list, elements],
        NodeKind::Insert { list, element, at } => vec![list, element, at],
        NodeKind::Remove { list, at } => vec![list, at],
        NodeKind::Clear { list } | NodeKind::Sort { list, .. } | NodeKind::Copy { list, .. } => vec![list],
        NodeKind::Search { list, condition, .. } => vec![list, condition],
        NodeKind::Serialize { value, .. } => vec![value],
        NodeKind::Deserialize { text, .. } => vec![text],
        NodeKind::Raise { message, .. } | NodeKind::Log { message, .. } => vec![message],
    }
}

fn flows(node: &mut Node) -> Vec<&mut Vec<Node>> {
    match &mut node.kind {
        NodeKind::If { then, otherwise, .. } => vec![then, otherwise],
        NodeKind::Switch { cases, otherwise } => {
            cases.iter_mut().map(|(_, flow)| flow).chain([otherwise]).collect()
        }
        NodeKind::ForEach { body, .. } => vec![body],
        NodeKind::Try { body, handlers } => {
            [body].into_iter().chain(handlers.iter_mut().map(|handler| &mut handler.flow)).collect()
        }
        _ => Vec::new(),
    }
}
