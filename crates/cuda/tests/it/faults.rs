//! What becomes of a kernel that fails on the GPU.
#![allow(unsafe_code, reason = "a kernel of the test's own is launched, which touches no memory")]

use std::sync::Arc;

use cuda::{Compiler, Gpu, Module, Shape, Stream, Unit};

use crate::support::Bench;

/// Launches a kernel that ends with a fault.
fn launch_trap(gpu: &Arc<Gpu>, stream: &Stream) -> Result<(), cuda::Error> {
    let source = "extern \"C\" __global__ void trap(int unused) { asm volatile(\"trap;\"); }";
    let unit = Unit { name: "trap", source, macros: Vec::new() };
    let code = Compiler::new(&gpu.architecture(), None)?.compile(&[unit])?;
    let kernel = Module::load(gpu, &code[0])?.kernel::<Unused>("trap", 0)?;
    // SAFETY: the kernel reads and writes nothing.
    unsafe { kernel.launch(stream, Shape::row(3, 64), Unused(0)) }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Unused(i32);

// SAFETY: one integer, as the source declares it.
unsafe impl cuda::Arguments for Unused {}

#[test]
fn a_fault_is_seen_where_one_waits_and_ends_the_use_of_the_gpu_but_not_of_another() {
    let Some(bench) = Bench::new(64, 3) else { return };
    launch_trap(&bench.gpu, &bench.stream).unwrap();
    let error = bench.stream.synchronize().unwrap_err().to_string();
    assert!(error.contains("waiting"), "{error}");
    assert!(bench.stream.synchronize().is_err(), "it stays");
    assert!(cuda::DeviceBuffer::<u8>::new(&bench.gpu, 16, "a test").is_err(), "and for everything");
    drop(bench);
    let bench = Bench::new(64, 3).unwrap();
    assert_eq!(bench.download(&bench.upload(&[1_i32, 2])), [1, 2], "opened anew, it works");
}

#[test]
fn where_launches_are_checked_a_fault_names_the_kernel_and_its_shape() {
    let Some(bench) = Bench::new(64, 3) else { return };
    let stream = Stream::checking(&bench.gpu).unwrap();
    let error = launch_trap(&bench.gpu, &stream).unwrap_err().to_string();
    assert!(
        error.contains("trap") && error.contains("(3, 1, 1)") && error.contains("64"),
        "{error}"
    );
}
