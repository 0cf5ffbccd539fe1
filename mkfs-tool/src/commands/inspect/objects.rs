//! Objsets, objects, their block pointers and the entries of ZAPs.

use crate::output::show_name;
use crate::quantity::human;
use anyhow::{Context, Result};
use std::io::Write;
use std::sync::Arc;
use zfs::dmu::{Dnode, DnodeInfo, Objset, Traverse, Visit, traverse};
use zfs::ondisk::blkptr::Blkptr;
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::dnode::{DnodePhys, FLAG_SPILL_BLKPTR, FLAG_USED_BYTES, FLAG_USERUSED_ACCOUNTED};
use zfs::ondisk::object_type::ObjectType;
use zfs::ondisk::objset::ObjsetKind;
use zfs::ondisk::pretty::ShowBlkptr;
use zfs::zap;

/// Entries of a ZAP that are shown without -vv.
const ENTRIES: usize = 1000;

/// One line about an objset.
pub(super) fn heading(objset: &Arc<Objset>, name: &str, out: &mut dyn Write) -> Result<()> {
    let kind = match objset.kind() {
        ObjsetKind::Meta => "META",
        ObjsetKind::Zfs => "ZPL",
        ObjsetKind::Zvol => "ZVOL",
    };
    let (root, objects) = (objset.root(), objset.object_count());
    writeln!(out, "Dataset {name} [{kind}], ID {}, {objects} objects, rootbp {}", objset.id(), shown(&root))?;
    Ok(())
}

/// The objset and its objects, or only those asked for.
pub(super) fn show(
    objset: &Arc<Objset>,
    name: &str,
    objects: &[u64],
    verbose: u8,
    out: &mut dyn Write,
) -> Result<()> {
    heading(objset, name, out)?;
    writeln!(out, "\n    Object  lvl   iblk   dblk  dsize  dnsize  lsize   type")?;
    if objects.is_empty() {
        line(&objset.meta_dnode().info(), out)?;
        let mut after = 0;
        while let Some(object) = objset.next_object(after, false)? {
            one(objset, object, verbose, out).with_context(|| format!("{name}: object {object}"))?;
            if object <= after {
                break;
            }
            after = object;
        }
        return Ok(());
    }
    for &object in objects {
        one(objset, object, verbose.max(1), out).with_context(|| format!("{name}: object {object}"))?;
    }
    Ok(())
}

fn one(objset: &Arc<Objset>, object: u64, verbose: u8, out: &mut dyn Write) -> Result<()> {
    let dnode = objset.hold(object)?;
    let info = dnode.info();
    line(&info, out)?;
    if verbose == 0 {
        return Ok(());
    }
    if info.bonus_type != ObjectType::NONE {
        writeln!(out, "{:>50}   bonus  {}", human(info.bonus_len as u64), info.bonus_type.name())?;
    }
    writeln!(out, "\tdnode flags: {}", flags(&info))?;
    writeln!(out, "\tdnode maxblkid: {}", info.maxblkid)?;
    if info.object_type.is_zap() {
        entries(&dnode, verbose, out)?;
    }
    blocks(objset, object, out)
}

fn line(info: &DnodeInfo, out: &mut dyn Write) -> Result<()> {
    let length = info.maxblkid.saturating_add(1).saturating_mul(u64::from(info.block_size));
    let number =
        |bytes: u64| if bytes == 0 { "0".to_owned() } else { human(bytes).trim_end_matches('B').to_owned() };
    writeln!(
        out,
        "{:>10}  {:>3}  {:>5}  {:>5}  {:>5}  {:>6}  {:>5}   {}",
        info.object,
        info.levels,
        number(u64::from(info.indirect_size)),
        number(u64::from(info.block_size)),
        number(info.used),
        u64::from(info.slots) * 512,
        number(length),
        info.object_type.name()
    )?;
    Ok(())
}

fn flags(info: &DnodeInfo) -> String {
    let known = [
        (FLAG_USED_BYTES, "USED_BYTES "),
        (FLAG_USERUSED_ACCOUNTED, "USERUSED_ACCOUNTED "),
        (FLAG_SPILL_BLKPTR, "SPILL_BLKPTR"),
    ];
    let spill = if info.has_spill { FLAG_SPILL_BLKPTR } else { 0 };
    known.iter().filter(|(bit, _)| (info.flags | spill) & bit != 0).map(|(_, word)| *word).collect()
}

fn entries(dnode: &Arc<Dnode>, verbose: u8, out: &mut dyn Write) -> Result<()> {
    let stats = zap::stats(dnode)?;
    let kind = if stats.micro { "microzap" } else { "Fat ZAP" };
    writeln!(out, "\t{kind}: {} entries\n", stats.entries)?;
    for (n, entry) in zap::iterate(dnode, zap::COOKIE_START).enumerate() {
        if n >= ENTRIES && verbose < 2 {
            writeln!(out, "\t\t… (all with -vv)")?;
            break;
        }
        let entry = entry?;
        let name = if stats.flags & zap::FLAG_UINT64_KEY != 0 {
            entry.key_words().iter().map(|w| format!("{w:x}")).collect::<Vec<_>>().join(":")
        } else {
            show_name(&entry.name)
        };
        let value = match entry.value.int_size {
            1 => show_name(entry.value.to_bytes().strip_suffix(b"\0").unwrap_or(&entry.value.to_bytes())),
            _ => entry.value.ints.iter().map(u64::to_string).collect::<Vec<_>>().join(" "),
        };
        writeln!(out, "\t\t{name} = {value}")?;
    }
    Ok(())
}

/// Prints the block pointers of one object.
struct Printer<'a> {
    object: u64,
    block_size: u64,
    out: &'a mut dyn Write,
    failed: Option<std::io::Error>,
}

impl Traverse for Printer<'_> {
    fn dnode(&mut self, object: u64, dnode: &DnodePhys) -> zfs::Result<Visit> {
        if object == self.object {
            self.block_size = u64::from(dnode.datablkszsec) * 512;
        }
        // Its blocks come after it, and all others are none of ours.
        Ok(if object == 0 || object == self.object { Visit::Continue } else { Visit::Skip })
    }

    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> zfs::Result<Visit> {
        if at.object != self.object {
            return Ok(Visit::Continue);
        }
        // An indirect block has 1024 pointers at most.
        let span = 1_u64.checked_shl(10 * u32::try_from(at.level.clamp(0, 6)).unwrap_or(0)).unwrap_or(0);
        let offset = at.blkid.saturating_mul(span).saturating_mul(self.block_size);
        let level = usize::try_from(at.level).unwrap_or(0);
        let place = if at.blkid == u64::MAX { "spill".to_owned() } else { format!("{offset:x}") };
        let printed = writeln!(
            self.out,
            "{place:>16} {:indent$}L{} {}",
            "",
            at.level,
            shown(bp),
            indent = 8 - level.min(8)
        );
        if let Err(e) = printed {
            self.failed = Some(e);
            return Ok(Visit::Stop);
        }
        Ok(Visit::Continue)
    }
}

fn blocks(objset: &Arc<Objset>, object: u64, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "Indirect blocks:")?;
    let mut printer = Printer { object, block_size: 512, out, failed: None };
    traverse(objset.zio(), objset.id(), &objset.root(), 0, &mut printer)?;
    if let Some(e) = printer.failed {
        return Err(e.into());
    }
    writeln!(printer.out)?;
    Ok(())
}

/// A block pointer in zdb's wording.
fn shown(bp: &Blkptr) -> ShowBlkptr<'_> {
    ShowBlkptr { bp, type_name: ObjectType(bp.object_type()).name() }
}
