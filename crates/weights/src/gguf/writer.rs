//! Writing files: for tests, generated models and conversions.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use types::DataType;

use super::{ALIGNMENT_DEFAULT, ALIGNMENT_KEY, Array, Metadata, TENSOR_TYPES, Value};

/// Builds a GGUF file, version 3.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    metadata: Vec<(String, Value)>,
    tensors: Vec<NewTensor>,
}

#[derive(Clone, Debug)]
struct NewTensor {
    name: String,
    data_type: DataType,
    shape: Vec<usize>,
    bytes: usize,
    /// None if they are asked for when the file is written.
    data: Option<Vec<u8>>,
}

impl Builder {
    /// A file without metadata and tensors.
    pub fn new() -> Self {
        Self::default()
    }

    /// A file with the metadata of another.
    pub fn with_metadata(metadata: &Metadata) -> Self {
        let metadata = metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Self { metadata, tensors: Vec::new() }
    }

    /// Sets a key.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// Adds a tensor. `shape` is outermost first, as in [`TensorInfo`](crate::TensorInfo).
    ///
    /// # Panics
    /// If `data` is not as long as the type and shape say.
    pub fn tensor(
        &mut self,
        name: &str,
        data_type: DataType,
        shape: &[usize],
        data: Vec<u8>,
    ) -> &mut Self {
        let bytes = data_type.bytes_for(shape.iter().product());
        assert_eq!(bytes, Some(data.len()), "tensor \"{name}\" of {data_type} {shape:?}");
        self.add(name, data_type, shape, Some(data))
    }

    /// Adds a tensor whose bytes [`write_with`](Self::write_with) asks for: files may be larger than memory.
    ///
    /// # Panics
    /// If the shape is no whole number of the type's blocks.
    pub fn tensor_later(&mut self, name: &str, data_type: DataType, shape: &[usize]) -> &mut Self {
        self.add(name, data_type, shape, None)
    }

    fn add(
        &mut self,
        name: &str,
        data_type: DataType,
        shape: &[usize],
        data: Option<Vec<u8>>,
    ) -> &mut Self {
        let bytes = data_type.bytes_for(shape.iter().product());
        let Some(bytes) = bytes else { panic!("tensor \"{name}\" of {data_type} {shape:?}") };
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.tensors.push(NewTensor { name, data_type, shape, bytes, data });
        self
    }

    /// Adds a tensor of `f32`.
    pub fn tensor_f32(&mut self, name: &str, shape: &[usize], values: &[f32]) -> &mut Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensor(name, DataType::F32, shape, data)
    }

    /// The file's bytes.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes).expect("writing to memory cannot fail");
        bytes
    }

    /// Writes the file, replacing one that is there.
    ///
    /// # Panics
    /// As [`write`](Self::write).
    pub fn write_file(&self, path: &Path) -> io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        self.write(&mut out)?;
        out.into_inner()?.sync_all()
    }

    /// Writes the file's bytes.
    ///
    /// # Panics
    /// If a tensor was added without its bytes.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        self.write_with(out, |name, _| panic!("nobody gave the bytes of tensor \"{name}\""))
    }

    /// Writes the file's bytes; `fill` is given the name of each tensor that was added without its bytes, in order, and
    /// writes them.
    ///
    /// # Panics
    /// If `fill` writes more or fewer bytes than a tensor has.
    pub fn write_with(
        &self,
        out: &mut impl Write,
        mut fill: impl FnMut(&str, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        let head = self.head();
        out.write_all(&head)?;
        let mut at = head.len();
        for tensor in &self.tensors {
            at = self.pad(out, at)?;
            match &tensor.data {
                Some(data) => out.write_all(data)?,
                None => {
                    let mut counted = Counted { out, bytes: 0 };
                    fill(&tensor.name, &mut counted)?;
                    assert_eq!(counted.bytes, tensor.bytes, "bytes of tensor \"{}\"", tensor.name);
                }
            }
            at += tensor.bytes;
        }
        self.pad(out, at).map(drop)
    }

    /// Everything before the data.
    fn head(&self) -> Vec<u8> {
        let mut head = b"GGUF".to_vec();
        head.extend(3_u32.to_le_bytes());
        head.extend((self.tensors.len() as u64).to_le_bytes());
        head.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_string(&mut head, key);
            put_value(&mut head, value);
        }
        let mut offset = 0_usize;
        for tensor in &self.tensors {
            put_string(&mut head, &tensor.name);
            head.extend((tensor.shape.len() as u32).to_le_bytes());
            for length in tensor.shape.iter().rev() {
                head.extend((*length as u64).to_le_bytes());
            }
            head.extend(type_number(tensor.data_type).to_le_bytes());
            offset = offset.next_multiple_of(self.alignment());
            head.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes;
        }
        head
    }

    fn alignment(&self) -> usize {
        let set = self.metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY);
        let alignment = set.and_then(|(_, value)| value.as_integer()?.try_into().ok());
        alignment.filter(|a: &usize| a.is_power_of_two()).unwrap_or(ALIGNMENT_DEFAULT as usize)
    }

    fn pad(&self, out: &mut impl Write, at: usize) -> io::Result<usize> {
        let end = at.next_multiple_of(self.alignment());
        out.write_all(&vec![0; end - at])?;
        Ok(end)
    }
}

/// Counts what is written.
struct Counted<'a, W> {
    out: &'a mut W,
    bytes: usize,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn type_number(data_type: DataType) -> u32 {
    let entry = TENSOR_TYPES.iter().find(|(.., known)| *known == Some(data_type));
    entry.expect("the table has every data type").0
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// Puts a value with its type before it.
fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |number: u32, bytes: &[u8]| {
        out.extend(number.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::String(text) => {
            put(8, &[]);
            put_string(out, text);
        }
        Value::Array(array) => {
            put(9, &[]);
            put_array(out, array);
        }
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
    }
}

/// Puts an array: its elements' type, their number, and the elements.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    fn put_all<T>(out: &mut Vec<u8>, number: u32, items: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
        out.extend(number.to_le_bytes());
        out.extend((items.len() as u64).to_le_bytes());
        for item in items {
            put(out, item);
        }
    }
    match array {
        Array::U8(items) => put_all(out, 0, items, |out, v| out.push(*v)),
        Array::I8(items) => put_all(out, 1, items, |out, v| out.extend(v.to_le_bytes())),
        Array::U16(items) => put_all(out, 2, items, |out, v| out.extend(v.to_le_bytes())),
        Array::I16(items) => put_all(out, 3, items, |out, v| out.extend(v.to_le_bytes())),
        Array::U32(items) => put_all(out, 4, items, |out, v| out.extend(v.to_le_bytes())),
        Array::I32(items) => put_all(out, 5, items, |out, v| out.extend(v.to_le_bytes())),
        Array::F32(items) => put_all(out, 6, items, |out, v| out.extend(v.to_le_bytes())),
        Array::Bool(items) => put_all(out, 7, items, |out, v| out.push(u8::from(*v))),
        Array::String(items) => put_all(out, 8, items, |out, v| put_string(out, v)),
        Array::Array(items) => put_all(out, 9, items, put_array),
        Array::U64(items) => put_all(out, 10, items, |out, v| out.extend(v.to_le_bytes())),
        Array::I64(items) => put_all(out, 11, items, |out, v| out.extend(v.to_le_bytes())),
        Array::F64(items) => put_all(out, 12, items, |out, v| out.extend(v.to_le_bytes())),
    }
}
