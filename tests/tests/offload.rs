//! Offload of the network device: checksums and segmentation that one side leaves to the other, and frames over several buffers, with
//! every combination of features that a device may have.
//!
//! QEMU offers that over tap devices alone, so this runs in a network namespace of its own, where this machine routes between two taps.
//! The guest is on one. On the other is a machine of this process without any offload: what the guest sends reaches it with the sum
//! that the kernel between has completed by the guest's word, and what it sends reaches the guest without anybody's having vouched
//! for it. The kernel's own sockets leave sums of what they send to the guest out.
//!
//! Where such a namespace cannot be had (it takes `unshare`, `ip`, /dev/net/tun and the right to use them), it says so and nothing is
//! shown.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use testkit::machine::{output, run};
use tests::link::Honest;
use tests::server::{Server, image};
use tests::tap::Tap;

/// Set in the namespace.
const INSIDE: &str = "TARN_OFFLOAD";
const PORT: u16 = 7000;
const PATIENCE: Duration = Duration::from_secs(60);

/// The guest's network and the other one: addresses of the guest, of this machine on both, and of the machine on the other.
const GUEST: [&str; 2] = ["10.8.1.2", "fd08:1::2"];
const ROUTER: [[&str; 2]; 2] = [["10.8.1.254", "fd08:1::254"], ["10.8.2.254", "fd08:2::254"]];
const OTHER: [&str; 2] = ["10.8.2.1", "fd08:2::1"];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Makes the taps `guest` and `other`, between which this machine routes.
fn make_network() {
    let ip = |words: &str| run(Command::new("ip").args(words.split(' '))).unwrap();
    ip("link set lo up");
    for ((tap, [v4, v6]), mtu) in [("guest", ROUTER[0]), ("other", ROUTER[1])].into_iter().zip([9000, 1500]) {
        ip(&format!("tuntap add dev {tap} mode tap"));
        ip(&format!("link set dev {tap} mtu {mtu}"));
        ip(&format!("addr add {v4}/24 dev {tap}"));
        ip(&format!("-6 addr add {v6}/64 dev {tap} nodad"));
        ip(&format!("link set dev {tap} up"));
    }
    for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(Path::new("/proc/sys/net").join(switch), "1").unwrap();
    }
}

/// Bytes that are different at every place.
fn text(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// A client of this machine's own kernel: what it sends has sums that are not complete.
fn from_here(to: IpAddr) {
    let mut socket = TcpStream::connect_timeout(&SocketAddr::new(to, PORT), PATIENCE).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let data = text(300_000);
    let mut got = vec![0; data.len()];
    std::thread::scope(|scope| {
        let mut writer = socket.try_clone().unwrap();
        let data = &data;
        scope.spawn(move || writer.write_all(data).unwrap());
        socket.read_exact(&mut got).unwrap();
    });
    assert!(got == data, "{to}: wrong bytes");
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&data[..1001], (to, PORT)).unwrap();
    let n = socket.recv(&mut got).unwrap();
    assert!(got[..n] == data[..1001], "{to}: a wrong datagram");
}

/// A machine that makes its own sums and looks at all of those that come.
fn from_the_other(other: &Honest, tap: &Tap, to: IpAddr) {
    let client = other.connect(SocketAddr::new(to, PORT)).unwrap();
    for part in text(100_000).chunks(10_000) {
        other.echo(&client, part).unwrap();
    }
    other.datagram(SocketAddr::new(to, PORT), &text(999)).unwrap();
    if to.is_ipv4() {
        // What is damaged on the way is nobody's: the first answer is that to the next.
        let socket = other.stack.udp(std::sync::Arc::new(|| ()));
        tap.spoil(true);
        for _ in 0..5 {
            assert_eq!(socket.send(b"damaged", Some(SocketAddr::new(to, PORT))), Ok(7));
        }
        tap.spoil(false);
        other.datagram_by(&socket, SocketAddr::new(to, PORT), b"whole").unwrap();
    }
}

/// A machine, features that its device is not given, the largest packet, and what the kernel must say of the device.
struct Case {
    machine: &'static str,
    without: &'static [&'static str],
    mtu: u32,
    says: &'static [&'static str],
    silent_of: &'static [&'static str],
}

const SUMS: [&str; 2] = ["completes checksums", "vouches for checksums"];
const MERGES: &str = "merges buffers";
const SEGMENTS: [&str; 2] = [", segments", "joins segments"];

const CASES: [Case; 8] = [
    Case {
        machine: "q35",
        without: &[],
        mtu: 1500,
        says: &[SUMS[0], SUMS[1], MERGES, SEGMENTS[0], SEGMENTS[1]],
        silent_of: &[],
    },
    Case {
        machine: "q35",
        without: &["host_tso4"],
        mtu: 1500,
        says: &[SUMS[0], SEGMENTS[1]],
        silent_of: &[SEGMENTS[0]],
    },
    Case {
        machine: "q35",
        without: &["guest_tso4", "guest_tso6"],
        mtu: 1500,
        says: &[SUMS[1], SEGMENTS[0]],
        silent_of: &[SEGMENTS[1]],
    },
    Case { machine: "q35", without: &[], mtu: 9000, says: &["packets of 9000", MERGES], silent_of: &[] },
    Case {
        machine: "q35",
        without: &["mrg_rxbuf", "event_idx"],
        mtu: 9000,
        says: &["packets of 9000", SUMS[0]],
        silent_of: &[MERGES, SEGMENTS[1]],
    },
    Case {
        machine: "q35",
        without: &["csum"],
        mtu: 1500,
        says: &[SUMS[1]],
        silent_of: &[SUMS[0], SEGMENTS[0]],
    },
    Case {
        machine: "q35",
        without: &["guest_csum"],
        mtu: 1500,
        says: &[SUMS[0]],
        silent_of: &[SUMS[1], SEGMENTS[1]],
    },
    // A device of the kind before virtio 1.0, with the shorter header.
    Case { machine: "microvm", without: &["mrg_rxbuf"], mtu: 1500, says: &SUMS, silent_of: &[MERGES] },
];

fn check(case: &Case, folder: &tempfile::TempDir, other: &Honest, tap: &Tap) {
    let [v4, v6] = GUEST;
    let addresses = format!("{v4}/24,{v6}/64,gw={},gw={}", ROUTER[0][0], ROUTER[0][1]);
    let driver = if case.machine == "microvm" { "virtio-net-device" } else { "virtio-net-pci" };
    let mut options: Vec<String> =
        ["--machine", case.machine, "--net", "tap:guest", "--address", &addresses, "--verbose"]
            .map(str::to_owned)
            .into();
    let without = case.without.iter().map(|feature| format!("{driver}.{feature}=off"));
    for setting in without.chain([format!("{driver}.host_mtu={}", case.mtu)]) {
        options.extend(["--qemu-arg", "-global", "--qemu-arg", &setting].map(str::to_owned));
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let server = Server::boot(folder, &options).unwrap();
    let device = server.boot.lines().find(|line| line.contains("network device at")).unwrap();
    for words in case.says {
        assert!(device.contains(words), "{device}");
    }
    for words in case.silent_of {
        assert!(!device.contains(words), "{device}");
    }
    for to in GUEST.map(address) {
        from_here(to);
        from_the_other(other, tap, to);
    }
    let quit = other.connect(SocketAddr::new(address(v4), PORT)).unwrap();
    other.ask(&quit, b"quit", |got| got == b"bye").unwrap();
    server.finish().unwrap();
}

/// All that [`make_network`] needs.
const PROBE: &str = "ip tuntap add dev probe mode tap; ip link set dev probe mtu 9000; \
    ip -6 addr add fd08::1/64 dev probe nodad; \
    echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";

/// What runs a command in a network namespace of its own.
fn in_namespace() -> Command {
    let root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let mut unshare = Command::new("unshare");
    unshare.arg("--net").args(if root { &[][..] } else { &["--user", "--map-root-user"] });
    unshare
}

#[test]
fn checksums_and_buffers_of_every_device() {
    if std::env::var_os(INSIDE).is_some() {
        make_network();
        let folder = image().unwrap();
        let tap = Tap::open("other").unwrap();
        let addresses = [(address(OTHER[0]), 24), (address(OTHER[1]), 64)];
        let routers = ROUTER[1].map(address);
        let other = Honest::new(tap.clone(), &addresses, &routers, || false).unwrap();
        for case in &CASES {
            println!("{} without {:?}, packets of {} bytes", case.machine, case.without, case.mtu);
            check(case, &folder, &other, &tap);
        }
        return;
    }
    if let Err(error) = output(in_namespace().args(["sh", "-ec", PROBE])) {
        println!("note: not shown: no network namespace with a tap device: {error:#}");
        return;
    }
    let mut again = in_namespace();
    again.arg(std::env::current_exe().unwrap());
    again.args(["--exact", "checksums_and_buffers_of_every_device", "--nocapture"]);
    let status = again.env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "in a network namespace of its own: {status}");
}
