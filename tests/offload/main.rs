//! Requests that may run on a device: real sidecars, an unchanged host, devices that are sidecars, and devices that do
//! whatever goes wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../device/device.rs"]
#[allow(dead_code)] // It has more than is needed here.
mod device;

#[path = "../join/world.rs"]
#[allow(dead_code)]
mod joined;

#[path = "../join/load.rs"]
#[allow(dead_code)]
mod load;

mod bed;
mod choice;
mod explain;
mod foreseen;
mod pipeline;
mod planned;
mod profiles;
mod pushed;
mod registered;
mod says;
mod setbacks;
mod shortage;
mod spent;
mod testbed;
mod world;

fn main() {
    let suites = [
        choice::tests(),
        setbacks::tests(),
        shortage::tests(),
        says::tests(),
        spent::tests(),
        explain::tests(),
        pushed::tests(),
        registered::tests(),
        planned::tests(),
        testbed::tests(),
        foreseen::tests(),
        profiles::tests(),
        pipeline::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
