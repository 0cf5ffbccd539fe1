//! virtio-net: network devices.
//!
//! # Features
//! Checksums: the device completes those of what is sent, and says of what has arrived whether it was looked at or cannot have been
//! damaged. Mergeable buffers: a frame that is longer than a buffer is spread over several. Addresses, the longest packet and the state of
//! the link are read once. Segmentation: the device cuts long frames of TCP over IPv4 into segments, and hands over as one what it
//! received as several.
//!
//! # Notifications
//! The interface's thread is woken by an interrupt, keeps the device silent while it works, and sleeps only when it has let the device
//! speak again and found nothing; as it waits for locks between that look and its sleep, the interrupt rings a bell that it hears then.
//! No interrupt tells what has been sent: the next sender looks. The device is told of all frames of a batch at once, by
//! [`Device::flush`], with nothing locked.
//!
//! # Lock order
//! Receiving and sending have a lock each, and neither is taken with the other.

mod header;
mod receive;
mod ring;
mod send;

use super::{Interrupts, Transport, config, feature, negotiate, start};
use crate::arch::random;
use crate::log;
use crate::sched::Bell;
use alloc::sync::Arc;
use core::num::{NonZeroU16, NonZeroUsize};
use header::Layout;
use net::device::{Checksums, Device, Fill, Frame};
use platform::sync::Mutex;
use receive::Receiver;
use send::{LONG_FRAME, Sender};

const F_CSUM: u64 = 1 << 0;
const F_GUEST_CSUM: u64 = 1 << 1;
const F_MTU: u64 = 1 << 3;
const F_MAC: u64 = 1 << 5;
const F_GUEST_TSO4: u64 = 1 << 7;
const F_GUEST_TSO6: u64 = 1 << 8;
const F_HOST_TSO4: u64 = 1 << 11;
const F_MRG_RXBUF: u64 = 1 << 15;
const F_STATUS: u64 = 1 << 16;

/// Offsets in `struct virtio_net_config`.
const CONFIG_MAC: u64 = 0;
const CONFIG_STATUS: u64 = 6;
const CONFIG_MTU: u64 = 10;

/// In the status: there is a link.
const S_LINK_UP: u16 = 1;

const RECEIVE: u16 = 0;
const SEND: u16 = 1;
/// Descriptors of a queue at most, each with a buffer of its own.
const DEPTH: u16 = 128;

/// The longest packet of a device that does not say, and the bounds of what we take: the least that IPv4 needs (RFC 791), and what
/// smoltcp is made for.
const MTU: u16 = 1500;
const MTU_BOUNDS: (u16, u16) = (576, 9216);
/// Bytes of the longest packet of IP, which is what a device may join segments to that it received.
const LONGEST_PACKET: usize = 65535;
/// What a frame has beside the packet: an Ethernet header.
const ETHERNET: usize = 14;

/// A network device.
pub struct Nic {
    mac: [u8; 6],
    mtu: u16,
    checksums: Checksums,
    segments: bool,
    polled: bool,
    bell: Arc<Bell>,
    transport: Arc<dyn Transport>,
    receiver: Mutex<Receiver>,
    sender: Mutex<Sender>,
}

impl Nic {
    /// Starts the device; `None` if it cannot be used.
    pub(super) fn open(transport: Arc<dyn Transport>) -> Option<Arc<Nic>> {
        let wanted = F_CSUM | F_GUEST_CSUM | F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS;
        let offered = transport.device_features();
        let mut segmentation = 0;
        if offered & F_CSUM != 0 {
            segmentation |= F_HOST_TSO4;
        }
        // Without merging every buffer would have to hold the longest.
        if offered & F_GUEST_CSUM != 0 && offered & F_MRG_RXBUF != 0 {
            segmentation |= F_GUEST_TSO4 | F_GUEST_TSO6;
        }
        let agreed =
            negotiate(&*transport, wanted | segmentation | feature::ANY_LAYOUT | feature::EVENT_IDX)?;
        let has = |feature| agreed & feature != 0;
        if !has(feature::VERSION_1) && !has(feature::ANY_LAYOUT) {
            log!(Error, "virtio-net at {}: it wants headers in descriptors of their own", transport.name());
            return None;
        }
        let mac = if has(F_MAC) { config(&*transport, CONFIG_MAC) } else { own_address() };
        let mtu = if has(F_MTU) { u16::from_le_bytes(config(&*transport, CONFIG_MTU)) } else { MTU };
        if mtu < MTU_BOUNDS.0 {
            log!(Error, "virtio-net at {}: packets of {mtu} bytes are too short", transport.name());
            return None;
        }
        let mtu = mtu.min(MTU_BOUNDS.1);
        let down = has(F_STATUS) && u16::from_le_bytes(config(&*transport, CONFIG_STATUS)) & S_LINK_UP == 0;
        let layout = Layout { merged: has(F_MRG_RXBUF), long: has(F_MRG_RXBUF) || has(feature::VERSION_1) };
        let longest = usize::from(mtu) + ETHERNET;
        let event_idx = has(feature::EVENT_IDX);
        let size = |index| previous_power_of_two(transport.queue_size(index).min(DEPTH));
        let gathered = has(F_GUEST_TSO4) || has(F_GUEST_TSO6);
        let arriving = if gathered { ETHERNET + LONGEST_PACKET } else { longest };
        let receiver = Receiver::new(size(RECEIVE)?, event_idx, layout, arriving)?;
        let segments = has(F_HOST_TSO4);
        let sender = Sender::new(size(SEND)?, event_idx, layout, longest, segments)?;

        let bell = Arc::new(Bell::default());
        let arrival = Arc::clone(&bell);
        let interrupts = transport.connect(RECEIVE, Arc::new(move || arrival.ring()));
        transport.enable_queue(RECEIVE, &receiver.memory());
        transport.enable_queue(SEND, &sender.memory());
        start(&*transport);
        transport.notify(RECEIVE);

        let [a, b, c, d, e, f] = mac;
        log!(
            Info,
            "network device at {}: {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, packets of {mtu} bytes{}{}{}{}{}{}{}",
            transport.name(),
            if has(F_CSUM) { ", completes checksums" } else { "" },
            if has(F_GUEST_CSUM) { ", vouches for checksums" } else { "" },
            if layout.merged { ", merges buffers" } else { "" },
            if segments { ", segments" } else { "" },
            if gathered { ", joins segments" } else { "" },
            if down { ", no link" } else { "" },
            match interrupts {
                Interrupts::Message => "",
                Interrupts::Line => ", interrupts by a line",
                Interrupts::None => ", polled",
            },
        );
        Some(Arc::new(Nic {
            mac,
            mtu,
            checksums: if has(F_CSUM) { Checksums::Completed } else { Checksums::Software },
            segments,
            polled: interrupts == Interrupts::None,
            bell,
            transport,
            receiver: Mutex::new(receiver),
            sender: Mutex::new(sender),
        }))
    }

    /// The bell that an arriving frame rings.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Whether no interrupt tells of frames.
    pub fn is_polled(&self) -> bool {
        self.polled
    }

    /// Keeps the device silent, or lets it speak; whether a frame is there.
    pub fn set_interrupts(&self, on: bool) -> bool {
        self.receiver.lock().set_interrupts(on)
    }
}

/// An address of a device that has none: local, and of one machine.
fn own_address() -> [u8; 6] {
    let mut address = [0; 6];
    random::fill(&mut address);
    address[0] = address[0] & 0xfc | 2;
    address
}

/// `None` for 0.
fn previous_power_of_two(n: u16) -> Option<u16> {
    Some(1 << n.checked_ilog2()?)
}

impl Device for Nic {
    fn mac(&self) -> Option<[u8; 6]> {
        Some(self.mac)
    }

    fn mtu(&self) -> usize {
        self.mtu.into()
    }

    fn can_send(&self) -> bool {
        self.sender.lock().has_room()
    }

    fn send(&self, len: usize, segment: Option<NonZeroU16>, fill: &mut Fill<'_>) {
        let notify = self.sender.lock().send(len, segment, fill);
        if notify {
            self.transport.notify(SEND);
        }
    }

    fn flush(&self) {
        let notify = self.sender.lock().wants_notify();
        if notify {
            self.transport.notify(SEND);
        }
    }

    fn receive(&self, take: &mut dyn FnMut(Frame<'_>)) -> bool {
        let arrival = self.receiver.lock().take();
        let Some(arrival) = arrival else { return false };
        // With nothing locked: what is looked at may be answered.
        take(arrival.frame());
        let notify = self.receiver.lock().give_back(arrival);
        if notify {
            self.transport.notify(RECEIVE);
        }
        true
    }

    fn checksums(&self) -> Checksums {
        self.checksums
    }

    fn segmentation(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(LONG_FRAME).filter(|_| self.segments)
    }
}
