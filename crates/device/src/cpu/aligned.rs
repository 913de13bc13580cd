//! Memory that starts on a cache line, so that a vector load never straddles two.

use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use memmap2::MmapMut;

/// Types for which all bytes zero is a value and which need no drop.
///
/// # Safety
/// Both must hold for the implementing type, which must not be zero-sized and whose alignment must be at most 64 bytes.
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
    memory: Memory,
}

/// Where a buffer's memory came from.
enum Memory {
    /// What the allocator gave, with the layout it was asked for.
    Allocated(*mut u8, Layout),
    /// A part of a chunk of huge pages, which goes back to the system with the last buffer in it.
    Part(#[expect(dead_code, reason = "held for its drop")] Arc<Chunk>),
}

/// Memory that several buffers share, so that small ones lie in huge pages too.
struct Chunk {
    mapping: MmapMut,
    base: *mut u8,
}

// SAFETY: the base is an address in the chunk's own mapping, whose bytes belong to the buffers that they were given to.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

/// The chunk that has room left, while any buffer lies in it, and the bytes given out of it.
static OPEN: Mutex<(Weak<Chunk>, usize)> = Mutex::new((Weak::new(), 0));

// SAFETY: the buffer owns its memory like a boxed slice does, and `T` is `Send`.
unsafe impl<T: Plain> Send for AlignedBuffer<T> {}
// SAFETY: as above; shared access only reads, and `T` is `Sync`.
unsafe impl<T: Plain> Sync for AlignedBuffer<T> {}

impl<T: Plain> AlignedBuffer<T> {
    const BOUNDARY: usize = 64;

    /// A zeroed buffer of `len` elements.
    pub fn zeroed(len: usize) -> Self {
        let layout = Self::layout(len);
        // SAFETY: the layout has a size above zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        let pointer = Self::on_boundary(base);
        Self { pointer, len, memory: Memory::Allocated(base, layout) }
    }

    /// The same for memory that every step goes through, such as weights and activations: in huge pages where the
    /// system has them, so that a step does not wait for the translation of addresses, and parts of a buffer do not
    /// fall into the same places of a cache by chance. All of it is taken sooner or later.
    pub fn zeroed_in_huge_pages(len: usize) -> Self {
        /// Bytes of a chunk, unless a single buffer needs more.
        const CHUNK_BYTES: usize = 32 << 20;
        let layout = Self::layout(len);
        let bytes = layout.size().next_multiple_of(Self::BOUNDARY);
        // Nothing is left half done under this lock.
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |chunk: &Arc<Chunk>| bytes <= chunk.mapping.len() - open.1;
        let chunk = open.0.upgrade().filter(fits).unwrap_or_else(|| {
            let Ok(mut mapping) = MmapMut::map_anon(bytes.max(CHUNK_BYTES)) else {
                handle_alloc_error(layout);
            };
            // Advice alone: without it everything works, more slowly.
            #[cfg(target_os = "linux")]
            let _ = mapping.advise(memmap2::Advice::HugePage);
            let chunk = Arc::new(Chunk { base: mapping.as_mut_ptr(), mapping });
            *open = (Arc::downgrade(&chunk), 0);
            chunk
        });
        // SAFETY: the mapping is as long as was checked or asked for, and no other buffer has this part.
        let base = unsafe { chunk.base.add(open.1) };
        open.1 += bytes;
        Self { pointer: Self::on_boundary(base), len, memory: Memory::Part(chunk) }
    }

    /// The first element on the boundary; the memory has room for a boundary's worth of bytes before the elements.
    fn on_boundary(base: *mut u8) -> NonNull<T> {
        let pointer = base.wrapping_add(base.align_offset(Self::BOUNDARY));
        NonNull::new(pointer.cast()).expect("inside of an allocation")
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
        if let Memory::Allocated(base, layout) = self.memory {
            // SAFETY: the base came from `alloc_zeroed` with this same layout.
            unsafe { dealloc(base, layout) };
        }
    }
}

impl<T: Plain> Deref for AlignedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were allocated or mapped, and zeroed, and zero is a value of `T`.
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
        for len in [0, 1, 15, 16, 17, 4096, 2 << 20] {
            for make in [AlignedBuffer::<f32>::zeroed, AlignedBuffer::zeroed_in_huge_pages] {
                let mut buffer = make(len);
                assert_eq!(buffer.len(), len);
                assert!(buffer.iter().all(|&value| value == 0.0));
                assert_eq!(buffer.as_ptr() as usize % 64, 0);
                if len > 0 {
                    buffer[len - 1] = 1.0;
                }
            }
        }
    }
}
