//! The stack: interfaces, routing between them, and the tables by which frames find their sockets.

use crate::device::{Device, Loopback};
use crate::interface::{Addresses, Interface};
use crate::listener::Listener;
use crate::ports::{Claim, Ports, Protocol};
use crate::tcp::{Conn, TcpSocket};
use crate::udp::{UdpShared, UdpSocket};
use crate::{Error, Hook, Result};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hash};
use core::net::{IpAddr, SocketAddr};
use hashbrown::HashMap;
use platform::Env;
use platform::sync::Mutex;

/// Sizes.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Bytes that a TCP socket can hold for its reader.
    pub receive_buffer: usize,
    /// Bytes that a TCP socket can hold for sending.
    pub send_buffer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config { receive_buffer: 64 << 10, send_buffer: 64 << 10 }
    }
}

/// Who gets which packets. A leaf lock: nothing else is locked while it is held.
#[derive(Default)]
pub(crate) struct Tables {
    /// By local and remote address.
    pub(crate) tcp: HashMap<(SocketAddr, SocketAddr), Arc<Conn>>,
    listeners: HashMap<u16, Vec<Arc<Listener>>>,
    datagrams: HashMap<u16, Vec<Arc<UdpShared>>>,
    pub(crate) ports: Ports,
}

/// How exactly a claim names an address; bigger is better.
fn exactness(claim: &Claim, to: SocketAddr) -> Option<u8> {
    claim.covers(to.ip()).then(|| match claim.address {
        own if own == to.ip() => 2,
        own => u8::from(own.is_ipv4() == to.is_ipv4()),
    })
}

impl Tables {
    /// The listener for a SYN. Several that share a port get their share of the remote addresses.
    pub(crate) fn listener(&self, to: SocketAddr, from: SocketAddr) -> Option<Arc<Listener>> {
        let all = self.listeners.get(&to.port())?;
        let best = all.iter().filter_map(|l| exactness(&l.claim, to)).max()?;
        let equal = || all.iter().filter(|l| exactness(&l.claim, to) == Some(best));
        let count = equal().count().max(1);
        let choice = if count == 1 { 0 } else { hash(self.tcp.hasher(), &(to, from)) as usize % count };
        equal().nth(choice).cloned()
    }

    /// The socket for a datagram: the one that is connected to its sender, or the one that names the address best.
    pub(crate) fn datagram(&self, to: SocketAddr, from: SocketAddr) -> Option<Arc<UdpShared>> {
        let all = self.datagrams.get(&to.port())?;
        let rate = |udp: &Arc<UdpShared>| {
            let exact = exactness(&udp.claim(), to)?;
            match udp.peer() {
                None => Some(exact),
                Some(peer) if peer == from => Some(exact + 4),
                Some(_) => None,
            }
        };
        all.iter()
            .filter_map(|udp| Some((rate(udp)?, udp)))
            .max_by_key(|(rate, _)| *rate)
            .map(|(_, udp)| Arc::clone(udp))
    }

    pub(crate) fn add_listener(&mut self, listener: Arc<Listener>) {
        self.listeners.entry(listener.port).or_default().push(listener);
    }

    pub(crate) fn remove_listener(&mut self, listener: &Arc<Listener>) {
        if let Some(all) = self.listeners.get_mut(&listener.port) {
            all.retain(|other| !Arc::ptr_eq(other, listener));
            if all.is_empty() {
                self.listeners.remove(&listener.port);
            }
        }
    }

    pub(crate) fn add_datagrams(&mut self, port: u16, udp: Arc<UdpShared>) {
        self.datagrams.entry(port).or_default().push(udp);
    }

    pub(crate) fn remove_datagrams(&mut self, port: u16, udp: &Arc<UdpShared>) {
        if let Some(all) = self.datagrams.get_mut(&port) {
            all.retain(|other| !Arc::ptr_eq(other, udp));
            if all.is_empty() {
                self.datagrams.remove(&port);
            }
        }
    }
}

fn hash(builder: &impl BuildHasher, value: &impl Hash) -> u64 {
    builder.hash_one(value)
}

/// What all sockets share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) config: Config,
    pub(crate) tables: Arc<Mutex<Tables>>,
    interfaces: spin::Once<Vec<Arc<Interface>>>,
}

impl Shared {
    pub(crate) fn interfaces(&self) -> &[Arc<Interface>] {
        self.interfaces.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn interface(&self, index: u32) -> Option<Arc<Interface>> {
        self.interfaces().iter().find(|i| i.index == index).cloned()
    }

    /// Whether `address` is one of this machine's.
    pub(crate) fn is_local(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || self.interfaces().iter().any(|i| i.facts().addresses.iter().any(|(own, _)| *own == address))
    }

    /// The interface that leads to `address`.
    pub(crate) fn route(&self, address: IpAddr) -> Result<Arc<Interface>> {
        let loopback = self.interfaces().first().ok_or(Error::Unreachable)?;
        if self.is_local(address) {
            return Ok(Arc::clone(loopback));
        }
        let mut by_router = None;
        for interface in self.interfaces().iter().filter(|i| !i.is_loopback()) {
            let facts = interface.facts();
            if facts.addresses.iter().any(|(own, prefix)| same_network(*own, address, *prefix)) {
                return Ok(Arc::clone(interface));
            }
            let routed = facts.gateways.iter().any(|g| g.is_ipv4() == address.is_ipv4());
            if by_router.is_none() && (routed || is_broadcast(address)) {
                by_router = Some(Arc::clone(interface));
            }
        }
        by_router.ok_or(Error::Unreachable)
    }

    /// Takes a local port for a socket; 0: any. The port.
    pub(crate) fn claim(&self, protocol: Protocol, port: u16, claim: Claim) -> Result<u16> {
        if !claim.address.is_unspecified() && !self.is_local(claim.address) && !is_group(claim.address) {
            return Err(Error::AddressNotAvailable);
        }
        let random = if port == 0 { self.env.random.next_u64() } else { 0 };
        let mut tables = self.tables.lock();
        if port == 0 {
            return tables.ports.claim_any(protocol, claim, random).ok_or(Error::AddressInUse);
        }
        if tables.ports.claim(protocol, port, claim) { Ok(port) } else { Err(Error::AddressInUse) }
    }
}

fn is_group(address: IpAddr) -> bool {
    address.is_multicast() || is_broadcast(address)
}

fn is_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_broadcast())
}

fn same_network(own: IpAddr, other: IpAddr, prefix: u8) -> bool {
    match (own, other) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let shift = 32 - u32::from(prefix.min(32));
            (a.to_bits() ^ b.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let shift = 128 - u32::from(prefix.min(128));
            (a.to_bits() ^ b.to_bits()).checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// A machine's network.
#[derive(Clone)]
pub struct Stack {
    shared: Arc<Shared>,
}

impl Stack {
    /// A stack with a loopback interface and one for each of `devices`: `eth0`, `eth1` …
    #[must_use]
    pub fn new(env: Env, config: Config, devices: Vec<(Arc<dyn Device>, Addresses)>) -> Self {
        let tables = Arc::new(Mutex::new(Tables::default()));
        let loopback: Arc<dyn Device> = Arc::new(Loopback::default());
        let loopback = Interface::new("lo".into(), 1, loopback, None, &env, &tables);
        let mut interfaces = alloc::vec![loopback];
        for (n, (device, addresses)) in devices.into_iter().enumerate() {
            let name = format!("eth{n}");
            let index = n as u32 + 2;
            interfaces.push(Interface::new(name, index, device, Some(&addresses), &env, &tables));
        }
        let stack = Stack { shared: Arc::new(Shared { env, config, tables, interfaces: spin::Once::new() }) };
        stack.shared.interfaces.call_once(|| interfaces);
        stack.addresses_changed();
        stack
    }

    /// To be called when an interface's addresses have changed, with nothing locked.
    pub fn addresses_changed(&self) {
        let Some((loopback, others)) = self.shared.interfaces().split_first() else { return };
        for other in others {
            loopback.also_answer_for(&other.facts().addresses);
        }
    }

    /// All interfaces, the loopback interface first.
    #[must_use]
    pub fn interfaces(&self) -> &[Arc<Interface>] {
        self.shared.interfaces()
    }

    /// A TCP socket. `hook` is called when its readiness may have changed.
    #[must_use]
    pub fn tcp(&self, hook: Hook) -> TcpSocket {
        TcpSocket::new(&self.shared, hook)
    }

    /// A UDP socket.
    #[must_use]
    pub fn udp(&self, hook: Hook) -> UdpSocket {
        UdpSocket::new(&self.shared, hook)
    }

    /// How many sockets have a port: listeners, TCP connections (also those that their owner has closed and that have not ended yet),
    /// bound UDP sockets.
    #[must_use]
    pub fn bound_sockets(&self) -> usize {
        let tables = self.shared.tables.lock();
        let listeners = tables.listeners.values().map(Vec::len).sum::<usize>();
        tables.tcp.len() + listeners + tables.datagrams.values().map(Vec::len).sum::<usize>()
    }

    /// All TCP connections: local and remote address, and Linux's number of the state.
    #[must_use]
    pub fn connections(&self) -> Vec<(SocketAddr, SocketAddr, u8)> {
        let all: Vec<Arc<Conn>> = self.shared.tables.lock().tcp.values().cloned().collect();
        all.iter().map(|conn| (conn.local(), conn.remote(), conn.linux_state())).collect()
    }

    /// All listening addresses.
    #[must_use]
    pub fn listening(&self) -> Vec<SocketAddr> {
        let tables = self.shared.tables.lock();
        tables.listeners.values().flatten().map(|l| SocketAddr::new(l.claim.address, l.port)).collect()
    }

    /// All bound UDP addresses.
    #[must_use]
    pub fn datagram_ports(&self) -> Vec<SocketAddr> {
        let tables = self.shared.tables.lock();
        let one = |(port, all): (&u16, &Vec<Arc<UdpShared>>)| {
            all.iter().map(|u| SocketAddr::new(u.claim().address, *port)).collect::<Vec<_>>()
        };
        tables.datagrams.iter().flat_map(one).collect()
    }
}
