//! The machine's network: the stack over the devices that were found, and one thread per interface.
//!
//! The option `tarn.net` says how an interface gets its addresses; the first is for the first device:
//! `dhcp` (the default), `none`, or `ADDRESS/PREFIX[,gw=ADDRESS][,dns=ADDRESS]…`.

use crate::drivers::virtio::net::Nic;
use crate::mm::{frame, phys};
use crate::sched::{self, Bell};
use crate::{boot, drivers, env, log};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::net::IpAddr;
use net::device::Device;
use net::interface::{Addresses, Interface};
use net::{Config, Stack};
use platform::sync::Mutex;
use spin::Once;
use vfs::types::{FileType, New, OpenFlags};

static STACK: Once<Stack> = Once::new();

/// A polled device is looked at after so many nanoseconds.
const POLL_NS: u64 = 200_000;
/// Share of the memory that one buffer of a connection may take, and its bounds in bytes.
const BUFFER_SHARE: u64 = 4096;
const BUFFER_BOUNDS: (u64, u64) = (16 << 10, 64 << 10);

/// Brings the network up. Once, after the drivers have started.
pub fn start() {
    let cmdline = boot::info().cmdline();
    let mut wanted = cmdline.get_all("tarn.net");
    let mut nics: Vec<Arc<Nic>> = Vec::new();
    let mut devices: Vec<(Arc<dyn Device>, Addresses)> = Vec::new();
    for nic in drivers::network_devices() {
        let text = wanted.next().unwrap_or("dhcp");
        let addresses = match text {
            "none" => continue,
            "dhcp" => Addresses::Automatic,
            text => match parse(text) {
                Some(addresses) => addresses,
                None => {
                    log!(Error, "tarn.net={text} is not understood: the device stays unused");
                    continue;
                }
            },
        };
        devices.push((Arc::clone(&nic) as Arc<dyn Device>, addresses));
        nics.push(nic);
    }
    let memory = frame::total() * phys::FRAME_SIZE;
    let buffer = (memory / BUFFER_SHARE).clamp(BUFFER_BOUNDS.0, BUFFER_BOUNDS.1) as usize;
    let config = Config { receive_buffer: buffer, send_buffer: buffer };
    let stack = STACK.call_once(|| Stack::new(env(), config, devices));
    let mut interfaces = stack.interfaces().iter();
    if let Some(loopback) = interfaces.next() {
        run_loopback(loopback);
    }
    for (interface, nic) in interfaces.zip(nics) {
        run(interface, nic);
    }
}

/// The stack.
pub fn stack() -> &'static Stack {
    STACK.call_once(|| Stack::new(env(), Config::default(), Vec::new()))
}

/// Whether there is a device in use beside the loopback interface.
pub fn has_device() -> bool {
    stack().interfaces().len() > 1
}

/// `ADDRESS/PREFIX[,gw=ADDRESS][,dns=ADDRESS]…`
fn parse(text: &str) -> Option<Addresses> {
    let (mut addresses, mut gateways, mut dns) = (Vec::new(), Vec::new(), Vec::new());
    for word in text.split(',') {
        if let Some(gateway) = word.strip_prefix("gw=") {
            gateways.push(gateway.parse().ok()?);
        } else if let Some(server) = word.strip_prefix("dns=") {
            dns.push(server.parse().ok()?);
        } else {
            let (address, prefix) = word.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let prefix = prefix.parse().ok().filter(|p| *p <= if address.is_ipv4() { 32 } else { 128 })?;
            addresses.push((address, prefix));
        }
    }
    Some(Addresses::Static { addresses, gateways, dns })
}

/// Only timers: frames are received by their sender.
fn run_loopback(interface: &Arc<Interface>) {
    let (worker, bell) = (Arc::clone(interface), Arc::new(Bell::default()));
    let alarm = Arc::clone(&bell);
    interface.set_alarm(Arc::new(move || alarm.ring()));
    drop(sched::spawn(
        "net-lo",
        Box::new(move || {
            bell.answer();
            loop {
                while worker.work() {}
                bell.wait(worker.sleep_time());
            }
        }),
    ));
}

fn run(interface: &Arc<Interface>, nic: Arc<Nic>) {
    let (alarm, changed) = (Arc::clone(nic.bell()), Arc::clone(nic.bell()));
    interface.set_alarm(Arc::new(move || alarm.ring()));
    interface.set_changed(Arc::new(move || {
        CHANGED.lock().0 = true;
        changed.ring();
    }));
    let worker = Arc::clone(interface);
    drop(sched::spawn_urgent("net", Box::new(move || drive(&worker, &nic))));
}

/// Whether an interface's addresses have changed since the files were written, and whether there are such files.
static CHANGED: Mutex<(bool, bool)> = Mutex::new((true, false));

fn drive(interface: &Interface, nic: &Nic) {
    nic.bell().answer();
    loop {
        nic.set_interrupts(false);
        while interface.work() {
            sched::share();
        }
        if core::mem::take(&mut CHANGED.lock().0) {
            stack().addresses_changed();
            write_resolver();
        }
        if nic.set_interrupts(true) {
            sched::share();
            continue;
        }
        let ns = interface.sleep_time();
        nic.bell().wait(if nic.is_polled() { ns.min(POLL_NS) } else { ns });
    }
}

/// Where `/etc/resolv.conf` points if the image has none.
const RESOLVER: &[u8] = b"/run/resolv.conf";

/// Gives an image that has none a resolver's configuration and a list of hosts. When the file tree is there.
pub fn prepare_files() {
    if !has_device() {
        return;
    }
    let tree = &crate::process::vfs().tree;
    let root = tree.root();
    let Ok(etc) = tree.resolve(&root, b"/etc", true) else { return };
    let exists = |name: &[u8]| etc.inode.lookup(name).is_ok();
    if !exists(b"resolv.conf") {
        // A read-only root stays as it is.
        let link = New { target: RESOLVER.to_vec(), ..New::new(FileType::Symlink, 0o777) };
        let _ = etc.inode.create(b"resolv.conf", &link);
    }
    if !exists(b"hosts") {
        let text = format!(
            "127.0.0.1\tlocalhost\n127.0.1.1\t{}\n::1\tlocalhost ip6-localhost ip6-loopback\n",
            crate::process::info::HOSTNAME
        );
        write_file(b"/etc/hosts", &text);
    }
    CHANGED.lock().1 = true;
    write_resolver();
}

fn write_file(path: &[u8], text: &str) {
    let vfs = crate::process::vfs();
    let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
    let root = vfs.tree.root();
    if let Ok(file) = vfs.open(&root, path, flags, &New::new(FileType::Regular, 0o644)) {
        let _ = file.write(text.as_bytes());
    }
}

fn write_resolver() {
    if !CHANGED.lock().1 {
        return;
    }
    let mut text = String::new();
    for interface in stack().interfaces() {
        for server in interface.facts().dns {
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    write_file(RESOLVER, &text);
}

/// An IPv4 address as `/proc/net` writes it: its bytes as a number of the machine's order, in hexadecimal.
fn hex_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:08X}", u32::from_le_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let mut text = String::new();
            for word in v6.octets().chunks_exact(4) {
                let _ = write!(text, "{:08X}", u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
            }
            text
        }
    }
}

/// The content of `/proc/net/NAME`.
pub fn proc_file(name: &str) -> Option<String> {
    let stack = stack();
    let mut text = String::new();
    match name {
        "dev" => {
            text.push_str(
                "Inter-|   Receive                                                |  Transmit\n face |bytes    packets errs drop \
                 fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
            );
            for i in stack.interfaces() {
                let c = i.counters();
                let _ = writeln!(
                    text,
                    "{:>6}: {:7} {:7} 0 0 0 0 0 0 {:8} {:7} 0 0 0 0 0 0",
                    i.name, c.received_bytes, c.received, c.sent_bytes, c.sent
                );
            }
        }
        "route" => {
            text.push_str(
                "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n",
            );
            for i in stack.interfaces().iter().filter(|i| !i.is_loopback()) {
                let facts = i.facts();
                for gateway in facts.gateways.iter().filter(|g| g.is_ipv4()) {
                    let _ = writeln!(
                        text,
                        "{}\t00000000\t{}\t0003\t0\t0\t0\t00000000\t0\t0\t0",
                        i.name,
                        hex_address(*gateway)
                    );
                }
                for (address, prefix) in &facts.addresses {
                    let IpAddr::V4(v4) = address else { continue };
                    let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
                    let network = u32::from_le_bytes((v4.to_bits() & mask).to_be_bytes());
                    let mask = u32::from_le_bytes(mask.to_be_bytes());
                    let _ = writeln!(
                        text,
                        "{}\t{network:08X}\t00000000\t0001\t0\t0\t0\t{mask:08X}\t0\t0\t0",
                        i.name
                    );
                }
            }
        }
        "if_inet6" => {
            for i in stack.interfaces() {
                for (address, prefix) in i.facts().addresses {
                    let IpAddr::V6(v6) = address else { continue };
                    let scope = if v6.is_loopback() {
                        0x10
                    } else if v6.is_unicast_link_local() {
                        0x20
                    } else {
                        0
                    };
                    let _ = writeln!(
                        text,
                        "{:032x} {:02x} {prefix:02x} {scope:02x} 80 {:>8}",
                        v6.to_bits(),
                        i.index,
                        i.name
                    );
                }
            }
        }
        "tcp" | "tcp6" | "udp" | "udp6" => {
            text.push_str(
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
            );
            let v6 = name.ends_with('6');
            let mut rows = Vec::new();
            let unspecified = |a: core::net::SocketAddr| core::net::SocketAddr::new(any(a.is_ipv4()), 0);
            if name.starts_with("tcp") {
                rows.extend(stack.listening().into_iter().map(|a| (a, unspecified(a), 10)));
                rows.extend(stack.connections());
            } else {
                rows.extend(stack.datagram_ports().into_iter().map(|a| (a, unspecified(a), 7)));
            }
            for (n, (local, remote, state)) in rows.iter().filter(|row| row.0.is_ipv6() == v6).enumerate() {
                let _ = writeln!(
                    text,
                    "{n:4}: {}:{:04X} {}:{:04X} {state:02X} 00000000:00000000 00:00000000 00000000     0        0 0",
                    hex_address(local.ip()),
                    local.port(),
                    hex_address(remote.ip()),
                    remote.port()
                );
            }
        }
        _ => return None,
    }
    Some(text)
}

fn any(v4: bool) -> IpAddr {
    if v4 {
        IpAddr::V4(core::net::Ipv4Addr::UNSPECIFIED)
    } else {
        IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED)
    }
}

/// Whether a device asks for an address and has none yet.
pub fn waits_for_lease() -> bool {
    let routed = |i: &Arc<Interface>| i.is_loopback() || i.facts().addresses.iter().any(|(a, _)| a.is_ipv4());
    has_device() && !stack().interfaces().iter().all(routed)
}
