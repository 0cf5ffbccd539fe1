//! Devices that keep to no rules: for the in-kernel tests.
//!
//! A [`Liar`] takes the chains that a driver gives it, and writes where a device may write, the used rings and the buffers: chains that it
//! has or has not, at any length, in any order, twice, with any bytes in the buffers. What must come of it: no panic, no frame outside of
//! its buffer, every request completed once.

use super::{Interrupts, NETWORK, QueueMemory, Transport, blk, feature, net};
use crate::mm::phys;
use crate::{println, sched};
use ::net::device::{Device, Partial};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use platform::block::{BlockDevice, Op, Request};
use platform::random::{Random, Seeded};
use platform::sync::Mutex;
use spin::Once;

const QUEUES: usize = 4;
/// All that the driver of network devices asks for: checksums (0, 1), MTU (3), address (5), segmentation (7, 8, 11), merging (15), link (16).
const NETWORK_FEATURES: u64 = 0x1_89ab;
/// Flags of descriptors.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// The device's side of a queue.
struct Side {
    memory: QueueMemory,
    /// Chains that it has taken from the ring of available ones, and given back.
    taken: u16,
    used: u16,
    /// Heads of chains that it has.
    mine: Vec<u16>,
}

struct Liar {
    kind: u32,
    features: u64,
    size: u16,
    /// Bytes of its configuration that are as they should be; the others are random.
    config: &'static [(u64, u8)],
    status: AtomicU8,
    agreed: AtomicU64,
    random: Seeded,
    sides: [Mutex<Option<Side>>; QUEUES],
    heard: [Once<Arc<dyn Fn() + Send + Sync>>; QUEUES],
}

fn read<T>(address: u64) -> T {
    // SAFETY: the driver's queue and buffers, which it never frees.
    unsafe { phys::to_virt(address).cast::<T>().read_volatile() }
}

fn write<T>(address: u64, value: T) {
    // SAFETY: as above; a part that belongs to the device.
    unsafe { phys::to_virt(address).cast::<T>().write_volatile(value) }
}

impl Liar {
    fn new(kind: u32, features: u64, size: u16, config: &'static [(u64, u8)], seed: u64) -> Arc<Self> {
        Arc::new(Liar {
            kind,
            features: features | feature::VERSION_1,
            size,
            config,
            status: AtomicU8::new(0),
            agreed: AtomicU64::new(0),
            random: Seeded::new(seed),
            sides: [const { Mutex::new(None) }; QUEUES],
            heard: [const { Once::new() }; QUEUES],
        })
    }

    fn below(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    /// Runs `step` on the device's side of a queue, after it has taken what is available there. Then says that there is something.
    fn on(&self, index: usize, step: impl FnOnce(&mut Side)) {
        let mut side = self.sides[index].lock();
        let Some(side) = side.as_mut() else { return };
        let memory = side.memory;
        while side.taken != read::<u16>(memory.available + 2) {
            let slot = u64::from(side.taken % memory.size);
            side.mine.push(read(memory.available + 4 + 2 * slot));
            side.taken = side.taken.wrapping_add(1);
        }
        step(side);
        if let Some(heard) = self.heard[index].get() {
            heard();
        }
    }

    /// Writes anything into the buffers of a chain, with small numbers preferred.
    fn scribble(&self, memory: &QueueMemory, head: u16) {
        let (mut table, mut index) = (memory.descriptors, u64::from(head));
        for _ in 0..64 {
            let at = table + 16 * index;
            let (address, len, flags): (u64, u32, u16) = (read(at), read(at + 8), read(at + 12));
            if flags & INDIRECT != 0 {
                (table, index) = (address, 0);
                continue;
            }
            if flags & WRITE != 0 {
                for i in 0..u64::from(len.min(64)) {
                    let byte = if self.below(2) == 0 { self.below(4) } else { self.below(256) };
                    write(address + i, byte as u8);
                }
            }
            if flags & NEXT == 0 {
                return;
            }
            index = read::<u16>(at + 14).into();
        }
    }

    fn give_back(&self, side: &mut Side, head: u32, len: u32) {
        let entry = side.memory.used + 4 + 8 * u64::from(side.used % side.memory.size);
        write(entry, head);
        write(entry + 4, len);
        side.used = side.used.wrapping_add(1);
        write(side.memory.used + 2, side.used);
    }

    /// Does something. `jumps`: its index of used chains may be anything, after which the driver may hear no more of it.
    fn act(&self, index: usize, jumps: bool) {
        self.on(index, |side| match self.below(10) {
            0 => self.give_back(side, self.random.next_u64() as u32, self.random.next_u64() as u32),
            1 => self.give_back(side, self.below(u64::from(side.memory.size)) as u32, 1 << 31),
            2 if jumps && self.below(200) == 0 => {
                side.used = self.random.next_u64() as u16;
                write(side.memory.used + 2, side.used);
            }
            // The flags, and the index by which it says when it wants to be told.
            3 => write(side.memory.used, self.below(2) as u16),
            4 => write(side.memory.used + 4 + 8 * u64::from(side.memory.size), self.random.next_u64() as u16),
            _ if side.mine.is_empty() => {}
            choice => {
                let at = self.below(side.mine.len() as u64) as usize;
                // Now and then it forgets that it has given something back.
                let head = if choice == 5 { side.mine[at] } else { side.mine.swap_remove(at) };
                self.scribble(&side.memory, head);
                self.give_back(side, head.into(), self.below(3000) as u32);
            }
        });
    }

    /// Gives back all chains that there can be, each with these bytes in its buffers.
    fn give_all_back(&self, index: usize) {
        self.on(index, |side| {
            side.mine.clear();
            for head in 0..side.memory.size {
                self.scribble(&side.memory, head);
                self.give_back(side, head.into(), 1);
            }
        });
    }
}

impl Transport for Liar {
    fn device_id(&self) -> u32 {
        self.kind
    }
    fn name(&self) -> String {
        "a liar".into()
    }
    fn device_features(&self) -> u64 {
        self.features
    }
    fn set_driver_features(&self, features: u64) {
        self.agreed.store(features, Ordering::Relaxed);
    }
    fn status(&self) -> u8 {
        self.status.load(Ordering::Relaxed)
    }
    fn set_status(&self, status: u8) {
        self.status.store(status, Ordering::Relaxed);
    }
    fn queue_size(&self, index: u16) -> u16 {
        if usize::from(index) < QUEUES { self.size } else { 0 }
    }
    fn enable_queue(&self, index: u16, queue: &QueueMemory) {
        let side = Side { memory: *queue, taken: 0, used: 0, mine: Vec::new() };
        *self.sides[usize::from(index)].lock() = Some(side);
    }
    fn notify(&self, _index: u16) {}
    fn config_u8(&self, offset: u64) -> u8 {
        let fixed = self.config.iter().find(|(at, _)| *at == offset);
        fixed.map_or_else(|| self.random.next_u64() as u8, |(_, byte)| *byte)
    }
    fn set_config_u32(&self, _offset: u64, _value: u32) {}
    fn connect(&self, index: u16, handler: Arc<dyn Fn() + Send + Sync>) -> Interrupts {
        self.heard[usize::from(index)].call_once(|| handler);
        Interrupts::Message
    }
}

/// Frames from and to network devices that lie, with all kinds of features.
pub fn network(seed: u64) {
    const STEPS: usize = 20_000;
    const LONGEST: usize = 14 + 65535;
    let mut frames = 0u64;
    for round in 0..16 {
        let random = Seeded::new(seed ^ round);
        let features = random.next_u64() & (NETWORK_FEATURES | feature::EVENT_IDX);
        let size = [8, 64, 256, 1000][round as usize % 4];
        // A link, and packets of 1500 bytes.
        let config = &[(6, 1), (7, 0), (10, 0xdc), (11, 5)];
        let liar = Liar::new(NETWORK, features, size, config, seed ^ round << 32);
        let Some(nic) = net::Nic::open(Arc::clone(&liar) as Arc<dyn Transport>) else {
            panic!("round {round}: features {features:#x}, queues of {size}: not opened");
        };
        for step in 0..STEPS {
            for _ in 0..random.next_u64() % 4 {
                liar.act((random.next_u64() % 2) as usize, step > STEPS / 2);
            }
            let received = nic.receive(&mut |frame| {
                assert!(frame.bytes.len() <= LONGEST, "a frame of {} bytes", frame.bytes.len());
                core::hint::black_box(frame.bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)));
                frames += 1;
            });
            if !received {
                nic.set_interrupts(step % 2 == 0);
            }
            if nic.can_send() {
                let most = nic.segmentation().map_or(1514, usize::from) as u64;
                let len = 54 + random.next_u64() % (most - 53);
                let segment = NonZeroU16::new(1460).filter(|_| len > 1514);
                nic.send(len as usize, segment, &mut |frame| {
                    assert_eq!(frame.len() as u64, len);
                    frame.fill(step as u8);
                    Some(Partial { start: 34, offset: 16 })
                });
                nic.flush();
            }
        }
    }
    println!("selftest: {frames} frames from liars");
    assert!(frames > 1000, "hardly a frame came through");
}

/// Requests to disks that lie: every one completes once.
pub fn disk(seed: u64) {
    const REQUESTS: usize = 3000;
    const BLOCK: usize = 4096;
    // 64 MiB.
    const CONFIG: &[(u64, u8)] = &[(0, 0), (1, 0), (2, 2), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)];
    for (round, features) in [0, feature::INDIRECT_DESC].into_iter().enumerate() {
        let liar = Liar::new(super::BLOCK, features, 64, CONFIG, seed ^ round as u64);
        let Some(disk) = blk::Disk::open(Arc::clone(&liar) as Arc<dyn Transport>) else {
            panic!("features {features:#x}: not opened");
        };
        assert_eq!(disk.info().size, 64 << 20);
        let done: Arc<[AtomicU64; 2]> = Arc::default();
        for i in 0..REQUESTS {
            let offset = (i % 1000 * BLOCK) as u64;
            let op = match i % 3 {
                0 => Op::Read { offset, buf: vec![0; BLOCK] },
                1 => Op::Write { offset, data: vec![1; BLOCK].into() },
                _ => Op::Flush,
            };
            let done = Arc::clone(&done);
            let count = move |outcome: Result<Vec<u8>, _>| {
                done[usize::from(outcome.is_ok())].fetch_add(1, Ordering::SeqCst);
            };
            disk.submit(Request { op, done: alloc::boxed::Box::new(count) });
            liar.act(0, false);
        }
        let finished = || done.iter().map(|n| n.load(Ordering::SeqCst)).sum::<u64>();
        for _ in 0..2000 {
            if finished() == REQUESTS as u64 {
                break;
            }
            liar.give_all_back(0);
            sched::sleep(1_000_000);
        }
        // Those that complete again would be seen now.
        liar.give_all_back(0);
        sched::sleep(20_000_000);
        let [failed, fine] = [0, 1].map(|i| done[i].load(Ordering::SeqCst));
        println!("selftest: of {REQUESTS} requests {fine} succeeded, {failed} failed");
        assert_eq!(fine + failed, REQUESTS as u64);
        assert!(fine > 0 && failed > 0, "a liar that is believed always or never");
    }
}
