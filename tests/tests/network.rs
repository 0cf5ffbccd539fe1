//! The guest's network: sockets within it, a server for clients of the host, and a hostile link.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use net::device::Device;
use net::interface::Addresses;
use net::{Config, Stack};
use platform::random::{Random, Seeded};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use testkit::rootfs;
use tests::tool::{tarn, tarn_ok, zdb_check};

const CHECKS: &str = "/usr/bin/guest-checks";
/// Whatever hangs has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// An image whose only program is `guest-checks`.
fn image() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    for dir in ["usr/bin", "tmp", "etc", "dev", "proc", "run"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy(rootfs::workload("guest-checks").unwrap(), root.join(&CHECKS[1..])).unwrap();
    std::fs::create_dir(folder.path().join("disk")).unwrap();
    let image = path(&folder);
    tarn_ok(&["create", &image, "--from", root.to_str().unwrap(), "--pool", "guest", "--size", "256M"])
        .unwrap();
    folder
}

fn path(folder: &tempfile::TempDir) -> String {
    folder.path().join("disk/guest.img").to_string_lossy().into_owned()
}

/// Reads what a guest prints, shows it, and gives it at the guest's end.
type Console = JoinHandle<String>;

/// A guest that runs `serve`; it says so before this returns.
fn serve(folder: &tempfile::TempDir, options: &[&str]) -> (Child, Console) {
    let mut boot = tarn();
    boot.args(["run", &path(folder), "--memory", "128M", "--timeout", "120"])
        .args(options)
        .args(["--", CHECKS, "serve"]);
    let mut child = boot.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut console = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while line.trim() != "serving" {
        line.clear();
        assert!(console.read_line(&mut line).unwrap() > 0, "the guest ended: {:?}", child.wait());
    }
    let console = std::thread::spawn(move || {
        let mut all = String::new();
        for line in console.lines().map_while(Result::ok) {
            println!("guest: {line}");
            all.push_str(&line);
            all.push('\n');
        }
        all
    });
    (child, console)
}

fn finish(mut child: Child, console: Console) {
    let rest = console.join().unwrap();
    assert!(child.wait().unwrap().success(), "{rest}");
    assert!(rest.contains("serve: ok"), "{rest}");
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn sockets_within_the_guest() {
    let folder = image();
    let output =
        tarn().args(["run", &path(&folder), "--memory", "128M", "--", CHECKS, "sockets"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("sockets: ok"), "{text}");
}

#[test]
fn clients_of_the_host_are_served() {
    let folder = image();
    for machine in ["q35", "microvm"] {
        let port = free_port();
        let (tcp, udp) = (format!("{port}:7000"), format!("{port}:7000/udp"));
        let options = ["--machine", machine, "--forward", &tcp, "--forward", &udp];
        let (child, console) = serve(&folder, &options);
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
        finish(child, console);
    }
    zdb_check(&folder.path().join("disk"), "guest").unwrap();
}

/// The other end of QEMU's link: frames over a stream, each after its length.
struct Link {
    stream: TcpStream,
    inbox: Arc<Mutex<VecDeque<Vec<u8>>>>,
    /// The guest has ended.
    ended: Arc<AtomicBool>,
}

impl Link {
    fn new(stream: TcpStream) -> Arc<Self> {
        let inbox = Arc::new(Mutex::new(VecDeque::new()));
        let ended = Arc::new(AtomicBool::new(false));
        let (mut from, into, over) = (stream.try_clone().unwrap(), Arc::clone(&inbox), Arc::clone(&ended));
        std::thread::spawn(move || {
            let mut len = [0; 4];
            while from.read_exact(&mut len).is_ok() {
                let mut frame = vec![0; u32::from_be_bytes(len) as usize];
                if from.read_exact(&mut frame).is_err() {
                    break;
                }
                into.lock().unwrap().push_back(frame);
            }
            over.store(true, Ordering::SeqCst);
        });
        Arc::new(Link { stream, inbox, ended })
    }

    fn put(&self, frame: &[u8]) {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        // A guest that has ended is no longer there: what waits for its answer sees `ended`.
        let _ = (&self.stream).write_all(&bytes);
    }
}

impl Device for Link {
    fn mac(&self) -> Option<[u8; 6]> {
        Some([2, 0, 0, 0, 0, 1])
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn can_send(&self) -> bool {
        true
    }
    fn send(&self, len: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let mut frame = vec![0; len];
        fill(&mut frame);
        self.put(&frame);
    }
    fn receive(&self, take: &mut dyn FnMut(&[u8])) -> bool {
        let frame = self.inbox.lock().unwrap().pop_front();
        frame.is_some_and(|frame| {
            take(&frame);
            true
        })
    }
}

/// A SYN to 10.7.0.2:7000 of a connection that will never be established. QEMU's card has the address 52:54:00:12:34:56.
fn syn(n: u32) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0x12, 0x34, 0x56, 2, 0, 0, 0, 9, 9, 8, 0];
    let [_, b, c, d] = n.to_be_bytes();
    let mut ip = vec![0x45, 0, 0, 40, b, c, 0, 0, 64, 6, 0, 0, 10, 7, 1 + c % 100, d, 10, 7, 0, 2];
    let sum = checksum(&ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut tcp = vec![4 + b, c, 0x1b, 0x58, 0, b, c, d, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0];
    let mut pseudo = ip[12..20].to_vec();
    pseudo.extend_from_slice(&[0, 6, 0, 20]);
    pseudo.extend_from_slice(&tcp);
    let sum = checksum(&pseudo, 0);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    frame.extend_from_slice(&ip);
    frame.extend_from_slice(&tcp);
    frame
}

/// RFC 1071.
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let sum = bytes
        .chunks(2)
        .fold(start, |sum, c| sum + u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)])));
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

#[test]
fn a_hostile_link_stops_nobody() {
    let folder = image();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let net = format!("socket:connect={}", listener.local_addr().unwrap());
    let (child, console) = serve(&folder, &["--net", &net, "--address", "10.7.0.2/16"]);
    let link = Link::new(listener.accept().unwrap().0);

    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let random = Seeded::new(seed);
    for n in 0..4000 {
        let mut frame = syn(n);
        if n % 2 == 1 {
            for _ in 0..1 + random.next_u64() % 6 {
                let at = 12 + random.next_u64() as usize % (frame.len() - 12);
                frame[at] = random.next_u64() as u8;
            }
            frame.truncate(14 + random.next_u64() as usize % (frame.len() - 13));
        }
        link.put(&frame);
    }

    // An honest machine on the same link.
    let env = platform::Env {
        clock: Arc::new(platform::host::SystemClock),
        random: Arc::new(platform::host::OsRandom::open().unwrap()),
    };
    let addresses = Addresses::Static {
        addresses: vec![("10.7.0.1".parse().unwrap(), 16)],
        gateways: Vec::new(),
        dns: Vec::new(),
    };
    let stack = Stack::new(env, Config::default(), vec![(Arc::clone(&link) as Arc<dyn Device>, addresses)]);
    let interface = Arc::clone(&stack.interfaces()[1]);
    let ended = || link.ended.load(Ordering::SeqCst) && link.inbox.lock().unwrap().is_empty();
    let deadline = Instant::now() + PATIENCE;
    let until = |done: &mut dyn FnMut() -> bool| {
        while !done() {
            assert!(!ended() && Instant::now() < deadline, "the guest does not answer");
            if !interface.work() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    let talk = |text: &[u8], answer: &[u8]| {
        let client = stack.tcp(Arc::new(|| ()));
        let _ = client.connect("10.7.0.2:7000".parse().unwrap());
        until(&mut || client.connected().is_ok());
        client.send(text).unwrap();
        let mut got = Vec::new();
        until(&mut || {
            let mut buf = [0; 100];
            let n = client.receive(&mut buf, false).unwrap_or(0);
            got.extend_from_slice(&buf[..n]);
            got.len() >= answer.len()
        });
        assert!(got.starts_with(answer));
    };
    talk(b"still there?", b"still there?");
    talk(b"quit", b"bye");
    finish(child, console);
    zdb_check(&folder.path().join("disk"), "guest").unwrap();
}
