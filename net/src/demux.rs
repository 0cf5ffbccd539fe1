//! Which socket a packet is for, from its headers alone.

use crate::packet::{Content, Packet};
use core::net::SocketAddr;
use smoltcp::wire::{IpProtocol, TcpPacket, UdpPacket};

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// A TCP segment. `opens`: it asks for a new connection (SYN without ACK and RST).
    Tcp { to: SocketAddr, from: SocketAddr, opens: bool },
    /// A UDP datagram.
    Udp { to: SocketAddr, from: SocketAddr },
    /// Anything else: address resolution, ICMP, fragments, broken frames.
    Other,
}

/// Classifies the packet of a frame.
pub(crate) fn classify(frame: &[u8], packet: Option<&Packet>) -> Flow {
    packet.and_then(|packet| flow(frame, packet)).unwrap_or(Flow::Other)
}

fn flow(frame: &[u8], packet: &Packet) -> Option<Flow> {
    // Pieces are put together nowhere: those that come over Ethernet are refused before.
    let Content::Whole(protocol, place) = &packet.content else { return None };
    let payload = frame.get(place.clone())?;
    let (from, to) = (packet.from, packet.to);
    match protocol {
        IpProtocol::Tcp => {
            let segment = TcpPacket::new_checked(payload).ok()?;
            Some(Flow::Tcp {
                to: SocketAddr::new(to, segment.dst_port()),
                from: SocketAddr::new(from, segment.src_port()),
                opens: segment.syn() && !segment.ack() && !segment.rst(),
            })
        }
        IpProtocol::Udp => {
            let datagram = UdpPacket::new_checked(payload).ok()?;
            Some(Flow::Udp {
                to: SocketAddr::new(to, datagram.dst_port()),
                from: SocketAddr::new(from, datagram.src_port()),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_makes_it_panic() {
        let seed =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
        println!("seed {seed}");
        let random = platform::random::Seeded::new(seed);
        use platform::random::Random;
        for _ in 0..20_000 {
            let mut frame = alloc::vec![0; (random.next_u64() % 90) as usize];
            random.fill(&mut frame);
            if frame.len() > 24 {
                // Mostly right up to some layer.
                frame[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd]][(random.next_u64() % 2) as usize]);
                frame[14] = [0x45, 0x60, 0x4f][(random.next_u64() % 3) as usize];
                frame[20] = [6, 0, 17][(random.next_u64() % 3) as usize];
                frame[23] = 6;
            }
            for (frame, ethernet) in [(&frame[..], true), (frame.get(14..).unwrap_or(&[]), false)] {
                let packet = Packet::of(frame, ethernet);
                let _ = classify(frame, packet.as_ref());
                let _ = packet.is_some_and(|packet| crate::checksum::is_right(frame, &packet, false));
            }
        }
    }
}
