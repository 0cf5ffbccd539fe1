// What the kernel and the vDSO agree on; each includes this file.

/// How to turn the time-stamp counter into time.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct TimeScale {
    /// The counter's value that is nanosecond 0.
    pub base: u64,
    /// Nanoseconds per tick, times 2^32.
    pub multiplier: u64,
    /// Wall time of nanosecond 0, in nanoseconds since 1970.
    pub wall: i64,
}

/// The page in front of the vDSO's image.
#[repr(C)]
pub struct Page {
    /// Odd while the kernel changes `clock`.
    pub sequence: u32,
    /// The clocks.
    pub clock: TimeScale,
}

/// Offset of the processor's number in the data that GS points to.
pub const CPU_INDEX_OFFSET: usize = 32;
