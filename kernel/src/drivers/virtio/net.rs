//! virtio-net: the raw driver of the crate `virtio-drivers`, with buffers of our own around it.
//!
//! # Buffers
//! Frames are received into buffers that stay with the device; one is taken out while its frame is looked at, with nothing
//! locked, and goes back. What is sent goes into a buffer from a small stock and comes back when the device is done; nobody
//! waits for that, and no interrupt tells it: the next sender looks.
//!
//! # Interrupts
//! The interface's thread is woken by an interrupt, keeps the device silent while it works, and sleeps only when it has let
//! the device speak again and found nothing.

use super::crate_driver::{Adapter, Machine};
use super::{Interrupts, Transport};
use crate::log;
use crate::sched::Thread;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use platform::sync::Mutex;
use spin::Once;
use virtio_drivers::device::net::VirtIONetRaw;

/// Descriptors of each queue.
const QUEUE: usize = 128;
/// Buffers that wait for frames.
const RECEIVE_BUFFERS: usize = 112;
/// Bytes of a buffer: header and the longest frame, in whole cache lines.
const BUFFER: usize = 1536;
/// The IP packet in the longest frame.
const MTU: usize = 1500;

type Buffer = Box<[u8]>;

type Raw = VirtIONetRaw<Machine, Adapter, QUEUE>;

struct State {
    raw: Box<Raw>,
    /// By token: the buffer that the device writes.
    receiving: Vec<Option<Buffer>>,
    /// By token: the buffer that the device reads.
    sending: Vec<Option<(Buffer, usize)>>,
    stock: Vec<Buffer>,
    in_flight: usize,
}

// SAFETY: the queues' memory belongs to this object alone, and is reached with the lock held that it lies in.
unsafe impl Send for State {}

/// A network device.
pub struct Nic {
    mac: [u8; 6],
    state: Mutex<State>,
    thread: Arc<Once<Arc<Thread>>>,
    polled: Arc<AtomicBool>,
}

/// The crate's driver, which has its queues' bookkeeping inside: tens of kilobytes, and more than once on the stack while it
/// is made. They are gone again when this returns.
#[inline(never)]
fn make(adapter: Adapter) -> Option<Box<Raw>> {
    Raw::new(adapter).ok().map(Box::new)
}

fn buffer() -> Buffer {
    alloc::vec![0; BUFFER].into_boxed_slice()
}

impl State {
    /// Gives a buffer to the device.
    fn offer(&mut self, mut buffer: Buffer) {
        // SAFETY: the buffer is kept untouched in `receiving` until the device gives its token back.
        if let Ok(token) = unsafe { self.raw.receive_begin(&mut buffer) }
            && let Some(place) = self.receiving.get_mut(usize::from(token))
        {
            *place = Some(buffer);
        }
    }

    /// The next received frame: its buffer, and where in it the frame lies.
    fn take(&mut self) -> Option<(Buffer, usize, usize)> {
        let token = self.raw.poll_receive()?;
        let mut buffer = self.receiving.get_mut(usize::from(token))?.take()?;
        // SAFETY: it is the buffer that was given with this token.
        let (start, len) = unsafe { self.raw.receive_complete(token, &mut buffer) }.unwrap_or_default();
        let end = (start + len).min(buffer.len());
        Some((buffer, start.min(end), end))
    }

    /// Takes back what the device has sent.
    fn reclaim(&mut self) {
        while let Some(token) = self.raw.poll_transmit() {
            let Some((buffer, len)) = self.sending.get_mut(usize::from(token)).and_then(Option::take) else {
                return;
            };
            // SAFETY: it is the slice that was given with this token.
            if unsafe { self.raw.transmit_complete(token, &buffer[..len]) }.is_err() {
                return;
            }
            self.in_flight -= 1;
            self.stock.push(buffer);
        }
    }

    fn has_room(&mut self) -> bool {
        if self.in_flight >= QUEUE - 2 {
            self.reclaim();
        }
        self.in_flight < QUEUE - 2
    }
}

impl Nic {
    /// Starts the device; `None` if it cannot be used.
    pub(super) fn open(transport: Arc<dyn Transport>) -> Option<Arc<Nic>> {
        let name = transport.name();
        let thread: Arc<Once<Arc<Thread>>> = Arc::new(Once::new());
        let polled = Arc::new(AtomicBool::new(false));
        let connect = {
            let (transport, thread, polled) =
                (Arc::clone(&transport), Arc::clone(&thread), Arc::clone(&polled));
            // Queue 0 receives. Nobody is told what has been sent.
            move |queue: u16| {
                if queue != 0 {
                    return;
                }
                let thread = Arc::clone(&thread);
                let wake = move || {
                    if let Some(thread) = thread.get() {
                        thread.unpark();
                    }
                };
                polled.store(transport.connect(0, Arc::new(wake)) == Interrupts::None, Ordering::Relaxed);
            }
        };
        if usize::from(transport.queue_size(0)) < QUEUE || usize::from(transport.queue_size(1)) < QUEUE {
            log!(Error, "virtio-net at {name}: its queues are too short");
            return None;
        }
        let raw = make(Adapter::new(transport, Box::new(connect)))?;
        let mac = raw.mac_address();
        let mut state = State {
            raw,
            receiving: (0..QUEUE).map(|_| None).collect(),
            sending: (0..QUEUE).map(|_| None).collect(),
            stock: Vec::new(),
            in_flight: 0,
        };
        for _ in 0..RECEIVE_BUFFERS {
            state.offer(buffer());
        }
        let [a, b, c, d, e, f] = mac;
        let note = if polled.load(Ordering::Relaxed) { ", polled" } else { "" };
        log!(Info, "network device at {name}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}{note}");
        Some(Arc::new(Nic { mac, state: Mutex::new(state), thread, polled }))
    }

    /// Sets the thread that an arriving frame wakes. Once.
    pub fn set_thread(&self, thread: &Arc<Thread>) {
        self.thread.call_once(|| Arc::clone(thread));
    }

    /// Whether no interrupt tells of frames.
    pub fn is_polled(&self) -> bool {
        self.polled.load(Ordering::Relaxed)
    }

    /// Keeps the device silent, or lets it speak; whether a frame is there.
    pub fn set_interrupts(&self, on: bool) -> bool {
        let mut state = self.state.lock();
        if on {
            state.raw.enable_interrupts();
            // The device must see the flag before we look for frames that it has not told of.
            core::sync::atomic::fence(Ordering::SeqCst);
        } else {
            state.raw.disable_interrupts();
        }
        state.raw.poll_receive().is_some()
    }
}

impl net::device::Device for Nic {
    fn mac(&self) -> Option<[u8; 6]> {
        Some(self.mac)
    }

    fn mtu(&self) -> usize {
        MTU
    }

    fn can_send(&self) -> bool {
        self.state.lock().has_room()
    }

    fn send(&self, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let mut state = self.state.lock();
        if !state.has_room() {
            return;
        }
        state.reclaim();
        let mut buffer = state.stock.pop().unwrap_or_else(buffer);
        let Ok(header) = state.raw.fill_buffer_header(&mut buffer) else { return };
        let Some(frame) = buffer.get_mut(header..header + len) else { return };
        fill(frame);
        let end = header + len;
        // SAFETY: the buffer is kept untouched in `sending` until the device gives its token back.
        match unsafe { state.raw.transmit_begin(&buffer[..end]) } {
            Ok(token) => {
                if let Some(place) = state.sending.get_mut(usize::from(token)) {
                    *place = Some((buffer, end));
                    state.in_flight += 1;
                }
            }
            Err(_) => state.stock.push(buffer),
        }
    }

    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        let Some((buffer, start, end)) = self.state.lock().take() else { return false };
        take(&buffer[start..end]);
        self.state.lock().offer(buffer);
        true
    }
}
