//! Where in an app a trap came from: the action, the node and its place in the text.
//!
//! The compiler of OML writes it into the names of functions (`platform/compiler/src/emit/names.rs` has the format),
//! which native code keeps. It is read when a guest has trapped and not before. A component made otherwise has
//! names of another kind, or none, and no origin: a guest's name is text that anybody may have written.

use wasmtime::WasmBacktrace;

/// What ran when a guest trapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The action.
    pub action: String,
    /// The node of its flow; empty before the first one.
    pub node: String,
    /// File and line of the node, like `rest.yaml:12`; empty where there is no node.
    pub place: String,
}

/// Characters of a name that are shown: those of OML have at most 50, and an action has the name of its API in front.
const NAME_MAX: usize = 120;

/// The origin of an error that a guest's trap made. The innermost frames are the library of the app, and an action
/// that is only being entered has no node yet: then it is the node that called it.
pub fn of(error: &wasmtime::Error) -> Option<Origin> {
    let backtrace = error.downcast_ref::<WasmBacktrace>()?;
    let frames = backtrace.frames().iter();
    let mut origins = frames.filter_map(|frame| read(frame.func_name()?, frame.func_offset()?));
    let innermost = origins.next()?;
    if innermost.node.is_empty() {
        return origins.find(|origin| !origin.node.is_empty()).or(Some(innermost));
    }
    Some(innermost)
}

/// Reads a function's name, for a place so many bytes into it.
fn read(name: &str, offset: usize) -> Option<Origin> {
    let mut lines = name.lines();
    let (action, file) = lines.next()?.split_once('\t')?;
    let marks = lines.filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        Some((parts.next()?.parse::<usize>().ok()?, parts.next()?, parts.next()?))
    });
    let (_, line, node) = marks.take_while(|(from, ..)| *from <= offset).last().unwrap_or_default();
    let place = if line.is_empty() { String::new() } else { shown(&format!("{file}:{line}")) };
    Some(Origin { action: shown(action), node: shown(node), place })
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_mark_before_the_place_says_the_node() {
        let name = "Shop.Pay\trest.yaml\n10:3:Find\n20:5:Check: it\n31::";
        let at = |offset| read(name, offset).map(|o| (o.node, o.place)).unwrap();
        assert_eq!(at(9), (String::new(), String::new()));
        assert_eq!(at(10), ("Find".to_owned(), "rest.yaml:3".to_owned()));
        assert_eq!(at(30), ("Check: it".to_owned(), "rest.yaml:5".to_owned()));
        assert_eq!(at(99), (String::new(), String::new()));
        assert_eq!(read(name, 0).unwrap().action, "Shop.Pay");
    }

    #[test]
    fn other_names_are_no_origin() {
        for name in ["", "alloc::vec::Vec<T>::push", "memcpy\n1:2:3", "_ZN4core3fmt"] {
            assert_eq!(read(name, 5), None, "{name}");
        }
        let odd = read("a\tb\nx:1:n\n5:no number\n7:1:ok", 8).unwrap();
        assert_eq!((odd.node.as_str(), odd.place.as_str()), ("ok", "b:1"));
        assert_eq!(read(&format!("{}\t", "x".repeat(1000)), 0).unwrap().action.len(), NAME_MAX);
    }
}
