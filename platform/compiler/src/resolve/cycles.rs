//! Structures that contain themselves, or one another too deep.

use crate::problem::Problems;
use crate::types::*;

/// Structures in structures, in levels. With a list at each of them a document is twice as deep, and the
/// runtime reads JSON of 64 levels.
const STRUCTURE_DEPTH_MAX: usize = 30;

/// A record that contains itself, directly or through others, would have no end. Lists end the search:
/// an empty list contains nothing, but its descriptor would still be endless, so they count too.
/// Without recursion: the text decides how long a chain of structures is.
pub(super) fn find(named: &Named, problems: &mut Problems<'_>) {
    let parts: Vec<Vec<usize>> = named.records.iter().map(parts_of).collect();
    // Settled from the inside out: a record is as deep as its deepest part, and one more.
    let mut depths: Vec<Option<usize>> = vec![None; parts.len()];
    let mut containers: Vec<Vec<usize>> = vec![Vec::new(); parts.len()];
    let mut open: Vec<usize> = parts.iter().map(Vec::len).collect();
    for (index, parts) in parts.iter().enumerate() {
        for part in parts {
            containers[*part].push(index);
        }
    }
    let mut ready: Vec<usize> = (0..parts.len()).filter(|i| open[*i] == 0).collect();
    while let Some(index) = ready.pop() {
        let inner = parts[index].iter().filter_map(|part| depths[*part]).max().unwrap_or(0);
        depths[index] = Some(inner + 1);
        for container in &containers[index] {
            open[*container] -= 1;
            if open[*container] == 0 {
                ready.push(*container);
            }
        }
    }
    let circles = on_circles(&parts, &containers);
    for (index, record) in named.records.iter().enumerate() {
        match depths[index] {
            None if circles[index] => {
                let message = format!("the structure `{}` contains itself", record.name);
                problems.error("OML0301", record.span, message);
            }
            // Those around the first one that is too deep are not to blame.
            Some(depth) if depth == STRUCTURE_DEPTH_MAX + 1 => {
                let message =
                    format!("`{}` nests structures deeper than {STRUCTURE_DEPTH_MAX} levels", record.name);
                let hint = "refer to the inner ones by an identifier or a key".to_owned();
                problems.error_hint("OML0306", record.span, message, Some(hint));
            }
            None | Some(_) => {}
        }
    }
}

fn parts_of(record: &RecordDef) -> Vec<usize> {
    let parts = record.fields.iter().filter_map(|field| {
        let mut ty = &field.ty;
        while let Type::List(of) = ty {
            ty = of;
        }
        if let Type::Record(part) = ty { Some(*part) } else { None }
    });
    let mut parts: Vec<usize> = parts.collect();
    parts.sort_unstable();
    parts.dedup();
    parts
}

/// For every record whether it is inside itself. A record that only contains one that does, or is contained
/// in one, is not; so records are gathered into groups whose members contain one another (Kosaraju's
/// way): in the order in which the searches through the parts leave them, last first, each group is what is left
/// of those that contain its first member.
fn on_circles(parts: &[Vec<usize>], containers: &[Vec<usize>]) -> Vec<bool> {
    let mut left = Vec::new();
    let mut seen = vec![false; parts.len()];
    for start in 0..parts.len() {
        let mut open = Vec::new();
        if !std::mem::replace(&mut seen[start], true) {
            open.push((start, parts[start].iter()));
        }
        while let Some((record, inner)) = open.last_mut() {
            match inner.next() {
                Some(part) if !std::mem::replace(&mut seen[*part], true) => {
                    open.push((*part, parts[*part].iter()));
                }
                Some(_) => {}
                None => {
                    left.push(*record);
                    open.pop();
                }
            }
        }
    }
    let mut circles = vec![false; parts.len()];
    let mut grouped = vec![false; parts.len()];
    for first in left.into_iter().rev() {
        if std::mem::replace(&mut grouped[first], true) {
            continue;
        }
        let mut group = vec![first];
        let mut at = 0;
        while let Some(member) = group.get(at).copied() {
            at += 1;
            for container in &containers[member] {
                if !std::mem::replace(&mut grouped[*container], true) {
                    group.push(*container);
                }
            }
        }
        let is_circle = group.len() > 1 || parts[first].contains(&first);
        group.into_iter().for_each(|member| circles[member] = is_circle);
    }
    circles
}
