//! Goldens, round trips, and bytes that are no list.

use super::*;
use alloc::string::ToString;
use alloc::vec;
use platform::random::{Random, Seeded};

fn everything() -> NvList {
    let inner = NvList::new().with("guid", u64::MAX).with("type", "disk");
    let mut list = NvList::new()
        .with("flag", ())
        .with("children", vec![inner.clone(), NvList::new()])
        .with("names", vec!["a".to_string(), String::new(), "abcdefgh".to_string()])
        .with("numbers", vec![1u64, 2, 3])
        .with("none", Vec::<u64>::new())
        .with("on", true)
        .with("", "a pair without a name")
        .with("tree", inner);
    list.insert("i8", Value::Int8(-1));
    list.insert("u8", Value::Uint8(200));
    list.insert("byte", Value::Byte(7));
    list.insert("i16", Value::Int16(-2));
    list.insert("u16", Value::Uint16(65535));
    list.insert("i32", Value::Int32(i32::MIN));
    list.insert("u32", Value::Uint32(u32::MAX));
    list.insert("i64", Value::Int64(i64::MIN));
    list.insert("time", Value::Hrtime(5));
    list.insert("double", Value::Double(1.5));
    list.insert("bytes", Value::ByteArray(vec![1, 2, 3, 4, 5]));
    list.insert("u8s", Value::Uint8Array(vec![1, 2, 3]));
    list.insert("i8s", Value::Int8Array(vec![-1, 1]));
    list.insert("i16s", Value::Int16Array(vec![-3]));
    list.insert("u16s", Value::Uint16Array(vec![9, 8, 7]));
    list.insert("i32s", Value::Int32Array(vec![-3, 4]));
    list.insert("u32s", Value::Uint32Array(vec![9]));
    list.insert("i64s", Value::Int64Array(vec![-9]));
    list.insert("bools", Value::BooleanArray(vec![true, false]));
    list
}

#[test]
fn both_encodings_come_back() {
    let list = everything();
    assert_eq!(NvList::unpack(&list.pack_xdr()), Ok(list.clone()));
    assert_eq!(NvList::unpack(&list.pack_native()), Ok(list));
}

#[test]
fn xdr_of_one_number_is_as_openzfs_writes_it() {
    let packed = NvList::new().with("version", 5000u64).pack_xdr();
    let golden = [
        &[1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], // header, version, NV_UNIQUE_NAME
        &[0, 0, 0, 36, 0, 0, 0, 32],               // encoded and decoded size of the pair
        &[0, 0, 0, 7, b'v', b'e', b'r', b's', b'i', b'o', b'n', 0],
        &[0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x13, 0x88],
        &[0; 8],
    ];
    assert_eq!(packed, golden.concat());
}

#[test]
fn nesting_is_bounded() {
    let mut list = NvList::new();
    for _ in 0..MAX_DEPTH {
        list = NvList::new().with("x", list);
    }
    let too_deep = Err(Error::corrupt("nvlist: nested too deep", None));
    assert_eq!(NvList::unpack(&list.pack_xdr()), too_deep);
    assert_eq!(NvList::unpack(&list.pack_native()), too_deep);
}

#[test]
fn an_array_that_claims_to_be_huge_ends_at_the_bytes() {
    let mut packed = NvList::new().with("n", vec![1u64]).pack_xdr();
    let count = packed.len() - 8 - 8 - 4;
    packed[count - 4..count].copy_from_slice(&u32::MAX.to_be_bytes());
    packed[count..count + 4].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(NvList::unpack(&packed), Err(Error::corrupt("nvlist: bytes end within a value", None)));
}

#[test]
fn insert_replaces_and_moves_to_the_end() {
    let list = NvList::new().with("a", 1u64).with("b", 2u64).with("a", 3u64);
    assert_eq!(list.iter().map(|(n, _)| n).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!((list.get_u64("a"), list.u64("b"), list.get_u64("c")), (Some(3), Ok(2), None));
}

#[test]
fn it_shows_as_zdb_does() {
    let list = NvList::new()
        .with("version", 5000u64)
        .with("name", "tank")
        .with("features_for_read", NvList::new().with("com.delphix:hole_birth", ()))
        .with("children", vec![NvList::new().with("id", 0u64)]);
    let shown = "version: 5000\nname: 'tank'\nfeatures_for_read:\n    com.delphix:hole_birth\n\
                 children[0]:\n    id: 0\n";
    assert_eq!(list.to_string(), shown);
}

/// Damaged and random bytes: any answer is right, but no panic, no endless loop, no large allocation.
#[test]
fn damaged_bytes_are_survived() {
    let seed = 0x6e76_6c69;
    let random = Seeded::new(seed);
    for packed in [everything().pack_xdr(), everything().pack_native()] {
        for len in 0..packed.len() {
            let _ = NvList::unpack(&packed[..len]);
        }
        for _ in 0..20_000 {
            let mut bytes = packed.clone();
            for _ in 0..1 + random.next_u64() % 4 {
                let i = random.next_u64() as usize % bytes.len();
                bytes[i] = random.next_u64() as u8;
            }
            if let Ok(list) = NvList::unpack(&bytes) {
                let _ = list.to_string();
                assert!(NvList::unpack(&list.pack_xdr()).is_ok(), "seed {seed:#x}");
            }
        }
    }
}
