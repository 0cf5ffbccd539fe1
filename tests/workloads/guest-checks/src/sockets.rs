//! Sockets within the guest, and a server for the host.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

fn want<T: PartialEq + std::fmt::Debug>(what: &str, got: T, wanted: T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("{what}: {got:?} instead of {wanted:?}")) }
}

fn say(what: &str) -> impl Fn(std::io::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

type Step = (&'static str, fn() -> Result<(), String>);

/// Over the loopback interface, in both families, and between UNIX sockets.
pub fn run() -> Result<String, String> {
    for at in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
        eprintln!("stream at {at}");
        stream(at)?;
    }
    let steps: [Step; 8] = [
        ("half_close", half_close),
        ("refused", refused),
        ("datagrams", datagrams),
        ("unix", unix),
        ("rights", rights),
        ("edges", edges),
        ("pointers", pointers),
        ("runs", runs),
    ];
    for (name, step) in steps {
        // The last name is where a guest hangs.
        eprintln!("{name}");
        step()?;
    }
    Ok("streams, datagrams, UNIX sockets, handed-over files, edges, wild pointers and runs of sends".into())
}

/// What is sent by one call after the other may leave together, but it leaves: while the sender computes and makes no call, and when it
/// makes another one.
fn runs() -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(say("bind"))?;
    let mut client =
        TcpStream::connect(listener.local_addr().map_err(say("getsockname"))?).map_err(say("connect"))?;
    client.set_nodelay(true).map_err(say("TCP_NODELAY"))?;
    let (mut server, _) = listener.accept().map_err(say("accept"))?;
    let arrived = AtomicBool::new(false);
    let read = |server: &mut TcpStream| {
        let mut got = [0; 6];
        server.read_exact(&mut got).map_err(say("read"))?;
        arrived.store(true, Ordering::SeqCst);
        want("a run", &got, b"abcdef")
    };
    let send = |client: &mut TcpStream| {
        [b"ab", b"cd", b"ef"].into_iter().try_for_each(|part| client.write_all(part)).map_err(say("write"))
    };
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(&mut server));
        send(&mut client)?;
        let start = std::time::Instant::now();
        while !arrived.load(Ordering::SeqCst) {
            if start.elapsed() > Duration::from_secs(20) {
                return Err("what a thread sent before it computes is kept back".to_owned());
            }
            std::hint::spin_loop();
        }
        reader.join().map_err(|_| "the reader's thread")?
    })?;
    let pipe = std::io::pipe().map_err(say("pipe"))?;
    for other in ["a pipe's end", "nothing"] {
        send(&mut client)?;
        if other != "nothing" {
            (&pipe.1).write_all(b"x").map_err(say("write"))?;
        }
        server.set_read_timeout(Some(Duration::from_secs(20))).map_err(say("SO_RCVTIMEO"))?;
        read(&mut server).map_err(|error| format!("after a write to {other}: {error}"))?;
    }
    Ok(())
}

fn stream(at: &str) -> Result<(), String> {
    let listener = TcpListener::bind(at).map_err(say(at))?;
    let address = listener.local_addr().map_err(say("getsockname"))?;
    let server = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
        let (mut socket, _) = listener.accept()?;
        let mut all = Vec::new();
        socket.read_to_end(&mut all)?;
        Ok(all)
    });
    let mut client = TcpStream::connect(address).map_err(say("connect"))?;
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i >> 4) as u8).collect();
    client.write_all(&data).map_err(say("write"))?;
    // A connection to no address in particular is one to this machine.
    let peer = if at.starts_with("0.0.0.0") { ([127, 0, 0, 1], address.port()).into() } else { address };
    want("getpeername", client.peer_addr().map_err(say("getpeername"))?, peer)?;
    drop(client);
    let got = server.join().map_err(|_| "the server's thread")?.map_err(say("read"))?;
    want(at, got == data, true)
}

fn half_close() -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(say("bind"))?;
    let mut client =
        TcpStream::connect(listener.local_addr().map_err(say("name"))?).map_err(say("connect"))?;
    let (mut server, _) = listener.accept().map_err(say("accept"))?;
    client.write_all(b"question").map_err(say("write"))?;
    client.shutdown(std::net::Shutdown::Write).map_err(say("shutdown"))?;
    let mut text = String::new();
    server.read_to_string(&mut text).map_err(say("read"))?;
    want("the question", text.as_str(), "question")?;
    server.write_all(b"answer").map_err(say("write"))?;
    drop(server);
    text.clear();
    client.read_to_string(&mut text).map_err(say("read"))?;
    want("the answer", text.as_str(), "answer")
}

fn refused() -> Result<(), String> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(say("bind"))?;
    want(
        "nobody listens",
        TcpStream::connect(free).map_err(|e| e.kind()).err(),
        Some(ErrorKind::ConnectionRefused),
    )?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(say("bind"))?;
    let again = TcpListener::bind(listener.local_addr().map_err(say("name"))?).map_err(|e| e.kind()).err();
    want("a port that is taken", again, Some(ErrorKind::AddrInUse))?;
    listener.set_nonblocking(true).map_err(say("nonblocking"))?;
    want("nobody connects", listener.accept().map_err(|e| e.kind()).err(), Some(ErrorKind::WouldBlock))?;
    let client = TcpStream::connect(listener.local_addr().map_err(say("name"))?).map_err(say("connect"))?;
    client.set_read_timeout(Some(Duration::from_millis(20))).map_err(say("timeout"))?;
    want("time is over", (&client).read(&mut [0]).map_err(|e| e.kind()).err(), Some(ErrorKind::WouldBlock))
}

fn datagrams() -> Result<(), String> {
    let server = UdpSocket::bind("127.0.0.1:0").map_err(say("bind"))?;
    let client = UdpSocket::bind("127.0.0.1:0").map_err(say("bind"))?;
    client.connect(server.local_addr().map_err(say("name"))?).map_err(say("connect"))?;
    client.send(b"hello").map_err(say("send"))?;
    let mut buf = [0; 100];
    let (n, from) = server.recv_from(&mut buf).map_err(say("recv"))?;
    want("a datagram", (&buf[..n], from), (b"hello", client.local_addr().map_err(say("name"))?))
}

fn unix() -> Result<(), String> {
    let path = "/tmp/guest-checks.socket";
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(say("bind"))?;
    want(
        "a name that is taken",
        UnixListener::bind(path).map_err(|e| e.kind()).err(),
        Some(ErrorKind::AddrInUse),
    )?;
    let mut client = UnixStream::connect(path).map_err(say("connect"))?;
    let (mut server, _) = listener.accept().map_err(say("accept"))?;
    client.write_all(b"hello").map_err(say("write"))?;
    drop(client);
    let mut text = String::new();
    server.read_to_string(&mut text).map_err(say("read"))?;
    want("what was written", text.as_str(), "hello")?;
    drop(listener);
    want(
        "nobody listens",
        UnixStream::connect(path).map_err(|e| e.kind()).err(),
        Some(ErrorKind::ConnectionRefused),
    )?;
    std::fs::remove_file(path).map_err(say("unlink"))
}

/// `SCM_RIGHTS`: a pipe's end goes through a socket.
fn rights() -> Result<(), String> {
    let (a, b) = UnixStream::pair().map_err(say("socketpair"))?;
    let mut pipe = [0; 2];
    // SAFETY: the array has room for two descriptors.
    want("pipe", unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0)?;
    let mut control = [0u64; 3];
    let mut data = [7u8; 1];
    let mut iov = libc::iovec { iov_base: data.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all zeros is an empty header.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = 24;
    // SAFETY: the control data has room for a header and a descriptor; the descriptors are open.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = 20;
        libc::CMSG_DATA(header).cast::<i32>().write_unaligned(pipe[1]);
        want("sendmsg", libc::sendmsg(a.as_raw_fd(), &message, 0), 1)?;
        libc::close(pipe[1]);
        control = [0; 3];
        message.msg_control = control.as_mut_ptr().cast();
        want("recvmsg", libc::recvmsg(b.as_raw_fd(), &mut message, 0), 1)?;
        let header = libc::CMSG_FIRSTHDR(&message);
        want("control data", header.is_null(), false)?;
        let fd = libc::CMSG_DATA(header).cast::<i32>().read_unaligned();
        let mut end = std::fs::File::from_raw_fd(fd);
        end.write_all(b"through").map_err(say("the end that was handed over"))?;
        drop(end);
        let mut text = String::new();
        std::fs::File::from_raw_fd(pipe[0]).read_to_string(&mut text).map_err(say("read"))?;
        want("through the pipe", text.as_str(), "through")
    }
}

/// `epoll` on sockets: an edge is reported once, a state as long as it lasts.
fn edges() -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(say("bind"))?;
    let mut client =
        TcpStream::connect(listener.local_addr().map_err(say("name"))?).map_err(say("connect"))?;
    let (server, _) = listener.accept().map_err(say("accept"))?;
    // SAFETY: plain system calls on descriptors that stay open, with an array that outlives them.
    unsafe {
        let epoll = libc::epoll_create1(0);
        let now = |events: &mut [libc::epoll_event; 4]| libc::epoll_wait(epoll, events.as_mut_ptr(), 4, 0);
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 4];
        for (flags, reports) in [(0, [1, 1]), (libc::EPOLLET, [1, 0]), (libc::EPOLLONESHOT, [1, 0])] {
            let mut wish = libc::epoll_event { events: (libc::EPOLLIN | flags) as u32, u64: 5 };
            want("epoll_ctl", libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, server.as_raw_fd(), &mut wish), 0)?;
            want("nothing yet", now(&mut events), 0)?;
            client.write_all(b"x").map_err(say("write"))?;
            for wanted in reports {
                want("reports", now(&mut events), wanted)?;
            }
            want("read", libc::read(server.as_raw_fd(), events.as_mut_ptr().cast(), 1), 1)?;
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, server.as_raw_fd(), &mut wish);
        }
        libc::close(epoll);
    }
    Ok(())
}

/// Addresses that are nobody's memory.
fn pointers() -> Result<(), String> {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(say("bind"))?;
    let fd = i64::from(socket.as_raw_fd());
    let to = socket.local_addr().map_err(say("name"))?;
    socket.send_to(b"x", to).map_err(say("send"))?;
    let calls: [(i64, [i64; 5]); 10] = [
        (libc::SYS_bind, [0, 16, 0, 0, 0]),
        (libc::SYS_connect, [0, 16, 0, 0, 0]),
        (libc::SYS_getsockname, [0, 0, 0, 0, 0]),
        (libc::SYS_sendto, [0, 8, 0, 0, 0]),
        (libc::SYS_recvfrom, [0, 8, libc::MSG_PEEK.into(), 0, 0]),
        (libc::SYS_sendmsg, [0, 0, 0, 0, 0]),
        (libc::SYS_recvmsg, [0, libc::MSG_DONTWAIT.into(), 0, 0, 0]),
        (libc::SYS_setsockopt, [libc::SOL_SOCKET.into(), libc::SO_REUSEADDR.into(), 0, 4, 0]),
        (libc::SYS_getsockopt, [libc::SOL_SOCKET.into(), libc::SO_TYPE.into(), 0, 0, 0]),
        (libc::SYS_sendmmsg, [0, 1, 0, 0, 0]),
    ];
    for bad in [0i64, 8, 0x10_0000, -4096, i64::MIN, 0xffff_8000_0000_0000u64 as i64] {
        for (call, args) in calls {
            let mut args = args;
            for arg in &mut args {
                if *arg == 0 {
                    *arg = bad;
                }
            }
            // SAFETY: the kernel must not touch memory that is not the program's.
            let result = unsafe { libc::syscall(call, fd, args[0], args[1], args[2], args[3], args[4]) };
            let error = std::io::Error::last_os_error().raw_os_error();
            let fine = result < 0
                && matches!(
                    error,
                    Some(
                        libc::EFAULT
                            | libc::EINVAL
                            | libc::ENOTSUP
                            | libc::EMSGSIZE
                            | libc::ENOPROTOOPT
                            | libc::EAGAIN
                    )
                );
            want(&format!("call {call} with {bad:#x}: {result}, {error:?}"), fine, true)?;
        }
    }
    Ok(())
}

static STOP: AtomicBool = AtomicBool::new(false);

/// Echoes streams and datagrams on port 7000 until a connection says `quit`. To `counters` it answers what the kernel holds.
pub fn serve() -> Result<String, String> {
    let listener = TcpListener::bind("[::]:7000").map_err(say("bind"))?;
    let datagrams = UdpSocket::bind("[::]:7000").map_err(say("bind"))?;
    std::thread::spawn(move || {
        let mut buf = [0; 2000];
        while let Ok((n, from)) = datagrams.recv_from(&mut buf) {
            let _ = datagrams.send_to(&buf[..n], from);
        }
    });
    println!("serving");
    let mut served = 0;
    for socket in listener.incoming() {
        let mut socket = socket.map_err(say("accept"))?;
        if STOP.load(Ordering::SeqCst) {
            break;
        }
        served += 1;
        std::thread::spawn(move || {
            let mut buf = vec![0; 16 << 10];
            while let Ok(n) = socket.read(&mut buf) {
                if buf[..n] == *b"quit" {
                    STOP.store(true, Ordering::SeqCst);
                    let _ = socket.write_all(b"bye");
                    // Wakes the listener.
                    let _ = TcpStream::connect("127.0.0.1:7000");
                }
                let counters =
                    if buf[..n] == *b"counters" { std::fs::read("/proc/tarn/counters").ok() } else { None };
                if n == 0 || socket.write_all(counters.as_deref().unwrap_or(&buf[..n])).is_err() {
                    break;
                }
            }
        });
    }
    Ok(format!("{served} connections"))
}
