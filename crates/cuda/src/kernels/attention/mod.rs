//! Attention over paged keys and values: a kernel for sequences with few queries, whose keys are split over the GPU,
//! and one for prompts, which on Hopper's generation is one of its own.

mod list;
pub mod tasks;

use std::{ffi::c_void, sync::Arc};

use cudarc::driver::sys;
use half::bf16;

pub use list::{StepLimits, TaskList, TaskPlanner};
pub use tasks::Sequence;
use tasks::{DecodeShape, Grid, PrefillShape};

use super::{BLOCK_TOKENS, KernelOptions, NextModule};
use crate::{
    Address, Arguments, DeviceBuffer, Error, Gpu, Kernel, Shape, Stream, Unit, error::Doing,
};

/// Attention of a step's rows in one layer.
#[derive(Debug)]
pub struct Attention<'a> {
    /// Rows of which head `h` begins at `h × head_dim`, turned.
    pub queries: &'a DeviceBuffer<bf16>,
    /// Values from one row of queries to the next.
    pub query_stride: usize,
    /// `[blocks][kv_heads][16][head_dim]`, those of the step's own rows included.
    pub keys: &'a DeviceBuffer<bf16>,
    /// The same.
    pub values: &'a DeviceBuffer<bf16>,
    /// All tables, one after another.
    pub block_tables: &'a DeviceBuffer<i32>,
    /// The tasks on the GPU.
    pub task_words: &'a DeviceBuffer<i32>,
    /// Which these are.
    pub tasks: Tasks<'a>,
    /// `[rows][heads × head_dim]`.
    pub output: &'a DeviceBuffer<bf16>,
    /// Rows.
    pub rows: usize,
    /// Positions seen, the row's own included; all if absent.
    pub window: Option<usize>,
    /// Factor of scores.
    pub scale: f32,
    /// Scores go through `cap × tanh(score / cap)`; not if absent.
    pub softcap: Option<f32>,
}

/// What is known of the tasks when the kernels are put into a stream.
#[derive(Clone, Copy, Debug)]
pub enum Tasks<'a> {
    /// All of it.
    Listed(&'a TaskList),
    /// Each sequence has one row; the rest is known once it is on the GPU.
    OneRowEach,
}

/// Memory that the kernels need besides their arguments. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct AttentionScratch {
    partials: DeviceBuffer<f32>,
    arrivals: DeviceBuffer<u32>,
    counters: DeviceBuffer<u32>,
}

impl AttentionScratch {
    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        (self.partials.bytes() + self.arrivals.bytes() + self.counters.bytes()) as u64
    }
}

/// Declares the parameters of a kernel that has several.
macro_rules! parameters {
    ($name:ident $(<$generic:ident>)? { $($field:ident: $kind:ty),* $(,)? }) => {
        #[derive(Clone, Copy, Debug)]
        struct $name $(<$generic>)? {
            $($field: $kind),*
        }
        // SAFETY: the fields are the parameters that the source declares, in their order.
        unsafe impl $(<$generic: Copy>)? Arguments for $name $(<$generic>)? {
            fn parameters(&mut self) -> Vec<*mut c_void> {
                vec![$((&raw mut self.$field).cast()),*]
            }
        }
    };
}
parameters!(DecodeArguments {
    queries: Address,
    query_stride: i32,
    keys: Address,
    values: Address,
    block_tables: Address,
    tasks: Address,
    task_count: Address,
    partials: Address,
    arrivals: Address,
    output: Address,
    output_stride: i32,
    kv_heads: i32,
    window: i32,
    scale: f32,
    softcap: f32,
});
// The pools of keys and values are given by their addresses, or as the tensor memory accelerator sees them.
parameters!(PrefillArguments<Pool> {
    queries: Address,
    query_stride: i32,
    keys: Pool,
    values: Pool,
    block_tables: Address,
    tasks: Address,
    task_count: Address,
    counters: Address,
    output: Address,
    output_stride: i32,
    kv_heads: i32,
    window: i32,
    scale: f32,
    softcap: f32,
});

/// How the tensor memory accelerator sees a pool.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct TensorMap([u64; 16]);

#[derive(Debug)]
enum PrefillKernel {
    Common(Kernel<PrefillArguments<Address>>),
    Hopper(Kernel<PrefillArguments<TensorMap>>),
}

/// The kernels.
#[derive(Debug)]
pub struct AttentionKernels {
    planner: TaskPlanner,
    /// As the planner has them.
    decode: [Kernel<DecodeArguments>; 2],
    prefill: PrefillKernel,
    prefill_blocks: usize,
}

/// The shapes in which the kernels are compiled for a model.
fn shapes(options: &KernelOptions) -> ([DecodeShape; 2], PrefillShape) {
    let &KernelOptions { head_dim, group, hopper, shared_bytes_max, .. } = options;
    let shared_bytes_max = shared_bytes_max as usize;
    let prefill = if hopper {
        PrefillShape::hopper(head_dim, group)
    } else {
        PrefillShape::portable(head_dim, group, shared_bytes_max)
    };
    let decode = [DecodeShape::wide, DecodeShape::narrow];
    (decode.map(|shape| shape(head_dim, group, shared_bytes_max)), prefill)
}

/// The sources for a model. That of the prompts' kernel is Hopper's own where it can be.
pub(super) fn units(options: &KernelOptions) -> Vec<Unit> {
    let unit = |name, source, macros: &[(&'static str, usize)]| Unit {
        name,
        source,
        macros: macros.iter().map(|&(name, value)| (name, value.to_string())).collect(),
    };
    let (decode, prefill) = shapes(options);
    let prefill = if options.hopper {
        let source = include_str!("prefill_hopper.cu");
        unit("attention_prefill_hopper", source, &prefill.macros)
    } else {
        unit("attention_prefill", include_str!("prefill.cu"), &prefill.macros)
    };
    let decode =
        decode.map(|shape| unit("attention_decode", include_str!("decode.cu"), &shape.macros()));
    decode.into_iter().chain([prefill]).collect()
}

impl AttentionKernels {
    pub(super) fn new(
        gpu: &Arc<Gpu>,
        options: &KernelOptions,
        next: &mut NextModule<'_>,
    ) -> Result<Self, Error> {
        let multiprocessors = gpu.properties().multiprocessors as usize;
        let (decode_shapes, prefill_shape) = shapes(options);
        let mut load = |shape: DecodeShape| {
            let shared = shape.shared_bytes() as u32;
            let kernel: Kernel<DecodeArguments> = next()?.kernel("attention_decode", shared)?;
            let blocks = kernel.blocks_per_multiprocessor(shape.threads() as u32, shared)?;
            let blocks = blocks.max(1) as usize * multiprocessors;
            Ok::<_, Error>((kernel, (shape, Grid { multiprocessors, blocks })))
        };
        let [wide, narrow] = decode_shapes;
        let (wide, narrow) = (load(wide)?, load(narrow)?);
        let (shared, threads) = (prefill_shape.shared_bytes as u32, prefill_shape.threads as u32);
        let (prefill, blocks) = if options.hopper {
            (PrefillKernel::Hopper(next()?.kernel("attention_prefill_hopper", shared)?), 1)
        } else {
            let kernel: Kernel<PrefillArguments<Address>> =
                next()?.kernel("attention_prefill", shared)?;
            let blocks = kernel.blocks_per_multiprocessor(threads, shared)?;
            (PrefillKernel::Common(kernel), blocks)
        };
        let prefill_blocks = blocks.max(1) as usize * multiprocessors;
        let planner = TaskPlanner { decode: [wide.1, narrow.1], prefill: prefill_shape };
        Ok(Self { planner, decode: [wide.0, narrow.0], prefill, prefill_blocks })
    }

    /// What cuts steps into tasks for these kernels.
    pub fn planner(&self) -> &TaskPlanner {
        &self.planner
    }

    /// Memory for steps within the limits.
    pub fn scratch(&self, stream: &Stream, limits: StepLimits) -> Result<AttentionScratch, Error> {
        // There are never more counters than tasks, nor more than five slots for four.
        let tasks = self.planner.decode_tasks_max(limits);
        let slots = tasks + tasks / 4 + 1;
        let partials = slots * limits.kv_heads * self.planner.decode[0].0.partial_len();
        Ok(AttentionScratch {
            partials: DeviceBuffer::new(stream.gpu(), partials, "attention")?,
            arrivals: DeviceBuffer::zeroed(stream, tasks * limits.kv_heads, "attention")?,
            counters: DeviceBuffer::zeroed(stream, 2, "attention")?,
        })
    }

    /// Attends.
    ///
    /// # Panics
    /// If a buffer is too small.
    pub fn attend(
        &self,
        stream: &Stream,
        args: &Attention<'_>,
        scratch: &AttentionScratch,
    ) -> Result<(), Error> {
        let prefill = &self.planner.prefill;
        let kernel = TaskPlanner::decode_kernel(args.rows);
        let (decode, grid) = &self.planner.decode[kernel];
        let head_dim = decode.head_dim;
        let block = BLOCK_TOKENS * head_dim;
        assert!(args.query_stride.is_multiple_of(head_dim), "whole heads");
        assert_eq!(args.keys.len(), args.values.len(), "as many keys as values");
        // Rows hold heads of queries, then as many of keys as of values.
        let all_heads = args.query_stride / head_dim;
        let kv_heads = all_heads / (decode.group + 2);
        assert_eq!(kv_heads * (decode.group + 2), all_heads, "heads of a row");
        let output_stride = kv_heads * decode.group * head_dim;
        assert!(args.keys.len().is_multiple_of(kv_heads * block), "whole blocks");
        assert!(args.queries.len() >= args.rows * args.query_stride, "queries");
        assert!(args.output.len() >= args.rows * output_stride, "output");
        let ([decode_tasks, prefill_tasks], [decode_start, prefill_start]) = match args.tasks {
            Tasks::Listed(tasks) => {
                assert!(args.task_words.len() >= tasks.words().len(), "tasks");
                (tasks.counts(), tasks.starts())
            }
            Tasks::OneRowEach => ([usize::MAX / kv_heads, 0], [TaskList::DECODE_START, 0]),
        };
        let words = |first: usize| args.task_words.slice(first..args.task_words.len()).address();
        let window = args.window.map_or(0, |window| window as i32);
        let (scale, softcap) = (args.scale, args.softcap.unwrap_or(0.0));
        if decode_tasks > 0 {
            let arguments = DecodeArguments {
                queries: args.queries.address(),
                query_stride: args.query_stride as i32,
                keys: args.keys.address(),
                values: args.values.address(),
                block_tables: args.block_tables.address(),
                tasks: words(decode_start),
                task_count: words(0),
                partials: scratch.partials.address(),
                arrivals: scratch.arrivals.address(),
                output: args.output.address(),
                output_stride: output_stride as i32,
                kv_heads: kv_heads as i32,
                window,
                scale,
                softcap,
            };
            let blocks = grid.blocks.min(decode_tasks * kv_heads);
            let shape = Shape {
                shared_bytes: decode.shared_bytes() as u32,
                ..Shape::row(blocks, decode.threads() as u32)
            };
            // SAFETY: the sizes were checked above; the tasks are those that were made for the step.
            unsafe { self.decode[kernel].launch(stream, shape, arguments)? };
        }
        if prefill_tasks == 0 {
            return Ok(());
        }
        let blocks = self.prefill_blocks.min(prefill_tasks * kv_heads);
        let shape = Shape {
            shared_bytes: prefill.shared_bytes as u32,
            ..Shape::row(blocks, prefill.threads as u32)
        };
        let arguments = PrefillArguments {
            queries: args.queries.address(),
            query_stride: args.query_stride as i32,
            keys: args.keys.address(),
            values: args.values.address(),
            block_tables: args.block_tables.address(),
            tasks: words(prefill_start),
            task_count: words(1),
            counters: scratch.counters.address(),
            output: args.output.address(),
            output_stride: output_stride as i32,
            kv_heads: kv_heads as i32,
            window,
            scale,
            softcap,
        };
        match &self.prefill {
            // SAFETY: as above.
            PrefillKernel::Common(kernel) => unsafe { kernel.launch(stream, shape, arguments) },
            PrefillKernel::Hopper(kernel) => {
                let keys = tensor_map(args.keys, head_dim)?;
                let values = tensor_map(args.values, head_dim)?;
                // SAFETY: as above.
                unsafe { kernel.launch(stream, shape, arguments.with_pools(keys, values)) }
            }
        }
    }
}

impl<Pool> PrefillArguments<Pool> {
    /// The same with the pools given in another way.
    fn with_pools<Other>(self, keys: Other, values: Other) -> PrefillArguments<Other> {
        let Self { queries, query_stride, block_tables, tasks, task_count, counters, .. } = self;
        let Self { output, output_stride, kv_heads, window, scale, softcap, .. } = self;
        PrefillArguments {
            queries,
            query_stride,
            keys,
            values,
            block_tables,
            tasks,
            task_count,
            counters,
            output,
            output_stride,
            kv_heads,
            window,
            scale,
            softcap,
        }
    }
}

/// A pool as rows of one head each, read in boxes of a block's rows and 64 columns, swizzled over 128 bytes.
fn tensor_map(pool: &DeviceBuffer<bf16>, head_dim: usize) -> Result<TensorMap, Error> {
    let mut map = TensorMap([0; 16]);
    let sizes = [head_dim as u64, (pool.len() / head_dim) as u64];
    let strides = [2 * head_dim as u64];
    let boxes = [64.min(head_dim as u32), BLOCK_TOKENS as u32];
    let steps = [1_u32, 1];
    // SAFETY: the map has the size and alignment of the driver's; all arrays have as many elements as dimensions.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            (&raw mut map).cast(),
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            2,
            pool.address().0 as *mut c_void,
            sizes.as_ptr(),
            strides.as_ptr(),
            boxes.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .doing(|| format!("describing a pool of {} values", pool.len()))?;
    Ok(map)
}
