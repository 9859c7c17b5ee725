//! What offload does over a thin link: under these conditions, and not those of any device that can be bought.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::bed::{Bed, Rows};
use crate::support::process::free_address;
use crate::support::raw::{Body, Peer};
use crate::support::sidecar::Sidecar;
use crate::support::{full, test_where, wait_until};
use crate::world::{DEVICE, SCAN, Said, World, get, resources};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("testbed::a_scan_for_few_rows_spares_the_link", bytes),
        test_where("testbed::a_request_goes_where_it_takes_less_time_at_each_selectivity", break_even),
        test_where("testbed::a_device_that_stops_or_dies_under_load_is_left", lost),
        test_where("testbed::a_device_that_becomes_ten_times_slower_under_load_is_left", slower),
    ]
}

/// A target for which this part of the rows, in a thousandth, is asked.
pub fn target(rows: u32) -> String {
    format!("/scan/orders@7?where=amount%20%3E%20{}", 999 - i64::from(rows))
}

/// The caller's sidecar.
pub fn world(bed: &Bed, device: &str, policy: &str) -> World {
    let at = free_address();
    let policy = format!("dataset: {{name: orders, version: '7', bytes: {}}}, {policy}", bed.bytes());
    let said = Said { device, policy: &policy, ..SCAN };
    let own = format!("listeners: [{{listen: '{at}', service: orders, port: 80}}]\nworkers: 1\n");
    World { sidecar: Sidecar::start(&resources("http", bed.host, bed.device, &said), &own), at }
}

pub fn ask(client: &mut Peer, target: &str) -> Vec<u8> {
    try_ask(client, target).expect("a whole answer")
}

/// None where the answer is cut.
fn try_ask(client: &mut Peer, target: &str) -> Option<Vec<u8>> {
    let (head, body) = client.exchange(get(target));
    assert_eq!(head.status(), 200, "{body:?}");
    match body {
        Body::Whole(body) => Some(body),
        Body::Cut(_) => None,
    }
}

fn near(a: f64, b: f64, part: f64) -> bool {
    (a - b).abs() <= part * b
}

/// One row in a hundred: the bytes on the link, and that what Lighter counts is what the kernel counts.
fn bytes() -> Result<(), String> {
    let bed = Bed::new(&Rows(100_000))?;
    bed.shape(800);
    let target = target(10);
    let measure = |device: &str, place: &str, policy: &str| {
        let world = world(&bed, device, policy);
        let mut client = Peer::connect(world.at);
        let expected = ask(&mut client, &target);
        let moved = || {
            let metrics = world.rest().sidecar.metrics();
            let sum = |name, more: &[_]| metrics.sum(name, &[&[("place", place)], more].concat());
            (sum("lighter_offload_requests_total", &[]), sum("lighter_offload_moved_bytes_total", &[]))
        };
        // What is not at that place was to find out.
        let mut found = None;
        wait_until("ten in a row are there", || {
            let (before, received) = (moved(), bed.received());
            (0..10).for_each(|_| {
                assert_eq!(ask(&mut client, &target), expected, "whoever answers says the same")
            });
            let after = moved();
            found = Some((after.1 - before.1, (bed.received() - received) as f64));
            after.0 - before.0 == 10.0
        });
        found.unwrap()
    };
    let other = "datasets: [{name: orders, version: '6'}]";
    let (on_host, over_link) = measure(other, "host", "slo: {latency: 10s}");
    assert!(near(on_host, over_link, 0.02), "{on_host} {over_link}");
    let policy = "slo: {latency: 10s}, objective: bytes";
    let (on_device, spared) = measure(SCAN.device, DEVICE, policy);
    assert!(near(on_device, spared, 0.02), "{on_device} {spared}");
    println!(
        "bytes on the link for 10 scans: {over_link} by the host, {spared} by the device: {:.0} times fewer",
        over_link / spared
    );
    assert!(over_link / spared >= 50.0, "{over_link} {spared}");
    Ok(())
}

/// The device is slow at computing, and the link is thin: where few rows are wanted the device is quicker, where all are
/// the host is. The policy does not know where between them that changes, and what it is told is wrong by ten times.
fn break_even() -> Result<(), String> {
    let mut bed = Bed::new(&Rows(25_000))?;
    bed.shape(50);
    let parts: &[u32] = if full() { &[10, 200, 400, 600, 800, 1000] } else { &[10, 1000] };
    let took = |at, target: &str, count: u32| {
        let mut client = Peer::connect(at);
        ask(&mut client, target);
        let began = Instant::now();
        (0..count).for_each(|_| drop(ask(&mut client, target)));
        began.elapsed() / count
    };
    slow_enough(&mut bed, took)?;
    println!("rows in 1000 | host ms | device ms | of the last 10 on the device | after so many");
    for rows in parts {
        let target = target(*rows);
        let mut found = (Duration::ZERO, Duration::ZERO);
        wait_until("it is clear which is quicker", || {
            found = (took(bed.host, &target, 4), took(bed.device, &target, 4));
            // Somewhere in the middle they are alike.
            is_clear(found) || ![10, 1000].contains(rows)
        });
        let (host, device) = found;
        let said = "datasets: [{name: orders, version: '7'}], computeFactor: 0.4";
        let world = world(&bed, said, "slo: {latency: 10s}, explorePercent: 10");
        let mut client = Peer::connect(world.at);
        let (mut asked, mut there) = (0, 0.0);
        while asked < CONVERGED {
            let before = world.ended(DEVICE, "answered");
            (0..10).for_each(|_| drop(ask(&mut client, &target)));
            there = world.rest().ended(DEVICE, "answered") - before;
            asked += 10;
            let is_right = if device < host { there >= 7.0 } else { there <= 3.0 };
            if asked > 10 && is_right {
                break;
            }
        }
        println!("{rows} | {} | {} | {there} | {asked}", host.as_millis(), device.as_millis());
        assert!(
            asked < CONVERGED || !is_clear(found),
            "{rows} in 1000: {host:?} on the host, {device:?} on the device, {there} of 10 there\n{}",
            crate::support::metrics::get(world.sidecar.admin, "/decisions?last=60").1
        );
    }
    Ok(())
}

/// Slows the device down until it is clearly quicker than the host for few rows, and clearly slower for all of them.
fn slow_enough(bed: &mut Bed, took: impl Fn(SocketAddr, &str, u32) -> Duration) -> Result<(), String> {
    let (few, all) = (target(10), target(1000));
    let (on_host, before) = (took(bed.host, &all, 4), bed.device_cpu());
    took(bed.device, &all, 9);
    let each = (bed.device_cpu() - before) / 10;
    let (mut factor, mut found) = (1.2, Vec::new());
    for step in 0..12 {
        bed.slow_down(each.as_secs_f64() / (factor * on_host.as_secs_f64()))?;
        let of = |target| (took(bed.host, target, 5), took(bed.device, target, 5));
        let (few, all) = (of(&few), of(&all));
        let (is_quicker, is_slower) = (few.0 > few.1 * 6 / 5, all.1 > all.0 * 6 / 5);
        match (is_quicker, is_slower) {
            (true, true) => return Ok(()),
            (true, false) => factor *= 1.0 + 0.3 / f64::from(step + 1),
            (false, _) => factor /= 1.0 + 0.3 / f64::from(step + 1),
        }
        found.push((few, all));
    }
    panic!("the device is never so slow: {found:?}");
}

fn is_clear((host, device): (Duration, Duration)) -> bool {
    host.max(device) > host.min(device) * 6 / 5
}

/// Waits until this one answers twenty in a row.
fn prefers(world: &World, who: &str, target: &str) {
    wait_until(&format!("{who} answers twenty in a row"), || {
        let before = world.rest().ended(who, "answered");
        let mut client = Peer::connect(world.at);
        (0..20).for_each(|_| drop(ask(&mut client, target)));
        world.rest().ended(who, "answered") - before == 20.0
    });
}

/// It loses nine tenths of its processor.
fn slower() -> Result<(), String> {
    // So that it is clear before and after: half as long as the host, then four times.
    let mut bed = Bed::new(&Rows(25_000))?;
    bed.shape(50);
    bed.slow_down(1.0)?;
    let world = world(&bed, SCAN.device, "slo: {latency: 2s}, explorePercent: 25");
    let target = target(10);
    prefers(&world, DEVICE, &target);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Peer::connect(world.at);
                    (0..15).for_each(|_| drop(ask(&mut client, &target)));
                })
            })
            .collect();
        let slowed = bed.slow_down(0.1);
        clients.into_iter().for_each(|client| client.join().unwrap());
        slowed
    })?;
    prefers(&world, "host", &target);
    assert_eq!(world.sidecar.metrics().sum("lighter_requests_total", &[("code_class", "5xx")]), 0.0);
    Ok(())
}

/// So many requests are enough for a route to be where it belongs, though what it was told is wrong by ten times.
const CONVERGED: u32 = 300;

/// No request fails, and few wait for a device that does not answer.
fn lost() -> Result<(), String> {
    let mut bed = Bed::new(&Rows(2_000))?;
    bed.shape(20);
    let world = world(&bed, SCAN.device, "slo: {latency: 2s}, tryTimeout: 500ms, objective: bytes");
    let target = target(10);
    let prefers = |who: &str| prefers(&world, who, &target);
    // How many answers are cut, while this befalls the device.
    let under_load = |befalls: &dyn Fn()| -> usize {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let (mut client, mut cut) = (Peer::connect(world.at), 0);
                        for _ in 0..60 {
                            if try_ask(&mut client, &target).is_none() {
                                (client, cut) = (Peer::connect(world.at), cut + 1);
                            }
                        }
                        cut
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(200));
            befalls();
            clients.into_iter().map(|client| client.join().unwrap()).sum()
        })
    };
    prefers(DEVICE);
    let pid = rustix::process::Pid::from_raw(bed.device_pid() as i32).unwrap();
    let signal = |signal| rustix::process::kill_process(pid, signal).unwrap();
    let stopped = || {
        let before = world.ended("host", "answered");
        signal(Signal::STOP);
        wait_until("the host answers meanwhile", || world.ended("host", "answered") - before >= 40.0);
        signal(Signal::CONT);
    };
    // An answer that had begun is cut once the device was silent for as long as it has to answer.
    let cut = under_load(&stopped);
    assert!(cut <= 4, "{cut}");
    let late = world.ended(DEVICE, "timed_out");
    // Each client waits once, and one now and then looks whether it is back.
    assert!((1.0..=12.0).contains(&late), "{late} of 240");
    prefers(DEVICE);
    // What a caller has of an answer cannot be taken back. Whoever had nothing of it yet asked the host.
    let cut = under_load(&|| signal(Signal::KILL));
    assert!(cut <= 4, "{cut}");
    assert!(world.ended(DEVICE, "lost") >= 1.0);
    prefers("host");
    bed.start_device();
    prefers(DEVICE);
    assert!(bed.counted("lighter_device_runs_total", &[("status", "CS_SUCCESS")]) >= 20.0);
    assert_eq!(world.sidecar.metrics().sum("lighter_requests_total", &[("code_class", "5xx")]), 0.0);
    Ok(())
}
