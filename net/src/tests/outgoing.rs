//! When what is sent leaves: runs of calls, and threads that send at the same time.

use super::streams;
use super::{Pair, address, counted, listen, quiet, read};
use crate::ready::Ready;
use crate::{Config, Error, Outbox, TcpSocket};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

/// A connection, whose first end does not wait for acknowledgements of what it has sent.
fn connection(pair: &Pair, at: &str, to: &str) -> (TcpSocket, TcpSocket, TcpSocket) {
    let (client, server, listener) = streams::connection(pair, at, to);
    client.set_no_delay(true);
    (client, server, listener)
}

fn connections(pair: &Pair, count: usize) -> Vec<(TcpSocket, TcpSocket, TcpSocket)> {
    (0..count)
        .map(|i| {
            let at = |address| alloc::format!("{address}:{}", 1000 + i);
            connection(pair, &at("0.0.0.0"), &at("10.0.0.2"))
        })
        .collect()
}

fn sent(pair: &Pair) -> usize {
    pair.ends[0].sent.load(Ordering::Relaxed)
}

#[test]
fn the_first_of_a_run_leaves_at_once_and_the_others_together() {
    let pair = Pair::new();
    let (client, server, _listener) = connection(&pair, "0.0.0.0:7", "10.0.0.2:7");
    let outbox = Outbox::default();
    for _ in 0..2 {
        let start = sent(&pair);
        assert!(!outbox.is_open());
        client.send(b"one ", Some(&outbox)).unwrap();
        assert_eq!((sent(&pair) - start, outbox.is_open(), outbox.holds()), (1, true, false));
        client.send(b"two ", Some(&outbox)).unwrap();
        client.send(b"three", Some(&outbox)).unwrap();
        assert_eq!((sent(&pair) - start, outbox.holds()), (1, true));
        pair.run();
        assert_eq!(read(&server).unwrap(), b"one ");
        let start = sent(&pair);
        outbox.push();
        assert_eq!((sent(&pair) - start, outbox.is_open(), outbox.holds()), (1, false, false));
        pair.run();
        assert_eq!(read(&server).unwrap(), b"two three");
    }
    // Without it, each call sends.
    let start = sent(&pair);
    client.send(b"a", None).unwrap();
    client.send(b"b", None).unwrap();
    assert_eq!(sent(&pair) - start, 2);
}

#[test]
fn a_run_over_several_connections_leaves_whole() {
    let pair = Pair::new();
    let pairs = connections(&pair, 100);
    let outbox = Outbox::default();
    for round in 0..3u8 {
        let start = sent(&pair);
        for (client, ..) in &pairs {
            client.send(&[round; 10], Some(&outbox)).unwrap();
        }
        // More than it puts off have left by themselves.
        assert!((2..100).contains(&(sent(&pair) - start)));
        outbox.push();
        assert_eq!(sent(&pair) - start, 100);
        pair.run();
        for (_, server, _) in &pairs {
            assert_eq!(read(server).unwrap(), [round; 10]);
        }
    }
}

#[test]
fn not_more_than_a_bound_is_put_off_and_a_full_buffer_is_let_go() {
    let pair = Pair::with(Config { receive_buffer: 200_000, send_buffer: 50_000 }, 1);
    let (client, server, _listener) = connection(&pair, "0.0.0.0:7", "10.0.0.2:7");
    let outbox = Outbox::default();
    client.send(&[1; 100], Some(&outbox)).unwrap();
    pair.run();
    let mut put_off = 0;
    while put_off == 0 || outbox.holds() {
        put_off += client.send(&[2; 1000], Some(&outbox)).unwrap();
        assert!(put_off <= 40_000, "no bound");
    }
    for _ in 0..20 {
        pair.pass(50);
    }
    assert_eq!(read(&server).unwrap().len(), 100 + put_off);
    // What is put off fills the buffer: it must not wait for itself.
    let small = Outbox::default();
    let (other, far, _listener) = connection(&pair, "0.0.0.0:8", "10.0.0.2:8");
    other.send(&[1; 1], Some(&small)).unwrap();
    other.send(&[2; 30_000], Some(&small)).unwrap();
    assert!(small.holds());
    let filled = other.send(&[3; 30_000], Some(&small)).unwrap();
    assert_eq!(filled, 50_000 - 30_001);
    assert_eq!(other.send(b"x", Some(&small)), Err(Error::WouldBlock));
    assert!(!small.holds());
    for _ in 0..20 {
        pair.pass(50);
    }
    assert_eq!(read(&far).unwrap().len(), 50_000);
    assert_eq!(other.send(b"x", None), Ok(1));
}

#[test]
fn what_is_put_off_is_sent_when_its_owner_is_gone() {
    let pair = Pair::new();
    let (client, server, _listener) = connection(&pair, "0.0.0.0:7", "10.0.0.2:7");
    let outbox = Outbox::default();
    client.send(b"one ", Some(&outbox)).unwrap();
    client.send(b"two", Some(&outbox)).unwrap();
    drop(outbox);
    pair.run();
    assert_eq!(read(&server).unwrap(), b"one two");
    // The connection is closed with data put off.
    let outbox = Outbox::default();
    client.send(b"three ", Some(&outbox)).unwrap();
    client.send(b"four", Some(&outbox)).unwrap();
    drop(client);
    pair.run();
    assert_eq!(read(&server).unwrap(), b"three four");
    assert_eq!(read(&server).unwrap(), b"");
    outbox.push();
}

#[test]
fn room_is_news_after_a_short_write_that_was_put_off() {
    let pair = Pair::with(Config { receive_buffer: 200_000, send_buffer: 20_000 }, 1);
    let listener = listen(&pair.stacks[1], "0.0.0.0:7", 4);
    let (hook, calls) = counted();
    let client = pair.stacks[0].tcp(hook);
    let _ = client.connect(address("10.0.0.2:7"));
    pair.run();
    let server = listener.accept(quiet()).unwrap();
    let outbox = Outbox::default();
    client.send(&[1; 10], Some(&outbox)).unwrap();
    assert_eq!(client.send(&[2; 50_000], Some(&outbox)), Ok(20_000 - 10));
    // Nothing has been sent of it, and yet it is known that there is no room.
    assert!(outbox.holds() && !client.ready().contains(Ready::OUT));
    let before = calls.load(Ordering::SeqCst);
    outbox.push();
    for _ in 0..20 {
        pair.pass(50);
    }
    assert_eq!(read(&server).unwrap().len(), 20_000);
    assert!(client.ready().contains(Ready::OUT) && calls.load(Ordering::SeqCst) > before);
}

#[test]
fn threads_that_send_at_the_same_time_leave_nothing_behind() {
    const THREADS: usize = 6;
    const ROUNDS: usize = 2000;
    let pair = Pair::new();
    let pairs = connections(&pair, THREADS);
    let (done, left_behind) = (AtomicBool::new(false), AtomicBool::new(false));
    let together = std::sync::Barrier::new(THREADS);
    std::thread::scope(|scope| {
        // The machines' own threads, which work when something has arrived and not otherwise: they serve nobody by chance. And time.
        for (stack, end) in pair.stacks.iter().zip(&pair.ends) {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    if !end.inbox.lock().is_empty() {
                        stack.interfaces().iter().for_each(|i| while i.work() {});
                    }
                    pair.clock.0.fetch_add(100_000, Ordering::SeqCst);
                    std::thread::yield_now();
                }
            });
        }
        let talks: Vec<_> = pairs
            .iter()
            .enumerate()
            .map(|(n, (client, server, _))| {
                let (together, left_behind) = (&together, &left_behind);
                scope.spawn(move || {
                    let outbox = Outbox::default();
                    for round in 0..ROUNDS {
                        together.wait();
                        if left_behind.load(Ordering::SeqCst) {
                            break;
                        }
                        // Some alone, some in runs.
                        let pieces = 1 + (n + round) % 4;
                        let mut wanted = Vec::new();
                        for i in 0..pieces {
                            let piece = alloc::format!("{n} {round} {i} ");
                            client.send(piece.as_bytes(), (pieces > 2).then_some(&outbox)).unwrap();
                            wanted.extend(piece.into_bytes());
                        }
                        outbox.push();
                        let (start, mut got) = (std::time::Instant::now(), Vec::new());
                        while got.len() < wanted.len() && start.elapsed().as_secs() < 20 {
                            match read(server) {
                                Ok(more) => got.extend(more),
                                Err(error) => assert_eq!(error, Error::WouldBlock),
                            }
                            std::thread::yield_now();
                        }
                        if got != wanted {
                            println!("thread {n}, round {round}: {} of {} bytes", got.len(), wanted.len());
                            left_behind.store(true, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = talks.into_iter().map(|talk| talk.join()).collect();
        done.store(true, Ordering::SeqCst);
        assert!(results.iter().all(Result::is_ok));
    });
    assert!(!left_behind.load(Ordering::SeqCst));
}
