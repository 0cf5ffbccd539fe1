//! Memory: physical frames, the direct map, the heap.
//!
//! # Layout of the high half (shared by all address spaces)
//! | from | what |
//! |---|---|
//! | `0xffff_8000_0000_0000` | the direct map: physical address + this; RAM write-back, devices uncached |
//! | `0xffff_e000_0000_0000` | kernel stacks, each with an unmapped guard page below |
//! | `0xffff_ffff_8000_0000` | the kernel image: physical address + this |
//!
//! The low half is the application's, and empty for kernel threads.

pub mod address_space;
mod fault;
pub mod file_pages;
pub mod frame;
pub mod heap;
pub mod large;
pub mod page_table;
pub mod phys;
pub mod pressure;
mod report;
pub mod stack;
mod tree;
pub mod usercopy;
pub mod vma;
