use super::{Pair, address, counted, quiet};
use crate::Error;
use crate::ready::Ready;
use core::sync::atomic::Ordering;

#[test]
fn datagrams_go_both_ways() {
    for (at, to) in [("0.0.0.0:53", "10.0.0.2:53"), ("[::]:53", "[fd00::2]:53"), ("[::]:53", "10.0.0.2:53")] {
        // New machines: smoltcp asks for one neighbour a second.
        let pair = Pair::new();
        let (hook, calls) = counted();
        let server = pair.stacks[1].udp(hook);
        server.bind(address(at)).unwrap();
        let client = pair.stacks[0].udp(quiet());
        // The first has to find the neighbour.
        for text in ["one", "two"] {
            assert_eq!(client.send(text.as_bytes(), Some(address(to))), Ok(3));
        }
        pair.run();
        assert_eq!(calls.load(Ordering::SeqCst), 2, "{at} {to}");
        assert!(server.ready().contains(Ready::IN) && server.queued() == 3);
        let mut out = [0; 2];
        let got = server.receive(&mut out, false).unwrap();
        assert_eq!((got.copied, got.len, out), (2, 3, *b"on"));
        assert_eq!(got.from.port(), client.local().unwrap().port());
        assert_eq!(server.receive(&mut out, false).unwrap().len, 3);
        assert_eq!(server.receive(&mut out, false), Err(Error::WouldBlock));
        server.send(b"answer", Some(got.from)).unwrap();
        pair.run();
        assert_eq!(client.receive(&mut [0; 10], false).unwrap().from, address(to));
    }
}

#[test]
fn a_connected_socket_hears_its_peer_alone() {
    let pair = Pair::new();
    let server = pair.stacks[1].udp(quiet());
    server.bind(address("10.0.0.2:53")).unwrap();
    let client = pair.stacks[0].udp(quiet());
    assert_eq!(client.send(b"x", None), Err(Error::NoDestination));
    client.connect(Some(address("10.0.0.2:53"))).unwrap();
    assert_eq!(client.local().unwrap().ip(), address("10.0.0.1:1").ip());
    client.send(b"x", None).unwrap();
    pair.run();
    let from = server.receive(&mut [0; 4], false).unwrap().from;
    let stranger = pair.stacks[1].udp(quiet());
    stranger.bind(address("10.0.0.2:54")).unwrap();
    stranger.send(b"no", Some(from)).unwrap();
    pair.run();
    assert_eq!(client.receive(&mut [0; 4], false), Err(Error::WouldBlock));
    server.send(b"yes", Some(from)).unwrap();
    pair.run();
    assert_eq!(client.receive(&mut [0; 4], false).unwrap().len, 3);
}

#[test]
fn what_does_not_fit_is_refused() {
    let pair = Pair::new();
    let client = pair.stacks[0].udp(quiet());
    assert_eq!(client.send(&[0; 1473], Some(address("10.0.0.2:53"))), Err(Error::TooLong));
    assert_eq!(client.send(&[0; 1472], Some(address("10.0.0.2:53"))), Ok(1472));
    assert_eq!(client.send(&[0; 1453], Some(address("[fd00::2]:53"))), Err(Error::TooLong));
    // Nobody answers for this address, and nobody waits for that.
    for _ in 0..1000 {
        assert_eq!(client.send(&[0; 1000], Some(address("10.0.0.77:53"))), Ok(1000));
    }
    assert!(client.ready().contains(Ready::OUT));
    // A device without room is waited for.
    pair.ends[1].inbox.lock().resize(4096, alloc::vec::Vec::new());
    let mut sent = 0;
    while client.send(&[0; 1000], Some(address("10.0.0.77:53"))).is_ok() {
        sent += 1;
        assert!(sent < 1000);
    }
    assert_eq!(client.send(b"x", Some(address("10.0.0.77:53"))), Err(Error::WouldBlock));
    assert_eq!(client.ready(), Ready(0));
}

#[test]
fn over_the_loopback_interface() {
    let pair = Pair::new();
    let stack = &pair.stacks[0];
    for at in ["127.0.0.1:5000", "[::1]:5000", "10.0.0.1:5001"] {
        let server = stack.udp(quiet());
        server.bind(address(at)).unwrap();
        let client = stack.udp(quiet());
        client.send(&[5; 3000], Some(address(at))).unwrap();
        let mut out = [0; 4000];
        let got = server.receive(&mut out, false).unwrap();
        assert_eq!((got.len, out[2999]), (3000, 5));
    }
}

#[test]
fn who_never_answers_keeps_nothing_back() {
    let pair = Pair::new();
    let server = pair.stacks[1].udp(quiet());
    server.bind(address("0.0.0.0:53")).unwrap();
    let client = pair.stacks[0].udp(quiet());
    client.send(b"question", Some(address("10.0.0.2:53"))).unwrap();
    pair.run();
    let from = server.receive(&mut [0; 9], false).unwrap().from;
    // Answers to addresses where nobody is, more than can wait.
    for n in 0..200 {
        let nobody = address(&alloc::format!("10.0.0.{}:1000", 100 + n % 20));
        assert_eq!(server.send(&[7; 1400], Some(nobody)), Ok(1400));
        assert_eq!(server.send(b"answer", Some(from)), Ok(6));
        pair.run();
        assert_eq!(client.receive(&mut [0; 9], false).unwrap().len, 6, "answer {n}");
    }
    // To one that is found later, all that was sent arrives.
    let other = Pair::new();
    let sender = other.stacks[0].udp(quiet());
    let receiver = other.stacks[1].udp(quiet());
    receiver.bind(address("10.0.0.2:53")).unwrap();
    for n in 0..10u8 {
        assert_eq!(sender.send(&[n], Some(address("10.0.0.2:53"))), Ok(1));
    }
    other.run();
    for n in 0..10u8 {
        let mut out = [0];
        assert_eq!(receiver.receive(&mut out, false).unwrap().len, 1, "datagram {n}");
        assert_eq!(out, [n]);
    }
}
