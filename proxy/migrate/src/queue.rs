//! Requests that wait: bounded in number, bytes and time, and shared fairly between those who send them.

use std::collections::VecDeque;
use std::time::Duration;

use crate::id::{RequestId, SourceId};
use crate::planted::{Plan as Faults, Planted};
use crate::rules::Bounds;

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiting {
    /// Which one.
    pub id: RequestId,
    /// From where.
    pub source: SourceId,
    /// How much memory it takes.
    pub bytes: usize,
    /// When its caller gives up, if that is known.
    pub deadline: Option<Duration>,
    /// Since when it waits.
    pub since: Duration,
    /// Whether it may go on for long.
    pub is_stream: bool,
    /// Whether its beginning is kept, so that whoever refused it can be followed by another.
    pub is_kept: bool,
}

/// Requests that wait.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Queue {
    bounds: Bounds,
    /// In the order in which they are served next.
    sources: VecDeque<Line>,
    count: usize,
    bytes: usize,
    counts: Counts,
    pub(crate) faults: Faults,
}

/// What waits of one source.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    source: SourceId,
    waiting: VecDeque<(Waiting, Duration)>,
    bytes: usize,
}

/// What a queue did since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Requests that came.
    pub came: u64,
    /// That were let go in their turn.
    pub released: u64,
    /// That had no room, or made room for others'.
    pub displaced: u64,
    /// That waited for too long.
    pub expired: u64,
    /// Whose callers went away.
    pub left: u64,
    /// How many waited at once, at most.
    pub most: usize,
    /// How many bytes they took, at most.
    pub most_bytes: usize,
}

impl Queue {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Queue {
        Queue {
            bounds,
            sources: VecDeque::new(),
            count: 0,
            bytes: 0,
            counts: Counts::default(),
            faults: Faults::default(),
        }
    }

    /// Takes one in. `displaced` gets those for whom there is no room any more: the last of whoever has most, which may be the
    /// one that comes.
    pub fn push(&mut self, waiting: Waiting, displaced: &mut Vec<Waiting>) {
        self.counts.came += 1;
        let longest = waiting.since.saturating_add(self.bounds.time);
        let until = waiting.deadline.map_or(longest, |deadline| deadline.min(longest));
        let at = match self.sources.iter().position(|line| line.source == waiting.source) {
            Some(at) => at,
            None => {
                self.sources.push_back(Line { source: waiting.source, waiting: VecDeque::new(), bytes: 0 });
                self.sources.len() - 1
            }
        };
        self.sources[at].waiting.push_back((waiting, until));
        self.sources[at].bytes += waiting.bytes;
        self.count += 1;
        self.bytes += waiting.bytes;
        if !self.faults.has(Planted::Unbounded) {
            self.displace(waiting.source, displaced);
        }
        self.counts.most = self.counts.most.max(self.count);
        self.counts.most_bytes = self.counts.most_bytes.max(self.bytes);
    }

    /// Makes room. Among those who have as much, `last` came last.
    fn displace(&mut self, last: SourceId, displaced: &mut Vec<Waiting>) {
        let any_bytes = self.faults.has(Planted::AnyBytes);
        while self.count > self.bounds.count || (self.bytes > self.bounds.bytes && !any_bytes) {
            let by_bytes = self.count <= self.bounds.count;
            let size = |line: &Line| if by_bytes { line.bytes } else { line.waiting.len() };
            let greatest =
                self.sources.iter().enumerate().max_by_key(|(_, line)| (size(line), line.source == last));
            let Some((at, _)) = greatest else { return };
            let Some((waiting, _)) = self.sources[at].waiting.pop_back() else { return };
            self.forget(at, &waiting);
            self.counts.displaced += 1;
            displaced.push(waiting);
        }
    }

    /// The next one in turn: sources by turns, each in its own order.
    pub fn pop(&mut self) -> Option<Waiting> {
        let mut line = self.sources.pop_front()?;
        let (waiting, _) = line.waiting.pop_front()?;
        line.bytes -= waiting.bytes;
        if !line.waiting.is_empty() {
            self.sources.push_back(line);
        }
        self.count -= 1;
        self.bytes -= waiting.bytes;
        self.counts.released += 1;
        Some(waiting)
    }

    /// One whose time is over.
    pub fn pop_expired(&mut self, now: Duration) -> Option<Waiting> {
        let waiting = self.take(|_, until| until <= now)?;
        self.counts.expired += 1;
        Some(waiting)
    }

    /// This one, if it waits.
    pub fn remove(&mut self, id: RequestId) -> Option<Waiting> {
        let waiting = self.take(|waiting, _| waiting.id == id)?;
        self.counts.left += 1;
        Some(waiting)
    }

    /// How much may wait from here on. What waits already stays.
    pub fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// One of a source that is gone.
    pub fn pop_of(&mut self, source: SourceId) -> Option<Waiting> {
        let waiting = self.take(|waiting, _| waiting.source == source)?;
        self.counts.left += 1;
        Some(waiting)
    }

    /// Those that wait, in no order.
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Waiting> {
        self.sources.iter().flat_map(|line| &line.waiting).map(|(waiting, _)| waiting)
    }

    /// When the first one's time is over.
    pub fn timeout(&self) -> Option<Duration> {
        self.sources.iter().flat_map(|line| &line.waiting).map(|(_, until)| *until).min()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much memory they take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it did.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How much may wait.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn take(&mut self, is_meant: impl Fn(&Waiting, Duration) -> bool) -> Option<Waiting> {
        for at in 0..self.sources.len() {
            let line = &mut self.sources[at].waiting;
            let Some(number) = line.iter().position(|(waiting, until)| is_meant(waiting, *until)) else {
                continue;
            };
            let (waiting, _) = line.remove(number)?;
            self.forget(at, &waiting);
            return Some(waiting);
        }
        None
    }

    /// It was taken out of the line at `at`.
    fn forget(&mut self, at: usize, waiting: &Waiting) {
        self.count -= 1;
        self.bytes -= waiting.bytes;
        self.sources[at].bytes -= waiting.bytes;
        if self.sources[at].waiting.is_empty() {
            self.sources.remove(at);
        }
    }

    /// States that differ in moments and counts only are one to the model check.
    #[cfg(test)]
    pub(crate) fn rest(&mut self) {
        self.counts = Counts::default();
        for (_, until) in self.sources.iter_mut().flat_map(|line| &mut line.waiting) {
            *until = Duration::from_secs(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(id: u64, source: u64, bytes: usize) -> Waiting {
        Waiting {
            id: RequestId(id),
            source: SourceId(source),
            bytes,
            deadline: None,
            since: Duration::ZERO,
            is_stream: false,
            is_kept: true,
        }
    }

    fn ids(waiting: impl IntoIterator<Item = Waiting>) -> Vec<u64> {
        waiting.into_iter().map(|waiting| waiting.id.0).collect()
    }

    const BOUNDS: Bounds = Bounds { count: 4, bytes: 100, time: Duration::from_secs(5) };

    #[test]
    fn who_sends_much_does_not_displace_who_sends_little() {
        let mut queue = Queue::new(BOUNDS);
        let mut displaced = Vec::new();
        for id in 0..4 {
            queue.push(waiting(id, 1, 1), &mut displaced);
        }
        queue.push(waiting(4, 1, 1), &mut displaced);
        assert_eq!(ids(displaced.drain(..)), [4]);
        queue.push(waiting(5, 2, 1), &mut displaced);
        queue.push(waiting(6, 2, 1), &mut displaced);
        assert_eq!(ids(displaced.drain(..)), [3, 2]);
        // Now both have as much as they may.
        queue.push(waiting(7, 2, 1), &mut displaced);
        assert_eq!(ids(displaced.drain(..)), [7]);
        assert_eq!(ids(std::iter::from_fn(|| queue.pop())), [0, 5, 1, 6]);
        assert_eq!((queue.len(), queue.bytes()), (0, 0));
        let counts = queue.counts();
        assert_eq!((counts.came, counts.released, counts.displaced, counts.most), (8, 4, 4, 4));
    }

    #[test]
    fn bytes_are_bounded_by_whoever_has_most_of_them() {
        let mut queue = Queue::new(BOUNDS);
        let mut displaced = Vec::new();
        queue.push(waiting(0, 1, 90), &mut displaced);
        queue.push(waiting(1, 2, 10), &mut displaced);
        queue.push(waiting(2, 2, 10), &mut displaced);
        assert_eq!(ids(displaced.drain(..)), [0]);
        queue.push(waiting(3, 3, 101), &mut displaced);
        assert_eq!(ids(displaced.drain(..)), [3]);
        assert_eq!((queue.len(), queue.bytes(), queue.counts().most_bytes), (2, 20, 100));
    }

    #[test]
    fn nobody_waits_longer_than_it_can_wait_itself() {
        let mut queue = Queue::new(BOUNDS);
        let mut displaced = Vec::new();
        let soon = Duration::from_secs(1);
        queue.push(waiting(0, 1, 1), &mut displaced);
        queue.push(Waiting { deadline: Some(soon), ..waiting(1, 1, 1) }, &mut displaced);
        assert_eq!(queue.timeout(), Some(soon));
        assert_eq!(queue.pop_expired(soon / 2), None);
        assert_eq!(ids(std::iter::from_fn(|| queue.pop_expired(soon))), [1]);
        assert_eq!(queue.timeout(), Some(BOUNDS.time));
        assert_eq!(ids(std::iter::from_fn(|| queue.pop_expired(BOUNDS.time))), [0]);
        assert!(queue.is_empty() && queue.timeout().is_none());
    }

    #[test]
    fn what_a_caller_left_behind_is_forgotten() {
        let mut queue = Queue::new(BOUNDS);
        let mut displaced = Vec::new();
        for (id, source) in [(0, 1), (1, 2), (2, 1)] {
            queue.push(waiting(id, source, 7), &mut displaced);
        }
        assert_eq!(ids(std::iter::from_fn(|| queue.pop_of(SourceId(1)))), [0, 2]);
        assert_eq!((queue.len(), queue.bytes(), queue.counts().left), (1, 7, 2));
    }
}
