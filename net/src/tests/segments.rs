//! Devices that cut frames into segments.

use super::streams::connection;
use super::{Pair, seed, transfer};
use crate::Config;
use crate::packet::ETHERNET;
use alloc::vec::Vec;
use core::num::NonZeroUsize;
use core::sync::atomic::Ordering;
use smoltcp::wire::{Ipv4Packet, TcpPacket};

/// Cuts a frame of TCP over IPv4 into segments that carry `size` bytes each, as a device does.
pub(super) fn cut(frame: &[u8], size: usize) -> Vec<Vec<u8>> {
    let packet = Ipv4Packet::new_checked(&frame[ETHERNET..]).unwrap();
    assert!(packet.verify_checksum());
    let (from, to) = (packet.src_addr().into(), packet.dst_addr().into());
    let start = ETHERNET + usize::from(packet.header_len());
    let segment = TcpPacket::new_checked(&frame[start..]).unwrap();
    let headers = start + usize::from(segment.header_len());
    let (number, push, fin) = (segment.seq_number(), segment.psh(), segment.fin());
    let parts: Vec<&[u8]> = frame[headers..].chunks(size).collect();
    assert!(parts.len() > 1, "what is no longer than a segment must not be cut");
    let cut_one = |(i, part): (usize, &&[u8])| {
        let mut one = [&frame[..headers], part].concat();
        let len = (one.len() - ETHERNET) as u16;
        let mut packet = Ipv4Packet::new_unchecked(&mut one[ETHERNET..]);
        packet.set_total_len(len);
        packet.fill_checksum();
        let last = i + 1 == parts.len();
        let mut segment = TcpPacket::new_unchecked(&mut one[start..]);
        segment.set_seq_number(number + i * size);
        segment.set_psh(push && last);
        segment.set_fin(fin && last);
        segment.fill_checksum(&from, &to);
        one
    };
    parts.iter().enumerate().map(cut_one).collect()
}

#[test]
fn long_frames_are_left_to_the_device_to_cut() {
    for (to, loss) in [("10.0.0.2:7", 0), ("10.0.0.2:7", 30), ("[fd00::2]:7", 0)] {
        let config = Config { receive_buffer: 60_000, send_buffer: 60_000 };
        let pair = Pair::over(config, seed(), NonZeroUsize::new(16 << 10));
        let (client, server, _listener) = connection(&pair, "[::]:7", to);
        pair.lose(loss);
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let before = pair.ends[0].sent.load(Ordering::Relaxed);
        let got = transfer(&pair, &client, &server, &data);
        assert!(got == data, "{to}: {} of {} bytes", got.len(), data.len());
        let frames = pair.ends[0].sent.load(Ordering::Relaxed) - before;
        if loss == 0 {
            // IPv6 goes in segments of the network's size, as smoltcp has it.
            let few = frames < data.len() / 1460 / 4;
            assert_eq!(few, to.starts_with("10."), "{to}: {frames} frames");
        }
    }
}
