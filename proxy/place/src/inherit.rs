//! What a placer takes over of another one that knew other places: a device more, or less, is no reason to forget.

use crate::placer::{Place, Placer};
use crate::profile::Profile;
use crate::request::{HOST, PlaceId};
use crate::route::RouteId;

impl Placer {
    /// Takes over what `other` has learned of these places and routes: each by its own number and the other's. Both go by one
    /// clock, and their hosts are one. Of routes, all but their devices must be said to be the same.
    ///
    /// What is under way there ends there: it is not waited for here.
    pub fn inherit(&mut self, other: &Placer, places: &[(PlaceId, PlaceId)], routes: &[(RouteId, RouteId)]) {
        let places = || [(HOST, HOST)].into_iter().chain(places.iter().copied());
        for (own, others) in places() {
            let (own, others) = (own.number() as usize, others.number() as usize);
            let (Some(own), Some(others)) = (self.places.get_mut(own), other.places.get(others)) else {
                continue;
            };
            own.load = others.load;
            own.health = others.health;
            own.health.forget_requests();
            // What corrects one expectation is no correction of another.
            if is_expected_alike(&own.profile, &others.profile) {
                (own.bias, own.surprise) = (others.bias, others.surprise);
            }
        }
        let Placer { places: known, routes: own_routes, .. } = self;
        let profile =
            |of: &[Place], place: PlaceId| of.get(place.number() as usize).map(|place| place.profile);
        for (own, others) in routes {
            let (own, others) = (own.number() as usize, others.number() as usize);
            let (Some(own), Some(others)) = (own_routes.get_mut(own), other.routes.get(others)) else {
                continue;
            };
            let alike = places().filter(|(own, others)| {
                let both = profile(known, *own).zip(profile(&other.places, *others));
                both.is_some_and(|(own, others)| is_expected_alike(&own, &others))
            });
            own.inherit(others, alike);
        }
    }
}

/// Whether a request that finds nobody there is expected to take as long. How many fit in at once says nothing of that.
fn is_expected_alike(one: &Profile, other: &Profile) -> bool {
    Profile { slots: 0, ..*one } == Profile { slots: 0, ..*other }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, Failure, Offer, Outcome, Request, RouteRules, Setback, Standing, Time, Work};

    const DEVICE: Profile = Profile {
        link_bytes_per_second: 1e9,
        data_bytes_per_second: 1e9,
        compute_factor: 1.0,
        slots: 2,
        busy_watts: 1.0,
        joules_per_byte: 1e-8,
        is_data_moved: false,
    };

    fn placer(devices: &[Profile]) -> (Placer, RouteId, Vec<PlaceId>) {
        let mut placer = Placer::new(Profile { is_data_moved: true, ..DEVICE }, 1);
        let devices: Vec<PlaceId> = devices.iter().map(|device| placer.add_device(*device)).collect();
        let route = placer.add_route(RouteRules::default(), devices.iter().copied());
        (placer, route, devices)
    }

    fn ask(placer: &mut Placer, route: RouteId, devices: &[PlaceId], now: Time) -> crate::Placed {
        let request = Request { work: Work::Versioned(1), bytes_in: 0, scan_bytes: 1 << 20 };
        let offer = |place: &PlaceId| Offer { place: *place, has_function: true, dataset: Some(1) };
        placer.place(route, &request, &devices.iter().map(offer).collect::<Vec<_>>(), now)
    }

    /// How a place is corrected, how it stands and how long one would wait there.
    fn seen(placed: &crate::Placed, place: PlaceId) -> (f32, Standing, f32) {
        let candidates = &placed.record.inputs.candidates;
        let found = candidates.iter().find(|candidate| candidate.place == place).unwrap();
        (found.correction, found.standing, found.queue_seconds)
    }

    #[test]
    fn a_device_more_or_less_takes_nothing_from_what_is_known_of_others() {
        let (mut first, route, devices) = placer(&[DEVICE, DEVICE]);
        for nth in 0..50 {
            let now = Time::from_seconds(f64::from(nth) * 0.5);
            let placed = ask(&mut first, route, &devices[..1], now);
            let end = Time::from_seconds(now.seconds() + 0.02);
            first.ended(&placed.ticket, &Outcome::Answered(Answer::default()), end);
        }
        let at = Time::from_seconds(25.0);
        // The other one fails, while a request is under way at the first.
        let failing = ask(&mut first, route, &devices[1..], at);
        assert_eq!(failing.ticket.place, devices[1]);
        first.ended(&failing.ticket, &Outcome::SetBack(Setback::Failed(Failure::Lost)), at);
        first.report(devices[0], 0.5, at);
        let before = ask(&mut first, route, &devices, at);

        // One more, first of all; the second has more slots, and the third another processor.
        let slower = Profile { compute_factor: 2.0, ..DEVICE };
        let (mut next, own, now) = placer(&[slower, Profile { slots: 9, ..DEVICE }, slower]);
        next.inherit(&first, &[(now[1], devices[0]), (now[2], devices[1])], &[(own, route)]);
        let after = ask(&mut next, own, &now, at);
        let known = |placed: &crate::Placed, place| seen(placed, place);
        let ((correction, _, queue), (same, standing, still)) =
            (known(&before, devices[0]), known(&after, now[1]));
        assert!((correction - same).abs() < 1e-6 && correction != 1.0, "{correction} {same}");
        assert_eq!((standing, queue, still), (Standing::Admissible, 0.5, 0.5));
        assert_eq!(known(&after, HOST).0, known(&before, HOST).0);
        assert_eq!(known(&after, now[2]).1, Standing::Failed, "it goes on being left alone");
    }

    fn share(placer: &mut Placer, now: Time) -> f32 {
        let rules = placer.routes[0].rules.guard;
        placer.routes[0].guard.share(&rules, now)
    }

    #[test]
    fn a_route_that_was_sent_back_stays_back() {
        let (mut first, route, devices) = placer(&[DEVICE]);
        let now = Time::from_seconds(1.0);
        let rules = first.routes[0].rules.guard;
        (0..20).for_each(|_| first.routes[0].guard.ended(true, &rules, now));
        let (mut next, own, places) = placer(&[DEVICE, DEVICE]);
        next.inherit(&first, &[(places[0], devices[0])], &[(own, route)]);
        let shares = [&mut first, &mut next].map(|placer| share(placer, now));
        assert_eq!(shares[0], shares[1]);
        assert!(shares[1] < 1.0);
    }
}
