//! What becomes of a kernel that fails on the GPU. No other can be used by the process afterwards, so each case is a
//! process of its own.
#![allow(unsafe_code, reason = "a kernel of the test's own is launched, which touches no memory")]

use std::{process::Command, sync::Arc};

use cuda::{Compiler, Gpu, Module, Shape, Stream, Unit};

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

/// Runs an ignored test of this file by itself.
fn alone(test: &str) {
    if Gpu::count() == 0 {
        eprintln!("skipped: there is no GPU");
        return;
    }
    let program = std::env::current_exe().unwrap();
    let name = format!("faults::{test}");
    let output = Command::new(program).args([&name, "--exact", "--ignored"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn a_fault_is_seen_by_who_waits_next_and_by_all_after_that() {
    alone("without_checks");
}

#[test]
fn where_launches_are_checked_a_fault_names_the_kernel_and_its_shape() {
    alone("with_checks");
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn without_checks() {
    let gpu = Gpu::open(0).unwrap();
    let stream = Stream::new(&gpu).unwrap();
    launch_trap(&gpu, &stream).unwrap();
    let error = stream.synchronize().unwrap_err().to_string();
    assert!(error.contains("waiting"), "{error}");
    assert!(stream.synchronize().is_err(), "it stays");
    assert!(cuda::DeviceBuffer::<u8>::new(&gpu, 16, "a test").is_err(), "and for everything");
    drop((stream, gpu));
    assert!(Gpu::open(0).is_err(), "the process has lost the GPU");
}

#[test]
#[ignore = "run by another test, in a process of its own"]
fn with_checks() {
    let gpu = Gpu::open(0).unwrap();
    let stream = Stream::checking(&gpu).unwrap();
    let error = launch_trap(&gpu, &stream).unwrap_err().to_string();
    assert!(error.contains("running trap") && error.contains("(3, 1, 1)"), "{error}");
    assert!(error.contains("threads: 64"), "{error}");
}
