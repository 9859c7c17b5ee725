//! Virtual addresses: the same for a name everywhere and always, without a registry.
//!
//! An address is a hash of the Service's name. Where two names have one hash, the name that is first in the alphabet
//! has it, and the other takes the next free address; so the outcome depends on the set of names, not on their order.
//!
//! That is what comes of it if each name in turn, by the alphabet, takes the first free address from its hash on. It is
//! also what comes of it if a name, whenever it comes, takes the first address from its hash on that is free or held by a
//! later name, and whoever loses an address goes on in the same way: no name then prefers an address that is held by a
//! later one, and there is one such outcome only. So a name that comes or goes moves none but those it meets.

use std::net::{Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use crate::name::ServiceName;
use crate::shared::SharedMap;
use crate::snapshot::{VIRTUAL_V4, VIRTUAL_V6, VirtualIps};

/// How many Services can have addresses: every host of the IPv4 range but the first and the last, which some software
/// takes for network and broadcast.
pub(super) const MOST: usize = (1 << (32 - VIRTUAL_V4.1)) - 2;

/// The addresses of a set of names. Copies share what is the same.
#[derive(Clone)]
pub(crate) struct Addresses {
    v4: Hosts,
    v6: Hosts,
}

impl Addresses {
    /// How many names have addresses.
    pub(crate) fn len(&self) -> usize {
        self.v4.taken.len()
    }

    /// Adds a name. Returns every name whose addresses are others now. None: there are [`MOST`] already.
    pub(crate) fn insert(&mut self, name: &ServiceName) -> Option<Vec<ServiceName>> {
        if self.len() == MOST && !self.contains(name) {
            return None;
        }
        let (v4, v6) = wishes(name);
        let mut moved = self.v4.insert(name.clone(), v4);
        moved.extend(self.v6.insert(name.clone(), v6));
        Some(moved)
    }

    /// Removes a name. Returns every other name whose addresses are others now.
    pub(crate) fn remove(&mut self, name: &ServiceName) -> Vec<ServiceName> {
        let (v4, v6) = wishes(name);
        let mut moved = self.v4.remove(name, v4);
        moved.extend(self.v6.remove(name, v6));
        moved
    }

    /// The addresses of a name. None: it is not among them.
    pub(crate) fn of(&self, name: &ServiceName) -> Option<VirtualIps> {
        let (v4, v6) = wishes(name);
        let (v4, v6) = (self.v4.of(name, v4)?, self.v6.of(name, v6)?);
        Some(VirtualIps {
            // Host numbers from 1, so that none is the network's.
            v4: Ipv4Addr::from(u32::from(VIRTUAL_V4.0) + 1 + v4 as u32),
            v6: Ipv6Addr::from(u128::from(VIRTUAL_V6.0) + 1 + u128::from(v6)),
        })
    }

    fn contains(&self, name: &ServiceName) -> bool {
        self.v4.of(name, wishes(name).0).is_some()
    }
}

impl Default for Addresses {
    fn default() -> Self {
        let hosts = |count| Hosts { taken: SharedMap::default(), count };
        Addresses { v4: hosts(MOST as u64), v6: hosts(V6_HOSTS) }
    }
}

/// The hosts of one range, from 0.
#[derive(Clone)]
struct Hosts {
    /// Who has a host, and which one it wished for.
    taken: SharedMap<u64, (ServiceName, u64)>,
    /// How many there are.
    count: u64,
}

impl Hosts {
    fn insert(&mut self, mut name: ServiceName, mut wish: u64) -> Vec<ServiceName> {
        let (mut host, mut moved) = (wish, Vec::new());
        loop {
            let holder = self.taken.get(&host);
            if holder.is_none_or(|(holder, _)| *holder >= name) {
                moved.push(name.clone());
                match self.taken.insert(host, (name.clone(), wish)) {
                    Some((later, its_wish)) if later != name => (name, wish) = (later, its_wish),
                    _ => return moved,
                }
            }
            host = self.after(host);
        }
    }

    fn remove(&mut self, name: &ServiceName, wish: u64) -> Vec<ServiceName> {
        let mut moved = Vec::new();
        let Some(mut free) = self.of(name, wish) else { return moved };
        self.taken.remove(&free);
        loop {
            // Of those that wished for this host, or for one before it, the first by name. Behind the next host that is
            // free there is none.
            let mut heir: Option<(u64, &ServiceName)> = None;
            let mut host = self.after(free);
            while let Some((holder, wish)) = self.taken.get(&host) {
                let has_passed = self.distance(*wish, host) >= self.distance(free, host);
                if has_passed && heir.is_none_or(|(_, first)| holder < first) {
                    heir = Some((host, holder));
                }
                host = self.after(host);
            }
            let Some((host, _)) = heir else { return moved };
            let Some(entry) = self.taken.remove(&host) else { return moved };
            moved.push(entry.0.clone());
            self.taken.insert(free, entry);
            free = host;
        }
    }

    fn of(&self, name: &ServiceName, wish: u64) -> Option<u64> {
        let mut host = wish;
        for _ in 0..=self.taken.len() {
            if self.taken.get(&host)?.0 == *name {
                return Some(host);
            }
            host = self.after(host);
        }
        None
    }

    fn after(&self, host: u64) -> u64 {
        (host + 1) % self.count
    }

    fn distance(&self, from: u64, to: u64) -> u64 {
        // Both are hosts of the range, which is less than half of all numbers.
        (to + self.count - from) % self.count
    }
}

const V6_HOSTS: u64 = (1 << (128 - VIRTUAL_V6.1)) - 2;

/// The hosts that a name wishes for, of IPv4 and of IPv6.
fn wishes(name: &ServiceName) -> (u64, u64) {
    let digest = Sha256::digest(name.to_string());
    let word = |bytes: &[u8]| bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    (word(&digest[..8]) % MOST as u64, word(&digest[8..16]) % V6_HOSTS)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::is_virtual;

    fn names(count: usize) -> Vec<ServiceName> {
        let mut names: Vec<_> =
            (0..count).map(|n| ServiceName::new("default", &format!("service-{n}"))).collect();
        names.sort();
        names
    }

    fn addresses<'n>(names: impl IntoIterator<Item = &'n ServiceName>) -> Addresses {
        let mut addresses = Addresses::default();
        for name in names {
            addresses.insert(name).unwrap();
        }
        addresses
    }

    #[test]
    fn every_service_has_addresses_of_its_own_within_the_ranges() {
        let names = names(20_000);
        let addresses = addresses(&names);
        let all: Vec<_> = names.iter().map(|name| addresses.of(name).unwrap()).collect();
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
        let all = addresses(&names);
        let half: Vec<_> = names.iter().step_by(2).collect();
        let alone = addresses(half.iter().copied());
        let moved = half.iter().filter(|name| alone.of(name) != all.of(name)).count();
        assert!(moved < 60, "{moved} of 1000 moved");
    }

    #[test]
    fn an_address_is_the_same_in_every_release() {
        let name = ServiceName::new("default", "reviews");
        let expected = VirtualIps {
            v4: "198.19.204.80".parse().unwrap(),
            v6: "fd00:11:6874:e5:2714:ab81:5d55:3af0".parse().unwrap(),
        };
        assert_eq!(addresses([&name]).of(&name), Some(expected));
    }

    #[test]
    fn the_range_can_be_filled_and_not_more() {
        let names = names(MOST + 1);
        let mut addresses = addresses(&names[..MOST]);
        assert!(addresses.insert(&names[MOST]).is_none());
        assert_eq!(addresses.len(), MOST);
        addresses.remove(&names[0]);
        assert!(addresses.insert(&names[MOST]).is_some());
        assert!(names[1..].iter().all(|name| addresses.of(name).is_some()));
    }

    /// By the definition: each in turn takes the first free host from its wish on.
    fn in_turn(wishes: &BTreeMap<ServiceName, u64>, count: u64) -> BTreeMap<u64, ServiceName> {
        let mut taken = BTreeMap::new();
        for (name, wish) in wishes {
            let hosts = (0..count).map(|step| (wish + step) % count);
            let free = hosts.into_iter().find(|host| !taken.contains_key(host)).unwrap();
            taken.insert(free, name.clone());
        }
        taken
    }

    proptest! {
        #[test]
        fn names_that_come_and_go_have_what_they_would_have_if_all_came_in_turn(
            // A small range, so that many meet, and it is full at times.
            changes in proptest::collection::vec((0usize..16, 0u64..12), 0..60),
        ) {
            let count = 12;
            let mut hosts = Hosts { taken: SharedMap::default(), count };
            let mut wishes = BTreeMap::new();
            for (name, wish) in changes {
                let name = ServiceName::new("default", &format!("s{name}"));
                let before = hosts.clone();
                let moved = match wishes.remove(&name) {
                    Some(wish) => hosts.remove(&name, wish),
                    None if wishes.len() as u64 == count => continue,
                    None => {
                        wishes.insert(name.clone(), wish);
                        hosts.insert(name.clone(), wish)
                    }
                };
                let expected = in_turn(&wishes, count);
                prop_assert!(hosts.taken.iter().map(|(host, (name, _))| (host, name)).eq(expected.iter()));
                let mut changed = BTreeSet::new();
                for (name, wish) in &wishes {
                    let host = hosts.of(name, *wish);
                    prop_assert!(host.is_some());
                    if host != before.of(name, *wish) {
                        changed.insert(name.clone());
                    }
                }
                prop_assert_eq!(moved.into_iter().collect::<BTreeSet<_>>(), changed);
            }
        }
    }
}
