//! Hugging Face folders: `config.json` and safetensors, whole or in shards.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use types::DataType;

use crate::{Error, Source, TensorInfo, Weights, mapping::FileBytes};

pub(crate) const WHOLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
const CONFIG_BYTES_MAX: u64 = 16 << 20;
const INDEX_BYTES_MAX: u64 = 64 << 20;
const SHARDS_MAX: usize = 4096;

/// Opens a folder's configuration alone.
pub(crate) fn open_config(dir: &Path) -> Result<Weights, Error> {
    let source = Source::HuggingFace { config: read_config(dir)?, dir: dir.to_owned() };
    Ok(Weights::new(source, Vec::new(), Vec::new()))
}

fn read_config(dir: &Path) -> Result<Value, Error> {
    read_json(&dir.join("config.json"), CONFIG_BYTES_MAX)?
        .ok_or_else(|| bad(dir, "the folder has no config.json".to_owned()))
}

/// Opens a folder.
pub(crate) fn open(dir: &Path) -> Result<Weights, Error> {
    let config = read_config(dir)?;
    let mut shards = Vec::new();
    let mut tensors = Vec::new();
    let index_path = dir.join(INDEX);
    if let Some(index) = read_json(&index_path, INDEX_BYTES_MAX)? {
        let index = parse_index(&index).map_err(|problem| bad(&index_path, problem))?;
        for (name, expected) in index {
            let path = dir.join(name);
            let found = open_shard(&path, &mut shards)?;
            let names: HashSet<&str> = found.iter().map(|tensor| tensor.name.as_str()).collect();
            if let Some(missing) = expected.iter().find(|tensor| !names.contains(tensor.as_str())) {
                let problem = format!("{INDEX} says that \"{missing}\" is here, but it is not");
                return Err(bad(&path, problem));
            }
            tensors.extend(found);
        }
    } else if dir.join(WHOLE).exists() {
        tensors = open_shard(&dir.join(WHOLE), &mut shards)?;
    } else {
        return Err(bad(dir, format!("the folder has neither {WHOLE} nor {INDEX}")));
    }
    check_names(&tensors).map_err(|problem| bad(dir, problem))?;
    let source = Source::HuggingFace { config, dir: dir.to_owned() };
    Ok(Weights::new(source, shards, tensors))
}

impl Weights {
    /// Reads a safetensors file that is in memory, as a folder with this `config.json` would have it.
    pub fn from_safetensors_bytes(config: Value, bytes: Vec<u8>) -> Result<Self, Error> {
        let problem = |problem| bad(Path::new(WHOLE), problem);
        let tensors = read_shard(&bytes, 0).map_err(problem)?;
        check_names(&tensors).map_err(problem)?;
        let source = Source::HuggingFace { config, dir: PathBuf::new() };
        Ok(Self::new(source, vec![FileBytes::Owned(bytes)], tensors))
    }
}

/// The names of the shards in an index file.
pub(crate) fn shard_names(index_path: &Path) -> Result<Vec<String>, Error> {
    let index = read_json(index_path, INDEX_BYTES_MAX)?
        .ok_or_else(|| bad(index_path, "there is no such file".to_owned()))?;
    let shards = parse_index(&index).map_err(|problem| bad(index_path, problem))?;
    Ok(shards.into_keys().map(str::to_owned).collect())
}

fn bad(path: &Path, problem: String) -> Error {
    Error::Folder { path: path.to_owned(), problem }
}

/// The shards that an index names, each with the tensors that should be in it.
fn parse_index(index: &Value) -> Result<BTreeMap<&str, Vec<&String>>, String> {
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| "it has no object \"weight_map\"".to_owned())?;
    let mut shards: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for (tensor, file) in map {
        let file =
            file.as_str().ok_or_else(|| format!("the file of \"{tensor}\" is not a string"))?;
        // Only names: an index must not lead out of its folder.
        if !file.ends_with(".safetensors") || file.contains(['/', '\\']) {
            return Err(format!(
                "\"{file}\", the file of \"{tensor}\", is not the name of a safetensors file"
            ));
        }
        shards.entry(file).or_default().push(tensor);
    }
    if shards.len() > SHARDS_MAX {
        return Err(format!("it names {} files, more than the {SHARDS_MAX} allowed", shards.len()));
    }
    Ok(shards)
}

/// Maps a shard, adds it to `shards` and returns its tensors.
fn open_shard(path: &Path, shards: &mut Vec<FileBytes>) -> Result<Vec<TensorInfo>, Error> {
    let failed = |source| Error::Io { action: "open", path: path.to_owned(), source };
    let bytes = FileBytes::map(path).map_err(failed)?;
    let tensors = read_shard(&bytes, shards.len()).map_err(|problem| bad(path, problem))?;
    shards.push(bytes);
    Ok(tensors)
}

fn read_shard(bytes: &[u8], file: usize) -> Result<Vec<TensorInfo>, String> {
    let (header_len, metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|error| format!("not a valid safetensors file: {error}"))?;
    // The header has its own length, of eight bytes, before it.
    let data_start = header_len + 8;
    let names = metadata.offset_keys().into_iter();
    let tensors = names.map(|name| {
        let info = metadata.info(&name).expect("the name is from this metadata");
        let data_type = data_type(info.dtype).ok_or_else(|| {
            format!("tensor \"{name}\" has the type {:?}, which is not supported", info.dtype)
        })?;
        let (start, end) = info.data_offsets;
        let offset = data_start + start;
        let elements =
            info.shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
        if elements.and_then(|elements| data_type.bytes_for(elements)) != end.checked_sub(start) {
            return Err(format!("tensor \"{name}\" does not take the bytes that its shape says"));
        }
        Ok(TensorInfo {
            name,
            data_type,
            shape: info.shape.clone(),
            bytes: end - start,
            file,
            offset,
        })
    });
    tensors.collect()
}

fn data_type(dtype: Dtype) -> Option<DataType> {
    match dtype {
        Dtype::F32 => Some(DataType::F32),
        Dtype::F16 => Some(DataType::F16),
        Dtype::BF16 => Some(DataType::BF16),
        _ => None,
    }
}

fn check_names(tensors: &[TensorInfo]) -> Result<(), String> {
    let mut names = HashSet::new();
    match tensors.iter().find(|tensor| !names.insert(&tensor.name)) {
        Some(twice) => Err(format!("tensor \"{}\" occurs twice", twice.name)),
        None => Ok(()),
    }
}

/// The file's JSON; `None` if there is no such file.
fn read_json(path: &Path, bytes_max: u64) -> Result<Option<Value>, Error> {
    let failed = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > bytes_max {
        return Err(bad(path, format!("it has more than the {bytes_max} bytes allowed")));
    }
    serde_json::from_slice(&text).map(Some).map_err(|error| bad(path, error.to_string()))
}

#[cfg(test)]
pub(crate) mod tests;
