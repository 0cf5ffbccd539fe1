//! One queue of a disk: what is with the device, what waits for room, and the thread that takes completions.

use super::{
    Counters, Features, MAX_PIECES, S_NONE, S_OK, S_UNSUPPORTED, SECTOR, T_DISCARD, T_FLUSH, T_IN, T_OUT,
};
use crate::drivers::virtio::queue::{DESCRIPTOR_SIZE, Queue, Segment};
use crate::drivers::virtio::{Interrupts, Transport};
use crate::mm::{frame, phys};
use crate::sched::{self, Thread};
use crate::sync::IrqLock;
use crate::time;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::block::{BlockError, Op, Outcome, Request};
use spin::Once;

/// Requests in a ring at most.
const DEPTH: u16 = 128;
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

/// A queue and what belongs to it.
pub(super) struct Ring {
    transport: Arc<dyn Transport>,
    index: u16,
    features: Features,
    slots: u64,
    state: IrqLock<State>,
    driver: Once<Arc<Thread>>,
    polled: AtomicBool,
    counters: Arc<Counters>,
}

impl Ring {
    /// Queue `index` of the device; `None` if there is none, or no memory for it.
    pub(super) fn new(
        transport: &Arc<dyn Transport>,
        index: u16,
        features: Features,
        counters: &Arc<Counters>,
    ) -> Option<Arc<Ring>> {
        let size = transport.queue_size(index);
        if size == 0 {
            return None;
        }
        let queue = Queue::new(previous_power_of_two(size.min(256)), false)?;
        let depth =
            if features.indirect { queue.size().min(DEPTH) } else { (queue.size() / 3).clamp(1, DEPTH) };
        let slot_bytes = usize::from(depth) * size_of::<Slot>();
        let slots = frame::alloc_contiguous(slot_bytes.div_ceil(4096), 1)?;
        Some(Arc::new(Ring {
            transport: Arc::clone(transport),
            index,
            features,
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
            polled: AtomicBool::new(false),
            counters: Arc::clone(counters),
        }))
    }

    /// Requests that may be with the device at once.
    pub(super) fn depth(&self) -> usize {
        self.state.lock().flying.len()
    }

    /// Gives the queue to the device and starts the thread; how completions are heard of.
    pub(super) fn start(self: &Arc<Self>) -> Interrupts {
        let worker = Arc::clone(self);
        let driver = sched::spawn_urgent("virtio-blk", Box::new(move || worker.drive()));
        self.driver.call_once(|| Arc::clone(&driver));
        let interrupts = self.transport.connect(self.index, Arc::new(move || driver.unpark()));
        self.polled.store(interrupts == Interrupts::None, Ordering::Relaxed);
        self.transport.enable_queue(self.index, &self.state.lock().queue.memory());
        interrupts
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
                let piece = left.min(self.features.size_max as usize).min(1 << 30);
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
                let sectors = (len / SECTOR).min(u64::from(self.features.max_discard_sectors.max(1)));
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
            if self.features.indirect {
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
        let at_once = self.counters.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        self.counters.deepest.fetch_max(at_once, Ordering::Relaxed);
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
            self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
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
                self.transport.notify(self.index);
            }
            if !finished.is_empty() {
                if slept_long {
                    self.counters.unheard.fetch_add(1, Ordering::Relaxed);
                }
                for (request, outcome) in finished.drain(..) {
                    self.counters.completed.fetch_add(1, Ordering::Relaxed);
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
    pub(super) fn settle(&self, request: Request, outcome: Result<(), BlockError>) {
        self.state.lock().settled.push((request, outcome));
        if let Some(driver) = self.driver.get() {
            driver.unpark();
        }
    }

    /// Gives a request to the device, now or when there is room.
    pub(super) fn submit(&self, request: Request) {
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
            self.transport.notify(self.index);
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
