//! Clocks without system calls, timers that send signals, signals that are read, and faults that handlers repair.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

fn ensure(right: bool, what: &str) -> Result<(), String> {
    if right { Ok(()) } else { Err(format!("{what} ({})", std::io::Error::last_os_error())) }
}

static SEEN: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static VALUE: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(u64::MAX);

extern "C" fn note(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a whole structure.
    unsafe {
        CODE.store((*info).si_code, Ordering::SeqCst);
        VALUE.store((*info).si_value().sival_ptr as u64, Ordering::SeqCst);
    }
    SEEN.fetch_add(1, Ordering::SeqCst);
}

extern "C" fn skip(_signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: behind the load come so many bytes of no-operations; a virtual machine goes on elsewhere in the same way.
    unsafe {
        ADDRESS.store((*info).si_addr() as u64, Ordering::SeqCst);
        CODE.store((*info).si_code, Ordering::SeqCst);
        let context = &mut *context.cast::<libc::ucontext_t>();
        context.uc_mcontext.gregs[libc::REG_RIP as usize] += 8;
        context.uc_mcontext.gregs[libc::REG_RAX as usize] = 4711;
    }
}

fn handle(
    signal: i32,
    handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void),
) -> Result<(), String> {
    // SAFETY: the handlers only touch atomics.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        ensure(libc::sigaction(signal, &raw const action, null_mut()) == 0, "sigaction")
    }
}

fn faults() -> Result<(), String> {
    handle(libc::SIGSEGV, skip)?;
    for address in [0u64, 8, 0xc, 0x14] {
        let mut got = address;
        // SAFETY: the load faults and the handler puts a value in its place. A load from an absolute address of 32 bits
        // through rbx is 8 bytes long with its padding.
        unsafe {
            std::arch::asm!("mov rax, [rdx]", "nop", "nop", "nop", "nop", "nop", "nop",
                inout("rax") got, in("rdx") address);
        }
        let seen = (got, ADDRESS.load(Ordering::SeqCst), CODE.load(Ordering::SeqCst));
        ensure(seen == (4711, address, 1), &format!("a load from {address:#x} gave {seen:x?}"))?;
    }
    // SAFETY: the default again.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
    Ok(())
}

fn timers() -> Result<(), String> {
    handle(libc::SIGVTALRM, note)?;
    // SAFETY: structures of ours.
    unsafe {
        let mut event: libc::sigevent = zeroed();
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGVTALRM;
        event.sigev_value.sival_ptr = 0x1234_5678_9abc_usize as *mut _;
        let mut timer: libc::timer_t = null_mut();
        ensure(
            libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) == 0,
            "timer_create",
        )?;
        let mut setting: libc::itimerspec = zeroed();
        setting.it_value.tv_nsec = 1_000_000;
        setting.it_interval.tv_nsec = 2_000_000;
        ensure(libc::timer_settime(timer, 0, &raw const setting, null_mut()) == 0, "timer_settime")?;
        while SEEN.load(Ordering::SeqCst) < 3 {
            libc::usleep(500);
        }
        let mut now: libc::itimerspec = zeroed();
        ensure(libc::timer_gettime(timer, &raw mut now) == 0, "timer_gettime")?;
        ensure(now.it_interval.tv_nsec == 2_000_000 && now.it_value.tv_nsec > 0, "what timer_gettime says")?;
        let seen = (CODE.load(Ordering::SeqCst), VALUE.load(Ordering::SeqCst));
        ensure(seen == (libc::SI_TIMER, 0x1234_5678_9abc), &format!("the signal says {seen:x?}"))?;
        ensure(libc::timer_delete(timer) == 0, "timer_delete")?;
        ensure(libc::timer_delete(timer) == -1, "a timer can be deleted twice")
    }
}

fn descriptors() -> Result<(), String> {
    // SAFETY: structures of ours.
    unsafe {
        let mut set: libc::sigset_t = zeroed();
        libc::sigaddset(&raw mut set, libc::SIGURG);
        ensure(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, null_mut()) == 0, "sigprocmask")?;
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC);
        ensure(fd >= 0, "signalfd")?;
        let mut info: libc::signalfd_siginfo = zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        ensure(libc::read(fd, (&raw mut info).cast(), size) == -1, "a signal that nobody sent")?;
        let killer = std::thread::spawn(|| {
            libc::usleep(3000);
            libc::kill(libc::getpid(), libc::SIGURG)
        });
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        ensure(libc::poll(&raw mut poll, 1, 10_000) == 1, "poll of a signalfd")?;
        ensure(killer.join().ok() == Some(0), "kill")?;
        ensure(libc::read(fd, (&raw mut info).cast(), size) == size as isize, "read of a signalfd")?;
        let (signal, sender) = (info.ssi_signo as i32, info.ssi_pid as i32);
        ensure(
            (signal, sender) == (libc::SIGURG, libc::getpid()),
            &format!("signal {signal} from {sender}"),
        )?;
        ensure(libc::close(fd) == 0, "close")
    }
}

/// The clock as the C library reads it, by the vDSO, lies between two readings by system call.
fn clocks() -> Result<(), String> {
    // SAFETY: structures of ours.
    unsafe {
        ensure(libc::getauxval(libc::AT_SYSINFO_EHDR) != 0, "there is no vDSO")?;
        let ns = |t: libc::timespec| t.tv_sec as i128 * 1_000_000_000 + i128::from(t.tv_nsec);
        for clock in
            [libc::CLOCK_REALTIME, libc::CLOCK_MONOTONIC, libc::CLOCK_MONOTONIC_COARSE, libc::CLOCK_BOOTTIME]
        {
            for _ in 0..1000 {
                let mut times: [libc::timespec; 3] = zeroed();
                libc::syscall(libc::SYS_clock_gettime, clock, &raw mut times[0]);
                ensure(libc::clock_gettime(clock, &raw mut times[1]) == 0, "clock_gettime")?;
                libc::syscall(libc::SYS_clock_gettime, clock, &raw mut times[2]);
                let [before, between, after] = times.map(ns);
                ensure(
                    before <= between && between <= after,
                    &format!("clock {clock}: {before} {between} {after}"),
                )?;
            }
        }
        let mut cpu = [0u32; 2];
        ensure(libc::sched_getcpu() >= 0, "sched_getcpu")?;
        libc::syscall(libc::SYS_getcpu, cpu.as_mut_ptr(), cpu.as_mut_ptr().add(1), 0);
        ensure(i64::from(cpu[0]) < libc::sysconf(libc::_SC_NPROCESSORS_ONLN), "getcpu")?;
        let mut time: libc::timespec = zeroed();
        ensure(
            libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) == 0,
            "a clock of the kernel's",
        )?;
        ensure(libc::clock_gettime(77, &raw mut time) == -1, "a clock that does not exist")
    }
}

/// The check.
pub fn run() -> Result<String, String> {
    clocks()?;
    faults()?;
    timers()?;
    descriptors()?;
    Ok("clocks, faults, timers, signalfd".to_owned())
}
