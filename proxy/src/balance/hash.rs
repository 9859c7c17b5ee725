//! Endpoints by hash: the same request goes to the same endpoint while that one is there.
//!
//! Hashes are the same in every sidecar and after every restart, as they are of addresses and of what requests say. What
//! is not available is passed over: its requests go to others, and nobody else's do.

use std::net::{IpAddr, SocketAddr};

use lighter_config::snapshot::{HashOn, RequestParts};

use crate::http::cookie;

/// A request's hash by the first of `on` that it has.
pub(crate) fn of_request(
    on: &[HashOn],
    request: &(impl RequestParts + ?Sized),
    caller: IpAddr,
) -> Option<u64> {
    on.iter().find_map(|on| match on {
        HashOn::Header(name) => request.header(name).map(of),
        HashOn::Cookie(name) => cookie::read(name, request, of),
        HashOn::SourceAddress => Some(of_address(caller)),
        HashOn::Path => Some(of(request.path())),
    })
}

/// The hash of an opaque connection, of which nothing but the caller's address is known.
pub(crate) fn of_connection(on: &[HashOn], caller: IpAddr) -> Option<u64> {
    on.contains(&HashOn::SourceAddress).then(|| of_address(caller))
}

/// Where each hash leads.
pub(super) enum Places {
    /// Hashes of endpoints around a ring: one leads to the next at or after it.
    Ring(Box<[(u64, u32)]>),
    /// A table of places: a hash leads to its remainder.
    Table(Box<[u32]>),
}

impl Places {
    /// A ring for endpoints with these weights, on which the lightest has `size` places and the others as many more as they
    /// weigh more. How many it has does not depend on who else is there, so that nobody's places move when another comes
    /// or goes; fewer only where the ring would be too large.
    pub(super) fn ring(endpoints: &[(SocketAddr, u32)], size: u32) -> Self {
        let weights = || endpoints.iter().map(|(_, weight)| u64::from((*weight).max(1)));
        let unit = weights().fold(0, gcd).max(1);
        let total = weights().sum::<u64>() / unit;
        let size = u64::from(size).min(LARGEST_RING / total.max(1)).max(1);
        let mut ring = Vec::with_capacity((size * total) as usize);
        for (place, (address, weight)) in endpoints.iter().enumerate() {
            let seed = of_endpoint(*address);
            let share = u64::from((*weight).max(1)) / unit * size;
            ring.extend((0..share).map(|number| (mix(seed ^ mix(number)), place as u32)));
        }
        ring.sort_unstable();
        Places::Ring(ring.into())
    }

    /// A table of `size` places, which is a prime, after Eisenbud et al., "Maglev", 2016, §3.4: the endpoints take turns,
    /// and each takes the place that it likes best of those that are left. An endpoint of a smaller weight sits out turns.
    pub(super) fn table(endpoints: &[(SocketAddr, u32)], size: u32) -> Self {
        const NOBODY: u32 = u32::MAX;
        if endpoints.is_empty() {
            return Places::Table(Box::default());
        }
        let mut table = vec![NOBODY; size as usize];
        let size = u64::from(size);
        let heaviest = endpoints.iter().map(|(_, weight)| u64::from(*weight)).max().unwrap_or(1);
        struct Turn {
            next: u64,
            step: u64,
            weight: u64,
            due: u64,
        }
        let turn = |(address, weight): &(SocketAddr, u32)| {
            let seed = of_endpoint(*address);
            Turn { next: seed % size, step: mix(seed) % (size - 1) + 1, weight: u64::from(*weight), due: 0 }
        };
        let mut turns: Vec<Turn> = endpoints.iter().map(turn).collect();
        let mut left = size;
        while left > 0 {
            for (place, turn) in turns.iter_mut().enumerate() {
                turn.due += turn.weight;
                if turn.due < heaviest || left == 0 {
                    continue;
                }
                turn.due -= heaviest;
                while table[turn.next as usize] != NOBODY {
                    turn.next = (turn.next + turn.step) % size;
                }
                table[turn.next as usize] = place as u32;
                left -= 1;
            }
        }
        Places::Table(table.into())
    }

    /// The place among the endpoints to which `hash` leads, of those that are `available`.
    pub(super) fn find(&self, hash: u64, available: impl Fn(usize) -> bool) -> Option<usize> {
        let (length, start) = match self {
            Places::Ring(ring) => (ring.len(), ring.partition_point(|(at, _)| *at < hash)),
            Places::Table(table) => (table.len(), (hash % table.len().max(1) as u64) as usize),
        };
        let at = |index: usize| match self {
            Places::Ring(ring) => ring[index].1 as usize,
            Places::Table(table) => table[index] as usize,
        };
        let mut asked = None;
        (0..length).map(|step| at((start + step) % length)).find(|place| {
            // Neighbours are often the same.
            asked.replace(*place) != Some(*place) && available(*place)
        })
    }
}

fn of_address(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => of(&v4.octets()),
        IpAddr::V6(v6) => of(&v6.octets()),
    }
}

fn of_endpoint(address: SocketAddr) -> u64 {
    mix(of_address(address.ip()) ^ u64::from(address.port()))
}

/// FNV-1a, whose bits are not spread well enough by itself.
fn of(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

/// Spreads every bit over all (the finalizer of SplitMix64).
fn mix(bits: u64) -> u64 {
    let bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn gcd(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { gcd(other, one % other) }
}

/// Most places on a ring, unless endpoints weigh more together.
const LARGEST_RING: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::h2::fields::RequestHead;

    fn endpoints(weights: &[u32]) -> Vec<(SocketAddr, u32)> {
        let address = |index: usize| SocketAddr::from(([192, 0, 2, index as u8], 80));
        weights.iter().enumerate().map(|(index, weight)| (address(index), *weight)).collect()
    }

    fn both(endpoints: &[(SocketAddr, u32)]) -> [Places; 2] {
        [Places::ring(endpoints, 1024), Places::table(endpoints, 65_537)]
    }

    /// Shares of many hashes.
    fn shares(places: &Places, count: usize) -> Vec<f64> {
        let mut counts = vec![0u32; count];
        for number in 0..50_000u64 {
            counts[places.find(mix(number), |_| true).unwrap()] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / 50_000.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn who_leaves_takes_nobody_elses_requests_along(count in 2usize..20, gone: prop::sample::Index) {
            let all = endpoints(&vec![1; count]);
            let gone = gone.index(count);
            let mut rest = all.clone();
            rest.remove(gone);
            for (which, (before, after)) in both(&all).iter().zip(&both(&rest)).enumerate() {
                let (mut moved, mut total) = (0u32, 0u32);
                for number in 0..5_000u64 {
                    let hash = mix(number);
                    let old = before.find(hash, |_| true).unwrap();
                    let new = all.iter().position(|known| *known == rest[after.find(hash, |_| true).unwrap()]);
                    if old != gone {
                        total += 1;
                        moved += u32::from(new != Some(old));
                    }
                    // While it is only not available, nobody else's move at all.
                    let meanwhile = before.find(hash, |place| place != gone).unwrap();
                    prop_assert_ne!(meanwhile, gone);
                    prop_assert!(old == gone || meanwhile == old);
                }
                // A ring moves nobody else's, the table a few.
                let most = if which == 0 { 0 } else { total / 50 };
                prop_assert!(moved <= most, "{} of {} moved", moved, total);
            }
        }

        #[test]
        fn a_table_is_even(weights in prop::collection::vec(1u32..10, 1..20)) {
            let Places::Table(table) = Places::table(&endpoints(&weights), 65_537) else { unreachable!() };
            let total: u32 = weights.iter().sum();
            for (place, weight) in weights.iter().enumerate() {
                let count = table.iter().filter(|at| **at as usize == place).count() as f64;
                let fair = 65_537.0 * f64::from(*weight) / f64::from(total);
                // Turns are taken whole, so nobody is more than a few places off.
                prop_assert!((count - fair).abs() <= 2.0 + fair * 0.001, "{} for {}", count, fair);
            }
        }
    }

    #[test]
    fn weights_are_shares() {
        for places in both(&endpoints(&[1, 2, 5])) {
            for (share, fair) in shares(&places, 3).iter().zip([0.125, 0.25, 0.625]) {
                assert!((share - fair).abs() < 0.06, "{share} for {fair}");
            }
        }
    }

    #[test]
    fn nobody_is_found_where_nobody_is() {
        for places in both(&[]) {
            assert_eq!(places.find(7, |_| true), None);
        }
        for places in both(&endpoints(&[1, 1])) {
            assert_eq!(places.find(7, |_| false), None);
        }
    }

    #[test]
    fn an_endpoint_that_weighs_little_has_a_place() {
        let Places::Ring(ring) = Places::ring(&endpoints(&[1, 100_000]), 16) else { unreachable!() };
        assert!(ring.iter().any(|(_, place)| *place == 0));
        let Places::Table(table) = Places::table(&endpoints(&[1, 100]), 1009) else { unreachable!() };
        assert!((9..=10).contains(&table.iter().filter(|place| **place == 0).count()));
    }

    #[test]
    fn the_first_thing_that_a_request_has_tells_it_apart() {
        let caller = IpAddr::from([192, 0, 2, 1]);
        let on = [HashOn::Header("x-user".into()), HashOn::Cookie("session".into()), HashOn::SourceAddress];
        let hash = |fields: &[(&str, &str)]| of_request(&on, &RequestHead::with(fields), caller);
        assert_eq!(hash(&[("x-user", "a"), ("cookie", "session=b")]), hash(&[("x-user", "a")]));
        assert_ne!(hash(&[("x-user", "a")]), hash(&[("x-user", "b")]));
        assert_eq!(hash(&[("cookie", "x=1; session=b; y=2")]), hash(&[("cookie", "session=b")]));
        assert_eq!(hash(&[("cookie", "sessions=b")]), hash(&[]));
        assert_eq!(hash(&[]), of_connection(&on, caller));
        assert_eq!(of_request(&on[..2], &RequestHead::with(&[]), caller), None);
        assert_eq!(of_connection(&[HashOn::Path], caller), None);
        // An IPv4 caller is the same on a socket of either kind.
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(of_connection(&on, mapped), of_connection(&on, caller));
    }
}
