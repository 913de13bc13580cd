//! In which format each matrix is stored, as llama.cpp's `llama-quantize` chooses.

use std::{fmt, str::FromStr};

use types::DataType;

/// What the weights of a file are quantized to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileFormat {
    name: &'static str,
    /// What most matrices are stored in.
    base: DataType,
    /// Whether some matrices that matter more get more bits: the `_m` mixes.
    is_mixed: bool,
}

const fn plain(name: &'static str, base: DataType) -> FileFormat {
    FileFormat { name, base, is_mixed: false }
}

/// All of them.
pub(crate) const FILE_FORMATS: [FileFormat; 11] = [
    plain("q4_0", DataType::Q4_0),
    plain("q4_1", DataType::Q4_1),
    plain("q5_0", DataType::Q5_0),
    plain("q5_1", DataType::Q5_1),
    plain("q8_0", DataType::Q8_0),
    FileFormat { name: "q4_k_m", base: DataType::Q4_K, is_mixed: true },
    FileFormat { name: "q5_k_m", base: DataType::Q5_K, is_mixed: true },
    plain("q6_k", DataType::Q6_K),
    plain("bf16", DataType::BF16),
    plain("f16", DataType::F16),
    plain("f32", DataType::F32),
];

/// What a matrix is for, where that matters for its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Projects to logits.
    Logits,
    /// Values of attention, or the second product of the feed-forward, in one layer of so many.
    Sensitive { layer: usize, layers: usize },
    /// Anything else.
    Other,
}

impl FileFormat {
    /// The format of a matrix with rows of this width.
    pub(crate) fn of(self, role: Role, columns: usize) -> DataType {
        let wanted = match role {
            Role::Logits if self.base.is_quantized() && self.base != DataType::Q8_0 => {
                DataType::Q6_K
            }
            Role::Sensitive { layer, layers } if self.is_mixed && has_more(layer, layers) => {
                DataType::Q6_K
            }
            _ => self.base,
        };
        // Rows that are no whole blocks get the nearest format with smaller ones.
        match wanted {
            _ if columns.is_multiple_of(wanted.block_elements()) => wanted,
            DataType::Q4_K => DataType::Q5_0,
            DataType::Q5_K => DataType::Q5_1,
            DataType::Q6_K => DataType::Q8_0,
            other => other,
        }
    }
}

/// Whether a layer is one of those with more bits: the first eighth, the last eighth, and every third between.
fn has_more(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl FromStr for FileFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = FILE_FORMATS.into_iter().find(|format| format.name == text);
        let names = || FILE_FORMATS.map(|format| format.name).join(", ");
        found.ok_or_else(|| format!("`{text}` is no format; there are {}", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(name: &str) -> FileFormat {
        name.parse().expect("it is in the table")
    }

    #[test]
    fn names_are_read_and_others_refused_with_the_list() {
        for known in FILE_FORMATS {
            assert_eq!(known.to_string().parse(), Ok(known));
        }
        let error = "q3_k".parse::<FileFormat>().expect_err("it is not in the table");
        assert!(error.contains("`q3_k`") && error.contains("q4_k_m"), "{error}");
    }

    #[test]
    fn mixes_give_more_bits_to_about_half_of_the_layers() {
        let of = |layer| format("q4_k_m").of(Role::Sensitive { layer, layers: 32 }, 4096);
        let more = (0..32).filter(|&layer| of(layer) == DataType::Q6_K).count();
        assert_eq!(more, 16);
        assert_eq!(
            [of(0), of(4), of(6), of(31)].map(|t| t == DataType::Q6_K),
            [true, false, true, true]
        );
        assert_eq!(format("q4_k_m").of(Role::Other, 4096), DataType::Q4_K);
        assert_eq!(format("q4_k_m").of(Role::Logits, 4096), DataType::Q6_K);
        assert_eq!(format("q4_0").of(Role::Logits, 4096), DataType::Q6_K);
        assert_eq!(format("q8_0").of(Role::Logits, 4096), DataType::Q8_0);
        assert_eq!(format("bf16").of(Role::Logits, 4096), DataType::BF16);
    }

    #[test]
    fn rows_that_are_no_whole_blocks_get_smaller_ones() {
        assert_eq!(format("q4_k_m").of(Role::Other, 576), DataType::Q5_0);
        assert_eq!(format("q5_k_m").of(Role::Other, 896), DataType::Q5_1);
        assert_eq!(format("q4_1").of(Role::Logits, 576), DataType::Q8_0);
    }
}
