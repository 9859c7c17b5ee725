//! Sets a device's limits, again and again: by its main task, and by a model of its power.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::sidecar::DeviceConfig;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use super::FunctionHost;
use super::hold::Hold;
use super::main_task::MainTask;
use super::power::{Model, POWERCAP, Rapl};
use super::reserve::{Change, Reserve, Window};
use crate::telemetry::{self, Counted, EnergySource};

/// How often a device without a main task is looked at.
const WINDOW: Duration = Duration::from_secs(1);
/// A device that takes this part of the power that it may has none left.
const SPENT: f64 = 0.9;

/// Whoever sets the limits.
pub(super) struct Limits {
    hold: Arc<Hold>,
    host: Arc<dyn FunctionHost>,
    /// Processor time of programs, as it was last counted.
    programs: Duration,
    runs: usize,
    processors: f64,
    window: Duration,
    main: Option<Main>,
    model: Model,
    rapl: Option<Rapl>,
    gauges: Gauges,
    /// When it was last looked, and what functions had taken by then.
    last: (Instant, Duration),
    /// Modelled energy that was not counted yet, in microjoules.
    left: f64,
}

struct Main {
    task: Arc<MainTask>,
    reserve: Reserve,
    answers: Counted,
    under_way: u64,
    p99: Gauge,
    baseline: Gauge,
    limit: Gauge,
    changes: [Counter; 4],
}

struct Gauges {
    share: Gauge,
    watts: Gauge,
    windows: Counter,
}

impl Limits {
    pub(super) fn new(
        config: &DeviceConfig,
        hold: Arc<Hold>,
        host: Arc<dyn FunctionHost>,
        task: Option<Arc<MainTask>>,
    ) -> Self {
        describe();
        let main = config.main_task.as_ref().zip(task).map(|(said, task)| Main {
            reserve: Reserve::new(said),
            answers: task.answers(),
            under_way: 0,
            task,
            p99: gauge!("lighter_device_main_task_p99_seconds"),
            baseline: gauge!("lighter_device_main_task_baseline_seconds"),
            limit: gauge!("lighter_device_main_task_limit_seconds"),
            changes: Change::ALL
                .map(|change| counter!("lighter_device_share_changes_total", "change" => change.label())),
        });
        let model = Model(config.power);
        let gauges = Gauges {
            share: gauge!("lighter_device_share"),
            watts: gauge!("lighter_device_watts", "energy_source" => EnergySource::Modelled.label()),
            windows: counter!("lighter_device_windows_total"),
        };
        if let Some(cap) = config.power.cap_watts {
            gauge!("lighter_device_power_cap_watts").set(cap);
        }
        let limits = Limits {
            programs: host.processor_time(),
            host,
            runs: config.limits.runs,
            processors: std::thread::available_parallelism().map_or(1, usize::from) as f64,
            window: config.main_task.map_or(WINDOW, |main| main.window),
            main,
            model,
            rapl: Rapl::open(Path::new(POWERCAP)),
            gauges,
            last: (Instant::now(), hold.busy()),
            left: 0.0,
            hold,
        };
        limits.gauges.watts.set(model.watts(0.0));
        limits.set(0.0);
        limits
    }

    /// Sets them as long as it is let.
    pub(super) async fn keep(mut self) {
        let mut windows = tokio::time::interval(self.window);
        windows.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        windows.tick().await;
        loop {
            windows.tick().await;
            self.turn(Instant::now());
        }
    }

    /// A window is over.
    fn turn(&mut self, now: Instant) {
        let programs = self.host.processor_time();
        self.hold.count(programs.saturating_sub(std::mem::replace(&mut self.programs, programs)));
        let busy = self.hold.busy();
        let (since, before) = std::mem::replace(&mut self.last, (now, busy));
        let lasted = now.saturating_duration_since(since).as_secs_f64().max(f64::MIN_POSITIVE);
        let used = busy.saturating_sub(before).as_secs_f64() / lasted;
        if let Some(main) = &mut self.main {
            main.turn(used / self.processors, now);
        }
        let watts = self.model.watts(used);
        self.gauges.watts.set(watts);
        self.energy(watts * lasted);
        self.set(used);
        self.gauges.windows.increment(1);
    }

    /// So many joules were taken, by the model.
    fn energy(&mut self, joules: f64) {
        if let Some(rapl) = &mut self.rapl {
            telemetry::device_energy(EnergySource::Rapl, rapl.taken());
            return;
        }
        let microjoules = self.left + joules * 1e6;
        self.left = microjoules.fract();
        telemetry::device_energy(EnergySource::Modelled, microjoules as u64);
    }

    /// What holds until the next window is over, after one in which functions kept so many processors busy.
    fn set(&self, used: f64) {
        let (share, open) = match &self.main {
            Some(main) => (main.reserve.share(), main.reserve.open()),
            None => (1.0, 1.0),
        };
        let by_power = self.model.most_busy();
        let most = if share < 1.0 { share * self.processors } else { f64::INFINITY };
        self.hold.set_processors(most.min(by_power.unwrap_or(f64::INFINITY)));
        let beside_main = if open < 1.0 { (open * self.runs as f64).ceil() as usize } else { usize::MAX };
        let by_power = match by_power {
            // As many as could take it all themselves, and do.
            Some(most) if used >= SPENT * most => (most.ceil() as usize).max(1),
            _ => usize::MAX,
        };
        self.hold.set_runs(beside_main, by_power);
        self.gauges.share.set(share);
    }
}

impl Main {
    /// Functions took this part of the processors.
    fn turn(&mut self, used: f64, now: Instant) {
        let answers = self.task.answers();
        let under_way = self.task.under_way();
        let window = Window {
            answers: answers.since(&self.answers),
            begun: under_way.saturating_sub(self.under_way),
            used,
            now,
        };
        (self.answers, self.under_way) = (answers, under_way);
        if let Some(p99) = window.answers.percentile(99) {
            self.p99.set(p99.as_secs_f64());
        }
        if let Some(change) = self.reserve.turn(&window) {
            self.changes[change as usize].increment(1);
            let (share, used) = (self.reserve.share(), window.used);
            tracing::debug!(change = change.label(), share, used, p99 = ?window.answers.percentile(99), "share of functions");
        }
        let known = [(&self.baseline, self.reserve.baseline()), (&self.limit, self.reserve.limit())];
        for (gauge, time) in known {
            if let Some(time) = time {
                gauge.set(time.as_secs_f64());
            }
        }
    }
}

impl Change {
    /// All of them, in the order of their counters.
    const ALL: [Change; 4] = [Change::Halved, Change::Closed, Change::Opened, Change::Raised];

    const fn label(self) -> &'static str {
        match self {
            Change::Halved => "halved",
            Change::Closed => "closed",
            Change::Opened => "opened",
            Change::Raised => "raised",
        }
    }
}

fn describe() {
    describe_gauge!(
        "lighter_device_share",
        "The part of the device's processors that functions may take, by its main task."
    );
    describe_counter!("lighter_device_share_changes_total", "How often that changed, by how.");
    describe_gauge!(
        "lighter_device_main_task_p99_seconds",
        "What 99 in a hundred of the main task's answers do not exceed, in the last window that had some."
    );
    describe_gauge!("lighter_device_main_task_baseline_seconds", "The same while functions do not run.");
    describe_gauge!("lighter_device_main_task_limit_seconds", "What it may be while they run.");
    describe_gauge!("lighter_device_watts", "What the device takes, by a model of its power.");
    describe_gauge!(
        "lighter_device_power_cap_watts",
        "The most that it may take. Absent if there is no limit."
    );
    describe_counter!("lighter_device_windows_total", "How often the device's limits were set.");
    describe_gauge!(
        "lighter_device_priority",
        "How many threads of functions have which priority. Absent until one has run."
    );
}
