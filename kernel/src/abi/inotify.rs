//! `inotify`: the calls. What they do is in [`vfs::inotify`].

use super::events::stream_of;
use super::fd::open_stream;
use super::{Call, SysResult, user};
use crate::process;
use alloc::sync::Arc;
use vfs::Errno;
use vfs::inotify::{Events, Inotify};
use vfs::types::OpenFlags;

fn make(call: &Call<'_>, flags: u64) -> SysResult {
    let flags = OpenFlags::from_bits_retain(flags as u32);
    if !(OpenFlags::CLOEXEC | OpenFlags::NONBLOCK).contains(flags) {
        return Err(Errno::EINVAL);
    }
    open_stream(call, Inotify::new(), "inotify", flags).map(|fd| fd as u64)
}

pub(super) fn inotify_init(call: &mut Call<'_>) -> SysResult {
    make(call, 0)
}

pub(super) fn inotify_init1(call: &mut Call<'_>) -> SysResult {
    make(call, call.arg(0))
}

pub(super) fn inotify_add_watch(call: &mut Call<'_>) -> SysResult {
    let mask = Events::from_bits_retain(call.arg(2) as u32);
    if mask.contains(Events::MASK_ADD | Events::MASK_CREATE) {
        return Err(Errno::EINVAL);
    }
    let inotify: Arc<Inotify> = stream_of(call, call.int(0))?;
    let path = user::read_path(call.arg(1))?;
    let cwd = Arc::clone(&call.process().cwd.lock());
    let follow = !mask.contains(Events::DONT_FOLLOW);
    let place = process::vfs().tree.resolve(&cwd, &path, follow)?;
    inotify.add(&place.inode, mask).map(|number| number as u64)
}

pub(super) fn inotify_rm_watch(call: &mut Call<'_>) -> SysResult {
    let inotify: Arc<Inotify> = stream_of(call, call.int(0))?;
    inotify.remove(call.int(1)).map(|()| 0)
}
