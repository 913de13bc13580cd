//! Checks of single values: each names the field, the value and the range.

use std::fmt::{Arguments, Display};

use crate::Error;

/// An integer from `min` to `max`.
pub(super) fn whole(
    field: &str,
    value: Option<i64>,
    min: i64,
    max: i64,
) -> Result<Option<u32>, Error> {
    match value {
        None => Ok(None),
        Some(value) if (min..=max).contains(&value) => {
            Ok(Some(u32::try_from(value).expect("callers give limits within u32")))
        }
        Some(value) => Err(out_of_range(field, value, format_args!("from {min} to {max}"))),
    }
}

/// A number from `min` to `max`.
pub(super) fn number(
    field: &str,
    value: Option<f64>,
    min: f64,
    max: f64,
) -> Result<Option<f32>, Error> {
    match value {
        None => Ok(None),
        Some(value) if (min..=max).contains(&value) => Ok(Some(value as f32)),
        Some(value) => Err(out_of_range(field, value, format_args!("from {min} to {max}"))),
    }
}

/// A number above 0, up to `max`.
pub(super) fn positive(field: &str, value: Option<f64>, max: f64) -> Result<Option<f32>, Error> {
    match value {
        None => Ok(None),
        // Also so as f32, where a tiny number would turn into 0.
        Some(value) if value as f32 > 0.0 && value <= max => Ok(Some(value as f32)),
        Some(value) => Err(out_of_range(field, value, format_args!("above 0 and up to {max}"))),
    }
}

fn out_of_range(field: &str, value: impl Display, range: Arguments<'_>) -> Error {
    Error::field(field, format!("{value} is out of range; it must be {range}"))
}

/// That a list is not longer than its limit.
pub(super) fn at_most(field: &str, count: usize, limit: usize) -> Result<(), Error> {
    if count <= limit {
        return Ok(());
    }
    Err(Error::field(field, format!("has {count} entries; at most {limit} are allowed")))
}
