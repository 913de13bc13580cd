//! Metadata: what a file says about itself, by key.

use std::collections::{BTreeMap, btree_map};

use super::value::{FromValue, Value};
use crate::Error;

/// The metadata of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The value of a key as a type; none if the key is missing, an error if its value is not of the type.
    pub fn find<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match T::from_value(value) {
            Some(found) => Ok(Some(found)),
            None => Err(Error::WrongType {
                key: key.to_owned(),
                wanted: T::NAME,
                found: value.type_name(),
            }),
        }
    }

    /// The value of a key as a type; an error if the key is missing.
    pub fn require<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.find(key)?.ok_or_else(|| Error::MissingKey { key: key.to_owned() })
    }

    /// A text.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.find(key)
    }

    /// An integer of any type, if it fits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.find(key)
    }

    /// A number of any type.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.find(key)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.find(key)
    }

    /// An array of texts.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        self.find(key)
    }

    /// An array of `f32`.
    pub fn f32s(&self, key: &str) -> Result<Option<&[f32]>, Error> {
        self.find(key)
    }

    /// An array of integers of any type, if they fit.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        self.find(key)
    }

    /// All keys with their values, in the keys' order.
    pub fn iter(&self) -> btree_map::Iter<'_, String, Value> {
        self.values.iter()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Adds a key; gives it back if it is there already.
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<(), String> {
        match self.values.entry(key) {
            btree_map::Entry::Occupied(entry) => Err(entry.key().clone()),
            btree_map::Entry::Vacant(entry) => {
                entry.insert(value);
                Ok(())
            }
        }
    }
}

impl<'a> IntoIterator for &'a Metadata {
    type Item = (&'a String, &'a Value);
    type IntoIter = btree_map::Iter<'a, String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
