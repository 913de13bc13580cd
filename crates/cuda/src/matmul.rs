//! Products of many rows with a matrix, by cuBLASLt: `output[row][n] (+)= sum over k of input[row][k] × weights[n][k]`,
//! weights and input in bfloat16, sums in float32.
//!
//! Which of the library's algorithms is fastest depends on the shape. The first guess is the library's own; `tune`
//! measures its best guesses once for a shape, and the winner is used from then on.

use std::{collections::HashMap, ffi::c_void, sync::Arc};

use cudarc::cublaslt::{result, sys};
use half::bf16;

use crate::{Address, DeviceBuffer, Error, Event, Gpu, Stream, error::Doing};

/// What the output holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputType {
    /// bfloat16.
    Bf16,
    /// float32.
    F32,
}

/// The shape of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Product {
    /// Rows of input and output.
    pub rows: usize,
    /// Outputs of a row, which are the rows of the weights.
    pub outputs: usize,
    /// Inputs of a row.
    pub inputs: usize,
    /// Elements from one output row to the next.
    pub output_stride: usize,
    /// What the output holds.
    pub output_type: OutputType,
    /// Add to the output instead of replacing it.
    pub accumulate: bool,
}

/// What is multiplied, and where to.
#[derive(Debug)]
pub struct Operands<'a> {
    /// `[outputs][inputs]`.
    pub weights: &'a DeviceBuffer<bf16>,
    /// `[rows][inputs]`.
    pub input: &'a DeviceBuffer<bf16>,
    /// `[rows][output_stride]`, of the product's output type.
    pub output: &'a DeviceBuffer<u8>,
}

impl Operands<'_> {
    fn check(&self, product: Product) {
        let Product { rows, outputs, inputs, output_stride, .. } = product;
        assert!(rows > 0 && outputs > 0 && inputs > 0 && outputs <= output_stride, "{product:?}");
        assert!(self.weights.len() >= outputs * inputs, "weights of {product:?}");
        assert!(self.input.len() >= rows * inputs, "input of {product:?}");
        let bytes = match product.output_type {
            OutputType::Bf16 => 2,
            OutputType::F32 => 4,
        };
        let elements = (rows - 1) * output_stride + outputs;
        assert!(self.output.len() >= bytes * elements, "output of {product:?}");
    }
}

/// Scratch memory that the library's algorithms may use.
const WORKSPACE_BYTES: usize = 64 << 20;
/// Guesses that `tune` measures.
const CANDIDATES: usize = 8;

/// Multiplies matrices in one stream.
#[derive(Debug)]
pub struct Multiplier {
    gpu: Arc<Gpu>,
    handle: sys::cublasLtHandle_t,
    workspace: DeviceBuffer<u8>,
    plans: HashMap<Product, Plan>,
}

// SAFETY: the library's handles may be used from any thread, one at a time.
unsafe impl Send for Multiplier {}

#[derive(Debug)]
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    weights: sys::cublasLtMatrixLayout_t,
    input: sys::cublasLtMatrixLayout_t,
    output: sys::cublasLtMatrixLayout_t,
    algorithms: Vec<sys::cublasLtMatmulAlgo_t>,
}

impl Multiplier {
    /// Starts the library and takes its scratch memory.
    pub fn new(gpu: &Arc<Gpu>) -> Result<Self, Error> {
        let workspace = DeviceBuffer::new(gpu, WORKSPACE_BYTES, "matrix products")?;
        let handle = result::create_handle().doing(|| "starting".into())?;
        Ok(Self { gpu: Arc::clone(gpu), handle, workspace, plans: HashMap::new() })
    }

    /// The library's scratch memory.
    pub fn workspace(&self) -> &DeviceBuffer<u8> {
        &self.workspace
    }

    /// Multiplies: `weights` is `[outputs][inputs]`, `input` `[rows][inputs]`, `output` `[rows][output_stride]`, bytes
    /// of bfloat16 or float32 as the product says.
    ///
    /// # Panics
    /// If a buffer is too small.
    pub fn multiply(
        &mut self,
        stream: &Stream,
        product: Product,
        operands: &Operands<'_>,
    ) -> Result<(), Error> {
        operands.check(product);
        let (handle, workspace) = (self.handle, self.workspace.address());
        self.plan(product)?.run((handle, workspace), stream, product, operands, 0)
    }

    /// Measures the library's guesses for a shape and keeps the fastest. Several matrices, so that none is read from a
    /// cache because it was just used. The output holds nonsense afterwards.
    ///
    /// # Panics
    /// As for `multiply`.
    pub fn tune(
        &mut self,
        stream: &Stream,
        product: Product,
        rounds: &[Operands<'_>],
    ) -> Result<(), Error> {
        rounds.iter().for_each(|operands| operands.check(product));
        let (library, gpu) = ((self.handle, self.workspace.address()), self.gpu.clone());
        let plan = self.plan(product)?;
        let (begin, end) = (Event::timed(&gpu)?, Event::timed(&gpu)?);
        let mut best = (f32::INFINITY, 0);
        for index in 0..plan.algorithms.len() {
            for round in 0..2 {
                begin.record(stream)?;
                for operands in rounds {
                    plan.run(library, stream, product, operands, index)?;
                }
                end.record(stream)?;
                end.wait()?;
                let elapsed_ms = end.milliseconds_since(&begin)?;
                // The first round warms up.
                if round > 0 && elapsed_ms < best.0 {
                    best = (elapsed_ms, index);
                }
            }
        }
        plan.algorithms.swap(0, best.1);
        Ok(())
    }

    fn plan(&mut self, product: Product) -> Result<&mut Plan, Error> {
        if !self.plans.contains_key(&product) {
            let plan = Plan::new(self.handle, product)?;
            self.plans.insert(product, plan);
        }
        Ok(self.plans.get_mut(&product).expect("it was just made"))
    }
}

impl Drop for Multiplier {
    fn drop(&mut self) {
        if self.gpu.make_current().is_ok() {
            self.plans.clear();
            // SAFETY: the handle is not used afterwards.
            let _ = unsafe { result::destroy_handle(self.handle) };
        }
    }
}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, product: Product) -> Result<Self, Error> {
        let doing = || format!("planning {product:?}");
        let Product { rows, outputs, inputs, output_stride, .. } = product;
        let bf16 = sys::cudaDataType_t::CUDA_R_16BF;
        let f32 = sys::cudaDataType_t::CUDA_R_32F;
        let output_type = match product.output_type {
            OutputType::Bf16 => bf16,
            OutputType::F32 => f32,
        };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let description = result::create_matmul_desc(compute, f32).doing(doing)?;
        // The library counts columns first: it sees outputs × rows = (inputs × outputs)^T · (inputs × rows).
        let layout = |data_type, columns: usize, rows: usize, stride: usize| {
            result::create_matrix_layout(data_type, columns as u64, rows as u64, stride as i64)
                .doing(doing)
        };
        let mut plan = Self {
            description,
            weights: layout(bf16, inputs, outputs, inputs)?,
            input: layout(bf16, inputs, rows, inputs)?,
            output: layout(output_type, outputs, rows, output_stride)?,
            algorithms: Vec::new(),
        };
        let transpose = 1_i32;
        let which = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the description was just made, and the attribute is a 32-bit number.
        unsafe {
            let value: *const c_void = (&raw const transpose).cast();
            result::set_matmul_desc_attribute(description, which, value, size_of::<i32>())
                .doing(doing)?;
        }
        plan.algorithms = plan.guesses(handle).doing(doing)?;
        Ok(plan)
    }

    fn guesses(
        &self,
        handle: sys::cublasLtHandle_t,
    ) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, result::CublasError> {
        let preference = result::create_matmul_pref()?;
        let which =
            sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the results are plain numbers, for which 0 is a value.
        let mut found: [sys::cublasLtMatmulHeuristicResult_t; CANDIDATES] =
            unsafe { std::mem::zeroed() };
        let workspace_bytes = WORKSPACE_BYTES;
        let mut count = 0;
        // SAFETY: everything that is passed was made by the library and lives; the counts are those of the array.
        let asked = unsafe {
            let value: *const c_void = (&raw const workspace_bytes).cast();
            result::set_matmul_pref_attribute(preference, which, value, size_of::<usize>())
                .and_then(|()| {
                    sys::cublasLtMatmulAlgoGetHeuristic(
                        handle,
                        self.description,
                        self.weights,
                        self.input,
                        self.output,
                        self.output,
                        preference,
                        CANDIDATES as i32,
                        found.as_mut_ptr(),
                        &raw mut count,
                    )
                    .result()
                })
        };
        // SAFETY: the preference is not used afterwards.
        unsafe { result::destroy_matmul_pref(preference)? };
        asked?;
        let usable = found[..count as usize].iter().filter(|guess| guess.state.result().is_ok());
        let algorithms: Vec<_> = usable.map(|guess| guess.algo).collect();
        if algorithms.is_empty() {
            return Err(result::CublasError(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED));
        }
        Ok(algorithms)
    }

    fn run(
        &self,
        (handle, workspace): (sys::cublasLtHandle_t, Address),
        stream: &Stream,
        product: Product,
        operands: &Operands<'_>,
        algorithm: usize,
    ) -> Result<(), Error> {
        let alpha = 1.0_f32;
        let beta = if product.accumulate { 1.0_f32 } else { 0.0 };
        let pointer = |address: Address| address.0 as *mut c_void;
        let output = pointer(operands.output.address());
        // SAFETY: the plan lives, and the buffers were checked to be as large as the product says.
        unsafe {
            result::matmul(
                handle,
                self.description,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(operands.weights.address()),
                self.weights,
                pointer(operands.input.address()),
                self.input,
                output,
                self.output,
                output,
                self.output,
                &raw const self.algorithms[algorithm],
                pointer(workspace),
                WORKSPACE_BYTES,
                stream.raw.cast(),
            )
        }
        .doing(|| format!("multiplying {product:?}"))?;
        stream.check(|| format!("multiplying {product:?}"))
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: these were made by the library and are not used afterwards.
        unsafe {
            let _ = result::destroy_matmul_desc(self.description);
            for layout in [self.weights, self.input, self.output] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}
