//! Sockets on smoltcp: TCP and UDP over IPv4 and IPv6, on Ethernet devices and on the loopback interface.
//!
//! [`Stack`] is what a kernel holds. Sockets here never wait: they answer [`Error::WouldBlock`], and call the hook that they
//! were given whenever something may have changed. Waiting, signals and error numbers are the layer above's.
//!
//! # How thousands of sockets stay cheap
//! smoltcp looks at every socket of a set for every packet. Here every connection is a set of its own: [`demux`] reads the
//! addresses of a frame, a hash table finds the connection, and smoltcp sees that set alone. A listener is no smoltcp
//! socket: the connection is made when its SYN arrives, so a burst finds as much room as the backlog allows. Timers are in
//! one ordered map per interface.
//!
//! # Threads
//! One thread per interface runs [`interface::Interface::work`] when the device has frames or a timer is due. Whoever sends
//! pushes the frames to the device itself. What is sent to the loopback interface is received by the sender.
//!
//! # Lock order
//! an interface's core → a connection's (or datagram port's) smoltcp set → the stack's tables, a listener's queues (leaves).
//! Hooks are called with no set locked. Data is copied from and to buffers of the kernel, so no lock is held while an
//! application's memory is touched.
#![cfg_attr(not(any(feature = "std", test)), no_std)]
extern crate alloc;

mod checksum;
mod demux;
pub mod device;
mod endpoint;
mod error;
pub mod interface;
mod listener;
mod outbox;
mod packet;
mod ports;
pub mod ready;
mod stack;
mod tcp;
mod udp;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
pub use outbox::Outbox;
pub use stack::{Config, Stack};
pub use tcp::{Info, Linger, TcpSocket};
pub use udp::{Received, UdpSocket};

use alloc::sync::Arc;

/// What a socket calls when its readiness may have changed. It must not wait.
pub type Hook = Arc<dyn Fn() + Send + Sync>;
