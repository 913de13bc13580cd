//! The tensors of a checkpoint by what they are for, with their shapes checked.

use weights::{Source, Tensor, TensorInfo, Weights};

use crate::{Error, Part};

/// A checkpoint's tensors.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a> {
    weights: &'a Weights,
    gguf: bool,
}

impl<'a> Checkpoint<'a> {
    /// The tensors of a checkpoint.
    pub fn new(weights: &'a Weights) -> Self {
        Self { weights, gguf: matches!(weights.source(), Source::Gguf(_)) }
    }

    /// The weights of a part of a layer, which must have this shape, outermost dimension first.
    pub fn matrix(&self, part: Part, layer: usize, shape: [usize; 2]) -> Result<Tensor<'a>, Error> {
        self.tensor(part.name(self.gguf, layer, "weight"), &shape)
    }

    /// The values of a norm (`weight`) or of a `bias`, with what is known of the tensor.
    pub fn vector(
        &self,
        part: Part,
        layer: usize,
        kind: &str,
        len: usize,
    ) -> Result<(&'a TensorInfo, Vec<f32>), Error> {
        let tensor = self.tensor(part.name(self.gguf, layer, kind), &[len])?;
        let data_type = tensor.info.data_type;
        if data_type.is_quantized() {
            return Err(Error::TensorType { name: tensor.info.name.clone(), data_type });
        }
        let mut values = vec![0.0; len];
        quant::dequantise(data_type, tensor.data, &mut values);
        Ok((tensor.info, values))
    }

    /// Whether there are weights for a part.
    pub fn has(&self, part: Part, layer: usize) -> bool {
        self.weights.tensor(&part.name(self.gguf, layer, "weight")).is_some()
    }

    fn tensor(&self, name: String, shape: &[usize]) -> Result<Tensor<'a>, Error> {
        let Some(tensor) = self.weights.tensor(&name) else {
            return Err(Error::MissingTensor { name });
        };
        if tensor.info.shape != shape {
            let (found, expected) = (tensor.info.shape.clone(), shape.to_vec());
            return Err(Error::Shape { name, found, expected });
        }
        Ok(tensor)
    }
}
