//! A hostile machine on the guest's link: malformed frames of every protocol, thousands of connections that are never completed,
//! and segments for the connections of others. An honest machine beside it is served meanwhile and afterwards, and the kernel
//! holds as much memory after the second onslaught as after the first.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use net::TcpSocket;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tests::frames::Hostile;
use tests::link::{Honest, Link};
use tests::server::{Server, image};
use tests::tool::zdb_check;

const PORT: u16 = 7000;
const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2);
const HONEST_V4: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
const HONEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1);

/// Frames of an onslaught, and how many are on their way at a time: a link that held more would be full of them for seconds.
const FRAMES: usize = 12_000;
const AT_A_TIME: usize = 100;
/// Connections that are begun with nothing between them.
const BURST: usize = 4000;
/// What the second onslaught may add to the kernel's memory, in KiB: the heap's blocks are not always at the same places.
const NOISE_KIB: u64 = 1024;

/// What the kernel holds, in KiB, as it tells over a connection.
fn held(honest: &Honest, client: &TcpSocket) -> u64 {
    // The last line is that of the sockets.
    let complete = |got: &[u8]| {
        let text = String::from_utf8_lossy(got);
        text.contains("\nsockets ") && text.ends_with('\n')
    };
    let text = String::from_utf8(honest.ask(client, b"counters", complete).unwrap()).unwrap();
    let value = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    println!("counters: {}", text.trim().replace('\n', ", "));
    value("total") - value("free")
}

/// An ordinary client's visits, one after another: over IPv4, over IPv6, by datagrams.
fn visit(honest: &Honest, n: u32) {
    let text = format!("visit {n}").repeat(1 + n as usize % 100);
    let to: IpAddr = if n.is_multiple_of(2) { GUEST_V4.into() } else { GUEST_V6.into() };
    let client = honest.connect(SocketAddr::new(to, PORT)).unwrap();
    honest.echo(&client, text.as_bytes()).unwrap();
    honest.datagram(SocketAddr::new(to, PORT), text.as_bytes()).unwrap();
}

/// Everything that a hostile machine can send, while the open connections are used; how many visits were made meanwhile.
fn onslaught(link: &Link, honest: &Honest, hostile: &Hostile, open: &[TcpSocket]) -> u32 {
    let (over, visits) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                visit(honest, visits.fetch_add(1, Ordering::SeqCst));
            }
        });
        for round in 0..FRAMES / AT_A_TIME {
            let client = &open[round % open.len()];
            let port = client.local().unwrap().port();
            let frames: Vec<Vec<u8>> = (0..AT_A_TIME)
                .map(|n| match (n % 8, link.numbers(port)) {
                    (0, Some((expected, next))) => hostile.out_of_window(port, expected, next),
                    (1..=3, _) => hostile.half_open(),
                    (4, _) => hostile.land(),
                    _ => hostile.frame(),
                })
                .collect();
            link.put(&frames);
            link.drained(GUEST_V4.octets()).unwrap();
            if round % 10 == 0 {
                honest.echo(client, format!("round {round}").as_bytes()).unwrap();
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    visits.into_inner()
}

#[test]
fn a_hostile_link_stops_nobody() {
    let folder = image().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let net = format!("socket:connect={}", listener.local_addr().unwrap());
    let address = format!("{GUEST_V4}/16,{GUEST_V6}/64");
    let server = Server::boot(&folder, &["--net", &net, "--address", &address]).unwrap();
    let link = Link::new(listener.accept().unwrap().0).unwrap();
    let wire = link.clone();
    let addresses = [(HONEST_V4.into(), 16), (HONEST_V6.into(), 64)];
    let honest = Honest::new(link.clone(), &addresses, &[], move || wire.has_ended()).unwrap();
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");

    let guest = SocketAddr::from((GUEST_V4, PORT));
    let open: Vec<TcpSocket> = (0..4).map(|_| honest.connect(guest).unwrap()).collect();
    let ports = open.iter().map(|client| client.local().unwrap().port()).collect();
    for client in &open {
        honest.echo(client, b"before").unwrap();
    }
    println!("before: {} KiB", held(&honest, &open[0]));

    let hostile = Hostile::new(seed, GUEST_V4.octets(), GUEST_V6.octets(), PORT, ports);
    let held = [1, 2].map(|onslaught_number| {
        let visits = onslaught(&link, &honest, &hostile, &open);
        let burst: Vec<Vec<u8>> = (0..BURST).map(|_| hostile.half_open()).collect();
        link.put(&burst);
        visit(&honest, 0);
        let held = held(&honest, &open[0]);
        println!("onslaught {onslaught_number}: {visits} visits meanwhile, {held} KiB");
        assert!(visits > 0, "nobody was served meanwhile");
        held
    });
    assert!(held[1] <= held[0] + NOISE_KIB, "the kernel's memory grows: {held:?} KiB");

    // Nothing was reset, nothing was put into anybody's stream.
    for client in &open {
        honest.echo(client, b"after").unwrap();
    }
    honest.ask(&honest.connect(guest).unwrap(), b"quit", |got| got == b"bye").unwrap();
    server.finish().unwrap();
    zdb_check(&folder.path().join("disk"), "guest").unwrap();
}
