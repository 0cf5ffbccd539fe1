//! `tarn cat`.

use super::view::{self, Opened};
use crate::cli::files::Cat;
use crate::location::Location;
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::process::ExitCode;
use zfs::zpl::FileKind;
use zfs::zvol::Zvol;

/// Prints each file.
pub(crate) fn run(options: &Cat) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for place in &options.places {
        let location = Location::parse(place)?;
        match view::open(&location)? {
            Opened::Files(view) => {
                let found = view.resolve(location.path_or_root(), true);
                let found = found.with_context(|| location.image.display().to_string())?;
                match found.attr.kind() {
                    FileKind::Regular => {}
                    kind => bail!("{location}: is a {}", view::kind_name(kind)),
                }
                let mut buf = vec![0; 1 << 20];
                let mut at = 0;
                while at < found.attr.size {
                    let len = view
                        .fs
                        .read(found.attr.object, at, &mut buf)
                        .with_context(|| location.to_string())?;
                    if len == 0 {
                        break;
                    }
                    out.write_all(&buf[..len])?;
                    at += len as u64;
                }
            }
            Opened::Volume(_pool, dataset) => {
                let volume = Zvol::open(dataset.objset()?).with_context(|| location.to_string())?;
                let mut buf = vec![0; 1 << 20];
                let mut at = 0;
                while at < volume.size() {
                    let len = volume.read(at, &mut buf).with_context(|| location.to_string())?;
                    if len == 0 {
                        break;
                    }
                    out.write_all(&buf[..len])?;
                    at += len as u64;
                }
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
