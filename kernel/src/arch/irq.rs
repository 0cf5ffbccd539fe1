//! Interrupt vectors and who handles them.
//!
//! Handlers run with interrupts off and only wake threads ("interrupts only wake").

use super::{apic, cpu, ioapic, trap::FIRST_IRQ};
use crate::sync::IrqLock;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

/// A handler: its argument was given at registration.
type Handler = Box<dyn Fn() + Send + Sync>;

static HANDLERS: [AtomicPtr<Handler>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];
static NEXT: IrqLock<u8> = IrqLock::new(FIRST_IRQ + 16);
/// Above are the vectors of the local APIC and between processors.
const LAST: u8 = 0xdf;

/// Takes a free vector for `handler`; `None` if all are taken. Vectors are never given back.
pub fn allocate(handler: impl Fn() + Send + Sync + 'static) -> Option<u8> {
    let vector = {
        let mut next = NEXT.lock();
        if *next > LAST {
            return None;
        }
        *next += 1;
        *next - 1
    };
    let handler: Box<Handler> = Box::new(Box::new(handler));
    HANDLERS[usize::from(vector)].store(Box::into_raw(handler), Ordering::Release);
    Some(vector)
}

/// Who listens to a global system interrupt: devices on a PCI bus share lines.
struct Line {
    gsi: u32,
    handlers: Arc<IrqLock<Vec<Handler>>>,
}

static LINES: IrqLock<Vec<Line>> = IrqLock::new(Vec::new());

/// Routes a global system interrupt (an IOAPIC pin) to `handler` on the boot processor. A handler is called for the
/// interrupts of other devices on the line, too.
pub fn connect_gsi(gsi: u32, trigger: ioapic::Trigger, handler: impl Fn() + Send + Sync + 'static) -> bool {
    let mut lines = LINES.lock();
    if let Some(line) = lines.iter().find(|line| line.gsi == gsi) {
        line.handlers.lock().push(Box::new(handler));
        return true;
    }
    let handlers: Arc<IrqLock<Vec<Handler>>> = Arc::new(IrqLock::new(alloc::vec![Box::new(handler)]));
    lines.push(Line { gsi, handlers: Arc::clone(&handlers) });
    let Some(vector) = allocate(move || handlers.lock().iter().for_each(|handler| handler())) else {
        return false;
    };
    ioapic::route(gsi, vector, cpu::get(0).map_or(0, |c| c.apic_id), trigger)
}

/// Address and data of a message-signalled interrupt that raises `vector` on processor `cpu`.
pub fn message(vector: u8, cpu: &cpu::PerCpu) -> (u64, u32) {
    (0xfee0_0000 | u64::from(cpu.apic_id & 0xff) << 12, u32::from(vector))
}

/// Called by the trap code with the vector that was raised.
pub fn dispatch(vector: u8) {
    cpu::this().interrupts.fetch_add(1, Ordering::Relaxed);
    match vector {
        apic::TIMER_VECTOR => crate::sched::timer_interrupt(),
        apic::RESCHEDULE_VECTOR => {}
        apic::FLUSH_VECTOR => super::tlb::answer(),
        apic::STOP_VECTOR => super::halt(),
        _ => {
            let handler = HANDLERS[usize::from(vector)].load(Ordering::Acquire);
            // SAFETY: stored once by `allocate` and never freed.
            if let Some(handler) = unsafe { handler.as_ref() } {
                handler();
            }
        }
    }
}
