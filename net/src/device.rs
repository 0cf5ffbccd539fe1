//! What carries frames: the trait of drivers, the loopback interface's queue, and the adapter to smoltcp.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use platform::sync::Mutex;
use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

/// A network device.
pub trait Device: Send + Sync {
    /// Its Ethernet address; `None` if it carries bare IP packets.
    fn mac(&self) -> Option<[u8; 6]>;
    /// Largest IP packet that it carries, in bytes (without the Ethernet header).
    fn mtu(&self) -> usize;
    /// Whether it takes a frame now.
    fn can_send(&self) -> bool;
    /// Sends a frame of `len` bytes that `fill` writes. It must not wait. Does not call `fill` if there is no room.
    fn send(&self, len: usize, fill: &mut dyn FnMut(&mut [u8]));
    /// Gives the next frame that has arrived to `take`; `false` if there is none.
    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool;
    /// Whether frames can be damaged on their way, so that checksums are made and looked at.
    fn needs_checksums(&self) -> bool {
        true
    }
}

/// Most frames that wait in the loopback interface; more are lost, as on any network.
const LOOPBACK_FRAMES: usize = 1024;

/// The loopback device: what is sent arrives.
#[derive(Default)]
pub struct Loopback {
    queue: Mutex<VecDeque<Vec<u8>>>,
}

impl Device for Loopback {
    fn mac(&self) -> Option<[u8; 6]> {
        None
    }

    fn mtu(&self) -> usize {
        65535
    }

    fn can_send(&self) -> bool {
        self.queue.lock().len() < LOOPBACK_FRAMES
    }

    fn send(&self, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let mut frame = alloc::vec![0; len];
        fill(&mut frame);
        self.queue.lock().push_back(frame);
    }

    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        let frame = self.queue.lock().pop_front();
        frame.is_some_and(|frame| {
            take(&frame);
            true
        })
    }

    fn needs_checksums(&self) -> bool {
        false
    }
}

/// A device as smoltcp sees it: at most the one frame that is being received.
pub(crate) struct Port<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) frame: Option<&'a [u8]>,
}

pub(crate) struct Received<'a>(&'a [u8]);

pub(crate) struct Sender<'a>(&'a dyn Device);

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut f = Some(f);
        let mut result = None;
        self.0.send(len, &mut |frame| result = f.take().map(|f| f(frame)));
        match (result, f) {
            (Some(result), _) => result,
            // The device had no room after all: the frame is lost, as it could be on the wire.
            (None, Some(f)) => f(&mut alloc::vec![0; len]),
            (None, None) => unreachable!("a closure that ran has left its result"),
        }
    }
}

impl phy::Device for Port<'_> {
    type RxToken<'a>
        = Received<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Sender<'a>
    where
        Self: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Sender<'_>)> {
        Some((Received(self.frame.take()?), Sender(self.device)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        self.device.can_send().then_some(Sender(self.device))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        let ethernet = self.device.mac().is_some();
        capabilities.medium = if ethernet { Medium::Ethernet } else { Medium::Ip };
        capabilities.max_transmission_unit = self.device.mtu() + if ethernet { 14 } else { 0 };
        if !self.device.needs_checksums() {
            capabilities.checksum = ChecksumCapabilities::ignored();
        }
        capabilities
    }
}
