//! TCP sockets.
//!
//! [`TcpSocket`] is what an application holds: fresh, listening or connected. [`Conn`] is a connection; it lives in the
//! stack's tables until smoltcp is done with it, also when nobody holds the socket any more.

use crate::endpoint::{Cause, Common, Endpoint, Outcome, canonical, endpoint, next_id};
use crate::interface::Interface;
use crate::listener::Listener;
use crate::outbox::Outbox;
use crate::ports::{Claim, Protocol};
use crate::ready::Ready;
use crate::stack::Shared;
use crate::{Error, Hook, Result};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use platform::sync::Mutex;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::IpListenEndpoint;

/// A SYN that nobody answers is given up after this (Linux: 127 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(127);
/// So long may the last step of a handshake take.
const HALF_OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// So long may the other side be silent while data is on its way to it (Linux: about 15 minutes).
const SEND_TIMEOUT: Duration = Duration::from_secs(924);
/// So long does a connection that nobody holds wait for the other side to end it.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(60);
/// Bounds of `SO_RCVBUF` and `SO_SNDBUF`.
const BUFFER_BOUNDS: (usize, usize) = (4 << 10, 4 << 20);

/// `SO_LINGER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Linger {
    /// What is unsent is sent after the socket is closed.
    #[default]
    Background,
    /// Closing resets the connection.
    Reset,
}

/// What can be set on a socket before it is connected, and is inherited by accepted ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) no_delay: bool,
    pub(crate) keep_alive: Option<u64>,
    pub(crate) linger: Linger,
    pub(crate) receive_buffer: Option<usize>,
    pub(crate) send_buffer: Option<usize>,
    pub(crate) reuse_address: bool,
    pub(crate) reuse_port: bool,
    pub(crate) only_v6: bool,
}

/// What `TCP_INFO` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Linux's number of the state: 1 established … 10 listening.
    pub state: u8,
    /// Bytes that wait to be read.
    pub receive_queue: usize,
    /// Bytes that are not acknowledged.
    pub send_queue: usize,
}

/// The right to a port; given back when the last one who has it is gone.
struct Binding {
    shared: Arc<Shared>,
    port: u16,
    claim: Claim,
}

impl Drop for Binding {
    fn drop(&mut self) {
        self.shared.tables.lock().ports.release(Protocol::Tcp, self.port, self.claim.id);
    }
}

/// A connection.
pub(crate) struct Conn {
    common: Common,
    handle: SocketHandle,
    local: SocketAddr,
    remote: SocketAddr,
    shared: Arc<Shared>,
    interface: Arc<Interface>,
    listener: Option<Weak<Listener>>,
    /// Keeps the port of a connection that was begun here.
    _binding: Option<Arc<Binding>>,
    hook: spin::Once<Hook>,
    ready: AtomicU32,
    /// The state when it was settled last. Written with the set locked.
    state: Mutex<State>,
    error: Mutex<Option<Error>>,
    /// Bytes in the receive queue that the reader was told of.
    told: AtomicUsize,
    capacity: usize,
    reset_on_close: AtomicBool,
    /// `shutdown(SHUT_RD)`.
    deaf: AtomicBool,
    /// Nobody holds the socket.
    orphan: AtomicBool,
    retired: AtomicBool,
    lingering: AtomicBool,
    sent: AtomicU64,
}

/// A buffer of `len` zeros; `None` without memory.
fn buffer(len: usize) -> Option<SocketBuffer<'static>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).ok()?;
    bytes.resize(len, 0);
    Some(SocketBuffer::new(bytes))
}

impl Conn {
    fn make(
        shared: &Arc<Shared>,
        interface: &Arc<Interface>,
        (local, remote): (SocketAddr, SocketAddr),
        options: &Options,
        listener: Option<Weak<Listener>>,
        binding: Option<Arc<Binding>>,
    ) -> Option<Arc<Self>> {
        let bound = |wanted: Option<usize>, default: usize| {
            wanted.unwrap_or(default).clamp(BUFFER_BOUNDS.0, BUFFER_BOUNDS.1)
        };
        let capacity = bound(options.receive_buffer, shared.config.receive_buffer);
        let receive = buffer(capacity)?;
        let send = buffer(bound(options.send_buffer, shared.config.send_buffer))?;
        let mut socket = Socket::new(receive, send);
        socket.set_nagle_enabled(!options.no_delay);
        socket.set_keep_alive(options.keep_alive.map(Duration::from_secs));
        // Nothing is congested within the machine, and slow start would meet delayed acknowledgements of huge segments.
        // Segments are longer than buffers there: with Nagle's algorithm each would wait for a delayed acknowledgement.
        if interface.is_loopback() {
            socket.set_congestion_control(CongestionControl::None);
            socket.set_ack_delay(None);
        } else {
            socket.set_congestion_control(CongestionControl::Reno);
        }
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Some(Arc::new(Conn {
            common: Common::new(set),
            handle,
            local,
            remote,
            shared: Arc::clone(shared),
            interface: Arc::clone(interface),
            listener,
            _binding: binding,
            hook: spin::Once::new(),
            ready: AtomicU32::new(0),
            state: Mutex::new(State::Closed),
            error: Mutex::new(None),
            told: AtomicUsize::new(0),
            capacity,
            reset_on_close: AtomicBool::new(options.linger == Linger::Reset),
            deaf: AtomicBool::new(false),
            orphan: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            lingering: AtomicBool::new(false),
            sent: AtomicU64::new(0),
        }))
    }

    /// A connection that waits for the SYN which is just being received.
    pub(crate) fn passive(
        shared: &Arc<Shared>,
        interface: &Arc<Interface>,
        local: SocketAddr,
        remote: SocketAddr,
        options: &Options,
        listener: Weak<Listener>,
    ) -> Option<Arc<Self>> {
        let conn = Self::make(shared, interface, (local, remote), options, Some(listener), None)?;
        let mut set = conn.common.set.lock();
        let socket = set.get_mut::<Socket<'_>>(conn.handle);
        socket.set_timeout(Some(HALF_OPEN_TIMEOUT));
        socket.listen(IpListenEndpoint::from(endpoint(local))).ok()?;
        *conn.state.lock() = State::Listen;
        drop(set);
        Some(conn)
    }

    pub(crate) fn number(&self) -> u64 {
        self.common.id
    }

    /// Its place among a listener's connections: the interface, then the age.
    pub(crate) fn place(&self) -> (u32, u64) {
        (self.interface.index, self.common.id)
    }

    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn remote(&self) -> SocketAddr {
        self.remote
    }

    pub(crate) fn linux_state(&self) -> u8 {
        match *self.state.lock() {
            State::Established => 1,
            State::SynSent => 2,
            State::SynReceived => 3,
            State::FinWait1 => 4,
            State::FinWait2 => 5,
            State::TimeWait => 6,
            State::Closed => 7,
            State::CloseWait => 8,
            State::LastAck => 9,
            State::Listen => 10,
            State::Closing => 11,
        }
    }

    pub(crate) fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Enters it among those who have something to send.
    pub(crate) fn want(self: &Arc<Self>) {
        self.interface.want(Arc::clone(self) as _);
    }

    /// Sends.
    pub(crate) fn push(self: &Arc<Self>) {
        self.want();
        self.interface.serve_wanting();
    }

    /// Takes it out of the tables without a word to the other side.
    pub(crate) fn forget(&self) {
        self.retired.store(true, Ordering::SeqCst);
        let key = (self.local, self.remote);
        let mut tables = self.shared.tables.lock();
        if tables.tcp.get(&key).is_some_and(|conn| conn.number() == self.number()) {
            let conn = tables.tcp.remove(&key);
            drop(tables);
            drop(conn);
        }
    }

    /// Runs `call` on the smoltcp socket, then sends.
    fn with<R>(self: &Arc<Self>, call: impl FnOnce(&mut Socket<'static>) -> R) -> R {
        let endpoint: Arc<dyn Endpoint> = Arc::clone(self) as _;
        self.interface.with(&endpoint, |_, set| call(set.get_mut::<Socket<'_>>(self.handle)))
    }

    /// Ends it with a reset.
    pub(crate) fn abort(self: &Arc<Self>) {
        self.orphan.store(true, Ordering::SeqCst);
        self.with(Socket::abort);
    }

    /// The application has closed its last descriptor.
    fn close(self: &Arc<Self>) {
        self.orphan.store(true, Ordering::SeqCst);
        let reset = self.reset_on_close.load(Ordering::Relaxed);
        self.with(|socket| {
            // Data that nobody will read: the other side must know (RFC 2525, 2.17).
            if reset || socket.recv_queue() > 0 {
                socket.abort();
            } else {
                socket.set_timeout(Some(ORPHAN_TIMEOUT));
                socket.close();
            }
        });
    }

    fn take_error(&self) -> Option<Error> {
        let error = self.error.lock().take();
        if error.is_some() {
            self.ready.fetch_and(!Ready::ERR.0, Ordering::SeqCst);
        }
        error
    }

    /// What holds now; the set is locked.
    fn look(&self, socket: &Socket<'_>) -> Ready {
        let state = socket.state();
        if matches!(state, State::Listen | State::SynSent | State::SynReceived) {
            return Ready::default();
        }
        let over = state == State::Closed;
        let ended = over
            || matches!(state, State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
            || self.deaf.load(Ordering::Relaxed);
        let room = socket.send_capacity() - socket.send_queue();
        Ready::default()
            .with(Ready::IN, socket.recv_queue() > 0 || ended)
            .with(Ready::RDHUP, ended)
            .with(Ready::OUT, !socket.may_send() || room * 3 >= socket.send_capacity())
            .with(Ready::HUP, over || ended && !socket.may_send())
            .with(Ready::ERR, self.error.lock().is_some())
    }

    fn receive(self: &Arc<Self>, out: &mut [u8], peek: bool) -> Result<usize> {
        let mut set = self.common.set.lock();
        let socket = set.get_mut::<Socket<'_>>(self.handle);
        if self.deaf.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let before = socket.recv_queue();
        let result = if peek { socket.peek_slice(out) } else { socket.recv_slice(out) };
        let answer = match result {
            Ok(0) if out.is_empty() => Ok(0),
            Ok(0) => Err(Error::WouldBlock),
            Ok(n) => Ok(n),
            Err(RecvError::Finished) => self.take_error().map_or(Ok(0), Err),
            Err(RecvError::InvalidState) => match (self.take_error(), socket.state()) {
                (Some(error), _) => Err(error),
                (None, State::SynSent | State::SynReceived) => Err(Error::WouldBlock),
                // It was shut down by ourselves, or its error was already told.
                (None, _) => Ok(0),
            },
        };
        let after = socket.recv_queue();
        self.told.store(after, Ordering::Relaxed);
        // Only takes away: what has come about is told by `settle`, which would not see the edge any more.
        self.ready.fetch_and(self.look(socket).0, Ordering::SeqCst);
        let half = self.capacity / 2;
        // The window has opened again: the sender may wait for that.
        let opened = self.capacity - before < half && self.capacity - after >= half;
        drop(set);
        if opened {
            self.push();
        }
        answer
    }

    fn send(self: &Arc<Self>, data: &[u8], outbox: Option<&Outbox>) -> Result<usize> {
        let result = self.queue(data);
        let result = match outbox {
            // What fills the buffer may be what was put off.
            Some(outbox) if result == Err(Error::WouldBlock) && outbox.holds() => {
                outbox.flush();
                self.queue(data)
            }
            _ => result,
        };
        if let Ok(n) = result {
            match outbox {
                Some(outbox) => outbox.take(self, n),
                None => self.push(),
            }
        }
        result
    }

    /// Puts data into the buffer, from which it is still to be sent.
    fn queue(&self, data: &[u8]) -> Result<usize> {
        let mut set = self.common.set.lock();
        let socket = set.get_mut::<Socket<'_>>(self.handle);
        let result = match socket.send_slice(data) {
            Ok(0) if !data.is_empty() => Err(Error::WouldBlock),
            Ok(n) => Ok(n),
            Err(_) => Err(match (self.take_error(), socket.state()) {
                (Some(error), _) => error,
                (None, State::SynSent | State::SynReceived) => Error::WouldBlock,
                (None, _) => Error::Closed,
            }),
        };
        // As in `receive`: without room from here on, so that room to come is news.
        self.ready.fetch_and(self.look(socket).0, Ordering::SeqCst);
        result
    }
}

impl Endpoint for Conn {
    fn common(&self) -> &Common {
        &self.common
    }

    fn prepare(&self, set: &mut SocketSet<'static>) {
        let socket = set.get_mut::<Socket<'_>>(self.handle);
        // What comes for a socket that nobody holds, or that was pushed out of the backlog, is refused.
        let unwanted = self.orphan.load(Ordering::Relaxed) && socket.recv_queue() > 0;
        if unwanted || self.retired.load(Ordering::Relaxed) {
            socket.abort();
        }
    }

    fn settle(&self, set: &mut SocketSet<'static>, cause: Cause, sent: usize) -> Outcome {
        let socket = set.get_mut::<Socket<'_>>(self.handle);
        let (now, orphan) = (socket.state(), self.orphan.load(Ordering::Relaxed));
        let before = core::mem::replace(&mut *self.state.lock(), now);
        let total = self.sent.fetch_add(sent as u64, Ordering::Relaxed) + sent as u64;
        let began = matches!(before, State::Listen | State::SynSent | State::SynReceived);
        let established =
            began && !matches!(now, State::Listen | State::SynSent | State::SynReceived | State::Closed);
        if established && !orphan {
            socket.set_timeout(Some(SEND_TIMEOUT));
        }
        // A passive connection that is reset before it is established goes back to listening: it was made for one SYN.
        let over = now == State::Closed || now == State::Listen;
        if over && now != before && !orphan {
            let graceful = matches!(before, State::LastAck | State::TimeWait);
            let error = match cause {
                Cause::Call => None,
                Cause::Timer if !graceful => Some(Error::TimedOut),
                Cause::Frame if before == State::SynSent => Some(Error::Refused),
                Cause::Frame if !graceful => Some(Error::Reset),
                _ => None,
            };
            if let Some(error) = error {
                self.error.lock().get_or_insert(error);
            }
        }
        let ready = if over { self.look_over(socket) } else { self.look(socket) };
        let old = Ready(self.ready.swap(ready.0, Ordering::SeqCst));
        let queued = socket.recv_queue();
        let grown = queued > self.told.swap(queued, Ordering::Relaxed);
        Outcome {
            notify: grown || ready.0 & !old.0 != 0,
            retire: over,
            lingers: now == State::TimeWait && orphan && !self.lingering.swap(true, Ordering::Relaxed),
            waits_for_neighbour: now == State::SynSent && total == 0,
        }
    }

    fn settled(&self, outcome: Outcome) {
        if let Some(listener) = self.listener.as_ref().and_then(Weak::upgrade) {
            if outcome.retire {
                listener.failed(self);
            } else if !matches!(*self.state.lock(), State::Listen | State::SynReceived) {
                listener.established(self);
            }
        }
        if outcome.retire {
            self.forget();
        }
        if outcome.notify
            && let Some(hook) = self.hook.get()
        {
            hook();
        }
    }
}

impl Conn {
    /// What holds of a connection that is over.
    fn look_over(&self, socket: &Socket<'_>) -> Ready {
        let all = Ready::IN.0 | Ready::OUT.0 | Ready::HUP.0 | Ready::RDHUP.0;
        let _ = socket;
        Ready(all).with(Ready::ERR, self.error.lock().is_some())
    }
}

#[derive(Default)]
struct Setup {
    options: Options,
    binding: Option<Arc<Binding>>,
}

/// A TCP socket.
pub struct TcpSocket {
    shared: Arc<Shared>,
    id: u64,
    hook: Hook,
    setup: Mutex<Setup>,
    listener: spin::Once<Arc<Listener>>,
    conn: spin::Once<Arc<Conn>>,
}

impl TcpSocket {
    pub(crate) fn new(shared: &Arc<Shared>, hook: Hook) -> Self {
        TcpSocket {
            shared: Arc::clone(shared),
            id: next_id(),
            hook,
            setup: Mutex::new(Setup::default()),
            listener: spin::Once::new(),
            conn: spin::Once::new(),
        }
    }

    fn connection(&self) -> Result<&Arc<Conn>> {
        self.conn.get().ok_or(Error::NotConnected)
    }

    fn claim(&self, options: &Options, address: IpAddr, listens: bool) -> Claim {
        Claim {
            id: self.id,
            address,
            only_v6: options.only_v6,
            reuse_address: options.reuse_address,
            reuse_port: options.reuse_port,
            listens,
        }
    }

    fn take_port(
        &self,
        setup: &mut Setup,
        address: IpAddr,
        port: u16,
        listens: bool,
    ) -> Result<Arc<Binding>> {
        let claim = self.claim(&setup.options, address, listens);
        let port = self.shared.claim(Protocol::Tcp, port, claim)?;
        let binding = Arc::new(Binding { shared: Arc::clone(&self.shared), port, claim });
        setup.binding = Some(Arc::clone(&binding));
        Ok(binding)
    }

    /// `bind(2)`. Port 0: any.
    pub fn bind(&self, address: SocketAddr) -> Result<()> {
        let mut setup = self.setup.lock();
        if setup.binding.is_some() || self.conn.get().is_some() {
            return Err(Error::Invalid);
        }
        self.take_port(&mut setup, address.ip().to_canonical(), address.port(), false).map(drop)
    }

    /// `listen(2)`: on an unbound socket at any port.
    pub fn listen(&self, backlog: usize) -> Result<()> {
        if let Some(listener) = self.listener.get() {
            listener.set_backlog(backlog);
            return Ok(());
        }
        let mut setup = self.setup.lock();
        if self.conn.get().is_some() {
            return Err(Error::Invalid);
        }
        let (address, port) = match &setup.binding {
            Some(binding) => (binding.claim.address, binding.port),
            None => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        };
        let claim = self.claim(&setup.options, address, true);
        let port = match setup.binding {
            Some(_) => {
                // The same claim again, now as a listener's.
                if !self.shared.tables.lock().ports.claim(Protocol::Tcp, port, claim) {
                    return Err(Error::AddressInUse);
                }
                port
            }
            None => self.take_port(&mut setup, address, 0, true)?.port,
        };
        let (options, hook) = (setup.options.clone(), Arc::clone(&self.hook));
        let listener = Listener::new(claim, port, &self.shared, options, backlog, hook);
        self.shared.tables.lock().add_listener(Arc::clone(&listener));
        self.listener.call_once(|| listener);
        Ok(())
    }

    /// `accept(2)`: a connected socket, whose hook is `hook`. [`Error::WouldBlock`] if nobody waits.
    pub fn accept(&self, hook: Hook) -> Result<TcpSocket> {
        let listener = self.listener.get().ok_or(Error::Invalid)?;
        let conn = listener.accept().ok_or(Error::WouldBlock)?;
        let socket = TcpSocket::new(&self.shared, Arc::clone(&hook));
        socket.setup.lock().options = self.setup.lock().options.clone();
        conn.hook.call_once(|| hook);
        socket.conn.call_once(|| conn);
        Ok(socket)
    }

    /// `connect(2)`: begins. [`Error::InProgress`] at first, [`Error::Already`] until it is decided.
    pub fn connect(&self, remote: SocketAddr) -> Result<()> {
        let mut remote = canonical(remote);
        if remote.ip().is_unspecified() {
            // As on Linux: this machine.
            let own: IpAddr = if remote.is_ipv4() {
                Ipv4Addr::LOCALHOST.into()
            } else {
                core::net::Ipv6Addr::LOCALHOST.into()
            };
            remote.set_ip(own);
        }
        if let Some(conn) = self.conn.get() {
            return match *conn.state.lock() {
                State::SynSent => Err(Error::Already),
                State::Closed => Err(conn.take_error().unwrap_or(Error::Aborted)),
                _ => Err(Error::Connected),
            };
        }
        if self.listener.get().is_some() {
            return Err(Error::Connected);
        }
        if remote.port() == 0 {
            return Err(Error::Refused);
        }
        let mut setup = self.setup.lock();
        let interface = self.shared.route(remote.ip())?;
        let bound = setup.binding.as_ref().map(|b| b.claim.address).filter(|a| !a.is_unspecified());
        let source = match bound {
            Some(address) if address.is_ipv4() != remote.is_ipv4() => return Err(Error::Unreachable),
            Some(address) => address,
            None if interface.is_loopback() => remote.ip(),
            None => interface.source_for(remote.ip()).ok_or(Error::Unreachable)?,
        };
        let binding = match &setup.binding {
            Some(binding) => Arc::clone(binding),
            None => self.take_port(&mut setup, source, 0, false)?,
        };
        let local = SocketAddr::new(source, binding.port);
        let conn = Conn::make(&self.shared, &interface, (local, remote), &setup.options, None, Some(binding))
            .ok_or(Error::NoMemory)?;
        conn.hook.call_once(|| Arc::clone(&self.hook));
        {
            let mut tables = self.shared.tables.lock();
            if tables.tcp.contains_key(&(local, remote)) {
                return Err(Error::AddressInUse);
            }
            tables.tcp.insert((local, remote), Arc::clone(&conn));
        }
        self.conn.call_once(|| Arc::clone(&conn));
        drop(setup);
        let as_endpoint: Arc<dyn Endpoint> = Arc::clone(&conn) as _;
        let begun = interface.with(&as_endpoint, |smol, set| {
            *conn.state.lock() = State::SynSent;
            let socket = set.get_mut::<Socket<'_>>(conn.handle);
            socket.set_timeout(Some(CONNECT_TIMEOUT));
            socket.connect(smol.context(), endpoint(remote), endpoint(local))
        });
        if begun.is_err() {
            conn.forget();
            return Err(Error::Unreachable);
        }
        match *conn.state.lock() {
            // Over the loopback interface it may be decided already.
            State::SynSent => Err(Error::InProgress),
            State::Closed => Err(conn.take_error().unwrap_or(Error::Refused)),
            _ => Ok(()),
        }
    }

    /// Whether the connection that [`TcpSocket::connect`] began has come about. [`Error::WouldBlock`]: not decided.
    pub fn connected(&self) -> Result<()> {
        let conn = self.connection()?;
        match *conn.state.lock() {
            State::SynSent => Err(Error::WouldBlock),
            State::Closed => Err(conn.take_error().unwrap_or(Error::Aborted)),
            _ => Ok(()),
        }
    }

    /// Reads what is there. 0: the other side has ended, or `out` is empty. `peek`: it stays.
    pub fn receive(&self, out: &mut [u8], peek: bool) -> Result<usize> {
        self.connection()?.receive(out, peek)
    }

    /// Sends what there is room for; by way of `outbox`, where there is one: see there.
    pub fn send(&self, data: &[u8], outbox: Option<&Outbox>) -> Result<usize> {
        match self.conn.get() {
            Some(conn) => conn.send(data, outbox),
            None => Err(Error::NotConnected),
        }
    }

    /// `shutdown(2)`.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let conn = match (self.conn.get(), self.listener.get()) {
            (Some(conn), _) => conn,
            // Linux: a listener that is shut down for reading listens no longer.
            (None, Some(listener)) => {
                if read {
                    self.shared.tables.lock().remove_listener(listener);
                    listener.close();
                    (self.hook)();
                }
                return Ok(());
            }
            (None, None) => return Err(Error::NotConnected),
        };
        if *conn.state.lock() == State::Closed {
            return Err(Error::NotConnected);
        }
        if read {
            conn.deaf.store(true, Ordering::SeqCst);
        }
        conn.with(|socket| {
            if write {
                socket.close();
            }
        });
        (self.hook)();
        Ok(())
    }

    /// What it is ready for.
    #[must_use]
    pub fn ready(&self) -> Ready {
        match (self.conn.get(), self.listener.get()) {
            (Some(conn), _) => Ready(conn.ready.load(Ordering::SeqCst)),
            (None, Some(listener)) => Ready::default().with(Ready::IN, listener.is_ready()),
            (None, None) => Ready(Ready::OUT.0 | Ready::HUP.0),
        }
    }

    /// The pending error (`SO_ERROR`), which is pending no longer.
    #[must_use]
    pub fn take_error(&self) -> Option<Error> {
        self.conn.get()?.take_error()
    }

    /// Its own address, if it has one.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        if let Some(conn) = self.conn.get() {
            return Some(conn.local);
        }
        if let Some(listener) = self.listener.get() {
            return Some(SocketAddr::new(listener.claim.address, listener.port));
        }
        self.setup.lock().binding.as_ref().map(|b| SocketAddr::new(b.claim.address, b.port))
    }

    /// The other side's address; [`Error::NotConnected`].
    pub fn remote(&self) -> Result<SocketAddr> {
        let conn = self.connection()?;
        let state = *conn.state.lock();
        if matches!(state, State::SynSent | State::Closed) {
            Err(Error::NotConnected)
        } else {
            Ok(conn.remote)
        }
    }

    /// Whether it listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listener.get().is_some()
    }

    /// Bytes that can be read (`FIONREAD`).
    #[must_use]
    pub fn queued(&self) -> usize {
        self.info().receive_queue
    }

    /// See [`Info`].
    #[must_use]
    pub fn info(&self) -> Info {
        let Some(conn) = self.conn.get() else {
            let state = if self.listener.get().is_some() { 10 } else { 7 };
            return Info { state, receive_queue: 0, send_queue: 0 };
        };
        let set = conn.common.set.lock();
        let socket = set.get::<Socket<'_>>(conn.handle);
        let (receive_queue, send_queue) = (socket.recv_queue(), socket.send_queue());
        drop(set);
        Info { state: conn.linux_state(), receive_queue, send_queue }
    }

    fn change(&self, change: impl FnOnce(&mut Options), now: impl FnOnce(&mut Socket<'static>)) {
        let mut setup = self.setup.lock();
        change(&mut setup.options);
        if let Some(listener) = self.listener.get() {
            listener.set_options(setup.options.clone());
        }
        drop(setup);
        if let Some(conn) = self.conn.get() {
            conn.with(now);
        }
    }

    /// `TCP_NODELAY`.
    pub fn set_no_delay(&self, on: bool) {
        self.change(|o| o.no_delay = on, |socket| socket.set_nagle_enabled(!on));
    }

    /// Whether `TCP_NODELAY` is set.
    #[must_use]
    pub fn no_delay(&self) -> bool {
        self.setup.lock().options.no_delay
    }

    /// `SO_KEEPALIVE`: probes after so many seconds of silence; `None`: no probes.
    pub fn set_keep_alive(&self, seconds: Option<u64>) {
        self.change(
            |o| o.keep_alive = seconds,
            |socket| socket.set_keep_alive(seconds.map(Duration::from_secs)),
        );
    }

    /// See [`TcpSocket::set_keep_alive`].
    #[must_use]
    pub fn keep_alive(&self) -> Option<u64> {
        self.setup.lock().options.keep_alive
    }

    /// `SO_LINGER`.
    pub fn set_linger(&self, linger: Linger) {
        self.change(|o| o.linger = linger, |_| ());
        if let Some(conn) = self.conn.get() {
            conn.reset_on_close.store(linger == Linger::Reset, Ordering::Relaxed);
        }
    }

    /// `SO_RCVBUF` and `SO_SNDBUF`, in bytes, for connections that are made from now on.
    pub fn set_buffers(&self, receive: Option<usize>, send: Option<usize>) {
        self.change(
            |o| {
                o.receive_buffer = receive.or(o.receive_buffer);
                o.send_buffer = send.or(o.send_buffer);
            },
            |_| (),
        );
    }

    /// The sizes of its buffers: for receiving, for sending.
    #[must_use]
    pub fn buffers(&self) -> (usize, usize) {
        if let Some(conn) = self.conn.get() {
            let set = conn.common.set.lock();
            let socket = set.get::<Socket<'_>>(conn.handle);
            return (socket.recv_capacity(), socket.send_capacity());
        }
        let (options, config) = (self.setup.lock().options.clone(), self.shared.config);
        let bound = |size: usize| size.clamp(BUFFER_BOUNDS.0, BUFFER_BOUNDS.1);
        (
            bound(options.receive_buffer.unwrap_or(config.receive_buffer)),
            bound(options.send_buffer.unwrap_or(config.send_buffer)),
        )
    }

    /// `SO_REUSEADDR`.
    pub fn set_reuse_address(&self, on: bool) {
        self.change(|o| o.reuse_address = on, |_| ());
    }

    /// `SO_REUSEPORT`.
    pub fn set_reuse_port(&self, on: bool) {
        self.change(|o| o.reuse_port = on, |_| ());
    }

    /// Whether `SO_REUSEADDR` and `SO_REUSEPORT` are set.
    #[must_use]
    pub fn reuse(&self) -> (bool, bool) {
        let options = &self.setup.lock().options;
        (options.reuse_address, options.reuse_port)
    }

    /// `IPV6_V6ONLY`.
    pub fn set_only_v6(&self, on: bool) {
        self.change(|o| o.only_v6 = on, |_| ());
    }

    /// Whether `IPV6_V6ONLY` is set.
    #[must_use]
    pub fn only_v6(&self) -> bool {
        self.setup.lock().options.only_v6
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get() {
            self.shared.tables.lock().remove_listener(listener);
            listener.close();
        }
        if let Some(conn) = self.conn.get() {
            conn.close();
        }
    }
}
