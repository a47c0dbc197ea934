//! Stacks for wasmtime, on which guests run, with the functions of the host that they call. What one guest left there no other one can read: only compiled code
//! and the host use a stack, and both write what they read.

#![expect(
    unsafe_code,
    reason = "compiled code trusts that a stack is there, and that what is below it is protected"
)]

use std::ops::Range;
use std::sync::Arc;

use wasmtime::{StackCreator, StackMemory};

use super::{Lent, Pool};

/// Makes stacks.
pub(crate) struct Stacks(Arc<Pool>);

impl Stacks {
    /// As many as `count_max`, those included that wait for another guest.
    pub(crate) fn new(count_max: usize) -> Self {
        Self(Pool::new(count_max))
    }
}

// SAFETY: all of a mapping can be touched, and it has a guard below; nobody else has it while `Stack` does.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, bytes: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let mut lent = self.0.lend(bytes, rustix::param::page_size(), bytes)?;
        if zeroed {
            // SAFETY: nobody has it yet.
            unsafe { lent.clear(bytes)? };
        }
        Ok(Box::new(Stack(lent)))
    }
}

/// One stack, until it is dropped.
struct Stack(Lent);

// SAFETY: the mapping can be written, does not move, and has a guard below.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.0.base().wrapping_add(self.0.reserved())
    }

    fn range(&self) -> Range<usize> {
        self.0.base().addr()..self.top().addr()
    }

    fn guard_range(&self) -> Range<*mut u8> {
        self.0.base().wrapping_sub(self.0.guard())..self.0.base()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::super::NoRoom;
    use super::super::tests::part_at;
    use super::*;

    #[test]
    fn a_stack_is_used_again_and_has_a_guard() {
        let (stacks, bytes) = (Stacks::new(4), 1 << 20);
        let stack = stacks.new_stack(bytes, false).unwrap();
        let (range, guard) = (stack.range(), stack.guard_range());
        assert_eq!((range.len(), stack.top().addr()), (bytes, range.end));
        assert_eq!((guard.end.addr(), guard.start < guard.end), (range.start, true));
        assert_eq!(part_at(guard.start.addr()).permissions, "---p");
        assert_eq!([range.start, range.end - 1].map(|place| part_at(place).permissions), ["rw-p", "rw-p"]);
        drop(stack);
        assert_eq!(stacks.new_stack(bytes, true).unwrap().range(), range);
        assert_ne!(
            stacks.new_stack(bytes / 2, false).unwrap().range().len(),
            bytes,
            "another size is another stack"
        );
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let stacks = Stacks::new(2);
        let [one, two] = [(); 2].map(|()| stacks.new_stack(1 << 20, false).unwrap());
        assert!(NoRoom::is_why(&stacks.new_stack(1 << 20, false).err().unwrap()));
        drop(one);
        let one = stacks.new_stack(2 << 20, false).unwrap(); // the idle one makes room for another size
        assert!(NoRoom::is_why(&stacks.new_stack(1 << 20, false).err().unwrap()));
        drop((one, two));
        let _two = [(); 2].map(|()| stacks.new_stack(1 << 20, false).unwrap());
    }
}
