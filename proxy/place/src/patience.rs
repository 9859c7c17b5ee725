//! How long a device has until its answer begins, before the request goes to the host.
//!
//! A device that says nothing has most likely stalled, and the sooner the host is asked, the sooner there is an answer. But one
//! that is left too early would have answered a moment later, and is taken for one that fails. So it is waited for as long
//! as the host, if it is asked then, is still expected to answer within the objective, with room to spare.

use crate::record::Estimate;

/// In seconds, where the route says nothing; never longer than the objective.
pub(crate) fn seconds(slo: f64, host: &Estimate, device: &Estimate) -> f64 {
    let spare = slo - (host.seconds * ROOM).max(slo * LEAST);
    // What is queued there passes as it is said to, by and large; it is work that varies.
    let queue = device.seconds - device.service_seconds;
    let wanted = (queue + device.service_seconds * ROOM).max(slo * LEAST);
    if spare >= wanted {
        return spare;
    }
    // There is not enough for both: the device may have of the host's, up to what that needs.
    let shared = wanted.min(slo - host.seconds * NEEDED_BY_HOST);
    if shared >= (device.service_seconds * NEEDED_BY_DEVICE).max(slo * LEAST) {
        return shared;
    }
    // Who leaves the device in time leaves it too early: nothing is won by that, and its answer may be.
    slo
}

/// Each is to have so many times what is expected of it, since times vary.
const ROOM: f64 = 3.0;
/// And this part of the objective at least: in less, a stall is not told from a moment's delay.
const LEAST: f64 = 0.25;
/// With less, a host is late as often as not.
const NEEDED_BY_HOST: f64 = 1.5;
/// With less, a device that is well is often taken for one that fails, and is left alone for it.
const NEEDED_BY_DEVICE: f64 = 2.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Of a place where one waits for so long, and that then works for so long.
    fn expected(queue: f64, service_seconds: f64) -> Estimate {
        Estimate { seconds: queue + service_seconds, service_seconds, joules: 0.0, cost: 0.0 }
    }

    #[test]
    fn the_host_is_left_room_and_a_device_is_not_left_early() {
        // In milliseconds, of 200.
        let of = |host: f64, queue: f64, device: f64| {
            let seconds = seconds(0.2, &expected(0.0, host / 1e3), &expected(queue / 1e3, device / 1e3));
            (seconds * 1e6).round() / 1e3
        };
        // Both are quick: each has a quarter of the time at least.
        assert_eq!(of(1.0, 0.0, 1.0), 150.0);
        // The host has three times what is expected of it.
        assert_eq!(of(20.0, 0.0, 1.0), 140.0);
        assert_eq!(of(40.0, 0.0, 1.0), 80.0);
        assert_eq!(of(60.0, 0.0, 1.0), 50.0);
        // The device has three times what is expected of it, as long as one and a half are left to the host.
        assert_eq!(of(40.0, 0.0, 30.0), 90.0);
        assert_eq!(of(40.0, 25.0, 30.0), 115.0);
        assert_eq!(of(40.0, 90.0, 30.0), 140.0);
        assert_eq!(of(40.0, 0.0, 60.0), 140.0);
        // What is early enough for the host is too early for the device.
        assert_eq!(of(60.0, 0.0, 60.0), 200.0);
        assert_eq!(of(110.0, 0.0, 1.0), 200.0);
        assert_eq!(of(9000.0, 0.0, 1.0), 200.0);
    }

    proptest! {
        #[test]
        fn whatever_is_expected_it_is_within_the_objective(
            slo in 1e-3..1e5f64, host in 0.0..2.0f64, queue in 0.0..2.0f64, device in 0.0..2.0f64,
        ) {
            let device = expected(queue * slo, device * slo);
            let of = |host: f64| seconds(slo, &expected(0.0, host * slo), &device);
            let most = of(host);
            prop_assert!(most >= slo * LEAST && most <= slo, "{most}");
            if most < slo {
                prop_assert!(most >= device.service_seconds * NEEDED_BY_DEVICE, "{most}: it is not left early");
                prop_assert!(most + host * slo * NEEDED_BY_HOST <= slo * (1.0 + 1e-9), "{most}: the host is in time");
            }
            // A host that takes longer leaves a device no more, but where it can leave it nothing.
            let slower = of(host * 1.1);
            prop_assert!(slower <= most || slower == slo, "{slower} {most}");
        }
    }
}
