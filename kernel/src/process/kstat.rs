//! `/proc/spl/kstat/zfs`: what the engine counts, in the format of Linux's kstats (`kstat_seq_show` in `spl-kstat.c`).
//!
//! `txgs` stands directly in the folder, as there is one pool, and has the columns that are known here.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::Write;
use zfs::spa::Pool;

static POOL: spin::Once<Arc<zfs::dmu::Txgs>> = spin::Once::new();
static ZIO: spin::Once<Arc<zfs::zio::Zio>> = spin::Once::new();

/// `KSTAT_DATA_UINT64`.
const UINT64: u32 = 4;

/// Says whose figures are shown. Once.
pub fn set_pool(pool: &Pool) {
    POOL.call_once(|| Arc::clone(pool.txgs()));
    ZIO.call_once(|| Arc::clone(pool.zio()));
}

/// A named kstat: a line about it, headings, then name, type and value of each.
fn named(id: u32, values: &[(&str, u64)]) -> String {
    let now = crate::time::monotonic_ns();
    let (count, bytes) = (values.len(), values.len() * 48);
    let mut text = format!("{id} 1 0x01 {count} {bytes} 0 {now}\n{:<31} {:<4} data\n", "name", "type");
    for (name, value) in values {
        let _ = writeln!(text, "{name:<31} {UINT64:<4} {value}");
    }
    text
}

/// Bytes of data in the cache; 0 without a pool.
pub fn arc_size() -> u64 {
    ZIO.get().map_or(0, |zio| zio.stats().size)
}

/// `arcstats`.
pub fn arc() -> Option<String> {
    let s = ZIO.get()?.stats();
    Some(named(
        1,
        &[
            ("hits", s.hits),
            ("iohits", s.waits),
            ("misses", s.misses),
            ("prefetch_misses", s.prefetches),
            ("demand_hit_prefetch", s.prefetch_hits),
            ("mru_hits", s.mru_hits),
            ("mru_ghost_hits", s.mru_ghost_hits),
            ("mfu_hits", s.mfu_hits),
            ("mfu_ghost_hits", s.mfu_ghost_hits),
            ("deleted", s.evictions),
            ("p", s.target),
            ("c", s.max),
            ("c_max", s.max),
            ("size", s.size),
            ("mru_size", s.mru_size),
            ("mru_ghost_size", s.mru_ghost_size),
            ("mfu_size", s.mfu_size),
            ("mfu_ghost_size", s.mfu_ghost_size),
        ],
    ))
}

/// `dmu_tx`.
pub fn dmu_tx() -> Option<String> {
    let s = POOL.get()?.tx_stats();
    let values = [
        ("dmu_tx_assigned", s.assigned),
        ("dmu_tx_dirty_delay", s.delayed),
        ("dmu_tx_dirty_over_max", s.dirty_over_max),
    ];
    Some(named(2, &values))
}

/// `txgs`: the txgs that were synced last. Times are in nanoseconds.
pub fn txgs() -> Option<String> {
    let txgs = POOL.get()?.history();
    let mut text = format!(
        "{:<8} {:<16} {:<5} {:<12} {:<12} {:<12} {:<12}\n",
        "txg", "birth", "state", "ndirty", "otime", "wtime", "stime"
    );
    for t in txgs {
        let _ = writeln!(
            text,
            "{:<8} {:<16} {:<5} {:<12} {:<12} {:<12} {:<12}",
            t.txg, t.birth_ns, "C", t.dirty, t.open_ns, t.wait_ns, t.sync_ns
        );
    }
    Some(text)
}
