//! From the bytes of a body to a wire type, with errors that say where.

use serde::de::DeserializeOwned;

use crate::Error;

/// Reads one JSON object. An error names the line and column, or the path of the field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    // Serde would fill a struct from an array, field by field.
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(_) => {
            return Err(Error::Syntax { message: "a JSON object is expected, `{...}`".into() });
        }
        None => return Err(Error::Syntax { message: "the body is empty".into() }),
    }
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            // The path of an error about the object as a whole is a dot.
            serde_json::error::Category::Data if path != "." => {
                Error::field(path, error.to_string())
            }
            _ => Error::Syntax { message: error.to_string() },
        }
    })?;
    deserializer.end().map_err(|error| Error::Syntax { message: error.to_string() })?;
    Ok(value)
}
