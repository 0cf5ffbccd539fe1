//! What `/sys` says: the processors, and the size of anonymous pages.

use crate::arch::cpu;
use crate::mm::{large, page_table};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use vfs::Errno;
use vfs::sysfs::SysSource;

/// The kernel's answers for `/sys`.
pub struct Source;

const ENABLED: &str = "kernel/mm/transparent_hugepage/enabled";

/// Choices, that which holds in brackets.
fn choice(choices: impl IntoIterator<Item = (&'static str, bool)>) -> String {
    let shown = |(name, holds)| if holds { format!("[{name}]") } else { String::from(name) };
    choices.into_iter().map(shown).collect::<Vec<_>>().join(" ") + "\n"
}

impl SysSource for Source {
    fn files(&self) -> &'static [(&'static str, bool)] {
        &[
            ("devices/system/cpu/online", false),
            ("devices/system/cpu/possible", false),
            ("devices/system/cpu/present", false),
            ("kernel/mm/transparent_hugepage/defrag", false),
            (ENABLED, true),
            ("kernel/mm/transparent_hugepage/hpage_pmd_size", false),
            ("kernel/mm/transparent_hugepage/shmem_enabled", false),
            ("kernel/mm/transparent_hugepage/use_zero_page", false),
        ]
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let text = match path.rsplit('/').next().unwrap_or_default() {
            "enabled" => choice(large::modes()),
            "hpage_pmd_size" => format!("{}\n", page_table::LARGE),
            // Nothing is moved to make room for a large page.
            "defrag" => choice(
                ["always", "defer", "defer+madvise", "madvise", "never"].map(|name| (name, name == "never")),
            ),
            "shmem_enabled" => choice(
                ["always", "within_size", "advise", "never", "deny", "force"]
                    .map(|name| (name, name == "never")),
            ),
            "use_zero_page" => "0\n".into(),
            _ => match cpu::count() {
                1 => "0\n".into(),
                count => format!("0-{}\n", count - 1),
            },
        };
        text.into_bytes()
    }

    fn write(&self, path: &str, data: &[u8]) -> vfs::Result<()> {
        let name = core::str::from_utf8(data).map_err(|_| Errno::EINVAL)?.trim_end();
        if path == ENABLED && large::set_mode(name) { Ok(()) } else { Err(Errno::EINVAL) }
    }
}
