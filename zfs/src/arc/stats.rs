//! What the cache has done.

/// Figures of the cache. Source: `arc_stats_t`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ArcStats {
    /// Bytes cached.
    pub size: u64,
    /// Limit in bytes.
    pub max: u64,
    /// How much of that the blocks seen once shall have, in bytes.
    pub target: u64,
    /// Reads served from the cache, by reads under way too.
    pub hits: u64,
    /// Of these, reads that waited for somebody else's read.
    pub waits: u64,
    /// Reads that went to a device.
    pub misses: u64,
    /// Blocks read ahead from a device.
    pub prefetches: u64,
    /// First uses of blocks that were read ahead and had arrived.
    pub prefetch_hits: u64,
    /// Blocks pushed out.
    pub evictions: u64,
    /// Hits among the blocks seen once, and among those seen more often.
    pub mru_hits: u64,
    /// See `mru_hits`.
    pub mfu_hits: u64,
    /// Blocks read again that had been pushed out of either list.
    pub mru_ghost_hits: u64,
    /// See `mru_ghost_hits`.
    pub mfu_ghost_hits: u64,
    /// Bytes of blocks seen once.
    pub mru_size: u64,
    /// Bytes of blocks seen more often.
    pub mfu_size: u64,
    /// Bytes that blocks remembered without data had.
    pub mru_ghost_size: u64,
    /// See `mru_ghost_size`.
    pub mfu_ghost_size: u64,
}
