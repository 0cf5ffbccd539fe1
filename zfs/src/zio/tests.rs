//! Round trips on a disk in memory with a small allocator; damage; gangs; reproducibility.

use super::*;
use crate::error::Error;
use crate::ondisk::nvlist::NvList;
use crate::vdev::VdevTree;
use alloc::vec;
use platform::block::BlockDevice;
use platform::mem::MemDisk;
use platform::random::{Random, Seeded};

const SIZE: u64 = 64 << 20;
const AT: Bookmark = Bookmark { objset: 1, object: 2, level: 0, blkid: 3 };

/// Gives out space from front to back, in extents of at most `largest` bytes.
struct Bump {
    next: Mutex<u64>,
    largest: u64,
    end: u64,
    /// Sector of its vdev, in bytes.
    unit: u64,
}

impl Bump {
    fn new(largest: u64) -> Self {
        Bump { next: Mutex::new(0), largest, end: SIZE - (8 << 20), unit: 4096 }
    }
}

impl AllocateBlocks for Bump {
    fn allocate(&self, _txg: u64, psize: u64, copies: usize, _class: Class) -> Result<Vec<Dva>> {
        let asize = psize.next_multiple_of(self.unit);
        let mut next = self.next.lock();
        if asize > self.largest || *next + asize * copies as u64 > self.end {
            return Err(Error::NoSpace);
        }
        let mut out = Vec::new();
        for _ in 0..copies {
            out.push(Dva { vdev: 0, offset: *next, asize, gang: false });
            *next += asize;
        }
        Ok(out)
    }
    fn unallocate(&self, _txg: u64, dva: &Dva) {
        let mut next = self.next.lock();
        *next = (*next).min(dva.offset);
    }
}

fn tree(ashift: u64, disks: &[Arc<MemDisk>]) -> VdevTree {
    let leaf = |id: u64| {
        NvList::new()
            .with("type", "disk")
            .with("id", id)
            .with("guid", id + 10)
            .with("ashift", ashift)
            .with("asize", SIZE - (5 << 20))
    };
    let config = if disks.len() == 1 {
        leaf(0)
    } else {
        leaf(0).with("type", "mirror").with("children", (0..disks.len() as u64).map(leaf).collect::<Vec<_>>())
    };
    let members: Vec<_> =
        disks.iter().zip(10..).map(|(d, guid)| (guid, Arc::clone(d) as Arc<dyn BlockDevice>)).collect();
    VdevTree::open(&config, &members).unwrap()
}

fn disks(count: usize) -> Vec<Arc<MemDisk>> {
    (0..count).map(|_| Arc::new(MemDisk::new(SIZE as usize))).collect()
}

fn policy() -> WritePolicy {
    WritePolicy {
        object_type: 19,
        level: 0,
        checksum: Checksum::Fletcher4,
        compression: Compression::Lz4,
        copies: 1,
        special_small: 0,
        fill: 1,
        may_embed: true,
        may_hole: true,
        authenticated: false,
    }
}

fn write_of(data: Vec<u8>, policy: WritePolicy) -> Write {
    Write { data: Bytes::from(data), policy, at: AT, rewrite: None }
}

/// Half noise, half a pattern: compresses to about a half.
fn sample(random: &Seeded, len: usize) -> Vec<u8> {
    let mut data = vec![b'a'; len];
    random.fill(&mut data[..len / 2]);
    data
}

fn read_cold(disks: &[Arc<MemDisk>], bp: &Blkptr) -> Result<Bytes> {
    Zio::new(tree(12, disks), [7; 32], 1 << 20).read(bp, AT)
}

#[test]
fn every_function_comes_back_from_the_disk() {
    let random = Seeded::new(1);
    let d = disks(1);
    let zio = Zio::new(tree(12, &d), [7; 32], 64 << 20);
    let alloc = Bump::new(SIZE);
    use Checksum::{Blake3, Edonr, Fletcher2, Fletcher4, Off, Sha256, Sha512, Skein};
    let mut writes = Vec::new();
    for checksum in [Off, Fletcher2, Fletcher4, Sha256, Sha512, Skein, Edonr, Blake3] {
        for compression in [Compression::Off, Compression::Lz4, Compression::Zstd(3), Compression::Gzip(1)] {
            for len in [512, 4096, 8192, 131_072] {
                let p = WritePolicy { checksum, compression, copies: 1 + (len % 3) as u8, ..policy() };
                writes.push(write_of(sample(&random, len), p));
            }
        }
    }
    let placed = zio.write(&alloc, 5, writes.clone()).unwrap();
    let wants: Vec<_> = placed.iter().map(|bp| (*bp, AT)).collect();
    let cold = Zio::new(tree(12, &d), [7; 32], 1 << 20);
    for ((result, verified), (write, bp)) in
        cold.read_many(&wants).into_iter().zip(cold.verify_many(&wants)).zip(writes.iter().zip(&placed))
    {
        assert_eq!(result, Ok(write.data.clone()), "{bp:?}");
        assert_eq!(verified.unwrap().bad, 0);
        assert_eq!((bp.birth(), bp.lsize()), (5, write.data.len() as u64));
        assert!(bp.psize() == bp.lsize() || bp.psize() <= bp.lsize() - bp.lsize() / 8);
        assert!(bp.psize().is_multiple_of(4096) || bp.psize() == bp.lsize());
        assert_eq!(zio.cached(bp, Bookmark::default()), Some(write.data.clone()));
    }
    let wrong_salt = Zio::new(tree(12, &d), [8; 32], 1 << 20);
    let salted = placed.iter().position(|bp| bp.checksum_type() == Blake3 as u8).unwrap();
    assert_eq!(wrong_salt.read(&placed[salted], AT), Err(Error::Checksum { at: AT }));
}

#[test]
fn holes_and_embedded_blocks_need_no_space() {
    let d = disks(1);
    let zio = Zio::new(tree(12, &d), [0; 32], 1 << 20);
    let alloc = Bump::new(0);
    let mut small = vec![0; 4096];
    small[..5].copy_from_slice(b"hello");
    let writes = vec![write_of(vec![0; 131_072], policy()), write_of(small.clone(), policy())];
    let placed = zio.write(&alloc, 9, writes).unwrap();
    assert!(placed[0].is_hole() && placed[0].lsize() == 131_072 && placed[0].birth() == 9);
    assert!(placed[1].is_embedded() && placed[1].birth() == 9);
    assert_eq!(zio.read(&placed[0], AT), Ok(Bytes::from(vec![0; 131_072])));
    assert_eq!(zio.read(&placed[1], AT), Ok(Bytes::from(small)));
    assert_eq!(zio.verify(&placed[1], AT), Ok(Verified::default()));
}

#[test]
fn another_copy_serves_when_one_is_damaged() {
    let random = Seeded::new(2);
    let d = disks(1);
    let zio = Zio::new(tree(12, &d), [7; 32], 1 << 20);
    let p = WritePolicy { copies: 2, ..policy() };
    let data = sample(&random, 131_072);
    let bp = zio.write(&Bump::new(SIZE), 5, vec![write_of(data.clone(), p)]).unwrap()[0];
    let damage = |i: usize| {
        let at = (bp.dva(i).offset + (4 << 20)) as usize + 100;
        d[0].damage(|bytes| bytes[at] ^= 1);
    };
    damage(0);
    assert_eq!(read_cold(&d, &bp), Ok(Bytes::from(data)));
    let verified = zio.verify(&bp, AT).unwrap();
    assert_eq!((verified.good, verified.bad), (1, 1));
    damage(1);
    assert_eq!(read_cold(&d, &bp), Err(Error::Checksum { at: AT }));
    assert_eq!(zio.verify(&bp, AT), Err(Error::Checksum { at: AT }));
}

#[test]
fn a_mirror_serves_from_its_good_side() {
    let random = Seeded::new(3);
    let d = disks(2);
    let zio = Zio::new(tree(12, &d), [7; 32], 1 << 20);
    let data = sample(&random, 131_072);
    let bp = zio.write(&Bump::new(SIZE), 5, vec![write_of(data.clone(), policy())]).unwrap()[0];
    for broken in 0..2 {
        let at = (bp.dva(0).offset + (4 << 20)) as usize + 100;
        d[broken].damage(|bytes| bytes[at] ^= 1);
        assert_eq!(read_cold(&d, &bp), Ok(Bytes::from(data.clone())));
        assert_eq!(zio.verify(&bp, AT).map(|v| (v.good, v.bad)), Ok((1, 1)));
        d[broken].damage(|bytes| bytes[at] ^= 1);
    }
}

#[test]
fn gangs_hold_what_no_single_extent_can() {
    let random = Seeded::new(4);
    for (ashift, largest) in [(9, 512), (9, 8192), (12, 4096), (12, 40_960)] {
        let d = disks(1);
        let zio = Zio::new(tree(ashift, &d), [7; 32], 1 << 20);
        let alloc = Bump { unit: 1 << ashift, ..Bump::new(largest) };
        let mut data = vec![0; 131_072];
        random.fill(&mut data);
        let bp = zio.write(&alloc, 5, vec![write_of(data.clone(), policy())]).unwrap()[0];
        assert!(bp.is_gang() && bp.dvas().count() == 2);
        let cold = Zio::new(tree(ashift, &d), [7; 32], 1 << 20);
        assert_eq!(cold.read(&bp, AT), Ok(Bytes::from(data)), "ashift {ashift} largest {largest}");
        assert!(cold.verify(&bp, AT).unwrap().bad == 0);
        // All that was given out belongs to the block, and the first address counts one copy of everything.
        let extents = cold.extents(&bp, AT).unwrap();
        assert_eq!(extents.iter().map(|e| e.asize).sum::<u64>(), *alloc.next.lock());
        let at = (bp.dva(0).offset + (4 << 20)) as usize;
        d[0].damage(|bytes| bytes[at] ^= 1);
        assert_eq!(cold.verify(&bp, AT).unwrap().bad, 1);
        let colder = Zio::new(tree(ashift, &d), [7; 32], 1 << 20);
        assert_eq!(colder.read(&bp, AT).map(|b| b.len()), Ok(131_072));
    }
}

#[test]
fn a_full_disk_gives_everything_back() {
    let d = disks(1);
    let zio = Zio::new(tree(12, &d), [7; 32], 1 << 20);
    let mut alloc = Bump::new(SIZE);
    alloc.end = 300_000;
    let noise = |seed| {
        let mut data = vec![0; 131_072];
        Seeded::new(seed).fill(&mut data);
        write_of(data, policy())
    };
    let failed = zio.write(&alloc, 5, vec![noise(1), noise(2), noise(3)]);
    assert_eq!(failed, Err(Error::NoSpace));
    assert_eq!(*alloc.next.lock(), 0);
    assert!(zio.write(&alloc, 5, vec![noise(1), noise(2)]).is_ok());
}

#[test]
fn a_block_of_this_txg_is_rewritten_in_place() {
    let d = disks(1);
    let zio = Zio::new(tree(12, &d), [7; 32], 1 << 20);
    let alloc = Bump::new(SIZE);
    let p = WritePolicy { compression: Compression::Off, copies: 3, ..policy() };
    let first = zio.write(&alloc, 5, vec![write_of(vec![1; 4096], p)]).unwrap()[0];
    let before = *alloc.next.lock();
    let rewrite = |data: Vec<u8>| Write { rewrite: Some(first), ..write_of(data, p) };
    let second = zio.write(&alloc, 5, vec![rewrite(vec![2; 4096])]).unwrap()[0];
    assert_eq!((second.dva(0), second.dva(2), *alloc.next.lock()), (first.dva(0), first.dva(2), before));
    assert_eq!(zio.read(&second, AT), Ok(Bytes::from(vec![2; 4096])));
    let other_size = zio.write(&alloc, 5, vec![rewrite(vec![2; 8192])]).unwrap()[0];
    assert_ne!(other_size.dva(0).offset, first.dva(0).offset);
    let later = zio.write(&alloc, 6, vec![rewrite(vec![2; 4096])]).unwrap()[0];
    assert_ne!(later.dva(0).offset, first.dva(0).offset);
}

#[test]
fn images_are_reproducible() {
    let image = || {
        let random = Seeded::new(6);
        let d = disks(1);
        let zio = Zio::new(tree(12, &d), [7; 32], 1 << 20);
        let writes = (0..300).map(|i| write_of(sample(&random, 512 << (i % 9)), policy())).collect();
        zio.write(&Bump::new(SIZE), 5, writes).unwrap();
        d[0].contents()
    };
    assert!(image() == image());
}

#[test]
fn zil_blocks_come_back_and_the_chain_ends() {
    let d = disks(1);
    let zio = Zio::new(tree(12, &d), [7; 32], 1 << 20);
    for function in [Checksum::Zilog, Checksum::Zilog2] {
        let mut bp = Blkptr::HOLE;
        bp.set_dva(0, Dva { vdev: 0, offset: 1 << 20, asize: 8192, gang: false });
        bp.set_sizes(8192, 8192);
        bp.set_checksum_type(function as u8);
        bp.set_compress(2);
        bp.set_little_endian();
        bp.set_birth(3);
        bp.set_checksum([11, 22, 33, 1]);
        let mut block = vec![5; 8192];
        block[136..144].copy_from_slice(&3000u64.to_le_bytes());
        zio.write_zil(&bp, Bytes::from(block.clone())).unwrap();
        let back = zio.read_zil(&bp, AT).unwrap();
        assert_eq!(back[200..3000], block[200..3000]);
        bp.set_checksum([11, 22, 33, 2]);
        assert_eq!(zio.read_zil(&bp, AT), Err(Error::Checksum { at: AT }));
        // Where the checksum covers what is in use alone, no more needs to be written.
        let written = zio.write_zil(&bp, Bytes::from(block[..4096].to_vec()));
        assert_eq!(written.is_ok(), function == Checksum::Zilog2, "{function:?}");
        if written.is_ok() {
            assert_eq!(zio.read_zil(&bp, AT).unwrap()[200..3000], block[200..3000]);
        }
        assert!(zio.write_zil(&bp, Bytes::from(vec![0; 12_288])).is_err());
    }
}

#[test]
fn prefetched_blocks_arrive_in_the_cache() {
    let random = Seeded::new(8);
    let d = disks(1);
    let writer = Zio::new(tree(12, &d), [7; 32], 0);
    let writes: Vec<_> = (0..20).map(|_| write_of(sample(&random, 131_072), policy())).collect();
    let placed = writer.write(&Bump::new(SIZE), 5, writes.clone()).unwrap();
    let zio = Zio::new(tree(12, &d), [7; 32], 64 << 20);
    zio.prefetch(placed.iter().map(|bp| (*bp, AT)).collect());
    for (bp, write) in placed.iter().zip(&writes) {
        // Whoever comes first reads; the other finds it or waits.
        assert_eq!(zio.read(bp, AT), Ok(write.data.clone()));
    }
    assert!(placed.iter().all(|bp| zio.cached(bp, Bookmark::default()).is_some()));
}

/// Random pointers: any answer is right but a panic.
#[test]
fn damaged_pointers_are_survived() {
    let seed = 0xb10c;
    let random = Seeded::new(seed);
    let d = disks(1);
    let zio = Zio::new(tree(12, &d), [7; 32], 1 << 20);
    let good = zio.write(&Bump::new(SIZE), 5, vec![write_of(sample(&random, 8192), policy())]).unwrap()[0];
    for _ in 0..3000 {
        let mut bytes = good.to_bytes();
        for _ in 0..1 + random.next_u64() % 3 {
            bytes[random.next_u64() as usize % 128] = random.next_u64() as u8;
        }
        let bp = Blkptr::from_bytes(&bytes);
        let _ = zio.read(&bp, AT);
        let _ = zio.verify(&bp, AT);
        let _ = zio.extents(&bp, AT);
        let _ = zio.read_zil(&bp, AT);
    }
}
