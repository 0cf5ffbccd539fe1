//! Clients of the soak: each keeps a model of its own keys or rows, and compares every answer with it.

use crate::workloads::guest::{Numbers, connect, exchange};
use crate::workloads::mariadb::Session;
use anyhow::{Context, Result, ensure};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An answer that takes longer is taken for one that never comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// After so many requests a client leaves and comes back.
const VISIT: u64 = 200;

/// A client of a server.
pub(super) trait Client: Send {
    /// Connects.
    fn come(&mut self, address: SocketAddr) -> Result<()>;
    /// Disconnects.
    fn leave(&mut self);
    /// One request, or a transaction; what it answers is right.
    fn step(&mut self) -> Result<()>;
    /// Everything that this client has stored is there.
    fn verify(&mut self) -> Result<()>;
}

/// How a client fares, as another thread sees it.
#[derive(Default)]
pub(super) struct Beat {
    /// When the request that waits for its answer was begun.
    waits_since: Mutex<Option<Instant>>,
    requests: AtomicU64,
}

impl Beat {
    fn note(&self, since: Option<Instant>) {
        *self.waits_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn during<T>(&self, request: impl FnOnce() -> T) -> T {
        self.note(Some(Instant::now()));
        let answer = request();
        self.note(None);
        answer
    }

    /// Whether the answer is overdue.
    pub(super) fn is_overdue(&self) -> bool {
        let since = *self.waits_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() > PATIENCE)
    }

    /// How many requests were answered.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

/// Has a client make a request every `pace`, until it is `until`.
pub(super) fn work(
    client: &mut dyn Client,
    address: SocketAddr,
    (pace, until): (Duration, Instant),
    beat: &Beat,
) -> Result<()> {
    beat.during(|| client.come(address))?;
    let mut next = Instant::now();
    for request in 1.. {
        if request % VISIT == 0 {
            client.leave();
            beat.during(|| client.come(address))?;
        }
        beat.during(|| client.step())?;
        beat.requests.fetch_add(1, Ordering::SeqCst);
        let now = Instant::now();
        if now >= until {
            break;
        }
        // One that is late does not hurry afterwards: the load stays what it is.
        next = (next + pace).max(now);
        std::thread::sleep(next - now);
    }
    client.leave();
    Ok(())
}

/// Connects, has everything verified, and leaves.
pub(super) fn verify(client: &mut dyn Client, address: SocketAddr) -> Result<()> {
    client.come(address)?;
    client.verify()?;
    client.leave();
    Ok(())
}

/// Keys of a client of redis-server.
const KEYS: u64 = 500;
/// One request in so many has the server write its snapshot.
const SAVE: u64 = 3000;

/// A client of redis-server.
pub(super) struct Redis {
    name: u64,
    numbers: Numbers,
    /// What each key holds: bytes drawn from a seed.
    model: Vec<Option<(u64, usize)>>,
    stream: Option<TcpStream>,
}

fn bulk(bytes: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

fn value((seed, len): (u64, usize)) -> Vec<u8> {
    let mut numbers = Numbers(seed);
    (0..len).map(|_| numbers.next() as u8).collect()
}

impl Redis {
    /// The client with number `name`.
    pub(super) fn new(name: u64, seed: u64) -> Self {
        Redis { name, numbers: Numbers(seed ^ name << 32), model: vec![None; KEYS as usize], stream: None }
    }

    fn ask(&mut self, request: &[u8], wanted: &[u8]) -> Result<()> {
        let stream = self.stream.as_mut().context("not connected")?;
        let right = exchange(stream, request, wanted).with_context(|| format!("client {}", self.name))?;
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        ensure!(right, "client {}: a wrong answer to {shown:?}", self.name);
        Ok(())
    }

    fn key(&self, n: usize) -> Vec<u8> {
        bulk(format!("soak:{}:{n}", self.name).as_bytes())
    }

    fn get(&mut self, n: usize) -> Result<()> {
        let wanted = self.model[n].map_or_else(|| b"$-1\r\n".to_vec(), |what| bulk(&value(what)));
        self.ask(&[&b"*2\r\n$3\r\nGET\r\n"[..], &self.key(n)].concat(), &wanted)
    }
}

impl Client for Redis {
    fn come(&mut self, address: SocketAddr) -> Result<()> {
        let stream = connect(address)?;
        // Who waits longer is noticed before.
        stream.set_read_timeout(Some(2 * PATIENCE))?;
        self.stream = Some(stream);
        Ok(())
    }

    fn leave(&mut self) {
        self.stream = None;
    }

    fn step(&mut self) -> Result<()> {
        let n = (self.numbers.next() % KEYS) as usize;
        match self.numbers.next() % SAVE {
            0 => self.ask(b"*1\r\n$4\r\nSAVE\r\n", b"+OK\r\n"),
            kind if kind % 10 < 4 => {
                let len = (self.numbers.next() % 2000) as usize >> (self.numbers.next() % 6);
                let what = (self.numbers.next(), len);
                let request = [&b"*3\r\n$3\r\nSET\r\n"[..], &self.key(n), &bulk(&value(what))].concat();
                self.ask(&request, b"+OK\r\n")?;
                self.model[n] = Some(what);
                Ok(())
            }
            kind if kind % 10 == 4 => {
                let there = u8::from(self.model[n].take().is_some());
                let wanted = format!(":{there}\r\n");
                self.ask(&[&b"*2\r\n$3\r\nDEL\r\n"[..], &self.key(n)].concat(), wanted.as_bytes())
            }
            _ => self.get(n),
        }
    }

    fn verify(&mut self) -> Result<()> {
        (0..KEYS as usize).try_for_each(|n| self.get(n))
    }
}

/// Rows of a client of mariadbd.
const ROWS: u64 = 200;
/// The table of all clients.
pub(super) const TABLE: &str =
    "create table sbtest.soak (w int, n int, v bigint, t text, primary key (w, n), key (v)) engine=innodb";

#[derive(Clone, Copy)]
struct Row {
    v: i64,
    letter: char,
    len: u64,
}

/// A client of mariadbd.
pub(super) struct Mariadb {
    name: u64,
    numbers: Numbers,
    model: Vec<Option<Row>>,
    session: Option<Session>,
}

impl Mariadb {
    /// The client with number `name`.
    pub(super) fn new(name: u64, seed: u64) -> Self {
        Mariadb { name, numbers: Numbers(seed ^ name << 32), model: vec![None; ROWS as usize], session: None }
    }

    fn ask(&mut self, statements: &str, wanted: &str) -> Result<()> {
        let session = self.session.as_mut().context("not connected")?;
        ensure!(session.done(statements, wanted), "client {}: not {wanted:?} after {statements}", self.name);
        Ok(())
    }

    fn row(&mut self) -> Row {
        let letter = char::from(b'a' + (self.numbers.next() % 26) as u8);
        let len = self.numbers.next() % 4000 >> (self.numbers.next() % 6);
        Row { v: (self.numbers.next() % 1_000_000) as i64, letter, len }
    }

    /// A query of one row, and what it must answer: how many there are, `v`, and whether the text is right.
    fn look(&self, n: usize) -> (String, String) {
        let Row { v, letter, len } = self.model[n].unwrap_or(Row { v: 0, letter: 'x', len: 0 });
        let there = u8::from(self.model[n].is_some());
        let query = format!(
            "select concat_ws(':',count(*),coalesce(sum(v),0),coalesce(sum(t=repeat('{letter}',{len})),0)) from soak where w={} and n={n};",
            self.name
        );
        (query, format!("{there}:{v}:{there}"))
    }

    fn sum(&mut self) -> Result<()> {
        let rows = self.model.iter().flatten();
        let wanted = format!("{}:{}", rows.clone().count(), rows.map(|row| row.v).sum::<i64>());
        let query =
            format!("select concat_ws(':',count(*),coalesce(sum(v),0)) from soak where w={};", self.name);
        self.ask(&query, &wanted)
    }
}

impl Client for Mariadb {
    fn come(&mut self, address: SocketAddr) -> Result<()> {
        self.session = Some(Session::new(address)?);
        self.ask("select 6*7;", "42")
    }

    fn leave(&mut self) {
        self.session = None;
    }

    fn step(&mut self) -> Result<()> {
        let n = (self.numbers.next() % ROWS) as usize;
        let w = self.name;
        let kind = self.numbers.next() % 50;
        if kind == 0 {
            return self.sum();
        }
        let new = match (kind % 5, self.model[n]) {
            (0, there) => there,
            (1, Some(_)) => None,
            _ => Some(self.row()),
        };
        let change = match (self.model[n], new) {
            (None, Some(Row { v, letter, len })) => {
                format!("insert into soak values ({w},{n},{v},repeat('{letter}',{len}));")
            }
            (Some(_), None) => format!("delete from soak where w={w} and n={n};"),
            (Some(_), Some(Row { v, letter, len })) => {
                format!("update soak set v={v}, t=repeat('{letter}',{len}) where w={w} and n={n};")
            }
            (None, None) => String::new(),
        };
        self.model[n] = new;
        let (query, wanted) = self.look(n);
        self.ask(&format!("begin; {change} commit; {query}"), &wanted)
    }

    fn verify(&mut self) -> Result<()> {
        for n in 0..ROWS as usize {
            let (query, wanted) = self.look(n);
            self.ask(&query, &wanted)?;
        }
        self.sum()
    }
}
