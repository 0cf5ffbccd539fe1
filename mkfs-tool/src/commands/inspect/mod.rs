//! `tarn inspect`: the structures on disk, in zdb's wording.

mod labels;
mod objects;

use super::open::OpenPool;
use super::view::dataset;
use super::zpool::verify;
use crate::cli::Inspect;
use crate::image::{Access, Images};
use anyhow::{Context, Result};
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use zfs::arc::ArcStats;
use zfs::ondisk::nvlist::{NvList, Show};

/// Shows what was asked for; without a wish, an overview.
pub(crate) fn run(options: &Inspect) -> Result<ExitCode> {
    let named = std::slice::from_ref(&options.image);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let overview = !options.labels
        && !options.uberblocks
        && !options.config
        && !options.verify
        && options.dataset.is_none();
    // Labels can be looked at when nothing else of the pool is readable.
    if options.labels || options.uberblocks || overview {
        let images = Images::open(named, Access::Read)?;
        for (path, device) in images.paths.iter().zip(&images.devices) {
            labels::show(path, &**device, options, overview, &mut out)?;
        }
    }
    out.flush()?;
    if !(options.config || options.verify || overview || options.dataset.is_some()) {
        return Ok(ExitCode::SUCCESS);
    }
    let opened = OpenPool::read(named)?;
    if options.config || overview {
        writeln!(out, "\nMOS Configuration:")?;
        write!(out, "{}", listing(&opened.pool.config(), 8))?;
    }
    match options.dataset.as_deref() {
        Some("mos") => objects::show(opened.pool.mos(), "mos", &options.objects, options.verbose, &mut out)?,
        Some(name) => {
            let dataset = dataset(&opened.pool, name)?;
            let objset = dataset.objset().with_context(|| name.to_owned())?;
            objects::show(&objset, &dataset.name(), &options.objects, options.verbose, &mut out)?;
        }
        None if overview => {
            writeln!(out)?;
            objects::heading(opened.pool.mos(), "mos", &mut out)?;
            for dataset in opened.pool.dsl().datasets()? {
                let objset = dataset.objset().with_context(|| dataset.name())?;
                objects::heading(&objset, &dataset.name(), &mut out)?;
                for snapshot in dataset.snapshots()? {
                    let objset = snapshot.objset().with_context(|| snapshot.name())?;
                    objects::heading(&objset, &snapshot.name(), &mut out)?;
                }
            }
        }
        None => {}
    }
    out.flush()?;
    drop(out);
    let clean = !options.verify || verify(&opened, false)?.is_clean();
    if options.verbose > 1 {
        println!("{}", cache(&opened.pool.zio().stats()));
    }
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the cache did meanwhile.
fn cache(s: &ArcStats) -> String {
    format!(
        "ARC: {} of {} bytes ({} seen once, {} more often), {} hits, {} misses, {} read ahead of which {} were used, {} evictions",
        s.size, s.max, s.mru_size, s.mfu_size, s.hits, s.misses, s.prefetches, s.prefetch_hits, s.evictions
    )
}

/// A list in zdb's wording, from a column on.
fn listing(list: &NvList, indent: usize) -> String {
    Show { list, indent }.to_string()
}
