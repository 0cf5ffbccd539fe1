//! `eventfd`, `timerfd`, `epoll` and System V shared memory.

use std::time::{Duration, Instant};

fn last(what: &str) -> String {
    format!("{what}: {}", std::io::Error::last_os_error())
}

fn check(result: i32, what: &str) -> Result<i32, String> {
    if result < 0 { Err(last(what)) } else { Ok(result) }
}

fn watch(epoll: i32, fd: i32, events: i32) -> Result<(), String> {
    let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
    // SAFETY: the event is ours.
    check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) }, "epoll_ctl").map(drop)
}

/// The descriptors that are ready within `ms`.
fn ready(epoll: i32, ms: i32) -> Result<Vec<u64>, String> {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
    // SAFETY: room for 8 events.
    let n = check(unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), 8, ms) }, "epoll_wait")?;
    Ok(events[..n as usize].iter().map(|e| e.u64).collect())
}

fn waiting() -> Result<(), String> {
    // SAFETY: plain system calls on values of ours.
    unsafe {
        let event = check(libc::eventfd(0, libc::EFD_NONBLOCK), "eventfd")?;
        let timer = check(libc::timerfd_create(libc::CLOCK_MONOTONIC, 0), "timerfd_create")?;
        let epoll = check(libc::epoll_create1(libc::EPOLL_CLOEXEC), "epoll_create1")?;
        watch(epoll, event, libc::EPOLLIN | libc::EPOLLET)?;
        watch(epoll, timer, libc::EPOLLIN)?;
        if !ready(epoll, 0)?.is_empty() {
            return Err("something is ready that cannot be".to_owned());
        }
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(5));
            libc::eventfd_write(event, 41) + libc::eventfd_write(event, 1)
        });
        if ready(epoll, 10_000)? != [event as u64] || writer.join().ok() != Some(0) {
            return Err("the event did not come".to_owned());
        }
        let mut value = 0;
        if libc::eventfd_read(event, &raw mut value) != 0 || value != 42 {
            return Err(format!("the event is {value}"));
        }
        let mut setting: libc::itimerspec = std::mem::zeroed();
        setting.it_value.tv_nsec = 20_000_000;
        setting.it_interval.tv_nsec = 5_000_000;
        let start = Instant::now();
        check(libc::timerfd_settime(timer, 0, &raw const setting, std::ptr::null_mut()), "timerfd_settime")?;
        // The event's edge may be reported once more.
        while !ready(epoll, 10_000)?.contains(&(timer as u64)) {}
        if start.elapsed() < Duration::from_millis(20) {
            return Err("the timer came too early".to_owned());
        }
        let mut rings = 0u64;
        if libc::read(timer, (&raw mut rings).cast(), 8) != 8 || rings == 0 {
            return Err(format!("the timer rang {rings} times"));
        }
        for fd in [event, timer, epoll] {
            check(libc::close(fd), "close")?;
        }
    }
    Ok(())
}

fn shared_memory() -> Result<(), String> {
    const LEN: usize = 10_000;
    // SAFETY: the segment is ours, and as long as we say.
    unsafe {
        let id = check(libc::shmget(0x7a41, LEN, libc::IPC_CREAT | libc::IPC_EXCL | 0o600), "shmget")?;
        if libc::shmget(0x7a41, LEN, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) != -1 {
            return Err("two segments with one key".to_owned());
        }
        let (a, b) =
            (libc::shmat(id, std::ptr::null(), 0), libc::shmat(id, std::ptr::null(), libc::SHM_RDONLY));
        if a as isize == -1 || b as isize == -1 || a == b {
            return Err(last("shmat"));
        }
        a.cast::<u8>().add(9_999).write_volatile(77);
        let mut about: libc::shmid_ds = std::mem::zeroed();
        check(libc::shmctl(id, libc::IPC_STAT, &raw mut about), "shmctl")?;
        let seen = b.cast::<u8>().add(9_999).read_volatile();
        if (seen, about.shm_segsz, about.shm_nattch) != (77, LEN, 2) {
            return Err(format!("{seen}, {} bytes, attached {}", about.shm_segsz, about.shm_nattch));
        }
        check(libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()), "shmctl")?;
        check(libc::shmdt(a), "shmdt")?;
        check(libc::shmdt(b), "shmdt")?;
        if libc::shmat(id, std::ptr::null(), 0) as isize != -1 {
            return Err("a removed segment can be attached".to_owned());
        }
    }
    Ok(())
}

/// The check.
pub fn run() -> Result<String, String> {
    waiting()?;
    shared_memory()?;
    Ok("eventfd, timerfd, epoll, shm".to_owned())
}
