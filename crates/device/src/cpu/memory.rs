//! How much memory this process may still take.

/// Bytes available to this process: what the system could hand out without swapping, or what is left of the control
/// group's limit if that is less. `None` where the system does not say.
pub fn available_memory_bytes() -> Option<u64> {
    let system = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(mem_available);
    let group = control_group_left();
    match (system, group) {
        (Some(system), Some(group)) => Some(system.min(group)),
        (system, group) => system.or(group),
    }
}

fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Control groups, version 2: this process's own group and then its parents, the tightest counting.
fn control_group_left() -> Option<u64> {
    let membership = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mut folder = std::path::PathBuf::from("/sys/fs/cgroup");
    folder.push(group.trim_start_matches('/'));
    let read = |folder: &std::path::Path, name: &str| -> Option<u64> {
        std::fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
    };
    let mut left: Option<u64> = None;
    while folder.starts_with("/sys/fs/cgroup") {
        if let (Some(limit), Some(used)) =
            (read(&folder, "memory.max"), read(&folder, "memory.current"))
        {
            let here = limit.saturating_sub(used);
            left = Some(left.map_or(here, |left| left.min(here)));
        }
        folder.pop();
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_the_kernel_writes() {
        let text = "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(mem_available(text), Some(20_480_000_000));
        assert_eq!(mem_available("MemTotal: 1 kB\n"), None);
    }
}
