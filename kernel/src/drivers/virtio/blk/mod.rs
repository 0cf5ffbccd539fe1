//! virtio-blk: disks.
//!
//! `submit` puts a request into the ring of the processor that it runs on and returns; when the ring is full it waits in a software
//! queue. Interrupts only wake the ring's driver thread, which takes the completions, refills the ring and calls back. There are
//! as many rings as processors, if the device has them and each can have an interrupt of its own. Nothing is ordered across
//! rings: who needs an order waits, and a flush covers what is complete, whichever ring it came by.
//!
//! Buffers are on the heap, so physically contiguous: a request is a header, one piece of data (more only if the device
//! limits a piece's size) and a status byte.

mod ring;

use super::{Interrupts, Transport, config, feature, negotiate, start};
use crate::arch::cpu;
use crate::log;
use crate::sched;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::block::{BlockDevice, BlockError, BlockInfo, Op, Request, check_range};
use ring::Ring;

const F_SIZE_MAX: u64 = 1 << 1;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_MQ: u64 = 1 << 12;
const F_DISCARD: u64 = 1 << 13;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_DISCARD: u32 = 11;

const S_OK: u8 = 0;
const S_UNSUPPORTED: u8 = 2;
const S_NONE: u8 = 0xff;

const SECTOR: u64 = 512;
/// Data pieces of one request at most; longer requests fail (never with the devices known, which have no limit).
const MAX_PIECES: usize = 14;
/// Rings at most: beyond, they cost more memory than they save waiting.
const RINGS: usize = 16;

/// What all rings know of the device.
#[derive(Clone, Copy)]
struct Features {
    indirect: bool,
    size_max: u32,
    max_discard_sectors: u32,
}

/// What all rings of a disk have done.
#[derive(Default)]
struct Counters {
    in_flight: AtomicU64,
    deepest: AtomicU64,
    completed: AtomicU64,
    unheard: AtomicU64,
}

/// A disk.
pub struct Disk {
    info: BlockInfo,
    has_flush: bool,
    /// At least one.
    rings: Vec<Arc<Ring>>,
    counters: Arc<Counters>,
}

/// What a disk has done, for tests and statistics.
#[derive(Debug, Clone, Copy)]
pub struct DiskStats {
    /// Most requests that were with the device at once.
    pub deepest: u64,
    /// Requests completed.
    pub completed: u64,
    /// How often the driver found completions that no interrupt had told it of.
    pub unheard: u64,
}

impl Disk {
    /// Starts the device; `None` if it cannot be used.
    pub fn open(transport: Arc<dyn Transport>) -> Option<Arc<Disk>> {
        let wanted =
            F_SIZE_MAX | F_RO | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_MQ | F_DISCARD | feature::INDIRECT_DESC;
        let offered = negotiate(&*transport, wanted)?;
        let size_max = if offered & F_SIZE_MAX != 0 { u32::from_le_bytes(config(&*transport, 8)) } else { 0 };
        let features = Features {
            indirect: offered & feature::INDIRECT_DESC != 0,
            size_max: if size_max == 0 { u32::MAX } else { size_max },
            max_discard_sectors: u32::from_le_bytes(config(&*transport, 36)),
        };
        let counters = Arc::new(Counters::default());
        let ring = |index| Ring::new(&transport, index, features, &counters);
        let mut rings = alloc::vec![ring(0)?];
        let interrupts = rings[0].start();
        let offers = if offered & F_MQ != 0 { u16::from_le_bytes(config(&*transport, 34)) } else { 1 };
        // A line that rings share would wake all of them.
        if interrupts == Interrupts::Message {
            let wanted = usize::from(offers).min(cpu::count()).min(RINGS);
            for another in (1..wanted as u16).map_while(ring) {
                // One that is polled is better than one that is shared; a device without enough messages is a rare thing.
                another.start();
                rings.push(another);
            }
        }
        start(&*transport);
        let depth = rings.iter().map(|ring| ring.depth()).sum::<usize>();
        let disk = Disk {
            info: read_info(&*transport, offered, depth as u32),
            has_flush: offered & F_FLUSH != 0,
            rings,
            counters,
        };
        disk.announce(&*transport, interrupts);
        Some(Arc::new(disk))
    }

    fn announce(&self, transport: &dyn Transport, interrupts: Interrupts) {
        log!(
            Info,
            "disk at {}: {} MiB, sectors of {} bytes, {} requests at once in {} rings{}{}{}",
            transport.name(),
            self.info.size >> 20,
            self.info.sector_size,
            self.info.queue_depth,
            self.rings.len(),
            if self.info.read_only { ", read-only" } else { "" },
            if self.info.discard { ", discard" } else { "" },
            match interrupts {
                Interrupts::Message => "",
                Interrupts::Line => ", interrupts by a line",
                Interrupts::None => ", polled",
            },
        );
    }

    /// The ring of this processor.
    fn ring(&self) -> &Ring {
        // A thread that moves to another processor meanwhile uses this one's ring all the same.
        &self.rings[sched::cpu_index() % self.rings.len()]
    }

    /// Completes a request without the device, but by a driver thread like any other.
    fn settle(&self, request: Request, outcome: Result<(), BlockError>) {
        self.ring().settle(request, outcome);
    }

    /// What it has done so far.
    pub fn stats(&self) -> DiskStats {
        DiskStats {
            deepest: self.counters.deepest.load(Ordering::Relaxed),
            completed: self.counters.completed.load(Ordering::Relaxed),
            unheard: self.counters.unheard.load(Ordering::Relaxed),
        }
    }
}

impl BlockDevice for Disk {
    fn info(&self) -> BlockInfo {
        self.info
    }

    fn submit(&self, request: Request) {
        if let Err(error) = check_range(&self.info, &request.op) {
            return self.settle(request, Err(error));
        }
        match &request.op {
            Op::Flush if !self.has_flush => {
                // Without the feature every completed write is durable.
                return self.settle(request, Ok(()));
            }
            Op::Discard { .. } if !self.info.discard => {
                return self.settle(request, Err(BlockError::Unsupported));
            }
            Op::Read { buf, .. } if buf.is_empty() => return self.settle(request, Ok(())),
            Op::Write { data, .. } if data.is_empty() => return self.settle(request, Ok(())),
            _ => {}
        }
        self.ring().submit(request);
    }
}

/// Reads the geometry from `struct virtio_blk_config`.
fn read_info(transport: &dyn Transport, features: u64, queue_depth: u32) -> BlockInfo {
    let sectors = u64::from_le_bytes(config(transport, 0));
    let sector_size =
        if features & F_BLK_SIZE != 0 { u32::from_le_bytes(config(transport, 20)) } else { 512 };
    let sector_size = if sector_size >= 512 && sector_size.is_power_of_two() { sector_size } else { 512 };
    let exponent = if features & F_TOPOLOGY != 0 { transport.config_u8(24).min(8) } else { 0 };
    let size = sectors.saturating_mul(SECTOR);
    BlockInfo {
        size: size - size % u64::from(sector_size),
        sector_size,
        physical_sector_size: sector_size << exponent,
        read_only: features & F_RO != 0,
        discard: features & F_DISCARD != 0,
        queue_depth,
    }
}
