//! What a function that keeps its memory between runs has in it, as it moves to another device, and the keys and values with it.
//!
//! The form is canonical, as that of [keys and values](crate::Entries) is. Numbers are big-endian.
//!
//! | bytes | |
//! |---|---|
//! | 4 | `LMP` and 1, which is this form |
//! | 1 | 0: all that there is; 1: what has changed |
//! | 32 | SHA-256 of the program |
//! | 4 | how large the memory is, in pages of 64 KiB: 65536 at most |
//! | 4, and 8 each | how many globals change, and what is in each, all of them always |
//! | 4 | how many blocks of 4 KiB follow, in the order of their numbers, none twice |
//! | the rest | the keys and values of the same program, all or what has changed, in their form |
//!
//! | a block's bytes | |
//! |---|---|
//! | 4 | its number: where it begins, by 4096 |
//! | 1 | 1: its bytes follow, which are not all 0; 0, of what has changed: all of them are 0 |
//! | 4096 | its bytes |
//!
//! What of a memory is not said is 0, where all is told; or as it was, where it is what has changed.

use crate::contents::{Entries, NotReplaced, Rest};

/// The digest of a program that keeps its memory is told behind this: what another one of it remembers is something else.
pub const KEPT: &str = "kept:";
/// In such parts a memory is compared and moves, in bytes.
pub const BLOCK: usize = 4096;
/// The unit of a memory's size, in bytes.
pub const PAGE: usize = 65536;
/// More pages no memory has.
const MOST_PAGES: u32 = 65536;

/// The memory of a program, its globals, and its keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory<'a> {
    /// What has changed, and not all.
    pub are_changes: bool,
    /// SHA-256 of the program.
    pub digest: [u8; 32],
    /// How large it is, in pages of [`PAGE`].
    pub pages: u32,
    /// What is in each of the globals that change, in 64 bits.
    pub globals: Vec<u64>,
    /// In their order. Without bytes, all of which there are [`BLOCK`]: they are 0.
    pub blocks: Vec<(u32, Option<&'a [u8]>)>,
    /// Keys and values, as [`Entries`].
    pub keys: Entries<'a>,
}

impl<'a> Memory<'a> {
    /// Reads what [`Memory::write`] wrote, and nothing else.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NotReplaced> {
        let mut rest = Rest(bytes);
        if rest.take(FORM.len())? != FORM {
            return Err(NotReplaced::Malformed("it does not begin like a memory"));
        }
        let are_changes = match rest.array()? {
            [0] => false,
            [1] => true,
            _ => return Err(NotReplaced::Malformed("neither all nor what has changed")),
        };
        let digest = rest.array()?;
        let pages = u32::from_be_bytes(rest.array()?);
        if pages > MOST_PAGES {
            return Err(NotReplaced::Malformed("no memory is so large"));
        }
        let mut globals = Vec::new();
        for _ in 0..u32::from_be_bytes(rest.array()?) {
            globals.push(u64::from_be_bytes(rest.array()?));
        }
        let mut blocks: Vec<(u32, Option<&[u8]>)> = Vec::new();
        for _ in 0..u32::from_be_bytes(rest.array()?) {
            let number = u32::from_be_bytes(rest.array()?);
            if number >= pages * BLOCKS_A_PAGE || blocks.last().is_some_and(|(before, _)| *before >= number) {
                return Err(NotReplaced::Malformed("the blocks are not in order, or beyond the memory"));
            }
            let has = match rest.array()? {
                [1] => Some(rest.take(BLOCK)?).filter(|block| !is_zero(block)),
                [0] if are_changes => {
                    blocks.push((number, None));
                    continue;
                }
                _ => None,
            };
            let has = has.ok_or(NotReplaced::Malformed("a block is not said as it is to be"))?;
            blocks.push((number, Some(has)));
        }
        let keys = Entries::parse(rest.0)?;
        if (keys.are_changes, keys.digest) != (are_changes, digest) {
            return Err(NotReplaced::Malformed("its keys and values belong to something else"));
        }
        Ok(Memory { are_changes, digest, pages, globals, blocks, keys })
    }

    /// As they move.
    pub fn write(&self) -> Vec<u8> {
        let keys = self.keys.write();
        let blocks = self.blocks.iter().map(|(_, bytes)| 5 + bytes.map_or(0, <[u8]>::len));
        let size = HEAD + 8 * self.globals.len() + blocks.sum::<usize>() + keys.len();
        let mut bytes = Vec::with_capacity(size);
        bytes.extend(FORM);
        bytes.push(u8::from(self.are_changes));
        bytes.extend(self.digest);
        bytes.extend(self.pages.to_be_bytes());
        bytes.extend((self.globals.len() as u32).to_be_bytes());
        self.globals.iter().for_each(|global| bytes.extend(global.to_be_bytes()));
        bytes.extend((self.blocks.len() as u32).to_be_bytes());
        for (number, block) in &self.blocks {
            bytes.extend(number.to_be_bytes());
            bytes.push(u8::from(block.is_some()));
            bytes.extend(block.unwrap_or_default());
        }
        bytes.extend(keys);
        bytes
    }

    /// The most that a memory of so many bytes takes as it moves, with so many globals, and without keys and values.
    pub fn most_bytes(memory: u64, globals: usize) -> u64 {
        let blocks = memory.div_ceil(BLOCK as u64);
        blocks.saturating_mul(BLOCK as u64 + 5).saturating_add((HEAD + 8 * globals) as u64)
    }
}

/// Whether there is nothing but zeros.
pub fn is_zero(block: &[u8]) -> bool {
    // Long words make a fast loop of it.
    let (words, rest) = block.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

const FORM: &[u8] = b"LMP\x01";
/// What is beside globals, blocks, and keys and values, in bytes.
const HEAD: usize = FORM.len() + 1 + 32 + 4 + 4 + 4;
const BLOCKS_A_PAGE: u32 = (PAGE / BLOCK) as u32;

#[cfg(test)]
mod tests {
    use super::*;

    fn memory<'a>(are_changes: bool, blocks: &[(u32, Option<&'a [u8]>)]) -> Memory<'a> {
        let digest = [7; 32];
        let keys = Entries { are_changes, digest, entries: vec![("a", Some(b"1"))] };
        Memory { are_changes, digest, pages: 2, globals: vec![1 << 40, 3], blocks: blocks.to_vec(), keys }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let (one, last) = ([1; BLOCK], [[0; BLOCK - 1].as_slice(), &[9]].concat());
        let some = [(0, Some(&one[..])), (31, Some(&last))];
        for written in
            [memory(false, &[]), memory(false, &some), memory(true, &[some[0], (7, None), some[1]])]
        {
            let bytes = written.write();
            assert_eq!(Memory::parse(&bytes), Ok(written));
            assert!((0..bytes.len()).all(|end| Memory::parse(&bytes[..end]).is_err()), "a part is not all");
            assert!(bytes.len() as u64 <= Memory::most_bytes(2 * PAGE as u64, 2) + 100);
        }
    }

    #[test]
    fn there_is_one_form_of_everything() {
        let (one, zero) = ([1; BLOCK], [0; BLOCK]);
        let block = Some(&one[..]);
        let malformed = |memory: &Memory<'_>, change: fn(&mut Vec<u8>)| {
            let mut bytes = memory.write();
            change(&mut bytes);
            assert!(matches!(Memory::parse(&bytes), Err(NotReplaced::Malformed(_))));
        };
        malformed(&memory(false, &[(1, block), (0, block)]), |_| {});
        malformed(&memory(false, &[(1, block), (1, block)]), |_| {});
        malformed(&memory(false, &[(32, block)]), |_| {});
        malformed(&memory(false, &[(1, None)]), |_| {});
        malformed(&memory(true, &[(1, Some(&zero))]), |_| {});
        let good = memory(true, &[(1, block)]);
        malformed(&good, |bytes| bytes.push(0));
        malformed(&good, |bytes| bytes[3] = 2);
        malformed(&good, |bytes| bytes[4] = 2);
        malformed(&good, |bytes| bytes[4] = 0);
        malformed(&good, |bytes| bytes[5] = 0);
        // So many of them take no memory before they are there.
        malformed(&good, |bytes| bytes[37..41].fill(0xff));
        malformed(&good, |bytes| bytes[41..45].fill(0xff));
        malformed(&good, |bytes| bytes[HEAD + 12..HEAD + 16].fill(0xff));
    }
}
