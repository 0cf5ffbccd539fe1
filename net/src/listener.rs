//! A listening port: connections that are being made, and those that wait to be accepted.
//!
//! # Invariants
//! - A connection is in `half` from its SYN until it is established, then in `ready` until it is accepted.
//! - Both together are bounded; a flood of SYNs pushes out the oldest of the same interface that is not established, not
//!   those that are.

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
/// Most connections of one listener that are being made over one interface: each has its buffers already.
const HALF_OPEN_MAX: usize = 256;

/// A connection that a SYN made.
pub(crate) struct Admitted {
    pub(crate) conn: Arc<Conn>,
    /// The one of the same interface that was pushed out for it: no timer may keep it any longer.
    pub(crate) displaced: Option<Arc<Conn>>,
}

#[derive(Default)]
struct Queues {
    /// By interface and number, so by age.
    half: BTreeMap<(u32, u64), Arc<Conn>>,
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
    ) -> Option<Admitted> {
        let displaced = {
            let mut queues = self.queues.lock();
            // A burst of honest clients may be larger than the backlog: who is pushed out is reset when it goes on.
            let half_max = (2 * queues.backlog).clamp(16, HALF_OPEN_MAX);
            if queues.closed || queues.ready.len() >= queues.backlog {
                return None;
            }
            let own = queues.half.range((interface.index, 0)..=(interface.index, u64::MAX));
            let oldest = own.clone().next().map(|(key, _)| *key);
            if own.count() < half_max { None } else { oldest.and_then(|key| queues.half.remove(&key)) }
        };
        if let Some(displaced) = &displaced {
            displaced.forget();
        }
        let interface = self.shared.interface(interface.index)?;
        let options = self.options.lock().clone();
        let conn = Conn::passive(&self.shared, &interface, local, remote, &options, Weak::clone(&self.me))?;
        let mut queues = self.queues.lock();
        if queues.closed {
            return None;
        }
        queues.half.insert(conn.place(), Arc::clone(&conn));
        drop(queues);
        self.shared.tables.lock().tcp.insert((local, remote), Arc::clone(&conn));
        Some(Admitted { conn, displaced })
    }

    /// A connection is established.
    pub(crate) fn established(&self, conn: &Conn) {
        let mut queues = self.queues.lock();
        if let Some(conn) = queues.half.remove(&conn.place()) {
            queues.ready.push_back(conn);
            drop(queues);
            (self.hook)();
        }
    }

    /// A connection ended before it was established.
    pub(crate) fn failed(&self, conn: &Conn) {
        let conn = self.queues.lock().half.remove(&conn.place());
        drop(conn);
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
