//! Streams, in which work runs in order; events, which mark points in them; graphs, which are work recorded once.

use std::{any::Any, sync::Arc};

use cudarc::driver::{
    result::{self, stream::StreamKind},
    sys,
};

use crate::{DeviceBuffer, Error, Gpu, PinnedBuffer, Plain, error::Doing};

/// An order of work on a GPU.
#[derive(Debug)]
pub struct Stream {
    gpu: Arc<Gpu>,
    pub(crate) raw: sys::CUstream,
    checks: bool,
}

// SAFETY: the driver's functions on streams may be called from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    /// A stream that waits for no other.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Arc<Self>, Error> {
        Self::with_checks(gpu, false)
    }

    /// The same, but every launch waits until the kernel is done, so that the error of one that fails names it. Slow.
    pub fn checking(gpu: &Arc<Gpu>) -> Result<Arc<Self>, Error> {
        Self::with_checks(gpu, true)
    }

    fn with_checks(gpu: &Arc<Gpu>, checks: bool) -> Result<Arc<Self>, Error> {
        gpu.make_current()?;
        let raw = result::stream::create(StreamKind::NonBlocking).doing(|| "a stream".into())?;
        Ok(Arc::new(Self { gpu: Arc::clone(gpu), raw, checks }))
    }

    /// Whether every launch waits.
    pub fn checks(&self) -> bool {
        self.checks
    }

    /// Waits for what was just put into the stream, where launches are checked.
    pub(crate) fn check(&self, what: impl FnOnce() -> String) -> Result<(), Error> {
        if !self.checks {
            return Ok(());
        }
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.raw) }.doing(what)
    }

    /// The GPU it belongs to.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Makes the GPU the calling thread's own. Once a thread, before it uses the stream.
    pub fn make_current(&self) -> Result<(), Error> {
        self.gpu.make_current()
    }

    /// Waits for all work in the stream so far.
    pub fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.raw) }.doing(|| "waiting for a stream".into())
    }

    /// Sets all bytes of a buffer.
    pub fn fill_bytes<T: Plain>(&self, buffer: &DeviceBuffer<T>, value: u8) -> Result<(), Error> {
        // SAFETY: the buffer has that many bytes.
        unsafe { result::memset_d8_async(buffer.address().0, value, buffer.bytes(), self.raw) }
            .doing(|| "filling a buffer".into())
    }

    /// Copies elements to the GPU, as many as `to` has, from `first` on. Does not wait: the pinned elements must not be
    /// changed before the copy is done, as an event tells.
    ///
    /// # Panics
    /// If there are not that many.
    pub fn upload<T: Plain>(
        &self,
        from: &PinnedBuffer<T>,
        first: usize,
        to: &DeviceBuffer<T>,
    ) -> Result<(), Error> {
        let from = &from[first..first + to.len()];
        // SAFETY: both buffers have these elements.
        unsafe { result::memcpy_htod_async(to.address().0, from, self.raw) }
            .doing(|| format!("copying {} elements to the GPU", to.len()))
    }

    /// Copies all elements from the GPU to the beginning of `to`. Does not wait: they are there once an event recorded
    /// afterwards has come.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn download<T: Plain>(
        &self,
        from: &DeviceBuffer<T>,
        to: &mut PinnedBuffer<T>,
    ) -> Result<(), Error> {
        // SAFETY: both buffers have these elements.
        unsafe { result::memcpy_dtoh_async(&mut to[..from.len()], from.address().0, self.raw) }
            .doing(|| format!("copying {} elements from the GPU", from.len()))
    }

    /// Copies elements to the GPU and waits. For loading and tests.
    pub fn upload_now<T: Plain>(&self, from: &[T], to: &DeviceBuffer<T>) -> Result<(), Error> {
        assert_eq!(from.len(), to.len(), "as many elements");
        // SAFETY: as many elements on both sides.
        unsafe { result::memcpy_htod_async(to.address().0, from, self.raw) }
            .doing(|| format!("copying {} elements to the GPU", from.len()))?;
        self.synchronize()
    }

    /// Copies a whole buffer from the GPU and waits. For tests.
    pub fn download_now<T: Plain + Default>(
        &self,
        from: &DeviceBuffer<T>,
    ) -> Result<Vec<T>, Error> {
        let mut to = vec![T::default(); from.len()];
        // SAFETY: as many elements on both sides.
        unsafe { result::memcpy_dtoh_async(&mut to, from.address().0, self.raw) }
            .doing(|| format!("copying {} elements from the GPU", from.len()))?;
        self.synchronize()?;
        Ok(to)
    }

    /// Records the work that `record` puts into the stream, instead of doing it. The graph keeps `keep`, which must be
    /// or own every buffer that the work uses.
    pub fn record(
        &self,
        keep: Arc<dyn Any + Send + Sync>,
        record: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Graph, Error> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.raw, mode) }
            .doing(|| "beginning to record a graph".into())?;
        let recorded = record();
        // SAFETY: as above. Recording has to be ended whatever came of it.
        let graph = unsafe { result::stream::end_capture(self.raw) }
            .doing(|| "ending the record of a graph".into());
        recorded?;
        let graph = graph?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: the graph was recorded above, and is not needed once it is instantiated.
        unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0).result();
            let _ = result::graph::destroy(graph);
            made.doing(|| "making a graph".into())?;
        }
        Ok(Graph { gpu: Arc::clone(&self.gpu), executable, _keep: keep })
    }

    /// Does recorded work once more.
    pub fn play(&self, graph: &Graph) -> Result<(), Error> {
        // SAFETY: graph and stream live.
        unsafe { result::graph::launch(graph.executable, self.raw) }
            .doing(|| "launching a graph".into())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: the stream is not used afterwards; the driver lets its work finish.
            let _ = unsafe { result::stream::destroy(self.raw) };
        }
    }
}

/// A point in a stream.
#[derive(Debug)]
pub struct Event {
    gpu: Arc<Gpu>,
    raw: sys::CUevent,
}

// SAFETY: the driver's functions on events may be called from any thread.
unsafe impl Send for Event {}

impl Event {
    /// An event to wait for, without times.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, Error> {
        let blocking = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
        let untimed = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
        Self::with_flags(gpu, blocking | untimed)
    }

    /// An event that takes the time.
    pub fn timed(gpu: &Arc<Gpu>) -> Result<Self, Error> {
        Self::with_flags(gpu, sys::CUevent_flags::CU_EVENT_DEFAULT as u32)
    }

    fn with_flags(gpu: &Arc<Gpu>, flags: u32) -> Result<Self, Error> {
        gpu.make_current()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the context is current and the pointer is to a place for the event.
        unsafe { sys::cuEventCreate(&raw mut raw, flags) }.result().doing(|| "an event".into())?;
        Ok(Self { gpu: Arc::clone(gpu), raw })
    }

    /// Moves the event to the end of the stream's work so far.
    pub fn record(&self, stream: &Stream) -> Result<(), Error> {
        // SAFETY: event and stream live.
        unsafe { result::event::record(self.raw, stream.raw) }.doing(|| "recording an event".into())
    }

    /// Waits until the work before the event is done; an error of that work is told here.
    pub fn wait(&self) -> Result<(), Error> {
        // SAFETY: the event lives.
        unsafe { result::event::synchronize(self.raw) }
            .doing(|| "running a step (--gpu-check-launches tells which kernel)".into())
    }

    /// Milliseconds from `before` to this event; both must be timed and past.
    pub fn milliseconds_since(&self, before: &Self) -> Result<f32, Error> {
        // SAFETY: both events live.
        unsafe { result::event::elapsed(before.raw, self.raw) }
            .doing(|| "taking the time between events".into())
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: the event is not used afterwards.
            let _ = unsafe { result::event::destroy(self.raw) };
        }
    }
}

/// Work recorded once, to be done again and again.
#[derive(Debug)]
pub struct Graph {
    gpu: Arc<Gpu>,
    executable: sys::CUgraphExec,
    _keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the driver's functions on graphs may be called from any thread, one at a time.
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            // SAFETY: the graph is not used afterwards.
            let _ = unsafe { result::graph::exec_destroy(self.executable) };
        }
    }
}
