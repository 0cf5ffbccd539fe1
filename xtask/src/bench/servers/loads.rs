//! Servers that are loaded over the network.

use super::super::figures::{Comparison, Side};
use super::{MEMORY, Machine, Servers, image};
use crate::workloads::guest::Guest;
use crate::workloads::{mariadb, memcached, redis};
use anyhow::Result;
use std::net::SocketAddr;

const SEED: u64 = 1;
const CONNECTIONS: u32 = 16;
/// Record size of what has no reason to have another.
const RECORD: &str = "128K";
/// Requests of each load at pipeline 1; at 16 four times as many.
const REQUESTS: u64 = 40_000;
/// Requests of which each waits for the disk.
const DURABLE_REQUESTS: u64 = 10_000;
/// Memory sizes to try, in MiB, downwards until one does not do.
const SIZES: [u32; 19] =
    [1024, 512, 384, 320, 256, 224, 192, 160, 128, 112, 96, 80, 64, 56, 48, 40, 32, 28, 24];

/// Waits for the first answer and notes when it came, counted from the machine's start.
fn first_answer(
    guest: &mut Guest,
    answers: fn(SocketAddr) -> Option<()>,
    name: &str,
    side: Side,
    figures: &mut Comparison,
) -> Result<()> {
    let ((), took) = guest.wait_for(answers)?;
    figures.note(
        side,
        &format!("{name}: start of the machine to first answer"),
        took.as_secs_f64() * 1000.0,
        "ms",
    );
    Ok(())
}

fn redis_machine(servers: &Servers, side: Side, memory: u32, sync: &str) -> Result<Machine> {
    let copy = servers.copy(RECORD)?;
    Ok(servers.machine(side, &copy, memory, &[redis::SERVER, &[sync]].concat()))
}

/// `GET` and `SET`, with the append-only file written every second; `SET` that waits for the disk.
pub(super) fn redis(servers: &Servers, side: Side, figures: &mut Comparison) -> Result<()> {
    let mut guest = servers.serve(redis_machine(servers, side, MEMORY, "everysec")?, redis::PORT)?;
    first_answer(&mut guest, redis::answers, "redis", side, figures)?;
    redis::verify(guest.address, SEED, 200)?;
    for pipeline in [1, 16] {
        let requests = REQUESTS * if pipeline == 1 { 1 } else { 4 };
        for (command, rate) in redis::benchmark(guest.address, CONNECTIONS, pipeline, requests)? {
            let name = format!("redis: {command}, {CONNECTIONS} connections, pipeline {pipeline}");
            figures.note(side, &name, rate, "1/s");
        }
    }
    guest.cut()?;
    let mut guest = servers.serve(redis_machine(servers, side, MEMORY, "always")?, redis::PORT)?;
    guest.wait_for(redis::answers)?;
    for (command, rate) in redis::benchmark(guest.address, CONNECTIONS, 1, DURABLE_REQUESTS)? {
        if command == "SET" {
            figures.note(
                side,
                &format!("redis: SET, `appendfsync always`, {CONNECTIONS} connections"),
                rate,
                "1/s",
            );
        }
    }
    guest.cut()
}

/// `get` with four threads.
pub(super) fn memcached(servers: &Servers, side: Side, figures: &mut Comparison) -> Result<()> {
    let copy = servers.copy(RECORD)?;
    let machine = servers.machine(side, &copy, MEMORY, memcached::SERVER);
    let mut guest = servers.serve(machine, memcached::PORT)?;
    first_answer(&mut guest, memcached::answers, "memcached", side, figures)?;
    memcached::fill(guest.address)?;
    for pipeline in [1, 16] {
        let requests = REQUESTS * if pipeline == 1 { 1 } else { 4 };
        let rate = memcached::load(guest.address, false, u64::from(CONNECTIONS), pipeline, requests, SEED)?;
        figures.note(
            side,
            &format!("memcached: get, {CONNECTIONS} connections, pipeline {pipeline}"),
            rate,
            "1/s",
        );
    }
    guest.cut()
}

/// sysbench's two standard tests.
pub(super) fn mariadb(servers: &Servers, side: Side, figures: &mut Comparison) -> Result<()> {
    let copy = servers.copy(image::INNODB_RECORD)?;
    let command: Vec<&str> = mariadb::SERVER
        .iter()
        .map(|&word| if word == "--datadir=/data" { "--datadir=/data/mysql" } else { word })
        .collect();
    let mut guest = servers.serve(servers.machine(side, &copy, MEMORY, &command), mariadb::PORT)?;
    first_answer(&mut guest, mariadb::answers, "mariadbd", side, figures)?;
    for test in ["oltp_point_select", "oltp_read_write"] {
        let rate = mariadb::rate(guest.address, test, CONNECTIONS)?;
        figures.note(side, &format!("mariadbd: sysbench {test}, {CONNECTIONS} connections"), rate, "1/s");
    }
    guest.cut()
}

/// The least memory that serves Redis: a load is borne and every answer is right.
pub(super) fn least_memory(servers: &Servers, side: Side, figures: &mut Comparison) -> Result<()> {
    let serves = |memory: u32| -> Result<()> {
        let mut guest = servers.serve(redis_machine(servers, side, memory, "everysec")?, redis::PORT)?;
        guest.wait_for(redis::answers)?;
        redis::verify(guest.address, SEED, 200)?;
        redis::benchmark(guest.address, CONNECTIONS, 1, 5000)?;
        guest.cut()
    };
    for memory in SIZES {
        match serves(memory) {
            Ok(()) => figures.note(side, "least memory that serves redis", f64::from(memory), "MiB"),
            Err(why) => {
                let why = format!("{why:#}");
                println!("{side:?} with {memory} MiB: {}", why.lines().last().unwrap_or_default());
                break;
            }
        }
    }
    Ok(())
}
