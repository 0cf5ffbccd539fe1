//! The power button: how the world outside asks the machine to end.
//!
//! An interrupt tells of it, as the ACPI tables say. The device is quiet again when its handler returns; everything else is
//! done by a thread. Only the first press counts: whoever presses cannot know when the kernel began to listen, and presses
//! until something happens.

use super::acpi::{self, PowerButton};
use crate::arch::ioapic::Trigger;
use crate::arch::irq;
use crate::arch::port::{inw, outb, outw};
use crate::mm::phys;
use crate::{log, sched};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, Ordering};

/// `PWRBTN_STS` and `PWRBTN_EN` of the fixed registers.
const BUTTON: u16 = 1 << 8;
/// `SCI_EN` of the control register.
const EVENTS_ARE_OURS: u16 = 1;
/// The button among QEMU's generic events (`ACPI_GED_PWR_DOWN_EVT`).
const GENERIC_BUTTON: u32 = 2;
/// How often the firmware is asked whether it has handed events over, at intervals of so many nanoseconds.
const HANDOVER_TRIES: u32 = 100;
const HANDOVER_NS: u64 = 100_000;

static PRESSED: AtomicBool = AtomicBool::new(false);

/// Listens to the button from now on, and calls `pressed`, in a thread, when it is pressed first. Once, with threads and
/// interrupts up and before there are address spaces.
pub fn start(pressed: fn()) {
    let Some(button) = acpi::tables().power_button else {
        log!(Info, "the machine has no power button");
        return;
    };
    let thread = sched::spawn(
        "power",
        Box::new(move || {
            while !PRESSED.load(Ordering::SeqCst) {
                sched::park();
            }
            pressed();
        }),
    );
    let note = move || {
        PRESSED.store(true, Ordering::SeqCst);
        thread.unpark();
    };
    let connected = match button {
        PowerButton::Fixed { irq, status, enable, control, handover } => {
            let overrides = &acpi::tables().overrides;
            let gsi = overrides.iter().find(|(line, _)| *line == irq).map_or(u32::from(irq), |(_, gsi)| *gsi);
            let connected = irq::connect_gsi(gsi, Trigger::LevelHigh, move || {
                if inw(status) & BUTTON != 0 {
                    // Writing a one clears it.
                    outw(status, BUTTON);
                    note();
                }
            });
            let connected = connected && take_events(control, handover);
            if connected {
                outw(status, BUTTON);
                outw(enable, BUTTON);
            }
            connected
        }
        PowerButton::Generic { gsi, select } => {
            let register = phys::map_device(select, 4);
            irq::connect_gsi(gsi, Trigger::Edge, move || {
                // SAFETY: mapped above; the device's only register. Reading it forgets the events.
                let events = unsafe { (register as *const u32).read_volatile() };
                if events & GENERIC_BUTTON != 0 {
                    note();
                }
            })
        }
    };
    if !connected {
        log!(Error, "the power button cannot be listened to");
    }
}

/// Has the firmware leave the events to us.
fn take_events(control: u16, (port, command): (u16, u8)) -> bool {
    let ours = || inw(control) & EVENTS_ARE_OURS != 0;
    if ours() || port == 0 {
        return true;
    }
    outb(port, command);
    (0..HANDOVER_TRIES).any(|_| {
        if !ours() {
            sched::sleep(HANDOVER_NS);
        }
        ours()
    })
}
