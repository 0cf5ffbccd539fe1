//! The guest's network: sockets within it, and a server for clients of the host.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;
use tests::server::{CHECKS, Server, image, path};
use tests::tool::{tarn, zdb_check};

/// Whatever hangs has failed.
const PATIENCE: Duration = Duration::from_secs(120);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn sockets_within_the_guest() {
    let folder = image().unwrap();
    let output =
        tarn().args(["run", &path(&folder), "--memory", "128M", "--", CHECKS, "sockets"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("sockets: ok"), "{text}");
}

#[test]
fn clients_of_the_host_are_served() {
    let folder = image().unwrap();
    for machine in ["q35", "microvm"] {
        let port = free_port();
        let (tcp, udp) = (format!("{port}:7000"), format!("{port}:7000/udp"));
        let options = ["--machine", machine, "--forward", &tcp, "--forward", &udp];
        let server = Server::boot(&folder, &options).unwrap();
        std::thread::scope(|scope| {
            for n in 0..20u32 {
                // One after another: QEMU's user network listens with a backlog of one, and loses what begins at once.
                let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.write_all(b"!").unwrap();
                socket.read_exact(&mut [0]).unwrap();
                scope.spawn(move || {
                    let data: Vec<u8> =
                        (0..100_000u32).map(|i| (i ^ n).wrapping_mul(2_654_435_761) as u8).collect();
                    let mut got = vec![0; data.len()];
                    std::thread::scope(|scope| {
                        scope.spawn(|| (&socket).write_all(&data).unwrap());
                        (&socket).read_exact(&mut got).unwrap();
                    });
                    assert!(got == data, "client {n}");
                });
            }
        });
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.send(b"datagram").unwrap();
        let mut buf = [0; 100];
        let n = socket.recv(&mut buf).unwrap();
        assert_eq!(&buf[..n], b"datagram");
        let mut quit = TcpStream::connect(("127.0.0.1", port)).unwrap();
        quit.write_all(b"quit").unwrap();
        let mut bye = Vec::new();
        let _ = quit.read_to_end(&mut bye);
        server.finish().unwrap();
    }
    zdb_check(&folder.path().join("disk"), "guest").unwrap();
}
