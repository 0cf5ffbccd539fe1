//! What carries frames: the trait of drivers, the loopback interface's queue, and the adapter to smoltcp.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::num::{NonZeroU16, NonZeroUsize};
use platform::sync::Mutex;
use smoltcp::phy::{self, Checksum, ChecksumCapabilities, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

/// What is done about the checksums of TCP and UDP that a device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksums {
    /// Nothing: frames are not damaged on their way.
    Unneeded,
    /// They are made and looked at by software.
    Software,
    /// The device completes those of frames that are sent.
    Completed,
}

/// Where a device goes on with a checksum: it sums up the frame from `start`, what is at `offset` from there included, and puts the sum
/// there. In bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// The beginning of the segment or datagram.
    pub start: u16,
    /// The place of the sum in it.
    pub offset: u16,
}

/// A frame that has arrived.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// From the Ethernet header on, or from the IP header if the device has none.
    pub bytes: &'a [u8],
    /// The device says that the checksum of its segment or datagram is right, or that it cannot have been damaged.
    pub vouched: bool,
}

/// Writes a frame, and says where the device is to go on with its checksum.
pub type Fill<'a> = dyn FnMut(&mut [u8]) -> Option<Partial> + 'a;

/// A network device.
pub trait Device: Send + Sync {
    /// Its Ethernet address; `None` if it carries bare IP packets.
    fn mac(&self) -> Option<[u8; 6]>;
    /// Largest IP packet that it carries, in bytes (without the Ethernet header).
    fn mtu(&self) -> usize;
    /// Whether it takes a frame now.
    fn can_send(&self) -> bool;
    /// Sends a frame of `len` bytes that `fill` writes. It must not wait. Does not call `fill` if there is no room. The frame may stay
    /// here until [`Device::flush`] is called. `segment`: it is to be cut into segments that carry so many bytes each.
    fn send(&self, len: usize, segment: Option<NonZeroU16>, fill: &mut Fill<'_>);
    /// Lets go what was sent since the last time.
    fn flush(&self) {}
    /// Gives the next frame that has arrived to `take`; `false` if there is none.
    fn receive(&self, take: &mut dyn FnMut(Frame<'_>)) -> bool;
    /// What is done about checksums. Always the same.
    fn checksums(&self) -> Checksums {
        Checksums::Software
    }
    /// Bytes of the longest frame of TCP over IPv4, with its Ethernet header, that it cuts into segments itself; it completes their
    /// checksums, too. `None`: it cuts none. Always the same. (Over IPv6 smoltcp loses what is longer than a packet may be.)
    fn segmentation(&self) -> Option<NonZeroUsize> {
        None
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

    fn send(&self, len: usize, _segment: Option<NonZeroU16>, fill: &mut Fill<'_>) {
        let mut frame = alloc::vec![0; len];
        fill(&mut frame);
        self.queue.lock().push_back(frame);
    }

    fn receive(&self, take: &mut dyn FnMut(Frame<'_>)) -> bool {
        let frame = self.queue.lock().pop_front();
        frame.is_some_and(|frame| {
            take(Frame { bytes: &frame, vouched: true });
            true
        })
    }

    fn checksums(&self) -> Checksums {
        Checksums::Unneeded
    }
}

/// A device as smoltcp sees it: at most the one frame that is being received.
pub(crate) struct Port<'a> {
    pub(crate) device: &'a dyn Device,
    pub(crate) frame: Option<&'a [u8]>,
}

pub(crate) struct Received<'a>(&'a [u8]);

pub(crate) struct Sender<'a> {
    device: &'a dyn Device,
    segment: Option<NonZeroU16>,
}

impl phy::RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut f = Some(f);
        let mut result = None;
        self.device.send(len, self.segment, &mut |frame| {
            result = f.take().map(|f| f(frame));
            None
        });
        match (result, f) {
            (Some(result), _) => result,
            // The device had no room after all: the frame is lost, as it could be on the wire.
            (None, Some(f)) => f(&mut alloc::vec![0; len]),
            (None, None) => unreachable!("a closure that ran has left its result"),
        }
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
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
        Some((Received(self.frame.take()?), Sender { device: self.device, segment: None }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sender<'_>> {
        self.device.can_send().then_some(Sender { device: self.device, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        let ethernet = self.device.mac().is_some();
        capabilities.medium = if ethernet { Medium::Ethernet } else { Medium::Ip };
        capabilities.max_transmission_unit = self.device.mtu() + if ethernet { 14 } else { 0 };
        capabilities.segmentation.tcpv4 = self.device.segmentation();
        // Those of what arrives are looked at by `checksum`, if at all.
        let ours = match self.device.checksums() {
            Checksums::Unneeded => {
                capabilities.checksum = ChecksumCapabilities::ignored();
                return capabilities;
            }
            Checksums::Software => Checksum::Tx,
            Checksums::Completed => Checksum::None,
        };
        (capabilities.checksum.tcp, capabilities.checksum.udp) = (ours, ours);
        capabilities
    }
}
