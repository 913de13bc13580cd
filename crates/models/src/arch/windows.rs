//! Layers that see a window beside layers that see everything, as checkpoints describe them.

use super::llama::unusable;
use crate::{
    Error,
    config::{Config, field},
};

/// How far each layer of a checkpoint sees that can switch windows on: either its layers are listed by kind, or those
/// from `max_window_layers` on have a window.
pub(super) fn mixed_windows(
    config: &Config<'_>,
    layers: usize,
) -> Result<Vec<Option<usize>>, Error> {
    let window = if config.switch(field("use_sliding_window", "use_sliding_window"))? {
        config.count(field("sliding_window", "attention.sliding_window"))?.filter(|size| *size > 0)
    } else {
        None
    };
    if window.is_none() {
        return Ok(vec![None; layers]);
    }
    let kinds = field("layer_types", "layer_types");
    let Some(listed) = config.texts(kinds)? else {
        let first = config.required_count(field("max_window_layers", "max_window_layers"))?;
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    if listed.len() != layers {
        let problem = format!("the model has {layers} layers");
        return Err(unusable(config, kinds, &format!("{} kinds", listed.len()), &problem));
    }
    let seen = listed.into_iter().map(|kind| match kind {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(window),
        other => Err(unusable(config, kinds, other, "it is not supported")),
    });
    seen.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weights::Weights;

    use super::*;

    fn windows(changes: &Value) -> Result<Vec<Option<usize>>, Error> {
        let mut config = json!({
            "architectures": ["Qwen2ForCausalLM"],
            "use_sliding_window": true,
            "sliding_window": 8,
            "max_window_layers": 1,
        });
        let (fields, changes) = (config.as_object_mut(), changes.as_object());
        fields.expect("it is one").extend(changes.expect("it is one").clone());
        let empty = [&2_u64.to_le_bytes()[..], b"{}"].concat();
        let weights = Weights::from_safetensors_bytes(config, empty).expect("an empty file");
        mixed_windows(&Config::new(&weights)?, 3)
    }

    #[test]
    fn layers_see_as_far_as_is_said() {
        let seen = |changes| windows(&changes).expect("the configuration is sound");
        assert_eq!(seen(json!({})), [None, Some(8), Some(8)]);
        assert_eq!(seen(json!({ "use_sliding_window": false })), [None; 3]);
        assert_eq!(seen(json!({ "sliding_window": null })), [None; 3]);
        let kinds = ["sliding_attention", "full_attention", "sliding_attention"];
        assert_eq!(seen(json!({ "layer_types": kinds })), [Some(8), None, Some(8)]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let error = |changes| windows(&changes).expect_err("it is not sound").to_string();
        let text = error(json!({ "layer_types": ["full_attention"] }));
        assert!(text.contains("layer_types") && text.contains("3 layers"), "{text}");
        let text = error(json!({ "layer_types": ["full_attention", "full_attention", "mamba"] }));
        assert!(text.contains("layer_types") && text.contains("mamba"), "{text}");
        let text = error(json!({ "layer_types": "mamba" }));
        assert!(text.contains("layer_types") && text.contains("list"), "{text}");
        let text = error(json!({ "max_window_layers": null }));
        assert!(text.contains("max_window_layers"), "{text}");
    }
}
