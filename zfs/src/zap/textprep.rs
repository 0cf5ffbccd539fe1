//! How names are folded before they are hashed and compared: upper case and Unicode normal forms, as of Unicode 5.0.
//! Source: `u8_textprep_str` (man `u8_textprep_str(9F)`), as `zap_normalize` calls it.
//!
//! The hash of every name on disk depends on it, so characters that came after Unicode 5.0 stay what they are for ever. What was
//! there has kept its normal form in all later versions; of its upper case only mappings to later characters are new.
//!
//! # Invariants
//! - Bytes that are no UTF-8 pass unchanged: there is a folded form of every name.
//! - Case is changed before a character is decomposed, and only of the first one of a combining sequence.

use alloc::vec::Vec;
use core::char;
use unicode_normalization::char::{
    canonical_combining_class, compose, decompose_canonical, decompose_compatible,
};

/// Fold to upper case (`U8_TEXTPREP_TOUPPER`).
pub const NORMALIZE_TO_UPPER: u64 = 0x2;
/// Fold to lower case (`U8_TEXTPREP_TOLOWER`).
pub const NORMALIZE_TO_LOWER: u64 = 0x4;
/// Canonical decomposition (`U8_CANON_DECOMP`); alone, normal form D.
pub const NORMALIZE_DECOMPOSE: u64 = 0x10;
/// Compatibility decomposition (`U8_COMPAT_DECOMP`); alone, normal form KD.
pub const NORMALIZE_DECOMPOSE_COMPATIBLE: u64 = 0x20;
/// Canonical composition after either (`U8_CANON_COMP`): normal forms C and KC.
pub const NORMALIZE_COMPOSE: u64 = 0x40;

/// How many characters a combining sequence has at most, before a joiner ends it (`U8_UPPER_LIMIT_IN_A_SEQ`).
const MAX_SEQUENCE: usize = 31;
/// COMBINING GRAPHEME JOINER.
const JOINER: char = '\u{34f}';
/// COMBINING GREEK YPOGEGRAMMENI.
const IOTA_BENEATH: char = '\u{345}';
/// GREEK CAPITAL LETTER IOTA.
const CAPITAL_IOTA: char = '\u{399}';

/// Characters that Unicode 5.0 did not have and that have another case, a decomposition or a combining class by now (and
/// what lies between them and means nothing here). Source: `DerivedAge.txt` of the Unicode Character Database.
const LATER: [(u32, u32); 50] = [
    (0x0370, 0x0373),
    (0x0376, 0x0377),
    (0x037f, 0x037f),
    (0x03cf, 0x03cf),
    (0x0487, 0x0487),
    (0x0514, 0x052f),
    (0x0558, 0x0558),
    (0x058b, 0x058c),
    (0x05c8, 0x05c9),
    (0x0616, 0x061a),
    (0x065f, 0x065f),
    (0x07fd, 0x08ff),
    (0x09fe, 0x09fe),
    (0x0c3c, 0x0c3c),
    (0x0d3b, 0x0d3c),
    (0x0eba, 0x0eba),
    (0x103a, 0x108d),
    (0x10c7, 0x10cd),
    (0x10fd, 0x135e),
    (0x13f5, 0x13fd),
    (0x1715, 0x1715),
    (0x1a60, 0x1af0),
    (0x1baa, 0x1cf9),
    (0x1dcb, 0x1dfd),
    (0x1e9e, 0x1e9e),
    (0x1efa, 0x1eff),
    (0x2095, 0x209f),
    (0x20f0, 0x20f0),
    (0x2150, 0x2152),
    (0x2189, 0x2189),
    (0x2c2f, 0x2c2f),
    (0x2c5f, 0x2c5f),
    (0x2c6d, 0x2c73),
    (0x2c7c, 0x2c7f),
    (0x2ceb, 0x2cf3),
    (0x2d27, 0x2d2d),
    (0x2d7f, 0x2dff),
    (0x3244, 0x3247),
    (0x32ff, 0x32ff),
    (0xa640, 0xa7f9),
    (0xa82c, 0xabed),
    (0xfa2e, 0xfa2f),
    (0xfa6b, 0xfa6d),
    (0xfe24, 0xfe2f),
    (0x101fd, 0x1037a),
    (0x104b0, 0x107bf),
    (0x10ae5, 0x1d128),
    (0x1d250, 0x1d281),
    (0x1d6a6, 0x1d6a6),
    (0x1df95, 0x1fbf9),
];

fn is_later(c: char) -> bool {
    let c = u32::from(c);
    let i = LATER.partition_point(|&(_, last)| last < c);
    LATER.get(i).is_some_and(|&(first, _)| first <= c)
}

/// A part of a name that is looked at as one.
#[derive(Clone, Copy)]
enum Unit<'a> {
    Char(char),
    /// No character.
    Bytes(&'a [u8]),
}

/// The first unit of `name`, which is not empty, and its length.
fn first_unit(name: &[u8]) -> (Unit<'_>, usize) {
    let len = match name[0] {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 1,
    };
    let len = len.min(name.len());
    let unit = match core::str::from_utf8(&name[..len]).ok().and_then(|s| s.chars().next()) {
        Some(c) => Unit::Char(c),
        None => Unit::Bytes(&name[..len]),
    };
    (unit, len)
}

/// The one character of a case mapping, if there is one and Unicode 5.0 had it. (Mappings to several count as none.)
fn single(mut mapped: impl ExactSizeIterator<Item = char>) -> Option<char> {
    mapped.next().filter(|&c| mapped.len() == 0 && !is_later(c))
}

/// The upper case of a character, if it has one. Greek letters with an iota beneath have one in title case alone.
fn upper(c: char) -> Option<char> {
    let title = match u32::from(c) {
        c @ (0x1f80..=0x1f87 | 0x1f90..=0x1f97 | 0x1fa0..=0x1fa7) => Some(c + 8),
        c @ (0x1fb3 | 0x1fc3 | 0x1ff3) => Some(c + 9),
        _ => None,
    };
    title.and_then(char::from_u32).or_else(|| single(c.to_uppercase()))
}

/// A character of a combining sequence, and the combining class by which it is ordered.
#[derive(Clone, Copy)]
struct Mark {
    c: char,
    class: u8,
}

struct Folder {
    flags: u64,
    out: Vec<u8>,
}

impl Folder {
    fn is_normalizing(&self) -> bool {
        self.flags & (NORMALIZE_DECOMPOSE | NORMALIZE_DECOMPOSE_COMPATIBLE) != 0
    }

    fn fold_case(&self, c: char) -> char {
        if is_later(c) {
            c
        } else if self.flags & NORMALIZE_TO_UPPER != 0 {
            upper(c).unwrap_or(c)
        } else if self.flags & NORMALIZE_TO_LOWER != 0 {
            single(c.to_lowercase()).unwrap_or(c)
        } else {
            c
        }
    }

    fn decompose(&self, c: char, into: &mut Vec<Mark>) {
        let mut push = |c| into.push(Mark { c, class: combining_class(c) });
        if is_later(c) {
            push(c);
        } else if self.flags & NORMALIZE_DECOMPOSE != 0 {
            decompose_canonical(c, push);
        } else {
            decompose_compatible(c, push);
        }
    }

    fn push(&mut self, c: char) {
        self.out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }

    /// Puts out the combining sequence that starts with `first`; what follows is in `rest`. Answers how much of it is used.
    fn sequence(&mut self, first: char, rest: &[u8]) -> usize {
        let mut marks = Vec::with_capacity(8);
        let first = self.fold_case(first);
        self.decompose(first, &mut marks);
        let mut hangul = Hangul::of(first);
        let mut at = 0;
        while let Some((c, len)) = next_char(&rest[at..]) {
            let joins = hangul.join(c);
            if joins.is_none() && (combining_class(c) == 0 || hangul != Hangul::None) {
                break;
            }
            hangul = joins.unwrap_or(hangul);
            let before = marks.len();
            if before < MAX_SEQUENCE {
                self.decompose(c, &mut marks);
            }
            if before >= MAX_SEQUENCE || joins.is_none() && marks.len() >= MAX_SEQUENCE {
                marks.truncate(before);
                marks.push(Mark { c: JOINER, class: 0 });
                break;
            }
            // The only mark that has another case: it becomes a letter, but keeps its place.
            if c == IOTA_BENEATH && self.flags & NORMALIZE_TO_UPPER != 0 {
                marks[before].c = CAPITAL_IOTA;
            }
            at += len;
        }
        for run in marks.split_mut(|mark| mark.class == 0) {
            run.sort_by_key(|mark| mark.class);
        }
        if self.flags & NORMALIZE_COMPOSE != 0 {
            marks = compose_all(&marks);
            // A starter may join with the next one.
            if let Some(last) = marks.last_mut().filter(|mark| mark.class == 0) {
                while let Some((c, len)) = next_char(&rest[at..]) {
                    let Some(joined) =
                        compose_known(last.c, c).filter(|_| Hangul::of(last.c) == Hangul::None)
                    else {
                        break;
                    };
                    last.c = joined;
                    at += len;
                }
            }
        }
        marks.into_iter().for_each(|mark| self.push(mark.c));
        at
    }
}

/// The character that `rest` starts with, unless it is an ASCII one, and its length.
fn next_char(rest: &[u8]) -> Option<(char, usize)> {
    match rest.first().map(|_| first_unit(rest)) {
        Some((Unit::Char(c), len)) if len > 1 => Some((c, len)),
        _ => None,
    }
}

/// The Hangul syllable that a sequence is so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hangul {
    None,
    Lead,
    LeadVowel,
    /// A whole syllable, or a part that nothing can follow.
    Whole,
}

impl Hangul {
    fn of(c: char) -> Hangul {
        match u32::from(c) {
            0x1100..=0x1112 => Hangul::Lead,
            c @ 0xac00..=0xd7a3 if (c - 0xac00).is_multiple_of(28) => Hangul::LeadVowel,
            0x1161..=0x1175 | 0x11a8..=0x11c2 | 0xac00..=0xd7a3 => Hangul::Whole,
            _ => Hangul::None,
        }
    }

    /// What it becomes by a further character that belongs to it.
    fn join(self, c: char) -> Option<Hangul> {
        match (self, u32::from(c)) {
            (Hangul::Lead, 0x1161..=0x1175) => Some(Hangul::LeadVowel),
            (Hangul::LeadVowel, 0x11a8..=0x11c2) => Some(Hangul::Whole),
            _ => None,
        }
    }
}

fn combining_class(c: char) -> u8 {
    if is_later(c) { 0 } else { canonical_combining_class(c) }
}

fn compose_known(a: char, b: char) -> Option<char> {
    compose(a, b).filter(|&c| !is_later(c))
}

/// Whether a mark may not be tried with the starter: something of the sequence that is no lower stands before it.
fn blocked(marks: &[Mark], i: usize) -> bool {
    marks[1..i].iter().any(|mark| mark.class >= marks[i].class || mark.class == 0)
}

/// Composition of a decomposed, ordered sequence. It differs from Unicode's in what blocks a mark: nothing, once the starter joined
/// with one.
fn compose_all(marks: &[Mark]) -> Vec<Mark> {
    let mut out = Vec::with_capacity(marks.len());
    let mut i = 0;
    while i < marks.len() {
        let mut starter = marks[i];
        let mut skipped = Vec::new();
        i += 1;
        if starter.class == 0 {
            let mut joined_one = false;
            while i < marks.len() {
                let blocks = !joined_one && !skipped.is_empty() && blocked(marks, i);
                match compose_known(starter.c, marks[i].c).filter(|_| !blocks) {
                    Some(joined) => {
                        starter.c = joined;
                        joined_one = true;
                    }
                    None if marks[i].class == 0 && !blocks => break,
                    None => skipped.push(marks[i]),
                }
                i += 1;
            }
        }
        out.push(starter);
        out.append(&mut skipped);
    }
    out
}

/// The folded form of a name. `flags` are `NORMALIZE_*`.
pub(crate) fn fold(name: &[u8], flags: u64) -> Vec<u8> {
    if name.is_ascii() {
        return match flags {
            upper if upper & NORMALIZE_TO_UPPER != 0 => name.to_ascii_uppercase(),
            lower if lower & NORMALIZE_TO_LOWER != 0 => name.to_ascii_lowercase(),
            _ => name.to_vec(),
        };
    }
    let mut folder = Folder { flags, out: Vec::with_capacity(name.len() + 8) };
    let mut at = 0;
    while at < name.len() {
        let (unit, len) = first_unit(&name[at..]);
        at += len;
        match unit {
            Unit::Bytes(bytes) => folder.out.extend_from_slice(bytes),
            Unit::Char(c)
                if folder.is_normalizing() && !(c.is_ascii() && name.get(at).is_none_or(u8::is_ascii)) =>
            {
                at += folder.sequence(c, &name[at..]);
            }
            Unit::Char(c) => {
                let c = folder.fold_case(c);
                folder.push(c);
            }
        }
    }
    folder.out
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: u64 = NORMALIZE_DECOMPOSE | NORMALIZE_COMPOSE;
    const D: u64 = NORMALIZE_DECOMPOSE;
    const KC: u64 = NORMALIZE_DECOMPOSE_COMPATIBLE | NORMALIZE_COMPOSE;
    const KD: u64 = NORMALIZE_DECOMPOSE_COMPATIBLE;
    const UPPER: u64 = NORMALIZE_TO_UPPER;

    fn text(name: &str, flags: u64) -> alloc::string::String {
        alloc::string::String::from_utf8(fold(name.as_bytes(), flags)).unwrap()
    }

    /// The digest is of what OpenZFS 2.1 (libzpool) makes of the same names.
    #[test]
    fn every_character_folds_as_in_openzfs() {
        use sha2::Digest as _;
        let mut sum = sha2::Sha256::new();
        for c in (1..0x1_3000).chain(0x1_d000..0x1_e000).chain(0x2_f000..0x3_0000).filter_map(char::from_u32)
        {
            for flags in [UPPER, C, KD, UPPER | KC] {
                // Between letters, so that marks meet something to join with.
                sum.update(fold(alloc::format!("e{c}\u{301}").as_bytes(), flags));
                sum.update([0]);
            }
        }
        let digest =
            sum.finalize().iter().fold(alloc::string::String::new(), |s, b| alloc::format!("{s}{b:02x}"));
        assert_eq!(digest, "98a5d2c47d2fa5eaabc555a86dd2ca95d796d869dcc3d7716096051703683761");
    }

    #[test]
    fn forms_and_cases() {
        assert_eq!(text("cafe\u{301}", C), "caf\u{e9}");
        assert_eq!(text("caf\u{e9}", D), "cafe\u{301}");
        assert_eq!(text("\u{fb01}x\u{b2}", KC), "fix2");
        assert_eq!(text("\u{fb01}", C), "\u{fb01}");
        assert_eq!(text("na\u{ef}ve", UPPER | D), "NAI\u{308}VE");
        assert_eq!(text("stra\u{df}e", UPPER), "STRA\u{df}E");
        assert_eq!(text("\u{1112}\u{1161}\u{11ab}", C), "\u{d55c}");
        assert_eq!(text("q\u{307}\u{323}", D), "q\u{323}\u{307}");
        assert_eq!(text("\u{1c6}\u{1f80}", UPPER), "\u{1c4}\u{1f88}");
        assert_eq!(text("ABC", NORMALIZE_TO_LOWER), "abc");
    }

    #[test]
    fn what_unicode_5_did_not_know_stays() {
        // A small letter with a capital since 11.0, one whose capital came in 5.1, a composite since 5.2.
        assert_eq!(text("\u{10d0}\u{250}", UPPER), "\u{10d0}\u{250}");
        assert_eq!(text("\u{1109a}", D), "\u{1109a}");
        assert_eq!(text("\u{11099}\u{110ba}", C), "\u{11099}\u{110ba}");
    }

    #[test]
    fn what_is_no_utf8_stays() {
        for name in [&b"a\xffb"[..], b"\xc3", b"\xed\xa0\x80x", b"\xf5\x80", b"\xe2\x82"] {
            assert_eq!(fold(name, C), name);
        }
        assert_eq!(fold(b"a\xc3", UPPER), b"A\xc3");
        // A lead byte takes what follows it along.
        assert_eq!(fold(b"\xc3ab", UPPER), b"\xc3aB");
    }

    #[test]
    fn a_degenerate_sequence_is_cut_by_a_joiner() {
        let name = alloc::format!("a{}", "\u{316}".repeat(40));
        let folded = text(&name, D);
        assert_eq!(folded.chars().nth(30), Some(JOINER));
        assert_eq!(folded.chars().count(), 42);
    }
}
