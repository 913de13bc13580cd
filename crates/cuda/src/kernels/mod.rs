//! The computations of a model on a GPU, one file a family, each with its CUDA C++ beside it. Formulas and layouts
//! stand at the head of the sources.
//!
//! Every function checks the sizes of the buffers it gets. What indices in buffers point to is the caller's promise: a
//! wrong one is an error of the GPU, which ends its use.

/// The struct of a kernel's arguments, as its source declares it.
macro_rules! arguments {
    ($name:ident { $($field:ident: $kind:ty),* $(,)? }) => {
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        struct $name {
            $($field: $kind),*
        }
        // SAFETY: the layout is that of the struct of this name in the source.
        unsafe impl crate::Arguments for $name {}
    };
}

pub mod attention;
mod copy;
mod fill;
mod peak;
pub mod products;
mod rows;
mod sampling;

use std::sync::Arc;

use attention::AttentionKernels;
pub use copy::{BlockCopies, CopyKernel};
pub use fill::FillKernel;
pub use peak::PeakKernel;
use products::{DequantizeKernels, FewRowsKernels, TiledKernels};
pub use rows::{Embed, RmsNorm, RopeStore, RowKernels};
pub use sampling::{Draw, LOGPROBS_MAX, Report, SampleKernels, SampleRow, TokenBias, TokenLogprob};

use kernels::linear::QuantizedLayout;

use crate::{Compiler, Error, Gpu, Module, Unit};

pub use attention::tasks::BLOCK_TOKENS;

/// What kernels are compiled for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelOptions {
    /// Values in a head.
    pub head_dim: usize,
    /// Query heads that share a key-value head.
    pub group: usize,
    /// How matrices are quantized: those of them that are, each layout once.
    pub layouts: Vec<QuantizedLayout>,
    /// For Hopper's generation, with instructions that only it has.
    pub hopper: bool,
    /// Shared memory that a block may have, in bytes.
    pub shared_bytes_max: u32,
}

impl KernelOptions {
    /// For a model's heads and matrices on a GPU.
    pub fn new(
        gpu: &Gpu,
        (head_dim, group): (usize, usize),
        layouts: Vec<QuantizedLayout>,
    ) -> Self {
        let shared_bytes_max = gpu.properties().shared_bytes_max;
        Self { head_dim, group, layouts, hopper: gpu.is_hopper(), shared_bytes_max }
    }
}

/// All kernels of a model, loaded.
#[derive(Debug)]
pub struct Kernels {
    /// What happens to single rows.
    pub rows: RowKernels,
    /// Attention.
    pub attention: AttentionKernels,
    /// Products of few rows.
    pub few_rows: FewRowsKernels,
    /// Products of more rows with quantized weights.
    pub tiled: TiledKernels,
    /// bfloat16 of quantized weights.
    pub dequantize: DequantizeKernels,
    /// Drawing tokens.
    pub sample: SampleKernels,
    /// Blocks of the KV cache to the host and back.
    pub copy: CopyKernel,
    /// Random weights.
    pub fill: FillKernel,
    /// Reading at best.
    pub peak: PeakKernel,
}

/// Every source, with macros for a model: what is compiled at load, and by checks that need no GPU.
pub fn units(options: &KernelOptions) -> Vec<Unit> {
    let mut units = rows::units(options);
    units.extend(attention::units(options));
    units.extend(products::few_rows_units(options));
    units.extend(products::tiled::units(options));
    units.extend(products::quantized::units(&options.layouts));
    units.extend(sampling::units());
    units.push(copy::unit());
    units.push(fill::unit());
    units.push(peak::unit());
    units
}

impl Kernels {
    /// Compiles what is not compiled yet, several sources at once, and loads everything.
    pub fn load(
        gpu: &Arc<Gpu>,
        compiler: &Compiler,
        options: &KernelOptions,
    ) -> Result<Self, Error> {
        let code = compiler.compile(&units(options))?;
        let mut modules = code.iter().map(|code| Module::load(gpu, code));
        // In the order of `units`.
        let mut next = || modules.next().expect("a module for each unit");
        Ok(Self {
            rows: RowKernels::new(options, &mut next)?,
            attention: AttentionKernels::new(gpu, options, &mut next)?,
            few_rows: FewRowsKernels::new(gpu, options, &mut next)?,
            tiled: TiledKernels::new(gpu, options, &mut next)?,
            dequantize: DequantizeKernels::new(&options.layouts, &mut next)?,
            sample: SampleKernels::new(&mut next)?,
            copy: CopyKernel::new(&mut next)?,
            fill: FillKernel::new(gpu, &mut next)?,
            peak: PeakKernel::new(gpu, &mut next)?,
        })
    }
}

/// Gives the modules of the units one after another.
type NextModule<'a> = dyn FnMut() -> Result<Arc<Module>, Error> + 'a;
