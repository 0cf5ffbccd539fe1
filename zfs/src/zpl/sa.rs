//! The attribute registry and the layouts of a file system, and the attributes of one file. Source: `module/zfs/sa.c`.
//!
//! # Invariants
//! - A layout's number, once on disk, always means the same attributes.
//! - Attributes keep their order; new ones go to the end, so that files of one kind share one layout.

use crate::dmu::{Dnode, Objset, Tx};
use crate::error::{Error, Result};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::sa::{Header, Registered, ZPL_ATTRIBUTES, Zpl, emit, header_size, parse};
use crate::ondisk::znode::{ZNODE_PHYS, ZNODE_PHYS_SIZE, parse_znode_phys};
use crate::zap;
use alloc::collections::BTreeMap;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use hashbrown::HashMap;
use platform::clock::Timespec;
use platform::sync::Mutex;

/// Size of a block pointer: what a spill block's pointer takes from the bonus.
const SPILL_POINTER: usize = 128;
/// Largest spill block, in bytes (`SPA_OLD_MAXBLOCKSIZE`).
const MAX_SPILL: usize = 128 << 10;
/// A key above this is an attribute that the ZPL does not know, with its number in the low bits.
const UNKNOWN: u16 = 0x8000;

/// A layout: attribute numbers of this objset with their lengths.
type Layout = Arc<[(u16, u16)]>;

#[derive(Default)]
struct Tables {
    /// By number in this objset: ZPL attribute and length.
    registered: HashMap<u16, Registered>,
    /// Number of each ZPL attribute in this objset.
    number: [Option<u16>; ZPL_ATTRIBUTES.len()],
    key: HashMap<u16, u16>,
    layouts: HashMap<u16, Layout>,
    layout_of: BTreeMap<Vec<u16>, u16>,
    registry: Option<Arc<Dnode>>,
    layout_zap: Option<Arc<Dnode>>,
    /// Newest txg in which something was added.
    changed: u64,
}

/// The registry and the layouts of a file system.
pub(super) struct SaTable {
    os: Arc<Objset>,
    /// The SA master node; `None` below ZPL version 5.
    master: Option<Arc<Dnode>>,
    tables: Mutex<Tables>,
}

impl SaTable {
    /// Loads what is registered. `master` is the object that the master node calls `SA_ATTRS`, 0 if there is none.
    pub(super) fn load(os: &Arc<Objset>, master: u64) -> Result<Self> {
        let master = if master == 0 { None } else { Some(os.hold(master)?) };
        let mut tables = Tables::default();
        if let Some(master) = &master {
            tables.registry = linked(os, master, "REGISTRY")?;
            tables.layout_zap = linked(os, master, "LAYOUTS")?;
        }
        if let Some(registry) = &tables.registry.clone() {
            for entry in zap::entries(registry)? {
                let registered = Registered::from_raw(entry.value.first());
                tables.register(&entry.name, registered);
            }
        }
        if let Some(layouts) = &tables.layout_zap.clone() {
            for entry in zap::entries(layouts)? {
                let number = core::str::from_utf8(&entry.name).ok().and_then(|n| n.parse().ok());
                let number =
                    number.ok_or(Error::corrupt("system attributes: layout name is no number", None))?;
                let numbers: Vec<u16> = entry.value.ints.iter().map(|&n| n as u16).collect();
                tables.learn(number, numbers);
            }
        }
        Ok(SaTable { os: Arc::clone(os), master, tables: Mutex::new(tables) })
    }

    /// The attributes in a bonus or spill buffer.
    fn parse(&self, buffer: &[u8], into: &mut Attrs) -> Result<()> {
        let header = Header::parse(buffer)?;
        let tables = self.tables.lock();
        let layout = tables.layouts.get(&header.layout).cloned();
        let layout = layout.ok_or(Error::corrupt("system attributes: unknown layout", None))?;
        for (number, value) in parse(buffer, &layout)? {
            let key = tables.key.get(&number).copied().unwrap_or(UNKNOWN | number);
            into.push(key, value);
        }
        Ok(())
    }

    /// The number of the layout that has these keys in this order; made and stored if it is new.
    fn layout(&self, tx: &Tx, keys: &[u16]) -> Result<u16> {
        let mut tables = self.tables.lock();
        let known = keys.iter().map(|&key| tables.number_of(key)).collect::<Option<Vec<u16>>>();
        if let Some(numbers) = &known
            && let Some(layout) = tables.layout_of.get(numbers)
        {
            if tables.changed > tx.txg() {
                tables.store_again(tx, numbers, *layout)?;
            }
            return Ok(*layout);
        }
        tables.changed = tables.changed.max(tx.txg());
        // Rare, and once per kind of file: the lock may stay while the ZAPs change.
        let master = self.master.as_ref().ok_or(Error::Invalid("file system without system attributes"))?;
        let registry = match &tables.registry {
            Some(registry) => Arc::clone(registry),
            None => create_linked(&self.os, tx, master, "REGISTRY", ObjectType::SA_ATTR_REGISTRATION)?,
        };
        tables.registry = Some(Arc::clone(&registry));
        for (index, attribute) in ZPL_ATTRIBUTES.iter().enumerate() {
            if tables.number[index].is_none() {
                let number = tables.free_number(index as u16);
                let registered = Registered { number, len: attribute.len, byteswap: attribute.byteswap };
                zap::update_u64(&registry, tx, attribute.name, registered.to_raw())?;
                tables.register(attribute.name.as_bytes(), registered);
            }
        }
        let layouts = match &tables.layout_zap {
            Some(layouts) => Arc::clone(layouts),
            None => create_linked(&self.os, tx, master, "LAYOUTS", ObjectType::SA_ATTR_LAYOUTS)?,
        };
        tables.layout_zap = Some(layouts);
        let numbers = keys.iter().map(|&key| tables.number_of(key)).collect::<Option<Vec<u16>>>();
        let numbers = numbers.expect("every attribute of the ZPL was just registered");
        if let Some(layout) = tables.layout_of.get(&numbers) {
            return Ok(*layout);
        }
        // 0 and 1 are taken by the layouts that stand for a znode_phys_t.
        let number = tables.layouts.keys().max().map_or(2, |max| (max + 1).max(2));
        if number > 0x3ff {
            return Err(Error::TooBig);
        }
        tables.store_layout(tx, &numbers, number)?;
        tables.learn(number, numbers);
        Ok(number)
    }
}

impl Tables {
    /// Writes a layout.
    fn store_layout(&self, tx: &Tx, numbers: &[u16], layout: u16) -> Result<()> {
        let zap = self.layout_zap.as_ref().ok_or(Error::Invalid("file system without system attributes"))?;
        let ints = numbers.iter().map(|&n| u64::from(n)).collect();
        zap::update(zap, tx, layout.to_string().as_str(), &zap::Value { int_size: 2, ints })
    }

    /// Writes a layout that came with a newer txg into that of `tx`, too, and what its attributes are: a file must not refer to what its
    /// own txg does not have.
    fn store_again(&self, tx: &Tx, numbers: &[u16], layout: u16) -> Result<()> {
        for (attribute, number) in ZPL_ATTRIBUTES.iter().zip(&self.number) {
            if let (Some(registry), Some(number)) = (&self.registry, number)
                && let Some(registered) = self.registered.get(number).filter(|_| numbers.contains(number))
            {
                zap::update_u64(registry, tx, attribute.name, registered.to_raw())?;
            }
        }
        self.store_layout(tx, numbers, layout)
    }

    fn register(&mut self, name: &[u8], registered: Registered) {
        self.registered.insert(registered.number, registered);
        if let Some(index) = ZPL_ATTRIBUTES.iter().position(|a| a.name.as_bytes() == name) {
            self.number[index] = Some(registered.number);
            self.key.insert(registered.number, index as u16);
        }
    }

    fn learn(&mut self, number: u16, numbers: Vec<u16>) {
        let layout = numbers.iter().map(|&n| (n, self.registered.get(&n).map_or(0, |r| r.len))).collect();
        self.layouts.insert(number, layout);
        self.layout_of.entry(numbers).or_insert(number);
    }

    fn number_of(&self, key: u16) -> Option<u16> {
        if key & UNKNOWN != 0 { Some(key & !UNKNOWN) } else { *self.number.get(usize::from(key))? }
    }

    fn len_of(&self, key: u16) -> u16 {
        match ZPL_ATTRIBUTES.get(usize::from(key)) {
            Some(attribute) => attribute.len,
            None => self.registered.get(&(key & !UNKNOWN)).map_or(0, |r| r.len),
        }
    }

    /// The number for a ZPL attribute that the registry does not have yet: its own index, unless that is taken.
    fn free_number(&self, index: u16) -> u16 {
        if self.registered.contains_key(&index) {
            self.registered.keys().max().map_or(0, |max| max + 1).max(ZPL_ATTRIBUTES.len() as u16)
        } else {
            index
        }
    }
}

fn linked(os: &Arc<Objset>, master: &Arc<Dnode>, name: &str) -> Result<Option<Arc<Dnode>>> {
    match zap::lookup_u64(master, name) {
        Ok(object) => Ok(Some(os.hold(object)?)),
        Err(Error::NotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

fn create_linked(
    os: &Arc<Objset>,
    tx: &Tx,
    master: &Arc<Dnode>,
    name: &str,
    object_type: ObjectType,
) -> Result<Arc<Dnode>> {
    let zap = zap::create(os, tx, object_type, &zap::CreateOptions::default())?;
    zap::add_u64(master, tx, name, zap.object())?;
    Ok(zap)
}

/// How a file's attributes are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// In a `znode_phys_t`.
    ZnodePhys,
    /// As system attributes.
    Sa,
}

/// Where a value lies among the bytes of all.
#[derive(Debug, Clone, Copy)]
struct Place {
    key: u16,
    at: u32,
    len: u32,
}

impl Place {
    fn range(self) -> Range<usize> {
        self.at as usize..(self.at + self.len) as usize
    }
}

/// How attributes are packed that all fit into the bonus.
#[derive(Debug, Clone, Copy)]
struct Packing {
    layout: u16,
    /// Txg that has the layout; an older one may not.
    txg: u64,
    /// Those of variable length, a bit each.
    variable: u64,
}

/// The attributes of one file, in their order. They change with every write, so all values lie in one buffer, and how they are packed is
/// remembered.
#[derive(Debug, Clone)]
pub(super) struct Attrs {
    format: Format,
    places: Vec<Place>,
    bytes: Vec<u8>,
    /// Which place each attribute of the ZPL has, from 1; 0: it is missing.
    index: [u8; ZPL_ATTRIBUTES.len()],
    has_spill: bool,
    /// Holds as long as no value comes, goes or changes its length.
    packing: Option<Packing>,
}

/// What stands before a file's project, in this order.
const BEFORE_PROJECT: [Zpl; 12] = [
    Zpl::Mode,
    Zpl::Size,
    Zpl::Gen,
    Zpl::Uid,
    Zpl::Gid,
    Zpl::Parent,
    Zpl::Flags,
    Zpl::Atime,
    Zpl::Mtime,
    Zpl::Ctime,
    Zpl::Crtime,
    Zpl::Links,
];

impl Attrs {
    /// No attributes yet.
    pub(super) fn new() -> Self {
        let (places, bytes) = (Vec::with_capacity(16), Vec::with_capacity(192));
        let index = [0; ZPL_ATTRIBUTES.len()];
        Attrs { format: Format::Sa, places, bytes, index, has_spill: false, packing: None }
    }

    /// Reads those of an object. [`Error::Corrupt`] if it has none.
    pub(super) fn load(table: &SaTable, dnode: &Dnode) -> Result<Self> {
        let info = dnode.info();
        let bonus = dnode.bonus();
        let mut attrs = Attrs::new();
        match info.bonus_type {
            ObjectType::ZNODE => {
                attrs.format = Format::ZnodePhys;
                for (attr, value) in parse_znode_phys(&bonus)? {
                    attrs.push(attr as u16, value);
                }
            }
            ObjectType::SA => {
                table.parse(&bonus, &mut attrs)?;
                if info.has_spill {
                    attrs.has_spill = true;
                    if let Some(spill) = dnode.spill()? {
                        table.parse(&spill, &mut attrs)?;
                    }
                }
            }
            _ => return Err(Error::corrupt("file: bonus holds no attributes", None)),
        }
        Ok(attrs)
    }

    fn push(&mut self, key: u16, value: &[u8]) {
        // Both are far below 4 GiB: a bonus and a spill block hold them, or they are refused before they are stored.
        self.places.push(Place { key, at: self.bytes.len() as u32, len: value.len() as u32 });
        self.bytes.extend_from_slice(value);
        self.packing = None;
        // The first one counts, should a damaged file name it twice.
        if let Some(entry) = self.index.get_mut(usize::from(key)).filter(|entry| **entry == 0) {
            *entry = u8::try_from(self.places.len()).unwrap_or(0);
        }
    }

    fn find(&self, attr: Zpl) -> Option<usize> {
        usize::from(self.index[attr as usize]).checked_sub(1)
    }

    /// Takes all values out, to be put back in another order or changed.
    fn take_all(&mut self) -> (Vec<Place>, Vec<u8>) {
        self.index.fill(0);
        (core::mem::take(&mut self.places), core::mem::take(&mut self.bytes))
    }

    /// Replaces a value by one of another length (`None`: by nothing), keeping the order.
    fn rebuild(&mut self, at: usize, value: Option<&[u8]>) {
        let (places, bytes) = self.take_all();
        for (i, place) in places.into_iter().enumerate() {
            match (i == at, value) {
                (false, _) => self.push(place.key, &bytes[place.range()]),
                (true, Some(value)) => self.push(place.key, value),
                (true, None) => self.packing = None,
            }
        }
    }

    /// How they are stored.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// A value's bytes.
    pub(super) fn get(&self, attr: Zpl) -> Option<&[u8]> {
        self.find(attr).map(|i| &self.bytes[self.places[i].range()])
    }

    /// A word; 0 if it is missing.
    pub(super) fn word(&self, attr: Zpl) -> u64 {
        self.get(attr).and_then(|v| v.first_chunk::<8>()).map_or(0, |v| u64::from_le_bytes(*v))
    }

    /// A time; 1970 if it is missing.
    pub(super) fn time(&self, attr: Zpl) -> Timespec {
        let words = self.get(attr).map_or(&[][..], |v| v.as_chunks::<8>().0);
        let word = |i: usize| words.get(i).map_or(0, |w| u64::from_le_bytes(*w));
        Timespec { sec: word(0) as i64, nsec: (word(1) % 1_000_000_000) as u32 }
    }

    /// Sets a value, which goes to the end if it is new.
    pub(super) fn set(&mut self, attr: Zpl, value: &[u8]) {
        match self.find(attr) {
            Some(i) if self.places[i].len as usize == value.len() => {
                self.bytes[self.places[i].range()].copy_from_slice(value);
            }
            Some(i) => self.rebuild(i, Some(value)),
            None => self.push(attr as u16, value),
        }
    }

    /// Sets a word.
    pub(super) fn set_word(&mut self, attr: Zpl, value: u64) {
        self.set(attr, &value.to_le_bytes());
    }

    /// Sets the project. Accounts look for it at one place, whatever the layout, so that what is before it has to be as well
    /// (`sa_add_projid`, `zfs_mknode`).
    pub(super) fn set_project(&mut self, project: u64) {
        self.set_word(Zpl::Projid, project);
        let order = |place: &Place| BEFORE_PROJECT.iter().position(|attr| *attr as u16 == place.key);
        let rank = |place: &Place| match place.key == Zpl::Projid as u16 {
            true => BEFORE_PROJECT.len(),
            false => order(place).unwrap_or(BEFORE_PROJECT.len() + 1),
        };
        if self.places.is_sorted_by_key(rank) {
            return;
        }
        let (mut places, bytes) = self.take_all();
        places.sort_by_key(rank);
        places.into_iter().for_each(|place| self.push(place.key, &bytes[place.range()]));
    }

    /// Sets a time.
    pub(super) fn set_time(&mut self, attr: Zpl, time: Timespec) {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&time.sec.to_le_bytes());
        value[8..].copy_from_slice(&u64::from(time.nsec).to_le_bytes());
        self.set(attr, &value);
    }

    /// Removes a value.
    pub(super) fn remove(&mut self, attr: Zpl) {
        if let Some(i) = self.find(attr) {
            self.rebuild(i, None);
        }
    }

    /// Whether they would fit an object: in its bonus and one spill block.
    pub(super) fn fits(&self) -> bool {
        self.places.iter().map(|p| (p.len as usize).next_multiple_of(8)).sum::<usize>() + 256 <= MAX_SPILL
            && self.places.iter().all(|p| p.len <= u32::from(u16::MAX))
    }

    /// Those in `range` as they lie on disk.
    fn pack(&self, range: Range<usize>, packing: Packing) -> Vec<u8> {
        let first = range.start;
        let values = self.places[range].iter().enumerate().map(move |(i, place)| {
            (
                &self.bytes[place.range()],
                packing.variable.checked_shr((first + i) as u32).unwrap_or(0) & 1 != 0,
            )
        });
        emit(packing.layout, values)
    }

    /// Writes them to the object.
    pub(super) fn store(&mut self, table: &SaTable, dnode: &Arc<Dnode>, tx: &Tx) -> Result<()> {
        if self.format == Format::ZnodePhys {
            return self.store_znode_phys(dnode, tx);
        }
        if let Some(packing) = self.packing.filter(|packing| packing.txg <= tx.txg()) {
            return dnode.set_bonus(tx, ObjectType::SA, &self.pack(0..self.places.len(), packing));
        }
        if !self.fits() || self.places.len() > u64::BITS as usize {
            return Err(Error::TooBig);
        }
        let variable = {
            let tables = table.tables.lock();
            let bits = self.places.iter().enumerate();
            bits.fold(0, |all, (i, place)| all | u64::from(tables.len_of(place.key) == 0) << i)
        };
        let split = self.split(variable, dnode.max_bonus(false));
        let packing = |range: Range<usize>| -> Result<Packing> {
            let keys: Vec<u16> = self.places[range].iter().map(|place| place.key).collect();
            Ok(Packing { layout: table.layout(tx, &keys)?, txg: tx.txg(), variable })
        };
        let inside = packing(0..split)?;
        let bonus = self.pack(0..split, inside);
        if split == self.places.len() {
            if self.has_spill {
                dnode.remove_spill(tx)?;
                self.has_spill = false;
            }
            self.packing = Some(inside);
            return dnode.set_bonus(tx, ObjectType::SA, &bonus);
        }
        let rest = split..self.places.len();
        let spill = self.pack(rest.clone(), packing(rest)?);
        dnode.set_bonus(tx, ObjectType::SA, &bonus)?;
        dnode.set_spill(tx, &spill)?;
        self.has_spill = true;
        Ok(())
    }

    /// How many of the attributes stay in a bonus of `room` bytes: all, or those before the first one that would not
    /// leave room for the pointer of a spill block (`sa_find_sizes`).
    fn split(&self, variable: u64, room: usize) -> usize {
        let (mut total, mut count, mut first_out) = (0, 0, None);
        for (i, place) in self.places.iter().enumerate() {
            total += (place.len as usize).next_multiple_of(8);
            count += usize::from(variable >> i & 1 != 0);
            if first_out.is_none() && total + header_size(count) > room.saturating_sub(SPILL_POINTER) {
                first_out = Some(i);
            }
        }
        if total + header_size(count) <= room {
            self.places.len()
        } else {
            first_out.unwrap_or(self.places.len())
        }
    }

    fn store_znode_phys(&self, dnode: &Arc<Dnode>, tx: &Tx) -> Result<()> {
        let mut bonus = dnode.bonus().to_vec();
        if bonus.len() < ZNODE_PHYS_SIZE {
            return Err(Error::corrupt("znode: bonus too short", None));
        }
        for (attr, at, len) in ZNODE_PHYS {
            if let Some(value) = self.get(attr).filter(|v| v.len() == len) {
                bonus[at..at + len].copy_from_slice(value);
            }
        }
        dnode.set_bonus(tx, ObjectType::ZNODE, &bonus)
    }
}
