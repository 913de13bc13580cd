//! One slice written by several threads, each its own part.

use std::{marker::PhantomData, ops::Range};

/// A mutable slice that threads may cut parts from, as long as no two parts overlap.
pub struct DisjointSlice<'a, T> {
    pointer: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: sharing the slice lets threads write elements of type `T` that they do not own, which `T: Send` allows; that
// they do not write the same ones is the condition of `part`.
unsafe impl<T: Send> Sync for DisjointSlice<'_, T> {}
// SAFETY: as for a mutable reference.
unsafe impl<T: Send> Send for DisjointSlice<'_, T> {}

impl<'a, T> DisjointSlice<'a, T> {
    /// Takes the slice for as long as its parts are in use.
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// The elements in `range`.
    ///
    /// # Panics
    /// If the range is not within the slice.
    ///
    /// # Safety
    /// No part in use at the same time, on any thread, may overlap this one.
    #[expect(clippy::mut_from_ref, reason = "this is the purpose; the condition is stated")]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part outside of its slice");
        // SAFETY: within the slice, which is borrowed exclusively by `self`, and the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}
