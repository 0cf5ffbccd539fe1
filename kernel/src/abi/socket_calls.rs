//! The system calls on sockets: making, naming and connecting them, and moving data. Options are in
//! [`super::socket_options`], addresses and messages in [`super::socket_message`].

use super::scratch::Scratch;
use super::socket::{AF_INET, AF_INET6, AF_UNIX, Kind, Socket, SocketInode, errno, timed};
use super::socket_message::{self as message, Address};
use super::{Call, SysResult, signal, user};
use crate::process;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::any::Any;
use vfs::Errno;
use vfs::file::File;
use vfs::path::Place;
use vfs::types::OpenFlags;
use vfs::unix::{self, Credentials, UnixSocket};

const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
const SOCK_SEQPACKET: u64 = 5;
/// The type without `SOCK_CLOEXEC` and `SOCK_NONBLOCK`.
const TYPE_MASK: u64 = 0xf;

const MSG_PEEK: u64 = 2;
const MSG_TRUNC: u64 = 0x20;
const MSG_DONTWAIT: u64 = 0x40;
const MSG_WAITALL: u64 = 0x100;
const MSG_NOSIGNAL: u64 = 0x4000;
const MSG_WAITFORONE: u64 = 0x10000;
const MSG_OOB: u64 = 1;

/// Most messages that one call moves.
const MESSAGES_MAX: usize = 1024;

/// The open file of a descriptor, and the socket that it is.
pub(super) fn socket_of(call: &Call<'_>, fd: i32) -> Result<(Arc<File>, Arc<Socket>), Errno> {
    let file = call.process().fds.get(fd)?;
    let stream: Arc<dyn Any + Send + Sync> = Arc::clone(file.stream().ok_or(Errno::ENOTSOCK)?) as _;
    let socket = stream.downcast().map_err(|_| Errno::ENOTSOCK)?;
    Ok((file, socket))
}

fn make_file(socket: Arc<Socket>, flags: OpenFlags) -> Result<Arc<File>, Errno> {
    let (inode, name) = SocketInode::make();
    let status = (flags & OpenFlags::NONBLOCK) | OpenFlags::RDWR;
    File::new(Place::detached(inode, name.as_bytes()), status, Some(socket))
}

fn open(call: &Call<'_>, socket: Arc<Socket>, flags: OpenFlags) -> SysResult {
    let file = make_file(socket, flags)?;
    call.process().fds.add(file, flags.contains(OpenFlags::CLOEXEC), 0).map(|fd| fd as u64)
}

fn flags_of(bits: u64) -> Result<OpenFlags, Errno> {
    let flags = OpenFlags::from_bits_retain((bits & !TYPE_MASK) as u32);
    if (OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) { Ok(flags) } else { Err(Errno::EINVAL) }
}

fn credentials(call: &Call<'_>) -> Credentials {
    let c = call.process().credentials.lock();
    (call.process().pid, c.uid[1], c.gid[1])
}

fn unix_kind(kind: u64) -> Result<unix::Kind, Errno> {
    match kind {
        SOCK_STREAM => Ok(unix::Kind::Stream),
        SOCK_DGRAM => Ok(unix::Kind::Datagram),
        SOCK_SEQPACKET => Ok(unix::Kind::Packets),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}

pub(super) fn socket(call: &mut Call<'_>) -> SysResult {
    const IPPROTO_TCP: u64 = 6;
    const IPPROTO_UDP: u64 = 17;
    let (family, kind, protocol) = (call.arg(0), call.arg(1) & TYPE_MASK, call.arg(2));
    let flags = flags_of(call.arg(1))?;
    let socket = match (u16::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?, kind) {
        (AF_UNIX, kind) if protocol <= 1 => {
            Socket::unix(UnixSocket::new(unix_kind(kind)?, credentials(call)))
        }
        (family @ (AF_INET | AF_INET6), SOCK_STREAM) if matches!(protocol, 0 | IPPROTO_TCP) => {
            Socket::tcp(family)
        }
        (family @ (AF_INET | AF_INET6), SOCK_DGRAM) if matches!(protocol, 0 | IPPROTO_UDP) => {
            Socket::udp(family)
        }
        (AF_UNIX, _) | (AF_INET | AF_INET6, SOCK_STREAM | SOCK_DGRAM) => return Err(Errno::EPROTONOSUPPORT),
        (AF_INET | AF_INET6, _) => return Err(Errno::ESOCKTNOSUPPORT),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    open(call, socket, flags)
}

pub(super) fn socketpair(call: &mut Call<'_>) -> SysResult {
    if call.arg(0) != u64::from(AF_UNIX) {
        return Err(Errno::EOPNOTSUPP);
    }
    let flags = flags_of(call.arg(1))?;
    let (a, b) = UnixSocket::pair(unix_kind(call.arg(1) & TYPE_MASK)?, credentials(call));
    let first = open(call, Socket::unix(a), flags)? as i32;
    let fds = &call.process().fds;
    let second = open(call, Socket::unix(b), flags).inspect_err(|_| drop(fds.remove(first)))? as i32;
    let words = u64::from(first as u32) | u64::from(second as u32) << 32;
    user::write_u64(call.arg(3), words).inspect_err(|_| drop((fds.remove(first), fds.remove(second))))?;
    Ok(0)
}

/// Gives a UNIX socket its name; a path becomes a file.
fn bind_unix(call: &Call<'_>, socket: &UnixSocket, name: Vec<u8>) -> Result<(), Errno> {
    let name = match name.split_first() {
        // Any name that is free.
        None => unix::Name::Abstract(
            alloc::format!("{:05x}", crate::env().random.next_u64() & 0xf_ffff).into_bytes(),
        ),
        Some((0, name)) => unix::Name::Abstract(name.to_vec()),
        Some(_) => {
            if socket.name().is_some() {
                return Err(Errno::EINVAL);
            }
            let vfs = process::vfs();
            let cwd = Arc::clone(&call.process().cwd.lock());
            let umask = call.process().umask.load(core::sync::atomic::Ordering::Relaxed);
            let new = vfs::types::New { umask, ..vfs::types::New::new(vfs::types::FileType::Socket, 0o777) };
            vfs.create(&cwd, &name, &new)
                .map_err(|e| if e == Errno::EEXIST { Errno::EADDRINUSE } else { e })?;
            let place = vfs.tree.resolve(&cwd, &name, false)?;
            unix::Name::Path(name, (place.inode.fs_id(), place.inode.ino()))
        }
    };
    socket.bind(name)
}

/// The name that an address means to connect or send to.
fn unix_name(call: &Call<'_>, name: Vec<u8>) -> Result<unix::Name, Errno> {
    match name.split_first() {
        None => Err(Errno::EINVAL),
        Some((0, name)) => Ok(unix::Name::Abstract(name.to_vec())),
        Some(_) => {
            let cwd = Arc::clone(&call.process().cwd.lock());
            let place = process::vfs().tree.resolve(&cwd, &name, true)?;
            if place.inode.file_type() != vfs::types::FileType::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            Ok(unix::Name::Path(name, (place.inode.fs_id(), place.inode.ino())))
        }
    }
}

pub(super) fn bind(call: &mut Call<'_>) -> SysResult {
    let (_, socket) = socket_of(call, call.int(0))?;
    let address = message::read_address(socket.family, call.arg(1), call.arg(2))?;
    match (&socket.kind, address) {
        (Kind::Tcp(tcp), Address::Internet(address)) => tcp.bind(address).map_err(errno)?,
        (Kind::Udp(udp), Address::Internet(address)) => udp.bind(address).map_err(errno)?,
        (Kind::Unix(unix), Address::Unix(name)) => bind_unix(call, unix, name)?,
        _ => return Err(Errno::EAFNOSUPPORT),
    }
    Ok(0)
}

pub(super) fn listen(call: &mut Call<'_>) -> SysResult {
    let (_, socket) = socket_of(call, call.int(0))?;
    let backlog = usize::try_from(call.int(1)).unwrap_or(usize::MAX);
    match &socket.kind {
        Kind::Tcp(tcp) => tcp.listen(backlog).map_err(errno)?,
        Kind::Unix(unix) => unix.listen(backlog)?,
        Kind::Udp(_) => return Err(Errno::EOPNOTSUPP),
    }
    Ok(0)
}

fn accept_with(call: &Call<'_>, flags: OpenFlags) -> SysResult {
    let (file, socket) = socket_of(call, call.int(0))?;
    let new = socket.accept(file.flags().contains(OpenFlags::NONBLOCK))?;
    let from = message::peer(&new).unwrap_or(None);
    let fd = open(call, Arc::clone(&new), flags)?;
    if call.arg(1) != 0
        && let Err(error) = message::write_address(&new, from.as_ref(), call.arg(1), call.arg(2))
    {
        drop(call.process().fds.remove(fd as i32));
        return Err(error);
    }
    Ok(fd)
}

pub(super) fn accept(call: &mut Call<'_>) -> SysResult {
    accept_with(call, OpenFlags::empty())
}

pub(super) fn accept4(call: &mut Call<'_>) -> SysResult {
    let flags = OpenFlags::from_bits_retain(call.arg(3) as u32);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    accept_with(call, flags)
}

pub(super) fn connect(call: &mut Call<'_>) -> SysResult {
    const AF_UNSPEC: u16 = 0;
    let (file, socket) = socket_of(call, call.int(0))?;
    let nonblock = file.flags().contains(OpenFlags::NONBLOCK);
    if let Kind::Udp(udp) = &socket.kind
        && message::read_family(call.arg(1), call.arg(2))? == AF_UNSPEC
    {
        udp.connect(None).map_err(errno)?;
        return Ok(0);
    }
    match (message::read_address(socket.family, call.arg(1), call.arg(2))?, &socket.kind) {
        (Address::Internet(address), Kind::Tcp(_) | Kind::Udp(_)) => socket.connect(address, nonblock)?,
        (Address::Unix(name), Kind::Unix(unix)) => unix.connect(&unix_name(call, name)?, nonblock)?,
        _ => return Err(Errno::EAFNOSUPPORT),
    }
    Ok(0)
}

pub(super) fn getsockname(call: &mut Call<'_>) -> SysResult {
    let (_, socket) = socket_of(call, call.int(0))?;
    message::write_address(&socket, message::own(&socket).as_ref(), call.arg(1), call.arg(2)).map(|()| 0)
}

pub(super) fn getpeername(call: &mut Call<'_>) -> SysResult {
    let (_, socket) = socket_of(call, call.int(0))?;
    let peer = message::peer(&socket)?;
    message::write_address(&socket, peer.as_ref(), call.arg(1), call.arg(2)).map(|()| 0)
}

pub(super) fn shutdown(call: &mut Call<'_>) -> SysResult {
    let (_, socket) = socket_of(call, call.int(0))?;
    let (read, write) = match call.arg(1) {
        0 => (true, false),
        1 => (false, true),
        2 => (true, true),
        _ => return Err(Errno::EINVAL),
    };
    match &socket.kind {
        Kind::Tcp(tcp) => tcp.shutdown(read, write).map_err(errno)?,
        Kind::Udp(udp) => udp.shutdown(read, write).map_err(errno)?,
        Kind::Unix(unix) => unix.shutdown(read, write)?,
    }
    Ok(0)
}

/// Tells the caller of a broken pipe by its signal, too.
fn broken(call: &Call<'_>, flags: u64, result: SysResult) -> SysResult {
    result.map_err(
        |error| {
            if flags & MSG_NOSIGNAL == 0 { signal::broken_pipe(call.task, error) } else { error }
        },
    )
}

/// What `sendto` and `sendmsg` have in common.
fn send(
    call: &Call<'_>,
    fd: i32,
    buffers: &[(u64, usize)],
    to: Option<(u64, u64)>,
    files: Vec<Arc<File>>,
    flags: u64,
) -> SysResult {
    let (file, socket) = socket_of(call, fd)?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let nonblock = flags & MSG_DONTWAIT != 0 || file.flags().contains(OpenFlags::NONBLOCK);
    let to = match to {
        Some((at, len)) => Some(message::read_address(socket.family, at, len)?),
        None => None,
    };
    let total = buffers.iter().map(|b| b.1).sum::<usize>().min(user::MAX_RW);
    let stream = match &socket.kind {
        Kind::Tcp(_) => true,
        Kind::Udp(_) => false,
        Kind::Unix(unix) => unix.kind() == unix::Kind::Stream,
    };
    if !stream && total > user::CHUNK * 2 {
        return Err(Errno::EMSGSIZE);
    }
    let mut files = files;
    let mut done = 0;
    let mut cursor = message::Cursor::new(buffers);
    let mut scratch = Scratch::new(if stream { total.min(user::CHUNK) } else { total });
    loop {
        // A datagram goes whole; a stream in pieces.
        let want = if stream { (total - done).min(user::CHUNK) } else { total };
        let scratch = &mut scratch[..want];
        let result = match cursor.read(scratch) {
            Ok(()) => match (&socket.kind, &to) {
                (Kind::Unix(unix), to) => {
                    let name = match to {
                        Some(Address::Unix(name)) => Some(unix_name(call, name.clone())?),
                        Some(Address::Internet(_)) => return Err(Errno::EAFNOSUPPORT),
                        None => None,
                    };
                    let files = core::mem::take(&mut files);
                    unix.send(scratch, files, name.as_ref(), nonblock, socket.deadlines().1).map_err(timed)
                }
                (_, Some(Address::Internet(to))) if !stream => socket.send(scratch, Some(*to), nonblock),
                (_, Some(Address::Unix(_))) => Err(Errno::EAFNOSUPPORT),
                // Linux ignores the address on a connection.
                _ => socket.send(scratch, None, nonblock),
            },
            Err(error) => Err(error),
        };
        match result {
            Ok(n) => {
                done += n;
                if done >= total || n < want {
                    return Ok(done as u64);
                }
            }
            Err(_) if done > 0 => return Ok(done as u64),
            Err(error) => return broken(call, flags, Err(error)),
        }
    }
}

pub(super) fn sendto(call: &mut Call<'_>) -> SysResult {
    let len = (call.arg(2) as usize).min(user::MAX_RW);
    let to = (call.arg(4) != 0).then(|| (call.arg(4), call.arg(5)));
    send(call, call.int(0), &[(call.arg(1), len)], to, Vec::new(), call.arg(3))
}

fn send_message(call: &Call<'_>, at: u64, flags: u64) -> SysResult {
    let header = message::Header::read(at)?;
    let files = header.files(call)?;
    send(call, call.int(0), &header.buffers, header.name, files, flags)
}

pub(super) fn sendmsg(call: &mut Call<'_>) -> SysResult {
    send_message(call, call.arg(1), call.arg(2))
}

pub(super) fn sendmmsg(call: &mut Call<'_>) -> SysResult {
    let (at, count) = (call.arg(1), (call.arg(2) as usize).min(MESSAGES_MAX));
    for i in 0..count {
        let one = at + (i * message::MMSG_SIZE) as u64;
        match send_message(call, one, call.arg(3)) {
            Ok(n) => user::write_u32(one + message::HEADER_SIZE as u64, n as u32)?,
            Err(_) if i > 0 => return Ok(i as u64),
            Err(error) => return Err(error),
        }
    }
    Ok(count as u64)
}

/// What a receiving call got.
struct Got {
    /// Bytes copied.
    copied: usize,
    /// The length of the whole message.
    len: usize,
    from: Option<Address>,
    files: Vec<Arc<File>>,
}

fn receive(
    call: &Call<'_>,
    fd: i32,
    buffers: &[(u64, usize)],
    flags: u64,
) -> Result<(Arc<Socket>, Got), Errno> {
    let (file, socket) = socket_of(call, fd)?;
    if flags & MSG_OOB != 0 {
        return Err(Errno::EINVAL);
    }
    let nonblock = flags & MSG_DONTWAIT != 0 || file.flags().contains(OpenFlags::NONBLOCK);
    let peek = flags & MSG_PEEK != 0;
    let total = buffers.iter().map(|b| b.1).sum::<usize>().min(user::MAX_RW);
    let mut cursor = message::Cursor::new(buffers);
    let mut scratch = Scratch::for_transfer(total);
    let mut got = Got { copied: 0, len: 0, from: None, files: Vec::new() };
    let whole = flags & MSG_WAITALL != 0 && !peek && matches!(socket.kind, Kind::Tcp(_));
    loop {
        let want = (total - got.copied).min(scratch.len());
        let out = &mut scratch[..want];
        let step = match &socket.kind {
            Kind::Unix(unix) => {
                unix.receive(out, peek, nonblock, socket.deadlines().0).map_err(timed).map(|received| {
                    got.files = received.files;
                    got.from = received.from.map(|name| Address::Unix(message::unix_bytes(&name)));
                    (received.copied, received.len)
                })
            }
            _ => socket.receive(out, peek, nonblock).map(|(copied, len, from)| {
                got.from = from.map(Address::Internet);
                (copied, len)
            }),
        };
        match step {
            Ok((copied, len)) => {
                cursor.write(&scratch[..copied])?;
                got.copied += copied;
                got.len += len;
                if !whole || copied == 0 || got.copied == total {
                    return Ok((socket, got));
                }
            }
            Err(_) if got.copied > 0 => return Ok((socket, got)),
            Err(error) => return Err(error),
        }
    }
}

pub(super) fn recvfrom(call: &mut Call<'_>) -> SysResult {
    let len = (call.arg(2) as usize).min(user::MAX_RW);
    let flags = call.arg(3);
    let (socket, got) = receive(call, call.int(0), &[(call.arg(1), len)], flags)?;
    if call.arg(4) != 0 {
        message::write_address(&socket, got.from.as_ref(), call.arg(4), call.arg(5))?;
    }
    Ok(if flags & MSG_TRUNC != 0 { got.len } else { got.copied } as u64)
}

fn receive_message(call: &Call<'_>, at: u64, flags: u64) -> SysResult {
    const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;
    let header = message::Header::read(at)?;
    let (socket, got) = receive(call, call.int(0), &header.buffers, flags)?;
    let cloexec = flags & MSG_CMSG_CLOEXEC != 0;
    let truncated = if got.len > got.copied { MSG_TRUNC as u32 } else { 0 };
    header.answer(call, &socket, got.from.as_ref(), got.files, cloexec, truncated)?;
    Ok(if flags & MSG_TRUNC != 0 { got.len } else { got.copied } as u64)
}

pub(super) fn recvmsg(call: &mut Call<'_>) -> SysResult {
    receive_message(call, call.arg(1), call.arg(2))
}

pub(super) fn recvmmsg(call: &mut Call<'_>) -> SysResult {
    let (at, count) = (call.arg(1), (call.arg(2) as usize).min(MESSAGES_MAX));
    let mut flags = call.arg(3) & !MSG_WAITFORONE;
    let deadline = super::poll::timespec_deadline(call.arg(4))?;
    for i in 0..count {
        let one = at + (i * message::MMSG_SIZE) as u64;
        match receive_message(call, one, flags) {
            Ok(n) => user::write_u32(one + message::HEADER_SIZE as u64, n as u32)?,
            Err(_) if i > 0 => return Ok(i as u64),
            Err(error) => return Err(error),
        }
        if call.arg(3) & MSG_WAITFORONE != 0 || deadline.is_some_and(|d| crate::time::monotonic_ns() >= d) {
            flags |= MSG_DONTWAIT;
        }
    }
    Ok(count as u64)
}
