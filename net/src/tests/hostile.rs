//! Frames that no honest machine sends.

use super::{Pair, address, quiet, seed};
use crate::Error;
use alloc::vec::Vec;
use platform::random::{Random, Seeded};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr,
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

/// A SYN to 10.0.0.2:80 from an address that nobody has.
fn syn(n: u32) -> Vec<u8> {
    let from = Ipv4Address::from(0x0a00_0100 + n % 200);
    let to = Ipv4Address::new(10, 0, 0, 2);
    let segment = TcpRepr {
        src_port: 1024 + (n / 200) as u16,
        dst_port: 80,
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(n as i32),
        ack_number: None,
        window_len: 1000,
        window_scale: None,
        max_seg_size: Some(1460),
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let ip = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Tcp,
        payload_len: segment.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = alloc::vec![0; 14 + ip.buffer_len() + segment.buffer_len()];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_dst_addr(EthernetAddress([2, 0, 0, 0, 0, 2]));
    ethernet.set_src_addr(EthernetAddress([2, 0, 0, 0, 9, 9]));
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &checksums);
    let mut tcp = TcpPacket::new_unchecked(packet.payload_mut());
    segment.emit(&mut tcp, &from.into(), &to.into(), &checksums);
    frame
}

#[test]
fn a_flood_of_half_open_connections_keeps_nobody_out() {
    let pair = Pair::new();
    let listener = pair.stacks[1].tcp(quiet());
    listener.bind(address("0.0.0.0:80")).unwrap();
    listener.listen(511).unwrap();
    for n in 0..5000 {
        pair.ends[1].inbox.lock().push_back(syn(n));
        if n % 100 == 0 {
            pair.run();
        }
    }
    pair.run();
    let open = pair.stacks[1].connections().len();
    assert!((1..=256).contains(&open), "{open} connections");
    let kept = pair.stacks[1].interfaces()[1].timers();
    assert!(kept <= open, "{kept} timers keep connections, of which {open} are known");
    let client = pair.stacks[0].tcp(quiet());
    let _ = client.connect(address("10.0.0.2:80"));
    pair.run();
    assert_eq!(client.connected(), Ok(()));
    let server = listener.accept(quiet()).unwrap();
    client.send(b"hello", None).unwrap();
    pair.run();
    assert_eq!(server.receive(&mut [0; 9], false), Ok(5));
    for _ in 0..60 {
        pair.pass(1000);
    }
    assert_eq!(pair.stacks[1].connections().len(), 1, "half-open connections are given up");
}

#[test]
fn damaged_frames_change_nothing() {
    let seed = seed();
    let random = Seeded::new(seed);
    let pair = Pair::with(crate::Config { receive_buffer: 8192, send_buffer: 8192 }, seed);
    let listener = pair.stacks[1].tcp(quiet());
    listener.bind(address("0.0.0.0:80")).unwrap();
    listener.listen(64).unwrap();
    for round in 0..200u32 {
        let client = pair.stacks[0].tcp(quiet());
        let _ = client.connect(address("10.0.0.2:80"));
        pair.run();
        let server = listener.accept(quiet()).unwrap();
        client.send(b"hello", None).unwrap();
        // Copies of what is on its way, damaged, overtake it.
        let frames: Vec<Vec<u8>> = pair.ends[1].inbox.lock().iter().cloned().chain([syn(round)]).collect();
        for mut frame in frames {
            for _ in 0..20 {
                // Not the addresses: a frame for another machine is no test.
                let at = 14 + (random.next_u64() as usize) % (frame.len() - 14);
                frame[at] ^= 1 << (random.next_u64() % 8);
                let cut = frame.len()
                    - (random.next_u64() as usize % 4)
                        * (random.next_u64() as usize % 12).min(frame.len() - 1);
                let cut = cut.max(1).min(frame.len());
                pair.ends[1].inbox.lock().push_front(frame[..cut].to_vec());
            }
        }
        pair.run();
        let mut out = [0; 9];
        assert_eq!(server.receive(&mut out, false), Ok(5), "round {round}");
        assert_eq!(&out[..5], b"hello");
        assert_eq!(server.receive(&mut out, false), Err(Error::WouldBlock));
    }
}

#[test]
fn what_claims_to_come_from_the_machine_itself_is_not_heard() {
    let packet = |frame: &[u8]| crate::packet::Packet::of(frame, true).unwrap();
    let pair = Pair::new();
    let server = pair.stacks[1].udp(quiet());
    server.bind(address("[::]:53")).unwrap();
    let client = pair.stacks[0].udp(quiet());
    for to in ["10.0.0.2:53", "[fd00::2]:53"] {
        client.send(b"x", Some(address(to))).unwrap();
    }
    // The second neighbour is asked for a second later.
    (0..3).for_each(|_| pair.pass(1000));
    for _ in 0..2 {
        server.receive(&mut [0; 4], false).unwrap();
    }
    for (to, v6) in [("10.0.0.2:53", false), ("[fd00::2]:53", true)] {
        client.send(b"x", Some(address(to))).unwrap();
        let Some(frame) = pair.ends[1].inbox.lock().pop_front() else { panic!("no frame to {to}") };
        let (from, len) = if v6 { (22, 16) } else { (26, 4) };
        let loopback: &[u8] =
            if v6 { &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] } else { &[127, 0, 0, 1] };
        let own = frame[from + len..from + 2 * len].to_vec();
        for (at, address) in [(from, &own[..]), (from, loopback), (from + len, loopback)] {
            let mut frame = frame.clone();
            frame[at..at + len].copy_from_slice(address);
            assert!(packet(&frame).is_martian(|_| false) || address == own);
            // Its sums would be wrong: as if somebody had seen to them.
            let own = |a: core::net::IpAddr| a == crate::tests::address(to).ip();
            assert!(packet(&frame).is_martian(own), "{to} {at}");
            pair.ends[1].inbox.lock().push_back(frame);
            pair.run();
            assert_eq!(server.receive(&mut [0; 4], false), Err(Error::WouldBlock), "{to} {at}");
        }
        assert!(!packet(&frame).is_martian(|_| false));
        pair.ends[1].inbox.lock().push_back(frame);
        pair.run();
        assert_eq!(server.receive(&mut [0; 4], false).unwrap().len, 1);
    }
}
