//! Every source compiles for every architecture, without a GPU.

use cuda::{
    Compiler,
    kernels::{KernelOptions, units},
};

use crate::support::LAYOUTS;

/// Architectures: Ampere, Hopper, Blackwell.
const ARCHITECTURES: [&str; 3] = ["80", "90a", "100a"];
/// Width and group of heads, and whether everything is compiled or only what depends on them.
const MODELS: [(usize, usize); 4] = [(128, 4), (64, 3), (80, 1), (256, 8)];

#[test]
fn all_sources_compile_for_all_architectures() {
    for architecture in ARCHITECTURES {
        let compiler = match Compiler::new(architecture, None) {
            Ok(compiler) => compiler,
            Err(error) => {
                // Where checks are run, the compiler must be there: it is a package.
                assert!(std::env::var_os("BRIGADE_NVRTC_REQUIRED").is_none(), "{error}");
                eprintln!("skipped: {error}");
                return;
            }
        };
        let mut seen = Vec::new();
        for (head_dim, group) in MODELS {
            // Quantized weights are read alike on all architectures: one has them all, the others the extremes.
            let layouts = match architecture {
                "90a" => LAYOUTS.to_vec(),
                _ => vec![LAYOUTS[4], LAYOUTS[5]],
            };
            let mut units = units(&KernelOptions {
                head_dim,
                group,
                layouts,
                hopper: architecture == "90a",
                shared_bytes_max: 166_912,
            });
            units.retain(|unit| !seen.contains(unit));
            for code in compiler.compile(&units).unwrap() {
                assert!(code.starts_with(b"\x7fELF"), "machine code is an ELF file");
            }
            seen.extend(units);
        }
    }
}

#[test]
fn an_error_names_source_and_line() {
    let Ok(compiler) = Compiler::new("80", None) else {
        eprintln!("skipped: no run-time compiler");
        return;
    };
    let unit = cuda::Unit { name: "broken", source: "\n\nnonsense;", macros: Vec::new() };
    let error = compiler.compile(&[unit]).unwrap_err().to_string();
    assert!(error.contains("broken.cu(3)") && error.contains("sm_80"), "{error}");
}
