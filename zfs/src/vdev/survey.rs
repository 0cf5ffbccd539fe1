//! All that there is of an extent: every column, parity included, from every leaf that holds it. From that the data is found if it can be,
//! and what is wrong on which leaf. Source: `vdev_raidz_io_done`, `raidz_reconstruct` (`vdev_raidz.c`), `vdev_mirror_io_done`.

use super::VdevTree;
use super::map::{Map, Row, Target};
use super::parity;
use super::queue::{Flying, LeafReads, Read};
use crate::error::{Error, Result};
use crate::ondisk::blkptr::Dva;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use bytes::Bytes;
use platform::block::{Batch, BlockError, Op};

/// How many ways of reconstruction are tried before a block is given up: enough for every combination of three in forty columns.
const ATTEMPTS_MAX: usize = 20_000;

/// One leaf's bytes of a column.
struct Copy {
    leaf: Target,
    /// The leaf missed the txg in which the block was written.
    stale: bool,
    read: Read,
}

/// What is wrong on a leaf.
pub(crate) struct BadCopy {
    pub(crate) leaf: Target,
    /// When the block was written.
    pub(crate) birth: u64,
    /// Where, in bytes on the device.
    pub(crate) offset: u64,
    /// What should be there.
    pub(crate) right: Bytes,
    /// It gave other bytes, and should have had the right ones.
    pub(crate) mismatch: bool,
    /// It should have had the right bytes, whatever it gave.
    pub(crate) counts: bool,
}

/// All that there is of one extent.
pub(crate) struct Survey {
    len: usize,
    birth: u64,
    rows: Vec<(Row, Vec<Vec<Copy>>)>,
}

/// Surveys on their way.
pub(crate) struct Surveys {
    flying: Flying,
    maps: Vec<Result<(Map, u64)>>,
}

/// Starts to read all that there is of extents: address, length and birth txg of each.
pub(crate) fn start(vdevs: &VdevTree, extents: &[(Dva, u64, u64)]) -> Surveys {
    let mut reads = LeafReads::default();
    let mut maps = Vec::with_capacity(extents.len());
    for (dva, len, birth) in extents {
        let map = vdevs.resolve(dva, *len);
        for column in map.iter().flat_map(|map| &map.rows).flat_map(|row| &row.columns) {
            for leaf in column.targets.iter().filter(|leaf| leaf.device.is_some()) {
                reads.add(leaf.leaf(), column.offset, column.size);
            }
        }
        maps.push(map.map(|map| (map, *birth)));
    }
    Surveys { flying: reads.issue(), maps }
}

impl Surveys {
    /// Waits for all; the answers in the order of the extents.
    pub(crate) fn wait(self) -> Vec<Result<Survey>> {
        let mut answers = self.flying.wait().into_iter();
        let gone = || -> Read { Err(Error::Io { cause: BlockError::Gone, at: None }) };
        let survey = |map: Result<(Map, u64)>| {
            let (map, birth) = map?;
            let mut rows = Vec::with_capacity(map.rows.len());
            for row in map.rows {
                let copies = row.columns.iter().map(|column| {
                    let present = column.targets.iter().filter(|leaf| leaf.device.is_some());
                    let copy = |leaf: &Target| Copy {
                        leaf: leaf.clone(),
                        stale: !leaf.has(birth),
                        read: answers.next().unwrap_or_else(gone),
                    };
                    present.map(copy).collect::<Vec<Copy>>()
                });
                let copies: Vec<Vec<Copy>> = copies.collect();
                rows.push((row, copies));
            }
            Ok(Survey { len: map.len, birth, rows })
        };
        self.maps.into_iter().map(survey).collect()
    }
}

impl Survey {
    /// How many stretches of leaves were read, and their bytes.
    pub(crate) fn size(&self) -> (u32, u64) {
        let copies = self.copies();
        copies.fold((0, 0), |(count, bytes), (copy, len)| {
            (count + u32::from(!copy.stale), bytes + if copy.read.is_ok() { len as u64 } else { 0 })
        })
    }

    fn copies(&self) -> impl Iterator<Item = (&Copy, usize)> {
        self.rows.iter().flat_map(|(row, columns)| {
            let columns = row.columns.iter().zip(columns);
            columns.flat_map(|(column, copies)| copies.iter().map(move |copy| (copy, column.size)))
        })
    }

    /// Why there is nothing, if no leaf gave anything: the first error.
    pub(crate) fn failure(&self) -> Option<Error> {
        let mut copies = self.copies();
        let first = copies.find_map(|(copy, _)| copy.read.as_ref().err().cloned());
        first.or(self
            .rows
            .iter()
            .any(|(_, c)| c.iter().all(Vec::is_empty))
            .then_some(Error::Io { cause: BlockError::Gone, at: None }))
    }

    /// The extent's bytes, as `good` accepts them: from what was read as it is, from other copies, or with columns taken as bad and
    /// made from the others, in every combination.
    pub(crate) fn solve(&self, good: &dyn Fn(&[u8]) -> bool) -> Option<Bytes> {
        if let [(row, columns)] = &self.rows[..]
            && let ([_], [copies]) = (&row.columns[..], &columns[..])
        {
            return self.solve_mirror(copies, good);
        }
        let mut attempts = 0;
        let mut attempt = |picks: &Picks, bad: &BTreeSet<(u32, u32)>| {
            attempts += 1;
            self.assemble(picks, bad).filter(|data| good(data))
        };
        let first = Picks::default();
        if let Some(data) = attempt(&first, &BTreeSet::new()) {
            return Some(data);
        }
        // Columns with several copies, each of them in turn.
        let most = self.rows.iter().flat_map(|(_, c)| c).map(Vec::len).max().unwrap_or(0);
        for which in 0..most {
            if let Some(data) = attempt(&Picks { all: which, one: None }, &BTreeSet::new()) {
                return Some(data);
            }
        }
        for (r, (_, columns)) in self.rows.iter().enumerate() {
            for (c, copies) in columns.iter().enumerate().filter(|(_, copies)| copies.len() > 1) {
                for which in 0..copies.len() {
                    let picks = Picks { all: 0, one: Some((r, c, which)) };
                    if let Some(data) = attempt(&picks, &BTreeSet::new()) {
                        return Some(data);
                    }
                }
            }
        }
        let children: BTreeSet<(u32, u32)> = self
            .rows
            .iter()
            .filter(|(row, _)| row.parity > 0)
            .flat_map(|(row, _)| row.columns.iter())
            .map(|c| c.group)
            .collect();
        let children: Vec<(u32, u32)> = children.into_iter().collect();
        let parity = self.rows.iter().map(|(row, _)| row.parity).max().unwrap_or(0);
        for count in 1..=parity {
            let mut combination: Vec<usize> = (0..count).collect();
            while combination.last().is_some_and(|last| *last < children.len()) && attempts < ATTEMPTS_MAX {
                let bad = combination.iter().map(|i| children[*i]).collect();
                attempts += 1;
                if let Some(data) = self.assemble(&first, &bad).filter(|data| good(data)) {
                    return Some(data);
                }
                if !next_combination(&mut combination, children.len()) {
                    break;
                }
            }
        }
        None
    }

    /// One column: the first copy that is good. Copies equal to one that is not need no second look.
    fn solve_mirror(&self, copies: &[Copy], good: &dyn Fn(&[u8]) -> bool) -> Option<Bytes> {
        let mut refused: Vec<&Bytes> = Vec::new();
        let (fresh, stale): (Vec<&Copy>, Vec<&Copy>) = copies.iter().partition(|copy| !copy.stale);
        for data in fresh.into_iter().chain(stale).filter_map(|copy| copy.read.as_ref().ok()) {
            if data.len() < self.len || refused.contains(&data) {
                continue;
            }
            let own = data.slice(..self.len);
            if good(&own) {
                return Some(own);
            }
            refused.push(data);
        }
        None
    }

    /// The extent's bytes if the children in `bad` are taken as lost; none if too much is.
    fn assemble(&self, picks: &Picks, bad: &BTreeSet<(u32, u32)>) -> Option<Bytes> {
        let mut out = Vec::with_capacity(self.len);
        for (r, (row, columns)) in self.rows.iter().enumerate() {
            let taken: Vec<Option<&[u8]>> = row
                .columns
                .iter()
                .zip(columns)
                .enumerate()
                .map(|(c, (column, copies))| {
                    if row.parity > 0 && bad.contains(&column.group) {
                        return None;
                    }
                    picks.choose(r, c, copies).filter(|bytes| bytes.len() >= column.size)
                })
                .collect();
            let (parities, data) = taken.split_at(row.parity);
            let lost = data.iter().filter(|column| column.is_none()).count();
            let mut rebuilt = Vec::new();
            if lost > 0 {
                let present = parities.iter().enumerate().filter_map(|(i, bytes)| Some((i, (*bytes)?)));
                let present: Vec<(usize, &[u8])> = present.take(lost).collect();
                rebuilt = parity::reconstruct(data, &present)?;
            }
            let mut rebuilt = rebuilt.iter();
            for (column, bytes) in row.data().iter().zip(data) {
                let bytes = match bytes {
                    Some(bytes) => *bytes,
                    None => rebuilt.next()?,
                };
                out.extend_from_slice(bytes.get(..column.data_len)?);
            }
        }
        out.truncate(self.len);
        (out.len() == self.len).then(|| Bytes::from(out))
    }

    /// What is not as it should be, if `data` is the extent's content.
    pub(crate) fn judge(&self, data: &Bytes) -> Vec<BadCopy> {
        let mut bad = Vec::new();
        let mut rest = data.clone();
        for (row, columns) in &self.rows {
            let own = rest.split_to(row.data_len().min(rest.len()));
            let rights: Vec<Bytes> = match row.parity {
                // Nothing is made of what may follow the data in its last sector.
                0 => [own].into(),
                _ => row.fill(&own).into_iter().map(Bytes::from).collect(),
            };
            for ((column, copies), right) in row.columns.iter().zip(columns).zip(rights) {
                let equal = |read: &Bytes| read.get(..right.len()) == Some(&right[..]);
                let wrong = copies.iter().filter(|copy| !copy.read.as_ref().is_ok_and(equal));
                let wrong: Vec<&Copy> = wrong.collect();
                if wrong.is_empty() {
                    continue;
                }
                // A device takes whole sectors.
                let mut whole = right.to_vec();
                whole.resize(column.size, 0);
                let right = Bytes::from(whole);
                bad.extend(wrong.into_iter().map(|copy| BadCopy {
                    leaf: copy.leaf.clone(),
                    birth: self.birth,
                    offset: column.offset,
                    right: right.clone(),
                    mismatch: copy.read.is_ok() && !copy.stale,
                    counts: !copy.stale,
                }));
            }
        }
        bad
    }

    /// Counts a checksum error for each leaf that gave something: the block is beyond repair.
    pub(crate) fn blame_all(&self) {
        for (copy, _) in self.copies().filter(|(copy, _)| copy.read.is_ok() && !copy.stale) {
            copy.leaf.count_checksum_error();
        }
    }
}

/// Which copy is taken of columns that have several: the same of all, and one column's by itself.
#[derive(Default)]
struct Picks {
    all: usize,
    one: Option<(usize, usize, usize)>,
}

impl Picks {
    fn choose<'c>(&self, row: usize, column: usize, copies: &'c [Copy]) -> Option<&'c [u8]> {
        let which = match self.one {
            Some((r, c, which)) if (r, c) == (row, column) => which,
            _ => self.all,
        };
        // A stale copy is only taken if it is asked for by name.
        let usable = |copy: &&Copy| copy.read.is_ok() && !copy.stale;
        let copy = copies.get(which).filter(|copy| copy.read.is_ok() && (which > 0 || !copy.stale));
        let copy = copy.or_else(|| copies.iter().find(usable))?;
        copy.read.as_ref().ok().map(|bytes| &bytes[..])
    }
}

/// The next combination of `n` things in order; false after the last.
fn next_combination(combination: &mut [usize], n: usize) -> bool {
    let count = combination.len();
    for i in (0..count).rev() {
        if combination[i] < n - count + i {
            combination[i] += 1;
            for j in i + 1..count {
                combination[j] = combination[j - 1] + 1;
            }
            return true;
        }
    }
    false
}

/// Writes what should be where it is not; whether each was written. Leaves are charged with what failed.
pub(crate) fn repair(bad: &[BadCopy]) -> Vec<bool> {
    let batch = Batch::new();
    let mut asked = Vec::new();
    for (index, copy) in bad.iter().enumerate() {
        if let Some(device) = &copy.leaf.device {
            batch.submit(&**device, Op::Write { offset: copy.offset, data: copy.right.clone() });
            asked.push(index);
        }
    }
    let mut written = alloc::vec![false; bad.len()];
    for (outcome, index) in batch.wait().into_iter().zip(asked) {
        written[index] = outcome.is_ok();
        if !written[index] {
            bad[index].leaf.count_write_error();
            bad[index].leaf.note_unrepaired(bad[index].birth);
        }
    }
    written
}

/// Charges leaves with what they gave wrong.
pub(crate) fn blame(bad: &[BadCopy]) {
    bad.iter().filter(|copy| copy.mismatch).for_each(|copy| copy.leaf.count_checksum_error());
}
