use super::{Pair, address, counted, listen, quiet, read, seed, transfer};
use crate::ready::Ready;
use crate::{Config, Error, Linger, TcpSocket};
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

/// A connection from the first machine to the second: both ends, and the listener.
pub(super) fn connection(pair: &Pair, at: &str, to: &str) -> (TcpSocket, TcpSocket, TcpSocket) {
    let listener = listen(&pair.stacks[1], at, 16);
    let client = pair.stacks[0].tcp(quiet());
    assert_eq!(client.connect(address(to)), Err(Error::InProgress));
    assert_eq!(
        (client.connect(address(to)), client.connected()),
        (Err(Error::Already), Err(Error::WouldBlock))
    );
    pair.run();
    assert_eq!(client.connected(), Ok(()));
    (client, listener.accept(quiet()).unwrap(), listener)
}

#[test]
fn an_echo_over_both_protocols() {
    for (at, to) in [("0.0.0.0:7", "10.0.0.2:7"), ("[::]:7", "[fd00::2]:7"), ("[::]:7", "10.0.0.2:7")] {
        let pair = Pair::new();
        let (client, server, _listener) = connection(&pair, at, to);
        assert_eq!(server.local(), Some(address(to)));
        assert_eq!(server.remote().ok(), client.local());
        assert_eq!(client.remote(), Ok(address(to)));
        assert_eq!(read(&server), Err(Error::WouldBlock));
        assert_eq!(client.send(b"hello", None), Ok(5));
        pair.run();
        let mut piece = [0; 2];
        assert_eq!((server.receive(&mut piece, true), piece), (Ok(2), *b"he"));
        assert_eq!(server.queued(), 5);
        assert_eq!(read(&server).unwrap(), b"hello");
        assert_eq!(server.send(b"world", None), Ok(5));
        pair.run();
        assert_eq!(read(&client).unwrap(), b"world");
    }
}

#[test]
fn readiness_changes_with_the_socket_and_the_hook_says_so() {
    let pair = Pair::new();
    let (on_listener, listener_calls) = counted();
    let listener = pair.stacks[1].tcp(on_listener);
    listener.bind(address("10.0.0.2:80")).unwrap();
    listener.listen(4).unwrap();
    assert_eq!(listener.ready(), Ready(0));
    let (on_client, client_calls) = counted();
    let client = pair.stacks[0].tcp(on_client);
    client.set_no_delay(true);
    let _ = client.connect(address("10.0.0.2:80"));
    assert_eq!(client.ready(), Ready(0));
    pair.run();
    assert_eq!((client.ready(), listener.ready()), (Ready::OUT, Ready::IN));
    assert_eq!((client_calls.load(Ordering::SeqCst), listener_calls.load(Ordering::SeqCst)), (1, 1));
    let (on_server, server_calls) = counted();
    let server = listener.accept(on_server).unwrap();
    assert_eq!(listener.ready(), Ready(0));
    client.send(b"one", None).unwrap();
    pair.run();
    assert_eq!(server.ready(), Ready(Ready::IN.0 | Ready::OUT.0));
    client.send(b"two", None).unwrap();
    pair.run();
    assert_eq!(server_calls.load(Ordering::SeqCst), 2, "every arrival is an edge");
    assert_eq!(read(&server).unwrap(), b"onetwo");
    assert_eq!(server.ready(), Ready::OUT);
    // A reader that does not read stops the writer.
    while client.send(&[7; 9000], None).is_ok() {
        pair.run();
    }
    assert_eq!(client.ready(), Ready(0));
    let before = client_calls.load(Ordering::SeqCst);
    let mut total = 0;
    while let Ok(piece) = read(&server) {
        total += piece.len();
        pair.pass(20);
    }
    assert!(total > 100_000 && client_calls.load(Ordering::SeqCst) > before);
    assert_eq!(client.ready(), Ready::OUT);
    drop(client);
    pair.run();
    assert_eq!(server.ready(), Ready(Ready::IN.0 | Ready::OUT.0 | Ready::RDHUP.0));
    assert_eq!(read(&server).unwrap(), b"");
}

#[test]
fn each_side_ends_by_itself() {
    let pair = Pair::new();
    let (client, server, _listener) = connection(&pair, "0.0.0.0:7", "10.0.0.2:7");
    client.send(b"question", None).unwrap();
    client.shutdown(false, true).unwrap();
    assert_eq!(client.send(b"more", None), Err(Error::Closed));
    pair.run();
    assert_eq!(read(&server).unwrap(), b"question");
    assert_eq!(read(&server).unwrap(), b"");
    server.send(b"answer", None).unwrap();
    drop(server);
    pair.run();
    assert_eq!(read(&client).unwrap(), b"answer");
    assert_eq!(read(&client).unwrap(), b"");
    assert!(client.ready().contains(Ready::HUP));
    drop(client);
    pair.pass(20_000);
    assert!(pair.stacks.iter().all(|s| s.connections().is_empty()), "{:?}", pair.stacks[0].connections());
}

#[test]
fn refusals_resets_and_silence_are_told() {
    let pair = Pair::new();
    let client = pair.stacks[0].tcp(quiet());
    assert_eq!(client.connect(address("10.0.0.2:9")), Err(Error::InProgress));
    pair.run();
    assert!(client.ready().contains(Ready(Ready::ERR.0 | Ready::OUT.0 | Ready::HUP.0)));
    assert_eq!((client.take_error(), client.take_error()), (Some(Error::Refused), None));

    // Unread data, and SO_LINGER of zero: a reset.
    for unread in [true, false] {
        let (client, server, _listener) = connection(&pair, "0.0.0.0:7", "10.0.0.2:7");
        if unread {
            client.send(b"x", None).unwrap();
            pair.run();
        } else {
            server.set_linger(Linger::Reset);
        }
        drop(server);
        pair.run();
        assert_eq!(read(&client), Err(Error::Reset));
        assert_eq!((read(&client).unwrap().len(), client.send(b"x", None)), (0, Err(Error::Closed)));
    }

    let client = pair.stacks[0].tcp(quiet());
    assert_eq!(client.connect(address("10.0.0.77:9")), Err(Error::InProgress));
    for _ in 0..200 {
        pair.pass(1000);
    }
    assert_eq!(client.take_error(), Some(Error::TimedOut));
    assert_eq!(pair.stacks[0].tcp(quiet()).connect(address("8.8.8.8:53")), Err(Error::Unreachable));
}

#[test]
fn a_burst_of_connections_finds_room() {
    let pair = Pair::new();
    let listener = listen(&pair.stacks[1], "0.0.0.0:80", 511);
    let clients: Vec<_> = (0..200).map(|_| pair.stacks[0].tcp(quiet())).collect();
    for client in &clients {
        assert_eq!(client.connect(address("10.0.0.2:80")), Err(Error::InProgress));
    }
    pair.run();
    assert!(clients.iter().all(|client| client.connected().is_ok()));
    let servers: Vec<_> = std::iter::from_fn(|| listener.accept(quiet()).ok()).collect();
    assert_eq!(servers.len(), 200);
    for (i, client) in clients.iter().enumerate() {
        client.send(alloc::format!("{i}").as_bytes(), None).unwrap();
    }
    pair.run();
    for server in &servers {
        let text = read(server).unwrap();
        let i: usize = std::str::from_utf8(&text).unwrap().parse().unwrap();
        assert_eq!(server.remote().ok(), clients[i].local());
    }
}

#[test]
fn a_burst_beyond_the_backlog_resets_nobody() {
    let pair = Pair::new();
    let listener = listen(&pair.stacks[1], "0.0.0.0:80", 128);
    let clients: Vec<_> = (0..200).map(|_| pair.stacks[0].tcp(quiet())).collect();
    for client in &clients {
        let _ = client.connect(address("10.0.0.2:80"));
    }
    pair.run();
    for client in &clients {
        assert_eq!((client.connected(), client.send(b"x", None)), (Ok(()), Ok(1)));
    }
    pair.run();
    let servers: Vec<_> = std::iter::from_fn(|| listener.accept(quiet()).ok()).collect();
    assert_eq!(servers.len(), clients.len());
    assert!(servers.iter().all(|server| read(server).is_ok_and(|text| text == b"x")));
}

#[test]
fn a_full_backlog_delays_and_closing_it_resets() {
    let pair = Pair::new();
    let listener = listen(&pair.stacks[1], "0.0.0.0:80", 2);
    let clients: Vec<_> = (0..4).map(|_| pair.stacks[0].tcp(quiet())).collect();
    for client in &clients {
        let _ = client.connect(address("10.0.0.2:80"));
        pair.run();
    }
    let connected = || clients.iter().filter(|c| c.connected().is_ok()).count();
    assert_eq!(connected(), 2);
    let kept: Vec<_> = (0..2).map(|_| listener.accept(quiet()).unwrap()).collect();
    for _ in 0..10 {
        pair.pass(1000);
    }
    assert_eq!((connected(), kept.len()), (4, 2), "a SYN that found no room is sent again");
    drop(listener);
    pair.run();
    assert_eq!(clients.iter().filter(|c| read(c) == Err(Error::Reset)).count(), 2);
    let late = pair.stacks[0].tcp(quiet());
    let _ = late.connect(address("10.0.0.2:80"));
    pair.run();
    assert_eq!(late.connected(), Err(Error::Refused));
}

#[test]
fn everything_arrives_over_a_bad_link() {
    let seed = seed();
    let pair = Pair::with(Config { receive_buffer: 20_000, send_buffer: 30_000 }, seed);
    let (client, server, _listener) = connection(&pair, "0.0.0.0:7", "10.0.0.2:7");
    pair.lose(50);
    let data: Vec<u8> = (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let got = transfer(&pair, &client, &server, &data);
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
}

#[test]
fn one_machine_talks_to_itself() {
    let pair = Pair::new();
    let stack = &pair.stacks[0];
    for to in ["127.0.0.1:80", "10.0.0.1:80", "[::1]:80", "[fd00::1]:80"] {
        let listener = listen(stack, "[::]:80", 5);
        let client = stack.tcp(quiet());
        assert_eq!(client.connect(address(to)), Ok(()), "{to}");
        let server = listener.accept(quiet()).unwrap();
        assert_eq!(client.send(&[1; 40_000], None), Ok(40_000));
        assert_eq!(read(&server).unwrap().len(), 40_000);
        drop(server);
        assert_eq!(read(&client).unwrap(), b"");
        drop((client, listener));
    }
    assert_eq!(stack.tcp(quiet()).connect(address("127.0.0.1:80")), Err(Error::Refused));
}

#[test]
fn ports_are_taken_and_given_back() {
    let pair = Pair::new();
    let stack = &pair.stacks[0];
    let first = listen(stack, "0.0.0.0:80", 1);
    let second = stack.tcp(quiet());
    assert_eq!(second.bind(address("10.0.0.1:80")), Err(Error::AddressInUse));
    assert_eq!(second.bind(address("10.9.9.9:81")), Err(Error::AddressNotAvailable));
    drop(first);
    assert_eq!(second.bind(address("10.0.0.1:80")), Ok(()));
    assert_eq!(second.bind(address("10.0.0.1:81")), Err(Error::Invalid));
    let any = stack.tcp(quiet());
    any.bind(address("0.0.0.0:0")).unwrap();
    assert!(any.local().unwrap().port() >= 32768);
}

#[test]
fn a_thousand_connections_cost_what_one_costs() {
    let pair = Pair::with(Config { receive_buffer: 4096, send_buffer: 4096 }, 3);
    let listener = listen(&pair.stacks[1], "0.0.0.0:80", 4096);
    let mut ends = Vec::new();
    for _ in 0..1000 {
        let client = pair.stacks[0].tcp(quiet());
        client.set_no_delay(true);
        let _ = client.connect(address("10.0.0.2:80"));
        pair.run();
        ends.push((client, listener.accept(quiet()).unwrap()));
    }
    let start = std::time::Instant::now();
    for _ in 0..20 {
        for (client, server) in ends.iter().step_by(100) {
            client.send(b"ping", None).unwrap();
            pair.run();
            assert_eq!(read(server).unwrap(), b"ping");
        }
    }
    println!("{:?} a message with 1000 connections", start.elapsed() / 200);
}

#[test]
fn what_a_timer_sends_over_the_loopback_interface_arrives() {
    let pair = Pair::new();
    let listener = listen(&pair.stacks[0], "127.0.0.1:7", 4);
    let client = pair.stacks[0].tcp(quiet());
    assert_eq!(client.connect(address("127.0.0.1:7")), Ok(()));
    let server = listener.accept(quiet()).unwrap();
    client.set_keep_alive(Some(1));
    client.send(b"x", None).unwrap();
    assert_eq!(read(&server).unwrap(), b"x");
    let lo = &pair.stacks[0].interfaces()[0];
    let before = lo.counters().sent;
    pair.pass(2000);
    let after = lo.counters();
    assert!(after.sent > before, "the probe was sent");
    assert_eq!(after.received, after.sent);
}

/// No acknowledgement is delayed: time stands still.
#[test]
fn much_over_the_loopback_interface() {
    let pair = Pair::with(Config { receive_buffer: 32 << 10, send_buffer: 32 << 10 }, 1);
    let listener = listen(&pair.stacks[0], "[::1]:7", 4);
    let client = pair.stacks[0].tcp(quiet());
    assert_eq!(client.connect(address("[::1]:7")), Ok(()));
    let server = listener.accept(quiet()).unwrap();
    let data: Vec<u8> = (0..500_000u32).map(|i| (i >> 3) as u8).collect();
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < data.len() {
        let before = sent + got.len();
        sent += client.send(&data[sent..data.len().min(sent + 1000)], None).unwrap_or(0);
        if sent == data.len() || client.ready() == Ready(0) {
            got.extend(read(&server).unwrap_or_default());
        }
        assert!(sent + got.len() > before, "stuck after {sent} bytes");
    }
    assert!(got == data);
}
