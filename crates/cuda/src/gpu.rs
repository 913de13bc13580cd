//! One GPU with a context of this process.

use std::sync::Arc;

use cudarc::driver::{
    result,
    sys::{self, CUdevice_attribute_enum as Attribute},
};

use crate::{Error, error::Doing, libraries};

/// A GPU that this process may use. Freed with its last owner; buffers, streams and kernels own it.
#[derive(Debug)]
pub struct Gpu {
    context: sys::CUcontext,
    properties: Properties,
}

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Its name.
    pub name: String,
    /// Compute capability, such as (9, 0).
    pub capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that a block may have, in bytes.
    pub shared_bytes_max: u32,
    /// Memory, in bytes.
    pub memory_bytes: u64,
}

// SAFETY: a context may be used from any thread once it is current there, which every entry point sees to.
unsafe impl Send for Gpu {}
// SAFETY: the driver's functions may be called from several threads at once.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// How many GPUs the driver shows; none where there is no driver.
    pub fn count() -> u32 {
        let count = || {
            libraries::load_driver().ok()?;
            result::init().ok()?;
            result::device::get_count().ok()
        };
        count().and_then(|count| u32::try_from(count).ok()).unwrap_or(0)
    }

    /// Opens a GPU by its number, counted as the driver counts.
    pub fn open(ordinal: u32) -> Result<Arc<Self>, Error> {
        libraries::load_driver()?;
        result::init().doing(|| "starting the driver".into())?;
        let count = Self::count();
        if ordinal >= count {
            return Err(Error::NoDevice { ordinal, count });
        }
        libraries::load_toolkit()?;
        let device = result::device::get(ordinal as i32).doing(|| format!("GPU {ordinal}"))?;
        let name = result::device::get_name(device).doing(|| format!("GPU {ordinal}"))?;
        let attribute = |which| {
            // SAFETY: the device is one that the driver gave.
            unsafe { result::device::get_attribute(device, which) }
                .map(|value| value as u32)
                .doing(|| format!("asking {name} for a property"))
        };
        let capability = (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        if capability.0 < 8 {
            return Err(Error::TooOld { name, major: capability.0, minor: capability.1 });
        }
        // SAFETY: as above.
        let memory_bytes = unsafe { result::device::total_mem(device) }
            .doing(|| format!("asking {name} for its memory"))?;
        let properties = Properties {
            capability,
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes_max: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            memory_bytes: memory_bytes as u64,
            name,
        };
        let mut context = std::ptr::null_mut();
        // Waiting threads sleep instead of spinning: the host's processors belong to others.
        let flags = sys::CUctx_flags_enum::CU_CTX_SCHED_BLOCKING_SYNC as u32;
        // SAFETY: the pointer is to a place for the context, and no creation parameters are given.
        unsafe { sys::cuCtxCreate_v4(&raw mut context, std::ptr::null_mut(), flags, device) }
            .result()
            .doing(|| format!("making a context on {}", properties.name))?;
        Ok(Arc::new(Self { context, properties }))
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Whether it is of Hopper's generation, whose own instructions the kernels for `sm_90a` use.
    pub fn is_hopper(&self) -> bool {
        self.properties.capability == (9, 0)
    }

    /// The architecture to compile for, such as `90a`.
    pub fn architecture(&self) -> String {
        let (major, minor) = self.properties.capability;
        // Instructions that only this very generation has are switched on by the letter.
        let suffix = if major >= 9 { "a" } else { "" };
        format!("{major}{minor}{suffix}")
    }

    /// Bytes of memory that are free.
    pub fn free_bytes(&self) -> Result<u64, Error> {
        self.make_current()?;
        let (free, _) = result::mem_get_info().doing(|| "asking for free memory".into())?;
        Ok(free as u64)
    }

    /// Waits for all work on the GPU.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.make_current()?;
        result::ctx::synchronize().doing(|| "waiting for the GPU".into())
    }

    /// Makes the context the calling thread's. Every call of the driver must come after this.
    pub(crate) fn make_current(&self) -> Result<(), Error> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }
            .doing(|| "making the context current".into())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: nothing that belongs to the context is left: everything holds an `Arc` of it. An error would be of
        // work that failed before, and was seen there.
        let _ = unsafe { sys::cuCtxDestroy_v2(self.context) };
    }
}
