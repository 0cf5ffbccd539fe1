//! Where the bytes of an extent lie: rows of columns on leaves. What every layout comes down to.
//!
//! A plain disk or a mirror is one row of one column; raidz is one row with its parity columns first; draid has a second row where a block
//! crosses into the next group; a removed vdev is the rows of all pieces that its mapping names.

use super::Leaf;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Deref;

/// A leaf that holds a column.
#[derive(Clone)]
pub struct Target {
    leaf: Arc<Leaf>,
    /// The distributed spare that the leaf serves here: what that one missed is not there either.
    through: Option<Arc<Leaf>>,
}

impl Target {
    pub(super) fn new(leaf: &Arc<Leaf>, through: Option<&Arc<Leaf>>) -> Self {
        Target { leaf: Arc::clone(leaf), through: through.map(Arc::clone) }
    }

    /// The device.
    #[must_use]
    pub fn leaf(&self) -> &Arc<Leaf> {
        &self.leaf
    }

    /// Whether it is there and should hold what was written in txg `birth`.
    pub(crate) fn has(&self, birth: u64) -> bool {
        self.leaf.has(birth) && self.through.as_ref().is_none_or(|spare| !spare.missing().contains(birth))
    }

    /// A write of this txg did not reach it.
    pub(crate) fn note_missing(&self, txg: u64) {
        self.both().for_each(|leaf| leaf.note_missing(txg));
    }

    /// A scan could not write a block of that birth.
    pub(crate) fn note_unrepaired(&self, birth: u64) {
        self.both().for_each(|leaf| leaf.note_unrepaired(birth));
    }

    fn both(&self) -> impl Iterator<Item = &Arc<Leaf>> {
        [&self.leaf].into_iter().chain(&self.through)
    }

    /// Whether it is the same place.
    pub(super) fn is(&self, other: &Target) -> bool {
        let spare = |target: &Target| target.through.as_ref().map(|leaf| leaf.guid);
        Arc::ptr_eq(&self.leaf, &other.leaf) && spare(self) == spare(other)
    }
}

impl Deref for Target {
    type Target = Leaf;

    fn deref(&self) -> &Leaf {
        &self.leaf
    }
}

/// A stretch of one child.
pub struct Column {
    /// Top-level vdev and index of the child in it: what fails together.
    pub group: (u32, u32),
    /// Where, in bytes on the device.
    pub offset: u64,
    /// Bytes of the column that parity covers and that are written.
    pub size: usize,
    /// Bytes of the block among them, at the front; 0 for parity.
    pub data_len: usize,
    /// The leaves that each hold all of it: several if the child is a mirror, or being replaced.
    pub targets: Vec<Target>,
}

/// Columns of which `parity` may be lost.
pub struct Row {
    /// How many of the columns, the first ones, are parity.
    pub parity: usize,
    /// Parity, then data in the block's order.
    pub columns: Vec<Column>,
}

impl Row {
    /// The columns with the block's bytes.
    pub fn data(&self) -> &[Column] {
        &self.columns[self.parity..]
    }

    /// Bytes of the block in this row.
    pub fn data_len(&self) -> usize {
        self.data().iter().map(|c| c.data_len).sum()
    }

    /// The bytes of all columns, given the row's part of the block: data padded to the column's size, and parity.
    pub(crate) fn fill(&self, mut data: &[u8]) -> Vec<Vec<u8>> {
        let mut columns: Vec<Vec<u8>> = Vec::with_capacity(self.columns.len());
        for column in self.data() {
            let (own, rest) = data.split_at(column.data_len.min(data.len()));
            let mut bytes = own.to_vec();
            bytes.resize(column.size, 0);
            columns.push(bytes);
            data = rest;
        }
        let size = self.columns.first().map_or(0, |c| c.size);
        let parity = |index| super::parity::generate(columns.iter().map(Vec::as_slice), index, size);
        let mut all: Vec<Vec<u8>> = (0..self.parity).map(parity).collect();
        all.append(&mut columns);
        all
    }
}

/// An extent on its leaves.
pub struct Map {
    /// Its rows, in the block's order.
    pub rows: Vec<Row>,
    /// Bytes of the block that were asked for. The rows may hold a little more, up to a whole sector.
    pub len: usize,
}
