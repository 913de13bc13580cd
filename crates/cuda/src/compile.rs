//! Compiling CUDA C++ at run time for the very GPU at hand, with what was compiled before kept on disk.

use std::{
    ffi::{CStr, CString},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use cudarc::nvrtc::{result, sys};
use sha2::{Digest, Sha256};

use crate::{Error, libraries};

/// One source with the values that its macros have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// For people, and in the names of cached files.
    pub name: &'static str,
    /// CUDA C++.
    pub source: &'static str,
    /// Macros: name and value.
    pub macros: Vec<(&'static str, String)>,
}

/// Compiles for one architecture.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// Such as `90a`.
    architecture: String,
    options: Vec<String>,
    version: (i32, i32),
    cache: Option<PathBuf>,
}

/// What sources share, by the name by which they include it.
const HEADERS: [(&str, &str); 5] = [
    ("common.cuh", include_str!("kernels/common.cuh")),
    ("dense.cuh", include_str!("kernels/products/dense.cuh")),
    ("quantized.cuh", include_str!("kernels/products/quantized.cuh")),
    ("sampling.cuh", include_str!("kernels/sampling/sampling.cuh")),
    ("attention.cuh", include_str!("kernels/attention/attention.cuh")),
];

impl Compiler {
    /// A compiler for an architecture such as `90a`; compiled code is kept in the folder, if one is given.
    pub fn new(architecture: &str, cache: Option<&Path>) -> Result<Self, Error> {
        libraries::load_compiler()?;
        let mut options = vec![
            format!("--gpu-architecture=sm_{architecture}"),
            "--std=c++17".to_owned(),
            "--extra-device-vectorization".to_owned(),
            "--use_fast_math".to_owned(),
        ];
        options.extend(libraries::include_folder().map(|folder| format!("-I{}", folder.display())));
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to places for numbers.
        let asked = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
        asked.result().map_err(|error| Error::Compile {
            unit: "nothing".to_owned(),
            architecture: architecture.to_owned(),
            log: error.to_string(),
        })?;
        Ok(Self {
            architecture: architecture.to_owned(),
            options,
            version: (major, minor),
            cache: cache.map(Path::to_owned),
        })
    }

    /// The machine code of all units, in their order; several are compiled at once.
    pub fn compile(&self, units: &[Unit]) -> Result<Vec<Vec<u8>>, Error> {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(units.len());
        let next = AtomicUsize::new(0);
        let take_turns = || {
            let mut done = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(unit) = units.get(index) else { return done };
                done.push((index, self.compile_one(unit)));
            }
        };
        let mut results = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(take_turns)).collect();
            let results = threads.into_iter().flat_map(|thread| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            results.collect::<Vec<_>>()
        });
        results.sort_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn compile_one(&self, unit: &Unit) -> Result<Vec<u8>, Error> {
        let mut options = self.options.clone();
        options.extend(unit.macros.iter().map(|(name, value)| format!("-D{name}={value}")));
        let include = |source: String, (name, text): (&str, &str)| {
            source.replacen(&format!("#include \"{name}\""), text, 1)
        };
        let source = HEADERS.into_iter().fold(unit.source.to_owned(), include);
        let cached = self.cache.as_ref().map(|folder| {
            let mut hash = Sha256::new();
            hash.update(format!("{:?} {options:?} ", self.version));
            hash.update(&source);
            folder.join(format!("{}-{:x}.cubin", unit.name, hash.finalize()))
        });
        if let Some(code) = cached.as_ref().and_then(|path| fs::read(path).ok()) {
            return Ok(code);
        }
        let code = self.translate(unit.name, &source, &options)?;
        if let Some(path) = cached {
            keep(&path, &code).map_err(|source| Error::Cache { path, source })?;
        }
        Ok(code)
    }

    fn translate(&self, name: &str, source: &str, options: &[String]) -> Result<Vec<u8>, Error> {
        let failed = |log: String| Error::Compile {
            unit: name.to_owned(),
            architecture: self.architecture.clone(),
            log,
        };
        let source = CString::new(source).map_err(|error| failed(error.to_string()))?;
        let title =
            CString::new(format!("{name}.cu")).map_err(|error| failed(error.to_string()))?;
        let program = Program(
            result::create_program(&source, Some(&title))
                .map_err(|error| failed(error.to_string()))?,
        );
        // SAFETY: the program is alive; so are source and title.
        if unsafe { result::compile_program(program.0, options) }.is_err() {
            // SAFETY: the program is alive.
            let log = unsafe { result::get_program_log(program.0) }.unwrap_or_default();
            // A C character is signed on some machines.
            let log: Vec<u8> = log.into_iter().flat_map(|byte| byte.to_ne_bytes()).collect();
            let text = CStr::from_bytes_until_nul(&log).map(|text| text.to_string_lossy());
            return Err(failed(text.map_or_else(|_| "no log".to_owned(), |text| text.into())));
        }
        let mut size = 0;
        // SAFETY: the program was compiled, and the pointer is to a place for the size.
        unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut size) }
            .result()
            .map_err(|error| failed(error.to_string()))?;
        let mut code = vec![0_u8; size];
        // SAFETY: the buffer has the size that was asked for.
        unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) }
            .result()
            .map_err(|error| failed(error.to_string()))?;
        Ok(code)
    }
}

/// Writes a file whole or not at all, whoever else writes it at the same time.
fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let own = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&own, code)?;
    fs::rename(&own, path)
}

/// A program of the run-time compiler.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program is not used afterwards.
        let _ = unsafe { result::destroy_program(self.0) };
    }
}
