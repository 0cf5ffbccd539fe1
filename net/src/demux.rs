//! Which socket a frame is for, from its headers alone. Nothing here is trusted later: smoltcp checks every frame again.

use core::net::{IpAddr, SocketAddr};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, UdpPacket,
};

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// A TCP segment. `opens`: it asks for a new connection (SYN without ACK and RST).
    Tcp {
        /// Its destination.
        to: SocketAddr,
        /// Its source.
        from: SocketAddr,
        /// See above.
        opens: bool,
    },
    /// A UDP datagram.
    Udp {
        /// Its destination.
        to: SocketAddr,
        /// Its source.
        from: SocketAddr,
    },
    /// Anything else: address resolution, ICMP, fragments, broken frames.
    Other,
}

/// Whether an Ethernet frame has an IP address that nobody else can have: it comes from this machine itself (`own`) or from a loopback
/// address, or goes to one (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3). What answers those talks to itself.
#[must_use]
pub fn is_martian(frame: &[u8], own: impl Fn(IpAddr) -> bool) -> bool {
    addresses(frame).is_some_and(|(from, to)| from.is_loopback() || to.is_loopback() || own(from))
}

/// Where an Ethernet frame comes from and goes to, by IP.
fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let header = EthernetFrame::new_checked(frame).ok()?;
    match header.ethertype() {
        EthernetProtocol::Ipv4 => {
            let packet = Ipv4Packet::new_checked(header.payload()).ok()?;
            Some((packet.src_addr().into(), packet.dst_addr().into()))
        }
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(header.payload()).ok()?;
            Some((packet.src_addr().into(), packet.dst_addr().into()))
        }
        _ => None,
    }
}

/// Classifies a frame; `ethernet`: it has an Ethernet header.
#[must_use]
pub fn classify(frame: &[u8], ethernet: bool) -> Flow {
    flow(frame, ethernet).unwrap_or(Flow::Other)
}

fn flow(frame: &[u8], ethernet: bool) -> Option<Flow> {
    if !ethernet {
        return match frame.first()? >> 4 {
            4 => ipv4(frame),
            6 => ipv6(frame),
            _ => None,
        };
    }
    let header = EthernetFrame::new_checked(frame).ok()?;
    match header.ethertype() {
        EthernetProtocol::Ipv4 => ipv4(header.payload()),
        EthernetProtocol::Ipv6 => ipv6(header.payload()),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Flow> {
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    // Pieces are put together nowhere: those that come over Ethernet are refused before.
    if packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
    transport(packet.next_header(), from, to, packet.payload())
}

fn ipv6(packet: &[u8]) -> Option<Flow> {
    let packet = Ipv6Packet::new_checked(packet).ok()?;
    let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
    transport(packet.next_header(), from, to, packet.payload())
}

fn transport(protocol: IpProtocol, from: IpAddr, to: IpAddr, payload: &[u8]) -> Option<Flow> {
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
                frame[23] = 6;
            }
            let _ = classify(&frame, true);
            let _ = classify(frame.get(14..).unwrap_or(&[]), false);
        }
    }
}
