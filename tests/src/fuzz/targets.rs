//! The parsers as functions of bytes. What parses is shown and written again, too.

use anyhow::{Result, ensure};
use bytes::Bytes;
use platform::sim::{Image, SimDisk, SimLog};
use zfs::compress;
use zfs::crypt::{KeyFormat, Pbkdf2, WrappingKey};
use zfs::ondisk::blkptr::{BLKPTR_SIZE, Blkptr};
use zfs::ondisk::bookmark::Bookmark;
use zfs::ondisk::crypt::{self, Layout};
use zfs::ondisk::dnode::{DNODE_SIZE, DnodePhys};
use zfs::ondisk::dsl::{BpobjPhys, DatasetPhys, DeadlistPhys, DirPhys};
use zfs::ondisk::nvlist::NvList;
use zfs::ondisk::objset::ObjsetPhys;
use zfs::ondisk::pretty::{ShowBlkptr, ShowUberblock};
use zfs::ondisk::sa;
use zfs::ondisk::space_map::{SpaceMapHeader, decode};
use zfs::ondisk::uberblock::Uberblock;
use zfs::ondisk::zil::{Chain, Header, Record, records};
use zfs::ondisk::znode::{Dirent, parse_znode_phys};

fn show(text: impl core::fmt::Display) {
    std::hint::black_box(text.to_string());
}

pub(super) fn blkptr(bytes: &[u8]) -> Result<()> {
    for raw in bytes.as_chunks::<BLKPTR_SIZE>().0 {
        let unchecked = Blkptr::from_bytes(raw);
        show(ShowBlkptr { bp: &unchecked, type_name: "" });
        let Ok(bp) = Blkptr::parse(raw, None) else { continue };
        if bp.is_embedded() {
            std::hint::black_box(bp.embedded_payload());
        }
        std::hint::black_box((bp.asize(), bp.fill(), bp.birth(), bp.dvas().count()));
        ensure!(bp.to_bytes() == *raw, "a block pointer is not written as it was read");
    }
    Ok(())
}

pub(super) fn dnode(bytes: &[u8]) -> Result<()> {
    let block = Bytes::copy_from_slice(bytes);
    for slot in 0..bytes.len() / DNODE_SIZE + 1 {
        let Ok(dnode) = DnodePhys::parse(&block, slot, None) else { continue };
        std::hint::black_box((dnode.used_bytes(), dnode.levels_for(dnode.maxblkid)));
        let mut out = vec![0; usize::from(dnode.slots) * DNODE_SIZE];
        dnode.emit(&mut out);
        let again = DnodePhys::parse(&Bytes::from(out), 0, None);
        ensure!(again.as_ref() == Ok(&dnode), "a dnode does not read as it was written: {dnode:?} {again:?}");
    }
    Ok(())
}

pub(super) fn objset(bytes: &[u8]) -> Result<()> {
    if let Ok(objset) = ObjsetPhys::parse(&Bytes::copy_from_slice(bytes), None) {
        let again = ObjsetPhys::parse(&Bytes::from(objset.emit()), None);
        ensure!(again.is_ok(), "an objset does not read as it was written");
    }
    Ok(())
}

pub(super) fn nvlist(bytes: &[u8]) -> Result<()> {
    if let Ok(list) = NvList::unpack(bytes) {
        show(&list);
        // By their bytes: a `double` that is no number is not equal to itself.
        let packed = list.pack_xdr();
        let again = NvList::unpack(&packed).map(|list| list.pack_xdr());
        ensure!(again.as_ref() == Ok(&packed), "an nvlist does not read as it was written");
        std::hint::black_box(list.pack_native());
    }
    Ok(())
}

/// A device that begins with these bytes, its labels as good as a fuzzer can make them.
pub(super) fn label(bytes: &[u8]) -> Result<()> {
    const LABEL: usize = 256 << 10;
    const NVLIST: usize = 16 << 10;
    const NVLIST_SIZE: usize = 112 << 10;
    let mut label = bytes.to_vec();
    label.resize(LABEL, 0);
    // The checksum is made right, or nothing behind it would ever be reached.
    zfs::checksum::embedded::seal(
        &mut label[NVLIST..NVLIST + NVLIST_SIZE],
        zfs::checksum::embedded::label_verifier(NVLIST as u64),
    );
    let mut image = Image::new(64 << 20);
    image.write(0, &label);
    let disk = SimDisk::new(&SimLog::new(), 0, image);
    std::hint::black_box(zfs::vdev::label::read(&disk)).ok();
    let options = zfs::spa::ImportOptions::read_only();
    drop(zfs::spa::Pool::import(vec![std::sync::Arc::new(disk)], crate::model::env(), options));
    Ok(())
}

pub(super) fn uberblock(bytes: &[u8]) -> Result<()> {
    if let Ok(uberblock) = Uberblock::parse(bytes) {
        show(ShowUberblock(&uberblock));
        std::hint::black_box((uberblock.rank(), uberblock.mmp_sequence(), uberblock.emit()));
    }
    Ok(())
}

pub(super) fn dsl(bytes: &[u8]) -> Result<()> {
    if let Ok(dir) = DirPhys::parse(bytes) {
        ensure!(DirPhys::parse(&dir.emit()).is_ok(), "a dir");
    }
    if let Ok(dataset) = DatasetPhys::parse(bytes) {
        ensure!(DatasetPhys::parse(&dataset.emit()).is_ok(), "a dataset");
    }
    if let Ok(deadlist) = DeadlistPhys::parse(bytes) {
        ensure!(DeadlistPhys::parse(&deadlist.emit()).is_ok(), "a deadlist");
    }
    if let Ok(bpobj) = BpobjPhys::parse(bytes) {
        ensure!(BpobjPhys::parse(&bpobj.emit()).is_ok(), "a bpobj");
    }
    if let Ok(header) = SpaceMapHeader::parse(bytes) {
        std::hint::black_box(header.emit());
    }
    Ok(())
}

pub(super) fn znode(bytes: &[u8]) -> Result<()> {
    std::hint::black_box(parse_znode_phys(bytes)).ok();
    for word in bytes.as_chunks::<8>().0 {
        let raw = u64::from_le_bytes(*word);
        let entry = Dirent::from_raw(raw);
        std::hint::black_box(entry.to_raw());
    }
    Ok(())
}

/// Layouts of system attributes: of fixed sizes, and (0) of sizes that the header says.
const LAYOUTS: [&[(u16, u16)]; 4] = [
    &[
        (5, 8),
        (6, 8),
        (4, 8),
        (12, 8),
        (13, 8),
        (7, 8),
        (11, 8),
        (0, 16),
        (1, 16),
        (2, 16),
        (3, 16),
        (8, 8),
        (16, 8),
        (18, 0),
    ],
    &[(18, 0), (17, 0), (19, 0)],
    &[(5, 8), (20, 0)],
    &[],
];

pub(super) fn sa(bytes: &[u8]) -> Result<()> {
    std::hint::black_box(sa::Header::parse(bytes)).ok();
    for layout in LAYOUTS {
        if let Ok(values) = sa::parse(bytes, layout) {
            let len: usize = values.iter().map(|(_, value)| value.len()).sum();
            ensure!(len <= bytes.len(), "attributes are longer than what holds them");
        }
    }
    for word in bytes.as_chunks::<8>().0 {
        let registered = sa::Registered::from_raw(u64::from_le_bytes(*word));
        std::hint::black_box(registered.to_raw());
    }
    Ok(())
}

pub(super) fn zil(bytes: &[u8]) -> Result<()> {
    if let Some(header) = bytes.first_chunk() {
        std::hint::black_box(Header::from_bytes(header).to_bytes());
    }
    for slim in [true, false] {
        let Ok(chain) = Chain::parse(bytes, slim) else { continue };
        let Ok(body) = chain.records(bytes, slim) else { continue };
        records(body).flatten().for_each(|(header, record)| {
            if let Ok(record) = Record::parse(&header, record) {
                std::hint::black_box(record.emit());
            }
        });
    }
    // The same without a chain around it.
    for (header, record) in records(bytes).flatten() {
        std::hint::black_box(Record::parse(&header, record)).ok();
    }
    Ok(())
}

/// What is authenticated and what is sealed of a block, whatever it is taken for.
pub(super) fn crypt(bytes: &[u8]) -> Result<()> {
    let at = Bookmark::objset_root(1);
    for version in [0, crypt::KEY_VERSION] {
        std::hint::black_box(crypt::indirect_input(bytes, version));
        std::hint::black_box(crypt::ObjsetMacs::of(bytes, version, at)).ok();
        sealed(bytes, &Layout::dnodes(bytes, version, None))?;
    }
    sealed(bytes, &Layout::log(bytes))?;
    std::hint::black_box(crypt::log_block_mac(bytes)).ok();
    for format in [KeyFormat::Raw, KeyFormat::Hex] {
        std::hint::black_box(WrappingKey::new(format, bytes, Pbkdf2 { salt: 0, iterations: 0 })).ok();
    }
    Ok(())
}

fn sealed(bytes: &[u8], layout: &zfs::Result<Layout>) -> Result<()> {
    let Ok(layout) = layout else { return Ok(()) };
    let mut end = 0;
    for range in &layout.sealed {
        ensure!(
            end <= range.start && range.start <= range.end && range.end <= bytes.len(),
            "sealed parts overlap"
        );
        end = range.end;
    }
    Ok(())
}

pub(super) fn space_map(bytes: &[u8]) -> Result<()> {
    std::hint::black_box(SpaceMapHeader::parse(bytes)).ok();
    let mut count = 0;
    decode(bytes, |_| {
        count += 1;
        Ok(())
    })
    .ok();
    ensure!(count <= bytes.len() / 8, "more entries than words");
    Ok(())
}

/// The function, the size that it should come to, the data.
pub(super) fn decompress(bytes: &[u8]) -> Result<()> {
    const SIZE_MAX: usize = 1 << 20;
    let Some((head, data)) = bytes.split_first_chunk::<5>() else { return Ok(()) };
    let size = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize % (SIZE_MAX + 1);
    if let Ok(out) = compress::decompress(head[0], data, size) {
        ensure!(out.len() == size, "{} bytes, not {size}", out.len());
    }
    show(compress::name(head[0]));
    Ok(())
}
