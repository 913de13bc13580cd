//! Safetensors files.

use safetensors::{
    Dtype,
    tensor::{TensorView, serialize},
};
use weights::Weights;

use crate::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "safetensors",
    feed,
    corpus,
    dictionary: &[
        b"\"dtype\":\"F32\"",
        b"\"dtype\":\"BF16\"",
        b"\"dtype\":\"I64\"",
        b"\"shape\":[",
        b"\"data_offsets\":[0,",
        b"18446744073709551615",
        b"__metadata__",
        b"{",
        b"}",
        b"[",
        b",",
        b"\"",
    ],
    memory_bytes_max: 16 << 20,
};

fn feed(input: &[u8]) {
    read(input);
    // Most damage to the header makes its length wrong, which would hide all else.
    if let Some(end) = input.iter().rposition(|byte| *byte == b'}')
        && end >= 8
    {
        let mut mended = input.to_vec();
        mended[..8].copy_from_slice(&(end as u64 - 7).to_le_bytes());
        read(&mended);
    }
}

fn read(input: &[u8]) {
    let config = serde_json::Value::Null;
    let Ok(weights) = Weights::from_safetensors_bytes(config, input.to_vec()) else { return };
    for info in weights.tensors() {
        let tensor = weights.tensor(&info.name).expect("every tensor listed is there");
        assert_eq!(tensor.data.len(), info.bytes);
        assert_eq!(info.data_type.bytes_for(info.elements()), Some(info.bytes));
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let data = [0_u8; 64];
    let file = |tensors: &[(&str, Dtype, &[usize])]| {
        let views = tensors.iter().map(|(name, dtype, shape)| {
            let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
            let view = TensorView::new(*dtype, shape.to_vec(), &data[..bytes]);
            (*name, view.expect("the data is as long as the shape says"))
        });
        serialize(views, None).expect("the tensors are valid")
    };
    vec![
        file(&[]),
        file(&[("a", Dtype::F32, &[2, 3])]),
        file(&[
            ("a", Dtype::F16, &[4]),
            ("b", Dtype::BF16, &[1, 2]),
            ("empty", Dtype::F32, &[0, 2]),
        ]),
        file(&[("integers", Dtype::I64, &[1])]),
    ]
}
