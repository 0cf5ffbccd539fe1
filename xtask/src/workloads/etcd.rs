//! etcd as a cluster of one: loaded over its HTTP gateway, checked by etcdctl, and cut off: it promises that what it has
//! answered is on the disk.

use super::cuts;
use super::guest::{Guest, Image, Numbers, PATIENCE, connect, probe};
use super::link::Link;
use super::{Options, Row};
use crate::machine::output;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const PORT: u16 = 2379;
const SERVER: &[&str] = &[
    "/usr/bin/etcd",
    "--name=tarn",
    "--data-dir=/data/etcd",
    "--listen-client-urls=http://0.0.0.0:2379",
    "--advertise-client-urls=http://127.0.0.1:2379",
];

/// RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let word =
            piece.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - piece.len()));
        for n in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * n) & 63) as usize];
            text.push(if n > piece.len() { '=' } else { char::from(digit) });
        }
    }
    text
}

/// A connection to the gateway, which speaks JSON over HTTP/1.1.
struct Gateway(BufReader<TcpStream>);

impl Gateway {
    fn new(stream: TcpStream) -> Self {
        Gateway(BufReader::new(stream))
    }

    fn call(&mut self, path: &str, body: &str) -> Result<String> {
        let request =
            format!("POST {path} HTTP/1.1\r\nHost: tarn\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), 0);
        self.0.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the answer ends early");
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(number) = line.strip_prefix("content-length:") {
                length = number.trim().parse()?;
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer)?;
        let answer = String::from_utf8(answer)?;
        ensure!(status.contains(" 200 "), "{path}: {status}{answer}");
        Ok(answer)
    }

    fn put(&mut self, key: &str, value: &str) -> Result<()> {
        let body =
            format!(r#"{{"key":"{}","value":"{}"}}"#, base64(key.as_bytes()), base64(value.as_bytes()));
        let answer = self.call("/v3/kv/put", &body)?;
        ensure!(answer.contains(r#""revision""#), "put answered {answer}");
        Ok(())
    }

    fn has(&mut self, key: &str, value: &str) -> Result<bool> {
        let answer = self.call("/v3/kv/range", &format!(r#"{{"key":"{}"}}"#, base64(key.as_bytes())))?;
        Ok(answer.contains(&format!(r#""value":"{}""#, base64(value.as_bytes()))))
    }
}

fn etcdctl(address: SocketAddr, words: &[&str]) -> Result<String> {
    let mut etcdctl = Command::new("etcdctl");
    etcdctl.env("ETCDCTL_API", "3").arg(format!("--endpoints={address}")).args(["--dial-timeout=10s"]);
    output(etcdctl.arg("--command-timeout=30s").args(words))
}

fn boot(image: &Image) -> Result<(Guest, Duration)> {
    let mut guest = image.boot("512M", 2, PORT, SERVER)?;
    // A node that has not elected itself yet answers with an error.
    let (_, took) =
        guest.wait_for(|address| Gateway::new(probe(address).ok()?).put("first", "answer").ok())?;
    Ok((guest, took))
}

/// The key-value store as etcdctl copies it out has the hash that it must have.
fn check(image: &Image, address: SocketAddr) -> Result<()> {
    let file = image.beside("snapshot.db");
    if file.exists() {
        std::fs::remove_file(&file)?;
    }
    let name = file.to_str().context("the snapshot's name")?;
    etcdctl(address, &["snapshot", "save", name])?;
    let said = etcdctl(address, &["snapshot", "status", name])?;
    ensure!(said.split(',').count() == 4, "snapshot status: {said}");
    ensure!(etcdctl(address, &["alarm", "list"])?.trim().is_empty(), "etcd has raised an alarm");
    Ok(())
}

/// Puts, `clients` connections at a time; per second.
fn load(address: SocketAddr, clients: u32, requests: u64, seed: u64) -> Result<f64> {
    let start = Instant::now();
    let each = requests / u64::from(clients);
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    let mut gateway = Gateway::new(connect(address)?);
                    (0..each).try_for_each(|n| gateway.put(&format!("k{client}:{n}"), &value(seed, n)))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().ok().context("a client's thread")?)
    })?;
    let rate = (each * u64::from(clients)) as f64 / start.elapsed().as_secs_f64();
    let mut gateway = Gateway::new(connect(address)?);
    for n in 0..each {
        let key = format!("k{}:{n}", n % u64::from(clients));
        ensure!(gateway.has(&key, &value(seed, n))?, "a wrong answer for {key} (seed {seed})");
    }
    Ok(rate)
}

fn value(seed: u64, n: u64) -> String {
    let number = Numbers(seed ^ n).next();
    format!("{number:x}").repeat(1 + (number % 50) as usize)
}

/// Puts over several connections, every kind of answer compared, the same contents after a reboot.
pub(super) fn run(options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("etcd", &["etcd"], |_| Ok(()))?;
    let (guest, took) = boot(&image)?;
    let mut rows = vec![Row::new("first answer", format!("{} ms", took.as_millis()))];
    for &clients in Link::get().connections().iter().take(2) {
        let rate = load(guest.address, clients, 5 * options.thousands, options.seed)?;
        println!("put, {clients} connections: {rate:.0}/s");
        rows.push(Row::new(format!("put, {clients} connections"), format!("{rate:.0}/s")));
    }
    ensure!(etcdctl(guest.address, &["put", "greeting", "hello"])?.trim() == "OK", "etcdctl put");
    ensure!(etcdctl(guest.address, &["get", "greeting"])? == "greeting\nhello\n", "etcdctl get");
    ensure!(etcdctl(guest.address, &["del", "greeting"])?.trim() == "1", "etcdctl del");
    ensure!(etcdctl(guest.address, &["get", "greeting"])?.is_empty(), "a key is there that was deleted");
    check(&image, guest.address)?;
    let all = etcdctl(guest.address, &["get", "--prefix", "k"])?;
    guest.terminate(PATIENCE)?;
    image.zdb()?;
    let (guest, _) = boot(&image)?;
    ensure!(etcdctl(guest.address, &["get", "--prefix", "k"])? == all, "other contents after a reboot");
    check(&image, guest.address)?;
    guest.terminate(PATIENCE)?;
    Ok(rows)
}

fn write_until_cut(address: SocketAddr, worker: u64, from: u64, promised: &dyn Fn(u64)) -> Result<()> {
    let mut gateway = Gateway::new(connect(address)?);
    for n in from.. {
        if gateway.put(&format!("w{worker}:{n}"), &value(worker, n)).is_err() {
            break;
        }
        promised(n + 1);
    }
    Ok(())
}

/// How many keys of `worker` are there, each with its value and none missing between others.
fn surviving(guest: &Guest, worker: u64, _least: u64) -> Result<u64> {
    let text = etcdctl(guest.address, &["get", "--prefix", &format!("w{worker}:")])?;
    let lines: Vec<&str> = text.lines().collect();
    let there: HashMap<&str, &str> = lines.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    for n in 0..there.len() as u64 {
        let key = format!("w{worker}:{n}");
        ensure!(there.get(&*key) == Some(&&*value(worker, n)), "key {key} is lost");
    }
    Ok(there.len() as u64)
}

/// The power is cut while four clients put: every acknowledged put is there afterwards.
pub(super) fn power_cuts(options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("etcd-powercut", &["etcd"], |_| Ok(()))?;
    cuts::Server {
        image: &image,
        promises: "puts",
        moment: (Duration::from_millis(300), Duration::from_secs(2)),
        boot: &|image| Ok(boot(image)?.0),
        prepare: &|_| Ok(()),
        write: &write_until_cut,
        surviving: &surviving,
        check: &|guest| check(&image, guest.address),
        end: &|guest| guest.terminate(PATIENCE).map(drop),
    }
    .cut(options)
}
