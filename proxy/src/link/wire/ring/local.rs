//! Rings in the memory of one thread. For tests and fuzzers: nothing on the data path uses it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::{Memory, Side, Word};

/// Memory that both sides share.
#[derive(Clone, Debug)]
pub(crate) struct Local(Rc<Cells>);

#[derive(Debug)]
struct Cells {
    words: [[Cell<u64>; 3]; 2],
    rings: [RefCell<Vec<u8>>; 2],
}

impl Local {
    /// Two rings of `size` bytes each.
    pub(crate) fn new(size: usize) -> Self {
        let ring = || RefCell::new(vec![0; size]);
        Local(Rc::new(Cells { words: Default::default(), rings: [ring(), ring()] }))
    }

    fn word(&self, of: Side, word: Word) -> &Cell<u64> {
        &self.0.words[of as usize][word as usize]
    }
}

impl Memory for Local {
    fn load(&self, of: Side, word: Word) -> u64 {
        self.word(of, word).get()
    }

    fn store(&self, of: Side, word: Word, value: u64) {
        self.word(of, word).set(value);
    }

    fn swap(&self, of: Side, word: Word, value: u64) -> u64 {
        self.word(of, word).replace(value)
    }

    fn fence(&self) {}

    fn size(&self) -> usize {
        self.0.rings[0].borrow().len()
    }

    fn put(&self, of: Side, at: usize, from: &[u8]) {
        self.0.rings[of as usize].borrow_mut()[at..][..from.len()].copy_from_slice(from);
    }

    fn get(&self, of: Side, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0.rings[of as usize].borrow()[at..][..to.len()]);
    }
}
