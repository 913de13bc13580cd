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

    /// `count` elements, the first at `start`, each `step` after the one before.
    ///
    /// # Panics
    /// If one is not within the slice.
    ///
    /// # Safety
    /// None of them is part of anything in use at the same time, on any thread.
    pub unsafe fn spaced(
        &self,
        start: usize,
        step: usize,
        count: usize,
    ) -> impl Iterator<Item = &mut T> {
        let last = start + step * count.saturating_sub(1);
        assert!(step > 0 && (count == 0 || last < self.len), "elements outside of their slice");
        let pointer = self.pointer;
        // SAFETY: up to the last within the slice, which is borrowed exclusively by `self`, all different, and the
        // caller keeps them apart from others.
        (0..count).map(move |index| unsafe { &mut *pointer.add(start + index * step) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "outside of their slice")]
    fn spaced_elements_are_those_named_and_lie_within_the_slice() {
        let mut values = [0; 10];
        let shared = DisjointSlice::new(&mut values);
        // SAFETY: no two sets are in use at once.
        unsafe {
            shared.spaced(1, 4, 3).for_each(|value| *value += 1);
            assert_eq!(shared.part(0..10), [0, 1, 0, 0, 0, 1, 0, 0, 0, 1]);
            assert_eq!(shared.spaced(10, 4, 0).count(), 0);
            let _ = shared.spaced(2, 4, 3);
        }
    }
}
