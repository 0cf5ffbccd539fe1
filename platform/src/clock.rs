//! Time as an argument.

/// Wall-clock time since 1970-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Timespec {
    /// Whole seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds within the second, 0 to 999 999 999.
    pub nsec: u32,
}

/// A source of time.
pub trait Clock: Send + Sync {
    /// Wall-clock time.
    fn now(&self) -> Timespec;
    /// Nanoseconds since some fixed point; never goes back.
    fn monotonic_ns(&self) -> u64;
}

/// A clock that always tells the same wall time: for reproducible images. Monotonic time stands still, too.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock(pub Timespec);

impl Clock for FixedClock {
    fn now(&self) -> Timespec {
        self.0
    }
    fn monotonic_ns(&self) -> u64 {
        0
    }
}
