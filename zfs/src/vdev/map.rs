//! Where the bytes of an extent lie: rows of columns on leaves. What every layout comes down to.
//!
//! A plain disk or a mirror is one row of one column; raidz is one row with its parity columns first; draid has a second row where a block
//! crosses into the next group; a removed vdev is the rows of all pieces that its mapping names.

use super::Leaf;
use alloc::sync::Arc;
use alloc::vec::Vec;

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
    pub targets: Vec<Arc<Leaf>>,
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
