//! Memory that starts on a cache line, so that a vector load never straddles two.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// Types for which all bytes zero is a value and which need no drop.
///
/// # Safety
/// Both must hold for the implementing type, which must be at most 64 bytes large and not zero-sized.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($name:ty),*) => {
        // SAFETY: integers and floats have no invalid bit patterns and no drop, and are 1 to 4 bytes large.
        $(unsafe impl Plain for $name {})*
    };
}
plain!(u8, i8, u16, u32, i32, f32);

/// A fixed-length slice on a 64-byte boundary, zero at first. Large ones take memory from the system as they are
/// touched.
pub struct AlignedBuffer<T: Plain> {
    /// The first element on the boundary.
    pointer: NonNull<T>,
    len: usize,
    /// What the allocator gave.
    base: *mut u8,
}

// SAFETY: the buffer owns its memory like a boxed slice does, and `T` is `Send`.
unsafe impl<T: Plain> Send for AlignedBuffer<T> {}
// SAFETY: as above; shared access only reads, and `T` is `Sync`.
unsafe impl<T: Plain> Sync for AlignedBuffer<T> {}

impl<T: Plain> AlignedBuffer<T> {
    const BOUNDARY: usize = 64;

    /// A zeroed buffer of `len` elements.
    pub fn zeroed(len: usize) -> Self {
        if len == 0 {
            return Self { pointer: NonNull::dangling(), len, base: std::ptr::null_mut() };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        let offset = base.align_offset(Self::BOUNDARY);
        // SAFETY: the layout has room for a boundary's worth of bytes before the elements.
        let pointer = unsafe { base.add(offset) };
        let pointer = NonNull::new(pointer.cast()).expect("inside of an allocation");
        Self { pointer, len, base }
    }

    /// The elements and room to move them to the boundary. A layout with that alignment would be simpler, but for such
    /// ones the system's allocator writes the zeros itself instead of taking fresh pages, which are zero and not yet
    /// there.
    fn layout(len: usize) -> Layout {
        len.checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(Self::BOUNDARY))
            .and_then(|bytes| Layout::from_size_align(bytes, align_of::<T>()).ok())
            .expect("a buffer fits the address space")
    }
}

impl<T: Plain> Drop for AlignedBuffer<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the base came from `alloc_zeroed` with this same layout.
            unsafe { dealloc(self.base, Self::layout(self.len)) };
        }
    }
}

impl<T: Plain> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were allocated and zeroed, and zero is a value of `T`; or `len` is 0 and the
        // pointer is dangling but aligned.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for AlignedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zero_and_aligned() {
        for len in [0, 1, 15, 16, 17, 4096] {
            let mut buffer = AlignedBuffer::<f32>::zeroed(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&value| value == 0.0));
            if len > 0 {
                assert_eq!(buffer.as_ptr() as usize % 64, 0);
                buffer[len - 1] = 1.0;
            }
        }
    }
}
