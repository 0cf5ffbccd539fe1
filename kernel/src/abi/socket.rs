//! Sockets as open files: what a descriptor of one holds, waiting, and the network crate's errors as numbers.

use super::outgoing::with_outbox;
use alloc::string::String;
use alloc::sync::Arc;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use net::{Error, Hook, TcpSocket, UdpSocket};
use vfs::Errno;
use vfs::inode::{Inode, Ready, Stream};
use vfs::types::{FileType, Stat, StatFs};
use vfs::unix::UnixSocket;
use vfs::wait::{Waiters, wait_on};

/// Address families.
pub(super) const AF_UNIX: u16 = 1;
pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 10;

/// How long an `accept`, `connect` or transfer waits for an address that DHCP has still to give.
const LEASE_WAIT_NS: u64 = 3_000_000_000;

pub(super) fn errno(error: Error) -> Errno {
    match error {
        Error::WouldBlock => Errno::EAGAIN,
        Error::InProgress => Errno::EINPROGRESS,
        Error::Already => Errno::EALREADY,
        Error::AddressInUse => Errno::EADDRINUSE,
        Error::AddressNotAvailable => Errno::EADDRNOTAVAIL,
        Error::Refused => Errno::ECONNREFUSED,
        Error::Reset => Errno::ECONNRESET,
        Error::TimedOut => Errno::ETIMEDOUT,
        Error::Aborted => Errno::ECONNABORTED,
        Error::NotConnected => Errno::ENOTCONN,
        Error::Connected => Errno::EISCONN,
        Error::Closed => Errno::EPIPE,
        Error::Invalid => Errno::EINVAL,
        Error::Unreachable => Errno::ENETUNREACH,
        Error::TooLong => Errno::EMSGSIZE,
        Error::NoDestination => Errno::EDESTADDRREQ,
        Error::Family => Errno::EAFNOSUPPORT,
        Error::NoMemory => Errno::ENOBUFS,
    }
}

/// What a socket is made of.
pub(super) enum Kind {
    Tcp(TcpSocket),
    Udp(UdpSocket),
    Unix(Arc<UnixSocket>),
}

/// An open socket.
pub(super) struct Socket {
    pub(super) family: u16,
    pub(super) kind: Kind,
    waiters: Arc<Waiters>,
    /// `SO_RCVTIMEO` and `SO_SNDTIMEO` in nanoseconds; 0: none.
    pub(super) receive_timeout: AtomicU64,
    pub(super) send_timeout: AtomicU64,
}

/// A hook that wakes those who wait for a socket.
fn hook(waiters: &Arc<Waiters>) -> Hook {
    let waiters = Arc::clone(waiters);
    Arc::new(move || waiters.wake())
}

/// The deadline that a time to wait gives.
fn deadline(timeout: &AtomicU64) -> Option<u64> {
    match timeout.load(Ordering::Relaxed) {
        0 => None,
        ns => Some(crate::time::monotonic_ns().saturating_add(ns)),
    }
}

impl Socket {
    fn with(family: u16, kind: Kind, waiters: Arc<Waiters>) -> Arc<Self> {
        let (receive_timeout, send_timeout) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Socket { family, kind, waiters, receive_timeout, send_timeout })
    }

    pub(super) fn tcp(family: u16) -> Arc<Self> {
        let waiters = Arc::new(Waiters::new());
        Self::with(family, Kind::Tcp(crate::network::stack().tcp(hook(&waiters))), waiters)
    }

    pub(super) fn udp(family: u16) -> Arc<Self> {
        let waiters = Arc::new(Waiters::new());
        Self::with(family, Kind::Udp(crate::network::stack().udp(hook(&waiters))), waiters)
    }

    pub(super) fn unix(socket: Arc<UnixSocket>) -> Arc<Self> {
        Self::with(AF_UNIX, Kind::Unix(socket), Arc::new(Waiters::new()))
    }

    fn queue(&self) -> &Waiters {
        match &self.kind {
            Kind::Unix(socket) => socket.waiters(),
            _ => &self.waiters,
        }
    }

    /// Repeats `attempt` until it does not ask to wait.
    fn wait<T>(
        &self,
        nonblock: bool,
        timeout: &AtomicU64,
        mut attempt: impl FnMut() -> net::Result<T>,
    ) -> Result<T, Errno> {
        if nonblock {
            return attempt().map_err(errno);
        }
        let result = wait_on(&[&self.waiters], deadline(timeout), || match attempt() {
            Err(Error::WouldBlock) => None,
            result => Some(result),
        });
        match result {
            Ok(result) => result.map_err(errno),
            // A socket's time that is over reads as "nothing yet".
            Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
            Err(error) => Err(error),
        }
    }

    /// A connection that waits to be accepted.
    pub(super) fn accept(&self, nonblock: bool) -> Result<Arc<Socket>, Errno> {
        match &self.kind {
            Kind::Tcp(listener) => self.wait(nonblock, &self.receive_timeout, || {
                let waiters = Arc::new(Waiters::new());
                let socket = listener.accept(hook(&waiters))?;
                Ok(Self::with(self.family, Kind::Tcp(socket), waiters))
            }),
            Kind::Unix(listener) => {
                let end = listener.accept(nonblock, deadline(&self.receive_timeout)).map_err(timed)?;
                Ok(Self::unix(end))
            }
            Kind::Udp(_) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// `connect` to an address of the network.
    pub(super) fn connect(&self, remote: SocketAddr, nonblock: bool) -> Result<(), Errno> {
        match &self.kind {
            Kind::Tcp(socket) => {
                let begun = with_lease(|| socket.connect(remote));
                match begun {
                    Err(Error::InProgress | Error::Already) if !nonblock => self
                        .wait(false, &self.send_timeout, || socket.connected())
                        .map_err(|error| match error {
                            Errno::EAGAIN => Errno::EINPROGRESS,
                            error => error,
                        }),
                    begun => begun.map_err(errno),
                }
            }
            Kind::Udp(socket) => with_lease(|| socket.connect(Some(remote))).map_err(errno),
            Kind::Unix(_) => Err(Errno::EAFNOSUPPORT),
        }
    }

    /// Receives from a connection or the next datagram: bytes copied, the message's length, and who sent it.
    pub(super) fn receive(
        &self,
        out: &mut [u8],
        peek: bool,
        nonblock: bool,
    ) -> Result<(usize, usize, Option<SocketAddr>), Errno> {
        match &self.kind {
            Kind::Tcp(socket) => {
                let n = self.wait(nonblock, &self.receive_timeout, || socket.receive(out, peek))?;
                Ok((n, n, None))
            }
            Kind::Udp(socket) => {
                let got = self.wait(nonblock, &self.receive_timeout, || socket.receive(out, peek))?;
                Ok((got.copied, got.len, Some(got.from)))
            }
            Kind::Unix(socket) => {
                let got =
                    socket.receive(out, peek, nonblock, deadline(&self.receive_timeout)).map_err(timed)?;
                Ok((got.copied, got.len, None))
            }
        }
    }

    /// Sends all of `data`, or with `nonblock` what there is room for.
    pub(super) fn send(&self, data: &[u8], to: Option<SocketAddr>, nonblock: bool) -> Result<usize, Errno> {
        match &self.kind {
            Kind::Tcp(socket) => {
                let mut done = 0;
                loop {
                    let attempt = || with_outbox(|outbox| socket.send(&data[done..], outbox));
                    match self.wait(nonblock, &self.send_timeout, attempt) {
                        Ok(n) => done += n,
                        Err(_) if done > 0 => return Ok(done),
                        // POSIX: what was never connected is a broken pipe to writers.
                        Err(Errno::ENOTCONN) => return Err(Errno::EPIPE),
                        Err(error) => return Err(error),
                    }
                    if done >= data.len() {
                        return Ok(done);
                    }
                }
            }
            Kind::Udp(socket) => {
                self.wait(nonblock, &self.send_timeout, || with_lease(|| socket.send(data, to)))
            }
            Kind::Unix(socket) => socket
                .send(data, alloc::vec::Vec::new(), None, nonblock, deadline(&self.send_timeout))
                .map_err(timed),
        }
    }

    /// Deadlines of waits, for what [`UnixSocket`] does itself: receiving, sending.
    pub(super) fn deadlines(&self) -> (Option<u64>, Option<u64>) {
        (deadline(&self.receive_timeout), deadline(&self.send_timeout))
    }

    /// `FIONREAD`.
    pub(super) fn queued(&self) -> usize {
        match &self.kind {
            Kind::Tcp(socket) => socket.queued(),
            Kind::Udp(socket) => socket.queued(),
            Kind::Unix(socket) => socket.queued(),
        }
    }
}

/// A time that is over, as sockets say it.
pub(super) fn timed(error: Errno) -> Errno {
    if error == Errno::ETIMEDOUT { Errno::EAGAIN } else { error }
}

/// Repeats what found no way out while the machine's first lease may still come.
fn with_lease<T>(mut attempt: impl FnMut() -> net::Result<T>) -> net::Result<T> {
    loop {
        let result = attempt();
        let waits = matches!(result, Err(Error::Unreachable))
            && crate::network::waits_for_lease()
            && crate::time::monotonic_ns() < LEASE_WAIT_NS;
        if !waits || vfs::wait::interrupted() {
            return result;
        }
        crate::sched::sleep(2_000_000);
    }
}

impl Stream for Socket {
    fn read(&self, buf: &mut [u8], nonblock: bool) -> vfs::Result<usize> {
        self.receive(buf, false, nonblock).map(|got| got.0)
    }

    fn write(&self, data: &[u8], nonblock: bool) -> vfs::Result<usize> {
        self.send(data, None, nonblock)
    }

    fn ready(&self) -> Ready {
        match &self.kind {
            Kind::Tcp(socket) => Ready(socket.ready().0),
            Kind::Udp(socket) => Ready(socket.ready().0),
            Kind::Unix(socket) => socket.ready(),
        }
    }

    fn waiters(&self) -> Option<&Waiters> {
        Some(self.queue())
    }
}

/// The inode of a socket that has no name in the file tree.
pub(super) struct SocketInode(u64);

static NEXT: AtomicU64 = AtomicU64::new(1);

impl SocketInode {
    /// A new one, and the name that `/proc/self/fd` shows.
    pub(super) fn make() -> (Arc<dyn Inode>, String) {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (Arc::new(SocketInode(number)), alloc::format!("socket:[{number}]"))
    }
}

impl Inode for SocketInode {
    fn fs_id(&self) -> u64 {
        8
    }
    fn ino(&self) -> u64 {
        self.0
    }
    fn file_type(&self) -> FileType {
        FileType::Socket
    }
    fn stat(&self) -> vfs::Result<Stat> {
        Ok(Stat { dev: 8, ino: self.0, mode: 0o140_777, nlink: 1, blksize: 4096, ..Stat::default() })
    }
    fn statfs(&self) -> vfs::Result<StatFs> {
        Ok(StatFs { magic: 0x534f_434b, block_size: 4096, name_max: 255, ..StatFs::default() })
    }
}
