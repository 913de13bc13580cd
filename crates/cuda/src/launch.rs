//! Loaded code, its kernels, and launching them.

use std::{
    ffi::{CString, c_void},
    marker::PhantomData,
    sync::Arc,
};

use cudarc::driver::{result, sys};

use crate::{Error, Gpu, Stream, error::Doing};

/// Machine code on a GPU.
#[derive(Debug)]
pub struct Module {
    gpu: Arc<Gpu>,
    raw: sys::CUmodule,
}

// SAFETY: the driver's functions on modules may be called from any thread.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Loads machine code.
    pub fn load(gpu: &Arc<Gpu>, code: &[u8]) -> Result<Arc<Self>, Error> {
        gpu.make_current()?;
        // SAFETY: the code came out of the compiler, whole.
        let raw = unsafe { result::module::load_data(code.as_ptr().cast()) }
            .doing(|| "loading kernels".into())?;
        Ok(Arc::new(Self { gpu: Arc::clone(gpu), raw }))
    }

    /// A kernel by its name. It may use up to `shared_bytes` of dynamic shared memory.
    ///
    /// The source must declare it `extern "C" __global__` with the parameters that `A` has.
    pub fn kernel<A: Arguments>(
        self: &Arc<Self>,
        name: &'static str,
        shared_bytes: u32,
    ) -> Result<Kernel<A>, Error> {
        let symbol = CString::new(name).expect("kernels have names without zeros");
        // SAFETY: the module is loaded.
        let function = unsafe { result::module::get_function(self.raw, symbol) }
            .doing(|| format!("looking for the kernel {name}"))?;
        /// What a kernel may use without asking.
        const SHARED_BYTES_FREE: u32 = 48 << 10;
        if shared_bytes > SHARED_BYTES_FREE {
            let which =
                sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of this module.
            unsafe {
                result::function::set_function_attribute(function, which, shared_bytes as i32)
            }
            .doing(|| format!("giving {shared_bytes} bytes of shared memory to {name}"))?;
        }
        Ok(Kernel { module: Arc::clone(self), function, name, arguments: PhantomData })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: its kernels hold the module, so none is left.
            let _ = unsafe { result::module::unload(self.raw) };
        }
    }
}

/// The parameters of a kernel.
///
/// # Safety
/// `parameters` must give one pointer into `self` for each parameter that the kernel's source declares, to a value of
/// the same layout.
pub unsafe trait Arguments: Copy {
    /// Pointers to the parameters. By itself, a kernel has one: a struct like this.
    fn parameters(&mut self) -> Vec<*mut c_void> {
        vec![(&raw mut *self).cast()]
    }
}

/// A kernel that takes an `A`.
#[derive(Debug)]
pub struct Kernel<A: Arguments> {
    module: Arc<Module>,
    function: sys::CUfunction,
    name: &'static str,
    arguments: PhantomData<fn(A)>,
}

// SAFETY: the driver's functions on kernels may be called from any thread.
unsafe impl<A: Arguments> Send for Kernel<A> {}
// SAFETY: as above.
unsafe impl<A: Arguments> Sync for Kernel<A> {}

/// How many threads, and what they share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks along x, y and z.
    pub grid: (u32, u32, u32),
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// May begin before the kernel before it has ended; the kernel then waits itself before it reads what that one
    /// wrote (programmatic dependent launch).
    pub overlaps: bool,
}

impl Shape {
    /// Blocks of so many threads in a row.
    pub fn row(blocks: usize, threads: u32) -> Self {
        Self { grid: (blocks as u32, 1, 1), threads, shared_bytes: 0, overlaps: true }
    }
}

impl<A: Arguments> Kernel<A> {
    /// Puts the kernel into the stream. Nothing happens for an empty grid.
    ///
    /// # Safety
    /// The addresses in the arguments must be of buffers that are large enough for what the kernel reads and writes
    /// with this shape, and that live until it is done.
    pub unsafe fn launch(
        &self,
        stream: &Stream,
        shape: Shape,
        mut arguments: A,
    ) -> Result<(), Error> {
        let (x, y, z) = shape.grid;
        if x == 0 || y == 0 || z == 0 {
            return Ok(());
        }
        let mut attributes = [sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        }];
        let overlaps = shape.overlaps && self.module.gpu.properties().capability.0 >= 9;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: shape.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shape.shared_bytes,
            hStream: stream.raw,
            attrs: attributes.as_mut_ptr(),
            numAttrs: u32::from(overlaps),
        };
        let mut parameters = arguments.parameters();
        // SAFETY: the parameters are those that the kernel declares; the rest is the caller's promise.
        unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.function,
                parameters.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .doing(|| format!("launching {} as {shape:?}", self.name))?;
        stream.check(|| format!("running {} as {shape:?}", self.name))
    }

    /// Blocks of this many threads and bytes of shared memory that one multiprocessor holds at once.
    pub fn blocks_per_multiprocessor(&self, threads: u32, shared_bytes: u32) -> Result<u32, Error> {
        let mut blocks = 0;
        // SAFETY: the function is loaded and the pointer is to a place for the number.
        unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut blocks,
                self.function,
                threads as i32,
                shared_bytes as usize,
            )
        }
        .result()
        .doing(|| format!("asking how many blocks of {} run at once", self.name))?;
        Ok(blocks as u32)
    }
}
