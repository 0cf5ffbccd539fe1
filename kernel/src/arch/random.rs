//! Randomness: ChaCha20 keyed from RDRAND/RDSEED where the processor has them, the clock and the time-stamp counter.
//!
//! The generator rekeys itself after every request (fast key erasure), so its state tells nothing about what it
//! gave out. [`add_entropy`] mixes in what a virtio-rng device or a seed on the command line gives.

use super::{cpuid, tsc};
use crate::sync::IrqLock;

struct Generator {
    key: [u32; 8],
    counter: u64,
    seeded: bool,
}

static GENERATOR: IrqLock<Generator> = IrqLock::new(Generator { key: [0; 8], counter: 0, seeded: false });

fn quarter(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(16);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(12);
    s[a] = s[a].wrapping_add(s[b]);
    s[d] = (s[d] ^ s[a]).rotate_left(8);
    s[c] = s[c].wrapping_add(s[d]);
    s[b] = (s[b] ^ s[c]).rotate_left(7);
}

/// One ChaCha20 block.
fn block(key: &[u32; 8], counter: u64) -> [u32; 16] {
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    start[4..12].copy_from_slice(key);
    start[12] = counter as u32;
    start[13] = (counter >> 32) as u32;
    let mut s = start;
    for _ in 0..10 {
        quarter(&mut s, 0, 4, 8, 12);
        quarter(&mut s, 1, 5, 9, 13);
        quarter(&mut s, 2, 6, 10, 14);
        quarter(&mut s, 3, 7, 11, 15);
        quarter(&mut s, 0, 5, 10, 15);
        quarter(&mut s, 1, 6, 11, 12);
        quarter(&mut s, 2, 7, 8, 13);
        quarter(&mut s, 3, 4, 9, 14);
    }
    for (word, first) in s.iter_mut().zip(start) {
        *word = word.wrapping_add(first);
    }
    s
}

/// A number from the processor's own generator, if it has one.
fn hardware() -> Option<u64> {
    if cpuid(1, 0).ecx & 1 << 30 == 0 {
        return None;
    }
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: cpuid says that rdrand exists.
        unsafe {
            core::arch::asm!("rdrand {}", "setc {}", out(reg) value, out(reg_byte) ok, options(nomem, nostack))
        }
        if ok != 0 {
            return Some(value);
        }
    }
    None
}

impl Generator {
    fn mix(&mut self, value: u64) {
        self.key[0] ^= value as u32;
        self.key[1] ^= (value >> 32) as u32;
        self.rekey();
    }

    fn rekey(&mut self) {
        let words = block(&self.key, u64::MAX - self.counter);
        self.counter += 1;
        self.key.copy_from_slice(&words[..8]);
    }

    fn seed(&mut self) {
        for _ in 0..8 {
            let value = hardware().unwrap_or(0);
            self.mix(value);
            self.mix(tsc());
        }
        self.mix(crate::time::now().sec as u64);
        self.mix(u64::from(crate::time::now().nsec));
        self.seeded = true;
    }
}

/// Mixes `bytes` into the generator's state.
pub fn add_entropy(bytes: &[u8]) {
    let mut generator = GENERATOR.lock();
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        generator.mix(u64::from_le_bytes(word));
    }
}

/// Fills `out` with random bytes.
pub fn fill(out: &mut [u8]) {
    for part in out.chunks_mut(4096) {
        let mut generator = GENERATOR.lock();
        if !generator.seeded {
            generator.seed();
        }
        for chunk in part.chunks_mut(64) {
            let words = block(&generator.key, generator.counter);
            generator.counter += 1;
            for (bytes, word) in chunk.chunks_mut(4).zip(words) {
                bytes.copy_from_slice(&word.to_le_bytes()[..bytes.len()]);
            }
        }
        generator.rekey();
    }
}

/// The kernel's source of randomness for the layers above.
pub struct KernelRandom;

impl platform::random::Random for KernelRandom {
    fn fill(&self, out: &mut [u8]) {
        fill(out);
    }
}
