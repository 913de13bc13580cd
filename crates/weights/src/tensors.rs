//! The weights of a model, from whatever files they are in.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

use types::DataType;

use crate::{Error, gguf, huggingface, mapping::FileBytes};

/// The weights of a model.
#[derive(Debug)]
pub struct Weights {
    source: Source,
    files: Vec<FileBytes>,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

/// Where weights come from, with what the files say about the model.
#[derive(Debug)]
pub enum Source {
    /// A GGUF file with its metadata.
    Gguf(gguf::Metadata),
    /// A Hugging Face folder.
    HuggingFace {
        /// Its `config.json`.
        config: serde_json::Value,
        /// The folder.
        dir: PathBuf,
    },
}

/// What is known of a tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name, as the file has it.
    pub name: String,
    /// How its elements are stored.
    pub data_type: DataType,
    /// Its dimensions, outermost first: a linear layer is `[out, in]`, whatever the file format.
    pub shape: Vec<usize>,
    /// Bytes it takes in the file.
    pub bytes: usize,
    /// Which of the files it is in, and where.
    pub(crate) file: usize,
    pub(crate) offset: usize,
}

impl TensorInfo {
    /// How many elements it has.
    pub fn elements(&self) -> usize {
        // Checked when the file was read.
        self.shape.iter().product()
    }

    pub(crate) fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// A tensor with its elements, where the file has them. They may not be aligned for their type.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// What it is.
    pub info: &'a TensorInfo,
    /// Its elements, as stored.
    pub data: &'a [u8],
    bytes: &'a FileBytes,
}

impl Tensor<'_> {
    /// Copies its bytes from `first` on; reads them from the file if it has one.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the file cannot be read.
    ///
    /// # Panics
    /// If the tensor ends before.
    pub fn copy_to(&self, first: usize, target: &mut [u8]) -> Result<(), Error> {
        assert!(first + target.len() <= self.info.bytes, "within the tensor");
        self.bytes
            .copy_to(self.info.offset + first, target)
            .map_err(|source| Error::Tensor { name: self.info.name.clone(), source })
    }
}

impl Weights {
    /// Opens a GGUF file or a Hugging Face folder. Files are mapped: while the value lives, they must not be changed or
    /// truncated in place. (Replacing one by renaming another over it is fine.)
    pub fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Io { action: "open", path: path.to_owned(), source };
        if path.metadata().map_err(failed)?.is_dir() {
            return huggingface::open(path);
        }
        let bytes = FileBytes::map(path).map_err(failed)?;
        Self::from_gguf(bytes).map_err(|error| match error {
            Error::Gguf { problem, .. } => Error::Gguf { path: Some(path.to_owned()), problem },
            error => error,
        })
    }

    /// Opens what a checkpoint says about its model, a folder's `config.json` or a GGUF file's metadata. Its tensors
    /// need not be there.
    pub fn open_without_tensors(path: &Path) -> Result<Self, Error> {
        let is_folder = path
            .metadata()
            .map_err(|source| Error::Io { action: "open", path: path.to_owned(), source })?
            .is_dir();
        if is_folder { huggingface::open_config(path) } else { Self::open(path) }
    }

    /// Reads a GGUF file that is in memory.
    pub fn from_gguf_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        Self::from_gguf(FileBytes::Owned(bytes))
    }

    fn from_gguf(bytes: FileBytes) -> Result<Self, Error> {
        let gguf::Directory { metadata, tensors } = gguf::read(&bytes)?;
        Ok(Self::new(Source::Gguf(metadata), vec![bytes], tensors))
    }

    /// `tensors` must lie within `files` and have different names.
    pub(crate) fn new(source: Source, files: Vec<FileBytes>, tensors: Vec<TensorInfo>) -> Self {
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Self { source, files, tensors, by_name }
    }

    /// Where the weights come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter()
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let info = &self.tensors[*self.by_name.get(name)?];
        let bytes = &self.files[info.file];
        Some(Tensor { info, data: &bytes[info.range()], bytes })
    }

    /// Tells the system that a tensor's part of the file is not needed any more, once it has been copied elsewhere.
    /// Reading it again still works; it is fetched again.
    pub fn release(&self, name: &str) {
        if let Some(index) = self.by_name.get(name) {
            let info = &self.tensors[*index];
            self.files[info.file].release(info.offset, info.bytes);
        }
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.bytes as u64).sum()
    }
}
