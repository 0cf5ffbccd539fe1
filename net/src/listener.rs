//! A listening port: connections that are being made, and those that wait to be accepted.
//!
//! # Invariants
//! - A connection is in `half` from its SYN until it is established, then in `ready` until it is accepted.
//! - Both together are bounded; a flood of SYNs pushes out the oldest that is not established, not those that are.

use crate::Hook;
use crate::interface::Interface;
use crate::ports::Claim;
use crate::stack::Shared;
use crate::tcp::{Conn, Options};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use core::net::SocketAddr;
use platform::sync::Mutex;

/// Largest backlog (`net.core.somaxconn`).
pub(crate) const BACKLOG_MAX: usize = 4096;
/// Most connections of one listener that are being made: each has its buffers already.
const HALF_OPEN_MAX: usize = 256;

#[derive(Default)]
struct Queues {
    /// By number, so by age.
    half: BTreeMap<u64, Arc<Conn>>,
    ready: VecDeque<Arc<Conn>>,
    backlog: usize,
    closed: bool,
}

/// A listening port.
pub(crate) struct Listener {
    pub(crate) claim: Claim,
    pub(crate) port: u16,
    shared: Arc<Shared>,
    options: Mutex<Options>,
    queues: Mutex<Queues>,
    hook: Hook,
    me: Weak<Listener>,
}

impl Listener {
    pub(crate) fn new(
        claim: Claim,
        port: u16,
        shared: &Arc<Shared>,
        options: Options,
        backlog: usize,
        hook: Hook,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Listener {
            claim,
            port,
            shared: Arc::clone(shared),
            options: Mutex::new(options),
            queues: Mutex::new(Queues { backlog: backlog.clamp(1, BACKLOG_MAX), ..Queues::default() }),
            hook,
            me: Weak::clone(me),
        })
    }

    /// `listen` again.
    pub(crate) fn set_backlog(&self, backlog: usize) {
        self.queues.lock().backlog = backlog.clamp(1, BACKLOG_MAX);
    }

    /// What connections inherit.
    pub(crate) fn set_options(&self, options: Options) {
        *self.options.lock() = options;
    }

    /// Makes the connection that a SYN asks for; `None` if there is no room.
    pub(crate) fn admit(
        &self,
        interface: &Interface,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Option<Arc<Conn>> {
        let oldest = {
            let mut queues = self.queues.lock();
            let half_max = HALF_OPEN_MAX.min(queues.backlog.max(16));
            if queues.closed || queues.ready.len() >= queues.backlog {
                return None;
            }
            if queues.half.len() < half_max { None } else { queues.half.pop_first() }
        };
        if let Some((_, oldest)) = oldest {
            oldest.forget();
        }
        let interface = self.shared.interface(interface.index)?;
        let options = self.options.lock().clone();
        let conn = Conn::passive(&self.shared, &interface, local, remote, &options, Weak::clone(&self.me))?;
        let mut queues = self.queues.lock();
        if queues.closed {
            return None;
        }
        queues.half.insert(conn.number(), Arc::clone(&conn));
        drop(queues);
        self.shared.tables.lock().tcp.insert((local, remote), Arc::clone(&conn));
        Some(conn)
    }

    /// A connection is established.
    pub(crate) fn established(&self, number: u64) {
        let mut queues = self.queues.lock();
        if let Some(conn) = queues.half.remove(&number) {
            queues.ready.push_back(conn);
            drop(queues);
            (self.hook)();
        }
    }

    /// A connection ended before it was established.
    pub(crate) fn failed(&self, number: u64) {
        drop(self.queues.lock().half.remove(&number));
    }

    /// The next connection.
    pub(crate) fn accept(&self) -> Option<Arc<Conn>> {
        self.queues.lock().ready.pop_front()
    }

    /// Whether somebody waits to be accepted.
    pub(crate) fn is_ready(&self) -> bool {
        !self.queues.lock().ready.is_empty()
    }

    /// Ends all connections that nobody has accepted.
    pub(crate) fn close(&self) {
        let mut queues = self.queues.lock();
        queues.closed = true;
        let (half, ready) = (core::mem::take(&mut queues.half), core::mem::take(&mut queues.ready));
        drop(queues);
        for conn in half.into_values().chain(ready) {
            conn.abort();
        }
    }
}
