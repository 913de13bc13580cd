//! What this machine is.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The size that counts where the system does not say.
const CACHE_BYTES_DEFAULT: usize = 32 << 20;

/// The CPU's name.
pub(crate) fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(':'))
        .map_or("a CPU without a name", |(_, name)| name.trim())
        .to_owned()
}

/// Bytes of all caches of the last level together: what is larger comes from memory.
pub(crate) fn last_level_cache_bytes() -> usize {
    cache_bytes(Path::new("/sys/devices/system/cpu")).unwrap_or(CACHE_BYTES_DEFAULT)
}

fn cache_bytes(folder: &Path) -> Option<usize> {
    let children = |folder: &Path, prefix: &'static str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(move |path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
    };
    let read = |cache: &PathBuf, name: &str| {
        Some(fs::read_to_string(cache.join(name)).ok()?.trim().to_owned())
    };
    // By level and by who shares it: each cache once.
    let mut caches: BTreeMap<(u32, String), usize> = BTreeMap::new();
    for cpu in children(folder, "cpu") {
        for cache in children(&cpu.join("cache"), "index") {
            let seen = || {
                let level: u32 = read(&cache, "level")?.parse().ok()?;
                let size: usize = read(&cache, "size")?.strip_suffix('K')?.parse().ok()?;
                Some(((level, read(&cache, "shared_cpu_list")?), size << 10))
            };
            caches.extend(seen());
        }
    }
    let ((last, _), _) = caches.last_key_value()?;
    let of_last = caches.iter().filter(|((level, _), _)| level == last);
    Some(of_last.map(|(_, bytes)| bytes).sum())
}

/// Memory of this process in bytes: resident now, and at its highest. None where the system does not say.
pub(crate) fn resident_bytes() -> Option<(u64, u64)> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// As many bytes as may be taken for a measurement, of those wished for: at most a quarter of what is free.
pub(crate) fn affordable_bytes(wished: usize) -> usize {
    let free = device::cpu::available_memory_bytes();
    free.map_or(wished, |free| wished.min((free / 4) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_known_here() {
        if cfg!(target_os = "linux") {
            let (now, highest) = resident_bytes().expect("Linux says");
            assert!(now > 0 && highest >= now);
        }
    }

    #[test]
    fn a_machine_that_does_not_say_has_a_cache() {
        assert_eq!(cache_bytes(Path::new("/does/not/exist")), None);
        assert!(last_level_cache_bytes() > 0);
    }
}
