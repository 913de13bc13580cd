//! Finding NVIDIA's libraries: in the system's library path, in a CUDA toolkit, or in Python wheels.
//!
//! A library that is loaded once under its full path is found again by its name, which is how the bindings ask for it.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use crate::Error;

/// A library as its files are called.
struct Library {
    /// For people.
    title: &'static str,
    /// File names, the best one first.
    names: &'static [&'static str],
    /// How the names of files begin that it looks for by itself, and does not find beside itself.
    companions: Option<&'static str>,
}

const DRIVER: Library = Library {
    title: "the NVIDIA driver",
    names: &["libcuda.so.1", "libcuda.so"],
    companions: None,
};
const COMPILER: Library = Library {
    title: "the CUDA run-time compiler (NVRTC)",
    names: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
    companions: Some("libnvrtc-builtins.so"),
};
const BLAS: Library = Library {
    title: "cuBLASLt",
    names: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
    companions: None,
};

/// Loads the driver alone: enough to see whether there is a GPU.
pub(crate) fn load_driver() -> Result<(), Error> {
    load(&DRIVER, &[])
}

/// Loads what compiles and multiplies.
pub(crate) fn load_toolkit() -> Result<(), Error> {
    let folders = library_folders();
    load(&COMPILER, &folders)?;
    load(&BLAS, &folders)
}

/// The compiler alone, for checks on machines without a GPU.
pub(crate) fn load_compiler() -> Result<(), Error> {
    load(&COMPILER, &library_folders())
}

/// The folder of `cuda_bf16.h`, where there is one.
pub(crate) fn include_folder() -> Option<PathBuf> {
    let roots = toolkit_roots().into_iter().chain(wheel_roots());
    roots.map(|root| root.join("include")).find(|include| include.join("cuda_bf16.h").is_file())
}

fn load(library: &Library, folders: &[PathBuf]) -> Result<(), Error> {
    let in_folders = folders
        .iter()
        .flat_map(|folder| library.names.iter().map(move |name| folder.join(name)))
        .filter(|path| path.is_file());
    let bare = library.names.iter().map(PathBuf::from);
    for candidate in in_folders.chain(bare) {
        let folder = candidate.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let (Some(start), Some(folder)) = (library.companions, folder) {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let companions = entries.map(|entry| entry.path());
            for companion in companions.filter(|path| name_starts_with(path, start)) {
                // One that cannot be loaded is perhaps not needed.
                open(&companion);
            }
        }
        if open(&candidate) {
            return Ok(());
        }
    }
    let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    let places = if places.is_empty() {
        "in the system's library path".to_owned()
    } else {
        format!("in the system's library path and in {}", places.join(", "))
    };
    Err(Error::Library { library: library.title, names: library.names.join(", "), places })
}

/// Loads a library for the life of the process, since pointers into it are everywhere. Says whether that worked.
fn open(path: &Path) -> bool {
    // SAFETY: these are NVIDIA's libraries; their initialisers have no condition.
    unsafe { libloading::Library::new(path) }.map(std::mem::forget).is_ok()
}

fn library_folders() -> Vec<PathBuf> {
    let roots = toolkit_roots().into_iter().chain(wheel_roots());
    let folders = roots.flat_map(|root| {
        ["lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"]
            .map(|folder| root.join(folder))
    });
    folders.filter(|folder| folder.is_dir()).collect()
}

/// Where toolkits are installed: as the environment says, then at the usual place.
fn toolkit_roots() -> Vec<PathBuf> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    named.map(PathBuf::from).chain([PathBuf::from("/usr/local/cuda")]).collect()
}

/// Wheels of NVIDIA's libraries, in the Pythons on the path and in those the system has.
fn wheel_roots() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let beside_programs = std::env::split_paths(&path)
        .filter(|folder| folder.join("python3").exists())
        .filter_map(|folder| folder.parent().map(|parent| parent.join("lib")));
    let libraries = beside_programs.chain(["/usr/lib", "/usr/local/lib"].map(PathBuf::from));
    let mut roots = Vec::new();
    for library in libraries {
        for python in subfolders(&library).filter(|folder| name_starts_with(folder, "python3")) {
            for packages in ["site-packages", "dist-packages"] {
                roots.extend(subfolders(&python.join(packages).join("nvidia")));
            }
        }
    }
    roots.sort();
    roots.dedup();
    roots
}

fn subfolders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn name_starts_with(path: &Path, start: &str) -> bool {
    path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(start))
}
