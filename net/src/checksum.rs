//! Checksums of TCP and UDP: looked at here for frames that no device has vouched for, and begun here for frames whose sums the device
//! completes (virtio 1.2, 5.1.6.2; RFC 9293, 3.1; RFC 768; RFC 8200, 8.1).
//!
//! smoltcp decides once and for all frames of a device whether it looks at these sums; a device tells for each frame whether it has. So
//! smoltcp looks at none, and this module at those that are left. IPv4's own sum and ICMP's stay with smoltcp.

use crate::device::Partial;
use crate::packet::{Content, Packet};
use core::net::IpAddr;
use smoltcp::wire::{IpProtocol, TcpPacket, UdpPacket};

/// Where the sum is in a segment, and in a datagram.
const TCP_SUM: usize = 16;
const UDP_SUM: usize = 6;

/// Whether a frame may be looked into: its sum is right, or it has none. Pieces of packets are put together nowhere, and smoltcp would
/// take each for a whole one. `vouched`: somebody has looked at the sum.
pub(crate) fn is_right(frame: &[u8], packet: &Packet, vouched: bool) -> bool {
    let (protocol, bytes) = match &packet.content {
        Content::Fragment => return false,
        Content::Broken => return true,
        Content::Whole(protocol, place) => (*protocol, frame.get(place.clone()).unwrap_or_default()),
    };
    let (from, to) = (packet.from.into(), packet.to.into());
    vouched
        || match protocol {
            IpProtocol::Tcp => TcpPacket::new_checked(bytes).is_ok_and(|s| s.verify_checksum(&from, &to)),
            // A datagram over IPv4 need not have one.
            IpProtocol::Udp => UdpPacket::new_checked(bytes)
                .is_ok_and(|d| (d.checksum() != 0 || packet.to.is_ipv4()) && d.verify_checksum(&from, &to)),
            _ => true,
        }
}

/// Puts the part of the sum that the device cannot know, that of the addresses, into a frame which is to be sent. Where the device goes on.
pub(crate) fn begin(frame: &mut [u8], packet: &Packet) -> Option<Partial> {
    let Content::Whole(protocol, place) = &packet.content else { return None };
    let at = match protocol {
        IpProtocol::Tcp => TCP_SUM,
        IpProtocol::Udp => UDP_SUM,
        _ => return None,
    };
    let (start, len) = (place.start, place.len());
    let addresses = match (packet.from, packet.to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => words(&from.octets()) + words(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => words(&from.octets()) + words(&to.octets()),
        _ => return None,
    };
    let sum = fold(addresses + u32::from(u8::from(*protocol)) + len as u32);
    frame.get_mut(start + at..start + at + 2)?.copy_from_slice(&sum.to_be_bytes());
    Some(Partial { start: u16::try_from(start).ok()?, offset: at as u16 })
}

/// The sum of an even number of bytes.
fn words(bytes: &[u8]) -> u32 {
    bytes.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum()
}

/// RFC 1071: carries are added again.
fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What a device does that is told where to go on.
#[cfg(test)]
pub(crate) fn complete(frame: &mut [u8], Partial { start, offset }: Partial) {
    let (start, at) = (usize::from(start), usize::from(start + offset));
    let mut bytes = frame[start..].to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    let sum = !fold(words(&bytes));
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::ETHERNET;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr};
    use smoltcp::wire::{TcpControl, TcpRepr, TcpSeqNumber, UdpRepr};

    fn is_right(frame: &[u8], vouched: bool) -> bool {
        Packet::of(frame, true).is_none_or(|packet| super::is_right(frame, &packet, vouched))
    }

    fn begin(frame: &mut [u8]) -> Option<Partial> {
        let packet = Packet::of(frame, true)?;
        super::begin(frame, &packet)
    }

    const PAYLOAD: &[u8] = b"an odd number";

    /// A frame with a segment or a datagram whose sum is left out or right.
    fn frame(v6: bool, tcp: bool, sums: &ChecksumCapabilities) -> Vec<u8> {
        let (from, to): (IpAddress, IpAddress) = if v6 {
            (IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 1), IpAddress::v6(0xfd00, 0, 0, 0, 0, 0, 0, 2))
        } else {
            (IpAddress::v4(10, 0, 0, 1), IpAddress::v4(10, 0, 0, 2))
        };
        let header = if v6 { 40 } else { 20 };
        let len = if tcp { 20 } else { 8 } + PAYLOAD.len();
        let mut bytes = alloc::vec![0; ETHERNET + header + len];
        bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[8, 0] });
        let next_header = if tcp { IpProtocol::Tcp } else { IpProtocol::Udp };
        match (from, to) {
            (IpAddress::Ipv4(src_addr), IpAddress::Ipv4(dst_addr)) => {
                let repr = Ipv4Repr { src_addr, dst_addr, next_header, payload_len: len, hop_limit: 64 };
                repr.emit(&mut Ipv4Packet::new_unchecked(&mut bytes[ETHERNET..]), sums);
            }
            (IpAddress::Ipv6(src_addr), IpAddress::Ipv6(dst_addr)) => {
                let repr = Ipv6Repr { src_addr, dst_addr, next_header, payload_len: len, hop_limit: 64 };
                repr.emit(&mut Ipv6Packet::new_unchecked(&mut bytes[ETHERNET..]));
            }
            _ => unreachable!(),
        }
        let rest = &mut bytes[ETHERNET + header..];
        if tcp {
            let segment = TcpRepr {
                src_port: 1,
                dst_port: 2,
                control: TcpControl::Psh,
                seq_number: TcpSeqNumber(3),
                ack_number: Some(TcpSeqNumber(4)),
                window_len: 1000,
                window_scale: None,
                max_seg_size: None,
                sack_permitted: false,
                sack_ranges: [None, None, None],
                timestamp: None,
                payload: PAYLOAD,
            };
            segment.emit(&mut TcpPacket::new_unchecked(rest), &from, &to, sums);
        } else {
            let fill = |bytes: &mut [u8]| bytes.copy_from_slice(PAYLOAD);
            let repr = UdpRepr { src_port: 1, dst_port: 2 };
            repr.emit(&mut UdpPacket::new_unchecked(rest), &from, &to, PAYLOAD.len(), fill, sums);
        }
        bytes
    }

    #[test]
    fn what_is_begun_here_and_completed_by_a_device_is_what_smoltcp_makes() {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let right = frame(v6, tcp, &ChecksumCapabilities::default());
            let mut ours = frame(v6, tcp, &ChecksumCapabilities::ignored());
            if !v6 {
                ours[24..26].copy_from_slice(&right[24..26]);
            }
            let partial = begin(&mut ours).unwrap();
            assert_eq!(usize::from(partial.start), ETHERNET + if v6 { 40 } else { 20 });
            assert_ne!(ours, right);
            complete(&mut ours, partial);
            assert_eq!(ours, right, "v6 {v6} tcp {tcp}");
        }
    }

    #[test]
    fn every_damaged_byte_is_seen_unless_somebody_vouches() {
        for (v6, tcp) in [(false, false), (false, true), (true, false), (true, true)] {
            let right = frame(v6, tcp, &ChecksumCapabilities::default());
            assert!(is_right(&right, false));
            let start = ETHERNET + if v6 { 40 } else { 20 };
            for at in start..right.len() {
                let mut wrong = right.clone();
                wrong[at] ^= 0x10;
                assert!(!is_right(&wrong, false), "v6 {v6} tcp {tcp} byte {at}");
            }
            let mut last = right.clone();
            *last.last_mut().unwrap() ^= 1;
            assert!(is_right(&last, true));
        }
        // A datagram over IPv4 may go without a sum, one over IPv6 not.
        for (v6, fine) in [(false, true), (true, false)] {
            let none = frame(v6, false, &ChecksumCapabilities::ignored());
            assert_eq!(is_right(&none, false), fine);
        }
    }

    #[test]
    fn pieces_are_refused_and_options_passed_over() {
        let mut piece = frame(false, true, &ChecksumCapabilities::default());
        piece[20] = 0x20;
        assert!(!is_right(&piece, true) && begin(&mut piece).is_none());
        let mut chained = frame(true, true, &ChecksumCapabilities::default());
        chained.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
        chained[20] = 0;
        chained[19] += 8;
        assert!(is_right(&chained, false));
        assert_eq!(begin(&mut chained), Some(Partial { start: 62, offset: 16 }));
        *chained.last_mut().unwrap() ^= 1;
        assert!(!is_right(&chained, false));
        for len in 0..chained.len() {
            let _ = is_right(&chained[..len], false);
        }
    }
}
