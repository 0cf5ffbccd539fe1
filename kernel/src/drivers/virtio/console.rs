//! virtio-console: the first port of a device as the machine's console (virtio 1.2, 5.3). The queues are the crate `virtio-drivers`'s.
//!
//! # Buffers
//! One of each direction. That for output is filled and given to the device with the lock held, until the device has taken it. That
//! for input stays with the device but for the moment in which its thread looks at it.

use super::crate_driver::{Adapter, Machine};
use super::{Interrupts, Transport, negotiate, start};
use crate::console::{self, Output};
use crate::log;
use crate::sched::{self, Bell};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Mutex;
use virtio_drivers::queue::VirtQueue;

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Descriptors of each queue.
const QUEUE: usize = 2;
/// Bytes of a buffer: as many are written at once.
const BUFFER: usize = 4096;
/// `VIRTIO_CONSOLE_F_EMERG_WRITE`, and where its field lies (`virtio_console_config::emerg_wr`).
const EMERGENCY_WRITE: u64 = 1 << 2;
const EMERGENCY_FIELD: u64 = 8;
/// So often is looked whether the device has taken what it was given, before the writer sleeps.
const LOOKS: u32 = 1000;
/// Nanoseconds between two looks afterwards; between looks for input, where no interrupt tells of it.
const SLEEP_NS: u64 = 200_000;
const POLL_NS: u64 = 10_000_000;

type Queue = VirtQueue<Machine, QUEUE>;

/// A queue with the only buffer that is given to it.
struct Lane {
    queue: Queue,
    buffer: Box<[u8; BUFFER]>,
}

// SAFETY: the queue's memory belongs to this object alone.
unsafe impl Send for Lane {}

impl Lane {
    fn new(adapter: &mut Adapter, index: u16) -> Option<Self> {
        let queue = Queue::new(adapter, index, false, false).ok()?;
        Some(Lane { queue, buffer: Box::new([0; BUFFER]) })
    }
}

/// The port.
pub(super) struct Port {
    transport: Arc<dyn Transport>,
    output: Mutex<Lane>,
    /// The device takes bytes by its configuration, too.
    emergency: bool,
}

impl Port {
    /// Starts the device; `None` if it cannot be used.
    pub(super) fn open(transport: Arc<dyn Transport>) -> Option<Arc<Port>> {
        let features = negotiate(&*transport, EMERGENCY_WRITE)?;
        let bell = Arc::new(Bell::default());
        let polled = Arc::new(AtomicBool::new(false));
        let connect = {
            let (transport, bell, polled) = (Arc::clone(&transport), Arc::clone(&bell), Arc::clone(&polled));
            move |queue: u16| {
                if queue != RECEIVE {
                    return;
                }
                let arrival = Arc::clone(&bell);
                let interrupts = transport.connect(queue, Arc::new(move || arrival.ring()));
                polled.store(interrupts == Interrupts::None, Ordering::Relaxed);
            }
        };
        let mut adapter = Adapter::new(Arc::clone(&transport), Box::new(connect));
        let input = Lane::new(&mut adapter, RECEIVE)?;
        let mut output = Lane::new(&mut adapter, TRANSMIT)?;
        output.queue.set_dev_notify(false);
        start(&*transport);
        log!(Info, "console at {}", transport.name());
        let emergency = features & EMERGENCY_WRITE != 0;
        let port =
            Arc::new(Port { transport: Arc::clone(&transport), output: Mutex::new(output), emergency });
        let polled = polled.load(Ordering::Relaxed);
        let take = move || {
            bell.answer();
            read(&*transport, input, &bell, polled);
        };
        drop(sched::spawn_urgent("console", Box::new(take)));
        Some(port)
    }
}

/// Takes what is typed.
fn read(transport: &dyn Transport, mut lane: Lane, bell: &Bell, polled: bool) {
    loop {
        // SAFETY: the buffer is kept untouched until the device gives the token back.
        let Ok(token) = (unsafe { lane.queue.add(&[], &mut [&mut lane.buffer[..]]) }) else { return };
        if lane.queue.should_notify() {
            transport.notify(RECEIVE);
        }
        while !lane.queue.can_pop() {
            bell.wait(if polled { POLL_NS } else { u64::MAX });
        }
        // SAFETY: it is the buffer that was given with this token.
        let Ok(len) = (unsafe { lane.queue.pop_used(token, &[], &mut [&mut lane.buffer[..]]) }) else {
            return;
        };
        console::arrived(&lane.buffer[..BUFFER.min(len as usize)]);
    }
}

impl Output for Port {
    fn write(&self, bytes: &[u8]) {
        let mut lane = self.output.lock();
        let Lane { queue, buffer } = &mut *lane;
        for chunk in bytes.chunks(BUFFER) {
            let buffer = &mut buffer[..chunk.len()];
            buffer.copy_from_slice(chunk);
            // SAFETY: the buffer is kept untouched until the device gives the token back.
            let Ok(token) = (unsafe { queue.add(&[buffer], &mut []) }) else { return };
            if queue.should_notify() {
                self.transport.notify(TRANSMIT);
            }
            let mut looks = 0;
            while !queue.can_pop() {
                looks += 1;
                if looks < LOOKS {
                    core::hint::spin_loop();
                } else {
                    sched::sleep(SLEEP_NS);
                }
            }
            // SAFETY: it is the buffer that was given with this token.
            if unsafe { queue.pop_used(token, &[buffer], &mut []) }.is_err() {
                return;
            }
        }
    }

    fn write_at_once(&self, bytes: &[u8]) {
        if self.emergency {
            bytes.iter().for_each(|&b| self.transport.set_config_u32(EMERGENCY_FIELD, u32::from(b)));
        }
    }
}
