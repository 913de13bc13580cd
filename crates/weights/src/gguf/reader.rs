//! Reading a file's header, metadata and directory.

use std::collections::HashSet;

use types::DataType;

use super::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, Array, Metadata, TENSOR_TYPES, Value};
use crate::{Error, GgufProblem, TensorInfo};

const KEYS_MAX: u64 = 1 << 16;
const KEY_BYTES_MAX: u64 = (1 << 16) - 1;
const TENSORS_MAX: u64 = 1 << 18;
const TENSOR_NAME_BYTES_MAX: u64 = 1024;
const DIMENSIONS_MAX: u32 = 4;
/// Arrays of arrays of arrays: more than any file has.
const NESTING_MAX: usize = 4;

/// What a file has besides the tensors' data.
pub(crate) struct Directory {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<TensorInfo>,
}

/// Reads the header, metadata and directory of the file that is `bytes`.
pub(crate) fn read(bytes: &[u8]) -> Result<Directory, Error> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take("the magic bytes", 4).ok() != Some(b"GGUF") {
        return Err(GgufProblem::Magic.into());
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => {}
        // The version of a file of the other byte order, read in this one.
        _ if matches!(version.swap_bytes(), 1..=3) => return Err(GgufProblem::BigEndian.into()),
        _ => return Err(GgufProblem::Version { version }.into()),
    }
    // A tensor takes at least 24 bytes: the lengths of its name and shape, its type and offset. A key takes 13.
    let tensor_count = cursor.count("tensors", 24, TENSORS_MAX)?;
    let key_count = cursor.count("metadata keys", 13, KEYS_MAX)?;
    let metadata = read_metadata(&mut cursor, key_count)?;

    let alignment = metadata.u32(ALIGNMENT_KEY)?.unwrap_or(ALIGNMENT_DEFAULT);
    if !alignment.is_power_of_two() {
        return Err(GgufProblem::Alignment { alignment }.into());
    }
    let mut names = HashSet::new();
    let mut tensors = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        let tensor = read_tensor(&mut cursor)?;
        if !names.insert(tensor.name.clone()) {
            return Err(GgufProblem::Duplicate { what: "tensor", name: tensor.name }.into());
        }
        tensors.push(tensor);
    }
    place_tensors(&mut tensors, cursor, alignment as usize)?;
    Ok(Directory { metadata, tensors })
}

fn read_metadata(cursor: &mut Cursor<'_>, key_count: usize) -> Result<Metadata, GgufProblem> {
    let mut metadata = Metadata::default();
    for _ in 0..key_count {
        let key = cursor.string("a metadata key", KEY_BYTES_MAX)?;
        let value_type = cursor.u32("the type of a metadata value")?;
        let value = read_value(cursor, &key, value_type)?;
        metadata
            .insert(key, value)
            .map_err(|name| GgufProblem::Duplicate { what: "metadata key", name })?;
    }
    Ok(metadata)
}

fn read_value(cursor: &mut Cursor<'_>, key: &str, number: u32) -> Result<Value, GgufProblem> {
    let what = "a metadata value";
    Ok(match number {
        0 => Value::U8(cursor.number(what, u8::from_le_bytes)?),
        1 => Value::I8(cursor.number(what, i8::from_le_bytes)?),
        2 => Value::U16(cursor.number(what, u16::from_le_bytes)?),
        3 => Value::I16(cursor.number(what, i16::from_le_bytes)?),
        4 => Value::U32(cursor.number(what, u32::from_le_bytes)?),
        5 => Value::I32(cursor.number(what, i32::from_le_bytes)?),
        6 => Value::F32(cursor.number(what, f32::from_le_bytes)?),
        7 => Value::Bool(cursor.number(what, |[byte]: [u8; 1]| byte != 0)?),
        8 => Value::String(cursor.string(what, u64::MAX)?),
        9 => Value::Array(read_array(cursor, key, NESTING_MAX)?),
        10 => Value::U64(cursor.number(what, u64::from_le_bytes)?),
        11 => Value::I64(cursor.number(what, i64::from_le_bytes)?),
        12 => Value::F64(cursor.number(what, f64::from_le_bytes)?),
        _ => return Err(GgufProblem::ValueType { key: key.to_owned(), number }),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str, nesting: usize) -> Result<Array, GgufProblem> {
    let what = "a metadata array";
    let number = cursor.u32("the type of an array")?;
    Ok(match number {
        0 => Array::U8(cursor.numbers(what, u8::from_le_bytes)?),
        1 => Array::I8(cursor.numbers(what, i8::from_le_bytes)?),
        2 => Array::U16(cursor.numbers(what, u16::from_le_bytes)?),
        3 => Array::I16(cursor.numbers(what, i16::from_le_bytes)?),
        4 => Array::U32(cursor.numbers(what, u32::from_le_bytes)?),
        5 => Array::I32(cursor.numbers(what, i32::from_le_bytes)?),
        6 => Array::F32(cursor.numbers(what, f32::from_le_bytes)?),
        7 => Array::Bool(cursor.numbers(what, |[byte]: [u8; 1]| byte != 0)?),
        8 => {
            // Each string has at least its length.
            let count = cursor.count("strings of an array", 8, u64::MAX)?;
            let strings = (0..count).map(|_| cursor.string("a string of an array", u64::MAX));
            Array::String(strings.collect::<Result<_, _>>()?)
        }
        9 => {
            if nesting <= 1 {
                let max = NESTING_MAX as u64;
                return Err(GgufProblem::TooMany { what: "nested arrays", count: max + 1, max });
            }
            // Each array has at least its type and length.
            let count = cursor.count("arrays of an array", 12, u64::MAX)?;
            let arrays = (0..count).map(|_| read_array(cursor, key, nesting - 1));
            Array::Array(arrays.collect::<Result<_, _>>()?)
        }
        10 => Array::U64(cursor.numbers(what, u64::from_le_bytes)?),
        11 => Array::I64(cursor.numbers(what, i64::from_le_bytes)?),
        12 => Array::F64(cursor.numbers(what, f64::from_le_bytes)?),
        _ => return Err(GgufProblem::ValueType { key: key.to_owned(), number }),
    })
}

/// Reads one entry of the directory. Its offset counts from the beginning of the data.
fn read_tensor(cursor: &mut Cursor<'_>) -> Result<TensorInfo, GgufProblem> {
    let name = cursor.string("the name of a tensor", TENSOR_NAME_BYTES_MAX)?;
    let dimensions = cursor.u32("the shape of a tensor")?;
    if dimensions > DIMENSIONS_MAX {
        return Err(GgufProblem::TooMany {
            what: "dimensions of a tensor",
            count: dimensions.into(),
            max: DIMENSIONS_MAX.into(),
        });
    }
    let bad = |problem: String| GgufProblem::Tensor { tensor: name.clone(), problem };
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        let length = cursor.u64("the shape of a tensor")?;
        let length = usize::try_from(length).ok().filter(|length| *length > 0);
        shape.push(length.ok_or_else(|| bad("has an impossible dimension".to_owned()))?);
    }
    let innermost = shape.first().copied().unwrap_or(1);
    // Files have the innermost dimension first.
    shape.reverse();
    let number = cursor.u32("the type of a tensor")?;
    let data_type = data_type(&name, number)?;
    if !innermost.is_multiple_of(data_type.block_elements()) {
        return Err(bad(format!(
            "has rows of {innermost} elements, which are no whole blocks of {data_type}"
        )));
    }
    let elements = shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
    let bytes = elements
        .and_then(|elements| data_type.bytes_for(elements))
        .ok_or_else(|| bad("has an impossible shape".to_owned()))?;
    let offset = cursor.u64("the offset of a tensor")?;
    let offset = usize::try_from(offset).map_err(|_| bad("has an impossible offset".to_owned()))?;
    Ok(TensorInfo { name, data_type, shape, bytes, file: 0, offset })
}

fn data_type(tensor: &str, number: u32) -> Result<DataType, GgufProblem> {
    let entry = TENSOR_TYPES.iter().find(|(n, ..)| *n == number);
    let name = entry.map_or("unknown", |(_, name, _)| name);
    entry.and_then(|(.., data_type)| *data_type).ok_or_else(|| GgufProblem::TensorType {
        tensor: tensor.to_owned(),
        number,
        name,
    })
}

/// Makes the tensors' offsets count from the beginning of the file, and checks that they lie within it.
fn place_tensors(
    tensors: &mut [TensorInfo],
    cursor: Cursor<'_>,
    alignment: usize,
) -> Result<(), GgufProblem> {
    let size = cursor.bytes.len();
    let data_start = cursor.at.checked_next_multiple_of(alignment);
    for tensor in tensors {
        let bad = |problem| GgufProblem::Tensor { tensor: tensor.name.clone(), problem };
        if !tensor.offset.is_multiple_of(alignment) {
            let offset = tensor.offset;
            return Err(bad(format!("begins at {offset}, which is not a multiple of {alignment}")));
        }
        let start = data_start.and_then(|start| start.checked_add(tensor.offset));
        let end = start.and_then(|start| start.checked_add(tensor.bytes));
        match (start, end) {
            (Some(start), Some(end)) if end <= size => tensor.offset = start,
            _ => {
                return Err(bad(format!(
                    "takes {} bytes from {} of the data, past the end of the file, which has {size} bytes",
                    tensor.bytes, tensor.offset
                )));
            }
        }
    }
    Ok(())
}

/// A place in a file. Never reads past the end, and never takes memory for what the file cannot hold.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, what: &'static str, len: usize) -> Result<&'a [u8], GgufProblem> {
        let size = self.bytes.len();
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or(GgufProblem::Truncated { what, at: self.at, size })?;
        self.at += len;
        Ok(taken)
    }

    fn number<const N: usize, T>(
        &mut self,
        what: &'static str,
        decode: fn([u8; N]) -> T,
    ) -> Result<T, GgufProblem> {
        let bytes = self.take(what, N)?;
        Ok(decode(bytes.try_into().expect("exactly N bytes were taken")))
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufProblem> {
        self.number(what, u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufProblem> {
        self.number(what, u64::from_le_bytes)
    }

    /// How many of something follow, where each takes at least `bytes_each`.
    fn count(
        &mut self,
        what: &'static str,
        bytes_each: u64,
        limit: u64,
    ) -> Result<usize, GgufProblem> {
        let count = self.u64(what)?;
        let max = limit.min((self.bytes.len() - self.at) as u64 / bytes_each);
        match usize::try_from(count) {
            Ok(fits) if count <= max => Ok(fits),
            _ => Err(GgufProblem::TooMany { what, count, max }),
        }
    }

    fn string(&mut self, what: &'static str, bytes_max: u64) -> Result<String, GgufProblem> {
        let len = self.u64(what)?;
        if len > bytes_max {
            return Err(GgufProblem::TooMany {
                what: "bytes of a name",
                count: len,
                max: bytes_max,
            });
        }
        let at = self.at;
        // A length that is no size is past any end.
        let bytes = self.take(what, usize::try_from(len).unwrap_or(usize::MAX))?;
        let text = str::from_utf8(bytes).map_err(|_| GgufProblem::NotUtf8 { what, at })?;
        Ok(text.to_owned())
    }

    fn numbers<const N: usize, T>(
        &mut self,
        what: &'static str,
        decode: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, GgufProblem> {
        let count = self.count("numbers of an array", N as u64, u64::MAX)?;
        let bytes = self.take(what, count * N)?;
        let (chunks, _) = bytes.as_chunks::<N>();
        Ok(chunks.iter().map(|chunk| decode(*chunk)).collect())
    }
}
