//! The RDMA devices of this machine that links can use: found at the beginning and looked for again, since they come and go.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use lighter_verbs::{Context, Error, Event, Gid, devices};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::timeout;

use crate::telemetry;

/// All that can be used now.
#[derive(Default)]
pub(crate) struct Devices(ArcSwap<Vec<Arc<Device>>>);

/// A device that was tried and works. It is open until the last that uses it lets go.
pub(crate) struct Device {
    context: Context,
    gids: Vec<Gid>,
    mtu: u32,
}

/// A way to a peer, as far as it is this side's.
pub(crate) struct Way {
    pub(crate) device: Arc<Device>,
    /// One of its addresses.
    pub(crate) from: Gid,
    /// How often all others failed, and this one.
    pub(crate) round: u32,
}

impl Device {
    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.context.device()
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Most bytes of a packet, as `verbs.h` writes it.
    pub(crate) fn mtu(&self) -> u32 {
        self.mtu
    }

    fn try_out(name: &str) -> Result<Self, Error> {
        let context = Context::open(name)?;
        Ok(Device { gids: context.try_out()?, mtu: context.mtu()?, context })
    }
}

impl Devices {
    /// Whether there is one, of those that are named; none named: of all.
    pub(crate) fn has(&self, named: &[Arc<str>]) -> bool {
        self.0.load().iter().any(|device| is_named(device, named))
    }

    /// A device and an address of it to reach `peer` with: the nearest, and behind it the others, of which `times` are
    /// passed over, as they failed.
    pub(crate) fn choose(&self, named: &[Arc<str>], peer: IpAddr, times: u32) -> Option<Way> {
        let peer = mapped(peer);
        let all = self.0.load();
        let named = all.iter().filter(|device| is_named(device, named));
        let mut ways: Vec<_> = named
            .flat_map(|device| device.gids.iter().map(move |gid| (device, *gid)))
            .filter_map(|(device, gid)| Some((nearness(gid.address, peer)?, device, gid)))
            .collect();
        ways.sort_by_key(|(near, _, _)| Reverse(*near));
        let (turn, round) = turn(times, ways.len())?;
        let (_, device, from) = ways[turn];
        Some(Way { device: device.clone(), from, round })
    }

    /// Keeps up with what there is, for ever; for a library that is missing nobody looks twice. `lost` is told the name of
    /// each device that is gone, or lost its port. Within a set of local tasks.
    pub(crate) async fn watch(&self, lost: impl Fn(&str)) {
        let mut known: HashMap<String, Known> = HashMap::new();
        let (tell, mut told) = mpsc::unbounded_channel();
        let mut said = String::new();
        for turn in 0u64.. {
            let names = match devices() {
                Ok(names) => names,
                Err(error) => {
                    say(&mut said, &[], &[&error]);
                    return;
                }
            };
            known.retain(|name, known| {
                let stays = names.contains(name);
                if !stays && known.device.is_ok() {
                    lost(name);
                }
                stays
            });
            for name in names {
                let is_due = known.get(&name).is_none_or(|known| known.device.is_err() && turn % LATER == 0);
                if is_due {
                    known.insert(name.clone(), Known::find(name, &tell));
                }
            }
            let mut usable: Vec<_> =
                known.values().filter_map(|known| known.device.as_ref().ok().cloned()).collect();
            usable.sort_by(|one, other| one.name().cmp(other.name()));
            let mut failed: Vec<_> = known.values().filter_map(|known| known.device.as_ref().err()).collect();
            let none = Error::NoDevice;
            if known.is_empty() {
                failed.push(&none);
            }
            say(&mut said, &usable, &failed);
            let pause = if known.is_empty() { LOOK * LATER as u32 } else { LOOK };
            self.0.store(Arc::new(usable));
            // A device that is gone says nothing: it is looked for.
            if let Ok(Some((name, event))) = timeout(pause, told.recv()).await {
                tracing::debug!(device = name, ?event, "an RDMA device says something");
                if matches!(event, Some(Event::PortDown | Event::DeviceFatal) | None) {
                    lost(&name);
                }
                // It is tried anew: its addresses, or its port, may have changed.
                known.remove(&name);
            }
        }
    }
}

/// A device, and the task that listens to it.
struct Known {
    device: Result<Arc<Device>, Error>,
    listens: Option<JoinHandle<()>>,
}

impl Known {
    fn find(name: String, tell: &mpsc::UnboundedSender<(String, Option<Event>)>) -> Self {
        let device = Device::try_out(&name).map(Arc::new);
        let listens = device.as_ref().ok().map(|device| {
            let (context, tell) = (device.context.clone(), tell.clone());
            spawn_local(async move {
                loop {
                    let event = context.event().await.ok();
                    // What happens to a queue pair, its own completions say.
                    let is_of_pair = matches!(event, Some(Event::PairFailed(_) | Event::Drained(_)));
                    if !is_of_pair && (tell.send((name.clone(), event)).is_err() || event.is_none()) {
                        return;
                    }
                }
            })
        });
        Known { device, listens }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        // It keeps the device open.
        if let Some(listens) = &self.listens {
            listens.abort();
        }
    }
}

/// Says what can be used and what cannot, in a line whenever it changes, and in metrics.
fn say(said: &mut String, usable: &[Arc<Device>], failed: &[&Error]) {
    let names: Vec<_> = usable.iter().map(|device| device.name().to_owned()).collect();
    let errors: Vec<_> = failed.iter().map(ToString::to_string).collect();
    let news = format!("{names:?} {errors:?}");
    if *said != news {
        *said = news;
        telemetry::rdma().devices(names.clone(), failed.iter().copied());
        let (devices, missing) = (names.join(", "), errors.join("; "));
        match (usable.is_empty(), failed.is_empty()) {
            (true, _) => tracing::info!(missing, "links do without RDMA"),
            (false, true) => tracing::info!(devices, "links can use RDMA"),
            (false, false) => {
                tracing::info!(devices, missing, "links can use RDMA, but not all of its devices")
            }
        }
    }
}

/// Which of so many has its turn after so many failures, and how often all of them had theirs. The other side, which goes
/// on by one each time that all of this side failed, so meets each of them with each of its own.
fn turn(times: u32, of: usize) -> Option<(usize, u32)> {
    let times = times as usize;
    Some((times.checked_rem(of)?, (times / of) as u32))
}

fn is_named(device: &Device, named: &[Arc<str>]) -> bool {
    named.is_empty() || named.iter().any(|name| **name == *device.name())
}

/// How well an address of this host suits to reach one of the peer's. None: not at all.
fn nearness(own: Ipv6Addr, peer: Ipv6Addr) -> Option<(bool, bool, u32)> {
    if is_link_local(own) {
        // It means nothing on the other side of a router, and there is always another where IP is used.
        return None;
    }
    let is_loopback = |address: Ipv6Addr| address.to_canonical().is_loopback();
    let same_family = own.to_ipv4_mapped().is_some() == peer.to_ipv4_mapped().is_some();
    let common = (own.to_bits() ^ peer.to_bits()).leading_zeros();
    Some((is_loopback(own) == is_loopback(peer), same_family, common))
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xFFC0 == 0xFE80
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// How often the list of devices is read.
const LOOK: Duration = Duration::from_secs(1);

/// So much more seldom what does not work is tried again.
const LATER: u64 = 5;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_end_of_one_side_is_tried_with_each_of_the_other_the_nearest_of_each_first() {
        let tried = |own, others, times| {
            let (turn_here, round) = turn(times, own).unwrap();
            (turn_here, turn(round, others).unwrap().0)
        };
        for (own, others) in [(1, 1), (1, 3), (2, 2), (2, 1), (3, 2), (3, 3)] {
            let all: HashSet<_> = (0..(own * others) as u32).map(|times| tried(own, others, times)).collect();
            assert_eq!(all.len(), own * others, "{own} and {others}");
            assert!((0..own as u32).all(|times| tried(own, others, times) == (times as usize, 0)));
        }
        assert_eq!(turn(0, 0), None);
    }

    fn near(own: &str, peer: &str) -> Option<(bool, bool, u32)> {
        nearness(mapped(own.parse().unwrap()), mapped(peer.parse().unwrap()))
    }

    #[test]
    fn the_address_on_the_peers_network_is_nearest_and_the_loopback_is_for_the_loopback() {
        let peer = "198.18.4.2";
        let order = ["198.18.4.1", "198.18.9.1", "192.0.2.1", "2001:db8::1", "127.0.0.1"];
        let mut sorted = order;
        sorted.sort_by_key(|own| Reverse(near(own, peer)));
        assert_eq!(sorted, order);
        assert!(near("127.0.0.1", "127.0.0.1") > near("198.18.4.1", "127.0.0.1"));
        assert_eq!(near("fe80::1", "fe80::2"), None);
    }
}
