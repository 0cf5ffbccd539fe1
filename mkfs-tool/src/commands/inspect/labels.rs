//! Labels and uberblocks, read from the raw image.

use crate::cli::Inspect;
use anyhow::{Context, Result};
use platform::block::{BlockDevice, Op, run};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use zfs::ondisk::label::{
    LABELS, NVLIST_OFFSET, NVLIST_SIZE, RING_OFFSET, label_offset, slot_count, slot_size,
};
use zfs::ondisk::nvlist::NvList;
use zfs::ondisk::pretty::ShowUberblock;
use zfs::ondisk::uberblock::Uberblock;

/// What one label holds.
struct Label {
    list: Result<NvList, String>,
    /// Uberblocks by slot.
    ring: BTreeMap<usize, Uberblock>,
}

/// Shows the labels, uberblocks or (as an overview) the best of both.
pub(super) fn show(
    path: &Path,
    device: &dyn BlockDevice,
    options: &Inspect,
    overview: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let labels = (0..LABELS).map(|n| read(device, n)).collect::<Result<Vec<_>>>();
    let labels = labels.with_context(|| path.display().to_string())?;
    writeln!(out, "{}:", path.display())?;
    if options.labels || overview {
        configurations(&labels, out)?;
    }
    if options.uberblocks {
        uberblocks(&labels, out)?;
    }
    if overview {
        let best = labels.iter().flat_map(|l| l.ring.values()).max_by_key(|u| u.rank());
        match best {
            Some(best) => write!(out, "\nUberblock:\n{}", ShowUberblock(best))?,
            None => writeln!(out, "\nno valid uberblock")?,
        }
    }
    Ok(())
}

fn read(device: &dyn BlockDevice, n: usize) -> Result<Label> {
    let start = label_offset(device.info().size, n);
    let bytes = |offset: u64, len: usize| run(device, Op::Read { offset: start + offset, buf: vec![0; len] });
    let raw = bytes(NVLIST_OFFSET, NVLIST_SIZE)?;
    let list = NvList::unpack(&raw).map_err(|e| e.to_string());
    let ashift = list.as_ref().ok().and_then(|l| l.get_nvlist("vdev_tree")).and_then(|v| v.get_u64("ashift"));
    let ashift = ashift.and_then(|a| u8::try_from(a).ok()).unwrap_or(9);
    let slot = slot_size(ashift);
    let mut ring = BTreeMap::new();
    let raw = bytes(RING_OFFSET, slot * slot_count(ashift))?;
    for (n, chunk) in raw.chunks(slot).enumerate() {
        if let Ok(uberblock) = Uberblock::parse(chunk)
            && uberblock.txg > 0
        {
            ring.insert(n, uberblock);
        }
    }
    Ok(Label { list, ring })
}

/// Equal labels are shown once, as `zdb -l` does.
fn configurations(labels: &[Label], out: &mut dyn Write) -> Result<()> {
    for (n, label) in labels.iter().enumerate() {
        let Ok(list) = &label.list else {
            let why = label.list.as_ref().err().cloned().unwrap_or_default();
            writeln!(out, "failed to unpack label {n}: {why}")?;
            continue;
        };
        let equal = |other: &Label| other.list.as_ref().is_ok_and(|l| l == list);
        if labels[..n].iter().any(equal) {
            continue;
        }
        let line = "-".repeat(36);
        writeln!(out, "{line}\nLABEL {n}\n{line}")?;
        write!(out, "{}", super::listing(list, 4))?;
        let same: Vec<String> =
            (n..labels.len()).filter(|&i| equal(&labels[i])).map(|i| i.to_string()).collect();
        writeln!(out, "    labels = {} ", same.join(" "))?;
    }
    Ok(())
}

fn uberblocks(labels: &[Label], out: &mut dyn Write) -> Result<()> {
    let slots: std::collections::BTreeSet<usize> =
        labels.iter().flat_map(|l| l.ring.keys().copied()).collect();
    for slot in slots {
        let mut shown: Vec<&Uberblock> = Vec::new();
        for label in labels {
            let Some(uberblock) = label.ring.get(&slot) else { continue };
            if shown.contains(&uberblock) {
                continue;
            }
            shown.push(uberblock);
            write!(out, "    Uberblock[{slot}]\n{}", ShowUberblock(uberblock))?;
            let same = labels.iter().enumerate().filter(|(_, l)| l.ring.get(&slot) == Some(uberblock));
            let same: Vec<String> = same.map(|(n, _)| n.to_string()).collect();
            writeln!(out, "        labels = {} ", same.join(" "))?;
        }
    }
    Ok(())
}
