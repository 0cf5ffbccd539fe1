//! Clocks: the time-stamp counter, calibrated once, and the wall clock that boots from the hypervisor or the RTC.
//!
//! The frequency comes from the hypervisor where it tells (KVM's pvclock, the VMware/KVM timing leaf), from cpuid, or
//! is measured against the PIT, or against the RTC's second where there is no PIT either.

use crate::arch::port::{inb, outb, wrmsr};
use crate::arch::{apic, cpuid, hypervisor, tsc};
use crate::mm::phys;
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering, fence};
use platform::clock::{Clock, Timespec};

const SECOND: u64 = 1_000_000_000;
const PIT_HZ: u64 = 1_193_182;

/// TSC value that is nanosecond 0: when the kernel was entered.
static BASE: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds per TSC tick, times 2^32.
static MULTIPLIER: AtomicU64 = AtomicU64::new(0);
static FREQUENCY: AtomicU64 = AtomicU64::new(0);
/// Wall time of nanosecond 0, in nanoseconds since 1970.
static WALL: AtomicI64 = AtomicI64::new(0);

/// What programs read the time from by themselves: shared with the vDSO.
pub mod page {
    include!("../vdso/page.rs");
}

const _: () = assert!(core::mem::offset_of!(crate::arch::cpu::PerCpu, index) == page::CPU_INDEX_OFFSET);

static PAGE: AtomicPtr<page::Page> = AtomicPtr::new(core::ptr::null_mut());
static PAGE_WRITER: crate::sync::IrqLock<()> = crate::sync::IrqLock::new(());

/// Keeps the page at `page` up to date from now on.
///
/// # Safety
/// It is mapped for ever, and nobody else writes to it.
pub unsafe fn set_page(page: *mut page::Page) {
    PAGE.store(page, Ordering::Release);
    refresh_page();
}

fn refresh_page() {
    let page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        return;
    }
    let clock = page::TimeScale {
        base: BASE.load(Ordering::Relaxed),
        multiplier: MULTIPLIER.load(Ordering::Relaxed),
        wall: WALL.load(Ordering::Relaxed),
    };
    let _writer = PAGE_WRITER.lock();
    // SAFETY: promised by who called `set_page`; the lock makes us the only writer. Readers see an odd number while
    // the clock changes.
    unsafe {
        let sequence = &raw mut (*page).sequence;
        let number = sequence.read_volatile();
        sequence.write_volatile(number.wrapping_add(1));
        fence(Ordering::SeqCst);
        (&raw mut (*page).clock).write_volatile(clock);
        fence(Ordering::SeqCst);
        sequence.write_volatile(number.wrapping_add(2));
    }
}

unsafe extern "C" {
    static boot_tsc: u64;
}

/// Nanoseconds since the kernel was entered.
#[inline]
pub fn monotonic_ns() -> u64 {
    let ticks = tsc().saturating_sub(BASE.load(Ordering::Relaxed));
    ((u128::from(ticks) * u128::from(MULTIPLIER.load(Ordering::Relaxed))) >> 32) as u64
}

/// Wall-clock time.
pub fn now() -> Timespec {
    let ns = WALL.load(Ordering::Relaxed).saturating_add(monotonic_ns() as i64);
    Timespec { sec: ns.div_euclid(SECOND as i64), nsec: ns.rem_euclid(SECOND as i64) as u32 }
}

/// Sets the wall clock.
pub fn set_now(to: Timespec) {
    let ns = to.sec.saturating_mul(SECOND as i64).saturating_add(i64::from(to.nsec));
    WALL.store(ns.saturating_sub(monotonic_ns() as i64), Ordering::Relaxed);
    refresh_page();
}

/// TSC ticks per second.
pub fn tsc_frequency() -> u64 {
    FREQUENCY.load(Ordering::Relaxed)
}

/// The clocks, for the layers above.
pub struct KernelClock;

impl Clock for KernelClock {
    fn now(&self) -> Timespec {
        now()
    }
    fn monotonic_ns(&self) -> u64 {
        monotonic_ns()
    }
}

/// Finds the frequencies of the TSC and the APIC timer, and the wall time. The APIC is up.
pub fn init() {
    // SAFETY: written once by the entry code; linked at its physical address, reached through the direct map.
    let entered = unsafe { phys::to_virt(&raw const boot_tsc as u64).cast::<u64>().read() };
    BASE.store(entered, Ordering::Relaxed);
    let known = from_hypervisor();
    if let Some(hz) = known.tsc {
        set_frequency(hz);
    }
    if let Some(hz) = known.apic {
        apic::set_timer_frequency(hz);
    }
    if known.tsc.is_none() || known.apic.is_none() {
        calibrate(known.tsc.is_none(), known.apic.is_none());
    }
    let wall = kvm_wall_clock().unwrap_or_else(|| rtc_seconds().saturating_mul(SECOND as i64));
    WALL.store(wall.saturating_sub(monotonic_ns() as i64), Ordering::Relaxed);
}

fn set_frequency(hz: u64) {
    FREQUENCY.store(hz, Ordering::Relaxed);
    MULTIPLIER.store(((u128::from(SECOND) << 32) / u128::from(hz.max(1))) as u64, Ordering::Relaxed);
}

struct Known {
    tsc: Option<u64>,
    apic: Option<u64>,
}

fn from_hypervisor() -> Known {
    let mut known = Known { tsc: None, apic: None };
    if cpuid(1, 0).ecx & 1 << 31 != 0 {
        let highest = cpuid(0x4000_0000, 0).eax;
        if (0x4000_0010..0x4000_1000).contains(&highest) {
            let timing = cpuid(0x4000_0010, 0);
            known.tsc = Some(u64::from(timing.eax) * 1000).filter(|hz| *hz != 0);
            known.apic = Some(u64::from(timing.ebx) * 1000).filter(|hz| *hz != 0);
        }
        if is_kvm() {
            known.tsc = known.tsc.or_else(pvclock_frequency);
            // KVM's APIC timer counts nanoseconds.
            known.apic = known.apic.or(Some(SECOND));
        }
    }
    if known.tsc.is_none() {
        let leaf = cpuid(0x15, 0);
        if leaf.eax != 0 && leaf.ebx != 0 && leaf.ecx != 0 {
            known.tsc = Some(u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax));
        }
    }
    known
}

fn is_kvm() -> bool {
    cpuid(1, 0).ecx & 1 << 31 != 0 && hypervisor() == *b"KVMKVMKVM\0\0\0"
}

/// A page-aligned spot that KVM writes its clock structures to.
#[repr(C, align(64))]
struct Shared([u32; 16]);
static mut SHARED: Shared = Shared([0; 16]);

/// `pvclock_vcpu_time_info`: version, pad, tsc_timestamp (2), system_time (2), tsc_to_system_mul, tsc_shift.
fn pvclock_frequency() -> Option<u64> {
    const MSR_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    if cpuid(0x4000_0001, 0).eax & 1 << 3 == 0 {
        return None;
    }
    let address = &raw mut SHARED as *mut u32;
    // SAFETY: the hypervisor fills the structure once, at the write of the MSR, and stops at the second write.
    let (multiplier, shift) = unsafe {
        wrmsr(MSR_SYSTEM_TIME_NEW, phys::to_phys(address.cast()) | 1);
        let words = (address.add(6).read_volatile(), address.add(7).read_volatile() as u8 as i8);
        wrmsr(MSR_SYSTEM_TIME_NEW, 0);
        words
    };
    if multiplier == 0 {
        return None;
    }
    let hz = (u128::from(SECOND) << 32) / u128::from(multiplier);
    Some(if shift >= 0 { hz >> shift } else { hz << -i32::from(shift) } as u64).filter(|hz| *hz != 0)
}

/// Wall time now, by KVM's boot wall clock (`pvclock_wall_clock`: version, sec, nsec of the VM's time 0) plus the
/// VM's system time, both read at once.
fn kvm_wall_clock() -> Option<i64> {
    const MSR_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
    const MSR_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
    if !is_kvm() || cpuid(0x4000_0001, 0).eax & 1 << 3 == 0 {
        return None;
    }
    let address = &raw mut SHARED as *mut u32;
    // SAFETY: as in `pvclock_frequency`.
    unsafe {
        wrmsr(MSR_WALL_CLOCK_NEW, phys::to_phys(address.cast()));
        let wall = i64::from(address.add(1).read_volatile()) * SECOND as i64
            + i64::from(address.add(2).read_volatile());
        wrmsr(MSR_SYSTEM_TIME_NEW, phys::to_phys(address.cast()) | 1);
        let system =
            u64::from(address.add(4).read_volatile()) | u64::from(address.add(5).read_volatile()) << 32;
        wrmsr(MSR_SYSTEM_TIME_NEW, 0);
        (wall > 0).then_some(wall + system as i64)
    }
}

/// The PIT's channel 0, free running.
fn pit_start() {
    outb(0x43, 0x34);
    outb(0x40, 0);
    outb(0x40, 0);
}

fn pit_count() -> u16 {
    outb(0x43, 0);
    let low = inb(0x40);
    u16::from(low) | u16::from(inb(0x40)) << 8
}

/// Ticks per second of the TSC and of the APIC timer.
type Rates = (u64, u64);

/// Measurements until two agree.
const MEASUREMENTS: usize = 12;

/// Whether two measurements of one rate can both be right.
fn agree(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a / 256
}

/// Measures against the PIT until two measurements agree: a processor that is taken away meanwhile, as by a busy host, misses how often
/// the PIT's 16 bits have come round. Against one second of the RTC where the PIT does not count.
fn calibrate(want_tsc: bool, want_apic: bool) {
    let mut seen = [(u64::MAX, u64::MAX); MEASUREMENTS];
    let mut found = None;
    for n in 0..MEASUREMENTS {
        let Some(rates) = measure() else {
            found = Some(rtc_second_ticks());
            break;
        };
        seen[n] = rates;
        if seen[..n].iter().any(|other| agree(rates.0, other.0) && agree(rates.1, other.1)) {
            found = Some(rates);
            break;
        }
    }
    // Time that the PIT did not count makes the others seem faster.
    let (tsc, apic) = found.or_else(|| seen.into_iter().min()).unwrap_or_default();
    apic::stop_timer();
    if want_tsc {
        set_frequency(tsc);
    }
    if want_apic {
        apic::set_timer_frequency(apic);
    }
}

/// One measurement of about 5 ms; `None` if the PIT does not count.
fn measure() -> Option<Rates> {
    const TICKS: u64 = PIT_HZ / 200;
    pit_start();
    let first = pit_count();
    apic::timer_start();
    let start = tsc();
    let mut last = first;
    let mut elapsed = 0u64;
    let mut stuck = 0;
    while elapsed < TICKS {
        let count = pit_count();
        stuck = if count == last { stuck + 1 } else { 0 };
        if stuck == 100_000 {
            return None;
        }
        elapsed += u64::from(last.wrapping_sub(count));
        last = count;
    }
    let per_second = |ticks: u64| (u128::from(ticks) * u128::from(PIT_HZ) / u128::from(elapsed)) as u64;
    Some((per_second(tsc() - start), per_second(apic::timer_elapsed())))
}

fn rtc_second_ticks() -> Rates {
    let edge = || {
        let second = cmos(0);
        let mut tries = 0u32;
        while cmos(0) == second && tries < 50_000_000 {
            tries += 1;
        }
    };
    edge();
    apic::timer_start();
    let start = tsc();
    edge();
    (tsc() - start, apic::timer_elapsed())
}

fn cmos(register: u8) -> u8 {
    outb(0x70, register | 0x80);
    inb(0x71)
}

/// Seconds since 1970 by the battery-backed clock, which runs in UTC.
fn rtc_seconds() -> i64 {
    let read = || {
        let mut tries = 0;
        while cmos(0x0a) & 0x80 != 0 && tries < 100_000 {
            tries += 1;
        }
        [cmos(0), cmos(2), cmos(4), cmos(7), cmos(8), cmos(9), cmos(0x32)]
    };
    let mut fields = read();
    // Twice the same: no update has come between the registers.
    for _ in 0..10 {
        let again = read();
        if again == fields {
            break;
        }
        fields = again;
    }
    let format = cmos(0x0b);
    let pm = fields[2] & 0x80 != 0;
    fields[2] &= 0x7f;
    let decode = |value: u8| if format & 4 == 0 { (value >> 4) * 10 + (value & 15) } else { value };
    let [second, minute, mut hour, day, month, year, century] = fields.map(decode).map(i64::from);
    if format & 2 == 0 {
        hour = hour % 12 + if pm { 12 } else { 0 };
    }
    let century = if (19..=21).contains(&century) { century } else { 20 };
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return 0;
    }
    days_since_1970(century * 100 + year, month, day) * 86_400 + hour * 3600 + minute * 60 + second
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years are counted from March, so that the leap day is
/// a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let from_march = (month + 9) % 12;
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}
