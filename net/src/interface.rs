//! An interface: a device with addresses, the timers of what it carries, and the work on frames.
//!
//! # Invariants
//! - `Core` is locked for one step at a time: one frame with all that it causes, one call, one due timer.
//! - A timer entry may be earlier than needed (it is then set anew), never later: `Common::due` is the entry's time.
//! - No endpoint's set is locked while another's is.
//!
//! # Nobody waits for the core to send
//! Who has put data into an endpoint's buffer enters the endpoint into `wanting`, then tries for the core. Who has the core looks there
//! after he has left it, too, and takes it again if there is somebody. So each endpoint is served by one of the two, and threads that send
//! at the same time do not wait for each other.

use crate::Hook;
use crate::checksum;
use crate::demux::{self, Flow};
use crate::device::{Checksums, Device, Fill, Frame, Port};
use crate::endpoint::{Cause, Endpoint, NEVER};
use crate::listener::Admitted;
use crate::packet::Packet;
use crate::stack::Tables;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::num::{NonZeroU16, NonZeroUsize};
use core::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering, fence};
use platform::Env;
use platform::sync::{Mutex, MutexGuard};
use smoltcp::iface::{Config, Interface as Smol, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Cidr, Ipv6Cidr};

/// Frames that one endpoint may send before others have their turn.
const BURST: usize = 64;
/// Frames that one call of [`Interface::work`] takes.
const BUDGET: usize = 256;
/// Frames that a sender takes from the loopback queue.
const LOOPBACK_BUDGET: usize = 4096;
/// So often does a sender serve those who came while he did; then the interface's thread goes on.
const ROUNDS: usize = 8;
/// Times that smoltcp gives are rounded up to a multiple of so many microseconds, so that those of many connections ring together. (Linux
/// counts them in its ticks, of 4 ms on most machines.)
const TICK_US: i64 = 4000;
/// A device without room is tried again after so many microseconds.
const RETRY_US: i64 = 1000;
/// Connections in TIME-WAIT that are kept; the oldest go first. What comes for a forgotten one is answered by a reset.
const TIME_WAIT_MAX: usize = 32;

/// How an interface gets its addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addresses {
    /// From a DHCP server (IPv4) and by router advertisements (IPv6).
    Automatic,
    /// These.
    Static {
        /// Addresses with the lengths of their prefixes.
        addresses: Vec<(IpAddr, u8)>,
        /// The routers.
        gateways: Vec<IpAddr>,
        /// The name servers.
        dns: Vec<IpAddr>,
    },
}

/// What an interface is, for `SIOCGIFCONF`, `/proc/net` and routing.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Addresses with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The routers.
    pub gateways: Vec<IpAddr>,
    /// The name servers.
    pub dns: Vec<IpAddr>,
}

/// Frames and bytes that went through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Frames sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
}

struct Dhcp {
    set: SocketSet<'static>,
    handle: SocketHandle,
}

pub(crate) struct Core {
    smol: Smol,
    /// The set for packets that belong to no socket.
    nobody: SocketSet<'static>,
    dhcp: Option<Dhcp>,
    /// By time (microseconds) and number.
    timers: BTreeMap<(i64, u64), Arc<dyn Endpoint>>,
    /// When the interface itself has something to do.
    own_due: i64,
    /// Those who could not send, as the neighbour was not known.
    waiting: Vec<Arc<dyn Endpoint>>,
    lingering: VecDeque<Arc<dyn Endpoint>>,
}

/// An interface.
pub struct Interface {
    /// Its name: `lo`, `eth0` …
    pub name: String,
    /// Its number, from 1.
    pub index: u32,
    device: Arc<dyn Device>,
    env: Env,
    tables: Arc<Mutex<Tables>>,
    core: Mutex<Core>,
    /// Endpoints that have something to send, for whoever has the core next.
    wanting: Mutex<Vec<Arc<dyn Endpoint>>>,
    /// How many those are.
    wanted: AtomicUsize,
    facts: Mutex<Facts>,
    /// Until when its thread sleeps, in microseconds; 0: it does not.
    sleeps_until: AtomicI64,
    /// Wakes its thread.
    alarm: spin::Once<Hook>,
    /// Called when its addresses have changed.
    changed: spin::Once<Hook>,
    received: AtomicU64,
    received_bytes: AtomicU64,
    sent: AtomicU64,
    sent_bytes: AtomicU64,
}

/// A device that counts what it sends, and knows address resolution from other frames.
struct Counting<'a> {
    interface: &'a Interface,
    packets: AtomicUsize,
}

impl Device for Counting<'_> {
    fn mac(&self) -> Option<[u8; 6]> {
        self.interface.device.mac()
    }
    fn mtu(&self) -> usize {
        self.interface.device.mtu()
    }
    fn can_send(&self) -> bool {
        self.interface.device.can_send()
    }
    fn send(&self, len: usize, segment: Option<NonZeroU16>, fill: &mut Fill<'_>) {
        self.interface.sent.fetch_add(1, Ordering::Relaxed);
        self.interface.sent_bytes.fetch_add(len as u64, Ordering::Relaxed);
        let ethernet = self.mac().is_some();
        let completed = self.checksums() == Checksums::Completed;
        self.interface.device.send(len, segment, &mut |frame| {
            let partial = fill(frame);
            let packet = Packet::of(frame, ethernet);
            if demux::classify(frame, packet.as_ref()) != Flow::Other {
                self.packets.fetch_add(1, Ordering::Relaxed);
            }
            if completed { packet.and_then(|packet| checksum::begin(frame, &packet)) } else { partial }
        });
    }
    fn receive(&self, _take: &mut dyn FnMut(Frame<'_>)) -> bool {
        false
    }
    fn checksums(&self) -> Checksums {
        self.interface.device.checksums()
    }
    fn segmentation(&self) -> Option<NonZeroUsize> {
        self.interface.device.segmentation()
    }
}

/// The link-local address that follows from an Ethernet address (RFC 4291, appendix A).
fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

impl Interface {
    /// An interface over `device`. `None`: the loopback interface.
    pub(crate) fn new(
        name: String,
        index: u32,
        device: Arc<dyn Device>,
        addresses: Option<&Addresses>,
        env: &Env,
        tables: &Arc<Mutex<Tables>>,
    ) -> Arc<Self> {
        let hardware = match device.mac() {
            Some(mac) => HardwareAddress::Ethernet(EthernetAddress(mac)),
            None => HardwareAddress::Ip,
        };
        let mut config = Config::new(hardware);
        config.random_seed = env.random.next_u64();
        config.slaac = addresses == Some(&Addresses::Automatic);
        let now = Instant::from_micros((env.clock.monotonic_ns() / 1000) as i64);
        let smol = Smol::new(config, &mut Port { device: &*device, frame: None }, now);
        let dhcp = (addresses == Some(&Addresses::Automatic)).then(|| {
            let mut set = SocketSet::new(Vec::new());
            let handle = set.add(dhcpv4::Socket::new());
            Dhcp { set, handle }
        });
        let core = Core {
            smol,
            nobody: SocketSet::new(Vec::new()),
            dhcp,
            timers: BTreeMap::new(),
            own_due: 0,
            waiting: Vec::new(),
            lingering: VecDeque::new(),
        };
        let interface = Arc::new(Interface {
            name,
            index,
            device,
            env: env.clone(),
            tables: Arc::clone(tables),
            core: Mutex::new(core),
            wanting: Mutex::new(Vec::new()),
            wanted: AtomicUsize::new(0),
            facts: Mutex::new(Facts::default()),
            sleeps_until: AtomicI64::new(0),
            alarm: spin::Once::new(),
            changed: spin::Once::new(),
            received: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
        });
        let mut facts = Facts::default();
        match addresses {
            None => {
                facts.addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
                    .map(|a| (a, if a.is_ipv4() { 8 } else { 128 }))
                    .into();
            }
            Some(Addresses::Static { addresses, gateways, dns }) => {
                facts = Facts { addresses: addresses.clone(), gateways: gateways.clone(), dns: dns.clone() };
            }
            Some(Addresses::Automatic) => {}
        }
        if let Some(mac) = interface.device.mac() {
            facts.addresses.push((IpAddr::V6(link_local(mac)), 64));
        }
        interface.apply(&mut interface.core.lock(), facts);
        interface
    }

    /// Whether this is the loopback interface.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.device.mac().is_none()
    }

    /// Its Ethernet address; zeros for the loopback interface.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.device.mac().unwrap_or_default()
    }

    /// Largest IP packet in bytes.
    #[must_use]
    pub fn mtu(&self) -> usize {
        self.device.mtu()
    }

    /// Its addresses and routers.
    pub fn facts(&self) -> Facts {
        self.facts.lock().clone()
    }

    /// What went through it.
    pub fn counters(&self) -> Counters {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Counters {
            received: get(&self.received),
            received_bytes: get(&self.received_bytes),
            sent: get(&self.sent),
            sent_bytes: get(&self.sent_bytes),
        }
    }

    /// Sets what wakes the thread that calls [`Interface::work`]. Later calls have no effect.
    pub fn set_alarm(&self, alarm: Hook) {
        self.alarm.call_once(|| alarm);
    }

    /// Sets what is called when the addresses have changed. Later calls have no effect.
    pub fn set_changed(&self, changed: Hook) {
        self.changed.call_once(|| changed);
    }

    fn now(&self) -> i64 {
        (self.env.clock.monotonic_ns() / 1000) as i64
    }

    /// Makes `facts` the interface's.
    fn apply(&self, core: &mut Core, facts: Facts) {
        core.smol.update_ip_addrs(|list| {
            list.clear();
            for (address, prefix) in &facts.addresses {
                let cidr = match address {
                    IpAddr::V4(v4) => IpCidr::Ipv4(Ipv4Cidr::new(*v4, (*prefix).min(32))),
                    IpAddr::V6(v6) => IpCidr::Ipv6(Ipv6Cidr::new(*v6, (*prefix).min(128))),
                };
                // What smoltcp has no room for is not the interface's address.
                let _ = list.push(cidr);
            }
        });
        for gateway in &facts.gateways {
            let _ = match gateway {
                IpAddr::V4(v4) => core.smol.routes_mut().add_default_ipv4_route(*v4),
                IpAddr::V6(v6) => core.smol.routes_mut().add_default_ipv6_route(*v6),
            };
        }
        *self.facts.lock() = facts;
        if let Some(changed) = self.changed.get() {
            changed();
        }
    }

    /// Lets the loopback interface answer for another interface's address.
    pub(crate) fn also_answer_for(&self, addresses: &[(IpAddr, u8)]) {
        self.with_core(|core| {
            core.smol.update_ip_addrs(|list| {
                for (address, _) in addresses {
                    let cidr = IpCidr::new((*address).into(), if address.is_ipv4() { 32 } else { 128 });
                    if !list.contains(&cidr) {
                        let _ = list.push(cidr);
                    }
                }
            });
        });
    }

    /// Whether its device takes a frame now.
    pub(crate) fn can_send(&self) -> bool {
        self.device.can_send()
    }

    /// The address that packets to `remote` get as their source.
    pub(crate) fn source_for(&self, remote: IpAddr) -> Option<IpAddr> {
        self.with_core(|core| core.smol.get_source_address(&remote.into()).map(IpAddr::from))
    }

    /// Runs `call` on an endpoint's set, then sends what that brought about. Frames to the loopback interface are received
    /// before this returns.
    pub(crate) fn with<R>(
        &self,
        endpoint: &Arc<dyn Endpoint>,
        call: impl FnOnce(&mut Smol, &mut SocketSet<'static>) -> R,
    ) -> R {
        self.with_core(|core| {
            let result = call(&mut core.smol, &mut endpoint.common().set.lock());
            self.serve(core, endpoint, Cause::Call);
            result
        })
    }

    /// Enters an endpoint that has something to send. To be followed by [`Interface::serve_wanting`].
    pub(crate) fn want(&self, endpoint: Arc<dyn Endpoint>) {
        if !endpoint.common().wants.swap(true, Ordering::SeqCst) {
            let mut wanting = self.wanting.lock();
            wanting.push(endpoint);
            self.wanted.store(wanting.len(), Ordering::SeqCst);
        }
    }

    /// Sees to it that those who were entered are served: here, or by who has the core. Frames to the loopback interface are received
    /// there, too.
    pub(crate) fn serve_wanting(&self) {
        if self.is_wanted()
            && let Some(core) = self.core.try_lock()
        {
            self.leave(core);
        }
    }

    /// Whether somebody was entered before the core was tried, or left.
    fn is_wanted(&self) -> bool {
        fence(Ordering::SeqCst);
        self.wanted.load(Ordering::SeqCst) != 0
    }

    fn with_core<R>(&self, step: impl FnOnce(&mut Core) -> R) -> R {
        let mut core = self.core.lock();
        let result = step(&mut core);
        self.leave(core);
        result
    }

    /// Gives the core back when there is nobody whom its holder must serve, and lets the frames go.
    fn leave<'a>(&'a self, mut core: MutexGuard<'a, Core>) {
        for round in 1.. {
            let wanting = {
                let mut wanting = self.wanting.lock();
                self.wanted.store(0, Ordering::SeqCst);
                core::mem::take(&mut *wanting)
            };
            for endpoint in wanting {
                // What is put into its buffer from now on, it is entered for again.
                endpoint.common().wants.store(false, Ordering::SeqCst);
                self.serve(&mut core, &endpoint, Cause::Call);
            }
            if self.is_loopback() {
                self.take_frames(&mut core, LOOPBACK_BUDGET);
            }
            self.wake_for_timers(core);
            if !self.is_wanted() {
                break;
            }
            if round >= ROUNDS
                && let Some(alarm) = self.alarm.get()
            {
                alarm();
                break;
            }
            let Some(again) = self.core.try_lock() else { break };
            core = again;
        }
        self.device.flush();
    }

    /// Sends what an endpoint has to send, and finds out when it wants to be looked at again.
    fn serve(&self, core: &mut Core, endpoint: &Arc<dyn Endpoint>, cause: Cause) {
        let now = self.now();
        let counting = Counting { interface: self, packets: 0.into() };
        let mut port = Port { device: &counting, frame: None };
        let mut set = endpoint.common().set.lock();
        endpoint.prepare(&mut set);
        let instant = Instant::from_micros(now);
        // Asking when there is something to send costs less than trying to send.
        let ask = |smol: &mut Smol, set: &SocketSet<'_>| {
            smol.poll_at(instant, set).map_or(NEVER, |at| at.total_micros())
        };
        let mut due = ask(&mut core.smol, &set);
        for _ in 0..BURST {
            if due > now {
                break;
            }
            let sent = core.smol.poll_egress(instant, &mut port, &mut set);
            due = ask(&mut core.smol, &set);
            if sent == PollResult::None {
                break;
            }
        }
        let outcome = endpoint.settle(&mut set, cause, counting.packets.load(Ordering::Relaxed));
        drop(set);
        if outcome.retire {
            core.cancel(endpoint);
        } else {
            // Due at once after all that: the burst was over, or the device is full.
            let tick = |due: i64| due.checked_add(TICK_US - 1).map_or(NEVER, |due| due - due % TICK_US);
            core.schedule(endpoint, if due <= now { now + RETRY_US } else { tick(due) });
        }
        if outcome.waits_for_neighbour && !endpoint.common().waits.swap(true, Ordering::Relaxed) {
            core.waiting.push(Arc::clone(endpoint));
        }
        if outcome.lingers {
            core.lingering.push_back(Arc::clone(endpoint));
            if core.lingering.len() > TIME_WAIT_MAX
                && let Some(oldest) = core.lingering.pop_front()
            {
                core.cancel(&oldest);
                oldest.settled(crate::endpoint::Outcome { retire: true, ..Default::default() });
            }
        }
        endpoint.settled(outcome);
    }

    /// Takes up to `budget` frames from the device; how many there were.
    fn take_frames(&self, core: &mut Core, budget: usize) -> usize {
        let mut taken = 0;
        while taken < budget && self.device.receive(&mut |frame| self.ingress(core, &frame)) {
            taken += 1;
        }
        taken
    }

    /// One frame.
    fn ingress(&self, core: &mut Core, &Frame { bytes: frame, vouched }: &Frame<'_>) {
        self.received.fetch_add(1, Ordering::Relaxed);
        self.received_bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        let ethernet = self.device.mac().is_some();
        let packet = Packet::of(frame, ethernet);
        let own = |address: IpAddr| core.smol.has_ip_addr(address);
        if let Some(packet) = packet.as_ref().filter(|_| ethernet)
            && (packet.is_martian(own) || !checksum::is_right(frame, packet, vouched))
        {
            return;
        }
        let flow = demux::classify(frame, packet.as_ref());
        let endpoint: Option<Arc<dyn Endpoint>> = match flow {
            Flow::Tcp { to, from, opens } => {
                let found = self.tables.lock().tcp.get(&(to, from)).cloned();
                let listener =
                    if found.is_none() && opens { self.tables.lock().listener(to, from) } else { None };
                match (found, listener) {
                    (Some(conn), _) => Some(conn),
                    // Without room the SYN is lost; it will be sent again.
                    (None, Some(listener)) => match listener.admit(self, to, from) {
                        Some(Admitted { conn, displaced }) => {
                            if let Some(displaced) = displaced {
                                core.cancel(&(displaced as Arc<dyn Endpoint>));
                            }
                            Some(conn)
                        }
                        None => return,
                    },
                    (None, None) => None,
                }
            }
            Flow::Udp { to, from } => {
                let udp = self.tables.lock().datagram(to, from);
                udp.map(|udp| udp.lane(self.index))
            }
            Flow::Other => None,
        };
        let counting = Counting { interface: self, packets: 0.into() };
        let mut port = Port { device: &counting, frame: Some(frame) };
        let now = Instant::from_micros(self.now());
        match endpoint {
            Some(endpoint) => {
                core.smol.poll_ingress_single(now, &mut port, &mut endpoint.common().set.lock());
                self.serve(core, &endpoint, Cause::Frame);
            }
            None => match (flow, &mut core.dhcp) {
                (Flow::Udp { to, .. }, Some(dhcp)) if to.port() == 68 => {
                    core.smol.poll_ingress_single(now, &mut port, &mut dhcp.set);
                    self.housekeeping(core);
                }
                _ => {
                    core.smol.poll_ingress_single(now, &mut port, &mut core.nobody);
                    if flow == Flow::Other && ethernet {
                        self.neighbours_changed(core);
                    }
                }
            },
        }
    }

    /// Tries again for those who wait for a neighbour's address, and sees to router advertisements.
    fn neighbours_changed(&self, core: &mut Core) {
        for endpoint in core::mem::take(&mut core.waiting) {
            endpoint.common().waits.store(false, Ordering::Relaxed);
            self.serve(core, &endpoint, Cause::Timer);
        }
        core.own_due = 0;
    }

    /// The interface's own protocols: DHCP, router solicitation.
    fn housekeeping(&self, core: &mut Core) {
        let now = self.now();
        let instant = Instant::from_micros(now);
        core.smol.poll_maintenance(instant);
        let counting = Counting { interface: self, packets: 0.into() };
        let mut port = Port { device: &counting, frame: None };
        let mut lease = None;
        let set = match &mut core.dhcp {
            Some(dhcp) => {
                core.smol.poll_egress(instant, &mut port, &mut dhcp.set);
                match dhcp.set.get_mut::<dhcpv4::Socket<'_>>(dhcp.handle).poll() {
                    Some(dhcpv4::Event::Configured(config)) => {
                        lease = Some(Some((
                            config.address,
                            config.router,
                            config.dns_servers.iter().map(|a| IpAddr::V4(*a)).collect::<Vec<_>>(),
                        )));
                    }
                    Some(dhcpv4::Event::Deconfigured) => lease = Some(None),
                    None => {}
                }
                &dhcp.set
            }
            None => {
                core.smol.poll_egress(instant, &mut port, &mut core.nobody);
                &core.nobody
            }
        };
        let due = core.smol.poll_at(instant, set).map_or(NEVER, |at| at.total_micros());
        core.own_due = due.max(now + RETRY_US);
        let mut facts = self.facts();
        let before = facts.addresses.clone();
        // Router advertisements change smoltcp's list by themselves.
        facts.addresses = core
            .smol
            .ip_addrs()
            .iter()
            .map(|cidr| (IpAddr::from(cidr.address()), cidr.prefix_len()))
            .collect();
        match lease {
            Some(lease) => {
                facts.addresses.retain(|(address, _)| address.is_ipv6());
                facts.gateways.retain(IpAddr::is_ipv6);
                facts.dns.clear();
                core.smol.routes_mut().remove_default_ipv4_route();
                if let Some((address, router, dns)) = lease {
                    facts.addresses.push((IpAddr::V4(address.address()), address.prefix_len()));
                    facts.gateways.extend(router.map(IpAddr::V4));
                    facts.dns = dns;
                }
                self.apply(core, facts);
            }
            None if facts.addresses != before => {
                *self.facts.lock() = facts;
                if let Some(changed) = self.changed.get() {
                    changed();
                }
            }
            None => {}
        }
    }

    /// Serves all timers that are due.
    fn ring(&self, core: &mut Core) {
        let now = self.now();
        if core.own_due <= now {
            self.housekeeping(core);
        }
        // Those that are set meanwhile have their turn next time.
        let mut due = core.timers.split_off(&(now + 1, 0));
        core::mem::swap(&mut core.timers, &mut due);
        for endpoint in due.into_values() {
            endpoint.common().due.store(NEVER, Ordering::Relaxed);
            self.serve(core, &endpoint, Cause::Timer);
        }
    }

    /// Takes frames and serves timers. `true`: there may be more to do at once. By the interface's thread.
    pub fn work(&self) -> bool {
        self.sleeps_until.store(0, Ordering::SeqCst);
        let mut core = self.core.lock();
        // Timers first: what they send over the loopback interface has nobody else to receive it.
        self.ring(&mut core);
        let more = self.take_frames(&mut core, BUDGET) == BUDGET;
        self.leave(core);
        more
    }

    /// How many nanoseconds the thread may sleep if no frame comes; 0: not at all. After this, an earlier timer calls the
    /// alarm.
    pub fn sleep_time(&self) -> u64 {
        let core = self.core.lock();
        let due = core.next_due();
        let now = self.now();
        self.sleeps_until.store(due, Ordering::SeqCst);
        self.leave(core);
        if due == NEVER { u64::MAX } else { (due - now).max(0) as u64 * 1000 }
    }

    /// How many endpoints its timers keep.
    #[cfg(test)]
    pub(crate) fn timers(&self) -> usize {
        self.with_core(|core| core.timers.len())
    }

    fn wake_for_timers(&self, core: MutexGuard<'_, Core>) {
        let due = core.next_due();
        drop(core);
        if due < self.sleeps_until.load(Ordering::SeqCst)
            && let Some(alarm) = self.alarm.get()
        {
            self.sleeps_until.store(0, Ordering::SeqCst);
            alarm();
        }
    }
}

impl Core {
    fn next_due(&self) -> i64 {
        self.timers.first_key_value().map_or(NEVER, |((at, _), _)| *at).min(self.own_due)
    }

    fn schedule(&mut self, endpoint: &Arc<dyn Endpoint>, due: i64) {
        let common = endpoint.common();
        // A later time waits for the earlier one: what rings too early is set anew.
        if due < common.due.load(Ordering::Relaxed) {
            self.cancel(endpoint);
            common.due.store(due, Ordering::Relaxed);
            self.timers.insert((due, common.id), Arc::clone(endpoint));
        }
    }

    fn cancel(&mut self, endpoint: &Arc<dyn Endpoint>) {
        let common = endpoint.common();
        let due = common.due.swap(NEVER, Ordering::Relaxed);
        if due != NEVER {
            self.timers.remove(&(due, common.id));
        }
    }
}
