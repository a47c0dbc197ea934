//! Loops that free what an iteration leaves behind: which may, and what must be kept.
//!
//! The arena only grows, so a loop over many rows would end with all their garbage. A loop may give back
//! everything allocated since it began, at the end of an iteration, when every address of that part of the
//! arena that can still be read is in a place that is known here; those places are few, and what they hold
//! is moved to the front. Proof, over the ways in which an address can outlive its iteration:
//!
//! - Outputs of the body's nodes and elements of loops in it: their every read is in the body, after they
//!   were written in the same iteration ([`written_before_read`]). Nobody reads what they held before.
//! - An assignment to a variable from outside, or to an attribute reached from one through records: a kept
//!   place when the value is a text, a number or bytes, which nothing inside points out of. Records and lists
//!   are refused. A record is held by one variable only, because every store copies it, so two places are
//!   never the same slot; an element of a loop is the exception, it is the list's own record, and is no place.
//! - An assignment through an element or an index, which is another slot each time: refused, unless the
//!   value is [`Loop::is_old`], that is from before the loop.
//! - Adding to a list from outside, which also makes room in it: refused. Sorting, removing and clearing
//!   move what is there. What an action is called with or a statement binds is gone when it returns.
//! - An exception that a handler in the body takes: what was written before the `try` counts as written in
//!   the handlers, nothing else. One that leaves the loop finds no loop that goes on.
//!
//! Invariant: what is not understood is refused, and a refused loop is merely hungry.

use std::collections::{BTreeMap, BTreeSet};

use crate::ast::Leave;
use crate::types::*;
use crate::walk::each_node;

/// What is known of an action before its loops are lowered.
#[derive(Debug)]
pub(super) struct Uses {
    /// How often each variable is read.
    reads: BTreeMap<usize, u32>,
    elements: BTreeSet<usize>,
}

impl Uses {
    pub(super) fn of(nodes: &[TNode]) -> Uses {
        let mut uses = Uses { reads: BTreeMap::new(), elements: BTreeSet::new() };
        each_node(nodes, &mut |node| {
            reads(node, &mut |variable| *uses.reads.entry(variable).or_default() += 1);
            uses.elements.extend(node.kind.element().map(|(element, _)| element));
        });
        uses
    }

    /// How often a variable is read.
    pub(super) fn read_count(&self, variable: usize) -> u32 {
        self.reads.get(&variable).copied().unwrap_or(0)
    }

    /// Whether anything reads a variable.
    pub(super) fn reads(&self, variable: usize) -> bool {
        self.reads.contains_key(&variable)
    }
}

/// The variable that holds one element after the other, and where those come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Element {
    /// From a list that was there before the loop.
    OfList(usize),
    /// From the database: it was made for its iteration, and nobody else has it.
    Fetched(usize),
}

/// The places to keep at the end of an iteration; `None` when the loop must not free.
pub(super) fn kept<'n>(
    body: &'n [TNode],
    element: Element,
    variables: &[LocalDef],
    uses: &Uses,
) -> Option<Vec<&'n TExpr>> {
    let mut made = BTreeSet::new();
    let mut nested = BTreeMap::new();
    let mut begun = BTreeSet::new();
    if let Element::Fetched(element) = element {
        made.insert(element);
        begun.insert(element);
    }
    let mut inner_reads: BTreeMap<usize, u32> = BTreeMap::new();
    each_node(body, &mut |node| {
        made.extend(node.kind.outputs());
        nested.extend(node.kind.element());
        reads(node, &mut |variable| *inner_reads.entry(variable).or_default() += 1);
    });
    let passing: BTreeSet<usize> = made
        .iter()
        .chain(nested.keys())
        .copied()
        .filter(|variable| is_address(&variables[*variable].ty))
        .collect();
    if passing.iter().any(|variable| uses.reads.get(variable) != inner_reads.get(variable))
        || written_before_read(body, begun, &passing).is_none()
    {
        return None;
    }
    let mut found = Loop { element, made, nested, roots: BTreeSet::new() };
    let mut places: BTreeMap<Vec<usize>, &TExpr> = BTreeMap::new();
    let mut must_be_old = Vec::new();
    let mut refused = false;
    each_node(body, &mut |node| {
        if let TNodeKind::Assign(pairs) = &node.kind {
            for (target, value) in pairs.iter().filter(|(target, _)| is_address(&target.ty)) {
                let root = root_of(target);
                if root.is_some_and(|root| found.passes(root)) {
                    continue;
                }
                match path_of(target) {
                    _ if matches!(target.ty, Type::Record(_) | Type::List(_)) => refused = true,
                    Some(path) if !uses.elements.contains(&path[0]) => {
                        places.insert(path, target);
                    }
                    Some(_) | None => must_be_old.push(value),
                }
            }
        }
        if let TNodeKind::ListEdit { list, edit } = &node.kind {
            let adds = !matches!(edit, TListEdit::Remove { .. } | TListEdit::Clear);
            refused |= adds && !root_of(list).is_some_and(|root| found.passes(root));
        }
    });
    found.roots = places.keys().map(|path| path[0]).collect();
    let fits = !refused && must_be_old.iter().all(|value| found.is_old(value));
    fits.then(|| places.into_values().collect())
}

struct Loop<'n> {
    element: Element,
    /// Outputs of the body's nodes.
    made: BTreeSet<usize>,
    /// Elements of the loops in the body, and the lists they are of.
    nested: BTreeMap<usize, &'n TExpr>,
    /// The variables that kept places begin with.
    roots: BTreeSet<usize>,
}

impl Loop<'_> {
    /// Whether what is reached from a variable was made in this iteration and ends with it.
    fn passes(&self, variable: usize) -> bool {
        self.made.contains(&variable)
            || self.nested.get(&variable).and_then(|list| root_of(list)).is_some_and(|root| {
                // A loop's list cannot begin with its own element, so this ends.
                root != variable && self.passes(root)
            })
    }

    /// Whether a value was there before the loop. Nothing but old values is stored where this looks:
    /// what begins with a kept place's variable is excluded, and all other stores are checked by this.
    fn is_old(&self, value: &TExpr) -> bool {
        if !is_address(&value.ty) {
            return true;
        }
        match &value.kind {
            TKind::Constant(_) | TKind::Null => true,
            TKind::Local(variable) => {
                matches!(self.element, Element::OfList(element) if element == *variable)
                    || !(self.made.contains(variable)
                        || self.nested.contains_key(variable)
                        || self.roots.contains(variable))
            }
            TKind::Field(of, _) | TKind::Item(of, _) => self.is_old(of),
            TKind::If(_, then, otherwise) => self.is_old(then) && self.is_old(otherwise),
            TKind::Broken
            | TKind::Attribute(..)
            | TKind::Setting(_)
            | TKind::Calculated(_)
            | TKind::Length(_)
            | TKind::Negate(_)
            | TKind::Not(_)
            | TKind::Arithmetic(..)
            | TKind::Concat(..)
            | TKind::Compare(..)
            | TKind::Logic(..)
            | TKind::Convert(_)
            | TKind::Builtin(..)
            | TKind::Invoke(..) => false,
        }
    }
}

/// Whether a value of the type is an address in the arena or in the app's data.
pub(super) fn is_address(ty: &Type) -> bool {
    match ty {
        Type::Decimal
        | Type::Text
        | Type::TextIdentifier(_)
        | Type::Email
        | Type::Phone
        | Type::Binary
        | Type::Record(_)
        | Type::List(_) => true,
        Type::Unknown
        | Type::Boolean
        | Type::Integer
        | Type::Long
        | Type::Date
        | Type::Time
        | Type::DateTime
        | Type::Identifier(_) => false,
    }
}

/// The variable that a place begins with.
fn root_of(place: &TExpr) -> Option<usize> {
    let mut place = place;
    loop {
        if let TKind::Field(of, _) | TKind::Item(of, _) = &place.kind {
            place = of;
        } else {
            return if let TKind::Local(variable) = place.kind { Some(variable) } else { None };
        }
    }
}

/// The variable and the attributes that lead to a place; `None` when an index does.
fn path_of(place: &TExpr) -> Option<Vec<usize>> {
    let (mut place, mut path) = (place, Vec::new());
    while let TKind::Field(of, index) = &place.kind {
        path.push(*index);
        place = of;
    }
    path.push(if let TKind::Local(variable) = place.kind { Some(variable) } else { None }?);
    path.reverse();
    Some(path)
}

/// Which of `passing` are certainly written after the nodes, when `written` are before; `None` when one
/// may be read that is not.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "nodes without a flow are alike: they write their outputs"
)]
fn written_before_read(
    nodes: &[TNode],
    mut written: BTreeSet<usize>,
    passing: &BTreeSet<usize>,
) -> Option<BTreeSet<usize>> {
    for node in nodes {
        // An element can be read in its loop or search only, where it is written before everything else.
        written.extend(node.kind.element().map(|(element, _)| element));
        let mut fine = true;
        reads(node, &mut |variable| fine &= !passing.contains(&variable) || written.contains(&variable));
        if !fine {
            return None;
        }
        match &node.kind {
            // It may run for no element at all, and end anywhere.
            TNodeKind::ForEach { body, .. } => {
                written_before_read(body, written.clone(), passing)?;
            }
            // Nothing comes after these.
            TNodeKind::Raise { .. } | TNodeKind::Leave(Leave::Return | Leave::Cycle | Leave::Exit) => {
                written.extend(passing);
            }
            // The body may end anywhere, so a handler knows of nothing that it wrote.
            TNodeKind::Try { body, handlers } => {
                let mut after = written_before_read(body, written.clone(), passing)?;
                for handler in handlers {
                    let mut before = written.clone();
                    before.insert(handler.message);
                    after = common(&after, &written_before_read(&handler.flow, before, passing)?);
                }
                written = after;
            }
            TNodeKind::If { then, otherwise, .. } => {
                let then = written_before_read(then, written.clone(), passing)?;
                written = common(&then, &written_before_read(otherwise, written, passing)?);
            }
            TNodeKind::Switch { cases, otherwise } => {
                let mut after = written_before_read(otherwise, written.clone(), passing)?;
                for (_, flow) in cases {
                    after = common(&after, &written_before_read(flow, written.clone(), passing)?);
                }
                written = after;
            }
            // An assignment to an output is no reason to think that the output was written.
            kind => written.extend(kind.outputs()),
        }
    }
    Some(written)
}

fn common(a: &BTreeSet<usize>, b: &BTreeSet<usize>) -> BTreeSet<usize> {
    a.intersection(b).copied().collect()
}

/// The variables that a node itself reads, not those inside it.
fn reads(node: &TNode, look: &mut impl FnMut(usize)) {
    node.kind.expressions().into_iter().for_each(|expr| expr.reads(look));
}
