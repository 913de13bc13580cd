//! The limits that every runner checks before it takes memory.

use crate::Error;

/// Most positions in one step, most requests at once, and most positions in a request, if not the model's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) step_tokens_max: u32,
    pub(crate) slots_max: u32,
    pub(crate) context_max: Option<u32>,
}

impl Limits {
    /// The most positions in a request of a model that was made for `of_model`.
    pub(crate) fn context_max(self, of_model: usize) -> Result<u32, Error> {
        let positive = [
            ("step_tokens_max", self.step_tokens_max),
            ("slots_max", self.slots_max),
            ("context_max", self.context_max.unwrap_or(1)),
        ];
        for (setting, value) in positive {
            if value == 0 {
                return Err(Error::Setting { setting, value: 0, problem: "it must be at least 1" });
            }
        }
        let of_model = u32::try_from(of_model).unwrap_or(u32::MAX);
        let context_max = self.context_max.unwrap_or(of_model);
        if context_max > of_model {
            return Err(Error::Setting {
                setting: "context_max",
                value: u64::from(context_max),
                problem: "it is more than the model was made for",
            });
        }
        Ok(context_max)
    }
}
