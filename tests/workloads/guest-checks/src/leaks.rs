//! What a program has done and undone leaves nothing behind in the kernel: its counters are the same after many rounds as after a few.

use std::collections::BTreeMap;
use std::io::{Error, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::ptr::null_mut;
use std::time::Duration;

/// Rounds until caches are full and tables have their size.
const SETTLING: usize = 20;
const ROUNDS: usize = 25;
/// So often may something grow before it is held to be left behind.
const TIMES: usize = 3;
/// Things of each kind in a round.
const EACH: usize = 8;
const MAPPED: usize = 2 << 20;
/// Threads of the kernel sleep now and then.
const SLEEPERS: u64 = 4;
/// What the kernel may hold more afterwards, in KiB: a page for each thing of a kind would be twice as much.
const TOLERANCE: u64 = 400;
/// After so many moments without a change the machine is at rest, and after so many in any case.
const MOMENTS: (u32, u32) = (10, 200);

/// By name.
pub type Counters = BTreeMap<String, u64>;

fn say(what: &str) -> impl Fn(Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}

/// What the kernel counts.
pub fn counters() -> Result<Counters, String> {
    let text = std::fs::read_to_string("/proc/tarn/counters").map_err(say("counters"))?;
    let pair =
        |line: &str| line.split_once(' ').and_then(|(name, n)| Some((name.to_owned(), n.parse().ok()?)));
    text.lines().map(pair).collect::<Option<_>>().ok_or(format!("counters:\n{text}"))
}

/// The least of each figure while nothing is done and nothing is left to be written: until none has become less for a while.
fn at_rest() -> Result<Counters, String> {
    let mut least = counters()?;
    let mut unchanged = 0;
    for _ in 0..MOMENTS.1 {
        // SAFETY: it has no arguments.
        unsafe { libc::sync() };
        std::thread::sleep(Duration::from_millis(30));
        unchanged += 1;
        for (name, value) in counters()? {
            let lowest = least.entry(name).or_insert(value);
            if value < *lowest {
                *lowest = value;
                unchanged = 0;
            }
        }
        if unchanged == MOMENTS.0 {
            break;
        }
    }
    Ok(least)
}

fn threads() -> Result<(), String> {
    let threads: Vec<_> = (0..EACH).map(|n| std::thread::spawn(move || n)).collect();
    threads.into_iter().try_for_each(|t| t.join().map(drop)).map_err(|_| "a thread panicked".to_owned())
}

fn memory() -> Result<(), String> {
    for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
        // SAFETY: memory of our own, which is touched, remapped and given back.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(null_mut(), MAPPED, access, flags | libc::MAP_ANONYMOUS, -1, 0);
            if at == libc::MAP_FAILED {
                return Err(say("mmap")(Error::last_os_error()));
            }
            for page in (0..MAPPED).step_by(4096) {
                at.cast::<u8>().add(page).write_volatile(1);
            }
            libc::mprotect(at, MAPPED / 2, libc::PROT_READ);
            // One area again, or it cannot be moved.
            libc::mprotect(at, MAPPED, access);
            libc::madvise(at, MAPPED / 4, libc::MADV_DONTNEED);
            let moved = libc::mremap(at, MAPPED, MAPPED * 2, libc::MREMAP_MAYMOVE);
            if moved == libc::MAP_FAILED || libc::munmap(moved, MAPPED * 2) != 0 {
                return Err(say("mremap")(Error::last_os_error()));
            }
        }
    }
    Ok(())
}

fn files() -> Result<(), String> {
    for n in 0..EACH {
        let name = format!("/tmp/leaks-{n}");
        let mut file = std::fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&name)
            .map_err(say("open"))?;
        file.write_all(&[n as u8; 20_000]).map_err(say("write"))?;
        if n == 0 {
            file.sync_all().map_err(say("fsync"))?;
        }
        // SAFETY: a file of five pages, of which one is read and one changed.
        unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let at = libc::mmap(null_mut(), 20_000, access, libc::MAP_SHARED, file.as_raw_fd(), 0);
            if at == libc::MAP_FAILED {
                return Err(say("mmap of a file")(Error::last_os_error()));
            }
            let first = at.cast::<u8>().read_volatile();
            at.cast::<u8>().add(4096).write_volatile(first + 1);
            libc::munmap(at, 20_000);
        }
        std::fs::remove_file(&name).map_err(say("unlink"))?;
    }
    Ok(())
}

fn descriptors() -> Result<(), String> {
    // SAFETY: descriptors of our own, each closed once.
    unsafe {
        for _ in 0..EACH {
            let mut pipe = [0; 2];
            if libc::pipe(pipe.as_mut_ptr()) != 0 {
                return Err(say("pipe")(Error::last_os_error()));
            }
            let (event, epoll) = (libc::eventfd(1, 0), libc::epoll_create1(0));
            let timer = libc::timerfd_create(libc::CLOCK_MONOTONIC, 0);
            let mut setting: libc::itimerspec = std::mem::zeroed();
            setting.it_value.tv_sec = 1000;
            libc::timerfd_settime(timer, 0, &raw const setting, null_mut());
            for fd in [pipe[0], event, timer] {
                let mut interest = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
                if libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut interest) != 0 {
                    return Err(say("epoll_ctl")(Error::last_os_error()));
                }
            }
            let mut found: libc::epoll_event = std::mem::zeroed();
            if libc::epoll_wait(epoll, &raw mut found, 1, 1000) != 1 || found.u64 != event as u64 {
                return Err("the descriptor that is ready is not found".to_owned());
            }
            for fd in [pipe[0], pipe[1], event, epoll, timer] {
                libc::close(fd);
            }
        }
    }
    Ok(())
}

fn sockets() -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(say("bind"))?;
    let address = listener.local_addr().map_err(say("getsockname"))?;
    for _ in 0..EACH {
        let mut client = TcpStream::connect(address).map_err(say("connect"))?;
        let (mut server, _) = listener.accept().map_err(say("accept"))?;
        client.write_all(b"hello").map_err(say("send"))?;
        server.read_exact(&mut [0; 5]).map_err(say("receive"))?;
        // Reset, so that neither end lingers in TIME-WAIT.
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        let size = size_of::<libc::linger>() as u32;
        // SAFETY: a structure of ours.
        unsafe {
            libc::setsockopt(
                client.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const now).cast(),
                size,
            )
        };
    }
    Ok(())
}

fn timers() -> Result<(), String> {
    // SAFETY: timers of our own, none of which rings.
    unsafe {
        for _ in 0..EACH {
            let mut timer: libc::timer_t = null_mut();
            let mut setting: libc::itimerspec = std::mem::zeroed();
            setting.it_value.tv_sec = 1000;
            if libc::timer_create(libc::CLOCK_MONOTONIC, null_mut(), &raw mut timer) != 0
                || libc::timer_settime(timer, 0, &raw const setting, null_mut()) != 0
                || libc::timer_delete(timer) != 0
            {
                return Err(say("a timer")(Error::last_os_error()));
            }
        }
    }
    Ok(())
}

/// This program again, with nothing to do.
fn child() -> Result<(), String> {
    let this = std::env::current_exe().map_err(say("the program's name"))?;
    let status = Command::new(this).status().map_err(say("posix_spawn"))?;
    if status.success() { Ok(()) } else { Err(format!("a child ended with {status}")) }
}

fn rounds(count: usize) -> Result<(), String> {
    (0..count).try_for_each(|_| {
        threads()?;
        memory()?;
        files()?;
        descriptors()?;
        sockets()?;
        timers()?;
        child()
    })
}

/// What the kernel holds for itself and not for programs or as a cache.
fn held(counters: &Counters) -> u64 {
    let parts: u64 =
        ["page_tables", "stacks", "slab", "large", "other"].iter().map(|name| counters[*name]).sum();
    parts.saturating_sub(counters["cache"])
}

/// What has grown from `before` to `after` by more than it may.
fn growth(before: &Counters, after: &Counters) -> Option<String> {
    let compare = || format!("before {before:?}, after {after:?}");
    for name in
        ["other", "shared", "processes", "threads", "descriptors", "futex_waiters", "timers", "sockets"]
    {
        let slack = if name == "timers" { SLEEPERS } else { 0 };
        if after[name] > before[name] + slack {
            return Some(format!("{name} grew: {}", compare()));
        }
    }
    // The heap of this program may have got a page more.
    if held(after) > held(before) + TOLERANCE || after["anonymous"] > before["anonymous"] + 64 {
        let by = held(after) as i64 - held(before) as i64;
        return Some(format!("memory grew by {by} KiB: {}", compare()));
    }
    None
}

/// The check. A table that gets its largest size only now, as more is under way at once than ever before, grows once; what is left behind
/// grows each time.
pub fn run() -> Result<String, String> {
    rounds(SETTLING)?;
    let mut before = at_rest()?;
    let mut grown = String::new();
    for _ in 0..TIMES {
        rounds(ROUNDS)?;
        let after = at_rest()?;
        match growth(&before, &after) {
            None => return Ok(format!("{} KiB, then {} KiB", held(&before), held(&after))),
            Some(what) => grown = what,
        }
        before = after;
    }
    Err(grown)
}
