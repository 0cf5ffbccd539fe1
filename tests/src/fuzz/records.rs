//! Small records that stand alone. The first byte of the input says which.

use anyhow::{Result, ensure};
use zfs::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use zfs::ondisk::indirect::{ENTRY_SIZE, MappingEntry, entry_count};
use zfs::ondisk::scan::{SCAN_WORDS, ScanPhys};
use zfs::ondisk::{brt, ddt, gang};

const DDT: u8 = 0;
const GANG: u8 = 1;
const INDIRECT: u8 = 2;
const SCAN: u8 = 3;
const REFERENCES: u8 = 4;
const KINDS: u8 = 5;

pub(super) fn run(input: &[u8]) -> Result<()> {
    let Some((kind, bytes)) = input.split_first() else { return Ok(()) };
    match kind % KINDS {
        DDT => {
            let Ok(entry) = ddt::Entry::parse(bytes) else { return Ok(()) };
            ensure!(
                ddt::Entry::parse(&entry.emit()) == Ok(entry),
                "a dedup entry does not read as it was written"
            );
            std::hint::black_box((entry.references(), entry.stat(&[u64::MAX; ddt::KEY_WORDS], |_| u64::MAX)));
            if let Some(bp) = Blkptr::nth(bytes, 0) {
                std::hint::black_box((ddt::key_of(&bp), entry.places.iter().any(|p| p.is_of(&bp))));
            }
        }
        GANG => {
            let members = gang::members(bytes);
            ensure!(
                gang::members(&gang::emit(&members)).len() == members.len(),
                "members of a gang got lost"
            );
            members.iter().for_each(|bp| _ = std::hint::black_box(gang::verifier(bp)));
        }
        INDIRECT => {
            std::hint::black_box(entry_count(bytes)).ok();
            bytes
                .as_chunks::<ENTRY_SIZE>()
                .0
                .iter()
                .for_each(|e| _ = std::hint::black_box(MappingEntry::parse(e)));
        }
        REFERENCES => references(bytes)?,
        _ => {
            let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
            let Some(scan) = ScanPhys::parse(&words) else { return Ok(()) };
            ensure!(ScanPhys::parse(&scan.emit()) == Some(scan), "a scan does not read as it was written");
        }
    }
    Ok(())
}

/// A block reference table: its head, its array, and an entry.
fn references(bytes: &[u8]) -> Result<()> {
    if let Ok(phys) = brt::VdevPhys::parse(bytes) {
        ensure!(
            brt::VdevPhys::parse(&phys.emit()) == Ok(phys),
            "a table's head does not read as it was written"
        );
    }
    let counts = brt::counts(bytes);
    for part in counts.chunks(brt::COUNTS_PER_BLOCK) {
        ensure!(
            brt::counts(&brt::counts_block(part)).starts_with(part),
            "counts do not read as they were written"
        );
    }
    let Some((int_size, ints)) = bytes.split_first() else { return Ok(()) };
    let words: Vec<u64> = ints.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect();
    for fixed in [false, true] {
        if let Ok(count) = brt::references(*int_size, &words, fixed) {
            let (int_size, ints) = brt::emit_references(count, fixed);
            ensure!(
                brt::references(int_size, &ints, fixed) == Ok(count),
                "an entry does not read as it was written"
            );
        }
    }
    Ok(())
}

/// Records as they may be, around pointers of a pool.
pub(super) fn corpus() -> Result<Vec<Vec<u8>>> {
    let mut inputs = Vec::new();
    let pointers = super::corpus::indirect_blocks()?;
    let pointers = pointers.iter().flat_map(|block| block.as_chunks::<BLKPTR_SIZE>().0);
    let pointers: Vec<Blkptr> =
        pointers.map(Blkptr::from_bytes).filter(|bp| !bp.is_hole()).take(60).collect();
    for three in pointers.chunks(3) {
        inputs.push([&[GANG], &gang::emit(three)[..]].concat());
        let mut entry = ddt::Entry::default();
        for (place, bp) in entry.places.iter_mut().zip(three) {
            place.dvas.copy_from_slice(&bp.words()[..6]);
            (place.references, place.birth) = (3, bp.physical_birth());
        }
        inputs.push([&[DDT], &entry.emit()[..]].concat());
        let words = |bp: &Blkptr| [bp.words()[1] & (u64::MAX >> 1), bp.words()[0], bp.words()[1]];
        let mapping = three.iter().flat_map(words).flat_map(u64::to_le_bytes);
        inputs.push([INDIRECT].into_iter().chain(mapping).collect());
    }
    let head = brt::VdevPhys { entries: 77, ranges: 64, total: 3, used: 1 << 20, saved: 3 << 20 };
    inputs.push([&[REFERENCES], &head.emit()[..]].concat());
    for fixed in [false, true] {
        let (int_size, ints) = brt::emit_references(0x1_0203, fixed);
        let ints = ints.into_iter().flat_map(u64::to_le_bytes);
        inputs.push([REFERENCES, int_size].into_iter().chain(ints).collect());
    }
    for state in 1..=3u64 {
        let mut words = [7; SCAN_WORDS];
        (words[0], words[1]) = (1 + state % 2, state);
        inputs.push([SCAN].into_iter().chain(words.into_iter().flat_map(u64::to_le_bytes)).collect());
    }
    Ok(inputs)
}
