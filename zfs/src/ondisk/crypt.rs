//! Encryption on disk: where salts, IVs and MACs stand, what of a block is ciphertext, and what is authenticated besides.
//! Source: `module/os/linux/zfs/zio_crypt.c`, `include/sys/dsl_crypt.h`, `include/sys/zio_crypt.h`.
//!
//! ```text
//! block pointer  DVA[2]: salt (8), IV bytes 0–7 · upper half of the fill count: IV bytes 8–11 · checksum words 2, 3: MAC (16)
//! log block      salt and IV in the pointer to it, MAC in words 2, 3 of its own checksum
//! objset         portable MAC at 720, local MAC at 752, 32 bytes each
//! ```
//!
//! A MAC must come out the same after a raw send to another pool, so only the *portable* part of a block pointer or dnode
//! goes into it. Key version 0 (pools of development versions) has a slightly different idea of what that is.

use crate::error::{Error, Result};
use crate::ondisk::blkptr::{BLKPTR_SIZE, Blkptr, MIN_BLOCK_SIZE};
use crate::ondisk::bookmark::Bookmark;
use crate::ondisk::dnode::{DNODE_CORE_SIZE, DNODE_SIZE, FLAG_SPILL_BLKPTR, MAX_NBLKPTR};
use crate::ondisk::object_type::ObjectType;
use crate::ondisk::objset::FLAG_USERACCOUNTING_COMPLETE;
use crate::ondisk::read_u64;
use crate::ondisk::zil::{CHAIN_SIZE, RECORD_HEADER_SIZE, RecordHeader, WRITE_RECORD_SIZE, kind};
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes of a salt, from which a block's key is derived (`ZIO_DATA_SALT_LEN`).
pub const SALT_SIZE: usize = 8;
/// Bytes of an initialization vector (`ZIO_DATA_IV_LEN`, `WRAPPING_IV_LEN`).
pub const IV_SIZE: usize = 12;
/// Bytes of a block's MAC (`ZIO_DATA_MAC_LEN`, `WRAPPING_MAC_LEN`).
pub const MAC_SIZE: usize = 16;
/// Bytes of an objset's MAC (`ZIO_OBJSET_MAC_LEN`).
pub const OBJSET_MAC_SIZE: usize = 32;
/// Bytes of a wrapping key, and room for a master key (`WRAPPING_KEY_LEN`, `MASTER_KEY_MAX_LEN`).
pub const KEY_SIZE: usize = 32;
/// Bytes of the key of HMACs (`SHA512_HMAC_KEYLEN`).
pub const HMAC_KEY_SIZE: usize = 64;
/// The version of keys that is made today (`ZIO_CRYPT_KEY_CURRENT_VERSION`).
pub const KEY_VERSION: u64 = 1;

/// In a dir's object: the object of its key, a ZAP (`DD_FIELD_CRYPTO_KEY_OBJ`).
pub const DIR_KEY_OBJECT: &str = "com.datto:crypto_key_obj";
/// In an encrypted snapshot's object: names the set of IVs of its blocks (`DS_FIELD_IVSET_GUID`).
pub const IVSET_GUID: &str = "com.datto:ivset_guid";
/// In a key's object: how many dirs have it.
pub const KEY_REFCOUNT: &str = "DSL_CRYPTO_REFCOUNT";
/// In a key's object: the suite, as numbered by the property `encryption`.
pub const KEY_SUITE: &str = "DSL_CRYPTO_SUITE";
/// The key's guid.
pub const KEY_GUID: &str = "DSL_CRYPTO_GUID";
/// IV of the wrapping.
pub const KEY_IV: &str = "DSL_CRYPTO_IV";
/// MAC of the wrapping.
pub const KEY_MAC: &str = "DSL_CRYPTO_MAC";
/// The wrapped master key.
pub const KEY_MASTER: &str = "DSL_CRYPTO_MASTER_KEY_1";
/// The wrapped HMAC key.
pub const KEY_HMAC: &str = "DSL_CRYPTO_HMAC_KEY_1";
/// The dir that is the encryption root.
pub const KEY_ROOT_DIR: &str = "DSL_CRYPTO_ROOT_DDOBJ";
/// The version; absent means 0.
pub const KEY_VERSION_FIELD: &str = "DSL_CRYPTO_VERSION";
/// How the user's key is written: a value of the property `keyformat`.
pub const KEY_FORMAT: &str = "keyformat";
/// Salt of PBKDF2.
pub const KEY_PBKDF2_SALT: &str = "pbkdf2salt";
/// Iterations of PBKDF2.
pub const KEY_PBKDF2_ITERS: &str = "pbkdf2iters";

/// A key as it is stored, wrapped (`DSL_CRYPTO_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// A value of the property `encryption`.
    pub suite: u64,
    /// Names the master key.
    pub guid: u64,
    /// 0 or [`KEY_VERSION`].
    pub version: u64,
    /// IV of the wrapping.
    pub iv: [u8; IV_SIZE],
    /// MAC of the wrapping.
    pub mac: [u8; MAC_SIZE],
    /// Master key, wrapped; as many bytes as the suite's keys have count.
    pub master: [u8; KEY_SIZE],
    /// HMAC key, wrapped.
    pub hmac: [u8; HMAC_KEY_SIZE],
}

/// What a protected block pointer says besides (`zio_crypt_decode_params_bp`, `zio_crypt_decode_mac_bp`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Params {
    /// Salt of the block's key.
    pub salt: [u8; SALT_SIZE],
    /// IV.
    pub iv: [u8; IV_SIZE],
    /// MAC.
    pub mac: [u8; MAC_SIZE],
}

impl Params {
    /// Those of a block pointer. Salt and IV mean nothing unless it [`Blkptr::is_encrypted`].
    #[must_use]
    pub fn of(bp: &Blkptr) -> Self {
        let words = bp.words();
        let mut iv = [0; IV_SIZE];
        iv[..8].copy_from_slice(&words[5].to_le_bytes());
        iv[8..].copy_from_slice(&((words[FILL_WORD] >> 32) as u32).to_le_bytes());
        Params { salt: words[4].to_le_bytes(), iv, mac: mac_of(bp) }
    }
}

/// Word of a block pointer that holds the fill count.
const FILL_WORD: usize = 11;
/// Word with the properties (`blk_prop`).
const PROP_WORD: usize = 6;

/// The MAC in a pointer; zeros if it leads to an objset, which has its own.
fn mac_of(bp: &Blkptr) -> [u8; MAC_SIZE] {
    let mut mac = [0; MAC_SIZE];
    if ObjectType(bp.object_type()) != ObjectType::OBJSET {
        let [_, _, low, high] = bp.checksum();
        mac[..8].copy_from_slice(&low.to_le_bytes());
        mac[8..].copy_from_slice(&high.to_le_bytes());
    }
    mac
}

/// The MAC of a log block, which stands in itself.
pub fn log_block_mac(block: &[u8]) -> Result<[u8; MAC_SIZE]> {
    let mac = block.get(CHAIN_SIZE - MAC_SIZE..CHAIN_SIZE).and_then(|mac| mac.first_chunk());
    mac.copied().ok_or(Error::corrupt("log block: shorter than its chain header", None))
}

/// What of a pointer goes into the MAC of what holds it (`blkptr_auth_buf_t`).
fn put_pointer(out: &mut Vec<u8>, bp: &Blkptr, version: u64) {
    let mut portable = *bp;
    let prop = if version == 0 {
        portable.set_dedup(false);
        portable.set_checksum_type(0);
        portable.set_psize(MIN_BLOCK_SIZE);
        portable.words()[PROP_WORD]
    } else if bp.is_hole() {
        0
    } else {
        if bp.level() != 0 {
            portable.clear_byteorder();
            portable.set_compress(0);
            portable.set_psize(MIN_BLOCK_SIZE);
        }
        portable.set_dedup(false);
        portable.set_checksum_type(0);
        portable.words()[PROP_WORD]
    };
    out.extend_from_slice(&prop.to_le_bytes());
    out.extend_from_slice(&mac_of(bp));
    if version != 0 {
        out.extend_from_slice(&[0; 8]);
    }
}

/// What the MAC of an indirect block is computed of: all the pointers in it.
#[must_use]
pub fn indirect_input(block: &[u8], version: u64) -> Vec<u8> {
    let mut out = Vec::with_capacity(block.len() / 4);
    (0..).map_while(|i| Blkptr::nth(block, i)).for_each(|bp| put_pointer(&mut out, &bp, version));
    out
}

/// What of a block is ciphertext, in order, and what is authenticated with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Ranges of ciphertext.
    pub sealed: Vec<Range<usize>>,
    /// Additional authenticated data.
    pub aad: Vec<u8>,
}

/// The part of a dnode before its block pointers, as a MAC has it.
fn portable_core(dnode: &[u8]) -> [u8; DNODE_CORE_SIZE] {
    let mut core = [0; DNODE_CORE_SIZE];
    core.copy_from_slice(&dnode[..DNODE_CORE_SIZE]);
    core[7] &= FLAG_SPILL_BLKPTR;
    core[24..32].fill(0);
    core
}

/// A dnode's parts, of `dnode`, which is all its slots.
struct Parts {
    bonus: Range<usize>,
    spilled: bool,
}

fn parts(dnode: &[u8], at: Option<Bookmark>) -> Result<Parts> {
    let bad = Error::corrupt("dnode: number of block pointers out of range", at);
    let (nblkptr, spilled) = (usize::from(dnode[3]), dnode[7] & FLAG_SPILL_BLKPTR != 0);
    if nblkptr > MAX_NBLKPTR {
        return Err(bad);
    }
    let start = DNODE_CORE_SIZE + nblkptr * BLKPTR_SIZE;
    let end = dnode.len() - if spilled { BLKPTR_SIZE } else { 0 };
    if start > end { Err(bad) } else { Ok(Parts { bonus: start..end, spilled }) }
}

fn put_dnode(out: &mut Vec<u8>, dnode: &[u8], spilled: bool, version: u64) {
    out.extend_from_slice(&portable_core(dnode));
    let pointers = (0..usize::from(dnode[3])).filter_map(|i| Blkptr::nth(&dnode[DNODE_CORE_SIZE..], i));
    pointers.for_each(|bp| put_pointer(out, &bp, version));
    if let Some(spill) = dnode.last_chunk::<BLKPTR_SIZE>().filter(|_| spilled) {
        put_pointer(out, &Blkptr::from_bytes(spill), version);
    }
}

impl Layout {
    /// A block that is ciphertext throughout.
    #[must_use]
    pub fn plain(len: usize) -> Self {
        Layout { sealed: core::iter::once(0..len).collect(), aad: Vec::new() }
    }

    /// A block of dnodes, of which only bonuses are ciphertext (`zio_crypt_init_uios_dnode`).
    pub fn dnodes(block: &[u8], version: u64, at: Option<Bookmark>) -> Result<Self> {
        let mut layout = Layout { sealed: Vec::new(), aad: Vec::with_capacity(block.len()) };
        let mut start = 0;
        while start + DNODE_SIZE <= block.len() {
            let end = start + DNODE_SIZE * (usize::from(block[start + 12]) + 1);
            let dnode = block.get(start..end);
            let dnode = dnode.ok_or(Error::corrupt("dnode: extra slots reach past the block", at))?;
            let Parts { bonus, spilled } = parts(dnode, at)?;
            put_dnode(&mut layout.aad, dnode, spilled, version);
            let has_bonus = dnode[10] != 0 || dnode[11] != 0;
            if dnode[0] != ObjectType::NONE.0 && ObjectType(dnode[4]).is_encrypted() && has_bonus {
                layout.sealed.push(start + bonus.start..start + bonus.end);
            } else {
                layout.aad.extend_from_slice(&dnode[bonus]);
            }
            start = end;
        }
        Ok(layout)
    }

    /// A log block: all of each record but its header and the pointers in it is ciphertext (`zio_crypt_init_uios_zil`).
    pub fn log(block: &[u8]) -> Result<Self> {
        let short = || Error::corrupt("log block: more bytes in use than it has", None);
        // Before the trailer with the checksum: the next pointer and the length in use.
        let head = block.get(..CHAIN_SIZE - ECK_SIZE).ok_or_else(short)?;
        let used = usize::try_from(read_u64(block, NUSED_AT)).unwrap_or(usize::MAX);
        let body = block.get(CHAIN_SIZE..used).ok_or_else(short)?;
        let mut layout = Layout { sealed: Vec::new(), aad: head.to_vec() };
        let mut at = CHAIN_SIZE;
        for record in crate::ondisk::zil::records(body) {
            let (RecordHeader { len, kind: what, .. }, bytes) = record?;
            layout.aad.extend_from_slice(&bytes[..RECORD_HEADER_SIZE]);
            let clear = match what {
                kind::WRITE => WRITE_BP_AT..WRITE_RECORD_SIZE,
                kind::CLONE_RANGE => CLONE_BPS_AT..len,
                _ => len..len,
            };
            let pointers = bytes.get(clear.clone());
            let pointers = pointers.ok_or(Error::corrupt("log record: shorter than its fields", None))?;
            layout.aad.extend_from_slice(pointers);
            layout.sealed.push(at + RECORD_HEADER_SIZE..at + clear.start);
            if clear.end < len {
                layout.sealed.push(at + clear.end..at + len);
            }
            at += len;
        }
        Ok(layout)
    }
}

/// Bytes of a block's trailer (`zio_eck_t`).
const ECK_SIZE: usize = crate::ondisk::eck::ECK_SIZE;
/// Where a log block says how many bytes are in use (`zc_nused`).
const NUSED_AT: usize = 8 + BLKPTR_SIZE;
/// The pointer in a write record (`offsetof (lr_write_t, lr_blkptr)`).
const WRITE_BP_AT: usize = WRITE_RECORD_SIZE - BLKPTR_SIZE;
/// The pointers' number and the pointers in a clone record (`offsetof (lr_clone_range_t, lr_nbps)`).
const CLONE_BPS_AT: usize = RECORD_HEADER_SIZE + 32;

/// What an objset's two MACs are computed of, and what they are (`zio_crypt_do_objset_hmacs`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjsetMacs {
    /// Of the kind and the meta-dnode.
    pub portable_input: Vec<u8>,
    /// As stored.
    pub portable: [u8; OBJSET_MAC_SIZE],
    /// Of the flags and the accounts; `None` where the MAC must be zeros.
    pub local_input: Option<Vec<u8>>,
    /// As stored.
    pub local: [u8; OBJSET_MAC_SIZE],
}

/// Offsets in `objset_phys_t`.
const TYPE_AT: usize = 704;
const FLAGS_AT: usize = 712;
const PORTABLE_MAC_AT: usize = 720;
const LOCAL_MAC_AT: usize = 752;
/// The accounts by user, group and project.
const ACCOUNTS_AT: [usize; 3] = [1024, 1536, 2048];

impl ObjsetMacs {
    /// Those of a root block.
    pub fn of(block: &[u8], version: u64, at: Bookmark) -> Result<Self> {
        let mac = |offset: usize| block.get(offset..offset + OBJSET_MAC_SIZE)?.first_chunk().copied();
        let (Some(portable), Some(local), true) =
            (mac(PORTABLE_MAC_AT), mac(LOCAL_MAC_AT), block.len() >= 1024)
        else {
            return Err(Error::corrupt("objset: root block too small", at));
        };
        let put = |out: &mut Vec<u8>, start: usize| -> Result<()> {
            let dnode = &block[start..start + DNODE_SIZE];
            let spilled = parts(dnode, Some(at))?.spilled;
            put_dnode(out, dnode, spilled, version);
            Ok(())
        };
        // The kind is the one number that goes in with its high byte first, whatever the order of the block.
        let mut portable_input = read_u64(block, TYPE_AT).to_be_bytes().to_vec();
        // No flag is portable.
        portable_input.extend_from_slice(&[0; 8]);
        put(&mut portable_input, 0)?;
        let accounts: Vec<usize> = ACCOUNTS_AT
            .into_iter()
            .filter(|start| start + DNODE_SIZE <= block.len() && block[*start] != ObjectType::NONE.0)
            .collect();
        let complete = read_u64(block, FLAGS_AT) & FLAG_USERACCOUNTING_COMPLETE != 0;
        let mut local_input = None;
        // The account by project alone was never made.
        if complete && accounts.iter().any(|start| *start != ACCOUNTS_AT[2]) {
            let mut input = block[FLAGS_AT..FLAGS_AT + 8].to_vec();
            for start in accounts {
                put(&mut input, start)?;
            }
            local_input = Some(input);
        }
        Ok(ObjsetMacs { portable_input, portable, local_input, local })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn pointer(level: u8) -> Blkptr {
        let mut bp = Blkptr::HOLE;
        bp.set_dva(0, crate::ondisk::blkptr::Dva { vdev: 0, offset: 512, asize: 512, gang: false });
        bp.set_sizes(1024, 1024);
        bp.set_object_type(ObjectType::PLAIN_FILE_CONTENTS.0);
        bp.set_level(level);
        bp.set_compress(15);
        bp.set_checksum_type(7);
        bp.set_little_endian();
        bp.set_authenticated();
        bp.set_checksum([1, 2, 0x0706_0504_0302_0100, 4]);
        bp
    }

    #[test]
    fn only_what_is_portable_of_a_pointer_is_authenticated() {
        let input = |bp: &Blkptr, version| {
            let mut out = Vec::new();
            put_pointer(&mut out, bp, version);
            out
        };
        let (data, above) = (pointer(0), pointer(1));
        let of = |bp: &Blkptr| input(bp, KEY_VERSION);
        assert_eq!((of(&data).len(), input(&data, 0).len()), (32, 24));
        assert_eq!(of(&data)[8..16], [0, 1, 2, 3, 4, 5, 6, 7]);
        // The checksum function and the place never count, compression and physical size of data do.
        for (bp, counts) in [(data, true), (above, false)] {
            let mut other = bp;
            other.set_checksum_type(8);
            other.set_dva(1, bp.dva(0));
            assert_eq!(of(&other), of(&bp));
            other.set_compress(2);
            assert_eq!(of(&other) != of(&bp), counts);
            other = bp;
            other.set_sizes(1024, 512);
            assert_eq!(of(&other) != of(&bp), counts);
        }
        let mut hole = Blkptr::HOLE;
        hole.set_birth(9);
        hole.set_hole_size(1024);
        assert_eq!(of(&hole), vec![0; 32]);
        let mut root = data;
        root.set_object_type(ObjectType::OBJSET.0);
        assert_eq!(of(&root)[8..24], [0; 16]);
    }

    #[test]
    fn bonuses_of_encrypted_types_are_sealed() {
        let mut block = vec![0; 4 * DNODE_SIZE];
        // Slot 0: one pointer, an attribute bonus; slots 1 and 2: one dnode with a spill block; slot 3: free.
        for (at, extra, bonus, flags) in [(0, 0, 44, 0), (DNODE_SIZE, 1, 44, FLAG_SPILL_BLKPTR)] {
            block[at] = 19;
            block[at + 3] = 1;
            block[at + 4] = bonus;
            block[at + 7] = flags;
            block[at + 10] = 16;
            block[at + 12] = extra;
        }
        let layout = Layout::dnodes(&block, KEY_VERSION, None).unwrap();
        assert_eq!(layout.sealed, [192..512, 512 + 192..1536 - 128]);
        // Core and pointers of each, and all of the free one but its core.
        assert_eq!(layout.aad.len(), (64 + 32) + (64 + 32 + 32) + 512);
        // What a scrub or an account changes in place leaves it as it is.
        let mut moved = block.clone();
        moved[7] |= 1;
        moved[24] = 9;
        assert_eq!(Layout::dnodes(&moved, KEY_VERSION, None).unwrap(), layout);
        block[3 * DNODE_SIZE + 12] = 1;
        let past = Error::corrupt("dnode: extra slots reach past the block", None);
        assert_eq!(Layout::dnodes(&block, KEY_VERSION, None), Err(past));
        block[3 * DNODE_SIZE + 12] = 0;
        block[3] = 4;
        let many = Error::corrupt("dnode: number of block pointers out of range", None);
        assert_eq!(Layout::dnodes(&block, KEY_VERSION, None), Err(many));
    }

    #[test]
    fn pointers_and_headers_of_log_records_are_clear() {
        use crate::ondisk::zil::Record;
        let mut block = vec![0; CHAIN_SIZE];
        let bp = Blkptr::HOLE;
        for record in [
            Record::Remove { dir: 1, name: b"x".to_vec(), is_dir: false },
            Record::Write { object: 1, offset: 0, len: 16, bp, data: vec![7; 16] },
            Record::Write { object: 1, offset: 0, len: 16, bp, data: Vec::new() },
        ] {
            block.extend(record.emit());
        }
        let used = block.len() as u64;
        block[NUSED_AT..NUSED_AT + 8].copy_from_slice(&used.to_le_bytes());
        block.resize(4096, 0);
        let layout = Layout::log(&block).unwrap();
        let (a, b, c) = (CHAIN_SIZE, CHAIN_SIZE + 48, CHAIN_SIZE + 48 + 208);
        assert_eq!(layout.sealed, [a + 32..a + 48, b + 32..b + 64, b + 192..b + 208, c + 32..c + 64]);
        assert_eq!(layout.aad.len(), CHAIN_SIZE - ECK_SIZE + 3 * 32 + 2 * BLKPTR_SIZE);
        block[NUSED_AT..NUSED_AT + 8].copy_from_slice(&5000u64.to_le_bytes());
        assert!(Layout::log(&block).is_err() && Layout::log(&block[..100]).is_err());
    }
}
