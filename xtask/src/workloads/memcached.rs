//! memcached with four threads, loaded by a client of ours that compares every answer.

use super::guest::{Image, Numbers, PATIENCE, connect, exchange, probe};
use super::link::Link;
use super::{Options, Row};
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::time::Instant;

/// Where it listens.
pub(crate) const PORT: u16 = 11211;
/// The server with its four threads.
pub(crate) const SERVER: &[&str] = &["/usr/bin/memcached", "-u", "root", "-t", "4", "-m", "64", "-U", "0"];
const KEYS: u64 = 5000;

/// The value of a key: its length and bytes follow from the number.
fn value(key: u64) -> Vec<u8> {
    let mut numbers = Numbers(key);
    let len = 20 + numbers.next() % 400;
    (0..len).map(|_| b'a' + (numbers.next() % 26) as u8).collect()
}

fn set(key: u64) -> Vec<u8> {
    let value = value(key);
    [format!("set key{key} 7 0 {}\r\n", value.len()).as_bytes(), &value, b"\r\n"].concat()
}

fn get(key: u64) -> (Vec<u8>, Vec<u8>) {
    let value = value(key);
    let answer =
        [format!("VALUE key{key} 7 {}\r\n", value.len()).as_bytes(), &value, b"\r\nEND\r\n"].concat();
    (format!("get key{key}\r\n").into_bytes(), answer)
}

/// `clients` threads with a connection each, `pipeline` requests at once; requests per second.
pub(crate) fn load(
    address: SocketAddr,
    sets: bool,
    clients: u64,
    pipeline: u64,
    requests: u64,
    seed: u64,
) -> Result<f64> {
    let each = requests / clients / pipeline;
    // What is asked and answered is made beforehand: here, too, are only two processors.
    let exchanges: Vec<(Vec<u8>, Vec<u8>)> =
        (0..KEYS).map(|key| if sets { (set(key), b"STORED\r\n".to_vec()) } else { get(key) }).collect();
    let exchanges = &exchanges;
    let start = Instant::now();
    std::thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..clients)
            .map(|client| {
                scope.spawn(move || -> Result<()> {
                    let mut stream = connect(address)?;
                    let mut numbers = Numbers(seed ^ client);
                    for _ in 0..each {
                        let (mut request, mut wanted) = (Vec::new(), Vec::new());
                        for _ in 0..pipeline {
                            let (question, answer) = &exchanges[(numbers.next() % KEYS) as usize];
                            request.extend_from_slice(question);
                            wanted.extend_from_slice(answer);
                        }
                        ensure!(
                            exchange(&mut stream, &request, &wanted)?,
                            "a wrong answer (seed {seed}, client {client})"
                        );
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| t.join().ok().context("a client's thread")?)
    })?;
    Ok((each * clients * pipeline) as f64 / start.elapsed().as_secs_f64())
}

/// Whether it answers.
pub(crate) fn answers(address: SocketAddr) -> Option<()> {
    let mut stream = probe(address).ok()?;
    exchange(&mut stream, b"version\r\n", b"VERSION ").ok()?.then_some(())
}

/// Stores all keys, before they are asked for.
pub(crate) fn fill(address: SocketAddr) -> Result<()> {
    let mut stream = connect(address)?;
    for key in 0..KEYS {
        ensure!(exchange(&mut stream, &set(key), b"STORED\r\n")?, "key {key} is not stored");
    }
    Ok(())
}

/// Rates of `set` and `get`.
pub(super) fn run(options: &Options) -> Result<Vec<Row>> {
    let image = Image::new("memcached", &["memcached"], |_| Ok(()))?;
    let mut guest = image.boot("512M", 2, PORT, SERVER)?;
    let (_, took) = guest.wait_for(answers)?;
    let mut rows = vec![Row::new("first answer", format!("{} ms", took.as_millis()))];
    fill(guest.address)?;
    let loads = Link::get().connections().iter().flat_map(|&clients| [(clients, 1), (clients, 16)]);
    for (clients, pipeline) in loads.map(|(clients, pipeline)| (u64::from(clients), pipeline)) {
        for sets in [true, false] {
            let requests = options.thousands * 1000 / if clients == 1 { 5 } else { 1 };
            let rate = load(guest.address, sets, clients, pipeline, requests, options.seed)?;
            let what = if sets { "set" } else { "get" };
            println!("{what} c{clients} P{pipeline}: {rate:.0}/s");
            rows.push(Row::new(
                format!("{what}, {clients} connections, pipeline {pipeline}"),
                format!("{rate:.0}/s"),
            ));
        }
    }
    guest.terminate(PATIENCE)?;
    image.zdb()?;
    Ok(rows)
}
