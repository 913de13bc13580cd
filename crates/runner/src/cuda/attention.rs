//! Which tasks of attention a step has. Layers that see equally far back share them.

use cuda::{
    Stream,
    kernels::attention::{AttentionScratch, Sequence, StepLimits, TaskList, TaskPlanner},
};
use models::DecoderSpec;

use super::CudaModel;
use crate::Error;

/// Makes the tasks of steps.
pub(super) struct Planner {
    tasks: TaskPlanner,
    kv_heads: usize,
    /// The different windows of the layers.
    windows: Vec<Option<usize>>,
    /// For each layer, which of them.
    of_layer: Vec<usize>,
    pub(super) scratch: AttentionScratch,
}

impl Planner {
    /// Takes the memory that tasks of steps within the limits need.
    pub(super) fn new(
        model: &CudaModel,
        stream: &Stream,
        limits: StepLimits,
    ) -> Result<Self, Error> {
        let DecoderSpec { windows, .. } = &model.spec;
        let mut different: Vec<Option<usize>> = Vec::new();
        for window in windows {
            if !different.contains(window) {
                different.push(*window);
            }
        }
        let place = |window| different.iter().position(|other| other == window);
        let of_layer = windows.iter().map(|window| place(window).expect("it is among them"));
        Ok(Self {
            tasks: model.kernels.attention.planner().clone(),
            kv_heads: limits.kv_heads,
            of_layer: of_layer.collect(),
            windows: different,
            scratch: model.kernels.attention.scratch(stream, limits)?,
        })
    }

    /// The tasks of a step of so many rows, one list for each window.
    pub(super) fn plan(&self, sequences: &[Sequence], rows: usize) -> Vec<TaskList> {
        let list = |&window| self.tasks.plan(sequences, rows, self.kv_heads, window);
        self.windows.iter().map(list).collect()
    }

    /// Which of the lists is a layer's.
    pub(super) fn list_of(&self, layer: usize) -> usize {
        self.of_layer[layer]
    }

    /// Words that a list has at most.
    pub(super) fn words_max(&self, limits: StepLimits) -> usize {
        self.tasks.words_max(limits)
    }

    /// How many lists there are.
    pub(super) fn lists(&self) -> usize {
        self.windows.len()
    }
}
