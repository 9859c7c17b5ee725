//! How long a decision takes, with the end of the request that follows from it, by the number of devices that offer to run it.
//!
//! Prints and judges nothing: times say as much of the machine as of the code.

use std::hint::black_box;
use std::time::Instant;

use lighter_place::{Answer, Offer, Outcome, Placer, Profile, Request, RouteRules, Time, Work, recompute};

const DECISIONS: u64 = 2_000_000;

fn main() {
    println!("devices  decision  end of it  made again (nanoseconds, mean of {DECISIONS})");
    for devices in [0, 1, 3, 7, 50] {
        let (decision, end, again) = measure(devices);
        println!("{devices:7}  {decision:8.0}  {end:9.0}  {again:10.0}");
    }
}

fn measure(count: usize) -> (f64, f64, f64) {
    let profile = Profile {
        link_bytes_per_second: 1e9,
        data_bytes_per_second: 1e9,
        compute_factor: 1.0,
        slots: 2,
        busy_watts: 10.0,
        joules_per_byte: 1e-8,
        is_data_moved: false,
    };
    let mut placer = Placer::new(profile, 1);
    let devices: Vec<_> = (0..count).map(|_| placer.add_device(profile)).collect();
    let route = placer.add_route(RouteRules::default(), devices.iter().copied());
    let offers: Vec<_> =
        devices.iter().map(|place| Offer { place: *place, has_function: true, dataset: Some(1) }).collect();
    let mut nanos = [0u128; 3];
    // Few enough that none is late, so that all places stay admissible.
    let batch = 50;
    let mut batches = Vec::with_capacity(batch);
    for first in (0..DECISIONS).step_by(batch) {
        batches.clear();
        let begin = Instant::now();
        for index in first..first + batch as u64 {
            let request = Request { work: Work::Versioned(1), bytes_in: 100, scan_bytes: (index % 64) << 14 };
            batches.push(placer.place(route, &request, &offers, Time::from_nanos(index * 1_000)));
        }
        let placed = Instant::now();
        for (index, one) in batches.iter().enumerate() {
            let at = Time::from_nanos((first + index as u64) * 1_000 + 50_000);
            placer.ended(&one.ticket, &Outcome::Answered(Answer::default()), at);
        }
        let ended = Instant::now();
        for one in &batches {
            black_box(recompute(&one.record));
        }
        nanos[0] += (placed - begin).as_nanos();
        nanos[1] += (ended - placed).as_nanos();
        nanos[2] += ended.elapsed().as_nanos();
    }
    let mean = |nanos: u128| nanos as f64 / DECISIONS as f64;
    (mean(nanos[0]), mean(nanos[1]), mean(nanos[2]))
}
