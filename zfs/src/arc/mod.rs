//! The adaptive replacement cache of logical blocks.

/// Figures of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArcStats {
    /// Bytes cached.
    pub size: u64,
    /// Limit in bytes.
    pub max: u64,
    /// Reads served from the cache.
    pub hits: u64,
    /// Reads that went to a device.
    pub misses: u64,
    /// Blocks pushed out.
    pub evictions: u64,
}
