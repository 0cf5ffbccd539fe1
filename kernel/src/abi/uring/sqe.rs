//! `struct io_uring_sqe`: a submission.

use super::ring::SQE;

/// A submission, as far as the operations that we have use it.
#[derive(Debug, Clone, Copy)]
pub struct Sqe {
    /// `IORING_OP_*`.
    pub opcode: u8,
    /// `IOSQE_*`.
    pub flags: u8,
    /// A descriptor, or the index of a registered file.
    pub fd: i32,
    /// Offset in the file, or a second address.
    pub offset: u64,
    /// Address of the buffer, of the pieces, or of a time.
    pub address: u64,
    /// Bytes, or how many pieces.
    pub len: u32,
    /// The operation's own flags.
    pub op_flags: u32,
    /// The program's tag.
    pub user_data: u64,
    /// Index of a registered buffer.
    pub buffer: u16,
}

impl Sqe {
    /// Reads one.
    pub fn parse(bytes: &[u8; SQE]) -> Sqe {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        Sqe {
            opcode: bytes[0],
            flags: bytes[1],
            fd: word(4) as i32,
            offset: long(8),
            address: long(16),
            len: word(24),
            op_flags: word(28),
            user_data: long(32),
            buffer: word(40) as u16,
        }
    }
}
