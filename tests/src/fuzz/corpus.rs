//! Well-formed inputs, out of the pools that OpenZFS wrote.

use crate::fixtures;
use crate::model::env;
use anyhow::Result;
use platform::block::BlockDevice;
use platform::mem::MemDisk;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use zfs::compress::{Compression, Workspace};
use zfs::dmu::{Objset, Traverse, Visit, traverse};
use zfs::ondisk::blkptr::{BLKPTR_SIZE, Blkptr, LABEL_START_SIZE};
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::dnode::DnodePhys;
use zfs::ondisk::label::{LABEL_SIZE, NVLIST_OFFSET, NVLIST_SIZE, RING_OFFSET, RING_SIZE};
use zfs::ondisk::zil::{CHAIN_SIZE, Chain, Record};
use zfs::spa::{ImportOptions, Pool};
use zfs::zil;

/// Fixtures with one disk that together have one of everything.
const FIXTURES: [&str; 5] = ["a-default", "h-snaps", "b2-v28", "v-props", "k-zil-noslog"];
/// Inputs of one kind from one fixture.
const PER_KIND: usize = 24;

/// Object types (`DMU_OT_*`).
const PACKED_NVLIST: u8 = 3;
const SPACE_MAP: u8 = 8;
const DNODE: u8 = 10;
const OBJSET: u8 = 11;
const PLAIN_FILE: u8 = 19;

/// What a fixture holds, by kind.
#[derive(Default)]
struct Found {
    /// Blocks of data by object type; indirect blocks of all types are under [`INDIRECT`].
    blocks: BTreeMap<u8, Vec<Vec<u8>>>,
    bonuses: Vec<Vec<u8>>,
    logs: Vec<Vec<u8>>,
    labels: Vec<Vec<u8>>,
    /// Whole ZAPs, behind their block size in units of 512 bytes, less one.
    zaps: Vec<Vec<u8>>,
}

/// Where [`Found`] keeps indirect blocks.
const INDIRECT: u8 = u8::MAX;

struct Collector<'a> {
    pool: &'a Pool,
    found: &'a mut Found,
}

impl Traverse for Collector<'_> {
    fn block(&mut self, bp: &Blkptr, at: &Bookmark) -> zfs::Result<Visit> {
        let kind = if bp.level() > 0 { INDIRECT } else { bp.object_type() };
        let blocks = self.found.blocks.entry(kind).or_default();
        if blocks.len() < PER_KIND * 4
            && let Ok(data) = self.pool.zio().read_uncached(bp, *at)
        {
            blocks.push(data.to_vec());
        }
        Ok(Visit::Continue)
    }

    fn dnode(&mut self, _: u64, dnode: &DnodePhys) -> zfs::Result<Visit> {
        if !dnode.bonus.is_empty() && self.found.bonuses.len() < 400 {
            self.found.bonuses.push(dnode.bonus.to_vec());
        }
        Ok(Visit::Continue)
    }

    fn unreadable(&mut self, _: &Blkptr, _: &Bookmark, _: zfs::Error) -> zfs::Result<()> {
        Ok(())
    }
}

fn collect(name: &str, found: &mut Found) -> Result<()> {
    let image = fixtures::image(name, 0)?;
    found.labels.push(image[..LABEL_SIZE as usize].to_vec());
    let disk: Arc<dyn BlockDevice> = Arc::new(MemDisk::from_vec(image.clone()));
    let pool = Pool::import(vec![disk], env(), ImportOptions::read_only())?;
    let mut roots = vec![(0, pool.mos().root())];
    pool.dsl().visit_objsets(&mut |objset, root, _| {
        roots.push((objset, *root));
        Ok(())
    })?;
    for (objset, root) in roots {
        traverse(pool.zio(), objset, &root, 0, &mut Collector { pool: &pool, found })?;
    }
    let mut objsets = vec![Arc::clone(pool.mos())];
    for dataset in pool.dsl().datasets()? {
        let objset = dataset.objset()?;
        let header = objset.zil_header();
        zil::visit_blocks(pool.zio(), &header, dataset.object(), u64::MAX, &mut |bp| {
            let at = (bp.dva(0).offset + LABEL_START_SIZE) as usize;
            let block = image.get(at..at + bp.psize() as usize);
            found.logs.extend(block.map(<[u8]>::to_vec));
            Ok(())
        })?;
        // Without their keys the others' ZAPs are noise.
        if !dataset.root_bp().uses_crypt() {
            objsets.push(objset);
        }
    }
    for os in objsets {
        collect_zaps(&os, &mut found.zaps)?;
    }
    Ok(())
}

fn collect_zaps(os: &Arc<Objset>, zaps: &mut Vec<Vec<u8>>) -> Result<()> {
    const LARGE: usize = 300 << 10;
    let mut kept = 0;
    let mut object = 0;
    while let Some(next) = os.next_object(object, false)? {
        object = next;
        let dnode = os.hold(object)?;
        if !dnode.object_type().is_zap() || kept >= PER_KIND {
            continue;
        }
        let mut content = vec![0; LARGE];
        let len = dnode.read(0, &mut content)?;
        let units = (dnode.block_size() / 512 - 1) as u16;
        if len < LARGE {
            zaps.push([&units.to_le_bytes(), &content[..len]].concat());
            kept += 1;
        }
    }
    Ok(())
}

fn found() -> Result<&'static Found> {
    static FOUND: OnceLock<Found> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(found);
    }
    let mut found = Found::default();
    for name in FIXTURES {
        collect(name, &mut found)?;
    }
    Ok(FOUND.get_or_init(|| found))
}

fn blocks(kind: u8) -> Result<Vec<Vec<u8>>> {
    Ok(found()?.blocks.get(&kind).cloned().unwrap_or_default())
}

/// The beginnings of indirect blocks: more of the same would only cost time.
pub(super) fn indirect_blocks() -> Result<Vec<Vec<u8>>> {
    const LENGTH: usize = 64 * BLKPTR_SIZE;
    let mut all = blocks(INDIRECT)?;
    all.iter_mut().for_each(|block| block.truncate(LENGTH));
    Ok(all)
}

pub(super) fn dnode_blocks() -> Result<Vec<Vec<u8>>> {
    blocks(DNODE)
}

pub(super) fn objsets() -> Result<Vec<Vec<u8>>> {
    blocks(OBJSET)
}

pub(super) fn space_maps() -> Result<Vec<Vec<u8>>> {
    blocks(SPACE_MAP)
}

pub(super) fn bonuses() -> Result<Vec<Vec<u8>>> {
    let mut bonuses = found()?.bonuses.clone();
    bonuses.sort();
    bonuses.dedup_by_key(|b| (b.len(), b.first().copied()));
    bonuses.extend(found()?.bonuses.iter().step_by(16).cloned());
    Ok(bonuses)
}

pub(super) fn labels() -> Result<Vec<Vec<u8>>> {
    Ok(found()?.labels.clone())
}

pub(super) fn nvlists() -> Result<Vec<Vec<u8>>> {
    let mut lists = blocks(PACKED_NVLIST)?;
    for label in &found()?.labels {
        let at = NVLIST_OFFSET as usize;
        let list = &label[at..at + NVLIST_SIZE];
        // Without most of the zeros behind it, which a fuzzer would waste its time on.
        let end = list.len() - 40;
        let used = list[..end].iter().rposition(|b| *b != 0).map_or(0, |i| i + 8).min(end);
        lists.push(list[..used].to_vec());
    }
    Ok(lists)
}

pub(super) fn uberblocks() -> Result<Vec<Vec<u8>>> {
    let rings = found()?.labels.iter().map(|label| &label[RING_OFFSET as usize..]);
    let slots = rings.flat_map(|ring| ring[..RING_SIZE].chunks(1024));
    Ok(slots.filter(|s| s[0] != 0).map(<[u8]>::to_vec).take(PER_KIND * 4).collect())
}

pub(super) fn log_blocks() -> Result<Vec<Vec<u8>>> {
    let logs = found()?.logs.iter().take(200).cloned();
    // OpenZFS 2.1 clones nothing.
    let pointers = indirect_blocks()?;
    let pointers =
        pointers.iter().flat_map(|block| block.as_chunks::<BLKPTR_SIZE>().0).map(Blkptr::from_bytes);
    let bps: Vec<Blkptr> = pointers.filter(|bp| !bp.is_hole()).take(7).collect();
    let clone = Record::CloneRange { object: 9, offset: 4096, len: 7 * 4096, block_size: 4096, bps }.emit();
    let mut block = vec![0; 4096];
    Chain { next: Blkptr::HOLE, used: (CHAIN_SIZE + clone.len()) as u64 }.emit(&mut block);
    block[CHAIN_SIZE..CHAIN_SIZE + clone.len()].copy_from_slice(&clone);
    Ok(logs.chain([block]).collect())
}

pub(super) fn zaps() -> Result<Vec<Vec<u8>>> {
    Ok(found()?.zaps.clone())
}

/// Blocks of the kinds that have a layout of their own when they are encrypted or authenticated.
pub(super) fn protected() -> Result<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    for kind in [DNODE, OBJSET, INDIRECT] {
        inputs.extend(blocks(kind)?.into_iter().take(PER_KIND));
    }
    inputs.extend(found()?.logs.iter().take(PER_KIND).cloned());
    Ok(inputs)
}

pub(super) fn compressed() -> Result<Vec<Vec<u8>>> {
    let functions = [
        Compression::Lz4,
        Compression::Lzjb,
        Compression::Gzip(6),
        Compression::Zle,
        Compression::Zstd(3),
        Compression::ZstdFast(10),
    ];
    let mut workspace = Workspace::default();
    let mut inputs = Vec::new();
    for block in blocks(DNODE)?.iter().chain(&blocks(INDIRECT)?).chain(&blocks(PLAIN_FILE)?).step_by(5) {
        for function in functions {
            if let Some(data) = function.compress(block, block.len(), &mut workspace) {
                let mut input = vec![function.to_raw()];
                input.extend((block.len() as u32).to_le_bytes());
                input.extend(data);
                inputs.push(input);
            }
        }
    }
    Ok(inputs)
}

/// Lists of places to damage: see [`super::pools`]. The first damages nothing.
pub(super) fn damages() -> Result<Vec<Vec<u8>>> {
    let mut rng = crate::model::Rng::new(1);
    let list = |words: usize, rng: &mut crate::model::Rng| -> Vec<u8> {
        (0..words).flat_map(|_| rng.number().to_le_bytes()).collect()
    };
    Ok((0..8).map(|i| list(i, &mut rng)).collect())
}
