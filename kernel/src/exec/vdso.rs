//! The vDSO in programs: an image that the C library calls to read clocks without a system call. Its source is in `vdso/`.

use crate::mm::address_space::{AddressSpace, Content, PAGE};
use crate::mm::file_pages::Pages;
use crate::mm::vma::{Backing, Prot};
use crate::time;
use alloc::sync::Arc;
use spin::Once;
use vfs::Errno;

static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.so"));

/// The time page, and the image behind it: all programs have the same.
static OBJECT: Once<Option<Arc<Pages>>> = Once::new();

fn object() -> Option<Arc<Pages>> {
    OBJECT
        .call_once(|| {
            let (pages, at) = Pages::contiguous(PAGE + IMAGE.len() as u64).ok()?;
            // SAFETY: memory of ours, kept for ever by `OBJECT`; the image goes behind the first page.
            unsafe {
                at.add(PAGE as usize).copy_from_nonoverlapping(IMAGE.as_ptr(), IMAGE.len());
                time::set_page(at.cast());
            }
            Some(pages)
        })
        .clone()
}

/// Maps it into a program; where its ELF header is.
pub fn map(space: &AddressSpace) -> Result<u64, Errno> {
    let pages = object().ok_or(Errno::ENOMEM)?;
    let len = (IMAGE.len() as u64).next_multiple_of(PAGE);
    let at = space.map(0, PAGE + len, false, Content::new(Prot(0), Backing::Anonymous))?;
    let data = Backing::Shared(Arc::clone(&pages), 0, None);
    space.map(at, PAGE, true, Content::new(Prot(Prot::READ), data).named("[vvar]"))?;
    let code = Backing::Shared(pages, PAGE, None);
    let rights = Prot(Prot::READ | Prot::EXEC);
    space.map(at + PAGE, len, true, Content::new(rights, code).named("[vdso]"))?;
    Ok(at + PAGE)
}
