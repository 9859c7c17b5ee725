//! Virtual addresses: the same for a name everywhere and always, without a registry.
//!
//! An address is a hash of the Service's name. Where two names have one hash, the name that is first in the alphabet
//! has it, and the other takes the next free address; so the outcome depends on the set of names, not on their order.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use crate::name::ServiceName;
use crate::snapshot::{VIRTUAL_V4, VIRTUAL_V6, VirtualIps};

/// How many Services can have addresses: every host of the IPv4 range but the first and the last, which some software
/// takes for network and broadcast.
pub(super) const MOST: usize = (1 << (32 - VIRTUAL_V4.1)) - 2;

/// The addresses of `names`, which are sorted, in the same order. None: there are more than [`MOST`].
pub(crate) fn assign(names: &[&ServiceName]) -> Option<Vec<VirtualIps>> {
    if names.len() > MOST {
        return None;
    }
    let (mut taken_v4, mut taken_v6) = (HashSet::new(), HashSet::new());
    let ips = names.iter().map(|name| {
        let (low, high) = hash(name);
        let v4 = free(&mut taken_v4, (low % MOST as u64) as u32, |host| (host + 1) % MOST as u32);
        let v6 = free(&mut taken_v6, high % V6_HOSTS, |host| (host + 1) % V6_HOSTS);
        VirtualIps {
            // Host numbers from 1, so that none is the network's.
            v4: Ipv4Addr::from(u32::from(VIRTUAL_V4.0) + 1 + v4),
            v6: Ipv6Addr::from(u128::from(VIRTUAL_V6.0) + 1 + u128::from(v6)),
        }
    });
    Some(ips.collect())
}

const V6_HOSTS: u64 = (1 << (128 - VIRTUAL_V6.1)) - 2;

fn hash(name: &ServiceName) -> (u64, u64) {
    let digest = Sha256::digest(name.to_string());
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    (word(&digest[..8]), word(&digest[8..16]))
}

/// The first host from `wish` on that nobody has.
fn free<H: Copy + Eq + Hash>(taken: &mut HashSet<H>, wish: H, next: impl Fn(H) -> H) -> H {
    let mut host = wish;
    while !taken.insert(host) {
        host = next(host);
    }
    host
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::snapshot::is_virtual;

    fn names(count: usize) -> Vec<ServiceName> {
        let mut names: Vec<_> =
            (0..count).map(|n| ServiceName::new("default", &format!("service-{n}"))).collect();
        names.sort();
        names
    }

    #[test]
    fn every_service_has_addresses_of_its_own_within_the_ranges() {
        let names = names(20_000);
        let all = assign(&names.iter().collect::<Vec<_>>()).unwrap();
        let v4: HashSet<_> = all.iter().map(|ips| ips.v4).collect();
        let v6: HashSet<_> = all.iter().map(|ips| ips.v6).collect();
        assert_eq!((v4.len(), v6.len()), (20_000, 20_000));
        for ips in all {
            assert!(is_virtual(IpAddr::V4(ips.v4)) && is_virtual(IpAddr::V6(ips.v6)));
            assert!(![Ipv4Addr::new(198, 19, 0, 0), Ipv4Addr::new(198, 19, 255, 255)].contains(&ips.v4));
        }
    }

    #[test]
    fn most_addresses_stay_when_services_come_and_go() {
        let names = names(2_000);
        let all = assign(&names.iter().collect::<Vec<_>>()).unwrap();
        let half: Vec<_> = names.iter().step_by(2).collect();
        let alone = assign(&half).unwrap();
        let moved = alone.iter().zip(all.iter().step_by(2)).filter(|(a, b)| a.v4 != b.v4).count();
        assert!(moved < 60, "{moved} of 1000 moved");
    }

    #[test]
    fn an_address_is_the_same_in_every_release() {
        let name = ServiceName::new("default", "reviews");
        let expected = VirtualIps {
            v4: "198.19.204.80".parse().unwrap(),
            v6: "fd00:11:6874:e5:2714:ab81:5d55:3af0".parse().unwrap(),
        };
        assert_eq!(assign(&[&name]), Some(vec![expected]));
    }

    #[test]
    fn the_range_can_be_filled_and_not_more() {
        let names = names(MOST + 1);
        assert!(assign(&names.iter().collect::<Vec<_>>()).is_none());
        assert_eq!(assign(&names[..MOST].iter().collect::<Vec<_>>()).unwrap().len(), MOST);
    }
}
