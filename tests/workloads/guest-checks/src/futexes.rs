//! `futexes`: words that several threads sleep on and change.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Times that a word is changed from each side.
const CHANGES: u32 = 5000;

/// One call; what it answers, or minus the error.
fn futex(
    word: &AtomicU32,
    op: i32,
    value: u32,
    timeout: Option<Duration>,
    more: (u64, &AtomicU32, u32),
) -> i64 {
    let time = timeout.map(|t| libc::timespec { tv_sec: 0, tv_nsec: i64::from(t.subsec_nanos()) });
    let fourth = time.as_ref().map_or(more.0, |t| std::ptr::from_ref(t) as u64);
    // SAFETY: both words and the time live longer than the call.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            op | libc::FUTEX_PRIVATE_FLAG,
            value,
            fourth,
            more.1.as_ptr(),
            more.2,
        )
    };
    if answer < 0 { -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { answer }
}

/// `FUTEX_WAKE_OP` adds to a word while the program does.
fn added_to_from_both_sides() -> Result<(), String> {
    let (first, second) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..CHANGES * 20).for_each(|_| _ = second.fetch_add(1, Ordering::SeqCst)));
        // FUTEX_OP_ADD of 1; the second word's sleepers are never meant.
        (0..CHANGES)
            .for_each(|_| _ = futex(&first, libc::FUTEX_WAKE_OP, 1, None, (0, &second, 1 << 28 | 1 << 12)));
    });
    let sum = second.load(Ordering::SeqCst);
    if sum == CHANGES * 21 { Ok(()) } else { Err(format!("{sum} after {} additions", CHANGES * 21)) }
}

/// Sleepers whose time is up while they are moved from word to word leave nothing behind that could be woken in another's place.
fn moved_while_their_time_is_up() -> Result<(), String> {
    let words = [AtomicU32::new(0), AtomicU32::new(0)];
    let done = AtomicBool::new(false);
    let until = Instant::now() + Duration::from_millis(1500);
    std::thread::scope(|scope| {
        for n in 0..3 {
            let (words, done) = (&words, &done);
            scope.spawn(move || {
                while Instant::now() < until {
                    let time = Some(Duration::from_micros(200 + 100 * n));
                    futex(&words[0], libc::FUTEX_WAIT, 0, time, (0, &words[1], 0));
                }
                done.store(true, Ordering::SeqCst);
            });
        }
        while !done.load(Ordering::SeqCst) {
            for (from, to) in [(0, 1), (1, 0)] {
                futex(
                    &words[from],
                    libc::FUTEX_CMP_REQUEUE,
                    0,
                    None,
                    (u64::from(u32::MAX >> 1), &words[to], 0),
                );
            }
        }
    });
    let left: Vec<i64> = words.iter().map(|w| futex(w, libc::FUTEX_WAKE, 100, None, (0, w, 0))).collect();
    if left == [0, 0] { Ok(()) } else { Err(format!("nobody sleeps any more, but {left:?} were woken")) }
}

/// The check.
pub fn run() -> Result<String, String> {
    added_to_from_both_sides()?;
    moved_while_their_time_is_up()?;
    let (a, b) = (AtomicU32::new(7), AtomicU32::new(0));
    match futex(&a, libc::FUTEX_CMP_REQUEUE, 1, None, (1, &b, 8)) {
        error if error == -i64::from(libc::EAGAIN) => {}
        other => return Err(format!("FUTEX_CMP_REQUEUE of another value: {other}")),
    }
    Ok("words are changed in one step, sleepers are moved whole".to_owned())
}
