//! Which actions may call themselves, directly or through others: only those count how deep they are.

/// For every action whether it is on a circle of calls. An action between two circles counts too, which costs
/// it two calls and nothing else.
pub(super) fn recursive(calls: &[Vec<usize>]) -> Vec<bool> {
    let mut callers: Vec<Vec<usize>> = vec![Vec::new(); calls.len()];
    for (caller, callees) in calls.iter().enumerate() {
        callees.iter().for_each(|callee| callers[*callee].push(caller));
    }
    let (mut down, up) = (without_end(calls, &callers), without_end(&callers, calls));
    down.iter_mut().zip(up).for_each(|(down, up)| *down &= up);
    down
}

/// The places from which the edges lead on for ever: what has none left is taken away, again and again.
fn without_end(edges: &[Vec<usize>], back: &[Vec<usize>]) -> Vec<bool> {
    let mut open: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut endless = vec![true; edges.len()];
    let mut ready: Vec<usize> = (0..edges.len()).filter(|place| open[*place] == 0).collect();
    while let Some(place) = ready.pop() {
        endless[place] = false;
        for from in &back[place] {
            open[*from] -= 1;
            if open[*from] == 0 {
                ready.push(*from);
            }
        }
    }
    endless
}
