//! Counts what a thread allocates. (Worker threads of rayon are not counted; they get pieces of bounded size.)

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

/// No reader needs so much at once for a file of a few kilobytes; the system might grant it all the same.
const ABSURD: usize = 1 << 30;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static EXECUTION: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: passes on to the system's allocator, and counts in cells that need no allocation.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > ABSURD {
            // The program ends here, so that the test cannot say which input it was.
            let (execution, size) = (EXECUTION.get(), layout.size());
            let _ = writeln!(std::io::stderr(), "execution {execution} asks for {size} bytes at once");
            return std::ptr::null_mut();
        }
        LIVE.set(LIVE.get() + layout.size() as isize);
        PEAK.set(PEAK.get().max(LIVE.get()));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Begins to count for an execution.
pub fn start(execution: u64) {
    EXECUTION.set(execution);
    LIVE.set(0);
    PEAK.set(0);
}

/// The most that was allocated at one time since [`start`].
pub fn peak() -> usize {
    PEAK.get() as usize
}
