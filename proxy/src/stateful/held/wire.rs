//! What the control plane says to the sidecars of callers, as it is on the wire.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use lighter_config::name::ServiceName;
use lighter_config::xds::wire::lighter::registry::v1 as proto;
use lighter_config::xds::wire::lighter::registry::v1::hold::Order;
use lighter_migrate::{Bounds, Epoch, Stamp};

/// An order to the sidecar of callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Which Service moves.
    pub service: ServiceName,
    /// By which it is told from others.
    pub stamp: Stamp,
    /// What is to be done.
    pub what: What,
}

/// What the sidecar of callers is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Let new requests wait.
    Hold {
        /// For so long at most.
        longest: Duration,
        /// Those for this epoch.
        epoch: Epoch,
        /// Those that would go there.
        from: BTreeSet<SocketAddr>,
        /// As many as that.
        bounds: Bounds,
    },
    /// Let go what waits: the Service stays where it is.
    Release,
}

/// What came is no such order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is missing, or is not what it should be")]
pub struct Malformed(&'static str);

/// An order as it is sent.
pub fn encode(said: &Said) -> proto::Hold {
    let order = match &said.what {
        What::Hold { longest, epoch, from, bounds } => Order::Held(proto::Held {
            epoch: epoch.0,
            longest_ms: millis(*longest),
            from: from.iter().map(SocketAddr::to_string).collect(),
            room: Some(proto::Room {
                requests: u32::try_from(bounds.count).unwrap_or(u32::MAX),
                bytes: bounds.bytes as u64,
                wait_ms: millis(bounds.time),
            }),
        }),
        What::Release => Order::Release(proto::Nothing {}),
    };
    let stamp = Some(encode_stamp(said.stamp));
    proto::Hold { service: said.service.to_string(), stamp, order: Some(order) }
}

/// An order that came.
///
/// # Errors
///
/// Names what is missing, or is not what it should be.
pub fn decode(said: proto::Hold) -> Result<Said, Malformed> {
    let what = match said.order.ok_or(Malformed("hold.order"))? {
        Order::Held(held) => {
            let from = held.from.iter().map(|at| at.parse().map_err(|_| Malformed("held.from")));
            let room = held.room.ok_or(Malformed("held.room"))?;
            What::Hold {
                longest: Duration::from_millis(held.longest_ms),
                epoch: Epoch(held.epoch),
                from: from.collect::<Result<_, _>>()?,
                bounds: Bounds {
                    count: usize::try_from(room.requests).unwrap_or(usize::MAX),
                    bytes: usize::try_from(room.bytes).unwrap_or(usize::MAX),
                    time: Duration::from_millis(room.wait_ms),
                },
            }
        }
        Order::Release(_) => What::Release,
    };
    Ok(Said { service: service(&said.service)?, stamp: decode_stamp(said.stamp)?, what })
}

fn service(text: &str) -> Result<ServiceName, Malformed> {
    let (namespace, name) = text.split_once('/').ok_or(Malformed("service"))?;
    Ok(ServiceName::new(namespace, name))
}

fn encode_stamp(Stamp { migration, term, sequence }: Stamp) -> proto::Stamp {
    proto::Stamp { migration, term, sequence }
}

fn decode_stamp(said: Option<proto::Stamp>) -> Result<Stamp, Malformed> {
    let proto::Stamp { migration, term, sequence } = said.ok_or(Malformed("stamp"))?;
    Ok(Stamp { migration, term, sequence })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_what_is_heard() {
        let stamp = Stamp { migration: 3, term: 2, sequence: 9 };
        let bounds = Bounds { count: 7, bytes: 1 << 20, time: Duration::from_secs(15) };
        let from = ["198.18.0.1:80", "[fd00::1]:81"].map(|at| at.parse().unwrap()).into();
        let hold = What::Hold { longest: Duration::from_millis(2500), epoch: Epoch(4), from, bounds };
        let service = ServiceName::new("default", "shop");
        for what in [hold, What::Release] {
            let said = Said { service: service.clone(), stamp, what };
            assert_eq!(decode(encode(&said)), Ok(said));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        assert_eq!(decode(proto::Hold::default()), Err(Malformed("hold.order")));
        let held = |held| proto::Hold { order: Some(Order::Held(held)), ..proto::Hold::default() };
        assert_eq!(decode(held(proto::Held::default())), Err(Malformed("held.room")));
        let room = Some(proto::Room::default());
        assert_eq!(decode(held(proto::Held { room, ..Default::default() })), Err(Malformed("service")));
        let astray = proto::Held { room, from: vec!["nowhere".into()], ..Default::default() };
        assert_eq!(decode(held(astray)), Err(Malformed("held.from")));
    }
}
