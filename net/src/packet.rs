//! What a frame is, by its headers: read once, for all who decide by them. Nothing here is trusted later: smoltcp checks every frame again.
//!
//! # Invariants
//! - Ranges lie within the frame that they were read from.

use core::net::IpAddr;
use core::ops::Range;
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6Packet};

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;

/// An IP packet in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) content: Content,
}

/// What a packet carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// This, in that part of the frame.
    Whole(IpProtocol, Range<usize>),
    /// A piece of an IPv4 packet.
    Fragment,
    /// What smoltcp refuses.
    Broken,
}

impl Packet {
    /// The packet in a frame, if it has one whose own header is right; `ethernet`: the frame has an Ethernet header.
    pub(crate) fn of(frame: &[u8], ethernet: bool) -> Option<Packet> {
        if !ethernet {
            return match frame.first()? >> 4 {
                4 => ipv4(frame, 0),
                6 => ipv6(frame, 0),
                _ => None,
            };
        }
        let header = EthernetFrame::new_checked(frame).ok()?;
        match header.ethertype() {
            EthernetProtocol::Ipv4 => ipv4(header.payload(), ETHERNET),
            EthernetProtocol::Ipv6 => ipv6(header.payload(), ETHERNET),
            _ => None,
        }
    }

    /// Whether it has an address that nobody on a network can have: it comes from this machine itself (`own`) or from a loopback
    /// address, or goes to one (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3). What answers those talks to itself.
    pub(crate) fn is_martian(&self, own: impl Fn(IpAddr) -> bool) -> bool {
        self.from.is_loopback() || self.to.is_loopback() || own(self.from)
    }
}

fn ipv4(bytes: &[u8], at: usize) -> Option<Packet> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let content = if packet.more_frags() || packet.frag_offset() != 0 {
        Content::Fragment
    } else {
        let start = at + usize::from(packet.header_len());
        Content::Whole(packet.next_header(), start..start + packet.payload().len())
    };
    Some(Packet { from: packet.src_addr().into(), to: packet.dst_addr().into(), content })
}

fn ipv6(bytes: &[u8], at: usize) -> Option<Packet> {
    let packet = Ipv6Packet::new_checked(bytes).ok()?;
    let mut start = at + packet.header_len();
    let end = start + packet.payload().len();
    let mut protocol = packet.next_header();
    let mut whole = true;
    // smoltcp passes over this header, and no other.
    if protocol == IpProtocol::HopByHop {
        match Ipv6ExtHeader::new_checked(packet.payload()) {
            Ok(options) => {
                protocol = options.next_header();
                start += 8 + 8 * usize::from(options.header_len());
                whole = start <= end;
            }
            Err(_) => whole = false,
        }
    }
    let content = if whole { Content::Whole(protocol, start..end) } else { Content::Broken };
    Some(Packet { from: packet.src_addr().into(), to: packet.dst_addr().into(), content })
}
