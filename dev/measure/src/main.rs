//! Measures kernels and models on this machine, against what the machine could do at best (`cargo xtask bench`), and
//! makes models to measure (`cargo xtask gen-model`).

mod arguments;
mod generate;
mod gpu;
mod kernels;
mod machine;
mod model;
mod perplexity;
mod random;
mod report;
mod requests;
mod roofline;
mod shape;
mod timing;

use std::process::ExitCode;

fn main() -> ExitCode {
    let matches = arguments::command().get_matches();
    let result = match matches.subcommand() {
        Some(("gen-model", matches)) => generate::run(matches),
        Some(("gpu", matches)) => gpu::run(matches),
        Some(("kernels", matches)) => kernels::run(matches),
        Some(("model", matches)) => model::run(matches),
        Some(("perplexity", matches)) => perplexity::run(matches),
        Some(("speculation", matches)) => model::speculation::run(matches),
        Some(("sharing", matches)) => model::sharing::run(matches),
        _ => unreachable!("a subcommand is required, and these are all"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
