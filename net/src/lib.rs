//! Sockets on smoltcp.
#![no_std]
