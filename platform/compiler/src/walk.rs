//! What typed nodes and expressions are made of, for everything that has to look at all of them.
//!
//! A new kind of node or expression is described here once; [`crate::lower`]'s proofs and the warnings of
//! [`crate::check`] follow. Invariant: every expression that a node evaluates and every flow inside it is named.

use crate::types::*;

impl TExpr {
    /// The expressions right inside this one.
    pub(crate) fn parts(&self) -> Vec<&TExpr> {
        match &self.kind {
            TKind::Broken
            | TKind::Constant(_)
            | TKind::Null
            | TKind::Local(_)
            | TKind::Attribute(..)
            | TKind::Setting(_)
            | TKind::Calculated(_) => Vec::new(),
            TKind::Field(a, _) | TKind::Length(a) | TKind::Negate(a) | TKind::Not(a) | TKind::Convert(a) => {
                vec![a]
            }
            TKind::Item(a, b)
            | TKind::Arithmetic(_, a, b)
            | TKind::Concat(a, b)
            | TKind::Compare(_, a, b)
            | TKind::Logic(_, a, b) => vec![a, b],
            TKind::If(a, b, c) => vec![a, b, c],
            TKind::Builtin(_, arguments) => arguments.iter().collect(),
            TKind::Invoke(_, arguments) => arguments.iter().flatten().collect(),
        }
    }

    /// Looks at this expression and every one inside it.
    pub(crate) fn each(&self, look: &mut impl FnMut(&TExpr)) {
        look(self);
        self.parts().into_iter().for_each(|part| part.each(look));
    }

    /// Looks at every variable that is read.
    pub(crate) fn reads(&self, look: &mut impl FnMut(usize)) {
        self.each(&mut |part| {
            if let TKind::Local(variable) = part.kind {
                look(variable);
            }
        });
    }
}

impl TNodeKind {
    /// The expressions that the node itself evaluates. The target of an assignment is one when it is inside
    /// a variable: writing to a part of a variable reads it.
    pub(crate) fn expressions(&self) -> Vec<&TExpr> {
        match self {
            TNodeKind::Assign(pairs) => pairs
                .iter()
                .flat_map(|(target, value)| {
                    let inside = !matches!(target.kind, TKind::Local(_));
                    [Some(value), inside.then_some(target)].into_iter().flatten()
                })
                .collect(),
            TNodeKind::If { condition, .. } => vec![condition],
            TNodeKind::Switch { cases, .. } => cases.iter().map(|(condition, _)| condition).collect(),
            TNodeKind::ForEach { list, start, max, .. } => {
                [Some(list), start.as_ref(), max.as_ref()].into_iter().flatten().collect()
            }
            TNodeKind::Call { arguments, .. } | TNodeKind::Trigger { arguments, .. } => {
                arguments.iter().flatten().collect()
            }
            TNodeKind::Get { id, .. } | TNodeKind::Delete { id, .. } => vec![id],
            TNodeKind::Aggregate { query, .. } => query.expressions().collect(),
            TNodeKind::Sql { statement, .. } => statement.parameters.iter().collect(),
            TNodeKind::Create { value, .. }
            | TNodeKind::Update { value, .. }
            | TNodeKind::CreateOrUpdate { value, .. }
            | TNodeKind::Serialize { value, .. } => vec![value],
            TNodeKind::Raise { message, .. } | TNodeKind::Log { message, .. } => vec![message],
            TNodeKind::Deserialize { text, .. } => vec![text],
            TNodeKind::ListEdit { list, edit } => match edit {
                TListEdit::Append(other) | TListEdit::AppendAll(other) | TListEdit::Remove { at: other } => {
                    vec![list, other]
                }
                TListEdit::Insert { element, at } => vec![list, element, at],
                TListEdit::Clear => vec![list],
            },
            TNodeKind::ListSort { list, .. }
            | TNodeKind::ListCopy { list, .. }
            | TNodeKind::CreateOrUpdateSome { list, .. } => vec![list],
            TNodeKind::ListSearch { list, condition, .. } => vec![list, condition],
            TNodeKind::Try { .. }
            | TNodeKind::Wake { .. }
            | TNodeKind::Commit
            | TNodeKind::Abort
            | TNodeKind::Leave(_) => Vec::new(),
        }
    }

    /// The flows inside the node.
    pub(crate) fn flows(&self) -> Vec<&[TNode]> {
        match self {
            TNodeKind::If { then, otherwise, .. } => vec![then, otherwise],
            TNodeKind::Switch { cases, otherwise } => {
                cases.iter().map(|(_, flow)| flow).chain([otherwise]).map(Vec::as_slice).collect()
            }
            TNodeKind::ForEach { body, .. } => vec![body],
            TNodeKind::Try { body, handlers } => {
                [body].into_iter().chain(handlers.iter().map(|h| &h.flow)).map(Vec::as_slice).collect()
            }
            TNodeKind::Assign(_)
            | TNodeKind::Call { .. }
            | TNodeKind::Get { .. }
            | TNodeKind::Aggregate { .. }
            | TNodeKind::Sql { .. }
            | TNodeKind::Create { .. }
            | TNodeKind::Update { .. }
            | TNodeKind::CreateOrUpdate { .. }
            | TNodeKind::CreateOrUpdateSome { .. }
            | TNodeKind::Delete { .. }
            | TNodeKind::Raise { .. }
            | TNodeKind::Log { .. }
            | TNodeKind::Serialize { .. }
            | TNodeKind::Deserialize { .. }
            | TNodeKind::ListEdit { .. }
            | TNodeKind::ListSort { .. }
            | TNodeKind::ListSearch { .. }
            | TNodeKind::ListCopy { .. }
            | TNodeKind::Wake { .. }
            | TNodeKind::Trigger { .. }
            | TNodeKind::Commit
            | TNodeKind::Abort
            | TNodeKind::Leave(_) => Vec::new(),
        }
    }

    /// The variables that the node writes besides assignments: its outputs, and the messages of its handlers,
    /// which nobody can read elsewhere.
    pub(crate) fn outputs(&self) -> Vec<usize> {
        match self {
            TNodeKind::Call { outputs, .. } => outputs.clone(),
            TNodeKind::Get { out, .. }
            | TNodeKind::Create { out, .. }
            | TNodeKind::CreateOrUpdate { out, .. }
            | TNodeKind::CreateOrUpdateSome { out, .. }
            | TNodeKind::Serialize { out, .. }
            | TNodeKind::Deserialize { out, .. }
            | TNodeKind::ListSearch { out, .. }
            | TNodeKind::ListCopy { out, .. } => vec![*out],
            TNodeKind::Aggregate { list, count, .. } => vec![*list, *count],
            TNodeKind::Sql { list, count, .. } => list.iter().chain([count]).copied().collect(),
            TNodeKind::Try { handlers, .. } => handlers.iter().map(|h| h.message).collect(),
            TNodeKind::Assign(_)
            | TNodeKind::If { .. }
            | TNodeKind::Switch { .. }
            | TNodeKind::ForEach { .. }
            | TNodeKind::Update { .. }
            | TNodeKind::Delete { .. }
            | TNodeKind::Raise { .. }
            | TNodeKind::Log { .. }
            | TNodeKind::ListEdit { .. }
            | TNodeKind::ListSort { .. }
            | TNodeKind::Wake { .. }
            | TNodeKind::Trigger { .. }
            | TNodeKind::Commit
            | TNodeKind::Abort
            | TNodeKind::Leave(_) => Vec::new(),
        }
    }

    /// The variable that stands for one element after the other, and the list that they are of.
    pub(crate) fn element(&self) -> Option<(usize, &TExpr)> {
        if let TNodeKind::ForEach { element, list, .. } | TNodeKind::ListSearch { element, list, .. } = self {
            Some((*element, list))
        } else {
            None
        }
    }
}

/// Looks at every node, those inside others too.
pub(crate) fn each_node<'n>(nodes: &'n [TNode], look: &mut impl FnMut(&'n TNode)) {
    for node in nodes {
        look(node);
        node.kind.flows().into_iter().for_each(|flow| each_node(flow, look));
    }
}

/// The actions that a flow calls, each once.
pub(crate) fn callees(nodes: &[TNode]) -> Vec<usize> {
    let mut found = Vec::new();
    each_node(nodes, &mut |node| {
        if let TNodeKind::Call { action, .. } = &node.kind {
            found.push(*action);
        }
        for expr in node.kind.expressions() {
            expr.each(&mut |part| {
                if let TKind::Invoke(action, _) = &part.kind {
                    found.push(*action);
                }
            });
        }
    });
    found.sort_unstable();
    found.dedup();
    found
}

/// For every action those that it calls. A method of somebody else's API calls the hooks of the API.
pub(crate) fn calls(typed: &Typed) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = typed.bodies.iter().map(|body| callees(&body.nodes)).collect();
    for request in &typed.requests {
        calls[request.action].extend(request.before.into_iter().chain(request.after));
    }
    calls
}
