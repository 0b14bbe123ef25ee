//! What a device's allocator holds, and what the machine has left.

use sysinfo::{MemoryRefreshKind, System};

/// The memory of a device that its backend's allocator manages, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What tensors take.
    pub in_use: u64,
    /// What the allocator has taken from the device: that, padding, and pages that it keeps for what comes next.
    pub reserved: u64,
}

/// The memory that processes can still take on this machine, in bytes: what the operating system says is available, at most what the
/// control group of this process is left.
pub fn free_host_memory() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    // What files take in the page cache of a group is given back when it is asked for.
    let of_group = system.cgroup_limits().filter(|group| group.total_memory > 0);
    let of_group = of_group.map(|group| group.total_memory.saturating_sub(group.rss));
    let available = Some(system.available_memory()).filter(|bytes| *bytes > 0);
    [available, of_group].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_memory_left() {
        let free = free_host_memory();
        assert!(free.is_none_or(|bytes| bytes > 1 << 20), "{free:?}");
        assert!(!cfg!(target_os = "linux") || free.is_some());
    }
}
