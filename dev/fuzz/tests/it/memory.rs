//! An allocator that counts, per thread, so that an input that takes too much memory is found.

#![allow(unsafe_code, reason = "an allocator is unsafe to implement")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::Write,
};

/// A single block over this is not even tried: the seed is printed, and the program ends.
const BLOCK_BYTES_MAX: usize = 4 << 30;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State { now: 0, peak: 0, seed: 0 }) };
}

#[derive(Clone, Copy)]
struct State {
    now: isize,
    peak: isize,
    seed: u64,
}

/// Watches the memory that this thread takes.
pub(crate) struct Watch;

impl Watch {
    /// Starts to count. `seed` is printed if a block is absurdly large.
    pub(crate) fn start(seed: u64) -> Self {
        STATE.set(State { now: 0, peak: 0, seed });
        Self
    }

    /// The most memory that was taken at once since the start.
    pub(crate) fn peak_bytes(&self) -> usize {
        STATE.get().peak.max(0) as usize
    }
}

struct Counting;

fn count(taken: usize, given_back: usize) {
    // While a thread ends there is nothing to count any more.
    let counted = STATE.try_with(|cell| {
        let mut state = cell.get();
        state.now += taken as isize - given_back as isize;
        state.peak = state.peak.max(state.now);
        cell.set(state);
        state.seed
    });
    if let Ok(seed) = counted
        && taken > BLOCK_BYTES_MAX
    {
        // Neither panicking nor formatting into memory is possible here.
        let mut stderr = std::io::stderr();
        let _ =
            writeln!(stderr, "a block of {taken} bytes was asked for; BRIGADE_FUZZ_SEED={seed}");
        std::process::abort();
    }
}

// SAFETY: all calls are passed on to the system's allocator, unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract of `alloc`, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the pointer comes from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as for `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as for `dealloc`, and the caller keeps the contract on `size`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
