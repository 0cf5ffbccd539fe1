//! redis-server: loaded by redis-benchmark, checked by a client of ours, and cut off while it promises durability.

use super::cuts;
use super::guest::{Guest, Image, Numbers, connect, exchange, probe};
use super::link::Link;
use super::{Options, Row};
use crate::machine::output;
use anyhow::{Result, ensure};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// Where it listens.
pub(crate) const PORT: u16 = 6379;
/// The server without `fork`: no background saves, and no rewriting of the append-only file. A policy of `appendfsync` is to follow.
pub(crate) const SERVER: &[&str] = &[
    "/usr/bin/redis-server",
    "--save",
    "",
    "--stop-writes-on-bgsave-error",
    "no",
    "--auto-aof-rewrite-percentage",
    "0",
    "--protected-mode",
    "no",
    "--bind",
    "0.0.0.0",
    "--dir",
    "/data",
    "--appendonly",
    "yes",
    "--appendfsync",
];

/// An image with the server.
pub(super) fn image(name: &str) -> Result<Image> {
    Image::new(name, &["redis-server"], |_| Ok(()))
}

fn boot(image: &Image, sync: &str) -> Result<(Guest, Duration)> {
    boot_with(image, &[], sync)
}

/// Boots it with further options of `tarn run`, until it answers; how long that took.
pub(super) fn boot_with(image: &Image, options: &[&str], sync: &str) -> Result<(Guest, Duration)> {
    let options = [&["--memory", "512M"], options].concat();
    let mut guest = image.boot_with(&options, PORT, &[SERVER, &[sync]].concat())?;
    let (_, took) = guest.wait_for(answers)?;
    Ok((guest, took))
}

/// Whether it answers.
pub(crate) fn answers(address: SocketAddr) -> Option<()> {
    let mut stream = probe(address).ok()?;
    exchange(&mut stream, b"PING\r\n", b"+PONG\r\n").ok()?.then_some(())
}

fn cli(address: SocketAddr, words: &[&str]) -> Result<String> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    output(Command::new("redis-cli").args(["-h", &host, "-p", &port]).args(words))
}

/// The requests per second that redis-benchmark measures for each command.
pub(crate) fn benchmark(
    address: SocketAddr,
    clients: u32,
    pipeline: u32,
    requests: u64,
) -> Result<Vec<(String, f64)>> {
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let text = output(
        Command::new("redis-benchmark").args(["-h", &host, "-p", &port, "-t", "set,get", "--csv"]).args([
            "-n",
            &requests.to_string(),
            "-c",
            &clients.to_string(),
            "-P",
            &pipeline.to_string(),
            "-r",
            "10000",
        ]),
    )?;
    let rows: Vec<(String, f64)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',').map(|f| f.trim_matches('"'));
            let (name, rate) = (fields.next()?, fields.next()?.parse().ok()?);
            Some((name.to_owned(), rate))
        })
        .collect();
    ensure!(rows.len() == 2, "redis-benchmark said:\n{text}");
    Ok(rows)
}

/// Sets and reads random values of many lengths; each answer is compared.
pub(crate) fn verify(address: SocketAddr, seed: u64, count: u64) -> Result<()> {
    let mut stream = connect(address)?;
    for pass in 0..2 {
        let mut numbers = Numbers(seed);
        for n in 0..count {
            let len = (numbers.next() % 20_000) as usize >> (numbers.next() % 12);
            let value: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
            let key = format!("check:{n}");
            let bulk = |bytes: &[u8]| [format!("${}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            let right = if pass == 0 {
                let request = [&b"*3\r\n$3\r\nSET\r\n"[..], &bulk(key.as_bytes()), &bulk(&value)].concat();
                exchange(&mut stream, &request, b"+OK\r\n")?
            } else {
                let request = [&b"*2\r\n$3\r\nGET\r\n"[..], &bulk(key.as_bytes())].concat();
                exchange(&mut stream, &request, &bulk(&value))?
            };
            ensure!(right, "a wrong answer for key {n} of seed {seed}");
        }
    }
    Ok(())
}

/// Rates at several numbers of connections, with both policies of the append-only file; `SAVE`; a clean end.
pub(super) fn run(options: &Options) -> Result<Vec<Row>> {
    let image = image("redis")?;
    let mut rows = Vec::new();
    for sync in ["everysec", "always"] {
        let (guest, took) = boot(&image, sync)?;
        rows.push(Row::new(format!("{sync}: first answer"), format!("{} ms", took.as_millis())));
        verify(guest.address, options.seed, 1000)?;
        for &clients in Link::get().connections() {
            for pipeline in [1, 16] {
                let requests = options.thousands * 1000 / if clients == 1 && pipeline == 1 { 5 } else { 1 };
                for (command, rate) in benchmark(guest.address, clients, pipeline, requests)? {
                    println!("{sync} {command} c{clients} P{pipeline}: {rate:.0}/s");
                    rows.push(Row::new(
                        format!("{sync}: {command}, {clients} connections, pipeline {pipeline}"),
                        format!("{rate:.0}/s"),
                    ));
                }
            }
        }
        ensure!(cli(guest.address, &["SAVE"])?.trim() == "OK", "SAVE failed");
        let size = cli(guest.address, &["DBSIZE"])?;
        shut_down(guest)?;
        image.zdb()?;
        // Everything is there again, by the append-only file.
        let (guest, _) = boot(&image, sync)?;
        ensure!(cli(guest.address, &["DBSIZE"])? == size, "another number of keys after a reboot");
        shut_down(guest)?;
    }
    Ok(rows)
}

/// Writes keys one after another, each after the answer for the one before, until the connection breaks.
fn write_until_cut(address: SocketAddr, worker: u64, from: u64, promised: &dyn Fn(u64)) -> Result<()> {
    let mut stream = connect(address)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    for n in from.. {
        let request = format!("SET w{worker}:{n} value-{worker}-{n}\r\n");
        if stream.write_all(request.as_bytes()).is_err() {
            return Ok(());
        }
        line.clear();
        match reader.read_line(&mut line) {
            Ok(1..) => ensure!(line == "+OK\r\n", "SET answered {line:?}"),
            _ => return Ok(()),
        }
        promised(n + 1);
    }
    Ok(())
}

/// How many keys of `worker` are there with their values, the first `least` of them in any case.
fn surviving(guest: &Guest, worker: u64, least: u64) -> Result<u64> {
    let mut stream = connect(guest.address)?;
    for n in 0..least {
        let value = format!("value-{worker}-{n}");
        let wanted = format!("${}\r\n{value}\r\n", value.len());
        let right = exchange(&mut stream, format!("GET w{worker}:{n}\r\n").as_bytes(), wanted.as_bytes())?;
        ensure!(right, "key w{worker}:{n} is lost");
    }
    let next = cli(guest.address, &["EXISTS", &format!("w{worker}:{least}")])?;
    Ok(least + next.trim().parse::<u64>()?)
}

fn shut_down(guest: Guest) -> Result<()> {
    // The connection ends before the answer comes.
    cli(guest.address, &["SHUTDOWN", "NOSAVE"]).ok();
    guest.end()
}

/// The power is cut while four clients write with `appendfsync always`: every acknowledged write is there afterwards.
pub(super) fn power_cuts(options: &Options) -> Result<Vec<Row>> {
    cuts::Server {
        image: &image("redis-powercut")?,
        promises: "writes",
        moment: (Duration::from_millis(200), Duration::from_millis(1500)),
        boot: &|image| Ok(boot(image, "always")?.0),
        prepare: &|_| Ok(()),
        write: &write_until_cut,
        surviving: &surviving,
        check: &|_| Ok(()),
        end: &shut_down,
    }
    .cut(options)
}
