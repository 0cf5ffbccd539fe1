//! System calls with arguments that a sane program would not pass.
//!
//! `wild`: pointers to nowhere are answered by `EFAULT`. `fuzz`: random arguments, until the time is over or the program has
//! destroyed itself; what must not happen is that the kernel stops. The seed is printed; `FUZZ_SEED` and `FUZZ_MS` in the
//! environment set seed and time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Calls that read or write memory: number, arguments with 0 for the pointer that is made wild, which argument that is.
const POINTERS: &[(i64, [u64; 6], usize)] = &[
    (libc::SYS_read, [3, 0, 100, 0, 0, 0], 1),
    (libc::SYS_write, [3, 0, 100, 0, 0, 0], 1),
    (libc::SYS_pread64, [3, 0, 100, 0, 0, 0], 1),
    (libc::SYS_pwrite64, [3, 0, 100, 0, 0, 0], 1),
    (libc::SYS_readv, [3, 0, 1, 0, 0, 0], 1),
    (libc::SYS_writev, [3, 0, 1, 0, 0, 0], 1),
    (libc::SYS_open, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_openat, [AT, 0, 0, 0, 0, 0], 1),
    (libc::SYS_stat, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_fstat, [3, 0, 0, 0, 0, 0], 1),
    (libc::SYS_newfstatat, [AT, 0, 0, 0, 0, 0], 1),
    (libc::SYS_statx, [AT, 0, 0, 0x7ff, 0, 0], 1),
    (libc::SYS_statfs, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_access, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_mkdir, [0, 0o755, 0, 0, 0, 0], 0),
    (libc::SYS_unlink, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_rename, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_readlink, [0, 0, 100, 0, 0, 0], 0),
    (libc::SYS_getdents64, [4, 0, 4096, 0, 0, 0], 1),
    (libc::SYS_getcwd, [0, 4096, 0, 0, 0, 0], 0),
    (libc::SYS_pipe, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_pipe2, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_poll, [0, 1, 0, 0, 0, 0], 0),
    (libc::SYS_select, [8, 0, 0, 0, 0, 0], 1),
    (libc::SYS_rt_sigaction, [10, 0, 0, 8, 0, 0], 1),
    (libc::SYS_rt_sigprocmask, [0, 0, 0, 8, 0, 0], 1),
    (libc::SYS_rt_sigpending, [0, 8, 0, 0, 0, 0], 0),
    (libc::SYS_rt_sigtimedwait, [0, 0, 0, 8, 0, 0], 0),
    (libc::SYS_sigaltstack, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_nanosleep, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_clock_gettime, [1, 0, 0, 0, 0, 0], 1),
    (libc::SYS_clock_getres, [1, 0, 0, 0, 0, 0], 1),
    (libc::SYS_clock_nanosleep, [1, 0, 0, 0, 0, 0], 2),
    (libc::SYS_getrusage, [0, 0, 0, 0, 0, 0], 1),
    (libc::SYS_getrlimit, [7, 0, 0, 0, 0, 0], 1),
    (libc::SYS_prlimit64, [0, 7, 0, 0, 0, 0], 2),
    (libc::SYS_sysinfo, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_uname, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_times, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_getitimer, [0, 0, 0, 0, 0, 0], 1),
    (libc::SYS_setitimer, [0, 0, 0, 0, 0, 0], 1),
    (libc::SYS_getrandom, [0, 16, 0, 0, 0, 0], 0),
    (libc::SYS_sched_getaffinity, [0, 128, 0, 0, 0, 0], 2),
    (libc::SYS_futex, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_timer_create, [1, 0, 0, 0, 0, 0], 1),
    (libc::SYS_memfd_create, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_signalfd4, [u64::MAX, 0, 8, 0, 0, 0], 1),
    (libc::SYS_io_setup, [8, 0, 0, 0, 0, 0], 1),
    (425, [8, 0, 0, 0, 0, 0], 1),
    (libc::SYS_execve, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_getxattr, [0, 0, 0, 0, 0, 0], 0),
    (libc::SYS_clone3, [0, 88, 0, 0, 0, 0], 0),
    (libc::SYS_fcntl, [3, 5, 0, 0, 0, 0], 2),
    (libc::SYS_capget, [0, 0, 0, 0, 0, 0], 0),
];
const AT: u64 = libc::AT_FDCWD as u64;

/// Addresses that a program never has: unmapped, in the kernel's half, not canonical, at the end.
const WILD: [u64; 7] =
    [8, 0xdead_b000, 0xffff_8000_0000_1000, 0xffff_ffff_8020_0000, 0x8000_0000_0000, 1 << 62, u64::MAX - 7];

fn call(number: i64, a: [u64; 6]) -> i64 {
    // SAFETY: not at all: the kernel has to cope.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result < 0 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { result }
}

/// Opens descriptors 3 (a file with something in it) and 4 (a directory).
fn open() -> Result<(), String> {
    std::fs::write("/data/hostile", [7; 5000]).map_err(|e| e.to_string())?;
    // SAFETY: names that end, and descriptors that nobody else uses any more.
    let fds = unsafe {
        let file = libc::open(c"/data/hostile".as_ptr(), libc::O_RDWR);
        let folder = libc::open(c"/".as_ptr(), libc::O_RDONLY);
        let (file, folder) = (libc::fcntl(file, libc::F_DUPFD, 50), libc::fcntl(folder, libc::F_DUPFD, 60));
        [libc::dup2(file, 3), libc::dup2(folder, 4)]
    };
    if fds == [3, 4] { Ok(()) } else { Err(format!("descriptors {fds:?}")) }
}

/// `prctl` takes up to 16 bytes, but a name may end sooner, right before memory that is not there.
fn name_before_nothing() -> Result<(), String> {
    const PAGE: usize = 4096;
    // SAFETY: two pages of ours, one of which goes again; pointers into the other one.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page =
            libc::mmap(std::ptr::null_mut(), 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED || libc::munmap(page.add(PAGE), PAGE) != 0 {
            return Err("no page".to_owned());
        }
        let mut old = [0u8; 16];
        libc::prctl(libc::PR_GET_NAME, old.as_mut_ptr());
        for (text, wanted) in [(&b"abc\0"[..], 0), (b"\0", 0), (b"abcdef", -i64::from(libc::EFAULT))] {
            let at = page.cast::<u8>().add(PAGE - text.len());
            at.copy_from_nonoverlapping(text.as_ptr(), text.len());
            let result = call(libc::SYS_prctl, [libc::PR_SET_NAME as u64, at as u64, 0, 0, 0, 0]);
            if result != wanted {
                return Err(format!("PR_SET_NAME of {text:?} at the end of memory: {result}"));
            }
            let mut name = [1u8; 16];
            libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
            if wanted == 0 && !name.starts_with(text) {
                return Err(format!("the name is {name:?}, not {text:?}"));
            }
        }
        libc::prctl(libc::PR_SET_NAME, old.as_ptr());
        libc::munmap(page, PAGE);
    }
    Ok(())
}

/// A mask of signals comes with its size, which must be the right one: else the call must not wait.
fn masks_of_another_size() -> Result<(), String> {
    let mask = 0u64;
    let pair = [&raw const mask as u64, 16];
    let (mask, pair) = (&raw const mask as u64, pair.as_ptr() as u64);
    for (number, args) in [
        (libc::SYS_ppoll, [0, 0, 0, mask, 16, 0]),
        (libc::SYS_pselect6, [0, 0, 0, 0, 0, pair]),
        (libc::SYS_rt_sigsuspend, [mask, 16, 0, 0, 0, 0]),
    ] {
        let result = call(number, args);
        if result != -i64::from(libc::EINVAL) {
            return Err(format!("call {number} with a mask of 16 bytes: {result}"));
        }
    }
    Ok(())
}

/// The check of wild pointers.
pub fn wild() -> Result<String, String> {
    name_before_nothing()?;
    masks_of_another_size()?;
    open()?;
    for &(number, args, at) in POINTERS {
        for address in WILD {
            let mut args = args;
            args[at] = address;
            let result = call(number, args);
            if result != -i64::from(libc::EFAULT) {
                return Err(format!("call {number} with {address:#x} as argument {at}: {result}"));
            }
        }
    }
    Ok(format!("{} calls, {} addresses each", POINTERS.len(), WILD.len()))
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// Where the fuzzer keeps standard output.
const OUTPUT: i32 = 200;
const ARENA: usize = 16 << 20;
const ARENA_PAGES: u64 = ARENA as u64 / 4096;

/// Ends, replaces or stops the program or its threads, or takes the console away.
const FORBIDDEN: [i64; 21] = [
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_reboot,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    // It may block the very signal that ends the waiting.
    libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack,
    libc::SYS_arch_prctl,
    libc::SYS_set_tid_address,
    libc::SYS_close_range,
    libc::SYS_setitimer,
];

/// Calls that wait under a mask of signals, and which argument leads to it.
const MASKS: [(i64, usize); 6] = [
    (libc::SYS_ppoll, 3),
    (libc::SYS_pselect6, 5),
    (libc::SYS_epoll_pwait, 4),
    (libc::SYS_epoll_pwait2, 4),
    (333, 5), // io_pgetevents
    (libc::SYS_io_uring_enter, 4),
];

fn argument(random: &mut Random, arena: u64) -> u64 {
    match random.below(10) {
        0 => 0,
        1 => random.below(8),
        2 => random.below(5000),
        3 => 1 << random.below(64),
        4 => (1u64 << random.below(64)).wrapping_neg(),
        5 => random.next(),
        6 => random.of(&WILD),
        // Memory that is there, with whatever lies in it, and its borders.
        7 => arena + random.below(ARENA as u64),
        8 => arena + random.below(ARENA_PAGES) * 4096,
        _ => arena + ARENA as u64 - random.below(64),
    }
}

/// Threads that fuzz.
const THREADS: usize = 3;
/// The call that each of them makes: its number and its arguments.
static CURRENT: [[AtomicU64; 7]; THREADS] = [const { [const { AtomicU64::new(0) }; 7] }; THREADS];

/// What a thread is doing, for people.
fn doing(index: usize) -> String {
    let words: Vec<u64> = CURRENT[index].iter().map(|word| word.load(Ordering::Relaxed)).collect();
    format!("call {} of {:x?}", words[0], &words[1..])
}

fn thread(index: usize, seed: u64, until: Instant, arena: u64) -> u64 {
    let mut random = Random(seed | 1);
    let mut calls = 0;
    while Instant::now() < until {
        let number = if random.below(8) == 0 { 424 + random.below(40) } else { random.below(336) } as i64;
        if FORBIDDEN.contains(&number) {
            continue;
        }
        let mut args: [u64; 6] = std::array::from_fn(|_| argument(&mut random, arena));
        match number {
            // What changes mappings stays in the arena, or the program would only shoot itself.
            libc::SYS_mmap | libc::SYS_munmap | libc::SYS_mprotect | libc::SYS_madvise | libc::SYS_mremap => {
                // Behind the arena lie the vDSO and its clock, which the fuzzer itself needs.
                // Now and then whole large pages, and whatever fits.
                let most = if random.below(8) == 0 { ARENA_PAGES / 2 } else { 64 };
                args[0] = arena + random.below(ARENA_PAGES - most) * 4096;
                args[1] = random.below(most) * 4096;
                if number == libc::SYS_mprotect {
                    args[2] = 3;
                }
                if number == libc::SYS_mmap && random.below(2) == 0 {
                    args[3] = u64::from(random.of(&[1u16, 2, 0x21, 0x22, 0x4022, 0x8022]) | 0x10);
                    args[4] = random.of(&[3, 4, u64::MAX]);
                }
                if number == libc::SYS_mremap {
                    (args[2], args[3]) = (random.below(64) * 4096, random.below(2));
                }
            }
            // Standard output stays; a descriptor is often one of the few that are open.
            libc::SYS_close | libc::SYS_dup2 | libc::SYS_dup3 => {
                args[0] = 5 + random.below(20);
                args[1] = 5 + random.below(20);
            }
            _ if random.below(3) > 0 => args[0] = random.below(24),
            _ => {}
        }
        // A mask of signals that is taken for true may block the one that ends the waiting.
        if let Some((_, at)) = MASKS.iter().find(|(call, _)| *call == number) {
            args[*at] = random.of(&[0, WILD[0], WILD[2], WILD[6]]);
        }
        // With SHM_REMAP a segment of any size would lie over all that is behind the arena.
        if number == libc::SYS_shmat {
            args[2] &= !(libc::SHM_REMAP as u64);
        }
        if matches!(number, libc::SYS_brk | libc::SYS_shmdt | libc::SYS_prlimit64 | libc::SYS_setrlimit) {
            args[0] = random.below(4096);
        }
        for (place, word) in CURRENT[index].iter().zip([number as u64].into_iter().chain(args)) {
            place.store(word, Ordering::Relaxed);
        }
        call(number, args);
        calls += 1;
    }
    calls
}

extern "C" fn nothing(_signal: i32) {}

/// The fuzzer.
pub fn fuzz() -> Result<String, String> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = variable("FUZZ_SEED").unwrap_or(1);
    let ms: u64 = variable("FUZZ_MS").unwrap_or(2000);
    println!("fuzz: seed {seed}, {ms} ms");
    open()?;
    // The console is not the fuzzer's: what it writes to the first descriptors goes nowhere.
    // SAFETY: a name that ends, and descriptors of ours.
    unsafe {
        libc::dup2(1, OUTPUT);
        let nothing = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR);
        (0..3).for_each(|fd| {
            libc::dup2(nothing, fd);
        });
    }
    // SAFETY: a handler that does nothing interrupts what would wait for ever; the arena is new memory.
    let arena = unsafe {
        libc::signal(libc::SIGALRM, nothing as *const () as usize);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let every = libc::timeval { tv_sec: 0, tv_usec: 20_000 };
        libc::setitimer(
            libc::ITIMER_REAL,
            &libc::itimerval { it_interval: every, it_value: every },
            std::ptr::null_mut(),
        );
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let arena = libc::mmap(std::ptr::null_mut(), ARENA, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        libc::madvise(arena, ARENA, libc::MADV_HUGEPAGE);
        arena as u64
    };
    let until = Instant::now() + Duration::from_millis(ms);
    let threads: Vec<_> = (0..THREADS)
        .map(|i| std::thread::spawn(move || thread(i, seed.wrapping_mul(1000) + i as u64, until, arena)))
        .collect();
    // The main thread wakes the others, also after the time: what waits for ever is interrupted. It never waits for one itself.
    let last = until + Duration::from_secs(20);
    while threads.iter().any(|t| !t.is_finished()) && Instant::now() < last {
        for handle in &threads {
            // SAFETY: the thread was not joined yet.
            unsafe {
                libc::pthread_kill(std::os::unix::thread::JoinHandleExt::as_pthread_t(handle), libc::SIGALRM)
            };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let stuck: Vec<usize> = (0..THREADS).filter(|&i| !threads[i].is_finished()).collect();
    let calls: u64 = threads.into_iter().filter(|t| t.is_finished()).filter_map(|t| t.join().ok()).sum();
    // Straight out: what the fuzzer did to the process shall not matter any more.
    let text = if stuck.is_empty() {
        format!("fuzz: ok, {calls} calls\n")
    } else {
        let calls: Vec<String> = stuck.iter().map(|&i| doing(i)).collect();
        format!("fuzz: WRONG: threads do not come back: {}\n", calls.join("; "))
    };
    // SAFETY: bytes of ours.
    unsafe {
        libc::write(OUTPUT, text.as_ptr().cast(), text.len());
        libc::_exit(i32::from(!stuck.is_empty()))
    }
}
