//! Segments, the task state segment with its IST stacks, and the interrupt descriptor table.

use super::trap::{FIRST_IRQ, stub};
use core::cell::UnsafeCell;
use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment, SegmentSelector};
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::idt::{Entry, InterruptDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// Selector of the (only) code segment.
pub const CODE: u16 = 0x08;
/// Selector of the (only) data segment.
pub const DATA: u16 = 0x10;

/// IST slots, from 0: ordinary traps; double fault; NMI; machine check. The latter three may come at any instruction.
const IST_TRAP: u16 = 0;
const IST_DOUBLE_FAULT: u16 = 1;
const IST_NMI: u16 = 2;
const IST_MACHINE_CHECK: u16 = 3;

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

/// A processor's global descriptor table: null, flat 64-bit code and data, and the TSS, which takes two entries.
pub type Gdt = GlobalDescriptorTable<5>;
/// A processor's task state segment: only its IST pointers matter.
pub type Tss = TaskStateSegment;

struct SharedIdt(UnsafeCell<InterruptDescriptorTable>);
// SAFETY: written by the boot processor alone, before the others run; the processors only read it.
unsafe impl Sync for SharedIdt {}
static IDT: SharedIdt = SharedIdt(UnsafeCell::new(InterruptDescriptorTable::new()));

fn set<F>(entry: &mut Entry<F>, vector: u8, stack: u16) {
    // SAFETY: the stub obeys the protocol of its vector, the selector is that of the code segment, and all processors have
    // all the IST stacks. The gate keeps interrupts out.
    unsafe {
        let options = entry.set_handler_addr(VirtAddr::new(stub(vector)));
        options.set_code_selector(SegmentSelector(CODE)).set_stack_index(stack);
    }
}

/// Fills the table that all processors share.
pub fn fill_idt() {
    // SAFETY: only the boot processor runs, with interrupts off, and has not loaded the table yet.
    let idt = unsafe { &mut *IDT.0.get() };
    set(&mut idt.divide_error, 0, IST_TRAP);
    set(&mut idt.debug, 1, IST_TRAP);
    set(&mut idt.non_maskable_interrupt, 2, IST_NMI);
    set(&mut idt.breakpoint, 3, IST_TRAP);
    set(&mut idt.overflow, 4, IST_TRAP);
    set(&mut idt.bound_range_exceeded, 5, IST_TRAP);
    set(&mut idt.invalid_opcode, 6, IST_TRAP);
    set(&mut idt.device_not_available, 7, IST_TRAP);
    set(&mut idt.double_fault, 8, IST_DOUBLE_FAULT);
    set(&mut idt.invalid_tss, 10, IST_TRAP);
    set(&mut idt.segment_not_present, 11, IST_TRAP);
    set(&mut idt.stack_segment_fault, 12, IST_TRAP);
    set(&mut idt.general_protection_fault, 13, IST_TRAP);
    set(&mut idt.page_fault, 14, IST_TRAP);
    set(&mut idt.x87_floating_point, 16, IST_TRAP);
    set(&mut idt.alignment_check, 17, IST_TRAP);
    set(&mut idt.machine_check, 18, IST_MACHINE_CHECK);
    set(&mut idt.simd_floating_point, 19, IST_TRAP);
    set(&mut idt.virtualization, 20, IST_TRAP);
    set(&mut idt.cp_protection_exception, 21, IST_TRAP);
    for vector in FIRST_IRQ..=255 {
        set(&mut idt[vector], vector, IST_TRAP);
    }
}

/// Loads the tables of the calling processor.
///
/// # Safety
/// They are this processor's own and live for ever; interrupts are off; the IDT is filled.
pub unsafe fn load(gdt: &mut Gdt, tss: &mut Tss, stacks: &IstStacks) {
    // The structure is packed: its table is replaced as a whole.
    let mut tops = [VirtAddr::zero(); 7];
    for (top, stack) in tops.iter_mut().zip(&stacks.0) {
        *top = VirtAddr::from_ptr(stack.as_ptr()) + IST_STACK_SIZE as u64;
    }
    tss.interrupt_stack_table = tops;
    *gdt = Gdt::empty();
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    debug_assert_eq!(
        (code, data),
        (SegmentSelector(CODE), SegmentSelector(DATA)),
        "the selectors are constants"
    );
    // SAFETY: the tables are valid and stay. SS is reloaded, too: UEFI leaves a selector there that the next iretq would
    // trip over.
    unsafe {
        let tss = gdt.append(Descriptor::tss_segment_unchecked(tss));
        gdt.load_unsafe();
        (*IDT.0.get()).load_unsafe();
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(tss);
    }
}
