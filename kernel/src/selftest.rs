//! In-kernel tests: boot option `tarn.selftest` (all), `tarn.selftest=NAME`; `panic`, `fault`, `overflow` end the machine on
//! purpose. The status is 0 if all pass. With disks: `disk` reads, `disk-write` also overwrites the *last* MiB of the
//! last disk.

use crate::arch::{self, cpu};
use crate::drivers;
use crate::mm::stack::{self, Stack};
use crate::mm::{frame, phys};
use crate::sched::Bell;
use crate::{boot, println, sched, time};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use platform::block::{Batch, BlockDevice, BlockError, Op, run as run_op};
use platform::random::Random;
use platform::sync::{Condvar, Latch, Mutex};

type Test = (&'static str, fn());

const TESTS: &[Test] = &[
    ("memory-functions", memory_functions),
    ("heap", heap),
    ("heap-parallel", heap_parallel),
    ("mutex", mutex),
    ("condvar", condvar),
    ("sleep", sleep),
    ("bell", bell),
    ("spawn-many", spawn_many),
    ("stacks", stacks),
    ("stacks-given-back", stacks_given_back),
    ("preemption", preemption),
    ("red-zone", red_zone),
    ("fpu", fpu),
    ("parallel", parallel),
    ("random", random),
    ("disk", disk),
    ("lying-network", || lying(drivers::virtio::liar::network)),
    ("lying-disk", || lying(drivers::virtio::liar::disk)),
];

/// Runs the tests that the boot option names; the exit status.
pub fn run() -> u8 {
    let name = boot::info().cmdline().get("tarn.selftest").unwrap_or("");
    match name {
        "panic" => panic!("asked for by tarn.selftest=panic"),
        "fault" => fault(),
        "overflow" => println!("{}", overflow(1)),
        "disk-write" => disk_write(),
        "app" => crate::selftest_app::run(),
        _ => {}
    }
    for (_, test) in
        TESTS.iter().filter(|(n, _)| name.is_empty() || name == "1" || *n == name).inspect(|(n, _)| {
            println!("selftest: {n}");
        })
    {
        let start = time::monotonic_ns();
        test();
        println!("selftest: ok after {} us", (time::monotonic_ns() - start) / 1000);
    }
    println!("selftest: all passed, {} of {} frames free", frame::free_count(), frame::total());
    0
}

fn fault() {
    // SAFETY: none; this test shows what a wild pointer in the kernel looks like.
    unsafe { black_box(0x10 as *mut u64).write_volatile(1) }
}

#[expect(unconditional_recursion, reason = "this test shows what a stack overflow looks like")]
fn overflow(n: u64) -> u64 {
    let page = black_box([n; 64]);
    overflow(page[3] + 1) + page[5]
}

/// Runs `n` threads and waits for them.
fn in_threads(n: usize, body: impl Fn(usize) + Send + Sync + 'static) {
    let (body, latch) = (Arc::new(body), Arc::new(Latch::new(n)));
    for i in 0..n {
        let (body, latch) = (Arc::clone(&body), Arc::clone(&latch));
        drop(sched::spawn(
            "test",
            Box::new(move || {
                body(i);
                latch.count_down();
            }),
        ));
    }
    latch.wait();
}

fn memory_functions() {
    let source: Vec<u8> = (0..400u32).map(|i| (i * 7 + i / 251) as u8).collect();
    for len in 0..300 {
        for (from, to) in [(0, 0), (1, 3), (3, 1), (0, 17), (17, 0), (5, 69), (69, 5), (0, 64), (64, 0)] {
            let mut moved = source.clone();
            moved.copy_within(from..from + len, to);
            let expected =
                |i: usize| if (to..to + len).contains(&i) { source[i - to + from] } else { source[i] };
            assert!((0..400).all(|i| moved[i] == expected(i)), "memmove {len} {from} {to}");
        }
        let mut filled = vec![1u8; 320];
        filled[7..7 + len].fill(black_box(0xa5));
        assert!(
            (0..320).all(|i| filled[i] == if (7..7 + len).contains(&i) { 0xa5 } else { 1 }),
            "memset {len}"
        );
        let mut other = source.clone();
        assert!(source[..len] == other[..len], "memcmp {len}");
        if len > 0 {
            other[len - 1] = other[len - 1].wrapping_add(1);
            let order = source[len - 1].cmp(&other[len - 1]);
            assert_eq!(source[..len].cmp(&other[..len]), order, "memcmp order {len}");
        }
    }
}

fn heap() {
    let before = frame::free_count();
    churn();
    let lost = before.saturating_sub(frame::free_count());
    assert!(lost < 200, "{lost} frames did not come back");
}

fn churn() {
    let mut seed = 1u64;
    let mut blocks: Vec<(Vec<u8>, u8)> = Vec::new();
    for round in 0..6000u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if blocks.len() > 200 || (seed >> 60 == 0 && !blocks.is_empty()) {
            let (block, mark) = blocks.swap_remove((seed >> 20) as usize % blocks.len());
            assert!(block.iter().all(|b| *b == mark), "heap block changed");
        }
        let exponent = (seed >> 40) % 14;
        let len = (seed >> 8) as usize % (1 << (exponent + 1)) + 1;
        let mut block = vec![round as u8; len];
        if seed & 1 << 33 != 0 {
            block.extend_from_slice(&vec![round as u8; len / 3 + 1]);
        }
        blocks.push((block, round as u8));
    }
    for (block, mark) in blocks {
        assert!(block.iter().all(|b| *b == mark), "heap block changed");
    }
}

fn heap_parallel() {
    in_threads(4, |_| churn());
}

/// A stack for which there is not enough memory costs nothing.
fn stacks() {
    let mut kept = Vec::new();
    while stack::free() > 0 {
        kept.push(Stack::try_new().expect("a stack that was made before"));
    }
    // Frames are taken until fewer are left than a stack needs; each holds the address of the one before.
    let mut last = 0;
    let needed = stack::SIZE / phys::FRAME_SIZE;
    while frame::free_count() >= needed {
        let Some(taken) = frame::alloc() else { break };
        // SAFETY: ours, and in the direct map.
        unsafe { phys::to_virt(taken).cast::<u64>().write(last) };
        last = taken;
    }
    let (pages, free) = (stack::pages(), frame::free_count());
    let refused = Stack::try_new().is_none();
    let after = (stack::pages(), frame::free_count());
    while last != 0 {
        // SAFETY: as above.
        let before = unsafe { phys::to_virt(last).cast::<u64>().read() };
        frame::free(last);
        last = before;
    }
    assert!(refused && after == (pages, free), "of {free} frames for a stack {after:?} are left");
    drop(kept);
}

/// Stacks that wait give their memory back, and those made in their place are whole on every processor.
fn stacks_given_back() {
    const COUNT: usize = 40;
    let mark = |round: u64, page: u64| round << 56 | page;
    for round in 1..4 {
        let made: Option<Vec<Stack>> = (0..COUNT).map(|_| Stack::try_new()).collect();
        let made = Arc::new(made.expect("memory for some stacks"));
        let pages =
            |stack: &Stack| (stack.top() - stack::SIZE..stack.top()).step_by(phys::FRAME_SIZE as usize);
        for page in made.iter().flat_map(pages) {
            // SAFETY: the stack is ours, and no thread's.
            unsafe { (page as *mut u64).write_volatile(mark(round, page)) };
        }
        let shared = Arc::clone(&made);
        in_threads(cpu::count() * 2, move |_| {
            for page in shared.iter().flat_map(pages) {
                // SAFETY: as above; nobody writes any more.
                let found = unsafe { (page as *const u64).read_volatile() };
                assert_eq!(found, mark(round, page), "a stack's page in round {round}");
            }
        });
        // The threads let go of theirs soon after they have said that they are done.
        while Arc::strong_count(&made) > 1 {
            sched::yield_now();
        }
        drop(made);
        let (waiting, before) = (stack::free(), frame::free_count());
        if round == 1 {
            stack::give_back();
        } else {
            // All were needed a moment ago, and one is now.
            assert!(stack::give_back_unused() && stack::free() >= COUNT, "{} wait", stack::free());
            drop(Stack::try_new());
            stack::give_back_unused();
        }
        let gained = frame::free_count().saturating_sub(before);
        let least = (COUNT - stack::KEPT) * stack::PAGES;
        assert!(
            waiting >= COUNT && stack::free() <= stack::KEPT + 8,
            "{waiting}, then {} wait",
            stack::free()
        );
        assert!(gained + 64 > least as u64, "only {gained} frames came back of {least}");
    }
}

fn mutex() {
    let counter = Arc::new(Mutex::new(0u64));
    let shared = Arc::clone(&counter);
    in_threads(8, move |_| {
        for _ in 0..3000 {
            *shared.lock() += 1;
        }
    });
    assert_eq!(*counter.lock(), 24_000);
}

fn condvar() {
    let pair = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
    let producer = Arc::clone(&pair);
    drop(sched::spawn(
        "producer",
        Box::new(move || {
            for i in 0..3000u64 {
                producer.0.lock().push(i);
                producer.1.notify_one();
            }
        }),
    ));
    let mut sum = 0;
    let mut seen = 0;
    while seen < 3000 {
        let mut items = pair.0.lock();
        while items.is_empty() {
            items = pair.1.wait(items);
        }
        seen += items.len();
        sum += items.drain(..).sum::<u64>();
    }
    assert_eq!(sum, 2999 * 3000 / 2);
}

fn sleep() {
    for ms in [0, 1, 5, 20] {
        let start = time::monotonic_ns();
        sched::sleep(ms * 1_000_000);
        assert!(time::monotonic_ns() - start >= ms * 1_000_000, "woke too early");
    }
    let lock = Mutex::new(());
    let (_guard, notified) = Condvar::new().wait_timeout(lock.lock(), 1_000_000);
    assert!(!notified);
}

/// A bell that rings while its thread waits for a lock, after it has looked for work and before it sleeps.
fn bell() {
    const ROUNDS: u64 = 50;
    const PATIENCE_NS: u64 = 5_000_000_000;
    let bell = Arc::new(Bell::default());
    let lock = Arc::new(Mutex::new(()));
    let (work, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let server = {
        let (bell, lock, work, seen) =
            (Arc::clone(&bell), Arc::clone(&lock), Arc::clone(&work), Arc::clone(&seen));
        move || {
            bell.answer();
            while seen.load(Ordering::SeqCst) < ROUNDS {
                seen.store(work.load(Ordering::SeqCst), Ordering::SeqCst);
                drop(lock.lock());
                bell.wait(u64::MAX);
            }
        }
    };
    drop(sched::spawn("test", Box::new(server)));
    for round in 1..=ROUNDS {
        let held = lock.lock();
        bell.ring();
        // It looks, finds nothing new, and comes to the lock.
        sched::sleep(200_000);
        work.store(round, Ordering::SeqCst);
        bell.ring();
        sched::sleep(200_000);
        drop(held);
        let start = time::monotonic_ns();
        while seen.load(Ordering::SeqCst) < round {
            assert!(time::monotonic_ns() - start < PATIENCE_NS, "the bell was not heard in round {round}");
            sched::yield_now();
        }
    }
    bell.ring();
}

fn spawn_many() {
    let count = Arc::new(AtomicU64::new(0));
    let shared = Arc::clone(&count);
    for _ in 0..20 {
        let shared = Arc::clone(&shared);
        in_threads(10, move |_| {
            shared.fetch_add(1, Ordering::Relaxed);
        });
    }
    assert_eq!(count.load(Ordering::Relaxed), 200);
}

/// More spinning threads than processors: without preemption the flag would never be set.
fn preemption() {
    let stop = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&stop);
    let spinners = cpu::count() * 2;
    in_threads(spinners + 1, move |i| {
        if i == spinners {
            sched::sleep(20_000_000);
            shared.store(true, Ordering::Relaxed);
        }
        while !shared.load(Ordering::Relaxed) {
            core::hint::spin_loop();
        }
    });
}

/// Code that keeps data below rsp, as applications do, while timer interrupts preempt it.
fn red_zone() {
    in_threads(cpu::count() * 2, |i| {
        let (mut bad, mut left) = (0u64, 400_000 + i as u64);
        // SAFETY: writes only below rsp, where the kernel's own code keeps nothing (no-redzone).
        unsafe {
            asm!(
                "2:",
                "mov [rsp-8], {l}", "mov [rsp-64], {l}", "mov [rsp-128], {l}",
                "mov {t:e}, 30", "3: dec {t:e}", "jnz 3b",
                "cmp [rsp-8], {l}", "jne 4f",
                "cmp [rsp-64], {l}", "jne 4f",
                "cmp [rsp-128], {l}", "jne 4f",
                "jmp 5f",
                "4: inc {b}",
                "5: dec {l}", "jnz 2b",
                l = inout(reg) left, b = inout(reg) bad, t = out(reg) _,
            );
        }
        assert_eq!((bad, left), (0, 0), "the red zone was overwritten");
    });
}

/// Every thread keeps its own values in vector registers (ymm where there are any) across preemption.
fn fpu() {
    let avx = arch::fpu::features() & 4 != 0;
    in_threads(cpu::count() * 2, move |i| {
        let until = time::monotonic_ns() + 40_000_000;
        let values: [u64; 4] = [i as u64 + 1, !(i as u64), 0x5555 * i as u64, 77];
        let mut out = [0u64; 4];
        while time::monotonic_ns() < until {
            // SAFETY: uses the registers it names; AVX only where cpuid and XCR0 have it.
            unsafe {
                if avx {
                    asm!(
                        "vmovdqu ymm9, [{v}]",
                        "mov {t:e}, 20000", "2: dec {t:e}", "jnz 2b",
                        "vmovdqu [{o}], ymm9", "vzeroupper",
                        v = in(reg) &values, o = in(reg) &mut out, t = out(reg) _, out("xmm9") _,
                    );
                } else {
                    asm!(
                        "movdqu xmm9, [{v}]", "movdqu xmm10, [{v}+16]",
                        "mov {t:e}, 20000", "2: dec {t:e}", "jnz 2b",
                        "movdqu [{o}], xmm9", "movdqu [{o}+16], xmm10",
                        v = in(reg) &values, o = in(reg) &mut out, t = out(reg) _, out("xmm9") _, out("xmm10") _,
                    );
                }
            }
            assert_eq!(out, values, "vector registers changed");
        }
    });
}

/// As many spinning threads as processors: sooner or later every processor runs one.
fn parallel() {
    let arrived = Arc::new(AtomicU64::new(0));
    let used = Arc::new(AtomicU64::new(0));
    let (shared, mask) = (Arc::clone(&arrived), Arc::clone(&used));
    let all = cpu::count() as u32;
    in_threads(cpu::count(), move |_| {
        let give_up = time::monotonic_ns() + 10_000_000_000;
        shared.fetch_add(1, Ordering::SeqCst);
        let done = || {
            shared.load(Ordering::SeqCst) == u64::from(all)
                && mask.load(Ordering::Relaxed).count_ones() == all
        };
        while !done() && time::monotonic_ns() < give_up {
            mask.fetch_or(1 << sched::cpu_index(), Ordering::Relaxed);
            core::hint::spin_loop();
        }
    });
    let ran = used.load(Ordering::Relaxed).count_ones() as usize;
    println!("selftest: {ran} of {} processors ran", cpu::count());
    assert_eq!(ran, cpu::count());
}

fn random() {
    let random = arch::random::KernelRandom;
    let (a, b) = (random.next_u64(), random.next_u64());
    assert!(a != b && a != 0);
}

/// Runs a test of devices that lie, with a seed that it says.
fn lying(test: fn(u64)) {
    let seed = arch::random::KernelRandom.next_u64();
    println!("selftest: seed {seed:#x}");
    test(seed);
}

/// Reads many blocks at once and each alone, and compares; the queue must have been deep.
fn disk() {
    let Some(disk) = drivers::disks().pop() else {
        println!("selftest: no disk");
        return;
    };
    const BLOCK: u64 = 4096;
    let count = (disk.info().size / BLOCK).min(1000);
    let start = time::monotonic_ns();
    let batch = Batch::new();
    for i in 0..count {
        batch.submit(&*disk, Op::Read { offset: i * BLOCK, buf: vec![0; BLOCK as usize] });
    }
    let together = batch.wait();
    let middle = time::monotonic_ns();
    for (i, outcome) in together.iter().enumerate() {
        let alone = run_op(&*disk, Op::Read { offset: i as u64 * BLOCK, buf: vec![0; BLOCK as usize] });
        assert!(alone.is_ok() && alone == *outcome, "block {i} differs");
    }
    let end = time::monotonic_ns();
    let big = (disk.info().size.min(4 << 20)) as usize;
    let whole = run_op(&*disk, Op::Read { offset: 0, buf: vec![0; big] });
    let parts = together.iter().flatten().flatten().take(big);
    assert!(whole.is_ok_and(|w| w.iter().zip(parts).all(|(a, b)| a == b)), "one large read differs");
    assert_eq!(run_op(&*disk, Op::Flush), Ok(Vec::new()));
    let beyond = Op::Read { offset: disk.info().size, buf: vec![0; 512] };
    assert_eq!(run_op(&*disk, beyond), Err(BlockError::OutOfRange));
    let stats = disk.stats();
    println!(
        "selftest: {count} blocks: together {} us, one by one {} us, {} at once, {} in all, {} unheard",
        (middle - start) / 1000,
        (end - middle) / 1000,
        stats.deepest,
        stats.completed,
        stats.unheard
    );
    // A machine that is busy may stop for as long as the driver waits, but not time after time.
    assert!(stats.unheard <= stats.completed / 20, "interrupts of the disk do not arrive");
    assert!(count < 2 || stats.deepest > 1, "requests went one by one");
}

fn disk_write() {
    let Some(disk) = drivers::disks().pop() else { return };
    let start = disk.info().size - (1 << 20);
    let batch = Batch::new();
    for i in 0..256u64 {
        batch.submit(&*disk, Op::Write { offset: start + i * 4096, data: vec![i as u8; 4096].into() });
    }
    assert!(batch.wait().iter().all(Result::is_ok), "a write failed");
    assert_eq!(run_op(&*disk, Op::Flush), Ok(Vec::new()));
    let back = run_op(&*disk, Op::Read { offset: start, buf: vec![0; 1 << 20] }).unwrap_or_default();
    assert!(back.len() == 1 << 20 && back.iter().enumerate().all(|(i, b)| *b == (i / 4096) as u8), "differs");
    let discarded = run_op(&*disk, Op::Discard { offset: start, len: 1 << 20 });
    println!("selftest: wrote 1 MiB; discard: {discarded:?}");
}
