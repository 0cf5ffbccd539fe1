//! Frames that no honest machine sends: every header with lies in it, and connections that are never completed.
//!
//! Everything follows from the random numbers given. What nobody can be protected from is left out: a neighbour who claims the honest
//! machine's address, and segments that fit into a window.

use crate::link::{GUEST_MAC, HONEST_MAC};
use platform::random::{Random, Seeded};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Flags of TCP.
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const URG: u8 = 32;

/// RFC 1071's sum over `bytes`, with `start` added.
#[must_use]
pub fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = bytes.chunks(2).fold(start, |sum, pair| {
        sum + u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An Ethernet frame to the guest.
fn ethernet(from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&GUEST_MAC, &from, &kind.to_be_bytes()[..], payload].concat()
}

/// The address resolution of a machine `own`, at `mac`, that asks for `wanted`.
#[must_use]
pub fn who_has(mac: [u8; 6], own: [u8; 4], wanted: [u8; 4]) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    ethernet(mac, ARP, &[&head[..], &mac, &own, &[0; 6], &wanted].concat())
}

fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let total = ((header + payload.len()) as u16).to_be_bytes();
    let mut packet = vec![0x40 | (header / 4) as u8, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&[from, to].concat());
    packet.extend_from_slice(options);
    let sum = checksum(&packet, 0);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn ipv6(next: u8, from: [u8; 16], to: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, len[0], len[1], next, 255][..], &from, &to, payload].concat()
}

/// The sum of the header that transport protocols pretend to have.
fn pseudo(from: &[u8], to: &[u8], protocol: u8, len: usize) -> u32 {
    let sum = !checksum(&[from, to].concat(), 0);
    u32::from(sum) + u32::from(protocol) + len as u32
}

struct Segment<'a> {
    ports: (u16, u16),
    sequence: u32,
    acknowledges: u32,
    flags: u8,
    options: &'a [u8],
    payload: &'a [u8],
}

impl Segment<'_> {
    fn emit(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
        let offset = ((20 + self.options.len()) / 4) as u8;
        let mut bytes = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.acknowledges.to_be_bytes());
        bytes.extend_from_slice(&[offset << 4, self.flags, 0x40, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(self.options);
        bytes.extend_from_slice(self.payload);
        let sum = checksum(&bytes, pseudo(from, to, TCP, bytes.len()));
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

fn udp(ports: (u16, u16), from: &[u8], to: &[u8], payload: &[u8]) -> Vec<u8> {
    let len = (8 + payload.len()) as u16;
    let mut bytes = [ports.0, ports.1, len, 0].map(u16::to_be_bytes).concat();
    bytes.extend_from_slice(payload);
    let sum = checksum(&bytes, pseudo(from, to, UDP, bytes.len()));
    bytes[6..8].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Who sends them.
pub struct Hostile {
    random: Seeded,
    /// The guest's addresses; the honest machine's end with 1.
    v4: [u8; 4],
    v6: [u8; 16],
    /// The honest machine's ports at the other ends of connections to `port`, which are open.
    open: Vec<u16>,
    port: u16,
}

/// The kinds of [`Hostile::frame`].
const KINDS: [fn(&Hostile) -> Vec<u8>; 16] = [
    Hostile::half_open,
    Hostile::half_open_v6,
    Hostile::damaged,
    Hostile::cut_off,
    Hostile::wrong_lengths,
    Hostile::wrong_sums,
    Hostile::ip_options,
    Hostile::tcp_options,
    Hostile::fragments,
    Hostile::extensions,
    Hostile::resolution,
    Hostile::icmp,
    Hostile::icmpv6,
    Hostile::of_any_size,
    Hostile::of_open_connections,
    Hostile::datagrams,
];

impl Hostile {
    /// Frames for the guest with the addresses `v4` and `v6`, which listens at `port`.
    #[must_use]
    pub fn new(seed: u64, v4: [u8; 4], v6: [u8; 16], port: u16, open: Vec<u16>) -> Self {
        Hostile { random: Seeded::new(seed), v4, v6, open, port }
    }

    /// A frame of any kind.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        KINDS[self.below(KINDS.len())](self)
    }

    fn below(&self, n: usize) -> usize {
        (self.random.next_u64() % n.max(1) as u64) as usize
    }

    fn one_of<T: Copy>(&self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn byte(&self) -> u8 {
        self.random.next_u64() as u8
    }

    fn noise(&self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.random.fill(&mut bytes);
        bytes
    }

    fn any_port(&self) -> u16 {
        1024 + self.below(60_000) as u16
    }

    fn mac(&self) -> [u8; 6] {
        [2, 0, 9, self.byte(), self.byte(), self.byte()]
    }

    /// An address on the link, mostly; nobody's.
    fn v4_of_nobody(&self) -> [u8; 4] {
        let [a, b, ..] = self.v4;
        match self.below(8) {
            0 => [198, 51, 100, self.byte()],
            _ => [a, b, 1 + self.below(200) as u8, self.byte()],
        }
    }

    fn v6_of_nobody(&self) -> [u8; 16] {
        let mut address = self.v6;
        address[8..14].copy_from_slice(&self.noise(6));
        address
    }

    fn honest(&self) -> [u8; 4] {
        [self.v4[0], self.v4[1], self.v4[2], 1]
    }

    fn segment(&self, flags: u8) -> Segment<'static> {
        Segment {
            ports: (self.any_port(), self.port),
            sequence: self.random.next_u64() as u32,
            acknowledges: 0,
            flags,
            options: &[2, 4, 5, 0xb4],
            payload: &[],
        }
    }

    /// The beginning of a connection that will never be completed.
    #[must_use]
    pub fn half_open(&self) -> Vec<u8> {
        let from = self.v4_of_nobody();
        let segment = self.segment(SYN).emit(&from, &self.v4);
        ethernet(self.mac(), IPV4, &ipv4(TCP, from, self.v4, &[], &segment))
    }

    /// The same over IPv6.
    #[must_use]
    pub fn half_open_v6(&self) -> Vec<u8> {
        let from = self.v6_of_nobody();
        let segment = self.segment(SYN).emit(&from, &self.v6);
        ethernet(self.mac(), IPV6, &ipv6(TCP, from, self.v6, &segment))
    }

    /// A frame of another kind with some bytes changed, none of them the receiver's address.
    fn damaged(&self) -> Vec<u8> {
        let kinds = KINDS.len();
        let mut frame = KINDS[[0, 1, 6, 8, 9, 10, 11, 12, 15][self.below(9)] % kinds](self);
        for _ in 0..=self.below(6) {
            if frame.len() > 12 {
                let at = 12 + self.below(frame.len() - 12);
                frame[at] = self.byte();
            }
        }
        frame
    }

    /// A frame that ends within any of its headers.
    fn cut_off(&self) -> Vec<u8> {
        let mut frame = self.damaged();
        frame.truncate(1 + self.below(frame.len().min(80)));
        frame
    }

    /// Lengths of IP, TCP and UDP that are not those of the frame.
    fn wrong_lengths(&self) -> Vec<u8> {
        let (from, len) = (self.v4_of_nobody(), self.random.next_u64() as u16);
        match self.below(5) {
            0 => {
                let mut packet = ipv4(TCP, from, self.v4, &[], &self.segment(SYN).emit(&from, &self.v4));
                packet[2..4].copy_from_slice(&len.to_be_bytes());
                packet[0] = 0x40 | self.below(16) as u8;
                packet[10..12].fill(0);
                let header = 4 * usize::from(packet[0] & 15);
                let sum = checksum(&packet[..header.min(packet.len())], 0);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                ethernet(self.mac(), IPV4, &packet)
            }
            1 => {
                let mut segment = self.segment(self.byte()).emit(&from, &self.v4);
                segment[12] = self.byte();
                segment[16..18].fill(0);
                let sum = checksum(&segment, pseudo(&from, &self.v4, TCP, segment.len()));
                segment[16..18].copy_from_slice(&sum.to_be_bytes());
                ethernet(self.mac(), IPV4, &ipv4(TCP, from, self.v4, &[], &segment))
            }
            2 => {
                let mut datagram = udp((self.any_port(), self.port), &from, &self.v4, b"datagram");
                datagram[4..6].copy_from_slice(&len.to_be_bytes());
                // No sum.
                datagram[6..8].fill(0);
                ethernet(self.mac(), IPV4, &ipv4(UDP, from, self.v4, &[], &datagram))
            }
            3 => {
                let from = self.v6_of_nobody();
                let mut packet = ipv6(TCP, from, self.v6, &self.segment(SYN).emit(&from, &self.v6));
                packet[4..6].copy_from_slice(&len.to_be_bytes());
                ethernet(self.mac(), IPV6, &packet)
            }
            // IEEE 802.3: a length in the type's place; and anything else there.
            _ => ethernet(self.mac(), len, &self.noise(self.below(100))),
        }
    }

    /// Everything right but a sum.
    fn wrong_sums(&self) -> Vec<u8> {
        let (from, from6) = (self.v4_of_nobody(), self.v6_of_nobody());
        let (mut frame, at) = match self.below(4) {
            0 => (self.half_open(), 14 + 10),
            1 => (self.half_open(), 34 + 16),
            2 => (self.half_open_v6(), 54 + 16),
            _ => {
                let datagram = udp((self.any_port(), self.port), &from6, &self.v6, &from);
                (ethernet(self.mac(), IPV6, &ipv6(UDP, from6, self.v6, &datagram)), 54 + 6)
            }
        };
        frame[at] ^= 1 + self.below(255) as u8;
        frame
    }

    /// Options of IPv4: source routes, lengths of zero, lengths beyond the header.
    fn ip_options(&self) -> Vec<u8> {
        let from = self.v4_of_nobody();
        let mut options = self.noise(4 * (1 + self.below(10)));
        options[0] = self.one_of(&[7, 68, 130, 131, 136, 137, 148, 0, 1]);
        options[1] = self.one_of(&[0, 1, 2, 3, 40, 255]);
        let segment = self.segment(SYN).emit(&from, &self.v4);
        ethernet(self.mac(), IPV4, &ipv4(TCP, from, self.v4, &options, &segment))
    }

    /// Options of TCP: lengths of zero and beyond the header, scales over 14, segments of no size.
    fn tcp_options(&self) -> Vec<u8> {
        let from = self.v4_of_nobody();
        let mut options = self.noise(4 * (1 + self.below(10)));
        let choice: &[u8] = self.one_of(&[
            &[2, 0][..],
            &[2, 4, 0, 0],
            &[2, 4, 0, 1],
            &[3, 3, 255],
            &[3, 0],
            &[5, 255],
            &[5, 10],
            &[8, 10],
            &[1, 1, 1, 0],
            &[254, 1],
            &[8, 2],
        ]);
        let n = choice.len().min(options.len());
        options[..n].copy_from_slice(&choice[..n]);
        let segment = Segment { options: &options, ..self.segment(SYN) }.emit(&from, &self.v4);
        ethernet(self.mac(), IPV4, &ipv4(TCP, from, self.v4, &[], &segment))
    }

    /// Pieces of packets: overlapping, without a first one, tiny, beyond 64 KiB.
    fn fragments(&self) -> Vec<u8> {
        let from = self.v4_of_nobody();
        let payload = self.noise(8 * (1 + self.below(100)));
        let protocol = self.one_of(&[TCP, UDP, ICMP]);
        if self.below(3) == 0 {
            let from = self.v6_of_nobody();
            let offset = (self.one_of(&[0u16, 1, 2, 3, 4, 8190, 8191]) << 3) | self.below(2) as u16;
            let mut piece = vec![protocol, self.byte()];
            piece.extend_from_slice(&offset.to_be_bytes());
            piece.extend_from_slice(&[0, 0, 0, self.below(4) as u8]);
            piece.extend_from_slice(&payload);
            return ethernet(self.mac(), IPV6, &ipv6(44, from, self.v6, &piece));
        }
        let mut packet = ipv4(protocol, from, self.v4, &[], &payload);
        let offset = self.one_of(&[0u16, 1, 2, 3, 4, 100, 8189, 8191]) | self.one_of(&[0, 0x2000, 0xa000]);
        packet[5] = self.below(4) as u8;
        packet[6..8].copy_from_slice(&offset.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum(&packet[..20], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        ethernet(self.mac(), IPV4, &packet)
    }

    /// Chains of extension headers of IPv6, some with lengths beyond the packet.
    fn extensions(&self) -> Vec<u8> {
        let from = self.v6_of_nobody();
        let mut payload = self.segment(SYN).emit(&from, &self.v6);
        let mut next = TCP;
        for _ in 0..=self.below(20) {
            let units = self.below(3);
            let lie = self.below(6) == 0;
            let mut header = vec![next, if lie { self.byte() } else { units as u8 }];
            header.extend_from_slice(&self.noise(6 + 8 * units));
            if self.below(2) == 0 {
                // One option that is padding, with a length that need not fit.
                header[2..4].copy_from_slice(&[1, self.one_of(&[4 + 8 * units as u8, 0, 255])]);
            }
            payload = [header, payload].concat();
            next = self.one_of(&[0, 0, 43, 44, 51, 60, 135, 59, 200]);
        }
        ethernet(self.mac(), IPV6, &ipv6(next, from, self.v6, &payload))
    }

    /// ARP: wrong sizes, strange senders, answers that nobody asked for.
    fn resolution(&self) -> Vec<u8> {
        let sender = match self.below(6) {
            0 => [0; 4],
            1 => [255; 4],
            2 => [224, 0, 0, 1],
            3 => self.v4,
            _ => self.v4_of_nobody(),
        };
        let mac = if self.below(4) == 0 { self.one_of(&[[0; 6], [255; 6], GUEST_MAC]) } else { self.mac() };
        let mut frame = who_has(mac, sender, if self.below(4) == 0 { self.v4_of_nobody() } else { self.v4 });
        frame[6..12].copy_from_slice(&self.mac());
        frame[21] = self.one_of(&[1, 1, 2, 2, 3, 0, 255]);
        match self.below(6) {
            0 => frame[18] = self.byte(),
            1 => frame[19] = self.byte(),
            2 => frame.truncate(14 + self.below(28)),
            3 => frame.extend_from_slice(&self.noise(200)),
            _ => {}
        }
        frame
    }

    /// ICMP of every type: requests as long as a frame, errors about connections that are open, redirects.
    fn icmp(&self) -> Vec<u8> {
        let from =
            self.one_of(&[self.v4_of_nobody(), self.honest(), self.v4, [255; 4], [127, 0, 0, 1], [0; 4]]);
        let kind = self.one_of(&[0u8, 3, 4, 5, 8, 8, 8, 9, 10, 11, 12, 13, 17, 42, 255]);
        let mut message = vec![kind, self.below(16) as u8, 0, 0];
        message.extend_from_slice(&self.noise(4));
        if matches!(kind, 3..=5 | 11 | 12) && !self.open.is_empty() {
            let quoted = Segment { ports: (self.port, self.one_of(&self.open)), ..self.segment(ACK) };
            let quoted = quoted.emit(&self.v4, &self.honest());
            message.extend_from_slice(&ipv4(TCP, self.v4, self.honest(), &[], &quoted));
            message.truncate(message.len() - self.below(30));
        } else {
            message.extend_from_slice(&self.noise(self.below(1400)));
        }
        let sum = checksum(&message, 0);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        ethernet(self.mac(), IPV4, &ipv4(ICMP, from, self.v4, &[], &message))
    }

    /// ICMPv6: neighbours and routers with options of length zero, prefixes of 255 bits, listener queries.
    fn icmpv6(&self) -> Vec<u8> {
        let from = self.one_of(&[self.v6_of_nobody(), self.v6, [0; 16], [255; 16]]);
        let kind = self.one_of(&[1u8, 2, 3, 4, 128, 129, 130, 131, 133, 134, 135, 136, 137, 143, 200]);
        let mut message = vec![kind, 0, 0, 0];
        message.extend_from_slice(&self.noise(4 + self.below(3) * 4));
        if matches!(kind, 135 | 136) {
            let target = if self.below(2) == 0 { self.v6 } else { self.v6_of_nobody() };
            message.truncate(8);
            message.extend_from_slice(&target);
        }
        for _ in 0..self.below(4) {
            // Type, and length in units of 8 bytes.
            let mut option = self.noise(8 * (1 + self.below(4)));
            option[0] = 1 + self.below(6) as u8;
            if self.below(3) > 0 {
                option[1] = (option.len() / 8) as u8;
            }
            message.extend_from_slice(&option);
        }
        let sum = checksum(&message, pseudo(&from, &self.v6, ICMPV6, message.len()));
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        ethernet(self.mac(), IPV6, &ipv6(ICMPV6, from, self.v6, &message))
    }

    /// Runts, and frames that are longer than any Ethernet carries.
    fn of_any_size(&self) -> Vec<u8> {
        let len = match self.below(10) {
            0 => 20_000 + self.below(40_000),
            1..=3 => 1501 + self.below(8000),
            4..=6 => 1480 + self.below(30),
            _ => self.below(60),
        };
        let mut packet = match self.below(3) {
            0 => ipv4(UDP, self.v4_of_nobody(), self.v4, &[], &self.noise(len)),
            1 => ipv6(UDP, self.v6_of_nobody(), self.v6, &self.noise(len)),
            _ => self.noise(len),
        };
        packet.truncate(len.max(1));
        let kind = self.one_of(&[IPV4, IPV6, ARP, 0x8100, 0x88a8, 0x8863, self.random.next_u64() as u16]);
        ethernet(self.mac(), kind, &packet)
    }

    /// Segments with the addresses of connections that are open, and numbers that are far from theirs as far as one can tell without
    /// seeing them: 1 of 65,536 would be within a window of 64 KiB, and is left out by having neither data nor an end there.
    fn of_open_connections(&self) -> Vec<u8> {
        let Some(honest) = (!self.open.is_empty()).then(|| self.one_of(&self.open)) else {
            return self.half_open();
        };
        let from = self.honest();
        let flags = self.one_of(&[SYN, ACK, SYN | ACK, ACK | URG, 0, 0xc0 | ACK]);
        let segment = Segment {
            ports: (honest, self.port),
            acknowledges: self.random.next_u64() as u32,
            ..self.segment(flags)
        };
        ethernet(HONEST_MAC, IPV4, &ipv4(TCP, from, self.v4, &[], &segment.emit(&from, &self.v4)))
    }

    /// Datagrams that the guest answers to addresses where nobody is, or that it must refuse; some claim to come from itself.
    fn datagrams(&self) -> Vec<u8> {
        let from = self.one_of(&[
            self.v4_of_nobody(),
            self.v4_of_nobody(),
            self.v4,
            [255; 4],
            [127, 0, 0, 1],
            [224, 0, 0, 251],
            [0; 4],
            [self.v4[0], self.v4[1], 255, 255],
        ]);
        let to = self.one_of(&[self.v4, self.v4, self.v4, [255; 4], [self.v4[0], self.v4[1], 255, 255]]);
        let port = self.one_of(&[self.port, self.port, 68, 53, 9]);
        let datagram = udp(
            (self.one_of(&[self.any_port(), self.port, 67, 0]), port),
            &from,
            &to,
            &self.noise(self.below(600)),
        );
        ethernet(self.mac(), IPV4, &ipv4(UDP, from, to, &[], &datagram))
    }

    /// Segments of connection `honest` whose numbers are `away` from `expected`, which the guest expects next: resets, ends and data
    /// that no window has room for, and acknowledgements of what was never sent.
    #[must_use]
    pub fn out_of_window(&self, honest: u16, expected: u32, acknowledges: u32) -> Vec<u8> {
        // A window has at most 4 MiB.
        let away = (8 << 20) + self.below(1 << 30) as u32;
        let sequence =
            if self.below(2) == 0 { expected.wrapping_add(away) } else { expected.wrapping_sub(away) };
        let (flags, payload): (u8, &[u8]) = match self.below(5) {
            0 => (RST, b""),
            1 => (RST | ACK, b""),
            2 => (FIN | ACK, b""),
            3 => (PSH | ACK, b"quit"),
            _ => (FIN | PSH | ACK, b"quit"),
        };
        let from = self.honest();
        let segment = Segment {
            ports: (honest, self.port),
            sequence,
            acknowledges,
            options: &[],
            payload,
            ..self.segment(flags)
        };
        ethernet(HONEST_MAC, IPV4, &ipv4(TCP, from, self.v4, &[], &segment.emit(&from, &self.v4)))
    }

    /// Frames that claim to come from the guest itself, or from where no machine is.
    #[must_use]
    pub fn land(&self) -> Vec<u8> {
        let from = self.one_of(&[
            self.v4,
            [127, 0, 0, 1],
            [255; 4],
            [224, 0, 0, 1],
            [0; 4],
            [self.v4[0], self.v4[1], 255, 255],
        ]);
        let segment = Segment { ports: (self.port, self.port), ..self.segment(SYN) };
        ethernet(self.mac(), IPV4, &ipv4(TCP, from, self.v4, &[], &segment.emit(&from, &self.v4)))
    }
}
