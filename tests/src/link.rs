//! The other end of a guest's network: QEMU's socket back end, whose frames this process sends and receives.
//!
//! [`Link`] is the wire. [`Honest`] is an ordinary machine on it (or on another), with a stack of its own; whoever sends anything else puts frames on
//! the wire itself. Frames for neither the honest machine nor the prober are nobody's and forgotten.

use anyhow::{Context, Result, ensure};
use net::device::{Device, Fill, Frame};
use net::interface::Addresses;
use net::{Config, Stack, TcpSocket, UdpSocket};
use platform::sync::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What QEMU gives to a network device that is not told otherwise.
pub const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
/// The honest machine's Ethernet address.
pub const HONEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The prober's.
pub const PROBER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Whatever hangs has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long does somebody who waits for the guest sleep.
pub(crate) const NAP: Duration = Duration::from_micros(200);
/// A probe that is not answered is repeated after this.
const PROBE_AGAIN: Duration = Duration::from_millis(200);

/// Frames that have come and that nobody has taken yet.
#[derive(Default)]
pub(crate) struct Inbox(Mutex<VecDeque<Vec<u8>>>);

impl Inbox {
    pub(crate) fn put(&self, frame: Vec<u8>) {
        self.0.lock().push_back(frame);
    }

    /// Gives the next frame to `take`, without a lock; whether there was one. As a [`Device`] does.
    pub(crate) fn next(&self, take: &mut dyn FnMut(Frame<'_>)) -> bool {
        let frame = self.0.lock().pop_front();
        frame.is_some_and(|frame| {
            take(Frame { bytes: &frame, vouched: false });
            true
        })
    }
}

/// The wire: frames over a stream, each after its length, as `-netdev socket` has them.
pub struct Link {
    stream: std::sync::Mutex<TcpStream>,
    inbox: Inbox,
    /// By port of the honest machine: what the guest expects next of that connection, and what it will send next.
    numbers: Mutex<HashMap<u16, (u32, u32)>>,
    /// Frames that came for the prober.
    answers: AtomicU64,
    ended: AtomicBool,
}

impl Link {
    /// The wire over `stream`, to which QEMU has connected.
    pub fn new(stream: TcpStream) -> Result<Arc<Self>> {
        stream.set_nodelay(true)?;
        let mut from = stream.try_clone()?;
        let link = Arc::new(Link {
            stream: stream.into(),
            inbox: Inbox::default(),
            numbers: Mutex::new(HashMap::new()),
            answers: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let reader = Arc::clone(&link);
        std::thread::spawn(move || {
            let mut len = [0; 4];
            while from.read_exact(&mut len).is_ok() {
                let mut frame = vec![0; u32::from_be_bytes(len) as usize];
                if from.read_exact(&mut frame).is_err() {
                    break;
                }
                reader.deliver(frame);
            }
            reader.ended.store(true, Ordering::SeqCst);
        });
        Ok(link)
    }

    fn deliver(&self, frame: Vec<u8>) {
        let Some(to) = frame.first_chunk::<6>() else { return };
        if *to == PROBER_MAC {
            self.answers.fetch_add(1, Ordering::SeqCst);
        } else if *to == HONEST_MAC || to[0] & 1 != 0 {
            if let Some((port, numbers)) = numbers(&frame) {
                self.numbers.lock().insert(port, numbers);
            }
            self.inbox.put(frame);
        }
    }

    /// What the guest expects next of the connection with the honest machine's `port`, and what it will send next.
    #[must_use]
    pub fn numbers(&self, port: u16) -> Option<(u32, u32)> {
        self.numbers.lock().get(&port).copied()
    }

    /// Puts frames on the wire, one after another.
    pub fn put(&self, frames: &[Vec<u8>]) {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
            bytes.extend_from_slice(frame);
        }
        // A guest that has ended is no longer there: what waits for its answer sees that.
        if let Ok(mut stream) = self.stream.lock() {
            let _ = stream.write_all(&bytes);
        }
    }

    /// Whether the guest has ended, and all that it sent has been seen.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst) && self.inbox.0.lock().is_empty()
    }

    /// Waits until the guest has taken all that was put on the wire: it answers the prober, who asks for its address `guest`.
    pub fn drained(&self, guest: [u8; 4]) -> Result<()> {
        let before = self.answers.load(Ordering::SeqCst);
        let mut asked: Option<Instant> = None;
        wait("who has its address", &|| self.has_ended(), || {
            if asked.is_none_or(|at| at.elapsed() > PROBE_AGAIN) {
                self.put(&[crate::frames::who_has(PROBER_MAC, [10, 7, 255, 2], guest)]);
                asked = Some(Instant::now());
            }
            self.answers.load(Ordering::SeqCst) > before
        })
    }
}

/// Waits until `done` holds; an error if the guest has `ended` before, or `what` takes too long.
fn wait(what: &str, ended: &dyn Fn() -> bool, mut done: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(!ended(), "the guest ended before: {what}");
        ensure!(start.elapsed() < PATIENCE, "the guest does not answer: {what}");
        std::thread::sleep(NAP);
    }
    Ok(())
}

/// The destination port of a segment over IPv4, what it acknowledges, and what follows on it.
fn numbers(frame: &[u8]) -> Option<(u16, (u32, u32))> {
    let packet = frame.get(14..).filter(|_| frame[12..14] == [8, 0])?;
    let header = 4 * usize::from(packet.first()? & 15);
    let len = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
    let segment = packet.get(header..len).filter(|_| packet[9] == 6)?;
    let number = |at: usize| segment.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
    let port = u16::from_be_bytes(*segment.get(2..)?.first_chunk()?);
    let payload = segment.len().checked_sub(4 * usize::from(segment.get(12)? >> 4))?;
    Some((port, (number(8)?, number(4)?.wrapping_add(payload as u32))))
}

impl Device for Link {
    fn mac(&self) -> Option<[u8; 6]> {
        Some(HONEST_MAC)
    }
    fn mtu(&self) -> usize {
        1500
    }
    fn can_send(&self) -> bool {
        true
    }
    fn send(&self, len: usize, _segment: Option<NonZeroU16>, fill: &mut Fill<'_>) {
        let mut frame = vec![0; len];
        fill(&mut frame);
        self.put(&[frame]);
    }
    fn receive(&self, take: &mut dyn FnMut(Frame<'_>)) -> bool {
        self.inbox.next(take)
    }
}

/// An ordinary machine on the wire.
pub struct Honest {
    /// Whether there is nobody any more whom it could wait for.
    ended: Box<dyn Fn() -> bool + Send + Sync>,
    /// Its stack; interface 1 is on the wire.
    pub stack: Stack,
    stop: Arc<AtomicBool>,
}

impl Honest {
    /// A machine with these addresses and routers on a wire, which has no other end any more when `ended` says so. A thread does its
    /// interface's work until this is dropped.
    pub fn new(
        device: Arc<dyn Device>,
        addresses: &[(IpAddr, u8)],
        gateways: &[IpAddr],
        ended: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Self> {
        let env = platform::Env {
            clock: Arc::new(platform::host::SystemClock),
            random: Arc::new(platform::host::OsRandom::open()?),
        };
        let addresses =
            Addresses::Static { addresses: addresses.to_vec(), gateways: gateways.to_vec(), dns: Vec::new() };
        let stack = Stack::new(env, Config::default(), vec![(device, addresses)]);
        let stop = Arc::new(AtomicBool::new(false));
        let (interface, over) = (Arc::clone(&stack.interfaces()[1]), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !over.load(Ordering::SeqCst) {
                if !interface.work() {
                    std::thread::sleep(NAP);
                }
            }
        });
        Ok(Honest { ended: Box::new(ended), stack, stop })
    }

    /// A connection.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpSocket> {
        let client = self.stack.tcp(Arc::new(|| ()));
        // In progress.
        let _ = client.connect(to);
        let mut outcome = client.connected();
        wait("a connection", &self.ended, || {
            outcome = client.connected();
            !matches!(outcome, Err(net::Error::WouldBlock | net::Error::InProgress | net::Error::Already))
        })?;
        outcome.context("connecting")?;
        Ok(client)
    }

    /// Sends `text` and reads until that is `enough`.
    pub fn ask(&self, client: &TcpSocket, text: &[u8], enough: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        ensure!(client.send(text, None)? == text.len(), "a small request does not fit");
        let mut got = Vec::new();
        let mut end = None;
        wait("an answer", &self.ended, || {
            let mut buf = [0; 4096];
            match client.receive(&mut buf, false) {
                Ok(0) => end = Some("the connection ended".to_owned()),
                Ok(n) => got.extend_from_slice(&buf[..n]),
                Err(net::Error::WouldBlock) => {}
                Err(error) => end = Some(error.to_string()),
            }
            enough(&got) || end.is_some()
        })?;
        ensure!(end.is_none(), "{} bytes came: {}", got.len(), end.unwrap_or_default());
        Ok(got)
    }

    /// Sends `text`, of which the guest sends a copy back.
    pub fn echo(&self, client: &TcpSocket, text: &[u8]) -> Result<()> {
        ensure!(self.ask(client, text, |got| got.len() >= text.len())? == text, "a wrong answer");
        Ok(())
    }

    /// Sends a datagram, of which the guest sends a copy back. It may be lost, and is repeated then.
    pub fn datagram(&self, to: SocketAddr, text: &[u8]) -> Result<()> {
        self.datagram_by(&self.stack.udp(Arc::new(|| ())), to, text)
    }

    /// The same by this socket.
    pub fn datagram_by(&self, socket: &UdpSocket, to: SocketAddr, text: &[u8]) -> Result<()> {
        let mut sent: Option<Instant> = None;
        let mut wrong = false;
        wait("a datagram", &self.ended, || {
            if sent.is_none_or(|at| at.elapsed() > PROBE_AGAIN) {
                // No room: later.
                let _ = socket.send(text, Some(to));
                sent = Some(Instant::now());
            }
            let mut buf = [0; 2048];
            let Ok(received) = socket.receive(&mut buf, false) else { return false };
            wrong = buf[..received.copied] != *text;
            true
        })?;
        ensure!(!wrong, "a wrong datagram");
        Ok(())
    }
}

impl Drop for Honest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
