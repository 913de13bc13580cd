//! A GPU with its kernels, reproducible values, comparison.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda::{
    Compiler, DeviceBuffer, Gpu, Plain, Stream,
    kernels::{KernelOptions, Kernels},
};
use half::bf16;

/// What a test needs of a GPU. Held by one test at a time.
pub(crate) struct Bench {
    pub(crate) gpu: Arc<Gpu>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) kernels: Kernels,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    /// The first GPU with kernels for a model, or nothing where there is no GPU.
    pub(crate) fn new(head_dim: usize, group: usize) -> Option<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        if Gpu::count() == 0 {
            eprintln!("skipped: there is no GPU");
            return None;
        }
        let gpu = Gpu::open(0).unwrap();
        let stream = Stream::new(&gpu).unwrap();
        let cache = std::env::temp_dir().join("brigade-kernel-tests");
        let compiler = Compiler::new(&gpu.architecture(), Some(&cache)).unwrap();
        let options = KernelOptions::new(&gpu, head_dim, group);
        let kernels = Kernels::load(&gpu, &compiler, options).unwrap();
        Some(Self { gpu, stream, kernels, _alone: alone })
    }

    /// Values on the GPU.
    pub(crate) fn upload<T: Plain>(&self, values: &[T]) -> DeviceBuffer<T> {
        let buffer = DeviceBuffer::new(&self.gpu, values.len(), "a test").unwrap();
        self.stream.upload_now(values, &buffer).unwrap();
        buffer
    }

    /// A buffer whose bytes are all 0xff, which no float that is a number has.
    pub(crate) fn poisoned<T: Plain>(&self, len: usize) -> DeviceBuffer<T> {
        let buffer = DeviceBuffer::new(&self.gpu, len, "a test").unwrap();
        self.stream.fill_bytes(&buffer, 0xff).unwrap();
        buffer
    }

    pub(crate) fn download<T: Plain + Default>(&self, buffer: &DeviceBuffer<T>) -> Vec<T> {
        self.stream.download_now(buffer).unwrap()
    }

    pub(crate) fn floats(&self, buffer: &DeviceBuffer<bf16>) -> Vec<f32> {
        self.download(buffer).into_iter().map(f32::from).collect()
    }
}

/// Reproducible values (SplitMix64).
pub(crate) struct Values(u64);

impl Values {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Between -1 and 1.
    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.float()).collect()
    }

    /// The same, rounded to what a GPU gets.
    pub(crate) fn halves(&mut self, len: usize) -> Vec<bf16> {
        (0..len).map(|_| bf16::from_f32(self.float())).collect()
    }
}

/// Fails unless the difference is small beside the values wanted, as norms of whole vectors, and no value is far off.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], relative: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: length");
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt()
    };
    let error = norm(&mut got.iter().zip(want).map(|(got, want)| got - want));
    let size = norm(&mut want.iter().copied()).max(1e-6);
    assert!(error <= f64::from(relative) * size, "{what}: off by {} of its size", error / size);
    let scale = want.iter().fold(1e-6_f32, |largest, value| largest.max(value.abs()));
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let bound = 8.0 * relative * scale;
        assert!((got - want).abs() <= bound, "{what}: [{index}] is {got}, expected {want}");
    }
}
