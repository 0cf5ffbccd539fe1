//! Device registers in memory.

use crate::mm::phys;

/// A mapped range of device registers.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    base: u64,
    len: u64,
}

impl Registers {
    /// Maps `len` bytes of registers at `physical`.
    pub fn map(physical: u64, len: u64) -> Registers {
        Registers { base: phys::map_device(physical, len), len }
    }

    /// How many bytes there are.
    pub fn len(self) -> u64 {
        self.len
    }

    fn at<T>(self, offset: u64) -> *mut T {
        assert!(offset + size_of::<T>() as u64 <= self.len, "register {offset:#x} outside of its device");
        (self.base + offset) as *mut T
    }

    /// Reads a register of the width of `T`.
    #[inline]
    pub fn read<T: Copy>(self, offset: u64) -> T {
        // SAFETY: mapped device memory, checked against its length.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Writes a register of the width of `T`.
    #[inline]
    pub fn write<T: Copy>(self, offset: u64, value: T) {
        // SAFETY: as above; what a register does is its driver's affair.
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }
}
