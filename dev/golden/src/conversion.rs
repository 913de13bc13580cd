//! In what checkpoints of the Llama make differ between Hugging Face and GGUF files: the names of tensors, and the
//! order of the rows of queries and keys.

/// Names in Hugging Face checkpoints and in GGUF files.
const NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("lm_head.", "output."),
    ("model.layers.", "blk."),
    ("self_attn.q_proj.", "attn_q."),
    ("self_attn.k_proj.", "attn_k."),
    ("self_attn.v_proj.", "attn_v."),
    ("self_attn.o_proj.", "attn_output."),
    ("self_attn.q_norm.", "attn_q_norm."),
    ("self_attn.k_norm.", "attn_k_norm."),
    ("mlp.gate_proj.", "ffn_gate."),
    ("mlp.up_proj.", "ffn_up."),
    ("mlp.down_proj.", "ffn_down."),
    ("input_layernorm.", "attn_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
];

/// What GGUF files call a tensor of a Hugging Face checkpoint.
pub(crate) fn gguf_name(hugging_face: &str) -> String {
    let names = NAMES.iter();
    names.fold(hugging_face.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// What Hugging Face checkpoints call a tensor of a GGUF file.
pub(crate) fn hugging_face_name(gguf: &str) -> String {
    // Backwards, because `attn_output.` ends in another name.
    NAMES.iter().rev().fold(gguf.to_owned(), |name, (to, from)| name.replace(from, to))
}

/// Whether the tensor of this Hugging Face name has its rows in another order in GGUF files of the llama architecture.
pub(crate) fn is_reordered(hugging_face: &str) -> bool {
    hugging_face.contains("q_proj.") || hugging_face.contains("k_proj.")
}

/// Rows of queries or keys, of `row` elements each, as these GGUF files have them: the two halves of a head take turns.
pub(crate) fn neighbours_of_halves(elements: &[f32], row: usize, head_dim: usize) -> Vec<f32> {
    reordered(elements, row, head_dim, |place| place % 2 * (head_dim / 2) + place / 2)
}

/// The rows back in the order of Hugging Face checkpoints: first the even ones of a head, then the odd ones.
pub(crate) fn halves_of_neighbours(elements: &[f32], row: usize, head_dim: usize) -> Vec<f32> {
    reordered(elements, row, head_dim, |place| place % (head_dim / 2) * 2 + place / (head_dim / 2))
}

/// The rows of each head, those in a place taken from where `from` says.
fn reordered(
    elements: &[f32],
    row: usize,
    head_dim: usize,
    from: impl Fn(usize) -> usize,
) -> Vec<f32> {
    let heads = elements.chunks_exact(head_dim * row);
    let places = heads.flat_map(|head| (0..head_dim).map(move |place| (head, place)));
    places.flat_map(|(head, place)| &head[from(place) * row..][..row]).copied().collect()
}
