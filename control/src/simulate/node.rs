//! A host or a device: data comes from its medium one request after the other, then a slot works on it.
//!
//! When a request will be done is known as soon as it comes, since all before it are known. What befalls the place later moves
//! those times.

use lighter_place::Profile;

/// What a request needs at a place, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    pub input: f64,
    pub scan: f64,
    pub compute: f64,
    pub output: f64,
}

/// When a request that comes now is done.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub at: f64,
    /// How long of that it waits.
    pub waited: f64,
    /// How long the place works on it.
    pub busy: f64,
}

/// Why a place does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    Dead,
    /// It would have to wait for too long.
    Full,
}

/// A host or a device. Times are seconds since the beginning.
#[derive(Clone, Debug)]
pub struct Node {
    pub profile: Profile,
    /// What would wait longer is refused.
    max_queue: f64,
    /// When all that was asked for is read.
    read: f64,
    /// When each slot is free.
    slots: Vec<f64>,
    /// How many times as long everything takes.
    slow: f64,
    /// Since when it goes on with nothing.
    stalled: Option<f64>,
    is_dead: bool,
    /// The tries that are there.
    pub tries: Vec<usize>,
}

impl Node {
    pub fn new(profile: Profile, max_queue: f64) -> Self {
        Node {
            profile,
            max_queue,
            read: 0.0,
            slots: vec![0.0; profile.slots as usize],
            slow: 1.0,
            stalled: None,
            is_dead: false,
            tries: Vec::new(),
        }
    }

    pub fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Whether nothing is to be heard of it.
    pub fn is_silent(&self) -> bool {
        self.is_dead || self.is_stalled()
    }

    /// When a request would be done that came now.
    pub fn preview(&self, need: &Need, now: f64) -> Result<Done, Closed> {
        self.plan(need, now).map(|(done, ..)| done)
    }

    /// Takes a request.
    pub fn take(&mut self, need: &Need, now: f64) -> Result<Done, Closed> {
        let (done, read, slot, free) = self.plan(need, now)?;
        self.read = read;
        self.slots[slot] = free;
        Ok(done)
    }

    /// How long one that comes now would wait.
    pub fn queue_seconds(&self, now: f64) -> f64 {
        let now = self.clock(now);
        let read = self.read.max(now);
        (read - now) + (self.first_free().1 - read).max(0.0)
    }

    /// Everything stands still.
    pub fn stall(&mut self, now: f64) {
        self.stalled.get_or_insert(now);
    }

    /// Everything goes on. By how much it is later than it would have been.
    pub fn resume(&mut self, now: f64) -> f64 {
        let late = self.stalled.take().map_or(0.0, |since| now - since);
        self.shift(|time| time + late);
        late
    }

    /// Everything takes so many times as long as before.
    pub fn slow_down(&mut self, factor: f64, now: f64) {
        self.slow *= factor;
        self.shift(|time| slowed(time, factor, now));
    }

    /// It is gone, with all that is there.
    pub fn die(&mut self, now: f64) {
        (self.is_dead, self.stalled) = (true, None);
        self.shift(|_| now);
    }

    /// It is back, with nothing to do.
    pub fn revive(&mut self) {
        self.is_dead = false;
    }

    fn shift(&mut self, to: impl Fn(f64) -> f64) {
        self.read = to(self.read);
        self.slots.iter_mut().for_each(|free| *free = to(*free));
    }

    /// While it is stalled, its time stands still.
    fn clock(&self, now: f64) -> f64 {
        self.stalled.unwrap_or(now)
    }

    fn first_free(&self) -> (usize, f64) {
        let free = self.slots.iter().copied().enumerate();
        free.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
    }

    /// When it would be done; when all would be read then; and which slot would be free when.
    fn plan(&self, need: &Need, now: f64) -> Result<(Done, f64, usize, f64), Closed> {
        if self.is_dead {
            return Err(Closed::Dead);
        }
        if self.queue_seconds(now) > self.max_queue {
            return Err(Closed::Full);
        }
        let comes = self.clock(now) + need.input;
        let begins = self.read.max(comes);
        let (scan, compute) = (need.scan * self.slow, need.compute * self.slow);
        let read = begins + scan;
        let (slot, free) = self.first_free();
        let works = free.max(read);
        let free = works + compute;
        let waited = (begins - comes) + (works - read);
        Ok((Done { at: free + need.output, waited, busy: scan + compute }, read, slot, free))
    }
}

/// When something is done that would have been done at `time`, if all takes so many times as long from now on.
pub fn slowed(time: f64, factor: f64, now: f64) -> f64 {
    if time > now { now + (time - now) * factor } else { time }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(slots: u32) -> Node {
        let profile = Profile {
            link_bytes_per_second: 1.0,
            data_bytes_per_second: 1.0,
            compute_factor: 1.0,
            slots,
            busy_watts: 1.0,
            joules_per_byte: 0.0,
            is_data_moved: false,
        };
        Node::new(profile, 10.0)
    }

    const NEED: Need = Need { input: 0.0, scan: 1.0, compute: 3.0, output: 0.5 };

    #[test]
    fn requests_wait_for_the_medium_and_for_a_slot() {
        let mut node = node(2);
        let done: Vec<_> = (0..3).map(|_| node.take(&NEED, 0.0).unwrap()).collect();
        assert_eq!(done.iter().map(|done| done.at).collect::<Vec<_>>(), [4.5, 5.5, 7.5]);
        assert_eq!(done.iter().map(|done| done.waited).collect::<Vec<_>>(), [0.0, 1.0, 3.0]);
        assert_eq!(node.queue_seconds(0.0), 5.0);
        assert_eq!(node.queue_seconds(6.0), 0.0);
    }

    #[test]
    fn what_befalls_a_node_moves_its_times() {
        let mut node = node(1);
        node.take(&NEED, 0.0).unwrap();
        node.stall(1.0);
        assert_eq!(node.preview(&NEED, 3.0).unwrap().at, 7.5, "as if it were still second 1");
        assert_eq!(node.resume(3.0), 2.0);
        assert_eq!(node.queue_seconds(3.0), 3.0);
        node.slow_down(2.0, 4.0);
        assert_eq!(node.queue_seconds(4.0), 4.0);
        assert_eq!(node.preview(&NEED, 8.0).unwrap().at, 8.0 + 2.0 + 6.0 + 0.5);
        node.die(5.0);
        assert_eq!(node.preview(&NEED, 5.0).unwrap_err(), Closed::Dead);
        node.revive();
        assert_eq!(node.queue_seconds(5.0), 0.0);
    }

    #[test]
    fn who_would_wait_too_long_is_refused() {
        let mut node = node(1);
        (0..4).for_each(|_| assert!(node.take(&NEED, 0.0).is_ok()));
        assert_eq!(node.take(&NEED, 0.0).unwrap_err(), Closed::Full);
        assert!(node.take(&NEED, 3.5).is_ok());
    }
}
