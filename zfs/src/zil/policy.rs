//! What properties say of logging: when changes become durable, and which data the log holds itself. They take effect when they
//! change. Source: `zfs_log_write` (`module/zfs/zfs_log.c`), `zvol_log_write` (`module/zfs/zvol.c`).

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// From this many bytes on the data of a write goes to its place at once (`zfs_immediate_write_sz`).
const IMMEDIATE_WRITE: u64 = 32 << 10;

/// When changes become durable (property `sync`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// When somebody asks for it.
    Standard = 0,
    /// Before a call returns.
    Always = 1,
    /// With their txg.
    Disabled = 2,
}

/// The present values. Each stands alone: no order between them is needed.
#[derive(Default)]
pub struct LogPolicy {
    sync_mode: AtomicU8,
    throughput: AtomicBool,
}

impl LogPolicy {
    /// Takes over the properties' numbers; what is not known keeps its default.
    pub fn apply(&self, number: &dyn Fn(&str) -> Option<u64>) {
        self.sync_mode.store(number("sync").unwrap_or(0).min(2) as u8, Ordering::Relaxed);
        self.throughput.store(number("logbias") == Some(1), Ordering::Relaxed);
    }

    /// When changes become durable.
    pub fn sync_mode(&self) -> SyncMode {
        match self.sync_mode.load(Ordering::Relaxed) {
            1 => SyncMode::Always,
            2 => SyncMode::Disabled,
            _ => SyncMode::Standard,
        }
    }

    /// Whether a write of `len` bytes goes to its place before it is logged, instead of into the log: with
    /// `logbias=throughput` always, else large ones in a pool without log devices.
    pub fn in_place(&self, len: u64, has_log_device: impl FnOnce() -> bool) -> bool {
        self.throughput.load(Ordering::Relaxed) || len >= IMMEDIATE_WRITE && !has_log_device()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_writes_are_not_logged_twice() {
        let policy = LogPolicy::default();
        assert!(!policy.in_place(8 << 10, || false) && policy.in_place(64 << 10, || false));
        assert!(!policy.in_place(64 << 10, || true));
        policy.apply(&|name| (name == "logbias").then_some(1));
        assert!(policy.in_place(512, || true));
        assert_eq!(policy.sync_mode(), SyncMode::Standard);
    }
}
