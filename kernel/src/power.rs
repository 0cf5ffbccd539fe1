//! The ends of the machine.

use crate::arch::{self, apic, port};
use crate::drivers::acpi;
use core::sync::atomic::{AtomicBool, Ordering};

/// QEMU's `isa-debug-exit`, as every runner of Tarn configures it: a write ends QEMU with `value << 1 | 1`.
const DEBUG_EXIT_PORT: u16 = 0xf4;

static EXITING: AtomicBool = AtomicBool::new(false);
static ENDING: AtomicBool = AtomicBool::new(false);

/// Stops all other processors. The first caller goes on, any later one stops here.
pub fn stop_other_cpus() {
    arch::interrupts_off();
    if ENDING.swap(true, Ordering::SeqCst) {
        return;
    }
    apic::send_others(apic::STOP_VECTOR);
}

/// Prints the last line, `tarn: exit status N`, and ends the virtual machine with it.
pub fn exit(status: u8) -> ! {
    if EXITING.swap(true, Ordering::SeqCst) {
        arch::halt();
    }
    if ENDING.load(Ordering::SeqCst) {
        let _ = core::fmt::Write::write_fmt(
            &mut crate::console::Unlocked,
            format_args!("tarn: exit status {status}\n"),
        );
    } else {
        crate::println!("exit status {status}");
        stop_other_cpus();
    }
    port::outb(DEBUG_EXIT_PORT, status);
    acpi::power_off();
    // Neither device: the machine stays, but quiet. A triple fault would make some hypervisors restart it.
    arch::halt()
}
