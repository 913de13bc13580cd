//! A checkpoint's configuration, whether it comes as GGUF metadata or as a Hugging Face `config.json`.

use serde_json::Value;
use weights::{Source, Weights};

use crate::Error;

/// A field's name in both worlds; GGUF names are without the architecture's prefix.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) hugging_face: &'static str,
    pub(crate) gguf: &'static str,
}

/// Shorthand for a [`Field`].
pub(crate) const fn field(hugging_face: &'static str, gguf: &'static str) -> Field {
    Field { hugging_face, gguf }
}

/// Read access to a configuration.
pub(crate) struct Config<'a> {
    weights: &'a Weights,
    architecture: String,
}

impl<'a> Config<'a> {
    pub(crate) fn new(weights: &'a Weights) -> Result<Self, Error> {
        let architecture = match weights.source() {
            Source::Gguf(metadata) => metadata
                .str("general.architecture")?
                .ok_or(Error::NoArchitecture { looked_for: "general.architecture" })?
                .to_owned(),
            Source::HuggingFace { config, .. } => config
                .pointer("/architectures/0")
                .and_then(Value::as_str)
                .ok_or(Error::NoArchitecture { looked_for: "architectures in config.json" })?
                .to_owned(),
        };
        Ok(Self { weights, architecture })
    }

    /// The architecture as the checkpoint names it.
    pub(crate) fn architecture(&self) -> &str {
        &self.architecture
    }

    pub(crate) fn is_gguf(&self) -> bool {
        matches!(self.weights.source(), Source::Gguf(_))
    }

    pub(crate) fn weights(&self) -> &Weights {
        self.weights
    }

    /// The field's name as this checkpoint writes it.
    pub(crate) fn name(&self, field: Field) -> String {
        if self.is_gguf() {
            format!("{}.{}", self.architecture, field.gguf)
        } else {
            field.hugging_face.to_owned()
        }
    }

    pub(crate) fn missing(&self, field: Field) -> Error {
        Error::MissingField { field: self.name(field) }
    }

    /// The name of a field within an object.
    pub(crate) fn name_in(&self, object: &str, field: Field) -> String {
        let own = if self.is_gguf() { field.gguf } else { field.hugging_face };
        let name = format!("{object}.{own}");
        if self.is_gguf() { format!("{}.{name}", self.architecture) } else { name }
    }

    pub(crate) fn number(&self, field: Field) -> Result<Option<f64>, Error> {
        self.number_named(self.name(field))
    }

    pub(crate) fn number_in(&self, object: &str, field: Field) -> Result<Option<f64>, Error> {
        self.number_named(self.name_in(object, field))
    }

    fn number_named(&self, name: String) -> Result<Option<f64>, Error> {
        match self.weights.source() {
            Source::Gguf(metadata) => Ok(metadata.find(&name)?),
            Source::HuggingFace { config, .. } => match value_at(config, &name) {
                None | Some(Value::Null) => Ok(None),
                Some(value) => value.as_f64().map(Some).ok_or_else(|| Error::Field {
                    field: name,
                    value: value.to_string(),
                    problem: "a number is expected".into(),
                }),
            },
        }
    }

    pub(crate) fn count(&self, field: Field) -> Result<Option<usize>, Error> {
        let Some(number) = self.number(field)? else {
            return Ok(None);
        };
        if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
            return Ok(Some(number as usize));
        }
        Err(Error::Field {
            field: self.name(field),
            value: number.to_string(),
            problem: "a whole number that is not negative is expected".into(),
        })
    }

    pub(crate) fn required_count(&self, field: Field) -> Result<usize, Error> {
        self.count(field)?.ok_or_else(|| self.missing(field))
    }

    /// A switch; absent means `false`.
    pub(crate) fn switch(&self, field: Field) -> Result<bool, Error> {
        let name = self.name(field);
        Ok(match self.weights.source() {
            Source::Gguf(metadata) => metadata.bool(&name)?.unwrap_or(false),
            Source::HuggingFace { config, .. } => {
                value_at(config, &name).and_then(Value::as_bool).unwrap_or(false)
            }
        })
    }

    pub(crate) fn text(&self, field: Field) -> Result<Option<&str>, Error> {
        let name = self.name(field);
        Ok(match self.weights.source() {
            Source::Gguf(metadata) => metadata.str(&name)?,
            Source::HuggingFace { config, .. } => value_at(config, &name).and_then(Value::as_str),
        })
    }

    /// A list of texts. GGUF files have none.
    pub(crate) fn texts(&self, field: Field) -> Result<Option<Vec<&str>>, Error> {
        let Source::HuggingFace { config, .. } = self.weights.source() else { return Ok(None) };
        let Some(value) = value_at(config, field.hugging_face).filter(|value| !value.is_null())
        else {
            return Ok(None);
        };
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        list.map(Some).ok_or_else(|| Error::Field {
            field: self.name(field),
            value: value.to_string(),
            problem: "a list of texts is expected".into(),
        })
    }
}

/// Fields within objects are written with dots.
fn value_at<'a>(config: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.').try_fold(config, |value, key| value.get(key))
}
