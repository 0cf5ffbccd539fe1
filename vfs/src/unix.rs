//! Sockets of the family `AF_UNIX` (`unix(7)`): streams, datagrams and sequences of packets within the machine.
//!
//! They are here and not in the network crate because they hand over open files, and have names in the file tree.
//!
//! # Invariants
//! - A socket's inbox is filled by its peers under the inbox's lock alone; no two inboxes are locked at once.
//! - A message carries its files until it is received; what is never received closes them.

use crate::errno::{Errno, Result};
use crate::file::File;
use crate::inode::Ready;
use crate::wait::{Waiters, wait_on};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use platform::sync::Mutex;

/// Bytes that may wait in an inbox (`net.core.wmem_default`).
const INBOX: usize = 208 << 10;
/// Datagrams that may wait (`net.unix.max_dgram_qlen` is 10 by default, 512 with systemd).
const DATAGRAMS: usize = 512;
/// Files that one message may carry (`SCM_MAX_FD`).
pub const FILES_MAX: usize = 253;

/// How a socket moves data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A stream of bytes.
    Stream,
    /// Datagrams.
    Datagram,
    /// A connection that keeps messages apart.
    Packets,
}

/// A name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// In the file tree: how the binder wrote it, and the inode (`st_dev`, `st_ino`).
    Path(Vec<u8>, (u64, u64)),
    /// In the name space of its own, without the leading zero.
    Abstract(Vec<u8>),
}

/// Who is at the other end (`SO_PEERCRED`): process, user, group.
pub type Credentials = (u32, u32, u32);

/// What a call received.
#[derive(Default)]
pub struct Received {
    /// Bytes copied.
    pub copied: usize,
    /// The message's length; for streams what was copied.
    pub len: usize,
    /// The sender's name.
    pub from: Option<Name>,
    /// The files that came with it.
    pub files: Vec<Arc<File>>,
}

struct Message {
    data: Vec<u8>,
    taken: usize,
    files: Vec<Arc<File>>,
    from: Option<Name>,
}

#[derive(Default)]
struct Inbox {
    messages: VecDeque<Message>,
    bytes: usize,
    /// The peer sends no more.
    ended: bool,
    /// The owner reads no more.
    closed: bool,
}

#[derive(Default)]
struct State {
    name: Option<Name>,
    peer: Option<Weak<UnixSocket>>,
    /// It was connected once.
    connected: bool,
    peer_name: Option<Name>,
    peer_credentials: Credentials,
    backlog: Option<usize>,
    waiting: VecDeque<Arc<UnixSocket>>,
    shut_write: bool,
}

/// A socket.
pub struct UnixSocket {
    kind: Kind,
    credentials: Credentials,
    state: Mutex<State>,
    inbox: Mutex<Inbox>,
    waiters: Waiters,
    me: Weak<UnixSocket>,
}

/// A name without how it was written: what is looked up.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Inode(u64, u64),
    Abstract(Vec<u8>),
}

static NAMES: Mutex<BTreeMap<Key, Weak<UnixSocket>>> = Mutex::new(BTreeMap::new());

fn key(name: &Name) -> Key {
    match name {
        Name::Path(_, (dev, ino)) => Key::Inode(*dev, *ino),
        Name::Abstract(name) => Key::Abstract(name.clone()),
    }
}

/// The socket of that name. [`Errno::ECONNREFUSED`].
pub fn find(name: &Name) -> Result<Arc<UnixSocket>> {
    NAMES.lock().get(&key(name)).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED)
}

impl UnixSocket {
    /// A socket without a name and a peer.
    #[must_use]
    pub fn new(kind: Kind, credentials: Credentials) -> Arc<Self> {
        Arc::new_cyclic(|me| UnixSocket {
            kind,
            credentials,
            state: Mutex::default(),
            inbox: Mutex::default(),
            waiters: Waiters::new(),
            me: Weak::clone(me),
        })
    }

    /// `socketpair(2)`.
    #[must_use]
    pub fn pair(kind: Kind, credentials: Credentials) -> (Arc<Self>, Arc<Self>) {
        let (a, b) = (Self::new(kind, credentials), Self::new(kind, credentials));
        a.join(&b);
        b.join(&a);
        (a, b)
    }

    fn join(&self, peer: &Arc<UnixSocket>) {
        let peer_name = peer.state.lock().name.clone();
        let mut state = self.state.lock();
        state.peer = Some(Arc::downgrade(peer));
        state.connected = true;
        state.peer_name = peer_name;
        state.peer_credentials = peer.credentials;
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `bind(2)`. [`Errno::EINVAL`] if it has a name, [`Errno::EADDRINUSE`].
    pub fn bind(&self, name: Name) -> Result<()> {
        let mut state = self.state.lock();
        if state.name.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut names = NAMES.lock();
        names.retain(|_, socket| socket.strong_count() > 0);
        let key = key(&name);
        if names.contains_key(&key) {
            return Err(Errno::EADDRINUSE);
        }
        names.insert(key, Weak::clone(&self.me));
        state.name = Some(name);
        Ok(())
    }

    /// `listen(2)`.
    pub fn listen(&self, backlog: usize) -> Result<()> {
        if self.kind == Kind::Datagram {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.state.lock();
        if state.name.is_none() || state.connected {
            return Err(Errno::EINVAL);
        }
        state.backlog = Some(backlog.clamp(1, 4096));
        Ok(())
    }

    fn try_join(&self, listener: &UnixSocket, me: &Arc<UnixSocket>) -> Option<Result<()>> {
        let mut state = listener.state.lock();
        let Some(backlog) = state.backlog else { return Some(Err(Errno::ECONNREFUSED)) };
        if state.waiting.len() >= backlog {
            return None;
        }
        let end = UnixSocket::new(self.kind, listener.credentials);
        end.state.lock().name = state.name.clone();
        end.join(me);
        me.join(&end);
        state.waiting.push_back(end);
        Some(Ok(()))
    }

    /// `connect(2)`. A stream waits for room in the listener's backlog; with `nonblock` [`Errno::EAGAIN`].
    pub fn connect(&self, to: &Name, nonblock: bool) -> Result<()> {
        let other = find(to)?;
        if other.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let me = self.me.upgrade().ok_or(Errno::EINVAL)?;
        if self.kind == Kind::Datagram {
            me.join(&other);
            return Ok(());
        }
        if self.state.lock().connected {
            return Err(Errno::EISCONN);
        }
        if Arc::ptr_eq(&me, &other) {
            return Err(Errno::EINVAL);
        }
        let attempt = || self.try_join(&other, &me);
        let result = if nonblock {
            attempt().unwrap_or(Err(Errno::EAGAIN))
        } else {
            wait_on(&[&other.waiters], None, attempt)?
        };
        result?;
        other.waiters.wake();
        self.waiters.wake();
        Ok(())
    }

    /// `accept(2)`. `deadline` as in [`wait_on`].
    pub fn accept(&self, nonblock: bool, deadline: Option<u64>) -> Result<Arc<UnixSocket>> {
        if self.state.lock().backlog.is_none() {
            return Err(Errno::EINVAL);
        }
        let attempt = || self.state.lock().waiting.pop_front();
        let end = if nonblock {
            attempt().ok_or(Errno::EAGAIN)?
        } else {
            wait_on(&[&self.waiters], deadline, attempt)?
        };
        self.waiters.wake();
        Ok(end)
    }

    fn peer(&self) -> Result<Arc<UnixSocket>> {
        let state = self.state.lock();
        match &state.peer {
            Some(peer) => peer.upgrade().ok_or(Errno::EPIPE),
            None if state.connected => Err(Errno::EPIPE),
            None => Err(Errno::ENOTCONN),
        }
    }

    /// One attempt to put `data` into this inbox; `None`: no room.
    fn deliver(&self, data: &[u8], files: &mut Vec<Arc<File>>, from: &Option<Name>) -> Option<Result<usize>> {
        let mut inbox = self.inbox.lock();
        if inbox.closed {
            return Some(Err(if self.kind == Kind::Datagram { Errno::ECONNREFUSED } else { Errno::EPIPE }));
        }
        let room = INBOX - inbox.bytes.min(INBOX);
        let n = match self.kind {
            Kind::Stream => room.min(data.len()),
            _ if data.len() > INBOX => return Some(Err(Errno::EMSGSIZE)),
            _ if room < data.len() || inbox.messages.len() >= DATAGRAMS => return None,
            _ => data.len(),
        };
        if n == 0 && !data.is_empty() {
            return None;
        }
        inbox.bytes += n;
        let files = core::mem::take(files);
        match inbox.messages.back_mut() {
            // Bytes of one stream that carry no files lie together.
            Some(last) if self.kind == Kind::Stream && files.is_empty() && last.files.is_empty() => {
                last.data.extend_from_slice(&data[..n]);
            }
            _ => inbox.messages.push_back(Message {
                data: data[..n].to_vec(),
                taken: 0,
                files,
                from: from.clone(),
            }),
        }
        Some(Ok(n))
    }

    /// Sends; for datagrams to `to`, if it is given. Streams send as much as there is room for, with `nonblock`, else all.
    pub fn send(
        &self,
        data: &[u8],
        files: Vec<Arc<File>>,
        to: Option<&Name>,
        nonblock: bool,
        deadline: Option<u64>,
    ) -> Result<usize> {
        let peer = match to {
            Some(name) if self.kind == Kind::Datagram => find(name)?,
            _ => self.peer()?,
        };
        if peer.kind != self.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let (from, shut) = {
            let state = self.state.lock();
            (state.name.clone(), state.shut_write)
        };
        if shut {
            return Err(Errno::EPIPE);
        }
        let mut files = files;
        let mut done = 0;
        loop {
            let mut attempt = || peer.deliver(&data[done..], &mut files, &from);
            let step = if nonblock {
                attempt().unwrap_or(Err(Errno::EAGAIN))
            } else {
                wait_on(&[&peer.waiters], deadline, attempt).unwrap_or_else(Err)
            };
            match step {
                Ok(n) => done += n,
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error),
            }
            peer.waiters.wake();
            if done == data.len() {
                return Ok(done);
            }
        }
    }

    fn try_receive(&self, out: &mut [u8], peek: bool) -> Option<Received> {
        let mut inbox = self.inbox.lock();
        let mut got = Received::default();
        while let Some(message) = inbox.messages.front_mut() {
            // A message with files is received by itself.
            if got.copied > 0 && !message.files.is_empty() {
                break;
            }
            let rest = &message.data[message.taken..];
            let n = rest.len().min(out.len() - got.copied);
            out[got.copied..got.copied + n].copy_from_slice(&rest[..n]);
            got.copied += n;
            got.len += if self.kind == Kind::Stream { n } else { rest.len() };
            if got.from.is_none() {
                got.from.clone_from(&message.from);
            }
            if peek {
                return Some(got);
            }
            let had_files = !message.files.is_empty();
            got.files.append(&mut message.files);
            message.taken += n;
            let whole = message.taken == message.data.len() || self.kind != Kind::Stream;
            let freed = if self.kind == Kind::Stream { n } else { message.data.len() };
            if whole {
                inbox.messages.pop_front();
            }
            inbox.bytes -= freed;
            if self.kind != Kind::Stream || had_files || got.copied == out.len() {
                return Some(got);
            }
        }
        (got.copied > 0 || inbox.ended || inbox.closed).then_some(got)
    }

    /// Receives; nothing when the peer has ended.
    pub fn receive(
        &self,
        out: &mut [u8],
        peek: bool,
        nonblock: bool,
        deadline: Option<u64>,
    ) -> Result<Received> {
        {
            let state = self.state.lock();
            if self.kind != Kind::Datagram && !state.connected {
                return Err(if state.backlog.is_some() { Errno::EINVAL } else { Errno::ENOTCONN });
            }
        }
        let mut attempt = || self.try_receive(out, peek);
        let got = if nonblock {
            attempt().ok_or(Errno::EAGAIN)?
        } else {
            wait_on(&[&self.waiters], deadline, attempt)?
        };
        if !peek {
            // Those who wait for room wait with this socket.
            self.waiters.wake();
            if let Ok(peer) = self.peer() {
                peer.waiters.wake();
            }
        }
        Ok(got)
    }

    /// `shutdown(2)`.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let peer = match self.peer() {
            Err(Errno::ENOTCONN) => return Err(Errno::ENOTCONN),
            peer => peer.ok(),
        };
        if read {
            self.inbox.lock().closed = true;
        }
        if write {
            self.state.lock().shut_write = true;
            if let Some(peer) = &peer
                && self.kind != Kind::Datagram
            {
                peer.inbox.lock().ended = true;
            }
        }
        self.waiters.wake();
        if let Some(peer) = peer {
            peer.waiters.wake();
        }
        Ok(())
    }

    /// What it is ready for.
    #[must_use]
    pub fn ready(&self) -> Ready {
        let (listens, waiting, connected, shut_write) = {
            let state = self.state.lock();
            (state.backlog.is_some(), !state.waiting.is_empty(), state.connected, state.shut_write)
        };
        if listens {
            return Ready(if waiting { Ready::IN } else { 0 });
        }
        let peer = self.peer().ok();
        let (readable, ended) = {
            let inbox = self.inbox.lock();
            (!inbox.messages.is_empty(), inbox.ended || inbox.closed)
        };
        let streams = self.kind != Kind::Datagram;
        let gone = streams && connected && peer.is_none();
        let room = peer.as_ref().is_none_or(|p| {
            let inbox = p.inbox.lock();
            inbox.closed || inbox.bytes * 2 <= INBOX && inbox.messages.len() < DATAGRAMS
        });
        let mut bits = 0;
        if readable || ended || gone {
            bits |= Ready::IN;
        }
        if room && (connected || !streams) {
            bits |= Ready::OUT;
        }
        if ended || gone {
            bits |= 0x2000;
        }
        if gone || ended && shut_write || streams && !connected {
            bits |= Ready::HUP;
        }
        Ready(bits)
    }

    /// Who is woken when it may be ready.
    #[must_use]
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    /// Bytes that can be read, of the next message (`FIONREAD`).
    #[must_use]
    pub fn queued(&self) -> usize {
        let inbox = self.inbox.lock();
        match self.kind {
            Kind::Stream => inbox.bytes,
            _ => inbox.messages.front().map_or(0, |m| m.data.len()),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Option<Name> {
        self.state.lock().name.clone()
    }

    /// The peer's name; [`Errno::ENOTCONN`].
    pub fn peer_name(&self) -> Result<Option<Name>> {
        let state = self.state.lock();
        if state.connected { Ok(state.peer_name.clone()) } else { Err(Errno::ENOTCONN) }
    }

    /// The peer's credentials (`SO_PEERCRED`).
    #[must_use]
    pub fn peer_credentials(&self) -> Credentials {
        let state = self.state.lock();
        if state.connected { state.peer_credentials } else { (0, u32::MAX, u32::MAX) }
    }

    /// Whether it listens.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.state.lock().backlog.is_some()
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let me: *const UnixSocket = &raw const *self;
        let state = self.state.get_mut();
        let peer = state.peer.take().and_then(|p| p.upgrade());
        if let Some(name) = &state.name {
            let mut names = NAMES.lock();
            // An accepted socket has its listener's name, which is not its own to give back.
            if names.get(&key(name)).is_some_and(|s| core::ptr::eq(s.as_ptr(), me)) {
                names.remove(&key(name));
            }
        }
        if let Some(peer) = peer {
            if self.kind != Kind::Datagram {
                peer.inbox.lock().ended = true;
            }
            peer.waiters.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Credentials = (1, 0, 0);

    fn name(text: &str) -> Name {
        Name::Abstract(text.as_bytes().to_vec())
    }

    fn send(socket: &UnixSocket, data: &[u8]) -> Result<usize> {
        socket.send(data, Vec::new(), None, true, None)
    }

    fn read(socket: &UnixSocket) -> Result<Vec<u8>> {
        let mut out = alloc::vec![0; 1 << 20];
        let got = socket.receive(&mut out, false, true, None)?;
        out.truncate(got.copied);
        Ok(out)
    }

    #[test]
    fn a_pair_talks_and_ends() {
        let (a, b) = UnixSocket::pair(Kind::Stream, ME);
        assert_eq!(read(&a), Err(Errno::EAGAIN));
        send(&a, b"one").unwrap();
        send(&a, b"two").unwrap();
        assert_eq!((b.queued(), b.ready().0 & Ready::IN), (6, Ready::IN));
        assert_eq!(read(&b).unwrap(), b"onetwo");
        a.shutdown(false, true).unwrap();
        assert_eq!((read(&b).unwrap().len(), send(&a, b"x")), (0, Err(Errno::EPIPE)));
        send(&b, b"still").unwrap();
        drop(b);
        assert_eq!((read(&a).unwrap().as_slice(), read(&a).unwrap().len()), (&b"still"[..], 0));
        assert!(a.ready().0 & Ready::HUP != 0);
    }

    #[test]
    fn messages_keep_their_bounds() {
        for kind in [Kind::Packets, Kind::Datagram] {
            let (a, b) = UnixSocket::pair(kind, ME);
            send(&a, b"one").unwrap();
            send(&a, b"three").unwrap();
            let mut out = [0; 2];
            let got = b.receive(&mut out, false, true, None).unwrap();
            assert_eq!((got.copied, got.len), (2, 3));
            assert_eq!(read(&b).unwrap(), b"three");
            assert_eq!(read(&b), Err(Errno::EAGAIN));
        }
    }

    #[test]
    fn connections_are_made_by_name() {
        let listener = UnixSocket::new(Kind::Stream, ME);
        let client = UnixSocket::new(Kind::Stream, (2, 5, 6));
        assert_eq!(client.connect(&name("t1"), true), Err(Errno::ECONNREFUSED));
        listener.bind(name("t1")).unwrap();
        assert_eq!(client.connect(&name("t1"), true), Err(Errno::ECONNREFUSED));
        listener.listen(1).unwrap();
        assert_eq!(listener.accept(true, None).err(), Some(Errno::EAGAIN));
        client.connect(&name("t1"), true).unwrap();
        assert_eq!(UnixSocket::new(Kind::Stream, ME).connect(&name("t1"), true), Err(Errno::EAGAIN));
        assert_eq!(UnixSocket::new(Kind::Datagram, ME).connect(&name("t1"), true), Err(Errno::EPROTOTYPE));
        let end = listener.accept(true, None).unwrap();
        assert_eq!((end.peer_credentials(), client.peer_credentials()), ((2, 5, 6), ME));
        assert_eq!(client.peer_name().unwrap(), Some(name("t1")));
        send(&client, b"hello").unwrap();
        assert_eq!(read(&end).unwrap(), b"hello");
        assert_eq!(UnixSocket::new(Kind::Stream, ME).bind(name("t1")), Err(Errno::EADDRINUSE));
        drop(listener);
        UnixSocket::new(Kind::Stream, ME).bind(name("t1")).unwrap();
    }

    #[test]
    fn a_full_inbox_stops_the_sender_until_it_is_read() {
        let (a, b) = UnixSocket::pair(Kind::Stream, ME);
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i >> 3) as u8).collect();
        let copy = data.clone();
        let sender = std::thread::spawn(move || a.send(&copy, Vec::new(), None, false, None));
        let mut got = Vec::new();
        loop {
            let mut out = alloc::vec![0; 50_000];
            let n = b.receive(&mut out, false, false, None).unwrap().copied;
            if n == 0 {
                break;
            }
            got.extend_from_slice(&out[..n]);
        }
        assert_eq!(sender.join().unwrap(), Ok(1_000_000));
        assert!(got == data);
    }
}
