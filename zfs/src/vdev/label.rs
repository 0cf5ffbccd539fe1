//! Reading and writing the labels of devices. Source: `vdev_label.c`.

use super::{Leaf, VdevTree};
use crate::checksum::embedded::{check, label_verifier, seal};
use crate::error::{Error, Result};
use crate::ondisk::label::{
    LABEL_SIZE, LABELS, MMP_SLOTS, NVLIST_OFFSET, NVLIST_SIZE, RING_OFFSET, RING_SIZE, label_offset,
    slot_count, slot_size,
};
use crate::ondisk::nvlist::NvList;
use crate::ondisk::uberblock::{MMP_MAGIC, Uberblock};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::block::{Batch, BlockDevice, Op, Outcome};

/// Bytes of a label that are read: pads and boot block are of no interest, but it is one request.
const READ_SIZE: usize = LABEL_SIZE as usize;
/// Offset in a label from which [`create`] writes: after the first pad, where a boot loader may live.
const CREATE_OFFSET: u64 = crate::ondisk::label::BOOT_ENV_OFFSET;

/// What the labels of one device say.
#[derive(Debug, Clone)]
pub struct Label {
    /// The newest configuration, or the one that [`Label::choose`] found.
    pub config: NvList,
    /// All valid configurations.
    configs: Vec<NvList>,
    /// The best uberblock of all rings.
    pub uberblock: Option<Uberblock>,
    /// All valid uberblocks, best first, each once.
    pub uberblocks: Vec<Uberblock>,
    /// Which labels hold a valid configuration.
    pub valid: [bool; LABELS],
}

impl Label {
    /// The guid of the device's leaf vdev.
    pub fn guid(&self) -> Result<u64> {
        self.config.u64("guid")
    }

    /// Takes the configuration that belongs to the uberblock of `txg`: the newest that is not newer. Of a txg that was cut off
    /// there may be a newer one, which knows of devices and guids that never were (`vdev_label_read_config`).
    pub fn choose(&mut self, txg: u64) {
        let age = |config: &&NvList| config.get_u64("txg").unwrap_or(0);
        if let Some(config) = self.configs.iter().filter(|config| age(config) <= txg).max_by_key(age) {
            self.config = config.clone();
        }
    }
}

/// One of the four labels, for inspection.
#[derive(Debug, Clone, Default)]
pub struct LabelCopy {
    /// Its configuration, if it is valid.
    pub config: Option<NvList>,
    /// The valid uberblocks with their slots.
    pub uberblocks: Vec<(usize, Uberblock)>,
}

fn ashift_of(config: &NvList) -> u8 {
    let ashift = config.get_nvlist("vdev_tree").and_then(|tree| tree.get_u64("ashift"));
    ashift.and_then(|a| u8::try_from(a).ok()).unwrap_or(9)
}

/// Reads all four labels of a device, each by itself. Unreadable ones are empty. [`Error::NoPool`] if the device is
/// too small to have labels.
pub fn scan(device: &dyn BlockDevice) -> Result<[LabelCopy; LABELS]> {
    let size = device.info().size;
    if size < LABELS as u64 * LABEL_SIZE {
        return Err(Error::NoPool);
    }
    let batch = Batch::new();
    for index in 0..LABELS {
        batch.submit(device, Op::Read { offset: label_offset(size, index), buf: vec![0; READ_SIZE] });
    }
    let outcomes = batch.wait();
    let mut raw: Vec<Option<Vec<u8>>> = outcomes.into_iter().map(Outcome::ok).collect();
    let mut copies: [LabelCopy; LABELS] = Default::default();
    for (index, bytes) in raw.iter_mut().enumerate() {
        let Some(bytes) = bytes else { continue };
        let at = NVLIST_OFFSET as usize;
        let block = &mut bytes[at..at + NVLIST_SIZE];
        if check(block, label_verifier(label_offset(size, index) + NVLIST_OFFSET)) {
            copies[index].config = NvList::unpack(block).ok();
        }
    }
    // A ring whose own configuration is lost is read with the slot size of the others.
    let known = copies.iter().find_map(|c| c.config.as_ref()).map(ashift_of);
    for (index, bytes) in raw.iter_mut().enumerate() {
        let Some((bytes, known)) = bytes.as_mut().zip(known) else { continue };
        let ashift = copies[index].config.as_ref().map_or(known, ashift_of);
        let ring = &mut bytes[RING_OFFSET as usize..];
        copies[index].uberblocks = ring_uberblocks(ring, ashift, label_offset(size, index) + RING_OFFSET);
    }
    Ok(copies)
}

fn ring_uberblocks(ring: &mut [u8], ashift: u8, offset: u64) -> Vec<(usize, Uberblock)> {
    let size = slot_size(ashift);
    let mut found = Vec::new();
    for (slot, bytes) in ring.chunks_exact_mut(size).enumerate() {
        if check(bytes, label_verifier(offset + (slot * size) as u64))
            && let Ok(uberblock) = Uberblock::parse(bytes)
        {
            found.push((slot, uberblock));
        }
    }
    found
}

/// Reads the labels of a device and chooses the newest configuration and the best uberblock. [`Error::NoPool`] if no
/// label is valid.
pub fn read(device: &dyn BlockDevice) -> Result<Label> {
    let copies = scan(device)?;
    let mut valid = [false; LABELS];
    for (valid, copy) in valid.iter_mut().zip(&copies) {
        *valid = copy.config.is_some();
    }
    let mut uberblocks: Vec<Uberblock> =
        copies.iter().flat_map(|c| &c.uberblocks).map(|(_, u)| u.clone()).collect();
    uberblocks.sort_by_key(|u| core::cmp::Reverse(u.rank()));
    uberblocks.dedup();
    let uberblock = uberblocks.first().cloned();
    // Of labels of one age the first, as later ones are written later.
    let configs: Vec<NvList> = copies.into_iter().rev().filter_map(|c| c.config).collect();
    let newest = configs.iter().max_by_key(|c| c.get_u64("txg").unwrap_or(0)).cloned();
    let config = newest.ok_or(Error::NoPool)?;
    Ok(Label { config, configs, uberblock, uberblocks, valid })
}

/// The configuration block of a label that lies at `offset` on its device.
fn config_block(config: &NvList, offset: u64) -> Result<Bytes> {
    let mut block = config.pack_xdr();
    if block.len() > NVLIST_SIZE - crate::ondisk::eck::ECK_SIZE {
        return Err(Error::NameTooLong);
    }
    block.resize(NVLIST_SIZE, 0);
    seal(&mut block, label_verifier(offset + NVLIST_OFFSET));
    Ok(Bytes::from(block))
}

fn all(outcomes: Vec<Outcome>) -> Result<()> {
    outcomes.into_iter().try_for_each(|o| o.map(|_| ()).map_err(Error::from))
}

/// Writes fresh labels to a device that becomes part of a pool: the configuration and an empty uberblock ring.
/// The boot environment and what was in the labels before is overwritten (`vdev_label_init`).
/// [`Error::Invalid`] if the device is too small for a pool (64 MiB).
pub fn create(device: &dyn BlockDevice, config: &NvList) -> Result<()> {
    let size = device.info().size;
    if size < crate::ondisk::label::MIN_DEVICE_SIZE {
        return Err(Error::Invalid("a device of a pool has at least 64 MiB"));
    }
    let batch = Batch::new();
    for index in 0..LABELS {
        let offset = label_offset(size, index);
        let mut label = vec![0; (NVLIST_OFFSET - CREATE_OFFSET) as usize];
        label.extend_from_slice(&config_block(config, offset)?);
        label.resize(label.len() + RING_SIZE, 0);
        batch.submit(device, Op::Write { offset: offset + CREATE_OFFSET, data: Bytes::from(label) });
    }
    all(batch.wait())
}

/// Overwrites all four labels with zeros (`zpool labelclear`): no pool is found on the device any more.
pub fn clear(device: &dyn BlockDevice) -> Result<()> {
    let size = device.info().size;
    if size < LABELS as u64 * LABEL_SIZE {
        return Err(Error::NoPool);
    }
    let batch = Batch::new();
    let zeros = Bytes::from(vec![0; LABEL_SIZE as usize]);
    for index in 0..LABELS {
        batch.submit(device, Op::Write { offset: label_offset(size, index), data: zeros.clone() });
    }
    all(batch.wait())
}

/// The devices that labels are written to.
fn writable(vdevs: &VdevTree) -> Vec<(&Leaf, &Arc<dyn BlockDevice>)> {
    let leaves = vdevs.leaves().into_iter();
    leaves.filter_map(|leaf| leaf.device.as_ref().map(|device| (&**leaf, device))).collect()
}

/// Waits for writes to leaves, one for each entry of `asked`. Leaves that fail are charged; what the pool can do without, it does
/// without.
fn settle(vdevs: &VdevTree, batch: Batch, asked: &[&Leaf]) -> Result<()> {
    let mut failed = Vec::new();
    for (outcome, leaf) in batch.wait().into_iter().zip(asked) {
        if let Err(cause) = outcome {
            leaf.count_write_error();
            failed.push((leaf.guid, cause));
        }
    }
    vdevs.tolerate(&failed)
}

fn write_configs(vdevs: &VdevTree, config: &dyn Fn(&Leaf) -> NvList, first: usize) -> Result<()> {
    let (batch, mut asked) = (Batch::new(), Vec::new());
    for (leaf, device) in writable(vdevs) {
        let config = config(leaf);
        let size = device.info().size;
        for index in (first..LABELS).step_by(2) {
            let offset = label_offset(size, index);
            let data = config_block(&config, offset)?;
            batch.submit(&**device, Op::Write { offset: offset + NVLIST_OFFSET, data });
            asked.push(leaf);
        }
    }
    settle(vdevs, batch, &asked)?;
    vdevs.flush()
}

fn write_uberblock(vdevs: &VdevTree, uberblock: &Uberblock) -> Result<()> {
    let multihost = uberblock.mmp_magic == MMP_MAGIC && uberblock.mmp_delay != 0;
    let body = uberblock.emit();
    let (batch, mut asked) = (Batch::new(), Vec::new());
    for (leaf, device) in writable(vdevs) {
        let size = device.info().size;
        let slots = slot_count(leaf.ashift) - if multihost { MMP_SLOTS } else { 0 };
        let slot_bytes = slot_size(leaf.ashift);
        let slot = (uberblock.txg % slots as u64) * slot_bytes as u64;
        for index in 0..LABELS {
            let offset = label_offset(size, index) + RING_OFFSET + slot;
            let mut block = body.clone();
            block.resize(slot_bytes, 0);
            seal(&mut block, label_verifier(offset));
            batch.submit(&**device, Op::Write { offset, data: Bytes::from(block) });
            asked.push(leaf);
        }
    }
    settle(vdevs, batch, &asked)?;
    vdevs.flush()
}

/// Ends a txg: flush, even labels, flush, uberblock to all labels, flush, odd labels, flush (`vdev_config_sync`).
/// `config` gives the label of a leaf; `None` leaves the configurations as they are.
///
/// At every point in between, one consistent pair of configuration and uberblock is on the device: the odd labels go
/// with the old uberblock, the even ones with the new.
pub fn sync(vdevs: &VdevTree, uberblock: &Uberblock, config: Option<&dyn Fn(&Leaf) -> NvList>) -> Result<()> {
    vdevs.flush()?;
    if let Some(config) = config {
        write_configs(vdevs, config, 0)?;
    }
    write_uberblock(vdevs, uberblock)?;
    if let Some(config) = config {
        write_configs(vdevs, config, 1)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ondisk::blkptr::Blkptr;
    use crate::ondisk::label::MIN_DEVICE_SIZE;
    use platform::mem::MemDisk;

    fn config(txg: u64) -> NvList {
        let tree = NvList::new()
            .with("type", "disk")
            .with("id", 0u64)
            .with("guid", 5u64)
            .with("ashift", 12u64)
            .with("asize", MIN_DEVICE_SIZE - (5 << 20));
        NvList::new().with("txg", txg).with("guid", 5u64).with("vdev_tree", tree)
    }

    fn uberblock(txg: u64) -> Uberblock {
        Uberblock {
            version: 5000,
            txg,
            guid_sum: 1,
            timestamp: 2,
            rootbp: Blkptr::HOLE,
            software_version: 5000,
            mmp_magic: MMP_MAGIC,
            mmp_delay: 0,
            mmp_config: 0,
            checkpoint_txg: 0,
            raidz_reflow_info: 0,
        }
    }

    fn pool() -> (Arc<MemDisk>, VdevTree) {
        // A size that is no whole number of labels: the last two lie before the end.
        let disk = Arc::new(MemDisk::new(MIN_DEVICE_SIZE as usize + 1536));
        create(&*disk, &config(0)).unwrap();
        let device: Arc<dyn BlockDevice> = disk.clone();
        let vdevs = VdevTree::open(config(0).nvlist("vdev_tree").unwrap(), &[(5, device)]).unwrap();
        (disk, vdevs)
    }

    #[test]
    fn a_created_device_has_four_labels_and_no_uberblock() {
        let (disk, _) = pool();
        let label = read(&*disk).unwrap();
        assert_eq!((label.config, label.uberblock, label.valid), (config(0), None, [true; 4]));
    }

    #[test]
    fn the_best_uberblock_and_the_newest_configuration_win() {
        let (disk, vdevs) = pool();
        for txg in [4, 5, 37, 38] {
            sync(&vdevs, &uberblock(txg), Some(&|_| config(txg))).unwrap();
        }
        let label = read(&*disk).unwrap();
        assert_eq!((label.uberblock, label.config), (Some(uberblock(38)), config(38)));
        // 4 KiB slots, 32 of them: txg 37 took the place of txg 5.
        let copies = scan(&*disk).unwrap();
        let slots: Vec<_> = copies[3].uberblocks.iter().map(|(slot, u)| (*slot, u.txg)).collect();
        assert_eq!(slots, [(4, 4), (5, 37), (6, 38)]);
    }

    #[test]
    fn any_one_label_is_enough_and_none_is_no_pool() {
        let (disk, vdevs) = pool();
        sync(&vdevs, &uberblock(9), Some(&|_| config(9))).unwrap();
        let size = disk.info().size;
        for index in 0..LABELS {
            let label = read(&*disk).unwrap();
            assert_eq!((label.config, label.uberblock), (config(9), Some(uberblock(9))));
            let at = label_offset(size, index) as usize;
            disk.damage(|bytes| bytes[at..at + READ_SIZE].fill(0x5a));
        }
        assert_eq!(read(&*disk).err(), Some(Error::NoPool));
        assert_eq!(read(&MemDisk::new(1000)).err(), Some(Error::NoPool));
    }

    #[test]
    fn a_small_device_is_refused() {
        let refused = Error::Invalid("a device of a pool has at least 64 MiB");
        assert_eq!(create(&MemDisk::new(1 << 20), &config(0)), Err(refused));
    }
}
