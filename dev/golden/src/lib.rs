//! Models against independent references, and against themselves in other circumstances.
//!
//! The reference of the real model, `smollm2-135m-instruct-q4_1.json`, was computed in 32-bit floats by another
//! program from the same weights. Tests that need those weights run where `BRIGADE_TEST_GGUF` names the file (as
//! `cargo xtask ci` does) and say so where they are skipped.

pub mod bfloat16;
mod conversion;
pub mod drive;
mod hugging_face;
pub mod reference;
pub mod tiny;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use device::cpu::{Cpu, Rung};
use kernels::attention::KvFormat;
use models::{Compute, LoadOptions, Model};
use runner::{CpuRunner, KvBudget, RunnerOptions};
use tokenizer::{TokenKind, Tokenizer, Vocabulary};
use weights::{Source, Weights};

/// The real model's file, if this machine has it.
pub fn smollm2_file() -> Option<PathBuf> {
    let path = std::env::var_os("BRIGADE_TEST_GGUF").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: BRIGADE_TEST_GGUF does not name the SmolLM2 GGUF file");
    }
    path
}

/// Keeps tests that compute on all processors from doing so at once: their pools would wait for each other's threads.
pub fn all_processors() -> MutexGuard<'static, ()> {
    static ALL: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing behind here.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Loads a model for a rung.
///
/// # Panics
/// If the checkpoint cannot be read.
pub fn load(weights: &Weights, cpu: &Cpu, compute: Compute) -> Arc<Model> {
    let options = LoadOptions { compute, progress: &mut |_, _| {} };
    Arc::new(models::load(weights, cpu, options).expect("the checkpoint is whole"))
}

/// The tokenizer that a checkpoint carries.
///
/// # Panics
/// If it carries none that can be used.
pub fn tokenizer(weights: &Weights) -> Tokenizer {
    let metadata = match weights.source() {
        Source::HuggingFace { dir, .. } => {
            return Tokenizer::from_folder(dir).expect("the folder has a tokenizer");
        }
        Source::Gguf(metadata) => metadata,
    };
    let keys = metadata.vocabulary().expect("the file has a vocabulary");
    let kind = |number: &i64| TokenKind::from_number(*number).expect("token types are known");
    let vocabulary = Vocabulary {
        model: keys.model.to_owned(),
        pre: keys.pre.map(str::to_owned),
        tokens: keys.tokens.to_vec(),
        scores: keys.scores.to_vec(),
        kinds: keys.token_types.iter().map(kind).collect(),
        merges: keys.merges.to_vec(),
        bos: keys.bos,
        eos: keys.eos,
        eot: keys.eot,
        unk: keys.unk,
        pad: keys.pad,
        add_bos: keys.add_bos,
        add_eos: keys.add_eos,
        add_space_prefix: keys.add_space_prefix,
    };
    Tokenizer::from_vocabulary(vocabulary).expect("the vocabulary is sound")
}

/// A CPU with the widest instruction set up to a rung, on all of its processors.
pub fn cpu(rung_max: Rung) -> Arc<Cpu> {
    Arc::new(Cpu::new(rung_max, Cpu::default_threads()))
}

/// A runner with room for `slots` requests.
///
/// # Panics
/// If its limits are refused.
pub fn runner(cpu: &Arc<Cpu>, model: &Arc<Model>, slots: u32, kv_format: KvFormat) -> CpuRunner {
    let options = RunnerOptions {
        step_tokens_max: 512,
        slots_max: slots,
        context_max: Some(512.min(model.spec.context_max as u32)),
        kv_budget: KvBudget::Bytes(u64::MAX),
        prefix_cache_bytes: None,
        host_cache_bytes: 0,
        kv_format,
    };
    CpuRunner::new(Arc::clone(cpu), Arc::clone(model), &options).expect("the limits are sound")
}
