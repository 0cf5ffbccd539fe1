//! Round trips of every function, limits, and damaged input.

use super::*;
use platform::random::{Random, Seeded};

const FUNCTIONS: [Compression; 12] = [
    Compression::Lz4,
    Compression::Lzjb,
    Compression::Gzip(1),
    Compression::Gzip(6),
    Compression::Gzip(9),
    Compression::Zle,
    Compression::Zstd(1),
    Compression::Zstd(3),
    Compression::Zstd(9),
    Compression::Zstd(19),
    Compression::ZstdFast(1),
    Compression::ZstdFast(1000),
];

/// Compressible to a different degree: words of a small vocabulary, holes, and noise.
fn sample(random: &Seeded, len: usize) -> Vec<u8> {
    let mut data = Vec::with_capacity(len);
    while data.len() < len {
        match random.next_u64() % 4 {
            0 => data.extend(core::iter::repeat_n(0, random.next_u64() as usize % 300)),
            1 => data.extend(random.next_u64().to_le_bytes()),
            _ => data.extend(format!("word{} ", random.next_u64() % 50).bytes()),
        }
    }
    data.truncate(len);
    data
}

fn pack(function: Compression, data: &[u8], ws: &mut Workspace) -> Option<Vec<u8>> {
    // A little of room: what is to come back need not shrink.
    function.compress(data, data.len() + 512, ws).map(<[u8]>::to_vec)
}

#[test]
fn every_function_comes_back() {
    let random = Seeded::new(1);
    let mut ws = Workspace::default();
    for function in FUNCTIONS {
        for len in [512, 1024, 4096, 65_535, 65_536, 131_072, 1 << 20] {
            let data = sample(&random, len);
            let packed = pack(function, &data, &mut ws).expect("the sample is compressible");
            assert!(packed.len() < len || len < 65_536, "{function:?} {len}");
            let mut padded = packed.clone();
            padded.resize(packed.len().next_multiple_of(512), 0);
            assert_eq!(
                decompress(function.to_raw(), &padded, len).as_deref(),
                Ok(&data[..]),
                "{function:?} {len}"
            );
        }
    }
}

#[test]
fn noise_does_not_fit_the_limit() {
    let mut data = vec![0; 131_072];
    Seeded::new(2).fill(&mut data);
    let mut ws = Workspace::default();
    for function in FUNCTIONS {
        let limit = data.len() - data.len() / 8;
        assert!(function.compress(&data, limit, &mut ws).is_none(), "{function:?}");
    }
    assert!(Compression::Off.compress(&[0; 512], 512, &mut ws).is_none());
}

#[test]
fn zeros_shrink_to_next_to_nothing() {
    let mut ws = Workspace::default();
    for function in FUNCTIONS {
        let packed = pack(function, &[0; 131_072], &mut ws).expect("zeros are compressible");
        assert!(packed.len() < 6000, "{function:?}: {}", packed.len());
        assert_eq!(decompress(function.to_raw(), &packed, 131_072), Ok(vec![0; 131_072]));
    }
}

#[test]
fn the_zstd_header_is_that_of_zfs() {
    let mut ws = Workspace::default();
    let packed = pack(Compression::Zstd(3), &[b'x'; 4096], &mut ws).unwrap();
    assert_eq!(u32::from_be_bytes(*packed.first_chunk().unwrap()) as usize, packed.len() - 8);
    assert_eq!(packed[4], 3);
    let packed = pack(Compression::ZstdFast(20), &[b'x'; 4096], &mut ws).unwrap();
    assert_eq!(packed[4], 113);
    assert_eq!(zstd::fast_level_from_raw(123), Some(1000));
    assert_eq!((zstd::fast_level_from_raw(124), zstd::fast_level_from_raw(102)), (None, None));
}

#[test]
fn an_unknown_function_is_named() {
    assert_eq!(decompress(17, &[], 512), Err(Error::unsupported("compression function 17")));
    assert_eq!(decompress(0, &[], 512), Err(Error::unsupported("compression function 0")));
}

/// Any answer is right for damaged bytes, but no panic and nothing endless.
#[test]
fn damaged_bytes_are_survived() {
    let random = Seeded::new(3);
    let mut ws = Workspace::default();
    let refused = Err(Error::corrupt("compressed data does not decompress to its size", None));
    for function in FUNCTIONS {
        let data = sample(&random, 4096);
        let packed = pack(function, &data, &mut ws).unwrap();
        assert_eq!(decompress(function.to_raw(), &packed[..packed.len() / 2], 4096), refused, "{function:?}");
        for _ in 0..2000 {
            let mut bytes = packed.clone();
            for _ in 0..1 + random.next_u64() % 4 {
                let i = random.next_u64() as usize % bytes.len();
                bytes[i] = random.next_u64() as u8;
            }
            let _ = decompress(function.to_raw(), &bytes, 4096);
        }
        for _ in 0..500 {
            let mut bytes = vec![0; 600];
            random.fill(&mut bytes);
            bytes[..3].fill(0);
            let _ = decompress(function.to_raw(), &bytes, 4096);
        }
    }
}
