//! A GPU with its kernels, reproducible values, comparison.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cuda::{
    Compiler, DeviceBuffer, Gpu, Plain, Stream,
    kernels::{
        KernelOptions, Kernels,
        products::{Matrix, QuantizedMatrix, TILE_ROWS, pack_tile, tile_bytes},
    },
};
use half::{bf16, f16};
use kernels::linear::{QuantizedLayout, Scales, UnpackedBlock, Zero};

const fn layout(bits: usize, scale_block: usize, scales: Scales, zero: Zero) -> QuantizedLayout {
    QuantizedLayout { bits, scale_block, scales, zero }
}

/// How GGUF's formats are held: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K.
pub(crate) const LAYOUTS: [QuantizedLayout; 8] = [
    layout(4, 32, Scales::Half, Zero::Point(8)),
    layout(4, 32, Scales::Half, Zero::Minimum),
    layout(5, 32, Scales::Half, Zero::Point(16)),
    layout(5, 32, Scales::Half, Zero::Minimum),
    layout(8, 32, Scales::Half, Zero::Point(128)),
    layout(4, 32, Scales::Nested, Zero::Minimum),
    layout(5, 32, Scales::Nested, Zero::Minimum),
    layout(6, 16, Scales::Nested, Zero::Point(32)),
];

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
        Self::with_layouts(head_dim, group, &[])
    }

    /// The same, with kernels for quantized weights.
    pub(crate) fn with_layouts(
        head_dim: usize,
        group: usize,
        layouts: &[QuantizedLayout],
    ) -> Option<Self> {
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
        let options = KernelOptions::new(&gpu, (head_dim, group), layouts.to_vec());
        let kernels = Kernels::load(&gpu, &compiler, &options).unwrap();
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

    /// A random matrix, quantized or not, and its weights as floats.
    pub(crate) fn matrix(
        &self,
        values: &mut Values,
        layout: Option<QuantizedLayout>,
        [rows, columns]: [usize; 2],
    ) -> (Matrix, Vec<f32>) {
        let Some(layout) = layout else {
            let weights = values.halves(rows * columns);
            let floats = weights.iter().map(|&weight| weight.into()).collect();
            return (Matrix::Dense(self.upload(&weights)), floats);
        };
        let blocks: Vec<Vec<UnpackedBlock>> =
            (0..rows).map(|_| values.blocks(layout, columns / 32)).collect();
        let matrix = QuantizedMatrix::new(&self.gpu, layout, [rows, columns]).unwrap();
        let (record_bytes, outer_bytes) = tile_bytes(layout, columns);
        for tile in 0..rows.div_ceil(TILE_ROWS) {
            let mut bytes = (vec![0; record_bytes], vec![0; outer_bytes]);
            let first = tile * TILE_ROWS;
            let shape = [TILE_ROWS.min(rows - first), columns];
            pack_tile(layout, shape, (&mut bytes.0, &mut bytes.1), |row, block, target| {
                target.clone_from(&blocks[first + row][block]);
            });
            let (records, outers) = matrix.tiles(tile..tile + 1);
            self.stream.upload_now(&bytes.0, &records).unwrap();
            if outer_bytes > 0 {
                self.stream.upload_now(&bytes.1, &outers).unwrap();
            }
        }
        let floats = blocks.iter().flatten().flat_map(|block| weights(layout, block)).collect();
        (Matrix::Quantized(matrix), floats)
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

impl Values {
    /// A row of quantized weights around 1 in size.
    fn blocks(&mut self, layout: QuantizedLayout, count: usize) -> Vec<UnpackedBlock> {
        let is_nested = layout.scales == Scales::Nested;
        let largest = (1 << layout.bits) as f32;
        let half = |value: f32| f16::from_f32(value).to_f32();
        let mut outer = [0.0; 2];
        let block = |index: usize| {
            if is_nested && index.is_multiple_of(8) {
                outer = [self.float(), self.float()].map(|value| half(value / 32.0));
            }
            let mut number = |size: f32| match is_nested {
                true => (self.float() * 60.0).round(),
                false => half(self.float() * size),
            };
            let scales = [number(2.0 / largest), number(2.0 / largest)];
            let minimum = number(1.0);
            UnpackedBlock {
                quanta: std::array::from_fn(|_| (self.bits() % (1 << layout.bits)) as u8),
                scales,
                minimum,
                outer_scale: half(outer[0] * 2.0 / largest),
                outer_minimum: outer[1],
            }
        };
        (0..count).map(block).collect()
    }
}

/// What a block's weights are.
fn weights(layout: QuantizedLayout, block: &UnpackedBlock) -> Vec<f32> {
    let is_nested = layout.scales == Scales::Nested;
    let outer = |value: f32| if is_nested { value } else { 1.0 };
    let weight = |(index, &quantum): (usize, &u8)| {
        let scale = outer(block.outer_scale) * block.scales[index / layout.scale_block];
        match layout.zero {
            Zero::Point(point) => scale * (f32::from(quantum) - f32::from(point)),
            Zero::Minimum => {
                scale * f32::from(quantum) + outer(block.outer_minimum) * block.minimum
            }
        }
    };
    block.quanta.iter().enumerate().map(weight).collect()
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
