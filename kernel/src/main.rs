//! `tarn.elf`: the kernel. Boots by PVH or the Linux 64-bit protocol, brings the machine up, and hands over to the
//! layers that run the application.
//!
//! # Order of the boot
//! descriptor tables → loader's tables → serial line → frames and page tables → ACPI → APIC, clocks → scheduler
//! (the boot context becomes processor 0's idle thread) → thread `init`: further processors, devices, application.
#![no_std]
#![no_main]

extern crate alloc;

mod abi;
mod arch;
mod boot;
mod cmdline;
mod console;
mod drivers;
mod exec;
mod mm;
mod network;
mod panic;
mod power;
mod process;
mod sched;
mod selftest;
mod selftest_app;
mod symbols;
mod sync;
mod time;

use alloc::boxed::Box;
use alloc::sync::Arc;

/// What the layers above get as the machine's clock and randomness.
pub fn env() -> platform::Env {
    platform::Env { clock: Arc::new(time::KernelClock), random: Arc::new(arch::random::KernelRandom) }
}

/// The first Rust code, on the boot stack and the boot page tables. `protocol` and `info` as `boot.s` says.
#[unsafe(no_mangle)]
extern "C" fn rust_entry(protocol: u32, info: u64) -> ! {
    arch::cpu::init_boot_cpu();
    boot::init(protocol, info);
    console::init();
    let boot = boot::info();
    console::set_level(boot.cmdline().get("tarn.log").unwrap_or("error"));
    mm::frame::init(boot, symbols::size());
    arch::fpu::init_cpu();
    arch::apic::init();
    for ioapic in &drivers::acpi::tables().ioapics {
        arch::ioapic::add(ioapic.address, ioapic.first_gsi);
    }
    time::init();
    log!(Info, "booted by {}, {} KiB free", boot.protocol, mm::frame::free_count() * 4);
    sched::init();
    init_cpu_layers();
    drop(sched::spawn("init", Box::new(init)));
    sched::idle_loop()
}

/// What the layers above need on every processor.
pub fn init_cpu_layers() {
    abi::init_cpu();
}

/// The first thread.
fn init() {
    let cmdline = boot::info().cmdline();
    let limit = cmdline.size("tarn.cpus").map_or(arch::cpu::MAX_CPUS, |n| n as usize);
    arch::smp::start(&drivers::acpi::tables().processors, limit);
    console::start_input();
    drivers::start();
    network::start();
    log!(Info, "{} processors, up after {} us", arch::cpu::count(), time::monotonic_ns() / 1000);
    if cmdline.get("tarn.selftest").is_some() {
        power::exit(selftest::run());
    }
    abi::init();
    drivers::power_button::start(process::shutdown::begin);
    power::exit(process::boot::run())
}
