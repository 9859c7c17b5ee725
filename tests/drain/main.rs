//! Drain and hand-over, as whoever calls through it sees them: real processes that leave while they are used.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod app;
mod beside;
mod callers;
mod course;
mod functions;
mod handover;
mod held;
mod journaled;
mod kills;
mod leave;
mod load;
mod migrate;
mod moved;
mod opaque;
mod partition;
#[allow(dead_code)] // It has more than is needed here.
#[path = "../intercept/place.rs"]
mod place;
mod places;
mod planned;
mod precopy;
mod redis;
mod registers;
mod rolling;
mod stage;
mod stateful;
mod streams;
mod unknown;
#[allow(dead_code)] // It has more than is needed here.
#[path = "../join/world.rs"]
mod world;

fn main() {
    if let Some(status) = app::play().or_else(registers::play) {
        std::process::exit(status);
    }
    let suites = [
        beside::tests(),
        callers::tests(),
        course::tests(),
        handover::tests(),
        held::tests(),
        journaled::tests(),
        kills::tests(),
        leave::tests(),
        migrate::tests(),
        moved::tests(),
        opaque::tests(),
        partition::tests(),
        planned::tests(),
        functions::tests(),
        functions::planned::tests(),
        precopy::tests(),
        redis::tests(),
        rolling::tests(),
        stateful::tests(),
        streams::tests(),
        unknown::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
