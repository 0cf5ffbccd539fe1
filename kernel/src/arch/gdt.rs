//! Segments, the task state segment with its IST stacks, and the interrupt descriptor table.

use core::arch::asm;

/// Selector of the (only) code segment.
pub const CODE: u16 = 0x08;
/// Selector of the (only) data segment.
pub const DATA: u16 = 0x10;
const TSS: u16 = 0x18;

/// IST slots: ordinary traps; double fault; NMI; machine check. The latter three may come at any instruction.
const IST_TRAP: u8 = 1;
const IST_DOUBLE_FAULT: u8 = 2;
const IST_NMI: u8 = 3;
const IST_MACHINE_CHECK: u8 = 4;

const IST_STACK_SIZE: usize = 4096;

/// The IST stacks of one processor. A trap leaves its IST stack after a dozen instructions; only what is reported as
/// fatal runs a few calls on one.
#[repr(C, align(16))]
pub struct IstStacks([[u8; IST_STACK_SIZE]; 4]);

impl IstStacks {
    /// Empty stacks.
    pub const fn new() -> Self {
        IstStacks([[0; IST_STACK_SIZE]; 4])
    }
}

/// A processor's global descriptor table.
#[repr(C, align(16))]
pub struct Gdt([u64; 5]);

impl Gdt {
    /// Flat 64-bit code and data; room for the TSS.
    pub const fn new() -> Self {
        Gdt([0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0])
    }
}

/// A processor's task state segment: only its IST pointers matter.
#[repr(C, packed(4))]
pub struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    iomap: u16,
}

impl Tss {
    /// An empty TSS without an I/O bitmap.
    pub const fn new() -> Self {
        Tss {
            reserved0: 0,
            rsp: [0; 3],
            reserved1: 0,
            ist: [0; 7],
            reserved2: 0,
            reserved3: 0,
            iomap: size_of::<Tss>() as u16,
        }
    }
}

static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];

fn ist_of(vector: u8) -> u8 {
    match vector {
        2 => IST_NMI,
        8 => IST_DOUBLE_FAULT,
        18 => IST_MACHINE_CHECK,
        _ => IST_TRAP,
    }
}

/// Fills the table that all processors share.
pub fn fill_idt() {
    for vector in 0..=255u8 {
        let handler = super::trap::stub(vector);
        let low = handler & 0xffff
            | u64::from(CODE) << 16
            | u64::from(ist_of(vector)) << 32
            | 0x8e00 << 32
            | (handler >> 16 & 0xffff) << 48;
        // SAFETY: only the boot processor runs, with interrupts off.
        unsafe { IDT[usize::from(vector)] = [low, handler >> 32] };
    }
}

#[repr(C, packed)]
struct Pointer {
    limit: u16,
    base: u64,
}

/// Loads the tables of the calling processor.
///
/// # Safety
/// They are this processor's own and live for ever; interrupts are off; the IDT is filled.
pub unsafe fn load(gdt: &mut Gdt, tss: &mut Tss, stacks: &IstStacks) {
    let mut ist = [0; 7];
    for (slot, stack) in ist.iter_mut().zip(&stacks.0) {
        *slot = stack.as_ptr() as u64 + IST_STACK_SIZE as u64;
    }
    tss.ist = ist;
    let base = tss as *const Tss as u64;
    gdt.0[3] =
        (size_of::<Tss>() as u64 - 1) | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    gdt.0[4] = base >> 32;
    let gdtr = Pointer { limit: size_of::<Gdt>() as u16 - 1, base: gdt as *const Gdt as u64 };
    let idtr = Pointer { limit: 4095, base: &raw const IDT as u64 };
    // SAFETY: the tables are valid; reloading CS by a far return keeps executing the next line. SS is reloaded, too:
    // UEFI leaves a selector there that the next iretq would trip over.
    unsafe {
        asm!(
            "lgdt [{gdtr}]",
            "lidt [{idtr}]",
            "mov ss, {data:x}",
            "mov ds, {data:x}",
            "mov es, {data:x}",
            "ltr {tss:x}",
            "push {code}",
            "lea {tmp}, [rip + 2f]",
            "push {tmp}",
            "retfq",
            "2:",
            gdtr = in(reg) &gdtr,
            idtr = in(reg) &idtr,
            data = in(reg) u64::from(DATA),
            tss = in(reg) u64::from(TSS),
            code = in(reg) u64::from(CODE),
            tmp = out(reg) _,
        );
    }
}
