//! What a device's allocator holds.

/// The memory of a device that its backend's allocator manages, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What tensors take.
    pub in_use: u64,
    /// What the allocator has taken from the device: that, padding, and pages that it keeps for what comes next.
    pub reserved: u64,
}
