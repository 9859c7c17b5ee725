//! Cells that many threads count in without disturbing each other: each worker writes its own copy, and a scrape sums
//! them.
//!
//! A worker's copy has one writer, so adding is a load and a store, with no bus lock. Threads that are no worker share
//! copy 0 and add atomically. A copy is allocated when its worker first counts something, so what is never used costs
//! a pointer per worker.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};

/// A number of counting cells, once for every worker.
pub struct Cells {
    count: usize,
    shards: Box<[OnceLock<Box<[Line]>>]>,
}

/// One worker's copy, found once and written many times.
#[derive(Clone, Copy)]
pub struct Shard<'a> {
    lines: &'a [Line],
    shared: bool,
}

impl Cells {
    /// `count` cells of zero, for as many workers as were announced to [`set_workers`].
    pub fn new(count: usize) -> Self {
        let shards = 1 + WORKERS.load(Acquire);
        Cells { count, shards: (0..shards).map(|_| OnceLock::new()).collect() }
    }

    /// This thread's copy.
    #[inline]
    pub fn shard(&self) -> Shard<'_> {
        let mut index = SHARD.get();
        // Cells that are older than `set_workers` have no copy for this worker.
        if index >= self.shards.len() {
            index = 0;
        }
        let lines = match self.shards[index].get() {
            Some(lines) => lines,
            None => self.allocate(index),
        };
        Shard { lines, shared: index == 0 }
    }

    /// Adds to one cell of this thread's copy.
    #[inline]
    pub fn add(&self, cell: usize, n: u64) {
        self.shard().add(cell, n);
    }

    /// The sum of one cell over all copies. What one worker added and another took away comes out right, as the sum
    /// wraps.
    pub fn sum(&self, cell: usize) -> u64 {
        let lines = self.shards.iter().filter_map(OnceLock::get);
        lines.map(|lines| at(lines, cell).load(Relaxed)).fold(0, u64::wrapping_add)
    }

    /// The sum of a cell that goes up and down; never below zero, which a scrape in the middle of a change could see.
    pub fn level(&self, cell: usize) -> u64 {
        (self.sum(cell) as i64).max(0) as u64
    }

    /// Whether nothing was ever counted here.
    pub fn untouched(&self) -> bool {
        self.shards.iter().all(|shard| shard.get().is_none())
    }

    #[cold]
    fn allocate(&self, index: usize) -> &[Line] {
        self.shards[index]
            .get_or_init(|| (0..self.count.div_ceil(PER_LINE)).map(|_| Line::default()).collect())
    }
}

impl Shard<'_> {
    /// Adds to a cell.
    #[inline]
    pub fn add(self, cell: usize, n: u64) {
        let cell = at(self.lines, cell);
        if self.shared {
            cell.fetch_add(n, Relaxed);
        } else {
            cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    /// Takes away from a cell that goes up and down.
    #[inline]
    pub fn sub(self, cell: usize, n: u64) {
        self.add(cell, n.wrapping_neg());
    }
}

/// Says how many workers there will be at least. Cells made before count for all further workers in one copy.
pub fn set_workers(workers: usize) {
    WORKERS.fetch_max(workers.min(MAX_WORKERS), AcqRel);
}

/// Makes the calling thread the only writer of worker `index`'s copy until it ends. If another thread has that copy
/// (two sidecars in one process), this one goes on sharing copy 0, which is right and a little slower.
pub fn set_worker(index: usize) {
    let shard = index + 1;
    if shard >= TAKEN.len() || TAKEN[shard].swap(true, AcqRel) {
        return;
    }
    CLAIM.set(Some(Claim { shard }));
    SHARD.set(shard);
}

/// A cache line of its own, so that two workers never write to the same one.
#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; PER_LINE]);

const PER_LINE: usize = 8;
const MAX_WORKERS: usize = 1023;

struct Claim {
    shard: usize,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Destructors of other thread-locals may still count: they share copy 0 then.
        let _ = SHARD.try_with(|shard| shard.set(0));
        TAKEN[self.shard].store(false, Release);
    }
}

static WORKERS: AtomicUsize = AtomicUsize::new(0);
static TAKEN: [AtomicBool; MAX_WORKERS + 1] = [const { AtomicBool::new(false) }; MAX_WORKERS + 1];

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
    static CLAIM: Cell<Option<Claim>> = const { Cell::new(None) };
}

#[inline]
fn at(lines: &[Line], cell: usize) -> &AtomicU64 {
    &lines[cell / PER_LINE].0[cell % PER_LINE]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_workers_and_other_threads() {
        set_workers(8);
        let cells = Cells::new(20);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let cells = &cells;
                scope.spawn(move || {
                    // Half are workers, two of them under the same number; half are not.
                    if thread < 4 {
                        set_worker(4 + thread / 2);
                    }
                    for n in 0..20_000u64 {
                        cells.add((n % 20) as usize, 1);
                        cells.shard().add(19, 5);
                        cells.shard().sub(19, 5);
                    }
                });
            }
        });
        for cell in 0..20 {
            assert_eq!(cells.sum(cell), 8 * 1000);
        }
    }

    #[test]
    fn a_worker_writes_its_own_copy_and_gives_it_back() {
        set_workers(8);
        let cells = Cells::new(1);
        for _ in 0..2 {
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    set_worker(7);
                    cells.add(0, 1);
                });
                // The scope by itself waits for no more than the closure: the number is given back as the thread ends.
                assert!(worker.join().is_ok());
            });
        }
        assert_eq!(cells.sum(0), 2);
        assert!(cells.shards[0].get().is_none(), "no worker falls back to the shared copy");
        assert!(cells.shards[8].get().is_some());
    }

    #[test]
    fn a_level_may_rise_on_one_thread_and_fall_on_another() {
        let cells = Cells::new(1);
        cells.shard().add(0, 3);
        std::thread::scope(|scope| {
            scope.spawn(|| cells.shard().sub(0, 2));
        });
        assert_eq!(cells.level(0), 1);
        cells.shard().sub(0, 2);
        assert_eq!(cells.level(0), 0);
    }
}
