//! virtio-blk: disks.
//!
//! `submit` puts a request into the ring and returns; when the ring is full it waits in a software queue. Interrupts
//! only wake the disk's driver thread, which takes the completions, refills the ring and calls back.
//!
//! Buffers are on the heap, so physically contiguous: a request is a header, one piece of data (more only if the device
//! limits a piece's size) and a status byte.

use super::queue::{DESCRIPTOR_SIZE, Queue, Segment};
use super::{Interrupts, Transport, config, feature, negotiate, start};
use crate::log;
use crate::mm::{frame, phys};
use crate::sched::{self, Thread};
use crate::sync::IrqLock;
use crate::time;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};
use platform::block::{BlockDevice, BlockError, BlockInfo, Op, Outcome, Request, check_range};
use spin::Once;

const F_SIZE_MAX: u64 = 1 << 1;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_TOPOLOGY: u64 = 1 << 10;
const F_DISCARD: u64 = 1 << 13;

const T_IN: u32 = 0;
const T_OUT: u32 = 1;
const T_FLUSH: u32 = 4;
const T_DISCARD: u32 = 11;

const S_OK: u8 = 0;
const S_UNSUPPORTED: u8 = 2;
const S_NONE: u8 = 0xff;

const SECTOR: u64 = 512;
/// Requests in the ring at most.
const DEPTH: u16 = 128;
/// Data pieces of one request at most; longer requests fail (never with the devices known, which have no limit).
const MAX_PIECES: usize = 14;
/// A lost interrupt costs this much, not the system's life.
const WATCHDOG_NS: u64 = 100_000_000;
/// How often a disk without work looks for completions all the same: it may be given work at any time.
const IDLE_NS: u64 = 1_000_000_000;
const POLL_NS: u64 = 200_000;

/// `struct virtio_blk_discard_write_zeroes`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Discard {
    sector: u64,
    sectors: u32,
    flags: u32,
}

/// What the device reads and writes beside the data; one per request in the ring, in frames of our own.
#[repr(C)]
struct Slot {
    kind: u32,
    reserved: u32,
    sector: u64,
    discard: Discard,
    status: u8,
    pad: [u8; 31],
    table: [[u8; DESCRIPTOR_SIZE]; MAX_PIECES + 2],
}

const _: () = assert!(size_of::<Slot>() == 64 + 256);

struct State {
    queue: Queue,
    /// Requests that the ring had no room for.
    waiting: VecDeque<Request>,
    /// By slot: the request that the device works on.
    flying: Vec<Option<Request>>,
    free_slots: Vec<u16>,
    /// Slot of each chain's head.
    slot_of: Vec<u16>,
    /// Outcomes that are known without the device.
    settled: Vec<(Request, Result<(), BlockError>)>,
    in_flight: usize,
}

/// A disk.
pub struct Disk {
    transport: Arc<dyn Transport>,
    info: BlockInfo,
    indirect: bool,
    has_flush: bool,
    size_max: u32,
    max_discard_sectors: u32,
    slots: u64,
    state: IrqLock<State>,
    driver: Once<Arc<Thread>>,
    polled: core::sync::atomic::AtomicBool,
    deepest: AtomicU64,
    completed: AtomicU64,
    unheard: AtomicU64,
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
            F_SIZE_MAX | F_RO | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | F_DISCARD | feature::INDIRECT_DESC;
        let features = negotiate(&*transport, wanted)?;
        let size = transport.queue_size(0);
        if size == 0 {
            return None;
        }
        let queue = Queue::new(previous_power_of_two(size.min(256)))?;
        let indirect = features & feature::INDIRECT_DESC != 0;
        let depth = if indirect { queue.size().min(DEPTH) } else { (queue.size() / 3).clamp(1, DEPTH) };
        let slot_bytes = usize::from(depth) * size_of::<Slot>();
        let slots = frame::alloc_contiguous(slot_bytes.div_ceil(4096), 1)?;
        let info = read_info(&*transport, features, depth);
        let size_max =
            if features & F_SIZE_MAX != 0 { u32::from_le_bytes(config(&*transport, 8)) } else { 0 };
        let disk = Arc::new(Disk {
            info,
            indirect,
            has_flush: features & F_FLUSH != 0,
            size_max: if size_max == 0 { u32::MAX } else { size_max },
            max_discard_sectors: u32::from_le_bytes(config(&*transport, 36)),
            slots,
            state: IrqLock::new(State {
                slot_of: alloc::vec![0; usize::from(queue.size())],
                queue,
                waiting: VecDeque::new(),
                flying: (0..depth).map(|_| None).collect(),
                free_slots: (0..depth).rev().collect(),
                settled: Vec::new(),
                in_flight: 0,
            }),
            driver: Once::new(),
            polled: core::sync::atomic::AtomicBool::new(false),
            deepest: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            transport,
        });
        disk.run();
        Some(disk)
    }

    fn run(self: &Arc<Self>) {
        let worker = Arc::clone(self);
        let driver = sched::spawn_urgent("virtio-blk", Box::new(move || worker.drive()));
        self.driver.call_once(|| Arc::clone(&driver));
        let interrupts = self.transport.connect(0, Arc::new(move || driver.unpark()));
        self.polled.store(interrupts == Interrupts::None, Ordering::Relaxed);
        self.transport.enable_queue(0, &self.state.lock().queue.memory());
        start(&*self.transport);
        log!(
            Info,
            "disk at {}: {} MiB, sectors of {} bytes, {} requests at once{}{}{}",
            self.transport.name(),
            self.info.size >> 20,
            self.info.sector_size,
            self.info.queue_depth,
            if self.info.read_only { ", read-only" } else { "" },
            if self.info.discard { ", discard" } else { "" },
            match interrupts {
                Interrupts::Message => "",
                Interrupts::Line => ", interrupts by a line",
                Interrupts::None => ", polled",
            },
        );
    }

    /// What it has done so far.
    pub fn stats(&self) -> DiskStats {
        DiskStats {
            deepest: self.deepest.load(Ordering::Relaxed),
            completed: self.completed.load(Ordering::Relaxed),
            unheard: self.unheard.load(Ordering::Relaxed),
        }
    }

    fn slot(&self, index: u16) -> (*mut Slot, u64) {
        let address = self.slots + u64::from(index) * size_of::<Slot>() as u64;
        (phys::to_virt(address).cast(), address)
    }

    /// Puts a request into the ring; gives it back if there is no room.
    fn place(&self, state: &mut State, request: Request) -> Result<(), Request> {
        let Some(slot) = state.free_slots.pop() else { return Err(request) };
        let (memory, address) = self.slot(slot);
        let mut segments: [Segment; MAX_PIECES + 2] =
            [Segment { address: 0, len: 0, device_writes: false }; MAX_PIECES + 2];
        let mut count = 1;
        segments[0] = Segment { address, len: 16, device_writes: false };
        let mut data = |at: *const u8, len: usize, device_writes: bool| {
            let (mut at, mut left) = (phys::to_phys(at), len);
            while left > 0 && count <= MAX_PIECES {
                let piece = left.min(self.size_max as usize).min(1 << 30);
                segments[count] = Segment { address: at, len: piece as u32, device_writes };
                count += 1;
                at += piece as u64;
                left -= piece;
            }
            left == 0
        };
        let mut discard = Discard::default();
        let (kind, sector, fits) = match &request.op {
            Op::Read { offset, buf } => (T_IN, offset / SECTOR, data(buf.as_ptr(), buf.len(), true)),
            Op::Write { offset, data: bytes } => {
                (T_OUT, offset / SECTOR, data(bytes.as_ptr(), bytes.len(), false))
            }
            Op::Flush => (T_FLUSH, 0, true),
            Op::Discard { offset, len } => {
                // A hint: what the device does not take at once keeps its data.
                let sectors = (len / SECTOR).min(u64::from(self.max_discard_sectors.max(1)));
                discard = Discard { sector: offset / SECTOR, sectors: sectors as u32, flags: 0 };
                segments[1] = Segment { address: address + 16, len: 16, device_writes: false };
                count = 2;
                (T_DISCARD, 0, true)
            }
        };
        if !fits {
            state.free_slots.push(slot);
            state.settled.push((request, Err(BlockError::Unsupported)));
            return Ok(());
        }
        segments[count] = Segment { address: address + 32, len: 1, device_writes: true };
        count += 1;
        // SAFETY: the slot is free, so the device does not use it; its table is part of it.
        let head = unsafe {
            (&raw mut (*memory).kind).write_volatile(kind);
            (&raw mut (*memory).reserved).write_volatile(0);
            (&raw mut (*memory).sector).write_volatile(sector);
            (&raw mut (*memory).discard).write_volatile(discard);
            (&raw mut (*memory).status).write_volatile(S_NONE);
            if self.indirect {
                let table = (&raw mut (*memory).table).cast();
                state.queue.push_indirect(&segments[..count], table, address + 64)
            } else {
                state.queue.push(&segments[..count])
            }
        };
        let Some(head) = head else {
            state.free_slots.push(slot);
            return Err(request);
        };
        state.slot_of[usize::from(head)] = slot;
        state.flying[usize::from(slot)] = Some(request);
        state.in_flight += 1;
        self.deepest.fetch_max(state.in_flight as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Moves waiting requests into the ring; whether the device must be told.
    fn refill(&self, state: &mut State) -> bool {
        let mut placed = false;
        while let Some(request) = state.waiting.pop_front() {
            if let Err(request) = self.place(state, request) {
                state.waiting.push_front(request);
                break;
            }
            placed = true;
        }
        placed && state.queue.wants_notify()
    }

    /// Takes what the device has finished, with the outcomes.
    fn collect(&self, state: &mut State, into: &mut Vec<(Request, Result<(), BlockError>)>) {
        into.append(&mut state.settled);
        while let Some((head, _)) = state.queue.pop() {
            let slot = state.slot_of[usize::from(head)];
            let Some(request) = state.flying[usize::from(slot)].take() else { continue };
            // SAFETY: the device has given the slot back.
            let status = unsafe { (&raw const (*self.slot(slot).0).status).read_volatile() };
            state.free_slots.push(slot);
            state.in_flight -= 1;
            let outcome = match status {
                S_OK => Ok(()),
                S_UNSUPPORTED => Err(BlockError::Unsupported),
                _ => Err(BlockError::Io),
            };
            into.push((request, outcome));
        }
    }

    /// The driver thread.
    fn drive(&self) {
        let mut finished = Vec::new();
        let mut slept_long = false;
        loop {
            let (notify, busy) = {
                let mut state = self.state.lock();
                state.queue.set_interrupts(false);
                self.collect(&mut state, &mut finished);
                let notify = self.refill(&mut state);
                if finished.is_empty() {
                    state.queue.set_interrupts(true);
                    // The device may have finished something before it saw the flag.
                    self.collect(&mut state, &mut finished);
                }
                (notify, state.in_flight > 0)
            };
            if notify {
                self.transport.notify(0);
            }
            if !finished.is_empty() {
                if slept_long {
                    self.unheard.fetch_add(1, Ordering::Relaxed);
                }
                for (request, outcome) in finished.drain(..) {
                    self.completed.fetch_add(1, Ordering::Relaxed);
                    complete(request, outcome);
                }
            } else if !busy {
                sched::park_timeout(IDLE_NS);
            } else if self.polled.load(Ordering::Relaxed) {
                sched::park_timeout(POLL_NS);
            } else {
                let start = time::monotonic_ns();
                sched::park_timeout(WATCHDOG_NS);
                slept_long = time::monotonic_ns() - start >= WATCHDOG_NS;
                continue;
            }
            slept_long = false;
        }
    }

    /// Completes a request without the device, but by the driver thread like any other.
    fn settle(&self, request: Request, outcome: Result<(), BlockError>) {
        self.state.lock().settled.push((request, outcome));
        if let Some(driver) = self.driver.get() {
            driver.unpark();
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
        let notify = {
            let mut state = self.state.lock();
            // In order: not past those that wait already.
            if state.waiting.is_empty() {
                match self.place(&mut state, request) {
                    Ok(()) => state.queue.wants_notify(),
                    Err(request) => {
                        state.waiting.push_back(request);
                        false
                    }
                }
            } else {
                state.waiting.push_back(request);
                false
            }
        };
        if notify {
            self.transport.notify(0);
        }
        if self.polled.load(Ordering::Relaxed)
            && let Some(driver) = self.driver.get()
        {
            driver.unpark();
        }
    }
}

fn complete(request: Request, outcome: Result<(), BlockError>) {
    let buffer = match request.op {
        Op::Read { buf, .. } => buf,
        _ => Vec::new(),
    };
    let outcome: Outcome = outcome.map(|()| buffer);
    (request.done)(outcome);
}

fn previous_power_of_two(n: u16) -> u16 {
    1 << n.max(1).ilog2()
}

/// Reads the geometry from `struct virtio_blk_config`.
fn read_info(transport: &dyn Transport, features: u64, depth: u16) -> BlockInfo {
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
        queue_depth: u32::from(depth),
    }
}
