//! What of a memory has changed since when, by the sums of its blocks.

use lighter_functions::memory::{BLOCK, is_zero};
use sha2::{Digest, Sha256};

/// The blocks of a memory, as they were when they were last looked at.
#[derive(Debug, Default)]
pub(crate) struct Pages(Vec<Block>);

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// None: all of it is 0, as all of a memory is that nobody has written in.
    sum: Option<[u8; 32]>,
    /// At which version it was found so.
    version: u64,
}

/// A look at a memory, from its beginning to its end.
pub(crate) struct Scan {
    pages: Pages,
    since: Option<u64>,
    now: u64,
    next: usize,
    data: Vec<u8>,
    blocks: Vec<(u32, bool)>,
}

impl Scan {
    /// What is found is of version `now`. What is given of it has changed since that version, or is all that is not 0.
    pub(crate) fn new(pages: Pages, since: Option<u64>, now: u64) -> Self {
        Scan { pages, since, now, next: 0, data: Vec::new(), blocks: Vec::new() }
    }

    /// The next blocks.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        for bytes in bytes.chunks(BLOCK) {
            let at = self.next;
            self.next += 1;
            if self.pages.0.len() <= at {
                self.pages.0.resize(at + 1, Block::default());
            }
            let block = &mut self.pages.0[at];
            let sum = (!is_zero(bytes)).then(|| Sha256::digest(bytes).into());
            if sum != block.sum {
                *block = Block { sum, version: self.now };
            }
            let is_given = match self.since {
                Some(since) => block.version > since,
                None => sum.is_some(),
            };
            if is_given {
                self.blocks.push((at as u32, sum.is_some()));
                if sum.is_some() {
                    self.data.extend(bytes);
                }
            }
        }
    }

    /// What is given, in order.
    pub(crate) fn given(&self) -> Vec<(u32, Option<&[u8]>)> {
        let mut data = self.data.chunks(BLOCK);
        let bytes = |has: bool| if has { data.next() } else { None };
        self.blocks
            .iter()
            .map(|(number, _)| *number)
            .zip(self.blocks.iter().map(|(_, has)| *has).map(bytes))
            .collect()
    }

    /// To look again, later.
    pub(crate) fn end(self) -> Pages {
        self.pages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_since_is_given_and_what_has_not_is_not() {
        let mut memory = vec![0; 4 * BLOCK];
        let look = |pages: Pages, memory: &[u8], since, now| {
            let mut scan = Scan::new(pages, since, now);
            memory.chunks(2 * BLOCK).for_each(|piece| scan.see(piece));
            let given: Vec<_> =
                scan.given().into_iter().map(|(at, bytes)| (at, bytes.map(|bytes| bytes[0]))).collect();
            (given, scan.end())
        };
        memory[BLOCK] = 7;
        let (given, pages) = look(Pages::default(), &memory, None, 10);
        assert_eq!(given, [(1, Some(7))], "what is 0 is not told");
        let (given, pages) = look(pages, &memory, Some(10), 11);
        assert_eq!(given, []);
        memory[BLOCK] = 0;
        memory[3 * BLOCK] = 8;
        let (given, pages) = look(pages, &memory, Some(11), 12);
        assert_eq!(given, [(1, None), (3, Some(8))]);
        memory.extend([0; 2 * BLOCK]);
        memory[5 * BLOCK] = 9;
        let (given, pages) = look(pages, &memory, Some(12), 13);
        assert_eq!(given, [(5, Some(9))], "it has grown");
        // From an earlier version on it is more.
        let (given, pages) = look(pages, &memory, Some(10), 14);
        assert_eq!(given, [(1, None), (3, Some(8)), (5, Some(9))]);
        assert_eq!(look(pages, &memory, None, 15).0, [(3, Some(8)), (5, Some(9))]);
    }
}
