//! `cargo xtask bench model`: what a model does on this machine, beside what the machine would allow.

mod engine;
pub(crate) mod load;
mod profile;
pub(crate) mod sharing;
pub(crate) mod speculation;
mod speed;
pub(crate) mod streams;
mod work;

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use clap::ArgMatches;
use models::Compute;
use serde_json::{Value, json};

use crate::{
    arguments,
    machine::resident_bytes,
    report::{megabytes, seconds},
    roofline::Roofline,
};
use load::{Loaded, load};
use speed::Bench;
use work::ModelWork;

/// The command.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let path = arguments::model_path(matches)?;
    let cpu = arguments::cpu(matches)?;
    let roofline = Roofline::measure(&cpu);
    roofline.print(&cpu);
    let before = resident_bytes();
    let loaded = load(&path, &cpu, Compute::Native)?;
    println!("{}", path.display());
    let loading = report_loading(&loaded, before);
    let work = ModelWork::of(&loaded.model.program, cpu.isa.rung());
    let bench = Bench { cpu, model: loaded.model, roofline, work };
    let (prefill, prefill_tokens_s) = bench.prefill()?;
    let (decode, decode_tokens_s) = bench.decode()?;
    let engine = engine::run(&bench, (prefill_tokens_s, decode_tokens_s))?;
    let profile = profile::run(&bench, prefill_tokens_s)?;
    let resident = resident_bytes().map(|(_, highest)| highest);
    if let Some(highest) = resident {
        println!("resident at the highest {}", megabytes(highest));
    }
    bench.roofline.print_drift(&bench.cpu);
    if let Some(file) = matches.get_one::<PathBuf>("json") {
        let figures = json!({
            "model": path.display().to_string(),
            "machine": bench.roofline.json(&bench.cpu),
            "loading": loading,
            "prefill": prefill,
            "decode": decode,
            "engine": engine,
            "profile": profile,
            "resident_bytes_max": resident,
        });
        let text = serde_json::to_string_pretty(&figures)?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}

fn report_loading(loaded: &Loaded, before: Option<(u64, u64)>) -> Value {
    let packed_bytes = loaded.model.program.weight_bytes();
    let resident =
        before.zip(resident_bytes()).map(|((before, _), (now, _))| now.saturating_sub(before));
    let resident_text = resident.map_or("unknown".to_owned(), megabytes);
    println!("  opened in {}, packed in {}", seconds(loaded.open_s), seconds(loaded.pack_s));
    println!(
        "  weights {} in the file, {} packed, {resident_text} more resident\n",
        megabytes(loaded.file_bytes),
        megabytes(packed_bytes)
    );
    json!({
        "open_s": loaded.open_s,
        "pack_s": loaded.pack_s,
        "file_bytes": loaded.file_bytes,
        "packed_bytes": packed_bytes,
        "resident_bytes": resident,
    })
}
