//! Walks everything below an image's uberblock without the layers above `zio`, and verifies every copy of every
//! block: a second opinion on them, and the measure of verification's speed.
//!
//! `cargo run --release --example walk -- IMG [SALT]`; the salt is 64 hex digits (`org.illumos:checksum_salt`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use zfs::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::pretty::ShowUberblock;
use zfs::vdev::{VdevTree, label};
use zfs::zio::Zio;

const DNODE: u8 = 10;
const OBJSET: u8 = 11;
const BONUS_DATASET: u8 = 16;
const DATASET_BP: usize = 128;

type Want = (Blkptr, Bookmark);

/// What the dnodes in a block of them lead to.
fn dnodes(block: &[u8], out: &mut Vec<Blkptr>) {
    let mut at = 0;
    while let Some(dnode) = block.get(at..).filter(|d| d.len() >= 512) {
        let (ty, pointers, bonus, flags, extra) = (dnode[0], dnode[3], dnode[4], dnode[7], dnode[12]);
        let size = 512 * (1 + usize::from(extra));
        at += size;
        if ty == 0 || dnode.len() < size {
            continue;
        }
        let array = &dnode[64..size];
        out.extend((0..usize::from(pointers)).filter_map(|i| Blkptr::nth(array, i)));
        if flags & 4 != 0 {
            out.extend(Blkptr::nth(&dnode[size - BLKPTR_SIZE..size], 0));
        }
        let bonus_at = usize::from(pointers) * BLKPTR_SIZE + DATASET_BP;
        if bonus == BONUS_DATASET && array.len() >= bonus_at + BLKPTR_SIZE {
            out.extend(Blkptr::nth(&array[bonus_at..], 0));
        }
    }
}

fn children(bp: &Blkptr, block: &[u8]) -> Vec<Blkptr> {
    let mut out = Vec::new();
    if bp.level() > 0 {
        out.extend((0..block.len() / BLKPTR_SIZE).filter_map(|i| Blkptr::nth(block, i)));
    } else if bp.object_type() == DNODE {
        dnodes(block, &mut out);
    } else if bp.object_type() == OBJSET {
        dnodes(&block[..512], &mut out);
        for at in [1024, 1536, 2048] {
            block.get(at..at + 512).into_iter().for_each(|d| dnodes(d, &mut out));
        }
    }
    out.retain(|bp| !bp.is_hole() && !bp.is_embedded());
    out
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let path = args.get(1).ok_or("which image?")?;
    let mut salt = [0; 32];
    for (i, byte) in salt.iter_mut().enumerate() {
        *byte = args.get(2).map_or(Ok(0), |s| u8::from_str_radix(&s[2 * i..2 * i + 2], 16))?;
    }
    let disk = platform::host::FileDisk::open(path.as_ref(), false)?;
    let label = label::read(&disk)?;
    let tree = VdevTree::open(label.config.nvlist("vdev_tree")?, &[(label.guid()?, Arc::new(disk))])?;
    let zio = Zio::new(tree, salt, 64 << 20);
    let uberblock = label.uberblock.ok_or("no uberblock")?;
    print!("{}", ShowUberblock(&uberblock));

    let start = Instant::now();
    let mut all: Vec<Want> = Vec::new();
    let mut seen = HashSet::new();
    let mut level: Vec<Blkptr> = vec![uberblock.rootbp];
    let mut bad = 0;
    while !level.is_empty() {
        level.retain(|bp| seen.insert(*bp));
        let wants: Vec<Want> = level.iter().enumerate().map(|(i, bp)| (*bp, at(i))).collect();
        let meta: Vec<Want> = wants
            .iter()
            .filter(|(bp, _)| bp.level() > 0 || matches!(bp.object_type(), DNODE | OBJSET))
            .copied()
            .collect();
        all.extend(&wants);
        level.clear();
        for (block, (bp, _)) in zio.read_many(&meta).into_iter().zip(&meta) {
            match block {
                Ok(block) => level.extend(children(bp, &block)),
                Err(e) => {
                    println!("{e}: {bp:?}");
                    bad += 1;
                }
            }
        }
    }
    let walked = start.elapsed();
    let mut bytes = 0;
    for (result, (bp, _)) in zio.verify_many(&all).into_iter().zip(&all) {
        match result {
            Ok(v) => {
                bytes += v.bytes;
                bad += v.bad;
                if v.bad > 0 {
                    println!("{} bad copies: {bp:?}", v.bad);
                }
            }
            Err(e) => {
                println!("{e}: {bp:?}");
                bad += 1;
            }
        }
    }
    let verified = start.elapsed();
    let mut unpacked = 0;
    for chunk in all.chunks(1000) {
        for (result, want) in zio.read_many(chunk).into_iter().zip(chunk) {
            match result {
                Ok(data) => unpacked += data.len(),
                Err(e) => println!("reading: {e}: {:?}", want.0),
            }
        }
    }
    let done = start.elapsed();
    println!(
        "{} blocks, {} MiB with all copies, {bad} bad; walk {walked:?}, verify {:?}, read {} MiB {:?}",
        all.len(),
        bytes >> 20,
        verified - walked,
        unpacked >> 20,
        done - verified
    );
    Ok(())
}

fn at(i: usize) -> Bookmark {
    Bookmark { blkid: i as u64, ..Bookmark::default() }
}
