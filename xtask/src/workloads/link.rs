//! How the guests are reached from here.
//!
//! As root the workloads run in a network namespace of their own, at one end of a tap device whose other end is the guest: any
//! number of connections, and nothing of this machine's network is touched. Else QEMU's user network forwards a port: it listens
//! on the host with a backlog of one, and of many connections that begin at once most wait for the host's repeated SYNs, for tens
//! of seconds, or are reset before the guest hears of them.

use crate::machine::{is_root, output, run};
use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, ExitStatus};

/// Set in the namespace.
const INSIDE: &str = "TARN_LINK";
/// As many guests may run at a time.
const LINKS: usize = 2;
/// What QEMU gives to a network device that is not told otherwise.
const MAC: &str = "52:54:00:12:34:56";

/// The way to the guests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// A tap device for each guest, in a namespace.
    Tap,
    /// QEMU's user network.
    User,
}

impl Link {
    /// The one that this process has.
    pub(crate) fn get() -> Link {
        if std::env::var_os(INSIDE).is_some() { Link::Tap } else { Link::User }
    }

    /// Numbers of connections at a time with which servers are loaded, the most that it bears last.
    pub(crate) fn connections(self) -> &'static [u32] {
        match self {
            Link::Tap => &[1, 16, 50, 200],
            Link::User => &[1, 8],
        }
    }

    /// Options of `tarn run` for the guest number `guest` of those that run at a time, and where its `port` is reached.
    pub(crate) fn options(self, guest: usize, port: u16) -> Result<(Vec<String>, SocketAddr)> {
        let (words, address) = match self {
            Link::Tap => {
                ensure!(guest < LINKS, "there are {LINKS} links");
                let Ends { tap, here, there } = Ends::of(guest);
                let address = format!("{there}/24,gw={here}");
                (
                    vec!["--net".to_owned(), format!("tap:{tap}"), "--address".to_owned(), address],
                    (there, port),
                )
            }
            Link::User => {
                let here = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
                (vec!["--forward".to_owned(), format!("{here}:{port}")], (Ipv4Addr::LOCALHOST, here))
            }
        };
        Ok((words, SocketAddr::from(address)))
    }
}

/// The two ends of a link by a tap device.
struct Ends {
    tap: String,
    here: Ipv4Addr,
    there: Ipv4Addr,
}

impl Ends {
    fn of(guest: usize) -> Self {
        let net = 2 + guest as u8;
        let address = |last| Ipv4Addr::new(10, 0, net, last);
        Ends { tap: format!("tarn{guest}"), here: address(2), there: address(15) }
    }
}

/// Runs this program with the same words in a namespace, where that is possible and it does not run in one yet. There it has `variables`,
/// which name what was built: a namespace of its own reaches no registry.
pub(crate) fn enter(variables: &[(&str, &Path)]) -> Result<Option<ExitStatus>> {
    if Link::get() == Link::Tap {
        let ip = |words: &str| run(Command::new("ip").args(words.split(' ')));
        ip("link set lo up")?;
        for Ends { tap, here, there } in (0..LINKS).map(Ends::of) {
            ip(&format!("tuntap add dev {tap} mode tap"))?;
            ip(&format!("addr add {here}/24 dev {tap}"))?;
            ip(&format!("link set {tap} up"))?;
            // The first packet must not wait for an answer to ARP of a guest that has not booted yet.
            ip(&format!("neigh replace {there} lladdr {MAC} nud permanent dev {tap}"))?;
        }
        // Nobody answers for a guest whose power was cut: its clients must not wait for a quarter of an hour.
        for (name, value) in
            [("retries2", "5"), ("keepalive_time", "5"), ("keepalive_intvl", "2"), ("keepalive_probes", "3")]
        {
            std::fs::write(format!("/proc/sys/net/ipv4/tcp_{name}"), value)?;
        }
        return Ok(None);
    }
    let possible = is_root()
        && Path::new("/dev/net/tun").exists()
        && output(Command::new("unshare").args(["--net", "ip", "link"])).is_ok();
    if !possible {
        println!("note: at most 8 connections at a time; more need root, /dev/net/tun and iproute2");
        return Ok(None);
    }
    let mut again = Command::new("unshare");
    again.arg("--net").arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    again.envs(variables.iter().copied());
    Ok(Some(again.env(INSIDE, "tap").status().context("unshare")?))
}
