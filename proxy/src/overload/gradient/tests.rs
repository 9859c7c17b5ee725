use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::*;

/// An application that works on so many requests at once, each for some time, and has the others wait in order; with
/// clients that ask at a steady rate. In virtual time.
struct World {
    gradient: Gradient,
    began: Instant,
    places: usize,
    service: Duration,
    /// When each place is free.
    free: BinaryHeap<Reverse<Duration>>,
    /// Those under way: when they are answered, and when they came.
    under_way: BinaryHeap<Reverse<(Duration, Duration)>>,
    peak: u32,
    now: Duration,
    /// A number by which service times vary.
    seed: u64,
}

/// What came of a time.
#[derive(Debug, Default)]
struct Seen {
    answered: usize,
    refused: usize,
    latencies: Vec<Duration>,
}

impl Seen {
    fn quantile(&self, percent: usize) -> Duration {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        latencies[(latencies.len() * percent / 100).min(latencies.len() - 1)]
    }
}

impl World {
    fn new(said: Overload, places: usize, service: u64) -> Self {
        let began = Instant::now();
        World {
            gradient: Gradient::new(said, began),
            began,
            places,
            service: Duration::from_millis(service),
            free: (0..places).map(|_| Reverse(Duration::ZERO)).collect(),
            under_way: BinaryHeap::new(),
            peak: 0,
            now: Duration::ZERO,
            seed: 1,
        }
    }

    /// What it can do in a second.
    fn capacity(&self) -> f64 {
        self.places as f64 / self.service.as_secs_f64()
    }

    fn random(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Asks at `rate` for so many seconds.
    fn ask(&mut self, rate: f64, seconds: u64) -> Seen {
        let mut seen = Seen::default();
        let until = self.now + Duration::from_secs(seconds);
        let mut next = self.now;
        while next < until {
            self.answer_until(next, &mut seen);
            self.now = next;
            if (self.under_way.len() as u32) < self.gradient.limit() {
                let Reverse(free) = self.free.pop().unwrap();
                let service = self.service.mul_f64(0.5 + self.random());
                let done = free.max(self.now) + service;
                self.free.push(Reverse(done));
                self.under_way.push(Reverse((done, self.now)));
                self.peak = self.peak.max(self.under_way.len() as u32);
            } else {
                seen.refused += 1;
            }
            // They come as Poisson says.
            next += Duration::from_secs_f64(-(1.0 - self.random()).ln() / rate);
        }
        self.answer_until(until, &mut seen);
        self.now = until;
        seen
    }

    fn answer_until(&mut self, until: Duration, seen: &mut Seen) {
        while let Some(Reverse((done, came))) = self.under_way.peek().copied()
            && done <= until
        {
            let few = self.under_way.len() as u32 <= self.gradient.said.min_concurrency;
            let (began, now) = (self.began + came, self.began + done);
            let answer = Answer { began, latency: done - came, few, peak: self.peak, now };
            if self.gradient.answered(answer, || 0.5) {
                self.peak = self.under_way.len() as u32;
            }
            self.under_way.pop();
            seen.answered += 1;
            seen.latencies.push(done - came);
        }
    }
}

#[test]
fn at_three_times_of_what_it_can_do_it_does_what_it_can_and_stays_quick() {
    for (places, service) in [(8, 20), (50, 10), (16, 200)] {
        let mut world = World::new(Overload::default(), places, service);
        let capacity = world.capacity();
        let calm = world.ask(0.2 * capacity, 60);
        assert_eq!(calm.refused, 0, "nothing is refused at rest");
        let rush = world.ask(3.0 * capacity, 30);
        let goodput = rush.answered as f64 / 30.0;
        assert!(goodput > 0.9 * capacity, "{places} places: {goodput} of {capacity}");
        let (slow, calm) = (rush.quantile(99), calm.quantile(99));
        assert!(slow < 5 * calm, "{places} places: {slow:?}, at rest {calm:?}");
        // The rush is over: within two seconds everybody is let through.
        world.ask(0.5 * capacity, 2);
        let after = world.ask(0.5 * capacity, 10);
        assert!(after.refused * 1000 < after.answered, "{places} places: {} refused", after.refused);
    }
}

#[test]
fn one_that_is_busy_from_the_beginning_is_asked_how_quick_it_is() {
    let mut world = World::new(Overload::default(), 8, 20);
    let capacity = world.capacity();
    world.ask(3.0 * capacity, 5);
    let baseline = world.gradient.baseline().unwrap().as_millis();
    assert!((16..26).contains(&baseline), "{baseline}");
    let rush = world.ask(3.0 * capacity, 10);
    assert!(rush.answered as f64 / 10.0 > 0.9 * capacity);
    assert!(rush.quantile(99) < Duration::from_millis(100), "{:?}", rush.quantile(99));
}

#[test]
fn few_are_refused_that_the_application_can_do() {
    // Many at once, none of which waits for another.
    let mut world = World::new(Overload::default(), 400, 50);
    assert_eq!(world.ask(40.0, 10).refused, 0);
    // A hundred times as many from one moment to the next: the limit has to follow.
    let seen = world.ask(4000.0, 20);
    assert!(seen.refused * 20 < seen.answered, "{} refused, {} answered", seen.refused, seen.answered);
    let seen = world.ask(4000.0, 20);
    assert_eq!(seen.refused, 0);
}

#[test]
fn one_that_gets_slower_for_good_is_found_out() {
    let said = Overload { baseline_interval: Duration::from_secs(10), ..Overload::default() };
    let mut world = World::new(said, 20, 10);
    world.ask(0.7 * world.capacity(), 10);
    world.service = Duration::from_millis(40);
    let capacity = world.capacity();
    world.ask(0.9 * capacity, 30);
    let baseline = world.gradient.baseline().unwrap().as_millis();
    assert!((34..50).contains(&baseline), "{baseline}");
    let seen = world.ask(0.7 * capacity, 20);
    assert!(seen.refused * 10 < seen.answered, "{} refused, {} answered", seen.refused, seen.answered);
}

#[test]
fn the_limit_stays_within_its_bounds() {
    let said = Overload { min_concurrency: 5, max_concurrency: 12, ..Overload::default() };
    let mut world = World::new(said, 100, 10);
    assert_eq!(world.gradient.limit(), 12);
    world.gradient.set(Overload { max_concurrency: 30, ..said });
    assert_eq!(world.gradient.limit(), 30, "nothing is known yet");
    world.gradient.set(said);
    world.ask(2000.0, 3);
    assert!((5..=12).contains(&world.gradient.limit()));
    world.service = Duration::from_millis(500);
    world.ask(2000.0, 10);
    assert!((5..=12).contains(&world.gradient.limit()));
    world.gradient.set(Overload { min_concurrency: 2, max_concurrency: 3, ..said });
    assert!((2..=3).contains(&world.gradient.limit()));
}
