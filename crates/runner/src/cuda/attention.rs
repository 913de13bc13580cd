//! Which tasks of attention a step has. Layers that see equally far back share them.

use cuda::{
    Stream,
    kernels::attention::{AttentionScratch, Sequence, TaskList, Tiles},
};
use models::DecoderSpec;

use super::CudaModel;
use crate::Error;

/// Makes the tasks of steps.
pub(super) struct Planner {
    tiles: Tiles,
    /// The different windows of the layers.
    windows: Vec<Option<usize>>,
    /// For each layer, which of them.
    of_layer: Vec<usize>,
    pub(super) scratch: AttentionScratch,
}

/// Spans whose results fit; with more, spans get longer.
const SPANS_MAX: usize = 4096;

impl Planner {
    /// Takes the memory for results of spans.
    pub(super) fn new(model: &CudaModel, stream: &Stream) -> Result<Self, Error> {
        let DecoderSpec { windows, kv_heads, .. } = &model.spec;
        let mut different: Vec<Option<usize>> = Vec::new();
        for window in windows {
            if !different.contains(window) {
                different.push(*window);
            }
        }
        let place = |window| different.iter().position(|other| other == window);
        let of_layer = windows.iter().map(|window| place(window).expect("it is among them"));
        Ok(Self {
            tiles: model.kernels.attention.tiles(),
            of_layer: of_layer.collect(),
            windows: different,
            scratch: model.kernels.attention.scratch(stream, SPANS_MAX, *kv_heads)?,
        })
    }

    /// The tasks of a step, one list for each window.
    pub(super) fn plan(&self, sequences: &[Sequence]) -> Vec<TaskList> {
        let capacity = self.scratch.capacity();
        let list = |&window| TaskList::new(sequences, self.tiles, window, capacity);
        self.windows.iter().map(list).collect()
    }

    /// Which of the lists is a layer's.
    pub(super) fn list_of(&self, layer: usize) -> usize {
        self.of_layer[layer]
    }

    /// How many lists there are.
    pub(super) fn lists(&self) -> usize {
        self.windows.len()
    }
}
