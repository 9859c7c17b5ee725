//! A decision does not allocate. What other threads do is not counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use lighter_place::{Answer, FunctionCost, Offer, Outcome, Placer, Profile, Request, RouteRules, Time, Work};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: everything is done by the system's allocator, with what it was asked for.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends counts no more.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as this function's caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as this function's caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decision_does_not_allocate() {
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
    let devices: Vec<_> = (0..20).map(|_| placer.add_device(profile)).collect();
    let cost = FunctionCost { seconds: 1e-3, seconds_per_byte: 1e-9 };
    let route = placer.add_route(RouteRules { cost, ..RouteRules::default() }, devices.iter().copied());
    let offers: Vec<_> =
        devices.iter().map(|place| Offer { place: *place, has_function: true, dataset: Some(1) }).collect();
    let before = ALLOCATIONS.get();
    for index in 0..10_000u64 {
        let request = Request { work: Work::Versioned(1), bytes_in: 100, scan_bytes: index * 1000 };
        let placed = placer.place(route, &request, &offers, Time::from_nanos(index * 1_000_000));
        let outcome = Outcome::Answered(Answer::default());
        placer.ended(&placed.ticket, &outcome, Time::from_nanos(index * 1_000_000 + 500_000));
        placer.report(placed.ticket.place, 0.001, Time::from_nanos(index * 1_000_000 + 500_000));
        black_box(placed);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
