//! `struct virtio_net_hdr`, which precedes every frame in its buffer.

use core::num::NonZeroU16;
use net::device::Partial;

/// The device is to complete the checksum; of a frame that has arrived: it is not complete, as it never left the machine.
const NEEDS_CSUM: u8 = 1;
/// The device has looked at the checksum, and it is right.
const DATA_VALID: u8 = 2;

/// The frame is to be cut into segments of TCP over IPv4.
const GSO_TCPV4: u8 = 1;
/// Where a segment says how long its header is, in words of four bytes: the upper half of that byte.
const DATA_OFFSET: usize = 12;

/// Bytes of the longest header.
const LONG: usize = 12;
const SHORT: usize = 10;

/// How headers look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// A frame may be spread over several buffers, whose number the first one's header tells.
    pub(super) merged: bool,
    /// The header has that number.
    pub(super) long: bool,
}

impl Layout {
    /// Bytes of a header.
    pub(super) fn len(self) -> usize {
        if self.long { LONG } else { SHORT }
    }

    /// Writes the header of `frame`, which is to be sent. `segment`: it is to be cut into segments that carry so many bytes each.
    pub(super) fn write(
        self,
        header: &mut [u8],
        frame: &[u8],
        partial: Option<Partial>,
        segment: Option<NonZeroU16>,
    ) {
        let mut bytes = [0; LONG];
        if let Some(Partial { start, offset }) = partial {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&start.to_le_bytes());
            bytes[8..10].copy_from_slice(&offset.to_le_bytes());
            if let Some(segment) = segment
                && let Some(words) = frame.get(usize::from(start) + DATA_OFFSET)
            {
                bytes[1] = GSO_TCPV4;
                let headers = start + 4 * u16::from(words >> 4);
                bytes[2..4].copy_from_slice(&headers.to_le_bytes());
                bytes[4..6].copy_from_slice(&segment.get().to_le_bytes());
            }
        }
        header.copy_from_slice(&bytes[..header.len()]);
    }

    /// Whether the device vouches for the frame's checksum, and over how many buffers it is spread; `None` without a header.
    pub(super) fn read(self, buffer: &[u8]) -> Option<(bool, usize)> {
        let header = buffer.get(..self.len())?;
        let vouched = header[0] & (NEEDS_CSUM | DATA_VALID) != 0;
        let buffers = if self.merged { u16::from_le_bytes([header[10], header[11]]) } else { 1 };
        Some((vouched, buffers.into()))
    }
}
