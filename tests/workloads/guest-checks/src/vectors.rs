//! The vector and x87 registers of each thread survive system calls that sleep, that are preempted, and during which the
//! kernel's checksum code uses the same registers. Files come from `/data/vectors`, whose dataset has a checksum by AVX.

use std::arch::{asm, is_x86_feature_detected};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

const THREADS: u64 = 4;
const ROUNDS: u64 = 150;
const BLOCK: usize = 128 << 10;

type Registers = [[u64; 4]; 16];

/// Loads ymm0-15 and one x87 register, makes a system call, and stores them: the call's result and what they hold then.
///
/// # Safety
/// The call's arguments are right, and the processor has AVX.
unsafe fn call_with(number: i64, args: [u64; 4], before: &Registers, x87: f64) -> (i64, Registers, f64) {
    let mut after: Registers = [[0; 4]; 16];
    let (result, mut top): (i64, f64);
    top = 0.0;
    // SAFETY: all registers that change are named; rdi, rsi, rdx and r10 are the call's arguments.
    unsafe {
        asm!(
            "vmovdqu ymm0, [{b}]", "vmovdqu ymm1, [{b}+32]", "vmovdqu ymm2, [{b}+64]", "vmovdqu ymm3, [{b}+96]",
            "vmovdqu ymm4, [{b}+128]", "vmovdqu ymm5, [{b}+160]", "vmovdqu ymm6, [{b}+192]", "vmovdqu ymm7, [{b}+224]",
            "vmovdqu ymm8, [{b}+256]", "vmovdqu ymm9, [{b}+288]", "vmovdqu ymm10, [{b}+320]", "vmovdqu ymm11, [{b}+352]",
            "vmovdqu ymm12, [{b}+384]", "vmovdqu ymm13, [{b}+416]", "vmovdqu ymm14, [{b}+448]", "vmovdqu ymm15, [{b}+480]",
            "fld qword ptr [{x}]",
            "syscall",
            "fstp qword ptr [{t}]",
            "vmovdqu [{a}], ymm0", "vmovdqu [{a}+32], ymm1", "vmovdqu [{a}+64], ymm2", "vmovdqu [{a}+96], ymm3",
            "vmovdqu [{a}+128], ymm4", "vmovdqu [{a}+160], ymm5", "vmovdqu [{a}+192], ymm6", "vmovdqu [{a}+224], ymm7",
            "vmovdqu [{a}+256], ymm8", "vmovdqu [{a}+288], ymm9", "vmovdqu [{a}+320], ymm10", "vmovdqu [{a}+352], ymm11",
            "vmovdqu [{a}+384], ymm12", "vmovdqu [{a}+416], ymm13", "vmovdqu [{a}+448], ymm14", "vmovdqu [{a}+480], ymm15",
            "vzeroupper",
            b = in(reg) before, a = in(reg) &raw mut after, x = in(reg) &raw const x87, t = in(reg) &raw mut top,
            inlateout("rax") number => result, in("rdi") args[0], in("rsi") args[1], in("rdx") args[2], in("r10") args[3],
            out("rcx") _, out("r11") _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
            out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _,
            out("ymm13") _, out("ymm14") _, out("ymm15") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _, out("st(4)") _, out("st(5)") _,
            out("st(6)") _, out("st(7)") _,
        );
    }
    (result, after, top)
}

fn thread(me: u64) -> Result<(), String> {
    let path = format!("/data/vectors/{me}");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path);
    let file = file.map_err(|e| format!("{path}: {e}"))?;
    let fd = file.as_raw_fd() as u64;
    let mut data = vec![0u8; BLOCK];
    let nap = libc::timespec { tv_sec: 0, tv_nsec: 200_000 };
    for round in 0..ROUNDS {
        data.fill(round as u8);
        let registers: Registers = std::array::from_fn(|i| {
            std::array::from_fn(|j| me << 48 | round << 16 | (i as u64) << 8 | j as u64)
        });
        let buffer = data.as_mut_ptr() as u64;
        let offset = round % 8 * BLOCK as u64;
        let (number, args) = match round % 5 {
            0 => (libc::SYS_pwrite64, [fd, buffer, BLOCK as u64, offset]),
            1 => (libc::SYS_fsync, [fd, 0, 0, 0]),
            2 => (libc::SYS_nanosleep, [&raw const nap as u64, 0, 0, 0]),
            3 => (libc::SYS_sched_yield, [0; 4]),
            _ => (libc::SYS_pread64, [fd, buffer, BLOCK as u64, 0]),
        };
        let value = (me * 1000 + round) as f64 + 0.5;
        // SAFETY: the buffer is that long; `run` has asked for AVX.
        let (result, after, top) = unsafe { call_with(number, args, &registers, value) };
        if result < 0 {
            return Err(format!(
                "system call {number} failed: {}",
                std::io::Error::from_raw_os_error(-result as i32)
            ));
        }
        if after != registers || top != value {
            let which = after.iter().zip(&registers).position(|(a, b)| a != b);
            return Err(format!(
                "thread {me}, round {round}, call {number}: ymm{which:?} or st0 ({top}) changed"
            ));
        }
    }
    Ok(())
}

/// The check.
pub fn run() -> Result<String, String> {
    if !is_x86_feature_detected!("avx") {
        return Ok("this processor has no AVX".to_owned());
    }
    let threads: Vec<_> = (0..THREADS).map(|me| std::thread::spawn(move || thread(me))).collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked".to_owned())??;
    }
    Ok(format!("{THREADS} threads, {ROUNDS} calls each"))
}
