//! Values of metadata.

/// A value of metadata.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each name is the whole description")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of metadata: all its elements have one type.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each name is the whole description")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// The name of its type, for people.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::F32(_) => "f32",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F64(_) => "f64",
        }
    }

    /// Its value, if it is an integer.
    pub fn as_integer(&self) -> Option<i128> {
        Some(match self {
            Self::U8(value) => i128::from(*value),
            Self::I8(value) => i128::from(*value),
            Self::U16(value) => i128::from(*value),
            Self::I16(value) => i128::from(*value),
            Self::U32(value) => i128::from(*value),
            Self::I32(value) => i128::from(*value),
            Self::U64(value) => i128::from(*value),
            Self::I64(value) => i128::from(*value),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) | Self::Array(_) => {
                return None;
            }
        })
    }
}

impl Array {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(items) => items.len(),
            Self::I8(items) => items.len(),
            Self::U16(items) => items.len(),
            Self::I16(items) => items.len(),
            Self::U32(items) => items.len(),
            Self::I32(items) => items.len(),
            Self::F32(items) => items.len(),
            Self::Bool(items) => items.len(),
            Self::String(items) => items.len(),
            Self::Array(items) => items.len(),
            Self::U64(items) => items.len(),
            Self::I64(items) => items.len(),
            Self::F64(items) => items.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its elements, if they are integers that fit.
    fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn all<S: Copy + Into<i128>, T: TryFrom<i128>>(items: &[S]) -> Option<Vec<T>> {
            items.iter().map(|item| T::try_from((*item).into()).ok()).collect()
        }
        match self {
            Self::U8(items) => all(items),
            Self::I8(items) => all(items),
            Self::U16(items) => all(items),
            Self::I16(items) => all(items),
            Self::U32(items) => all(items),
            Self::I32(items) => all(items),
            Self::U64(items) => all(items),
            Self::I64(items) => all(items),
            Self::F32(_) | Self::F64(_) | Self::Bool(_) | Self::String(_) | Self::Array(_) => None,
        }
    }
}

/// A type that metadata can be read as.
pub trait FromValue<'a>: Sized {
    /// Its name, for errors.
    const NAME: &'static str;
    /// The value as this type, if it is one and fits.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! from_value {
    ($type:ty, $name:literal, $value:ident => $read:expr) => {
        impl<'a> FromValue<'a> for $type {
            const NAME: &'static str = $name;

            fn from_value($value: &'a Value) -> Option<Self> {
                $read
            }
        }
    };
}

from_value!(&'a str, "a string", value => match value {
    Value::String(text) => Some(text),
    _ => None,
});
from_value!(bool, "a bool", value => match value {
    Value::Bool(flag) => Some(*flag),
    _ => None,
});
from_value!(u32, "a 32-bit unsigned integer", value => value.as_integer()?.try_into().ok());
from_value!(u64, "a 64-bit unsigned integer", value => value.as_integer()?.try_into().ok());
from_value!(i64, "a 64-bit integer", value => value.as_integer()?.try_into().ok());
from_value!(usize, "a size", value => value.as_integer()?.try_into().ok());
from_value!(f32, "a number", value => match value {
    Value::F32(number) => Some(*number),
    Value::F64(number) => Some(*number as f32),
    other => other.as_integer().map(|number| number as f32),
});
from_value!(f64, "a number", value => match value {
    Value::F32(number) => Some(f64::from(*number)),
    Value::F64(number) => Some(*number),
    other => other.as_integer().map(|number| number as f64),
});
from_value!(&'a [String], "an array of strings", value => match value {
    Value::Array(Array::String(items)) => Some(items),
    _ => None,
});
from_value!(&'a [f32], "an array of f32", value => match value {
    Value::Array(Array::F32(items)) => Some(items),
    _ => None,
});
from_value!(&'a [bool], "an array of bool", value => match value {
    Value::Array(Array::Bool(items)) => Some(items),
    _ => None,
});
from_value!(Vec<u32>, "an array of 32-bit unsigned integers", value => match value {
    Value::Array(array) => array.integers(),
    _ => None,
});
from_value!(Vec<i64>, "an array of integers", value => match value {
    Value::Array(array) => array.integers(),
    _ => None,
});

macro_rules! into_value {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(items: Vec<$type>) -> Self {
                Self::Array(Array::$variant(items))
            }
        }
    )*};
}

into_value!(
    u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, u64 => U64, i64 => I64,
    f32 => F32, f64 => F64, bool => Bool, String => String,
);

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}
