//! The kernel inside the tool.

use anyhow::{Context, Result, ensure};
use std::borrow::Cow;
use std::path::Path;

static EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/embedded-kernel"));

/// The ELF file of the kernel to boot: `path` if given, else the one inside this program.
pub fn image(path: Option<&Path>) -> Result<Cow<'static, [u8]>> {
    let bytes = match path {
        Some(path) => Cow::Owned(std::fs::read(path).with_context(|| path.display().to_string())?),
        None => {
            ensure!(!EMBEDDED.is_empty(), "this tarn was built without a kernel: name one with --kernel");
            Cow::Borrowed(EMBEDDED)
        }
    };
    let name = path.map_or_else(|| "the embedded kernel".into(), |p| p.display().to_string());
    ensure!(bytes.starts_with(b"\x7fELF"), "{name} is not an ELF file");
    Ok(bytes)
}

/// Size of the embedded kernel in bytes; 0 if there is none.
#[must_use]
pub fn embedded_len() -> usize {
    EMBEDDED.len()
}
