//! What an interface works on: something with a smoltcp socket set of its own.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use platform::sync::Mutex;
use smoltcp::iface::SocketSet;
use smoltcp::wire::{IpAddress, IpEndpoint};

/// Why smoltcp worked on an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A frame came.
    Frame,
    /// A time came.
    Timer,
    /// A call of the application.
    Call,
}

/// What is to be done after smoltcp worked on an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outcome {
    /// Its readiness may have changed.
    pub(crate) notify: bool,
    /// It is over: no frame and no timer concerns it any more.
    pub(crate) retire: bool,
    /// It is in TIME-WAIT and nobody holds it.
    pub(crate) lingers: bool,
    /// It could not send, as the neighbour's address is not known yet.
    pub(crate) waits_for_neighbour: bool,
}

/// No timer.
pub(crate) const NEVER: i64 = i64::MAX;

/// The part that all endpoints have.
pub(crate) struct Common {
    /// Its number; numbers grow with time.
    pub(crate) id: u64,
    pub(crate) set: Mutex<SocketSet<'static>>,
    /// When the interface will look at it, in microseconds. Written under the interface's core lock.
    pub(crate) due: AtomicI64,
    /// It is among those that the interface has to serve.
    pub(crate) wants: AtomicBool,
    /// It is among those that wait for a neighbour's address. Written under the same lock.
    pub(crate) waits: AtomicBool,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A number that nothing else has.
pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

impl Common {
    pub(crate) fn new(set: SocketSet<'static>) -> Self {
        Common {
            id: next_id(),
            set: Mutex::new(set),
            due: AtomicI64::new(NEVER),
            wants: AtomicBool::new(false),
            waits: AtomicBool::new(false),
        }
    }
}

/// Something that an interface moves packets for.
pub(crate) trait Endpoint: Send + Sync {
    /// The common part.
    fn common(&self) -> &Common;
    /// Before packets are sent; its set is locked.
    fn prepare(&self, set: &mut SocketSet<'static>);
    /// After packets were sent (`sent` of them, address resolution left out); its set is locked.
    fn settle(&self, set: &mut SocketSet<'static>, cause: Cause, sent: usize) -> Outcome;
    /// Its set is not locked. `outcome`: what [`Endpoint::settle`] said.
    fn settled(&self, outcome: Outcome);
}

/// An address as smoltcp has it.
pub(crate) fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint { addr: IpAddress::from(address.ip()), port: address.port() }
}

/// The addresses of IPv4 that are written as IPv6 ones mean IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
