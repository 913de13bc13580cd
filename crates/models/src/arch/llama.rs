//! Llama 2 and 3, SmolLM2 and others of that make (Touvron et al. 2023, Grattafiori et al. 2024): the plain decoder
//! that the other files start from.

use kernels::rope::RopePairs;

use super::Architecture;
use crate::{
    DecoderSpec, Error, RopeScaling, RopeSpec,
    config::{Config, Field, field},
    names::Part,
};

pub(super) const ARCHITECTURE: Architecture =
    Architecture { gguf: Some("llama"), hugging_face: "LlamaForCausalLM", read };

fn read(config: &Config<'_>) -> Result<DecoderSpec, Error> {
    let attention_bias = config.switch(field("attention_bias", "attention.bias"))?;
    Ok(DecoderSpec {
        architecture: "llama",
        qkv_bias: attention_bias,
        output_bias: attention_bias,
        ..plain_decoder(config)?
    })
}

/// The fields that all architectures of this family share, without biases, head norms or windows.
pub(super) fn plain_decoder(config: &Config<'_>) -> Result<DecoderSpec, Error> {
    if let Some(activation) = config.text(field("hidden_act", "hidden_act"))?
        && activation != "silu"
    {
        return Err(unusable(
            config,
            field("hidden_act", ""),
            activation,
            "only silu is supported",
        ));
    }
    if config.switch(field("mlp_bias", "mlp_bias"))? {
        return Err(unusable(config, field("mlp_bias", ""), "true", "it is not supported"));
    }
    let experts = config.count(field("num_local_experts", "expert_count"))?.unwrap_or(0);
    if experts > 0 {
        let experts_field = field("num_local_experts", "expert_count");
        let problem = "mixtures of experts are not supported";
        return Err(unusable(config, experts_field, &experts.to_string(), problem));
    }
    let width = config.required_count(field("hidden_size", "embedding_length"))?;
    let heads = config.required_count(field("num_attention_heads", "attention.head_count"))?;
    let kv_heads =
        config.count(field("num_key_value_heads", "attention.head_count_kv"))?.unwrap_or(heads);
    let head_dim = config
        .count(field("head_dim", "attention.key_length"))?
        .or_else(|| width.checked_div(heads))
        .unwrap_or(0);
    let layers = config.required_count(field("num_hidden_layers", "block_count"))?;
    let epsilon = field("rms_norm_eps", "attention.layer_norm_rms_epsilon");
    let gguf = config.is_gguf();
    let vocab_size = vocab_size(config)?;
    Ok(DecoderSpec {
        architecture: "",
        width,
        layers,
        heads,
        kv_heads,
        head_dim,
        feed_forward: config.required_count(field("intermediate_size", "feed_forward_length"))?,
        vocab_size,
        context_max: config.required_count(field("max_position_embeddings", "context_length"))?,
        norm_epsilon: config.number(epsilon)?.ok_or_else(|| config.missing(epsilon))? as f32,
        rope: RopeSpec {
            theta: theta(config)?,
            dims: config.count(field("rotary_dim", "rope.dimension_count"))?.unwrap_or(head_dim),
            // GGUF files of the llama architecture have their query and key rows reordered for neighbouring pairs.
            pairs: if gguf && config.architecture() == "llama" {
                RopePairs::Neighbours
            } else {
                RopePairs::Halves
            },
            scaling: scaling(config)?,
        },
        qkv_bias: false,
        output_bias: false,
        qk_norm: false,
        windows: vec![None; layers.min(1 << 16)],
        tied_embeddings: gguf || config.switch(field("tie_word_embeddings", ""))?,
    })
}

/// Rows of the embedding; in a checkpoint without weights, what the configuration says.
fn vocab_size(config: &Config<'_>) -> Result<usize, Error> {
    let name = Part::Embedding.name(config.is_gguf(), 0, "weight");
    let tensor = config.weights().tensor(&name);
    if let Some(rows) = tensor.and_then(|tensor| tensor.info.shape.first().copied()) {
        return Ok(rows);
    }
    config.count(field("vocab_size", "vocab_size"))?.ok_or(Error::MissingTensor { name })
}

pub(super) fn unusable(config: &Config<'_>, field: Field, value: &str, problem: &str) -> Error {
    Error::Field { field: config.name(field), value: value.to_owned(), problem: problem.to_owned() }
}

fn theta(config: &Config<'_>) -> Result<f64, Error> {
    let places = [field("rope_theta", "rope.freq_base"), field("rope_parameters.rope_theta", "")];
    for place in places {
        if let Some(theta) = config.number(place)? {
            return Ok(theta);
        }
    }
    Ok(10_000.0)
}

fn scaling(config: &Config<'_>) -> Result<RopeScaling, Error> {
    if let Some(factors) =
        config.weights().tensor(&Part::RopeFactors.name(config.is_gguf(), 0, "weight"))
    {
        let mut values = vec![0.0; factors.info.shape.iter().product()];
        quant::dequantise(factors.info.data_type, factors.data, &mut values);
        return Ok(RopeScaling::Factors(values));
    }
    if config.is_gguf() {
        return scaling_in(config, "rope.scaling", field("", "rope.scaling.type"));
    }
    for (object, kind) in [
        ("rope_scaling", field("rope_scaling.rope_type", "")),
        ("rope_scaling", field("rope_scaling.type", "")),
        ("rope_parameters", field("rope_parameters.rope_type", "")),
    ] {
        if config.text(kind)?.is_some() {
            return scaling_in(config, object, kind);
        }
    }
    Ok(RopeScaling::None)
}

fn scaling_in(config: &Config<'_>, object: &str, kind: Field) -> Result<RopeScaling, Error> {
    let original = field("original_max_position_embeddings", "original_context_length");
    let value = |name: Field| config.number_in(object, name);
    let required = |name: Field| {
        value(name)?.ok_or_else(|| Error::MissingField { field: config.name_in(object, name) })
    };
    let factor = || required(field("factor", "factor"));
    let original_context = || -> Result<f64, Error> {
        let whole = field("max_position_embeddings", "context_length");
        Ok(match value(original)? {
            Some(original) => original,
            None => config.required_count(whole)? as f64,
        })
    };
    match config.text(kind)? {
        None | Some("none" | "default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: factor()? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: factor()?,
            low_frequency_factor: required(field("low_freq_factor", "low_freq_factor"))?,
            high_frequency_factor: required(field("high_freq_factor", "high_freq_factor"))?,
            original_context: original_context()?,
        }),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: factor()?,
            original_context: original_context()?,
            beta_fast: value(field("beta_fast", "yarn_beta_fast"))?.unwrap_or(32.0),
            beta_slow: value(field("beta_slow", "yarn_beta_slow"))?.unwrap_or(1.0),
            magnitude: value(field("attention_factor", "attn_factor"))?,
        }),
        Some(other) => {
            Err(unusable(config, kind, other, "supported are none, linear, llama3 and yarn"))
        }
    }
}
