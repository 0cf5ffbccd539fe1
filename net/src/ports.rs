//! Which local ports are taken, and who may share one.

use core::net::IpAddr;
use hashbrown::HashMap;

use alloc::vec::Vec;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// What a socket says about its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The socket's number.
    pub(crate) id: u64,
    /// The local address; unspecified: all of them.
    pub(crate) address: IpAddr,
    /// `IPV6_V6ONLY`: an unspecified IPv6 address leaves IPv4 alone.
    pub(crate) only_v6: bool,
    /// `SO_REUSEADDR`.
    pub(crate) reuse_address: bool,
    /// `SO_REUSEPORT`.
    pub(crate) reuse_port: bool,
    /// It listens.
    pub(crate) listens: bool,
}

impl Claim {
    /// Whether packets to `address` could be for it.
    pub(crate) fn covers(&self, address: IpAddr) -> bool {
        match self.address {
            IpAddr::V4(own) => address.is_ipv4() && (own.is_unspecified() || own == address),
            IpAddr::V6(own) if own.is_unspecified() => address.is_ipv6() || !self.only_v6,
            own @ IpAddr::V6(_) => own == address,
        }
    }

    fn overlaps(&self, other: &Claim) -> bool {
        self.covers(other.address)
            || other.covers(self.address)
            || self.address.is_unspecified() && self.covers_any_of(other)
            || other.address.is_unspecified() && other.covers_any_of(self)
    }

    /// Being unspecified, it covers an address that `other` may have.
    fn covers_any_of(&self, other: &Claim) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4() || self.address.is_ipv6() && !self.only_v6
    }

    /// Linux's rule for two sockets on one port.
    fn conflicts(&self, other: &Claim, protocol: Protocol) -> bool {
        if self.id == other.id || !self.overlaps(other) || self.reuse_port && other.reuse_port {
            return false;
        }
        let shared = self.reuse_address && other.reuse_address;
        !shared || protocol == Protocol::Tcp && (self.listens || other.listens)
    }
}

/// First and last port that is given to those who ask for any, as on Linux.
pub(crate) const EPHEMERAL: (u16, u16) = (32768, 60999);

/// The ports in use.
#[derive(Default)]
pub(crate) struct Ports {
    taken: HashMap<(Protocol, u16), Vec<Claim>>,
}

impl Ports {
    /// Takes a port; `false` if it is not to be had.
    pub(crate) fn claim(&mut self, protocol: Protocol, port: u16, claim: Claim) -> bool {
        let claims = self.taken.entry((protocol, port)).or_default();
        if claims.iter().any(|other| claim.conflicts(other, protocol)) {
            return false;
        }
        claims.retain(|other| other.id != claim.id);
        claims.push(claim);
        true
    }

    /// Takes a free ephemeral port; the search begins at a place that `random` chooses.
    pub(crate) fn claim_any(&mut self, protocol: Protocol, claim: Claim, random: u64) -> Option<u16> {
        let (first, last) = EPHEMERAL;
        let count = u32::from(last - first) + 1;
        let start = (random % u64::from(count)) as u32;
        let candidates = (0..count).map(|i| first + ((start + i) % count) as u16);
        for port in candidates {
            if !self.taken.contains_key(&(protocol, port)) {
                self.taken.insert((protocol, port), alloc::vec![claim]);
                return Some(port);
            }
        }
        None
    }

    /// Gives a port back.
    pub(crate) fn release(&mut self, protocol: Protocol, port: u16, id: u64) {
        if let Some(claims) = self.taken.get_mut(&(protocol, port)) {
            claims.retain(|claim| claim.id != id);
            if claims.is_empty() {
                self.taken.remove(&(protocol, port));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(id: u64, address: &str) -> Claim {
        Claim {
            id,
            address: address.parse().unwrap(),
            only_v6: false,
            reuse_address: false,
            reuse_port: false,
            listens: false,
        }
    }

    #[test]
    fn a_port_belongs_to_one_unless_both_share() {
        let mut ports = Ports::default();
        let tcp = Protocol::Tcp;
        assert!(ports.claim(tcp, 80, Claim { listens: true, ..claim(1, "0.0.0.0") }));
        assert!(!ports.claim(tcp, 80, claim(2, "127.0.0.1")));
        assert!(!ports.claim(tcp, 80, claim(2, "::")));
        assert!(ports.claim(tcp, 80, Claim { only_v6: true, ..claim(3, "::") }));
        assert!(ports.claim(Protocol::Udp, 80, claim(2, "127.0.0.1")));
        assert!(!ports.claim(tcp, 80, Claim { reuse_address: true, ..claim(4, "127.0.0.1") }));
        ports.release(tcp, 80, 1);
        assert!(ports.claim(tcp, 80, Claim { reuse_port: true, ..claim(5, "0.0.0.0") }));
        assert!(ports.claim(tcp, 80, Claim { reuse_port: true, ..claim(6, "0.0.0.0") }));
        assert!(ports.claim(tcp, 81, claim(7, "10.0.0.1")) && ports.claim(tcp, 81, claim(8, "10.0.0.2")));
    }

    #[test]
    fn ephemeral_ports_run_out_at_last() {
        let mut ports = Ports::default();
        let (first, last) = EPHEMERAL;
        for id in 0..u64::from(last - first) + 1 {
            let port = ports.claim_any(Protocol::Tcp, claim(id, "0.0.0.0"), id).unwrap();
            assert_eq!(u64::from(port - first), id);
        }
        assert_eq!(ports.claim_any(Protocol::Tcp, claim(99_999, "0.0.0.0"), 3), None);
        ports.release(Protocol::Tcp, 40_000, 40_000 - u64::from(first));
        assert_eq!(ports.claim_any(Protocol::Tcp, claim(99_999, "0.0.0.0"), 3), Some(40_000));
    }
}
