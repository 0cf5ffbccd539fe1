//! Two machines joined by a link in memory. Time stands still unless a test moves it.

mod datagrams;
mod hostile;
mod outgoing;
mod segments;
mod streams;

use crate::checksum;
use crate::device::{Checksums, Device, Fill, Frame};
use crate::interface::Addresses;
use crate::{Config, Hook, Result, Stack, TcpSocket};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::num::{NonZeroU16, NonZeroUsize};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use platform::Env;
use platform::clock::{Clock, Timespec};
use platform::random::{Random, Seeded};
use platform::sync::Mutex;

pub(super) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timespec {
        Timespec::default()
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

type Queue = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// One end of the link.
pub(super) struct End {
    mac: [u8; 6],
    pub(super) inbox: Queue,
    outbox: Queue,
    /// Frames lost in a thousand.
    loss: AtomicU64,
    random: Seeded,
    /// Frames that the stack has given.
    pub(super) sent: AtomicUsize,
    /// It completes checksums and cuts frames up to that size into segments.
    cuts: Option<NonZeroUsize>,
}

impl Device for End {
    fn mac(&self) -> Option<[u8; 6]> {
        Some(self.mac)
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn can_send(&self) -> bool {
        self.outbox.lock().len() < 4096
    }
    fn send(&self, len: usize, segment: Option<NonZeroU16>, fill: &mut Fill<'_>) {
        let mut frame = alloc::vec![0; len];
        let partial = fill(&mut frame);
        self.sent.fetch_add(1, Ordering::Relaxed);
        let frames = match segment {
            Some(segment) => segments::cut(&frame, segment.get().into()),
            None => {
                assert!(len <= 1514, "a frame of {len} bytes");
                if let Some(partial) = partial {
                    checksum::complete(&mut frame, partial);
                }
                alloc::vec![frame]
            }
        };
        for frame in frames {
            if self.random.next_u64() % 1000 >= self.loss.load(Ordering::Relaxed) {
                self.outbox.lock().push_back(frame);
            }
        }
    }
    fn checksums(&self) -> Checksums {
        if self.cuts.is_some() { Checksums::Completed } else { Checksums::Software }
    }
    fn segmentation(&self) -> Option<NonZeroUsize> {
        self.cuts
    }
    fn receive(&self, take: &mut dyn FnMut(Frame<'_>)) -> bool {
        let frame = self.inbox.lock().pop_front();
        frame.is_some_and(|frame| {
            take(Frame { bytes: &frame, vouched: false });
            true
        })
    }
}

/// Two machines: 10.0.0.1 and 10.0.0.2, fd00::1 and fd00::2.
pub(super) struct Pair {
    clock: Arc<TestClock>,
    pub(super) ends: [Arc<End>; 2],
    pub(super) stacks: [Stack; 2],
}

pub(super) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Listens on the machine of `stack`.
pub(super) fn listen(stack: &Stack, at: &str, backlog: usize) -> TcpSocket {
    let socket = stack.tcp(quiet());
    socket.bind(address(at)).unwrap();
    socket.listen(backlog).unwrap();
    socket
}

/// What there is to read.
pub(super) fn read(socket: &TcpSocket) -> Result<Vec<u8>> {
    let mut out = alloc::vec![0; 100_000];
    let n = socket.receive(&mut out, false)?;
    out.truncate(n);
    Ok(out)
}

/// Sends `data` from one end to the other, however long that takes; what arrived.
pub(super) fn transfer(pair: &Pair, client: &TcpSocket, server: &TcpSocket, data: &[u8]) -> Vec<u8> {
    let (mut sent, mut got) = (0, Vec::new());
    for _ in 0..100_000 {
        if sent < data.len()
            && let Ok(n) = client.send(&data[sent..], None)
        {
            sent += n;
        }
        if let Ok(piece) = read(server) {
            got.extend(piece);
        }
        if got.len() == data.len() {
            break;
        }
        pair.pass(10);
    }
    got
}

pub(super) fn quiet() -> Hook {
    Arc::new(|| ())
}

/// A hook, and how often it was called.
pub(super) fn counted() -> (Hook, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&count);
    let hook = move || {
        shared.fetch_add(1, Ordering::SeqCst);
    };
    (Arc::new(hook), count)
}

pub(super) fn seed() -> u64 {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    seed
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(Config::default(), 1)
    }

    pub(super) fn with(config: Config, seed: u64) -> Self {
        Self::over(config, seed, None)
    }

    /// `cuts`: the devices cut frames up to that size into segments.
    pub(super) fn over(config: Config, seed: u64, cuts: Option<NonZeroUsize>) -> Self {
        let clock = Arc::new(TestClock(AtomicU64::new(1_000_000_000)));
        let queues: [Queue; 2] = Default::default();
        let ends = [0, 1].map(|i| {
            Arc::new(End {
                mac: [2, 0, 0, 0, 0, i as u8 + 1],
                inbox: Arc::clone(&queues[i]),
                outbox: Arc::clone(&queues[1 - i]),
                loss: AtomicU64::new(0),
                random: Seeded::new(seed + i as u64),
                sent: AtomicUsize::new(0),
                cuts,
            })
        });
        let stacks = [0, 1].map(|i: usize| {
            let env = Env {
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                random: Arc::new(Seeded::new(seed + 7 + i as u64)),
            };
            let addresses = Addresses::Static {
                addresses: alloc::vec![
                    (alloc::format!("10.0.0.{}", i + 1).parse().unwrap(), 24),
                    (alloc::format!("fd00::{}", i + 1).parse().unwrap(), 64),
                ],
                gateways: Vec::new(),
                dns: Vec::new(),
            };
            Stack::new(env, config, alloc::vec![(Arc::clone(&ends[i]) as Arc<dyn Device>, addresses)])
        });
        Pair { clock, ends, stacks }
    }

    pub(super) fn lose(&self, per_thousand: u64) {
        self.ends.iter().for_each(|end| end.loss.store(per_thousand, Ordering::Relaxed));
    }

    /// Lets both work until nothing is on its way.
    pub(super) fn run(&self) {
        for _ in 0..10_000 {
            for stack in &self.stacks {
                stack.interfaces().iter().for_each(|i| {
                    i.work();
                });
            }
            if self.ends.iter().all(|end| end.inbox.lock().is_empty()) {
                return;
            }
        }
        panic!("the machines do not come to rest");
    }

    pub(super) fn pass(&self, milliseconds: u64) {
        self.clock.0.fetch_add(milliseconds * 1_000_000, Ordering::SeqCst);
        self.run();
    }
}
