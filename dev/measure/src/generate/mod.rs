//! `cargo xtask gen-model`: GGUF files with the shapes of real models and random weights, for measuring what does not
//! depend on what a model has learnt. The same seed gives the same file.

mod format;
mod vocabulary;

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use clap::ArgMatches;
use types::DataType;
use weights::gguf::Builder;

pub(crate) use format::FileFormat;
use format::Role;

use crate::{
    random::{Random, fill},
    report::{megabytes, seconds},
    shape::{Heads, SHAPES, Shape},
};

/// Standard deviation of weights: what trained ones have, roughly.
const DEVIATION: f32 = 0.03;
/// Bytes made at a time, roughly.
const CHUNK_BYTES: usize = 1 << 20;

/// The command.
pub(crate) fn run(matches: &ArgMatches) -> Result<()> {
    let shape = matches.get_one::<Shape>("shape").context("--shape is required")?;
    let format = *matches.get_one::<FileFormat>("quant").context("--quant is required")?;
    let output = matches.get_one::<PathBuf>("output").context("--output is required")?;
    let seed = matches.get_one::<u64>("seed").copied().unwrap_or(0);
    let begun = std::time::Instant::now();
    let shape = Shape { has_weights: !matches.get_flag("no-weights"), ..shape.clone() };
    write_file(output, &shape, format, seed)?;
    let bytes =
        fs::metadata(output).with_context(|| format!("reading {}", output.display()))?.len();
    let elapsed = seconds(begun.elapsed().as_secs_f64());
    println!("{}: {} {format}, {} in {elapsed}", output.display(), shape.name, megabytes(bytes));
    Ok(())
}

/// The shape with this name.
pub(crate) fn shape_named(name: &str) -> Result<Shape, String> {
    let found = SHAPES.into_iter().find(|shape| shape.name == name);
    let names = || SHAPES.map(|shape| shape.name).join(", ");
    found.ok_or_else(|| format!("`{name}` is no shape; there are {}", names()))
}

/// Writes a file, which appears only when it is whole.
fn write_file(path: &Path, shape: &Shape, format: FileFormat, seed: u64) -> Result<()> {
    let unfinished = path.with_added_extension("part");
    let write = || -> io::Result<()> {
        let mut out = BufWriter::with_capacity(CHUNK_BYTES, File::create(&unfinished)?);
        write(&mut out, shape, format, seed)?;
        out.into_inner()?.sync_all()
    };
    let failed = || format!("writing {}", unfinished.display());
    ensure!(shape.vocab_size >= vocabulary::TOKENS_MIN, "the vocabulary is too small");
    if let Err(error) = write() {
        // What is there is of no use; that it cannot be removed is a smaller problem than the one reported.
        let _left = fs::remove_file(&unfinished);
        return Err(error).with_context(failed);
    }
    fs::rename(&unfinished, path).with_context(|| format!("writing {}", path.display()))
}

/// Writes the bytes of a file.
fn write(out: &mut impl Write, shape: &Shape, format: FileFormat, seed: u64) -> io::Result<()> {
    let mut builder = Builder::new();
    set_keys(&mut builder, shape, format);
    let tensors = tensors(shape, format);
    for Tensor { name, data_type, shape, .. } in &tensors {
        builder.tensor_later(name, *data_type, shape);
    }
    let mut tensors = tensors.iter();
    builder.write_with(out, |name, out| {
        let tensor = tensors.next().expect("as many tensors as were announced");
        assert_eq!(tensor.name, name, "tensors come in order");
        tensor.write(out, seed)
    })
}

fn set_keys(builder: &mut Builder, shape: &Shape, format: FileFormat) {
    let architecture = shape.architecture;
    builder.set("general.architecture", architecture);
    builder.set("general.name", format!("random {} {format}", shape.name));
    let keys = [
        ("embedding_length", shape.width),
        ("block_count", shape.layers),
        ("attention.head_count", shape.heads.queries),
        ("attention.head_count_kv", shape.heads.kv),
        ("attention.key_length", shape.heads.dim),
        ("attention.value_length", shape.heads.dim),
        ("rope.dimension_count", shape.heads.dim),
        ("feed_forward_length", shape.feed_forward),
        ("context_length", shape.context_max),
        ("vocab_size", shape.vocab_size),
    ];
    for (key, value) in keys {
        builder.set(&format!("{architecture}.{key}"), value as u32);
    }
    let numbers = [
        ("attention.layer_norm_rms_epsilon", shape.norm_epsilon),
        ("rope.freq_base", shape.rope_theta),
    ];
    for (key, value) in numbers {
        builder.set(&format!("{architecture}.{key}"), value);
    }
    vocabulary::set(builder, shape.vocab_size, shape.pre_tokenizer);
}

/// A tensor to be written.
struct Tensor {
    name: String,
    data_type: DataType,
    shape: Vec<usize>,
    content: Content,
}

/// What is in a tensor.
#[derive(Clone, Copy, PartialEq)]
enum Content {
    Random,
    Ones,
}

impl Tensor {
    fn write(&self, out: &mut dyn Write, seed: u64) -> io::Result<()> {
        let elements: usize = self.shape.iter().product();
        if self.content == Content::Ones {
            return (0..elements).try_for_each(|_| out.write_all(&1.0_f32.to_le_bytes()));
        }
        let mut left = elements / self.data_type.block_elements() * self.data_type.block_bytes();
        let chunk = CHUNK_BYTES.next_multiple_of(self.data_type.block_bytes());
        let mut bytes = vec![0; chunk.min(left)];
        let mut random = Random::new(seed, &self.name);
        while left > 0 {
            let bytes = &mut bytes[..chunk.min(left)];
            fill(&mut random, self.data_type, DEVIATION, bytes);
            out.write_all(bytes)?;
            left -= bytes.len();
        }
        Ok(())
    }
}

/// All tensors, in the order of the file.
fn tensors(shape: &Shape, format: FileFormat) -> Vec<Tensor> {
    let matrix = |name: String, [rows, columns]: [usize; 2], role| Tensor {
        data_type: format.of(role, columns),
        name: format!("{name}.weight"),
        shape: vec![rows, columns],
        content: Content::Random,
    };
    let vector = |name: String, len, content| Tensor {
        name,
        data_type: DataType::F32,
        shape: vec![len],
        content,
    };
    let norm = |name: String| vector(format!("{name}.weight"), shape.width, Content::Ones);
    let &Shape { width, feed_forward, layers, vocab_size, is_tied, .. } = shape;
    if !shape.has_weights {
        return Vec::new();
    }
    let Heads { queries, kv, dim } = shape.heads;
    let table = [vocab_size, width];
    let embedding_role = if is_tied { Role::Logits } else { Role::Other };
    let mut tensors = vec![matrix("token_embd".to_owned(), table, embedding_role)];
    for layer in 0..layers {
        let name = |part: &str| format!("blk.{layer}.{part}");
        let sensitive = Role::Sensitive { layer, layers };
        tensors.push(norm(name("attn_norm")));
        for (part, heads, role) in [
            ("attn_q", queries, Role::Other),
            ("attn_k", kv, Role::Other),
            ("attn_v", kv, sensitive),
        ] {
            tensors.push(matrix(name(part), [heads * dim, width], role));
            if shape.has_biases {
                tensors.push(vector(name(part) + ".bias", heads * dim, Content::Random));
            }
        }
        tensors.extend([
            matrix(name("attn_output"), [width, queries * dim], Role::Other),
            norm(name("ffn_norm")),
            matrix(name("ffn_gate"), [feed_forward, width], Role::Other),
            matrix(name("ffn_up"), [feed_forward, width], Role::Other),
            matrix(name("ffn_down"), [width, feed_forward], sensitive),
        ]);
    }
    tensors.push(norm("output_norm".to_owned()));
    if !is_tied {
        tensors.push(matrix("output".to_owned(), table, Role::Logits));
    }
    tensors
}

#[cfg(test)]
mod tests;
