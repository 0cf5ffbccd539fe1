// Puts the symbol table of a linked `tarn.elf` into its last segment, where `src/symbols.rs` finds it: the names in a
// panic's backtrace. Plain std, no dependencies: build scripts include this file.
//
// The linker script leaves room: a PT_LOAD of its own after everything else, which holds only an empty table.

const SYMBOLS_MAGIC: &[u8; 8] = b"tarnsym1";
const SYMBOLS_HEADER: usize = 16;

fn elf_number(elf: &[u8], at: usize, width: usize) -> Result<u64, String> {
    let bytes = elf.get(at..at + width).ok_or("the ELF file is cut short")?;
    Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// A section header: type, virtual address, file offset, size, link.
type ElfSection = (u64, u64, usize, usize, usize);

fn elf_sections(elf: &[u8]) -> Result<Vec<ElfSection>, String> {
    let (table, size, count) = (elf_number(elf, 40, 8)?, elf_number(elf, 58, 2)?, elf_number(elf, 60, 2)?);
    (0..count)
        .map(|i| {
            let at = (table + i * size) as usize;
            Ok((
                elf_number(elf, at + 4, 4)?,
                elf_number(elf, at + 16, 8)?,
                elf_number(elf, at + 24, 8)? as usize,
                elf_number(elf, at + 32, 8)? as usize,
                elf_number(elf, at + 40, 4)? as usize,
            ))
        })
        .collect()
}

/// `_ZN3foo3bar17h0123456789abcdefE` → `_ZN3foo3barE`.
fn without_hash(name: &str) -> String {
    let cut = name.len().checked_sub(20).filter(|cut| name.starts_with("_ZN") && name.is_char_boundary(*cut));
    match cut {
        Some(cut) if name[cut..].starts_with("17h") && name.ends_with('E') => format!("{}E", &name[..cut]),
        _ => name.to_owned(),
    }
}

/// The functions of the high half, (address, name), in ascending order; and where `.text` begins.
fn elf_functions(elf: &[u8]) -> Result<(Vec<(u64, String)>, u64), String> {
    let sections = elf_sections(elf)?;
    let &(_, _, at, size, link) = sections.iter().find(|s| s.0 == 2).ok_or("the ELF file has no symbol table")?;
    let &(_, _, names, names_size, _) = sections.get(link).ok_or("the symbol table has no names")?;
    let names = elf.get(names..names + names_size).ok_or("the ELF file is cut short")?;
    let (mut functions, mut text) = (Vec::new(), (0, u64::MAX));
    for symbol in (at..at + size).step_by(24) {
        let name = elf_number(elf, symbol, 4)? as usize;
        let name = names.get(name..).and_then(|n| n.split(|b| *b == 0).next()).unwrap_or_default();
        let name = String::from_utf8_lossy(name);
        let (kind, address) = (elf_number(elf, symbol + 4, 1)? & 15, elf_number(elf, symbol + 8, 8)?);
        match &*name {
            "__text_start" => text.0 = address,
            "__text_end" => text.1 = address,
            _ if kind == 2 || kind == 0 => functions.push((address, without_hash(&name))),
            _ => {}
        }
    }
    functions.retain(|(address, name)| (text.0..text.1).contains(address) && !name.is_empty());
    functions.sort();
    functions.dedup_by_key(|(address, _)| *address);
    Ok((functions, text.0))
}

/// The loadable part of the kernel `elf`, with its symbols where it finds them at run time.
fn add_symbols(elf: &[u8]) -> Result<Vec<u8>, String> {
    let (functions, text) = elf_functions(elf)?;
    let (mut index, mut names) = (Vec::new(), Vec::new());
    for (address, name) in &functions {
        let position = SYMBOLS_HEADER + functions.len() * 8 + names.len();
        index.extend_from_slice(&((address - text) as u32).to_le_bytes());
        index.extend_from_slice(&(position as u32).to_le_bytes());
        names.extend_from_slice(name.as_bytes());
        names.push(0);
    }
    let mut table = SYMBOLS_MAGIC.to_vec();
    table.extend_from_slice(&(functions.len() as u32).to_le_bytes());
    table.extend_from_slice(&((SYMBOLS_HEADER + index.len() + names.len()) as u32).to_le_bytes());
    table.extend(index);
    table.extend(names);

    let (headers, header_size, count) = (elf_number(elf, 32, 8)?, elf_number(elf, 54, 2)?, elf_number(elf, 56, 2)?);
    // What is loaded comes first in the file; sections and debug information after it are left out.
    let mut end = (headers + count * header_size) as usize;
    for header in (0..count).map(|i| (headers + i * header_size) as usize) {
        end = end.max((elf_number(elf, header + 8, 8)? + elf_number(elf, header + 32, 8)?) as usize);
    }
    let mut out = elf.get(..end).ok_or("the ELF file is cut short")?.to_vec();
    out[40..48].fill(0); // e_shoff
    out[60..64].fill(0); // e_shnum, e_shstrndx
    // The segment's address and its place in the file stay congruent modulo the page size.
    out.resize(out.len().next_multiple_of(4096), 0);
    let (place, size) = (out.len() as u64, table.len() as u64);
    for header in (0..count).map(|i| (headers + i * header_size) as usize) {
        let (kind, offset) = (elf_number(elf, header, 4)?, elf_number(elf, header + 8, 8)? as usize);
        if kind == 1 && elf.get(offset..offset + 8) == Some(&SYMBOLS_MAGIC[..]) {
            out[header + 8..header + 16].copy_from_slice(&place.to_le_bytes());
            out[header + 32..header + 40].copy_from_slice(&size.to_le_bytes());
            out[header + 40..header + 48].copy_from_slice(&size.to_le_bytes());
            out.extend(table);
            return Ok(out);
        }
    }
    Err("the kernel has no segment for its symbols".to_owned())
}
