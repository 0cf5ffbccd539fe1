//! UDP sockets.
//!
//! A socket has a [`Lane`] for each interface that it has dealt with, because packets that wait for a neighbour's address must leave by
//! their own interface. smoltcp sends a socket's datagrams in order, and one to a neighbour who never answers would keep back all that
//! follow. So a lane receives with one smoltcp socket and sends with several: one that waits is left behind, and what it has is
//! lost if it is needed for others.

use crate::endpoint::{Cause, Common, Endpoint, Outcome, canonical, endpoint, next_id};
use crate::interface::Interface;
use crate::ports::{Claim, Protocol};
use crate::ready::Ready;
use crate::stack::Shared;
use crate::{Error, Hook, Result};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::sync::atomic::{AtomicUsize, Ordering};
use platform::sync::Mutex;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::Socket as AnySocket;
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, SendError, Socket, UdpMetadata};
use smoltcp::wire::{IpAddress, IpListenEndpoint};

/// Bytes and datagrams that a lane can hold, each way.
const BUFFER: usize = 64 << 10;
const DATAGRAMS: usize = 64;
/// Sockets that a lane sends with where there are neighbours; they share that room.
const SENDERS: usize = 4;
/// What headers take of a packet at least: UDP and IPv4, UDP and IPv6.
const HEADERS: (usize, usize) = (8 + 20, 8 + 40);

/// A datagram that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes copied.
    pub copied: usize,
    /// Its real length.
    pub len: usize,
    /// Who sent it.
    pub from: SocketAddr,
}

/// One of the sockets that a lane sends with.
struct Sender {
    handle: SocketHandle,
    /// For whom its last datagram was.
    to: Option<IpAddress>,
}

/// The sockets that a lane sends with.
struct Senders {
    all: Vec<Sender>,
    /// The one that was used last.
    current: usize,
}

impl Senders {
    fn handle(&self) -> SocketHandle {
        self.all[self.current].handle
    }

    fn waits(&self, set: &SocketSet<'static>, n: usize) -> bool {
        set.get::<Socket<'_>>(self.all[n].handle).send_queue() > 0
    }

    /// Chooses the socket for a datagram to `to`: one that keeps others for the same address, else one that keeps none. If there is none,
    /// and the device has room (`stuck`: so that it is neighbours which are waited for), what one of them keeps is lost.
    fn choose(
        &mut self,
        set: &mut SocketSet<'static>,
        to: IpAddress,
        stuck: impl Fn() -> bool,
    ) -> SocketHandle {
        let count = self.all.len();
        let by_turns = || (0..count).map(|n| (self.current + n) % count);
        let same = by_turns().find(|n| self.all[*n].to == Some(to) && self.waits(set, *n));
        let chosen = same.or_else(|| by_turns().find(|n| !self.waits(set, *n)));
        match chosen {
            Some(n) => self.current = n,
            None if count > 1 && stuck() => {
                self.current = (self.current + 1) % count;
                self.renew(set);
            }
            None => {}
        }
        self.all[self.current].to = Some(to);
        self.handle()
    }

    /// Empties the current one. The set remembers for whom a socket waits: to it, this is another one.
    fn renew(&mut self, set: &mut SocketSet<'static>) {
        if let AnySocket::Udp(mut socket) = set.remove(self.handle()) {
            let endpoint = socket.endpoint();
            socket.close();
            // It was bound to this before.
            let _ = socket.bind(endpoint);
            self.all[self.current].handle = set.add(socket);
        }
    }
}

pub(crate) struct Lane {
    common: Common,
    /// The socket that receives.
    handle: SocketHandle,
    /// A leaf, locked with the set.
    senders: Mutex<Senders>,
    interface: Arc<Interface>,
    hook: Hook,
    queued: AtomicUsize,
}

impl Lane {
    /// Sends a datagram.
    fn send(self: &Arc<Self>, data: &[u8], meta: UdpMetadata) -> core::result::Result<(), SendError> {
        let as_endpoint: Arc<dyn Endpoint> = Arc::clone(self) as _;
        self.interface.with(&as_endpoint, |_, set| {
            let mut senders = self.senders.lock();
            let stuck = || self.interface.can_send();
            let chosen = senders.choose(set, meta.endpoint.addr, stuck);
            match set.get_mut::<Socket<'_>>(chosen).send_slice(data, meta) {
                // Nobody is to wait for a neighbour who may not be there.
                Err(SendError::BufferFull) if senders.all.len() > 1 && stuck() => {
                    senders.renew(set);
                    set.get_mut::<Socket<'_>>(senders.handle()).send_slice(data, meta)
                }
                outcome => outcome,
            }
        })
    }
}

impl Endpoint for Lane {
    fn common(&self) -> &Common {
        &self.common
    }

    fn prepare(&self, _set: &mut SocketSet<'static>) {}

    fn settle(&self, set: &mut SocketSet<'static>, cause: Cause, sent: usize) -> Outcome {
        let socket = set.get_mut::<Socket<'_>>(self.handle);
        let queued = socket.recv_queue();
        let grown = queued > self.queued.swap(queued, Ordering::Relaxed);
        let senders = self.senders.lock();
        let waits = (0..senders.all.len()).any(|n| senders.waits(set, n));
        Outcome {
            notify: grown || sent > 0 && cause != Cause::Call,
            waits_for_neighbour: waits,
            ..Outcome::default()
        }
    }

    fn settled(&self, outcome: Outcome) {
        if outcome.notify {
            (self.hook)();
        }
    }
}

struct State {
    claim: Claim,
    port: u16,
    peer: Option<SocketAddr>,
    lanes: BTreeMap<u32, Arc<Lane>>,
    shut: (bool, bool),
}

/// What the stack's tables know of a socket.
pub(crate) struct UdpShared {
    shared: Arc<Shared>,
    hook: Hook,
    state: Mutex<State>,
}

impl UdpShared {
    pub(crate) fn claim(&self) -> Claim {
        self.state.lock().claim
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.state.lock().peer
    }

    /// The lane of an interface. To be called with nothing of the socket locked.
    pub(crate) fn lane(&self, index: u32) -> Arc<dyn Endpoint> {
        match self.lane_at(index) {
            Some(lane) => lane,
            None => unreachable!("frames come from interfaces that exist"),
        }
    }

    fn lane_at(&self, index: u32) -> Option<Arc<Lane>> {
        if let Some(lane) = self.state.lock().lanes.get(&index) {
            return Some(Arc::clone(lane));
        }
        let interface = self.shared.interface(index)?;
        // A share of the lane's room; none: nothing can be held.
        let buffer = |shares: usize| {
            let share = |all: usize| all.checked_div(shares).unwrap_or(0);
            PacketBuffer::new(
                alloc::vec![PacketMetadata::EMPTY; share(DATAGRAMS)],
                alloc::vec![0; share(BUFFER)],
            )
        };
        let count = if interface.is_loopback() { 1 } else { SENDERS };
        let (address, port) = {
            let state = self.state.lock();
            (state.claim.address, state.port)
        };
        let address = (!address.is_unspecified()).then(|| IpAddress::from(address));
        let mut set = SocketSet::new(Vec::with_capacity(1 + count));
        let mut add = |mut socket: Socket<'static>| {
            socket.bind(IpListenEndpoint { addr: address, port }).ok()?;
            Some(set.add(socket))
        };
        // What arrives goes to the first.
        let handle = add(Socket::new(buffer(1), buffer(0)))?;
        let mut sender = || Some(Sender { handle: add(Socket::new(buffer(0), buffer(count)))?, to: None });
        let all = (0..count).map(|_| sender()).collect::<Option<_>>()?;
        let lane = Lane {
            common: Common::new(set),
            handle,
            senders: Mutex::new(Senders { all, current: 0 }),
            interface,
            hook: Arc::clone(&self.hook),
            queued: AtomicUsize::new(0),
        };
        Some(Arc::clone(self.state.lock().lanes.entry(index).or_insert(Arc::new(lane))))
    }

    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.state.lock().lanes.values().cloned().collect()
    }
}

/// A UDP socket.
pub struct UdpSocket {
    shared: Arc<Shared>,
    id: u64,
    hook: Hook,
    setup: Mutex<(bool, bool, bool)>,
    bound: spin::Once<Arc<UdpShared>>,
}

impl UdpSocket {
    pub(crate) fn new(shared: &Arc<Shared>, hook: Hook) -> Self {
        UdpSocket {
            shared: Arc::clone(shared),
            id: next_id(),
            hook,
            setup: Mutex::new((false, false, false)),
            bound: spin::Once::new(),
        }
    }

    fn bind_at(&self, address: IpAddr, port: u16) -> Result<&Arc<UdpShared>> {
        let setup = self.setup.lock();
        if let Some(bound) = self.bound.get() {
            return Ok(bound);
        }
        let (reuse_address, reuse_port, only_v6) = *setup;
        let claim = Claim { id: self.id, address, only_v6, reuse_address, reuse_port, listens: false };
        let port = self.shared.claim(Protocol::Udp, port, claim)?;
        let state = State { claim, port, peer: None, lanes: BTreeMap::new(), shut: (false, false) };
        let udp = Arc::new(UdpShared {
            shared: Arc::clone(&self.shared),
            hook: Arc::clone(&self.hook),
            state: Mutex::new(state),
        });
        self.shared.tables.lock().add_datagrams(port, Arc::clone(&udp));
        Ok(self.bound.call_once(|| udp))
    }

    /// `bind(2)`. Port 0: any.
    pub fn bind(&self, address: SocketAddr) -> Result<()> {
        if self.bound.get().is_some() {
            return Err(Error::Invalid);
        }
        self.bind_at(address.ip().to_canonical(), address.port()).map(drop)
    }

    fn bind_for(&self, remote: SocketAddr) -> Result<&Arc<UdpShared>> {
        let any = match remote.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        self.bind_at(any, 0)
    }

    /// `connect(2)`: where [`UdpSocket::send`] sends without an address, and the only one that is heard. `None`: undoes it.
    pub fn connect(&self, remote: Option<SocketAddr>) -> Result<()> {
        let Some(remote) = remote.map(canonical) else {
            if let Some(bound) = self.bound.get() {
                bound.state.lock().peer = None;
            }
            return Ok(());
        };
        self.shared.route(remote.ip())?;
        self.bind_for(remote)?.state.lock().peer = Some(remote);
        (self.hook)();
        Ok(())
    }

    /// Sends a datagram. [`Error::WouldBlock`] if there is no room.
    pub fn send(&self, data: &[u8], to: Option<SocketAddr>) -> Result<usize> {
        let peer = self.bound.get().and_then(|b| b.peer());
        let to = to.map(canonical).or(peer).ok_or(Error::NoDestination)?;
        if to.port() == 0 {
            return Err(Error::Invalid);
        }
        let bound = self.bind_for(to)?;
        if bound.state.lock().shut.1 {
            return Err(Error::Closed);
        }
        let interface = self.shared.route(to.ip())?;
        let headers = if to.is_ipv4() { HEADERS.0 } else { HEADERS.1 };
        if data.len() + headers > interface.mtu() {
            return Err(Error::TooLong);
        }
        let lane = bound.lane_at(interface.index).ok_or(Error::NoMemory)?;
        let mut meta = UdpMetadata::from(endpoint(to));
        let own = bound.claim().address;
        if own.is_unspecified() && interface.is_loopback() {
            meta.local_address = Some(to.ip().into());
        }
        match lane.send(data, meta) {
            Ok(()) => Ok(data.len()),
            Err(SendError::BufferFull) => Err(Error::WouldBlock),
            Err(SendError::Unaddressable) => Err(Error::Invalid),
        }
    }

    /// Reads the next datagram into `out`; `peek`: it stays.
    pub fn receive(&self, out: &mut [u8], peek: bool) -> Result<Received> {
        let bound = self.bound.get().ok_or(Error::WouldBlock)?;
        for lane in bound.lanes() {
            let mut set = lane.common.set.lock();
            let socket = set.get_mut::<Socket<'_>>(lane.handle);
            let found = if peek { socket.peek().map(|(data, meta)| (data, *meta)) } else { socket.recv() };
            let Ok((data, meta)) = found else { continue };
            let copied = out.len().min(data.len());
            out[..copied].copy_from_slice(&data[..copied]);
            let received = Received {
                copied,
                len: data.len(),
                from: SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port),
            };
            let left = socket.recv_queue();
            lane.queued.store(left, Ordering::Relaxed);
            return Ok(received);
        }
        if bound.state.lock().shut.0 {
            return Ok(Received {
                copied: 0,
                len: 0,
                from: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            });
        }
        Err(Error::WouldBlock)
    }

    /// `shutdown(2)`; only for connected sockets.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let bound = self.bound.get().ok_or(Error::NotConnected)?;
        let mut state = bound.state.lock();
        if state.peer.is_none() {
            return Err(Error::NotConnected);
        }
        state.shut = (state.shut.0 || read, state.shut.1 || write);
        drop(state);
        (self.hook)();
        Ok(())
    }

    /// What it is ready for.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let Some(bound) = self.bound.get() else { return Ready::OUT };
        let (mut readable, mut writable) = (bound.state.lock().shut.0, true);
        for lane in bound.lanes() {
            let set = lane.common.set.lock();
            readable |= set.get::<Socket<'_>>(lane.handle).can_recv();
            writable &= set.get::<Socket<'_>>(lane.senders.lock().handle()).can_send();
        }
        Ready::default().with(Ready::IN, readable).with(Ready::OUT, writable)
    }

    /// Length of the next datagram (`FIONREAD`).
    #[must_use]
    pub fn queued(&self) -> usize {
        self.receive(&mut [], true).map_or(0, |r| r.len)
    }

    /// Its own address, if it has one.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        let state = self.bound.get()?.state.lock();
        let connected = state.peer.filter(|_| state.claim.address.is_unspecified());
        let (address, port) = (state.claim.address, state.port);
        drop(state);
        let source = connected.and_then(|peer| {
            let interface = self.shared.route(peer.ip()).ok()?;
            if interface.is_loopback() { Some(peer.ip()) } else { interface.source_for(peer.ip()) }
        });
        Some(SocketAddr::new(source.unwrap_or(address), port))
    }

    /// What it is connected to; [`Error::NotConnected`].
    pub fn remote(&self) -> Result<SocketAddr> {
        self.bound.get().and_then(|b| b.peer()).ok_or(Error::NotConnected)
    }

    /// `SO_REUSEADDR`, `SO_REUSEPORT`, `IPV6_V6ONLY`: before it is bound.
    pub fn set_sharing(&self, reuse_address: Option<bool>, reuse_port: Option<bool>, only_v6: Option<bool>) {
        let mut setup = self.setup.lock();
        setup.0 = reuse_address.unwrap_or(setup.0);
        setup.1 = reuse_port.unwrap_or(setup.1);
        setup.2 = only_v6.unwrap_or(setup.2);
    }

    /// See [`UdpSocket::set_sharing`].
    #[must_use]
    pub fn sharing(&self) -> (bool, bool, bool) {
        *self.setup.lock()
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let Some(bound) = self.bound.get() else { return };
        let (port, id) = {
            let state = bound.state.lock();
            (state.port, state.claim.id)
        };
        let mut tables = self.shared.tables.lock();
        tables.remove_datagrams(port, bound);
        tables.ports.release(Protocol::Udp, port, id);
    }
}
