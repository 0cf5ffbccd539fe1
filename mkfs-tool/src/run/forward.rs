//! `--forward [ADDR:]PORT:GUEST_PORT[/udp]`.

use anyhow::{Context, Result, bail};
use std::net::IpAddr;

/// A port of this machine that leads to a port of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Address here; loopback if none was given.
    pub address: String,
    /// Port here.
    pub port: u16,
    /// Port in the guest.
    pub guest: u16,
    /// UDP instead of TCP.
    pub udp: bool,
}

impl Forward {
    /// Reads what was typed.
    pub fn parse(text: &str) -> Result<Self> {
        let usage = || format!("{text:?} is not [ADDRESS:]PORT:GUEST_PORT[/udp]");
        let (ports, udp) = match text.rsplit_once('/') {
            None => (text, false),
            Some((ports, "tcp")) => (ports, false),
            Some((ports, "udp")) => (ports, true),
            Some(_) => bail!(usage()),
        };
        let (rest, guest) = ports.rsplit_once(':').with_context(usage)?;
        let (address, port) = rest.rsplit_once(':').unwrap_or(("127.0.0.1", rest));
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        let address = match bare {
            "" | "*" => "0.0.0.0".to_owned(),
            "localhost" => "127.0.0.1".to_owned(),
            other => match other.parse::<IpAddr>().with_context(usage)? {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(_) => bail!("{text:?}: QEMU forwards from IPv4 addresses only"),
            },
        };
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).with_context(usage);
        Ok(Forward { address, port: number(port)?, guest: number(guest)?, udp })
    }

    /// As QEMU wants it.
    #[must_use]
    pub fn hostfwd(&self) -> String {
        let protocol = if self.udp { "udp" } else { "tcp" };
        format!("hostfwd={protocol}:{}:{}-:{}", self.address, self.port, self.guest)
    }
}

/// Looks at `ADDRESS/PREFIX[,gw=ADDRESS][,dns=ADDRESS]`, which the guest reads.
pub fn check_address(text: &str) -> Result<()> {
    let usage = || format!("{text:?} is not ADDRESS/PREFIX[,gw=ADDRESS][,dns=ADDRESS]");
    let mut addresses = 0;
    for word in text.split(',') {
        if let Some(other) = word.strip_prefix("gw=").or_else(|| word.strip_prefix("dns=")) {
            other.parse::<IpAddr>().with_context(usage)?;
            continue;
        }
        let (address, prefix) = word.split_once('/').with_context(usage)?;
        let bits = if address.parse::<IpAddr>().with_context(usage)?.is_ipv4() { 32 } else { 128 };
        prefix.parse::<u8>().ok().filter(|prefix| *prefix <= bits).with_context(usage)?;
        addresses += 1;
    }
    anyhow::ensure!(addresses > 0, usage());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read() {
        for (text, want) in [
            ("127.0.0.1:6379:6379", "hostfwd=tcp:127.0.0.1:6379-:6379"),
            ("8080:80", "hostfwd=tcp:127.0.0.1:8080-:80"),
            ("*:8080:80/udp", "hostfwd=udp:0.0.0.0:8080-:80"),
            ("localhost:1:2/tcp", "hostfwd=tcp:127.0.0.1:1-:2"),
        ] {
            assert_eq!(Forward::parse(text).unwrap().hostfwd(), want, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "80", "a:b", "1:2:3:4", "0:80", "80:70000", "80:80/x", "1.2.3:1:2", "x,y=z:1:2"] {
            assert!(Forward::parse(text).is_err(), "{text}");
        }
    }
}
