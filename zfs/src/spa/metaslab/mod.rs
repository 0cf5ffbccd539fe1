//! Who has which space: vdevs cut into metaslabs, and the allocator on them. Source: `module/zfs/metaslab.c`.
//!
//! # Invariants
//! - Allocation is deterministic: it depends on the order of calls only.
//! - What a txg frees is given out again [`DEFER_TXGS`] synced txgs later; when nothing else is left, one txg later.
//! - The lock is held while a space map is read or appended to. Neither can ask for space, so nobody waits in a circle.

mod pin;
mod slab;
mod trim;

use super::range_tree::RangeTree;
use super::space_map::{Place, SpaceMap};
use super::topology::Bias;
use crate::dmu::{Allocate, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Dva;
use crate::ondisk::gang::GANG_HEADER_SIZE;
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::space_map::HISTOGRAM_SIZE;
use crate::vdev::Geometry;
use crate::zio::{AllocateBlocks, Class};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
pub(crate) use pin::Pin;
use pin::Pins;
use platform::sync::{Condvar, Mutex};
use slab::Metaslab;
pub(crate) use trim::Slab;

/// Txgs between a free and the reuse of its space (`TXG_DEFER_SIZE`).
pub(crate) const DEFER_TXGS: usize = 2;
/// The largest number of metaslabs that a pool may name, against absurd configurations (`zfs_vdev_ms_count_limit`).
const METASLABS_MAX: u64 = 1 << 17;
/// Bytes after which the next vdev is used (`metaslab_aliquot`).
const ALIQUOT: u64 = 512 << 10;
/// Copies of a block on one vdev lie at least this fraction of it apart, if possible (`ditto_same_vdev_distance_shift`).
const DISTANCE_SHIFT: u32 = 3;

/// What the pool's features ask of space maps.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// Headers have a histogram (`spacemap_histogram`).
    pub(crate) histogram: bool,
    /// Two-word entries may be written (`spacemap_v2`).
    pub(crate) two_words: bool,
}

/// How a top-level vdev is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VdevLayout {
    pub(crate) id: u32,
    pub(crate) ashift: u8,
    /// Size of a metaslab as a power of two.
    pub(crate) metaslab_shift: u8,
    /// Allocatable size in bytes.
    pub(crate) asize: u64,
    /// The object that lists the space maps; 0 if there is none yet.
    pub(crate) array: u64,
    /// Blocks may be allocated on it.
    pub(crate) usable: bool,
    /// What it is for.
    pub(crate) bias: Bias,
    /// How large blocks become on it.
    pub(crate) geometry: Geometry,
}

impl VdevLayout {
    /// Bytes of data that allocated ones stand for.
    fn deflate(&self, asize: u64) -> u64 {
        self.geometry.deflate(self.ashift, asize)
    }

    /// Data bytes that the smallest block occupies.
    pub(crate) fn smallest_block(&self) -> u64 {
        self.deflate(self.geometry.psize_to_asize(self.ashift, 1 << self.ashift))
    }
}

/// The size of metaslabs for a vdev of `asize` bytes, as a power of two (`vdev_metaslab_set_size`).
pub(crate) fn metaslab_shift(asize: u64) -> u8 {
    const DEFAULT: u32 = 29;
    const SMALLEST: u32 = 24;
    const LARGEST: u32 = 34;
    let count = asize >> DEFAULT;
    let bits = |bytes: u64| bytes.checked_ilog2().map_or(0, |b| b + 1);
    let shift = match count {
        0..16 => bits(asize / 16),
        16..=200 => DEFAULT,
        _ => bits(asize / 200).clamp(DEFAULT, LARGEST),
    };
    shift.max(SMALLEST) as u8
}

/// Hears of each new space map.
pub(crate) type OnCreated<'a> = &'a mut dyn FnMut() -> Result<()>;

struct VdevSpace {
    layout: VdevLayout,
    slabs: Vec<Metaslab>,
    /// Of the first, second and third copy: the metaslab that is being filled.
    active: [usize; 3],
}

impl VdevSpace {
    fn slab_of(&mut self, dva: &Dva) -> Result<&mut Metaslab> {
        self.slab_at(dva.offset, dva.asize)
    }

    fn slab_at(&mut self, start: u64, len: u64) -> Result<&mut Metaslab> {
        let index = (start >> self.layout.metaslab_shift) as usize;
        let inside = |s: &&mut Metaslab| start.checked_add(len).is_some_and(|end| end <= s.start + s.size);
        let slab = self.slabs.get_mut(index).filter(inside);
        slab.ok_or(Error::corrupt("extent outside its vdev's metaslabs", None))
    }
}

#[derive(Default)]
struct Inner {
    vdevs: Vec<VdevSpace>,
    /// Of each class: the vdev that first copies go to now, and how many bytes it got.
    rotors: [(usize, u64); 4],
    /// How many [`trim::Trimming`]s there are.
    trimmings: usize,
}

/// All space of a pool.
pub(crate) struct Metaslabs {
    mos: Arc<Objset>,
    inner: Mutex<Inner>,
    pins: Pins,
    synced_allocated: AtomicU64,
    /// Every second request for more bytes is refused: [`Metaslabs::force_gangs`].
    gangs_above: AtomicU64,
    requests: AtomicU64,
    /// A [`trim::Trimming`] has ended.
    trimmed: Condvar,
    /// It is on record what becomes free, for automatic trims.
    autotrim: AtomicBool,
}

impl Metaslabs {
    /// The space of `layouts`, with the maps that their arrays name.
    pub(crate) fn open(mos: Arc<Objset>, layouts: &[VdevLayout]) -> Result<Self> {
        let vdevs = layouts.iter().map(|layout| open_vdev(&mos, *layout)).collect::<Result<Vec<_>>>()?;
        let space = Metaslabs {
            mos,
            inner: Mutex::new(Inner { vdevs, rotors: [(0, 0); 4], trimmings: 0 }),
            pins: Pins::default(),
            synced_allocated: AtomicU64::new(0),
            gangs_above: AtomicU64::new(u64::MAX),
            requests: AtomicU64::new(0),
            trimmed: Condvar::new(),
            autotrim: AtomicBool::new(false),
        };
        space.count_allocated();
        Ok(space)
    }

    /// From now on every second block of more than `bytes` finds no room and is made a gang (`metaslab_force_ganging`).
    pub(crate) fn force_gangs(&self, bytes: u64) {
        // A gang's header must find its place.
        self.gangs_above.store(bytes.max(GANG_HEADER_SIZE as u64), Ordering::Relaxed);
    }

    /// One entry of a log of space map changes. Entries on vdevs that hold no blocks any more are left out.
    pub(crate) fn apply_log(&self, vdev: u32, free: bool, start: u64, len: u64) -> Result<()> {
        let mut inner = self.inner.lock();
        let Some(vdev) = inner.vdevs.iter_mut().find(|v| v.layout.id == vdev) else { return Ok(()) };
        vdev.slab_at(start, len)?.apply_log(free, start, len)
    }

    /// All logs were applied.
    pub(crate) fn logs_applied(&self) {
        self.count_allocated();
    }

    /// Takes what logs say over into the metaslabs' own maps. Syncing context.
    pub(crate) fn flush(&self, tx: &Tx, rules: &Rules, on_created: OnCreated<'_>) -> Result<()> {
        self.write_maps(tx, on_created, &mut |slab| slab.flush(&self.mos, tx, rules))
    }

    fn count_allocated(&self) {
        let inner = self.inner.lock();
        let of = |v: &VdevSpace| v.layout.deflate(v.slabs.iter().map(Metaslab::synced_allocated).sum());
        let normal = inner.vdevs.iter().filter(|v| v.layout.bias == Bias::None);
        self.synced_allocated.store(normal.map(of).sum(), Ordering::Release);
    }

    /// Bytes of data that normal vdevs can hold (`metaslab_class_get_dspace`).
    pub(crate) fn size(&self) -> u64 {
        let inner = self.inner.lock();
        let of = |v: &VdevSpace| v.layout.deflate(v.slabs.iter().map(|s| s.size).sum());
        inner.vdevs.iter().filter(|v| v.layout.bias == Bias::None).map(of).sum()
    }

    /// Bytes of data that normal vdevs hold as of the last synced txg.
    pub(crate) fn allocated(&self) -> u64 {
        self.synced_allocated.load(Ordering::Acquire)
    }

    /// Size, and bytes allocated as of the last synced txg, by the index of the vdev.
    pub(crate) fn by_vdev(&self) -> Vec<(u32, u64, u64)> {
        let inner = self.inner.lock();
        let vdev = |v: &VdevSpace| {
            let (size, allocated) = v
                .slabs
                .iter()
                .map(|s| (s.size, s.synced_allocated()))
                .fold((0, 0), |(sizes, sums): (u64, u64), (size, sum)| (sizes + size, sums + sum));
            (v.layout.id, size, allocated)
        };
        inner.vdevs.iter().map(vdev).collect()
    }

    /// Bytes of all vdevs but logs, parity counted, and how many of them are allocated: what `zpool list` shows.
    pub(crate) fn raw_space(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        let slabs = inner.vdevs.iter().filter(|v| v.layout.bias != Bias::Log).flat_map(|v| &v.slabs);
        slabs.fold((0, 0), |(size, used), slab| (size + slab.size, used + slab.synced_allocated()))
    }

    /// Free ranges of all space maps by size (units of 512 bytes); `None` if a map has no histogram.
    pub(crate) fn histogram(&self) -> Option<[u64; HISTOGRAM_SIZE + 16]> {
        let mut sum = [0; HISTOGRAM_SIZE + 16];
        let inner = self.inner.lock();
        for vdev in &inner.vdevs {
            let up = usize::from(vdev.layout.ashift.clamp(9, 25) - 9);
            for slab in &vdev.slabs {
                let Some(map) = &slab.map else {
                    let bucket = (slab.size >> 9).checked_ilog2().unwrap_or(0) as usize;
                    sum[bucket.min(sum.len() - 1)] += 1;
                    continue;
                };
                for (i, count) in map.header.histogram?.iter().enumerate() {
                    sum[(i + up).min(HISTOGRAM_SIZE + 15)] += count;
                }
            }
        }
        Some(sum)
    }

    /// Fragmentation of the free space in percent (`metaslab_class_fragmentation`): how far its ranges are from 16 MiB.
    pub(crate) fn fragmentation(&self) -> Option<u8> {
        const TABLE: [u64; 16] = [100, 100, 98, 95, 90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 5, 0];
        let histogram = self.histogram()?;
        let (mut total, mut weighted) = (0u128, 0u128);
        for (i, count) in histogram.iter().enumerate() {
            let space = u128::from(*count) << (9 + i);
            total += space;
            weighted += space * u128::from(TABLE[i.min(15)]);
        }
        Some(weighted.checked_div(total).unwrap_or(0) as u8)
    }

    /// Marks an extent as allocated that the space maps do not know of; false if they do. Before anything is allocated.
    pub(crate) fn claim(&self, txg: u64, dva: &Dva) -> Result<bool> {
        let mut inner = self.inner.lock();
        inner.slab_of(dva)?.claim(txg, dva.offset, dva.asize)
    }

    /// Frees an extent as of the syncing txg. Sync thread only.
    pub(crate) fn free(&self, dva: &Dva) -> Result<()> {
        let mut inner = self.inner.lock();
        inner.slab_of(dva)?.free(dva.offset, dva.asize)
    }

    /// Appends what the txg allocated and freed since the last pass to the space maps. `on_created` hears of each new map.
    pub(crate) fn sync(&self, tx: &Tx, pass: u32, rules: &Rules, on_created: OnCreated<'_>) -> Result<()> {
        self.write_maps(tx, on_created, &mut |slab| {
            let writes = slab.is_dirty(tx.txg()) || pass == 1 && slab.is_active();
            Ok(writes && slab.sync(&self.mos, tx, pass, rules)?)
        })
    }

    /// Has `write` write the space map of each metaslab; where it says that it made one, that is entered in the vdev's array.
    fn write_maps(
        &self,
        tx: &Tx,
        on_created: OnCreated<'_>,
        write: &mut dyn FnMut(&mut Metaslab) -> Result<bool>,
    ) -> Result<()> {
        let mut inner = self.inner.lock();
        for vdev in &mut inner.vdevs {
            let mut created = vec![];
            for (index, slab) in vdev.slabs.iter_mut().enumerate() {
                if write(slab)? {
                    created.push(index);
                    on_created()?;
                }
            }
            if !created.is_empty() {
                self.write_array(tx, vdev, &created)?;
            }
        }
        Ok(())
    }

    /// Whether the txg has allocated or freed anything that is not yet in the space maps.
    pub(crate) fn is_dirty(&self, txg: u64) -> bool {
        let inner = self.inner.lock();
        inner.vdevs.iter().flat_map(|v| &v.slabs).any(|s| s.is_dirty(txg))
    }

    fn write_array(&self, tx: &Tx, vdev: &mut VdevSpace, created: &[usize]) -> Result<()> {
        let array = if vdev.layout.array == 0 {
            let array = self.mos.allocate(tx, &Allocate::plain(ObjectType::OBJECT_ARRAY, 512))?;
            vdev.layout.array = array.object();
            // The array is written whole, so that its length tells the number of metaslabs.
            array.write(tx, 0, &vec![0; vdev.slabs.len() * 8])?;
            array
        } else {
            self.mos.hold(vdev.layout.array)?
        };
        for index in created {
            let object = vdev.slabs[*index].map.as_ref().map_or(0, SpaceMap::object);
            array.write(tx, *index as u64 * 8, &object.to_le_bytes())?;
        }
        Ok(())
    }

    /// A txg is on disk.
    pub(crate) fn sync_done(&self, txg: u64) {
        let mut inner = self.inner.lock();
        let (pinned, fresh) = (self.pins.in_force(), self.autotrim());
        inner.vdevs.iter_mut().flat_map(|v| &mut v.slabs).for_each(|s| s.sync_done(txg, pinned, fresh));
        drop(inner);
        self.count_allocated();
    }

    /// How the vdevs are cut, with the objects that list their maps.
    pub(crate) fn layouts(&self) -> Vec<VdevLayout> {
        self.inner.lock().vdevs.iter().map(|v| v.layout).collect()
    }

    /// New vdevs: from now on blocks are allocated on them.
    pub(crate) fn add(&self, layouts: &[VdevLayout]) -> Result<()> {
        let new = layouts.iter().map(|layout| open_vdev(&self.mos, *layout)).collect::<Result<Vec<_>>>()?;
        self.inner.lock().vdevs.extend(new);
        self.count_allocated();
        Ok(())
    }

    /// Whether blocks may be allocated on a vdev from now on.
    pub(crate) fn set_usable(&self, id: u32, usable: bool) {
        let mut inner = self.inner.lock();
        inner.vdevs.iter_mut().filter(|v| v.layout.id == id).for_each(|v| v.layout.usable = usable);
    }

    /// Whether nothing lies on a vdev, nor is on its way there.
    pub(crate) fn is_empty(&self, id: u32) -> bool {
        let inner = self.inner.lock();
        let mut slabs = inner.vdevs.iter().filter(|v| v.layout.id == id).flat_map(|v| &v.slabs);
        slabs.all(|slab| slab.synced_allocated() == 0 && !slab.is_allocating())
    }

    /// A vdev on which nothing lies is no more; the objects of its space maps, and whether each had a histogram, and the one that lists
    /// them, if there is one.
    pub(crate) fn remove(&self, id: u32) -> (Vec<(u64, bool)>, Option<u64>) {
        let mut inner = self.inner.lock();
        let Some(index) = inner.vdevs.iter().position(|v| v.layout.id == id) else {
            return (Vec::new(), None);
        };
        let vdev = inner.vdevs.remove(index);
        let maps = vdev.slabs.iter().filter_map(|slab| slab.map.as_ref());
        let maps = maps.map(|map| (map.object(), map.header.histogram.is_some())).collect();
        (maps, Some(vdev.layout.array).filter(|array| *array != 0))
    }

    /// Vdevs that became larger: they get more metaslabs.
    pub(crate) fn grow(&self, layouts: &[VdevLayout]) -> Result<()> {
        let mut inner = self.inner.lock();
        for vdev in &mut inner.vdevs {
            let Some(layout) = layouts.iter().find(|l| l.id == vdev.layout.id && l.asize > vdev.layout.asize)
            else {
                continue;
            };
            let layout = VdevLayout { array: vdev.layout.array, ..*layout };
            let larger = open_slabs(&self.mos, &layout, vdev.slabs.len())?;
            vdev.slabs.extend(larger);
            vdev.layout.asize = layout.asize;
        }
        Ok(())
    }

    /// What the space maps say is allocated, by vdev. Metaslabs whose map is broken are reported and left out.
    pub(crate) fn allocated_ranges(&self, mut broken: impl FnMut(u32, u64, Error)) -> Vec<(u32, RangeTree)> {
        let inner = self.inner.lock();
        let mut all = Vec::new();
        for vdev in &inner.vdevs {
            let mut ranges = RangeTree::new();
            for slab in &vdev.slabs {
                let object = slab.map.as_ref().map_or(0, SpaceMap::object);
                match slab.allocated_on_disk() {
                    Ok(allocated) if allocated.space() != slab.synced_allocated() => {
                        let error = Error::corrupt("space map: its sum is not that of its entries", None);
                        broken(vdev.layout.id, object, error);
                        allocated.iter().for_each(|(s, l)| _ = ranges.add(s, l));
                    }
                    Ok(allocated) => allocated.iter().for_each(|(s, l)| _ = ranges.add(s, l)),
                    Err(error) => broken(vdev.layout.id, object, error),
                }
            }
            all.push((vdev.layout.id, ranges));
        }
        all
    }
}

fn open_vdev(mos: &Arc<Objset>, layout: VdevLayout) -> Result<VdevSpace> {
    let slabs = open_slabs(mos, &layout, 0)?;
    // Copies start far apart: the first at the start, the others further on.
    let far = |eighths: usize| if slabs.is_empty() { 0 } else { slabs.len() * eighths / 8 };
    let active = [0, far(3), far(6)];
    Ok(VdevSpace { layout, slabs, active })
}

/// The metaslabs of a vdev from number `first` on.
fn open_slabs(mos: &Arc<Objset>, layout: &VdevLayout, first: usize) -> Result<Vec<Metaslab>> {
    let count = layout.asize.checked_shr(u32::from(layout.metaslab_shift)).unwrap_or(0);
    if count > METASLABS_MAX || layout.metaslab_shift >= 56 {
        return Err(Error::corrupt("vdev: too many metaslabs", None));
    }
    let mut objects = vec![0; count as usize * 8];
    if layout.array != 0 {
        // Short in a pool whose vdev grew: the rest are metaslabs that were never used.
        mos.hold(layout.array)?.read(0, &mut objects)?;
    }
    let mut slabs = Vec::with_capacity(count as usize);
    for (index, object) in objects.as_chunks::<8>().0.iter().enumerate().skip(first) {
        let object = u64::from_le_bytes(*object);
        // On draid what is before the first and after the last whole stripe is left out (`vdev_draid_metaslab_init`).
        let (unit, whole) = (layout.geometry.alignment(layout.ashift), 1u64 << layout.metaslab_shift);
        let begin = index as u64 * whole;
        let start = begin.next_multiple_of(unit);
        let size = (begin + whole).saturating_sub(start) / unit * unit;
        let place = Place { vdev: layout.id, shift: layout.ashift, start };
        let map = (object != 0).then(|| SpaceMap::open(mos, object, place)).transpose()?;
        slabs.push(Metaslab::new(place, size, map));
    }
    Ok(slabs)
}

impl Inner {
    fn slab_of(&mut self, dva: &Dva) -> Result<&mut Metaslab> {
        let vdev = self.vdevs.iter_mut().find(|v| v.layout.id == dva.vdev);
        vdev.ok_or(Error::corrupt("block pointer: no such vdev", None))?.slab_of(dva)
    }

    /// Extents for all copies on vdevs of one class; none if it has no room, and nothing is allocated then.
    fn allocate_class(
        &mut self,
        txg: u64,
        psize: u64,
        copies: usize,
        bias: Bias,
        pins: &Pins,
    ) -> Result<Option<Vec<Dva>>> {
        let matching =
            self.vdevs.iter().enumerate().filter(|(_, v)| v.layout.bias == bias && v.layout.usable);
        let vdevs: Vec<usize> = matching.map(|(index, _)| index).collect();
        if vdevs.is_empty() {
            return Ok(None);
        }
        let mut dvas: Vec<Dva> = Vec::with_capacity(copies);
        for copy in 0..copies {
            let mut found = self.allocate_one(txg, psize, copy, &dvas, bias, &vdevs);
            if matches!(found, Ok(None)) {
                pins.break_all();
                let slabs =
                    self.vdevs.iter_mut().filter(|v| v.layout.bias == bias).flat_map(|v| &mut v.slabs);
                if slabs.filter_map(|s| s.release_deferred().then_some(())).count() > 0 {
                    found = self.allocate_one(txg, psize, copy, &dvas, bias, &vdevs);
                }
            }
            match found {
                Ok(Some(dva)) => dvas.push(dva),
                failed => {
                    for dva in &dvas {
                        self.slab_of(dva)?.unallocate(txg, dva.offset, dva.asize);
                    }
                    return failed.map(|_| None);
                }
            }
        }
        Ok(Some(dvas))
    }

    /// One copy on one of `vdevs`, away from those that exist already.
    fn allocate_one(
        &mut self,
        txg: u64,
        psize: u64,
        copy: usize,
        others: &[Dva],
        bias: Bias,
        vdevs: &[usize],
    ) -> Result<Option<Dva>> {
        let count = vdevs.len();
        let rotor = self.rotors[bias as usize];
        for closeness in 0..3 {
            for step in 0..count {
                let vdev = &mut self.vdevs[vdevs[(rotor.0 + copy + step) % count]];
                if closeness == 0 && count > 1 && others.iter().any(|o| o.vdev == vdev.layout.id) {
                    continue;
                }
                if let Some(dva) = vdev.allocate(txg, psize, copy, others, closeness)? {
                    if copy == 0 {
                        // What raidz adds is not counted: wide vdevs take longer turns.
                        let filled = rotor.1 + psize;
                        let full = filled >= ALIQUOT;
                        self.rotors[bias as usize] =
                            if full { ((rotor.0 + 1) % count, 0) } else { (rotor.0, filled) };
                    }
                    return Ok(Some(dva));
                }
            }
        }
        Ok(None)
    }

    /// Whether special vdevs have room for data, too: a quarter is kept for metadata (`zfs_special_class_metadata_reserve_pct`).
    fn special_takes_data(&self) -> bool {
        const KEPT_PERCENT: u64 = 25;
        let slabs = self.vdevs.iter().filter(|v| v.layout.bias == Bias::Special).flat_map(|v| &v.slabs);
        let (size, used) = slabs.fold((0, 0), |(size, used), s| (size + s.size, used + s.synced_allocated()));
        used < size / 100 * (100 - KEPT_PERCENT)
    }
}

impl VdevSpace {
    fn allocate(
        &mut self,
        txg: u64,
        psize: u64,
        copy: usize,
        others: &[Dva],
        closeness: u32,
    ) -> Result<Option<Dva>> {
        let VdevLayout { id, ashift, metaslab_shift, geometry, .. } = self.layout;
        let asize = geometry.psize_to_asize(ashift, psize);
        let total = (self.slabs.len() as u64) << metaslab_shift;
        let distance = match closeness {
            0 => (total >> DISTANCE_SHIFT) >> metaslab_shift,
            1 => 1,
            _ => 0,
        };
        let near = |index: usize| {
            others
                .iter()
                .filter(|o| o.vdev == id)
                .any(|o| (o.offset >> metaslab_shift).abs_diff(index as u64) < distance)
        };
        let active = self.active[copy.min(2)];
        if !near(active)
            && let Some(slab) = self.slabs.get_mut(active)
            && let Some(offset) = slab.allocate(txg, asize)?
        {
            return Ok(Some(Dva { vdev: id, offset, asize, gang: false }));
        }
        let mut order: Vec<(u64, usize)> = self
            .slabs
            .iter()
            .enumerate()
            .filter(|(i, s)| *i != active && !near(*i) && s.free_estimate() >= asize)
            .map(|(i, s)| (u64::MAX - s.free_estimate(), i))
            .collect();
        order.sort_unstable();
        for (_, index) in order {
            if let Some(offset) = self.slabs[index].allocate(txg, asize)? {
                self.active[copy.min(2)] = index;
                return Ok(Some(Dva { vdev: id, offset, asize, gang: false }));
            }
        }
        Ok(None)
    }
}

impl AllocateBlocks for Metaslabs {
    fn allocate(&self, txg: u64, psize: u64, copies: usize, class: Class) -> Result<Vec<Dva>> {
        let forced = psize > self.gangs_above.load(Ordering::Relaxed) && class != Class::Log;
        if forced && self.requests.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            return Err(Error::NoSpace);
        }
        let mut inner = self.inner.lock();
        let classes: &[Bias] = match class {
            Class::Normal => &[Bias::None],
            Class::Log => &[Bias::Log, Bias::None],
            Class::Small if !inner.special_takes_data() => &[Bias::None],
            Class::Special | Class::Small => &[Bias::Special, Bias::None],
            Class::Dedup => &[Bias::Dedup, Bias::Special, Bias::None],
        };
        loop {
            for bias in classes {
                if let Some(dvas) = inner.allocate_class(txg, psize, copies, *bias, &self.pins)? {
                    return Ok(dvas);
                }
            }
            if inner.trimmings == 0 {
                return Err(Error::NoSpace);
            }
            // What devices are being told to be free is so in a moment.
            inner = self.trimmed.wait(inner);
        }
    }

    fn unallocate(&self, txg: u64, dva: &Dva) {
        let mut inner = self.inner.lock();
        if let Ok(slab) = inner.slab_of(dva) {
            slab.unallocate(txg, dva.offset, dva.asize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metaslabs_get_openzfs_sizes() {
        assert_eq!(metaslab_shift(163_053_568), 24);
        assert_eq!(metaslab_shift(1 << 30), 27);
        assert_eq!(metaslab_shift(16 << 30), 29);
        assert_eq!(metaslab_shift(1 << 40), 33);
    }
}
