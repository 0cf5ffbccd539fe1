//! Trees on disks in memory: what is written comes back, with devices lost and bytes changed, on every layout.

use super::queue::{self, ReadExtent, WriteExtent};
use super::survey;
use super::*;
use crate::ondisk::nvlist::NvList;
use alloc::vec;
use bytes::Bytes;
use platform::mem::MemDisk;
use platform::random::{Random, Seeded};

const SIZE: usize = 72 << 20;
const TXG: u64 = 9;

fn disk(id: u64, guid: u64) -> NvList {
    NvList::new()
        .with("type", "disk")
        .with("id", id)
        .with("guid", guid)
        .with("ashift", 9u64)
        .with("asize", 16u64 << 20)
}

fn group(kind: &str, count: u64, asize: u64) -> NvList {
    let children: Vec<NvList> = (0..count).map(|n| disk(n, 10 + n)).collect();
    NvList::new()
        .with("type", kind)
        .with("id", 0u64)
        .with("guid", 1u64)
        .with("ashift", 9u64)
        .with("asize", asize)
        .with("children", children)
}

fn raidz(count: u64, parity: u64) -> NvList {
    group("raidz", count, count * (16 << 20)).with("nparity", parity)
}

fn draid(count: u64, parity: u64, data: u64, spares: u64) -> NvList {
    let layout = draid::Layout::new(count, parity, data, spares).unwrap();
    group("draid", count, layout.asize(64 << 20))
        .with("nparity", parity)
        .with("draid_ndata", data)
        .with("draid_nspares", spares)
        .with("draid_ngroups", layout.groups)
}

struct Bench {
    config: NvList,
    disks: Vec<(u64, Arc<MemDisk>)>,
}

impl Bench {
    fn new(config: NvList) -> Self {
        let count = config.get_nvlists("children").map_or(1, <[NvList]>::len) as u64;
        let guid = |n| if config.contains("children") { 10 + n } else { 1 };
        let disks = (0..count).map(|n| (guid(n), Arc::new(MemDisk::new(SIZE)))).collect();
        Bench { config, disks }
    }

    fn without(&self, lost: &[usize]) -> Result<VdevTree> {
        let kept = self.disks.iter().enumerate().filter(|(n, _)| !lost.contains(n));
        let members: Vec<Member> =
            kept.map(|(_, (guid, disk))| (*guid, Arc::clone(disk) as Arc<dyn BlockDevice>)).collect();
        VdevTree::open(&self.config, &members)
    }
}

/// Blocks of many sizes, one after the other, as an allocator would place them.
fn blocks(tree: &VdevTree, random: &Seeded) -> Vec<(Dva, Bytes)> {
    let top = tree.top(0).unwrap();
    let mut offset = (1 << 20) / top.geometry.alignment(9) * top.geometry.alignment(9);
    let mut all = Vec::new();
    for size in [512, 1024, 1536, 4096, 4608, 16_896, 131_072, 512, 7680, 300_032] {
        let mut data = vec![0; size];
        random.fill(&mut data);
        let asize = top.psize_to_asize(size as u64);
        all.push((Dva { vdev: 0, offset, asize, gang: false }, Bytes::from(data)));
        offset += asize;
    }
    all
}

fn read(tree: &VdevTree, blocks: &[(Dva, Bytes)]) -> Vec<Result<Bytes>> {
    let extent = |(dva, data): &(Dva, Bytes)| ReadExtent { dva: *dva, len: data.len() as u64, birth: TXG };
    queue::start_reads(tree, &blocks.iter().map(extent).collect::<Vec<_>>()).wait()
}

fn write(tree: &VdevTree, blocks: &[(Dva, Bytes)]) {
    let extents = blocks.iter().map(|(dva, data)| WriteExtent { dva: *dva, data: data.clone() }).collect();
    queue::write(tree, TXG, extents).unwrap();
}

/// Every set of at most `most` of `count`.
fn sets(count: usize, most: u32) -> Vec<Vec<usize>> {
    let all = (0u32..1 << count).filter(|set| set.count_ones() <= most);
    all.map(|set| (0..count).filter(|n| set >> n & 1 != 0).collect()).collect()
}

fn layouts() -> Vec<(NvList, u32)> {
    vec![
        (disk(0, 1), 0),
        (group("mirror", 3, 16 << 20), 2),
        (raidz(2, 1), 1),
        (raidz(3, 1), 1),
        (raidz(5, 2), 2),
        (raidz(6, 3), 3),
        (draid(4, 1, 2, 0), 1),
        (draid(7, 2, 3, 1), 2),
        (draid(8, 3, 2, 2), 3),
    ]
}

#[test]
fn every_layout_reads_back_with_every_set_of_disks_lost() {
    for (config, parity) in layouts() {
        let bench = Bench::new(config);
        let tree = bench.without(&[]).unwrap();
        let blocks = blocks(&tree, &Seeded::new(1));
        write(&tree, &blocks);
        for lost in sets(bench.disks.len(), parity) {
            let tree = bench.without(&lost).unwrap();
            for ((dva, want), found) in blocks.iter().zip(read(&tree, &blocks)) {
                let kind = &tree.top(0).unwrap().kind;
                assert_eq!(found.as_ref(), Ok(want), "{kind} without {lost:?}: {dva:?}");
            }
        }
        let all: Vec<usize> = (0..=parity as usize).collect();
        assert!(matches!(bench.without(&all), Err(Error::MissingDevice { .. })));
    }
}

#[test]
fn wrong_bytes_are_found_blamed_and_mended() {
    for (config, parity) in layouts().into_iter().skip(1) {
        let bench = Bench::new(config);
        let tree = bench.without(&[]).unwrap();
        let blocks = blocks(&tree, &Seeded::new(2));
        write(&tree, &blocks);
        // All that the blocks occupy, parity too.
        let mut before: Vec<(usize, core::ops::Range<usize>, Vec<u8>)> = Vec::new();
        for map in blocks.iter().map(|(dva, data)| tree.resolve(dva, data.len() as u64).unwrap()) {
            for column in map.rows.iter().flat_map(|row| &row.columns) {
                for leaf in &column.targets {
                    let n = bench.disks.iter().position(|(guid, _)| *guid == leaf.guid).unwrap();
                    let range = column.offset as usize..column.offset as usize + column.size;
                    bench.disks[n].1.damage(|bytes| before.push((n, range.clone(), bytes[range].to_vec())));
                }
            }
        }
        for spoilt in sets(bench.disks.len(), parity).into_iter().filter(|set| set.len() as u32 == parity) {
            for n in &spoilt {
                bench.disks[*n].1.damage(|bytes| bytes[4 << 20..8 << 20].fill(0xa5));
            }
            let tree = bench.without(&[]).unwrap();
            let extents: Vec<_> = blocks.iter().map(|(dva, data)| (*dva, data.len() as u64, TXG)).collect();
            for (survey, (dva, want)) in survey::start(&tree, &extents).wait().into_iter().zip(&blocks) {
                let survey = survey.unwrap();
                let found = survey.solve(&|data| *data == **want);
                let kind = &tree.top(0).unwrap().kind;
                assert_eq!(found.as_ref(), Some(want), "{kind}, {spoilt:?} spoilt: {dva:?}");
                let bad = survey.judge(want);
                survey::blame(&bad);
                assert!(survey::repair(&bad).iter().all(|written| *written));
            }
            let blamed: Vec<usize> = (0..bench.disks.len())
                .filter(|n| tree.leaf(bench.disks[*n].0).unwrap().errors().checksum > 0)
                .collect();
            // Not on every disk of a draid lie blocks.
            let used = |n: &usize| before.iter().any(|(disk, ..)| disk == n);
            assert_eq!(blamed, spoilt.into_iter().filter(used).collect::<Vec<_>>());
            for (n, range, want) in &before {
                bench.disks[*n].1.damage(|bytes| assert!(bytes[range.clone()] == want[..], "disk {n}"));
            }
        }
    }
}

#[test]
fn a_lost_disk_misses_the_txg() {
    let bench = Bench::new(raidz(3, 1));
    let tree = bench.without(&[1]).unwrap();
    let blocks = blocks(&tree, &Seeded::new(3));
    write(&tree, &blocks);
    let lost = tree.leaf(11).unwrap();
    assert_eq!((lost.state, lost.missing().ranges()), (LeafState::Missing, &[(TXG, TXG)][..]));
    // It comes back with its old content: what it missed is not read from it.
    let members: Vec<Member> =
        bench.disks.iter().map(|(guid, disk)| (*guid, Arc::clone(disk) as Arc<dyn BlockDevice>)).collect();
    let tree = VdevTree::reopen(&bench.config, &members, Some(&tree)).unwrap();
    for (found, (_, want)) in read(&tree, &blocks).into_iter().zip(&blocks) {
        assert_eq!(found.as_ref(), Ok(want));
    }
}

#[test]
fn a_distributed_spare_stands_in() {
    let bench = Bench::new(draid(7, 2, 3, 1));
    let tree = bench.without(&[]).unwrap();
    let blocks = blocks(&tree, &Seeded::new(5));
    let mut config = bench.config.clone();
    let mut children = config.get_nvlists("children").unwrap().to_vec();
    let spare =
        NvList::new().with("type", "dspare").with("id", 1u64).with("spareid", 0u64).with("guid", 99u64);
    children[2] = NvList::new()
        .with("type", "spare")
        .with("id", 2u64)
        .with("guid", 98u64)
        .with("children", vec![children[2].clone(), spare]);
    config.insert("children", children);
    let bench = Bench { config, disks: bench.disks };
    let tree = bench.without(&[2]).unwrap();
    write(&tree, &blocks);
    // Two more may be lost: the spare has what the first held, unless it lies on one of them.
    for lost in [[2, 0], [2, 4], [2, 6]] {
        let tree = bench.without(&lost).unwrap();
        for (found, (_, want)) in read(&tree, &blocks).into_iter().zip(&blocks) {
            assert_eq!(found.as_ref(), Ok(want), "without {lost:?}");
        }
    }
}

#[test]
fn removed_vdevs_are_read_where_their_blocks_went() {
    let gone =
        NvList::new().with("type", "indirect").with("id", 0u64).with("guid", 5u64).with("asize", 1u64 << 20);
    let root = NvList::new().with("type", "root").with("children", vec![gone, disk(1, 1)]);
    let device: Arc<dyn BlockDevice> = Arc::new(MemDisk::new(SIZE));
    let mut tree = VdevTree::open(&root, &[(1, device)]).unwrap();
    let data = Bytes::from(vec![7; 1024]);
    let there = |offset| Dva { vdev: 1, offset, asize: 512, gang: false };
    write(&tree, &[(there(4096), data.slice(..512)), (there(8192), data.slice(512..))]);
    let old = Dva { vdev: 0, offset: 0, asize: 1024, gang: false };
    let unknown = Error::unsupported("removed vdev without its mapping");
    assert_eq!(read(&tree, &[(old, data.clone())]), [Err(unknown)]);
    let segment = |offset, to| Segment { offset, len: 512, vdev: 1, to };
    tree.set_mapping(0, Mapping::new(vec![segment(0, 4096), segment(512, 8192)]).unwrap()).unwrap();
    assert_eq!(read(&tree, &[(old, data.clone())]), [Ok(data)]);
}

#[test]
fn addresses_are_checked() {
    let bench = Bench::new(disk(0, 1));
    let tree = bench.without(&[]).unwrap();
    let dva = Dva { vdev: 0, offset: (16 << 20) - 4096, asize: 4096, gang: false };
    assert!(tree.resolve(&dva, 4096).is_ok());
    let rule = |text| Some(Error::corrupt(text, None));
    assert_eq!(tree.resolve(&dva, 8192).err(), rule("block pointer: offset beyond the vdev's end"));
    assert_eq!(tree.resolve(&Dva { vdev: 7, ..dva }, 512).err(), rule("block pointer: no such vdev"));
    let overflow = tree.resolve(&Dva { offset: u64::MAX, ..dva }, 512).err();
    assert_eq!(overflow, rule("block pointer: offset overflows"));
    let odd = tree.resolve(&Dva { offset: 100, ..dva }, 512).err();
    assert_eq!(odd, rule("block pointer: offset is not aligned to its vdev"));
}

#[test]
fn broken_trees_are_refused() {
    let rule = |text| Some(Error::corrupt(text, None));
    assert_eq!(VdevTree::open(&disk(1 << 40, 1), &[]).err(), rule("vdev tree: id out of range"));
    assert_eq!(VdevTree::open(&raidz(3, 3), &[]).err(), rule("vdev tree: impossible raidz"));
    let wrong = draid(4, 1, 2, 0).with("draid_ndata", 9u64);
    assert!(matches!(VdevTree::open(&wrong, &[]).err(), Some(Error::Corrupt { .. })));
    let odd = disk(0, 1).with("type", "tape");
    assert_eq!(VdevTree::open(&odd, &[]).err(), Some(Error::unsupported("vdev type tape")));
    let twice = NvList::new().with("type", "root").with("children", vec![disk(0, 1), disk(0, 2)]);
    let bench = Bench { config: twice, disks: (1..3).map(|g| (g, Arc::new(MemDisk::new(SIZE)))).collect() };
    assert_eq!(bench.without(&[]).err(), rule("vdev tree: two vdevs with one id"));
}
