//! A device that is there for something else: what functions leave to it, and to the power supply.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::clients::{BUSY, Clients, rows};
use crate::device::{Data, Device, get, text};
use crate::support::process::free_address;
use crate::support::raw::{Peer, Upstream};
use crate::support::{test, wait_until};

pub fn tests() -> Vec<Trial> {
    vec![
        test("reserve::functions_make_way_for_a_main_task_that_they_slow_down", makes_way),
        test("reserve::a_main_task_that_answers_nobody_is_made_way_for", stuck),
        test("reserve::functions_take_no_more_power_than_they_may", capped),
        test("reserve::what_is_said_of_a_main_task_is_what_holds", said),
        test("reserve::functions_have_the_priority_that_is_said", priority),
        test("reserve::energy_is_told_by_the_model", energy),
    ]
}

/// An application that takes as long as it is told. The harm that functions do is this: the test's own.
pub struct App {
    upstream: Upstream,
    ms: Arc<AtomicU64>,
}

impl App {
    fn start(ms: u64) -> Self {
        let ms = Arc::new(AtomicU64::new(ms));
        let takes = ms.clone();
        let upstream = Upstream::start(move |mut peer, _| {
            while peer.head().is_some() {
                std::thread::sleep(Duration::from_millis(takes.load(Relaxed)));
                if !peer.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") {
                    return;
                }
            }
        });
        App { upstream, ms }
    }

    fn takes(&self, ms: u64) {
        self.ms.store(ms, Relaxed);
    }
}

/// A device beside an application, and where that is asked.
fn beside(app: &App, main: &str, more: &str) -> (Device, SocketAddr) {
    let at = free_address();
    let data = Data::new().with_text("a.csv", rows()).with_text("b.csv", "x\n1\n");
    let inbound = format!("{{listen: '{at}', app: '{}', port: 81, protocol: http}}", app.upstream.address);
    let more = format!(", mainTask: {{inbound: {}{main}}}{more}", at.port());
    (data.start_beside(&inbound, &more), at)
}

fn changes(device: &Device, change: &str) -> f64 {
    device.counted("lighter_device_share_changes_total", &[("change", change)])
}

fn refused(device: &Device, cause: &str) -> f64 {
    device.counted("lighter_device_refusals_total", &[("cause", cause)])
}

fn share(device: &Device) -> f64 {
    device.counted("lighter_device_share", &[])
}

fn seconds(device: &Device, what: &str) -> f64 {
    device.counted(&format!("lighter_device_main_task_{what}_seconds"), &[])
}

fn makes_way() {
    let app = App::start(5);
    // A busy test machine slows it down as well, though not by that much.
    let (device, at) = beside(&app, ", window: 100ms, p99Percent: 2000", "");
    let _main = Clients::start(at, "/", 8, Duration::ZERO);
    wait_until("it is known how long answers take", || seconds(&device, "baseline") > 0.005);
    wait_until("functions may take everything", || share(&device) == 1.0);
    assert_eq!(text(device.get("/scan/b").1), "x\n1\n");
    app.takes(400);
    let functions = Clients::start(device.at, BUSY, 3, Duration::from_millis(5));
    wait_until("functions have next to nothing", || share(&device) <= 0.01);
    // Those that run go on for long, so that their callers ask for nothing more. There is room for one beside them.
    wait_until("none begins any more", || {
        device.get("/scan/b");
        refused(&device, "reserve") >= 1.0
    });
    assert!(changes(&device, "halved") >= 1.0);
    let (head, body) = device.get("/scan/b");
    if head.status() == 503 {
        assert_eq!((head.cause(), head.get("retry-after")), (Some("reserve"), Some("1")));
        assert_eq!(head.get("x-lighter-status"), Some("CS_DEVICE_NOT_AVAILABLE"));
        assert!(text(body).contains("main task"));
    }
    wait_until("what runs rests", || device.counted("lighter_device_rested_seconds_total", &[]) > 0.5);
    // All is well again, and they have something of it.
    app.takes(5);
    let raised = changes(&device, "raised");
    wait_until("functions get more", || changes(&device, "raised") > raised);
    drop(functions);
}

fn stuck() {
    let app = App::start(5);
    let (device, at) = beside(&app, ", window: 500ms", "");
    let main = Clients::start(at, "/", 4, Duration::ZERO);
    wait_until("it is known how long answers take", || seconds(&device, "baseline") > 0.005);
    wait_until("functions may take everything", || share(&device) == 1.0);
    drop(main);
    let _functions = Clients::start(device.at, BUSY, 2, Duration::ZERO);
    wait_until("functions run", || device.in_flight() >= 1.0);
    app.takes(15_000);
    let mut asked: Vec<Peer> = Vec::new();
    wait_until("functions have less", || {
        let mut peer = Peer::connect(at);
        peer.send(get("/"));
        asked.push(peer);
        changes(&device, "halved") >= 1.0
    });
}

fn capped() {
    let data = Data::new().with_text("a.csv", rows()).with_text("b.csv", "x\n1\n");
    // A fifth of a processor.
    let device = data.start(", power: {capWatts: 3, busyWatts: 5, idleWatts: 2}", "");
    assert_eq!(device.counted("lighter_device_power_cap_watts", &[]), 3.0);
    let watts = || device.counted("lighter_device_watts", &[("energy_source", "modelled")]);
    assert_eq!(watts(), 2.0);
    let (busy, began) = (of_process(&device), Instant::now());
    let functions = Clients::start(device.at, BUSY, 3, Duration::from_millis(20));
    wait_until("the power is used up", || refused(&device, "power_cap") >= 3.0);
    let (head, body) = device.get("/scan/b");
    if head.status() == 503 {
        assert_eq!(head.cause(), Some("power_cap"));
        assert!(text(body).contains("power"));
    }
    let rested = || device.counted("lighter_device_rested_seconds_total", &[]);
    wait_until("functions rest", || rested() > 1.0);
    drop(functions);
    let took = began.elapsed().as_secs_f64();
    let used = device.counted("lighter_device_busy_seconds_total", &[]);
    // A fifth, what may be saved up and what a run does between two looks.
    assert!(used <= 0.2 * took + 0.1, "{used} s in {took} s");
    assert!(watts() <= 3.1, "{}", watts());
    // What the device says of itself is what the kernel says of the process, which has more to do than functions.
    let busy = (of_process(&device) - busy).as_secs_f64();
    assert!(used <= busy + 0.05, "{used} of {busy}");
    wait_until("there is power again", || device.get("/scan/b").0.status() == 200);
}

/// Processor time of the device, that of runs which have ended included.
fn of_process(device: &Device) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", device.sidecar.program.pid())).unwrap();
    let behind = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = behind.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// Each field changes what is shown.
fn said() {
    let app = App::start(5);
    let shown = |main: &str| {
        let (device, at) = beside(&app, main, "");
        let at_start = share(&device);
        let main = Clients::start(at, "/", 8, Duration::ZERO);
        wait_until("it is known how long answers take", || seconds(&device, "baseline") > 0.0);
        let ratio = seconds(&device, "limit") / seconds(&device, "baseline");
        drop(main);
        (at_start, device.counted("lighter_device_windows_total", &[]), ratio)
    };
    let usual = shown("");
    assert_eq!(usual.0, 1.0);
    assert!((usual.2 - 1.1).abs() < 0.01, "{usual:?}");
    let other = shown(", p99Percent: 300, window: 50ms, reservePercent: 25");
    assert_eq!(other.0, 0.75);
    assert!((other.2 - 3.0).abs() < 0.01, "{other:?}");
    // The least is what functions have until a baseline is known.
    let (device, at) = beside(&app, ", leastPercent: 20, window: 50ms", "");
    let _main = Clients::start(at, "/", 1, Duration::from_millis(100));
    wait_until("functions have the least", || share(&device) == 0.2);
    let windows = |window: &str| {
        let (device, _) = beside(&app, &format!(", window: {window}"), "");
        let began = Instant::now();
        wait_until("three are over", || device.counted("lighter_device_windows_total", &[]) >= 3.0);
        began.elapsed()
    };
    assert!(windows("400ms") >= Duration::from_millis(800));
    assert!(windows("1s") >= Duration::from_millis(2000));
}

fn priority() {
    let slow = || Data::new().with_text("a.csv", rows());
    let got = |device: &Device| {
        let mut caller = Peer::connect(device.at);
        caller.send(get("/checksum/a"));
        wait_until("it runs", || device.in_flight() == 1.0);
        let has = |priority| device.counted("lighter_device_priority", &[("priority", priority)]);
        let found: Vec<_> =
            ["idle", "low", "normal"].into_iter().filter(|priority| has(priority) == 1.0).collect();
        assert_eq!(found.len(), 1, "{found:?}");
        // As the kernel has it: the threads of functions, by name.
        let tasks = format!("/proc/{}/task", device.sidecar.program.pid());
        let stat = std::fs::read_dir(tasks).unwrap().flatten().find_map(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            stat.contains("(function)").then_some(stat)
        });
        let stat = stat.expect("a thread of a function");
        let fields: Vec<String> = stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect();
        (found[0], fields[16].clone(), fields[38].clone())
    };
    let media = ", mediaBytesPerSecond: 50000";
    let (normal, nice, policy) = got(&slow().start(media, ""));
    assert_eq!((normal, policy.as_str()), ("normal", "0"));
    let low = got(&slow().start(&format!("{media}, priority: low"), ""));
    assert_eq!(low, ("low", "19".into(), "0".into()));
    let idle = ("idle", nice, "5".to_owned());
    assert_eq!(got(&slow().start(&format!("{media}, priority: idle"), "")), idle);
    let app = App::start(1);
    let (device, _) = beside(&app, "", media);
    assert_eq!(got(&device), idle, "beside a main task");
    let (device, _) = beside(&app, "", &format!("{media}, priority: normal"));
    assert_eq!(got(&device).0, "normal");
}

fn energy() {
    let joules = |power: &str| {
        let device = Data::new().with_text("a.csv", rows()).start(power, "");
        let _functions = Clients::start(device.at, BUSY, 1, Duration::ZERO);
        let sum = |name: &str| device.counted(name, &[]);
        wait_until("functions have worked", || sum("lighter_device_joules_total") > 0.0);
        wait_until("they have for a while", || sum("lighter_device_busy_seconds_total") > 0.5);
        let before = sum("lighter_device_busy_seconds_total");
        let windows = sum("lighter_device_windows_total");
        wait_until("it is counted", || sum("lighter_device_windows_total") > windows);
        (device.counted("lighter_device_joules_total", &[]) / before, device.sidecar.metrics())
    };
    let (usual, metrics) = joules("");
    let source = if metrics.has("lighter_device_joules_total", &[("energy_source", "rapl")]) {
        "rapl"
    } else {
        "modelled"
    };
    assert!(metrics.has("lighter_device_joules_total", &[("energy_source", source)]));
    if source == "modelled" {
        // 5 W of a processor, and the window that came after.
        assert!((5.0..=40.0).contains(&usual), "{usual} J for a second of a processor");
        let (more, _) = joules(", power: {busyWatts: 500}");
        assert!(more >= 500.0, "{more} J for a second of a processor");
    }
}
