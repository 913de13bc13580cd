//! `brigade inspect`: what a model is.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ArgMatches;
use weights::Weights;

use crate::{
    backend::{cpu, pack},
    load::{bytes, data_types, resolve},
    settings::Settings,
};

/// Prints what a model is.
pub(crate) fn run(settings: &Settings, matches: &ArgMatches) -> Result<()> {
    let resolved = resolve(settings, super::model(matches))?;
    let weights = Weights::open(&resolved.path)?;
    let line = |name: &str, value: String| println!("{name:<22}{value}");
    line("name", resolved.name);
    line("path", resolved.path.display().to_string());
    // What the tensors are is worth printing even where the architecture is not supported.
    match models::describe(&weights) {
        Ok(spec) => {
            line("architecture", spec.architecture.to_owned());
            line("layers", spec.layers.to_string());
            line("width", spec.width.to_string());
            let heads = (spec.heads, spec.kv_heads, spec.head_dim);
            line(
                "heads",
                format!("{} queries, {} keys and values, {} wide", heads.0, heads.1, heads.2),
            );
            line("feed-forward", spec.feed_forward.to_string());
            line("vocabulary", format!("{} tokens", spec.vocab_size));
            line("context", format!("{} tokens", spec.context_max));
            line("rope", format!("theta {}, {:?}", spec.rope.theta, spec.rope.scaling));
            let kv = spec.kv_values_per_token() as u64;
            line(
                "KV cache per token",
                format!("{} in bf16, {} in f32", bytes(2 * kv), bytes(4 * kv)),
            );
            let whole = 2 * kv * spec.context_max as u64;
            line("KV of a full context", format!("{} in bf16", bytes(whole)));
        }
        Err(error) => line("architecture", format!("cannot be served: {error}")),
    }
    line("quantization", data_types(&weights));
    let mut by_type: BTreeMap<_, (usize, u64, u64)> = BTreeMap::new();
    for tensor in weights.tensors() {
        let (count, elements, size) = by_type.entry(tensor.data_type).or_default();
        *count += 1;
        *elements += tensor.shape.iter().product::<usize>() as u64;
        *size += tensor.bytes as u64;
    }
    let elements: u64 = by_type.values().map(|(_, elements, _)| elements).sum();
    let size: u64 = by_type.values().map(|(_, _, size)| size).sum();
    line("parameters", elements.to_string());
    line("weights", bytes(size));
    for (data_type, (count, elements, size)) in &by_type {
        line("", format!("{data_type}: {count} tensors, {elements} elements, {}", bytes(*size)));
    }
    if matches.get_flag("tensors") {
        println!();
        for tensor in weights.tensors() {
            let shape: Vec<String> = tensor.shape.iter().map(usize::to_string).collect();
            println!(
                "{:<48} {:<5} {}",
                tensor.name,
                tensor.data_type.to_string(),
                shape.join(" × ")
            );
        }
    }
    if matches.get_flag("program") {
        let model = pack(settings, &weights, &cpu(settings)?)?;
        println!("\n{}", model.program);
    }
    Ok(())
}
