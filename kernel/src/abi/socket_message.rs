//! Socket addresses (`sockaddr_in`, `sockaddr_in6`, `sockaddr_un`) and messages (`msghdr`, `cmsghdr`) in user memory.

use super::socket::{AF_INET, AF_INET6, AF_UNIX, Kind, Socket, errno};
use super::{Call, user};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use vfs::Errno;
use vfs::file::File;
use vfs::unix::{self, FILES_MAX};

/// Largest address: `struct sockaddr_storage`.
const ADDRESS_MAX: u64 = 128;
/// Bytes of `struct msghdr` and `struct mmsghdr`.
pub(super) const HEADER_SIZE: usize = 56;
pub(super) const MMSG_SIZE: usize = 64;
/// Bytes of `struct cmsghdr`.
const CONTROL_HEADER: usize = 16;
/// More control data than this is refused.
const CONTROL_MAX: u64 = 16 << 10;
const SOL_SOCKET: u32 = 1;
const SCM_RIGHTS: u32 = 1;
const MSG_CTRUNC: u32 = 8;

/// An address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Internet(SocketAddr),
    /// `sun_path`: a path, or an abstract name with its leading zero, or nothing.
    Unix(Vec<u8>),
}

/// The family of an address.
pub(super) fn read_family(at: u64, len: u64) -> Result<u16, Errno> {
    if !(2..=ADDRESS_MAX).contains(&len) {
        return Err(Errno::EINVAL);
    }
    let bytes = user::read_bytes(at, 2)?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Reads an address for a socket of `family`.
pub(super) fn read_address(family: u16, at: u64, len: u64) -> Result<Address, Errno> {
    if len > ADDRESS_MAX {
        return Err(Errno::EINVAL);
    }
    let given = read_family(at, len)?;
    let bytes = user::read_bytes(at, len as usize)?;
    let port = || u16::from_be_bytes([bytes[2], bytes[3]]);
    match (family, given) {
        (AF_UNIX, AF_UNIX) => {
            let name = &bytes[2..];
            let end = match name.first() {
                Some(0) | None => name.len(),
                Some(_) => name.iter().position(|b| *b == 0).unwrap_or(name.len()),
            };
            Ok(Address::Unix(name[..end].to_vec()))
        }
        (AF_INET, AF_INET) if len < 16 => Err(Errno::EINVAL),
        (AF_INET6, AF_INET6) if len < 24 => Err(Errno::EINVAL),
        (AF_INET, AF_INET) => {
            let ip = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
            Ok(Address::Internet(SocketAddr::new(IpAddr::V4(ip), port())))
        }
        (AF_INET6, AF_INET6) => {
            let mut octets = [0; 16];
            octets.copy_from_slice(&bytes[8..24]);
            Ok(Address::Internet(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(octets)), port())))
        }
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// `sun_path` of a name.
pub(super) fn unix_bytes(name: &unix::Name) -> Vec<u8> {
    match name {
        unix::Name::Path(path, _) => {
            let mut bytes = path.clone();
            bytes.push(0);
            bytes
        }
        unix::Name::Abstract(name) => core::iter::once(0).chain(name.iter().copied()).collect(),
    }
}

/// The bytes of an address for a socket of `family`; `None`: the address of what has none.
fn encode(family: u16, address: Option<&Address>) -> Vec<u8> {
    let mut out = family.to_le_bytes().to_vec();
    let none = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let internet = match address {
        Some(Address::Unix(name)) => {
            out.extend_from_slice(name);
            return out;
        }
        None if family == AF_UNIX => return out,
        Some(Address::Internet(address)) => *address,
        None => none,
    };
    out.extend_from_slice(&internet.port().to_be_bytes());
    match (family, internet.ip()) {
        (AF_INET6, ip) => {
            let v6 = match ip {
                IpAddr::V6(v6) => v6,
                IpAddr::V4(v4) if v4.is_unspecified() => Ipv6Addr::UNSPECIFIED,
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            };
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&v6.octets());
            out.extend_from_slice(&[0; 4]);
        }
        (_, ip) => {
            let v4 = match ip {
                IpAddr::V4(v4) => v4,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            };
            out.extend_from_slice(&v4.octets());
            out.extend_from_slice(&[0; 8]);
        }
    }
    out
}

/// Writes an address, cut to the room that there is, and its real length.
pub(super) fn write_address(
    socket: &Socket,
    address: Option<&Address>,
    at: u64,
    len_at: u64,
) -> Result<(), Errno> {
    let room = user::read_u32(len_at)?;
    if room as i32 > ADDRESS_MAX as i32 * 64 || (room as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let bytes = encode(socket.family, address);
    user::write(at, &bytes[..bytes.len().min(room as usize)])?;
    user::write_u32(len_at, bytes.len() as u32)
}

/// A socket's own address.
pub(super) fn own(socket: &Socket) -> Option<Address> {
    match &socket.kind {
        Kind::Tcp(tcp) => tcp.local().map(Address::Internet),
        Kind::Udp(udp) => udp.local().map(Address::Internet),
        Kind::Unix(unix) => unix.name().map(|name| Address::Unix(unix_bytes(&name))),
    }
}

/// A socket's peer; [`Errno::ENOTCONN`].
pub(super) fn peer(socket: &Socket) -> Result<Option<Address>, Errno> {
    match &socket.kind {
        Kind::Tcp(tcp) => tcp.remote().map(|a| Some(Address::Internet(a))).map_err(errno),
        Kind::Udp(udp) => udp.remote().map(|a| Some(Address::Internet(a))).map_err(errno),
        Kind::Unix(unix) => Ok(unix.peer_name()?.map(|name| Address::Unix(unix_bytes(&name)))),
    }
}

/// A place in a list of buffers.
pub(super) struct Cursor<'a> {
    buffers: &'a [(u64, usize)],
    offset: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(buffers: &'a [(u64, usize)]) -> Self {
        Cursor { buffers, offset: 0 }
    }

    fn step(
        &mut self,
        mut left: usize,
        mut move_piece: impl FnMut(u64, usize, usize) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let mut done = 0;
        while left > 0 {
            let Some(&(at, len)) = self.buffers.first() else { return Err(Errno::EINVAL) };
            let n = (len - self.offset).min(left);
            move_piece(at.wrapping_add(self.offset as u64), done, n)?;
            done += n;
            left -= n;
            self.offset += n;
            if self.offset == len {
                self.buffers = &self.buffers[1..];
                self.offset = 0;
            }
        }
        Ok(())
    }

    /// Fills `out` from the buffers.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<(), Errno> {
        self.step(out.len(), |at, from, n| user::read(at, &mut out[from..from + n]))
    }

    /// Copies `data` to the buffers.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), Errno> {
        self.step(data.len(), |at, from, n| user::write(at, &data[from..from + n]))
    }
}

/// `struct msghdr`.
pub(super) struct Header {
    at: u64,
    /// Where the address is, and its length.
    pub(super) name: Option<(u64, u64)>,
    pub(super) buffers: Vec<(u64, usize)>,
    control: (u64, u64),
}

impl Header {
    pub(super) fn read(at: u64) -> Result<Self, Errno> {
        let words = user::read_words::<{ HEADER_SIZE / 8 }>(at)?;
        let buffers = if words[3] == 0 { Vec::new() } else { user::read_iovecs(words[2], words[3])? };
        let name = (words[0] != 0).then_some((words[0], u64::from(words[1] as u32)));
        Ok(Header { at, name, buffers, control: (words[4], words[5]) })
    }

    /// The files that the control data names.
    pub(super) fn files(&self, call: &Call<'_>) -> Result<Vec<Arc<File>>, Errno> {
        let (at, len) = self.control;
        if at == 0 || len == 0 {
            return Ok(Vec::new());
        }
        if len > CONTROL_MAX {
            return Err(Errno::ENOBUFS);
        }
        let bytes = user::read_bytes(at, len as usize)?;
        let mut files = Vec::new();
        let mut rest = &bytes[..];
        while let Some((header, _)) = rest.split_at_checked(CONTROL_HEADER) {
            let word =
                |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
            let size = word(0) as usize;
            if word(4) != 0 || size < CONTROL_HEADER || size > rest.len() {
                return Err(Errno::EINVAL);
            }
            if (word(8), word(12)) == (SOL_SOCKET, SCM_RIGHTS) {
                for fd in rest[CONTROL_HEADER..size].chunks_exact(4) {
                    if files.len() == FILES_MAX {
                        return Err(Errno::EINVAL);
                    }
                    let fd = i32::from_le_bytes([fd[0], fd[1], fd[2], fd[3]]);
                    files.push(call.process().fds.get(fd)?);
                }
            }
            rest = rest.get(size.next_multiple_of(8)..).unwrap_or(&[]);
        }
        Ok(files)
    }

    /// Writes what a receiving call found beside the data: the sender's address, the files, the flags.
    pub(super) fn answer(
        &self,
        call: &Call<'_>,
        socket: &Socket,
        from: Option<&Address>,
        files: Vec<Arc<File>>,
        cloexec: bool,
        flags: u32,
    ) -> Result<(), Errno> {
        if let Some((at, room)) = self.name {
            let bytes = match from {
                Some(_) => encode(socket.family, from),
                // Connections do not say who sends.
                None => Vec::new(),
            };
            user::write(at, &bytes[..bytes.len().min(room as usize)])?;
            user::write_u32(self.at + 8, bytes.len() as u32)?;
        }
        let (at, room) = self.control;
        let room = if at == 0 { 0 } else { room as usize };
        let mut flags = flags;
        let mut written = 0;
        if !files.is_empty() {
            let fit = room.saturating_sub(CONTROL_HEADER) / 4;
            let mut control = Vec::new();
            for file in files.iter().take(fit) {
                match call.process().fds.add(Arc::clone(file), cloexec, 0) {
                    Ok(fd) => control.extend_from_slice(&fd.to_le_bytes()),
                    Err(_) => break,
                }
            }
            if control.len() / 4 < files.len() {
                flags |= MSG_CTRUNC;
            }
            if !control.is_empty() {
                let size = (CONTROL_HEADER + control.len()) as u64;
                user::write_u64(at, size)?;
                user::write_u32(at + 8, SOL_SOCKET)?;
                user::write_u32(at + 12, SCM_RIGHTS)?;
                user::write(at + 16, &control)?;
                written = (size as usize).next_multiple_of(8).min(room);
            }
        }
        user::write_u64(self.at + 40, written as u64)?;
        user::write_u32(self.at + 48, flags)
    }
}
