//! The x86 I/O ports and the model-specific registers, as the `x86_64` crate has them, where touching one is harmless.

use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

macro_rules! port {
    ($read:ident, $write:ident, $width:ty) => {
        /// Reads from an I/O port.
        #[inline]
        pub fn $read(port: u16) -> $width {
            // SAFETY: reading a port touches no memory; the callers know their devices.
            unsafe { Port::<$width>::new(port).read() }
        }

        /// Writes to an I/O port.
        #[inline]
        pub fn $write(port: u16, value: $width) {
            // SAFETY: the ports used here (serial, PIC, PIT, CMOS, PCI) do no DMA into memory that Rust owns.
            unsafe { Port::<$width>::new(port).write(value) }
        }
    };
}

port!(inb, outb, u8);
port!(inw, outw, u16);
port!(inl, outl, u32);

/// Reads a model-specific register that exists on every 64-bit processor or that the caller has found by cpuid.
#[inline]
pub fn rdmsr(msr: u32) -> u64 {
    // SAFETY: reading an existing register has no side effect.
    unsafe { Msr::new(msr).read() }
}

/// Writes a model-specific register.
///
/// # Safety
/// The caller knows what the register does: many change how the processor addresses memory.
#[inline]
pub unsafe fn wrmsr(msr: u32, value: u64) {
    // SAFETY: promised by the caller.
    unsafe { Msr::new(msr).write(value) }
}
