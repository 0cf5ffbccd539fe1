//! `setsockopt`, `getsockopt`, and `ioctl` on sockets.

use super::socket::{AF_UNIX, Kind, Socket, errno};
use super::socket_calls::socket_of;
use super::{Call, SysResult, user};
use crate::network;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use net::Linger;
use net::interface::Interface;
use vfs::Errno;
use vfs::unix;

const SOL_IP: u32 = 0;
const SOL_SOCKET: u32 = 1;
const SOL_TCP: u32 = 6;
const SOL_UDP: u32 = 17;
const SOL_IPV6: u32 = 41;

const SO_DEBUG: u32 = 1;
const SO_REUSEADDR: u32 = 2;
const SO_TYPE: u32 = 3;
const SO_ERROR: u32 = 4;
const SO_DONTROUTE: u32 = 5;
const SO_BROADCAST: u32 = 6;
const SO_SNDBUF: u32 = 7;
const SO_RCVBUF: u32 = 8;
const SO_KEEPALIVE: u32 = 9;
const SO_OOBINLINE: u32 = 10;
const SO_PRIORITY: u32 = 12;
const SO_LINGER: u32 = 13;
const SO_REUSEPORT: u32 = 15;
const SO_PASSCRED: u32 = 16;
const SO_PEERCRED: u32 = 17;
const SO_RCVLOWAT: u32 = 18;
const SO_RCVTIMEO: u32 = 20;
const SO_SNDTIMEO: u32 = 21;
const SO_ACCEPTCONN: u32 = 30;
const SO_SNDBUFFORCE: u32 = 32;
const SO_RCVBUFFORCE: u32 = 33;
const SO_PROTOCOL: u32 = 38;
const SO_DOMAIN: u32 = 39;

const TCP_NODELAY: u32 = 1;
const TCP_MAXSEG: u32 = 2;
const TCP_CORK: u32 = 3;
const TCP_KEEPIDLE: u32 = 4;
const TCP_KEEPINTVL: u32 = 5;
const TCP_KEEPCNT: u32 = 6;
const TCP_DEFER_ACCEPT: u32 = 9;
const TCP_INFO: u32 = 11;
const TCP_QUICKACK: u32 = 12;
const TCP_USER_TIMEOUT: u32 = 18;
/// `sizeof(struct tcp_info)` of Linux 3.15, the shortest that programs expect.
const TCP_INFO_SIZE: usize = 104;

const IPV6_V6ONLY: u32 = 26;

/// Silence before the first probe if `TCP_KEEPIDLE` does not say (Linux: two hours), in seconds.
const KEEP_IDLE: u64 = 7200;
/// Largest value of an option that is read.
const VALUE_MAX: usize = 64;

fn word(bytes: &[u8]) -> Result<u32, Errno> {
    let four = bytes.first_chunk::<4>().ok_or(Errno::EINVAL)?;
    Ok(u32::from_le_bytes(*four))
}

/// `struct timeval` in nanoseconds.
fn interval(bytes: &[u8]) -> Result<u64, Errno> {
    let part =
        |at: usize| bytes.get(at..at + 8).and_then(|b| b.first_chunk::<8>()).map(|b| i64::from_le_bytes(*b));
    let (Some(seconds), Some(micros)) = (part(0), part(8)) else { return Err(Errno::EINVAL) };
    if !(0..1_000_000).contains(&micros) {
        return Err(Errno::EINVAL);
    }
    // Negative times wait for ever, as none does.
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Ok(seconds.saturating_mul(1_000_000_000).saturating_add(micros as u64 * 1000))
}

pub(super) fn setsockopt(call: &mut Call<'_>) -> SysResult {
    let (_, socket) = socket_of(call, call.int(0))?;
    let len = call.int(4);
    if len < 0 {
        return Err(Errno::EINVAL);
    }
    let value = user::read_bytes(call.arg(3), (len as usize).min(VALUE_MAX))?;
    let on = || Ok::<_, Errno>(word(&value)? != 0);
    match (call.arg(1) as u32, call.arg(2) as u32) {
        (SOL_SOCKET, SO_REUSEADDR) => match &socket.kind {
            Kind::Tcp(tcp) => tcp.set_reuse_address(on()?),
            Kind::Udp(udp) => udp.set_sharing(Some(on()?), None, None),
            Kind::Unix(_) => {}
        },
        (SOL_SOCKET, SO_REUSEPORT) => match &socket.kind {
            Kind::Tcp(tcp) => tcp.set_reuse_port(on()?),
            Kind::Udp(udp) => udp.set_sharing(None, Some(on()?), None),
            Kind::Unix(_) => return Err(Errno::EOPNOTSUPP),
        },
        (SOL_SOCKET, SO_KEEPALIVE) => {
            if let Kind::Tcp(tcp) = &socket.kind {
                tcp.set_keep_alive(on()?.then_some(KEEP_IDLE));
            }
        }
        (SOL_SOCKET, SO_LINGER) => {
            let (enabled, seconds) = (on()?, word(value.get(4..).unwrap_or(&[]))?);
            if let Kind::Tcp(tcp) = &socket.kind {
                tcp.set_linger(if enabled && seconds == 0 { Linger::Reset } else { Linger::Background });
            }
        }
        (SOL_SOCKET, SO_SNDBUF | SO_SNDBUFFORCE) => {
            if let Kind::Tcp(tcp) = &socket.kind {
                tcp.set_buffers(None, Some(word(&value)? as usize));
            }
        }
        (SOL_SOCKET, SO_RCVBUF | SO_RCVBUFFORCE) => {
            if let Kind::Tcp(tcp) = &socket.kind {
                tcp.set_buffers(Some(word(&value)? as usize), None);
            }
        }
        (SOL_SOCKET, SO_RCVTIMEO) => socket.receive_timeout.store(interval(&value)?, Ordering::Relaxed),
        (SOL_SOCKET, SO_SNDTIMEO) => socket.send_timeout.store(interval(&value)?, Ordering::Relaxed),
        // Wishes without a meaning here.
        (
            SOL_SOCKET,
            SO_DEBUG | SO_DONTROUTE | SO_BROADCAST | SO_OOBINLINE | SO_PRIORITY | SO_RCVLOWAT | SO_PASSCRED,
        ) => drop(word(&value)?),
        (SOL_TCP, option) => tcp_option(&socket, option, word(&value)?)?,
        (SOL_IPV6, IPV6_V6ONLY) => match &socket.kind {
            Kind::Tcp(tcp) => tcp.set_only_v6(on()?),
            Kind::Udp(udp) => udp.set_sharing(None, None, Some(on()?)),
            Kind::Unix(_) => return Err(Errno::EOPNOTSUPP),
        },
        // Type of service, hop limit, path MTU discovery: hints for routers.
        (SOL_IP, 1 | 2 | 10 | 11) | (SOL_IPV6, 16 | 23 | 25 | 67)
            if !matches!(socket.kind, Kind::Unix(_)) => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(0)
}

fn tcp_option(socket: &Socket, option: u32, value: u32) -> Result<(), Errno> {
    let Kind::Tcp(tcp) = &socket.kind else { return Err(Errno::EOPNOTSUPP) };
    match option {
        TCP_NODELAY => tcp.set_no_delay(value != 0),
        // Corked data is gathered by the send buffer as Nagle's algorithm does it.
        TCP_CORK => tcp.set_no_delay(value == 0),
        TCP_KEEPIDLE if !(1..=32767).contains(&value) => return Err(Errno::EINVAL),
        TCP_KEEPIDLE => {
            if tcp.keep_alive().is_some() {
                tcp.set_keep_alive(Some(u64::from(value)));
            }
        }
        TCP_MAXSEG | TCP_KEEPINTVL | TCP_KEEPCNT | TCP_DEFER_ACCEPT | TCP_QUICKACK | TCP_USER_TIMEOUT => {}
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}

fn timeval(timeout: &AtomicU64) -> Vec<u8> {
    let ns = timeout.load(Ordering::Relaxed);
    let mut out = (ns / 1_000_000_000).to_le_bytes().to_vec();
    out.extend_from_slice(&(ns % 1_000_000_000 / 1000).to_le_bytes());
    out
}

fn pending_error(socket: &Socket) -> u32 {
    match &socket.kind {
        Kind::Tcp(tcp) => tcp.take_error().map_or(0, |error| errno(error).number() as u32),
        _ => 0,
    }
}

fn value_of(socket: &Socket, level: u32, option: u32) -> Result<Vec<u8>, Errno> {
    let tcp = match &socket.kind {
        Kind::Tcp(tcp) => Some(tcp),
        _ => None,
    };
    let number = match (level, option) {
        (SOL_SOCKET, SO_TYPE) => match &socket.kind {
            Kind::Tcp(_) => 1,
            Kind::Udp(_) => 2,
            Kind::Unix(unix) => match unix.kind() {
                unix::Kind::Stream => 1,
                unix::Kind::Datagram => 2,
                unix::Kind::Packets => 5,
            },
        },
        (SOL_SOCKET, SO_ERROR) => pending_error(socket),
        (SOL_SOCKET, SO_DOMAIN) => u32::from(socket.family),
        (SOL_SOCKET, SO_PROTOCOL) => match &socket.kind {
            Kind::Tcp(_) => SOL_TCP,
            Kind::Udp(_) => SOL_UDP,
            Kind::Unix(_) => 0,
        },
        (SOL_SOCKET, SO_ACCEPTCONN) => u32::from(match &socket.kind {
            Kind::Tcp(tcp) => tcp.is_listening(),
            Kind::Unix(unix) => unix.is_listening(),
            Kind::Udp(_) => false,
        }),
        (SOL_SOCKET, SO_REUSEADDR) => u32::from(match &socket.kind {
            Kind::Tcp(tcp) => tcp.reuse().0,
            Kind::Udp(udp) => udp.sharing().0,
            Kind::Unix(_) => false,
        }),
        (SOL_SOCKET, SO_REUSEPORT) => u32::from(match &socket.kind {
            Kind::Tcp(tcp) => tcp.reuse().1,
            Kind::Udp(udp) => udp.sharing().1,
            Kind::Unix(_) => false,
        }),
        (SOL_SOCKET, SO_KEEPALIVE) => u32::from(tcp.is_some_and(|tcp| tcp.keep_alive().is_some())),
        (SOL_SOCKET, SO_SNDBUF) => tcp.map_or(212_992, |tcp| tcp.buffers().1 as u32),
        (SOL_SOCKET, SO_RCVBUF) => tcp.map_or(212_992, |tcp| tcp.buffers().0 as u32),
        (SOL_SOCKET, SO_RCVTIMEO) => return Ok(timeval(&socket.receive_timeout)),
        (SOL_SOCKET, SO_SNDTIMEO) => return Ok(timeval(&socket.send_timeout)),
        (SOL_SOCKET, SO_LINGER) => return Ok(alloc::vec![0; 8]),
        (SOL_SOCKET, SO_RCVLOWAT) => 1,
        (SOL_SOCKET, SO_BROADCAST | SO_DEBUG | SO_DONTROUTE | SO_OOBINLINE | SO_PASSCRED | SO_PRIORITY) => 0,
        (SOL_SOCKET, SO_PEERCRED) => {
            let Kind::Unix(unix) = &socket.kind else { return Err(Errno::ENOPROTOOPT) };
            let (pid, uid, gid) = unix.peer_credentials();
            return Ok([pid, uid, gid].iter().flat_map(|n| n.to_le_bytes()).collect());
        }
        (SOL_TCP, option) => {
            let tcp = tcp.ok_or(Errno::EOPNOTSUPP)?;
            match option {
                TCP_NODELAY => u32::from(tcp.no_delay()),
                TCP_CORK => u32::from(!tcp.no_delay()),
                TCP_MAXSEG => 1460,
                TCP_KEEPIDLE => tcp.keep_alive().unwrap_or(KEEP_IDLE) as u32,
                TCP_KEEPINTVL => 75,
                TCP_KEEPCNT => 9,
                TCP_DEFER_ACCEPT | TCP_QUICKACK | TCP_USER_TIMEOUT => 0,
                TCP_INFO => {
                    let info = tcp.info();
                    let mut out = alloc::vec![0; TCP_INFO_SIZE];
                    out[0] = info.state;
                    // tcpi_unacked, in segments.
                    let segments = info.send_queue.div_ceil(1460) as u32;
                    out[24..28].copy_from_slice(&segments.to_le_bytes());
                    return Ok(out);
                }
                _ => return Err(Errno::ENOPROTOOPT),
            }
        }
        (SOL_IPV6, IPV6_V6ONLY) => u32::from(match &socket.kind {
            Kind::Tcp(tcp) => tcp.only_v6(),
            Kind::Udp(udp) => udp.sharing().2,
            Kind::Unix(_) => return Err(Errno::EOPNOTSUPP),
        }),
        (SOL_IP, 1 | 10 | 11) | (SOL_IPV6, 67) => 0,
        (SOL_IP, 2) | (SOL_IPV6, 16) => 64,
        _ => return Err(Errno::ENOPROTOOPT),
    };
    Ok(number.to_le_bytes().to_vec())
}

pub(super) fn getsockopt(call: &mut Call<'_>) -> SysResult {
    let (_, socket) = socket_of(call, call.int(0))?;
    let room = user::read_u32(call.arg(4))? as i32;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let value = value_of(&socket, call.arg(1) as u32, call.arg(2) as u32)?;
    let len = value.len().min(room);
    user::write(call.arg(3), &value[..len])?;
    user::write_u32(call.arg(4), len as u32)?;
    Ok(0)
}

/// Bytes of `struct ifreq`: a name of 16, then a union.
const IFREQ: usize = 40;
const NAME: usize = 16;
const SIOCGIFCONF: u32 = 0x8912;
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCGIFADDR: u32 = 0x8915;
const SIOCGIFBRDADDR: u32 = 0x8919;
const SIOCGIFNETMASK: u32 = 0x891b;
const SIOCGIFMETRIC: u32 = 0x891d;
const SIOCGIFMTU: u32 = 0x8921;
const SIOCGIFHWADDR: u32 = 0x8927;
const SIOCGIFINDEX: u32 = 0x8933;
const SIOCGIFNAME: u32 = 0x8910;

fn ipv4(interface: &Interface) -> Option<(u32, u32)> {
    interface.facts().addresses.iter().find_map(|(address, prefix)| match address {
        IpAddr::V4(v4) => Some((v4.to_bits(), u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0))),
        IpAddr::V6(_) => None,
    })
}

/// A `sockaddr_in` without a port.
fn sockaddr(address: u32) -> [u8; 16] {
    let mut out = [0; 16];
    out[0] = 2;
    out[4..8].copy_from_slice(&address.to_be_bytes());
    out
}

fn padded_name(interface: &Interface) -> [u8; NAME] {
    let mut out = [0; NAME];
    out.iter_mut().zip(interface.name.bytes()).take(NAME - 1).for_each(|(to, from)| *to = from);
    out
}

/// `struct ifconf`: the addresses of all interfaces.
fn list_interfaces(at: u64) -> SysResult {
    let room = user::read_u32(at)? as usize;
    let to = user::read_u64(at + 8)?;
    let mut out = Vec::new();
    for interface in network::stack().interfaces() {
        if let Some((address, _)) = ipv4(interface) {
            out.extend_from_slice(&padded_name(interface));
            out.extend_from_slice(&sockaddr(address));
            out.extend_from_slice(&[0; IFREQ - NAME - 16]);
        }
    }
    if to != 0 {
        out.truncate(room / IFREQ * IFREQ);
        user::write(to, &out)?;
    }
    user::write_u32(at, out.len() as u32)?;
    Ok(0)
}

/// `ioctl` on a socket; `None`: it is not one that sockets know.
pub(super) fn ioctl(socket: &Socket, request: u32, at: u64) -> Option<SysResult> {
    const FIONREAD: u32 = 0x541b;
    const FIOASYNC: u32 = 0x5452;
    const SIOCATMARK: u32 = 0x8905;
    Some(match request {
        FIONREAD => user::write_u32(at, socket.queued().min(i32::MAX as usize) as u32).map(|()| 0),
        // Signals for readiness are asked for by nginx, whose single process needs none.
        FIOASYNC => user::read_u32(at).map(|_| 0),
        SIOCATMARK => user::write_u32(at, 0).map(|()| 0),
        _ if socket.family == AF_UNIX && !(0x8910..=0x8940).contains(&request) => return None,
        SIOCGIFCONF => list_interfaces(at),
        SIOCGIFNAME..=0x8940 => interface_request(request, at),
        _ => return None,
    })
}

fn interface_request(request: u32, at: u64) -> SysResult {
    const UP_RUNNING: u16 = 0x41;
    const LOOPBACK: u16 = 0x8;
    const BROADCAST: u16 = 0x2;
    let bytes = user::read_bytes(at, NAME + 4)?;
    let find = |wanted: &dyn Fn(&Interface) -> bool| -> Result<Arc<Interface>, Errno> {
        network::stack().interfaces().iter().find(|i| wanted(i)).cloned().ok_or(Errno::ENODEV)
    };
    if request == SIOCGIFNAME {
        let index = word(&bytes[NAME..])?;
        let interface = find(&|i| i.index == index)?;
        user::write(at, &padded_name(&interface))?;
        return Ok(0);
    }
    let end = bytes[..NAME].iter().position(|b| *b == 0).unwrap_or(NAME);
    let interface = find(&|i| i.name.as_bytes() == &bytes[..end])?;
    let mut out = [0; 16];
    match request {
        SIOCGIFFLAGS => {
            let kind = if interface.is_loopback() { LOOPBACK } else { BROADCAST };
            out[..2].copy_from_slice(&(UP_RUNNING | kind).to_le_bytes());
        }
        SIOCGIFADDR => out = sockaddr(ipv4(&interface).ok_or(Errno::EADDRNOTAVAIL)?.0),
        SIOCGIFNETMASK => out = sockaddr(ipv4(&interface).ok_or(Errno::EADDRNOTAVAIL)?.1),
        SIOCGIFBRDADDR => {
            let (address, mask) = ipv4(&interface).ok_or(Errno::EADDRNOTAVAIL)?;
            out = sockaddr(if interface.is_loopback() { 0 } else { address | !mask });
        }
        SIOCGIFMETRIC => {}
        SIOCGIFMTU => out[..4].copy_from_slice(&(interface.mtu() as u32).to_le_bytes()),
        SIOCGIFINDEX => out[..4].copy_from_slice(&interface.index.to_le_bytes()),
        SIOCGIFHWADDR => {
            // ARPHRD_LOOPBACK, ARPHRD_ETHER.
            let kind: u16 = if interface.is_loopback() { 772 } else { 1 };
            out[..2].copy_from_slice(&kind.to_le_bytes());
            out[2..8].copy_from_slice(&interface.mac());
        }
        _ => return Err(Errno::EINVAL),
    }
    user::write(at + NAME as u64, &out)?;
    Ok(0)
}
