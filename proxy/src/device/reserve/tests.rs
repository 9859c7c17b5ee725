use proptest::prelude::*;

use super::*;

const SAID: MainTaskConfig = MainTaskConfig {
    inbound: 8081,
    p99_percent: 110,
    window: Duration::from_millis(250),
    least_percent: 1,
    reserve_percent: 0,
};

/// A device whose main task is slowed down by functions that take more than `knee` of the processors, in virtual time.
struct World {
    reserve: Reserve,
    now: Instant,
    /// By a generator of its own, so that a run is like the one before.
    seed: u64,
    knee: f64,
    /// What answers take without functions, in microseconds.
    usual: f64,
    /// Answers in a window.
    rate: u64,
    late: u64,
    all: u64,
}

impl World {
    fn new(knee: f64) -> Self {
        let (reserve, now) = (Reserve::new(&SAID), Instant::now());
        World { reserve, now, seed: 7, knee, usual: 2000.0, rate: 50, late: 0, all: 0 }
    }

    fn draw(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A window in which functions want so much.
    fn window(&mut self, wanted: f64) -> Option<Change> {
        let used = wanted.min(self.reserve.share());
        let slower = if used > self.knee { 1.0 + 3.0 * (used - self.knee).min(1.0) + 0.2 } else { 1.0 };
        let mut answers = Counted::default();
        for _ in 0..self.rate {
            // Between once and twice what is usual, as a steady load has it.
            let micros = self.usual * (1.0 + self.draw()) * slower;
            answers.record(Duration::from_secs_f64(micros / 1e6));
            self.late += u64::from(micros > self.usual * 1.99 * 1.1);
            self.all += 1;
        }
        self.now += Duration::from_millis(250);
        self.reserve.turn(&Window { answers, begun: 0, used, now: self.now })
    }

    fn windows(&mut self, seconds: u64, wanted: f64) -> Vec<Change> {
        (0..seconds * 4).filter_map(|_| self.window(wanted)).collect()
    }

    /// The part of answers that were late since this was last asked.
    fn late(&mut self) -> f64 {
        let late = self.late as f64 / self.all.max(1) as f64;
        (self.late, self.all) = (0, 0);
        late
    }
}

#[test]
fn a_baseline_is_what_answers_take_without_functions() {
    let mut world = World::new(0.1);
    world.windows(1, 0.0);
    assert_eq!((world.reserve.baseline(), world.reserve.share()), (None, 0.01), "nobody knows yet");
    world.windows(4, 0.0);
    let baseline = world.reserve.baseline().unwrap().as_secs_f64();
    assert!((baseline - 0.004).abs() < 0.0002, "{baseline}");
    assert_eq!(world.reserve.share(), 1.0);
    let limit = world.reserve.limit().unwrap().as_secs_f64();
    assert!((limit / baseline - 1.1).abs() < 0.001);
}

#[test]
fn functions_that_harm_have_less_within_three_seconds_and_get_it_back_slowly() {
    let mut world = World::new(0.1);
    world.windows(10, 0.0);
    world.late();
    let changes = world.windows(3, 1.0);
    assert!(changes.iter().all(|change| *change == Change::Halved), "{changes:?}");
    assert!(world.reserve.share() <= 0.1, "{}", world.reserve.share());
    assert!(world.late() > 0.1, "or there was nothing to do");
    world.windows(120, 1.0);
    assert!(world.late() < 0.02, "{}", world.late());
    assert!(world.reserve.share() >= 0.02, "{}", world.reserve.share());
    // The device has become a better one: after a while that is found out.
    world.knee = 2.0;
    let changes = world.windows(300, 1.0);
    assert!(changes.contains(&Change::Raised) && !changes.contains(&Change::Closed), "{changes:?}");
    assert!(world.reserve.share() > 0.5, "{}", world.reserve.share());
}

#[test]
fn functions_that_do_no_harm_keep_what_they_have() {
    let mut world = World::new(2.0);
    world.windows(10, 0.0);
    let mut least = 1.0_f64;
    for _ in 0..2400 {
        world.window(1.0);
        least = least.min(world.reserve.share());
    }
    // Chance alone may take half of it now and then.
    assert!(least >= 0.01 && world.reserve.share() > 0.2, "{least} {}", world.reserve.share());
}

#[test]
fn where_the_least_is_too_much_nothing_new_begins_for_a_while() {
    let mut world = World::new(0.001);
    world.windows(10, 0.0);
    let changes = world.windows(10, 1.0);
    assert!(changes.contains(&Change::Closed), "{changes:?}");
    assert_eq!((world.reserve.open(), world.reserve.share()), (0.0, 0.01), "what runs goes on a little");
    assert_eq!(world.windows(60, 0.5), [], "it harms as before");
    let opened = world.windows(10, 0.0);
    assert_eq!(opened.first(), Some(&Change::Opened), "{opened:?}");
    world.windows(60, 0.5);
    assert!(world.reserve.share() <= 0.03, "{}", world.reserve.share());
}

#[test]
fn a_main_task_that_answers_nobody_is_harmed() {
    let mut world = World::new(0.1);
    world.windows(10, 0.0);
    world.now += Duration::from_millis(250);
    let stuck = Window { answers: Counted::default(), begun: 50, used: 0.8, now: world.now };
    assert_eq!(world.reserve.turn(&stuck), Some(Change::Halved));
    assert_eq!(world.reserve.share(), 0.4);
}

#[test]
fn what_is_not_the_fault_of_functions_takes_nothing_from_them_and_is_learned() {
    let mut world = World::new(0.1);
    world.windows(10, 0.0);
    world.usual = 8000.0;
    let changes = world.windows(60, 0.001);
    assert_eq!((changes, world.reserve.share()), (vec![], 1.0));
    let baseline = world.reserve.baseline().unwrap().as_secs_f64();
    assert!((baseline - 0.016).abs() < 0.001, "{baseline}");
}

#[test]
fn a_baseline_that_is_old_is_found_out_again_while_functions_run() {
    let mut world = World::new(2.0);
    world.windows(20, 0.0);
    // It became quicker, which nobody sees while functions run.
    world.usual = 1000.0;
    let mut least = 0;
    for _ in 0..4 * 1300 {
        world.window(0.5);
        least += u32::from(world.reserve.share() <= 0.01);
    }
    let baseline = world.reserve.baseline().unwrap().as_secs_f64();
    assert!((baseline - 0.002).abs() < 0.0002, "{baseline}");
    assert!((1..=60).contains(&least), "functions stood back in {least} windows");
}

#[test]
fn while_the_main_task_has_nothing_to_do_functions_soon_have_everything() {
    let mut world = World::new(0.1);
    world.windows(10, 0.0);
    world.windows(3, 1.0);
    world.rate = 0;
    world.windows(25, 1.0);
    assert_eq!(world.reserve.share(), 1.0);
}

proptest! {
    /// Whatever comes, the share stays within what is said, and falls and rises by what a change says.
    #[test]
    fn the_share_is_always_within_its_bounds(
        least in 1u8..=50,
        reserve in 0u8..=50,
        windows in prop::collection::vec((0u64..300, 0.2f64..20.0, 0f64..1.5, 0u64..40, 1u64..5000), 1..300),
    ) {
        let said = MainTaskConfig { least_percent: least, reserve_percent: reserve, ..SAID };
        let mut reserve = Reserve::new(&said);
        let (bottom, top) = (f64::from(least) / 100.0, 1.0 - f64::from(said.reserve_percent) / 100.0);
        let mut now = Instant::now();
        for (count, ms, used, begun, lasted) in windows {
            let before = reserve.share;
            now += Duration::from_millis(lasted);
            let mut answers = Counted::default();
            (0..count).for_each(|_| answers.record(Duration::from_secs_f64(ms / 1e3)));
            let change = reserve.turn(&Window { answers, begun, used, now });
            let (share, open) = (reserve.share(), reserve.open());
            prop_assert!((bottom..=top).contains(&share), "{} not within {}..={}", share, bottom, top);
            prop_assert!(open <= share);
            match change {
                Some(Change::Halved) => prop_assert!(reserve.share < before && reserve.share >= bottom),
                Some(Change::Raised) => prop_assert!(reserve.share > before && reserve.share <= top),
                Some(Change::Closed) => prop_assert!(open == 0.0 && reserve.share == bottom),
                Some(Change::Opened) | None => prop_assert!(reserve.share == before),
            }
        }
    }
}
