//! Memory on the GPU, and memory of the host that the GPU can reach.

use std::{
    marker::PhantomData,
    ops::{Deref, DerefMut, Range},
    sync::Arc,
};

use cudarc::driver::{result, sys};

use crate::{Error, Gpu, Stream, error::Doing};

/// Types whose bytes may be anything, so that they can be copied to and from a GPU.
///
/// # Safety
/// Every bit pattern must be a value of the type, and it must have no drop.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}

macro_rules! plain {
    ($($name:ty),*) => {
        // SAFETY: integers and floats have no invalid bit patterns and no drop.
        $(unsafe impl Plain for $name {})*
    };
}
plain!(u8, u16, i32, u32, u64, f32, f64, half::bf16);

/// An address on the GPU, as kernels get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Address(pub(crate) u64);

impl Address {
    /// No address.
    pub const NONE: Self = Self(0);
}

impl From<Address> for u64 {
    /// For tables of addresses in the GPU's memory.
    fn from(address: Address) -> Self {
        address.0
    }
}

/// Memory on the GPU, given back with the last buffer in it.
#[derive(Debug)]
struct Allocation {
    gpu: Arc<Gpu>,
    address: u64,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // An error here is one of work that failed before, and was seen there.
        if self.gpu.make_current().is_ok() {
            // SAFETY: the address came from the allocator, and freeing waits for work that may use it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Elements on the GPU, all of an allocation or a part of one. Clones are the same elements. Bytes are undefined until
/// they are written.
#[derive(Debug)]
pub struct DeviceBuffer<T: Plain> {
    allocation: Arc<Allocation>,
    address: u64,
    len: usize,
    elements: PhantomData<T>,
}

impl<T: Plain> Clone for DeviceBuffer<T> {
    fn clone(&self) -> Self {
        self.slice(0..self.len)
    }
}

impl<T: Plain> DeviceBuffer<T> {
    /// Takes memory; `purpose` says what for, should there be too little.
    pub fn new(gpu: &Arc<Gpu>, len: usize, purpose: &'static str) -> Result<Self, Error> {
        gpu.make_current()?;
        // The driver refuses to allocate nothing.
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the context is current.
        let address = match unsafe { result::malloc_sync(bytes) } {
            Ok(address) => address,
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                let (bytes, free) = (bytes as u64, gpu.free_bytes()?);
                return Err(Error::Memory { purpose, bytes, free });
            }
            Err(source) => {
                return Err(Error::Driver { doing: format!("allocating for {purpose}"), source });
            }
        };
        let allocation = Arc::new(Allocation { gpu: Arc::clone(gpu), address });
        Ok(Self { allocation, address, len, elements: PhantomData })
    }

    /// Takes memory and sets all bytes to 0, in the stream's order.
    pub fn zeroed(stream: &Stream, len: usize, purpose: &'static str) -> Result<Self, Error> {
        let buffer = Self::new(stream.gpu(), len, purpose)?;
        stream.fill_bytes(&buffer, 0)?;
        Ok(buffer)
    }

    /// Some of the elements.
    ///
    /// # Panics
    /// If the buffer has not got them.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        Self {
            allocation: Arc::clone(&self.allocation),
            address: self.address + (range.start * size_of::<T>()) as u64,
            len: range.len(),
            elements: PhantomData,
        }
    }

    /// The same bytes as elements of another type.
    ///
    /// # Panics
    /// If they are not a whole number of such elements, or not aligned for them.
    #[must_use]
    pub fn cast<U: Plain>(&self) -> DeviceBuffer<U> {
        assert!(self.bytes().is_multiple_of(size_of::<U>()), "a whole number of elements");
        assert!(self.address.is_multiple_of(align_of::<U>() as u64), "aligned elements");
        DeviceBuffer {
            allocation: Arc::clone(&self.allocation),
            address: self.address,
            len: self.bytes() / size_of::<U>(),
            elements: PhantomData,
        }
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// The address of the first element.
    pub fn address(&self) -> Address {
        Address(self.address)
    }
}

/// Memory of the host that the GPU copies from and to at full speed, and without the host waiting.
#[derive(Debug)]
pub struct PinnedBuffer<T: Plain> {
    gpu: Arc<Gpu>,
    pointer: *mut T,
    len: usize,
}

// SAFETY: the buffer owns its memory like a boxed slice does, and `T` is `Send`.
unsafe impl<T: Plain> Send for PinnedBuffer<T> {}
// SAFETY: as above; shared access only reads, and `T` is `Sync`.
unsafe impl<T: Plain> Sync for PinnedBuffer<T> {}

impl<T: Plain> PinnedBuffer<T> {
    /// A buffer of whatever the system's pages hold.
    pub fn new(gpu: &Arc<Gpu>, len: usize) -> Result<Self, Error> {
        gpu.make_current()?;
        let bytes = (len * size_of::<T>()).max(1);
        // SAFETY: the context is current.
        let pointer = unsafe { result::malloc_host(bytes, 0) }
            .doing(|| format!("pinning {bytes} bytes of the host's memory"))?;
        Ok(Self { gpu: Arc::clone(gpu), pointer: pointer.cast(), len })
    }

    /// A buffer of zeros.
    pub fn zeroed(gpu: &Arc<Gpu>, len: usize) -> Result<Self, Error> {
        let buffer = Self::new(gpu, len)?;
        // SAFETY: the buffer has that many elements, and zero is a value of every plain type.
        unsafe { std::ptr::write_bytes(buffer.pointer, 0, len) };
        Ok(buffer)
    }

    /// The address of an element for kernels, which reach it over the link: with unified addressing the host's own.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn address(&self, index: usize) -> Address {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: the element is in the buffer.
        Address(unsafe { self.pointer.add(index) } as u64)
    }
}

impl<T: Plain> Deref for PinnedBuffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were allocated, page-aligned, and any bytes are values.
        unsafe { std::slice::from_raw_parts(self.pointer, self.len) }
    }
}

impl<T: Plain> DerefMut for PinnedBuffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`, and the buffer is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

impl<T: Plain> Drop for PinnedBuffer<T> {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: the pointer came from the driver's allocator.
            let _ = unsafe { result::free_host(self.pointer.cast()) };
        }
    }
}
