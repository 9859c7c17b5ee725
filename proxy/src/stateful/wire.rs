//! What the control plane and a place say to each other, as it is on the wire.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lighter_config::xds::wire::lighter::registry::v1 as wire;
use lighter_config::xds::wire::lighter::registry::v1::place_command::Order as WireOrder;
use lighter_config::xds::wire::lighter::registry::v1::place_report::Stand as WireStand;
use lighter_config::xds::wire::lighter::registry::v1::serve::Source as WireSource;
use lighter_migrate::{
    Command, Copy, Declined, Digest, Epoch, Incarnation, Order, PlaceId, Report, Source, Stamp, Stand,
    Unfrozen, Why,
};

/// A command with what a place needs to follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What is to be done.
    pub command: Command,
    /// What whoever fetches a copy has to show. Empty: nobody may.
    pub token: Vec<u8>,
    /// Of [`Order::Restore`]: where the sidecar that has the copy accepts links. Of [`Order::Warm`] and
    /// [`Order::Quiesce`]: where that of the other place does, if it is known, for it to be connected to ahead.
    pub from: Option<SocketAddr>,
    /// Of [`Order::Move`] and [`Order::Drain`]: where the service is reached, by its ports.
    pub to: BTreeMap<u16, SocketAddr>,
}

/// What came is no command, or no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is missing, or is not what it should be")]
pub struct Malformed(&'static str);

/// A command as it is sent.
pub fn encode_command(told: &Told) -> wire::PlaceCommand {
    let Command { stamp, incarnation, order } = told.command;
    let moves = |to: PlaceId, epoch: Epoch| wire::Move {
        place: to.0,
        addresses: told.to.iter().map(|(port, at)| (u32::from(*port), at.to_string())).collect(),
        epoch: epoch.0,
    };
    let nothing = wire::Nothing {};
    let is_ahead = matches!(order, Order::Warm | Order::Quiesce { .. });
    let order = match order {
        Order::Ask => WireOrder::Ask(nothing),
        Order::Prepare { epoch } => WireOrder::Prepare(wire::PreparePlace { epoch: epoch.0 }),
        Order::Warm => WireOrder::Warm(nothing),
        Order::Snapshot { round } => WireOrder::Snapshot(wire::Snapshot { round }),
        Order::Restore(copy) => WireOrder::Restore(wire::Restore {
            copy: Some(encode_copy(copy)),
            from: told.from.map(|from| from.to_string()).unwrap_or_default(),
        }),
        Order::Quiesce { patience, cut_streams } => WireOrder::Quiesce(wire::Quiesce {
            patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
            cut_streams,
        }),
        Order::Serve { epoch, from } => {
            let source = match from {
                Source::Kept => WireSource::Kept(nothing),
                Source::Restored(digest) => WireSource::Restored(digest.0.to_vec()),
                Source::Journal => WireSource::Journal(nothing),
                Source::Nothing => WireSource::Afresh(nothing),
            };
            WireOrder::Serve(wire::Serve { epoch: epoch.0, source: Some(source) })
        }
        Order::Move { to, epoch } => WireOrder::Move(moves(to, epoch)),
        Order::Drain { to, epoch, force } => {
            WireOrder::Drain(wire::DrainPlace { to: Some(moves(to, epoch)), force })
        }
        Order::Discard => WireOrder::Discard(nothing),
    };
    wire::PlaceCommand {
        stamp: Some(encode_stamp(stamp)),
        incarnation: incarnation.map(|incarnation| incarnation.0),
        order: Some(order),
        token: told.token.clone(),
        from: told.from.filter(|_| is_ahead).map(|from| from.to_string()).unwrap_or_default(),
        journal: None,
    }
}

/// A command that came.
pub fn decode_command(said: wire::PlaceCommand) -> Result<Told, Malformed> {
    let stamp = decode_stamp(said.stamp)?;
    let (mut from, mut to) = (None, BTreeMap::new());
    let mut moves = |said: wire::Move| {
        to = addresses(said.addresses)?;
        Ok::<_, Malformed>((PlaceId(said.place), Epoch(said.epoch)))
    };
    let order = match said.order.ok_or(Malformed("order"))? {
        WireOrder::Ask(_) => Order::Ask,
        WireOrder::Prepare(said) => Order::Prepare { epoch: Epoch(said.epoch) },
        WireOrder::Warm(_) => {
            from = ahead(&said.from)?;
            Order::Warm
        }
        WireOrder::Snapshot(said) => Order::Snapshot { round: said.round },
        WireOrder::Restore(said) => {
            from = Some(said.from.parse().map_err(|_| Malformed("restore.from"))?);
            Order::Restore(decode_copy(said.copy.ok_or(Malformed("restore.copy"))?)?)
        }
        WireOrder::Quiesce(quiesce) => {
            from = ahead(&said.from)?;
            let patience = Duration::from_millis(quiesce.patience_ms);
            Order::Quiesce { patience, cut_streams: quiesce.cut_streams }
        }
        WireOrder::Serve(said) => {
            let from = match said.source.ok_or(Malformed("serve.source"))? {
                WireSource::Kept(_) => Source::Kept,
                WireSource::Restored(bytes) => Source::Restored(digest(bytes)?),
                WireSource::Journal(_) => Source::Journal,
                WireSource::Afresh(_) => Source::Nothing,
            };
            Order::Serve { epoch: Epoch(said.epoch), from }
        }
        WireOrder::Move(said) => {
            let (to, epoch) = moves(said)?;
            Order::Move { to, epoch }
        }
        WireOrder::Drain(said) => {
            let (to, epoch) = moves(said.to.ok_or(Malformed("drain.to"))?)?;
            Order::Drain { to, epoch, force: said.force }
        }
        WireOrder::Discard(_) => Order::Discard,
    };
    let command = Command { stamp, incarnation: said.incarnation.map(Incarnation), order };
    Ok(Told { command, token: said.token, from, to })
}

/// A report as it is sent. `parked`: how many requests wait.
pub fn encode_report(report: &Report, parked: u64) -> wire::PlaceReport {
    let nothing = wire::Nothing {};
    let stand = match report.stand {
        Stand::Empty => WireStand::Empty(nothing),
        Stand::Reserved => WireStand::Reserved(nothing),
        Stand::Warm => WireStand::Warm(nothing),
        Stand::Copied { round } => WireStand::Copied(round),
        Stand::Ready { digest } => WireStand::Ready(digest.0.to_vec()),
        Stand::Opening { epoch } => WireStand::Opening(epoch.0),
        Stand::Serving { epoch } => WireStand::Serving(epoch.0),
        Stand::Parking { epoch } => WireStand::Parking(epoch.0),
        Stand::Frozen { epoch } => WireStand::Frozen(epoch.0),
        Stand::Moved => WireStand::Moved(nothing),
        Stand::Drained { cut } => WireStand::Drained(cut),
        Stand::Void { why } => WireStand::Void(why_label(why).to_owned()),
    };
    wire::PlaceReport {
        incarnation: report.incarnation.0,
        revision: report.revision,
        heard: Some(encode_stamp(report.heard)),
        stand: Some(stand),
        copy: report.copy.map(encode_copy),
        declined: report.declined.map(|declined| declined.migration),
        withheld: report.declined.and_then(|declined| match declined.why {
            Unfrozen::Busy => Some(false),
            Unfrozen::Withheld => Some(true),
            Unfrozen::Unsaid => None,
        }),
        parked,
        journal: None,
    }
}

/// A report that came, and how many requests wait there.
pub fn decode_report(said: wire::PlaceReport) -> Result<(Report, u64), Malformed> {
    let stand = match said.stand.ok_or(Malformed("stand"))? {
        WireStand::Empty(_) => Stand::Empty,
        WireStand::Reserved(_) => Stand::Reserved,
        WireStand::Warm(_) => Stand::Warm,
        WireStand::Copied(round) => Stand::Copied { round },
        WireStand::Ready(bytes) => Stand::Ready { digest: digest(bytes)? },
        WireStand::Opening(epoch) => Stand::Opening { epoch: Epoch(epoch) },
        WireStand::Serving(epoch) => Stand::Serving { epoch: Epoch(epoch) },
        WireStand::Parking(epoch) => Stand::Parking { epoch: Epoch(epoch) },
        WireStand::Frozen(epoch) => Stand::Frozen { epoch: Epoch(epoch) },
        WireStand::Moved(_) => Stand::Moved,
        WireStand::Drained(cut) => Stand::Drained { cut },
        WireStand::Void(why) => {
            let why = WHYS.into_iter().find(|known| why_label(*known) == why);
            Stand::Void { why: why.ok_or(Malformed("void"))? }
        }
    };
    let report = Report {
        incarnation: Incarnation(said.incarnation),
        revision: said.revision,
        heard: decode_stamp(said.heard)?,
        stand,
        copy: said.copy.map(decode_copy).transpose()?,
        declined: said.declined.map(|migration| Declined {
            migration,
            why: match said.withheld {
                Some(false) => Unfrozen::Busy,
                Some(true) => Unfrozen::Withheld,
                None => Unfrozen::Unsaid,
            },
        }),
    };
    Ok((report, said.parked))
}

fn encode_stamp(stamp: Stamp) -> wire::Stamp {
    wire::Stamp { migration: stamp.migration, term: stamp.term, sequence: stamp.sequence }
}

fn decode_stamp(said: Option<wire::Stamp>) -> Result<Stamp, Malformed> {
    let wire::Stamp { migration, term, sequence } = said.ok_or(Malformed("stamp"))?;
    Ok(Stamp { migration, term, sequence })
}

fn encode_copy(copy: Copy) -> wire::StateCopy {
    let Copy { round, base, bytes, digest, last } = copy;
    wire::StateCopy { round, base, bytes, digest: digest.0.to_vec(), last }
}

fn decode_copy(said: wire::StateCopy) -> Result<Copy, Malformed> {
    let wire::StateCopy { round, base, bytes, digest: name, last } = said;
    Ok(Copy { round, base, bytes, digest: digest(name)?, last })
}

fn digest(bytes: Vec<u8>) -> Result<Digest, Malformed> {
    bytes.try_into().map(Digest).map_err(|_| Malformed("digest"))
}

/// Where another sidecar is connected to ahead, if that is said.
fn ahead(said: &str) -> Result<Option<SocketAddr>, Malformed> {
    let said = Some(said).filter(|said| !said.is_empty());
    said.map(str::parse).transpose().map_err(|_| Malformed("from"))
}

fn addresses(said: BTreeMap<u32, String>) -> Result<BTreeMap<u16, SocketAddr>, Malformed> {
    let entry = |(port, at): (u32, String)| {
        let port = u16::try_from(port).map_err(|_| Malformed("addresses"))?;
        Ok((port, at.parse().map_err(|_| Malformed("addresses"))?))
    };
    said.into_iter().map(entry).collect()
}

const WHYS: [Why; 4] = [Why::NoRoom, Why::Unhealthy, Why::Digest, Why::Activation];

const fn why_label(why: Why) -> &'static str {
    match why {
        Why::NoRoom => "no_room",
        Why::Unhealthy => "unhealthy",
        Why::Digest => "digest",
        Why::Activation => "activation",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { migration: 3, term: 2, sequence: 9 };
    const COPY: Copy = Copy { round: 1, base: 0, bytes: 77, digest: Digest([7; 32]), last: true };

    #[test]
    fn what_is_said_is_heard() {
        let (to, epoch) = (PlaceId(2), Epoch(5));
        let sources = [Source::Kept, Source::Restored(Digest([1; 32])), Source::Journal, Source::Nothing];
        let serves = sources.map(|from| Order::Serve { epoch, from });
        let orders = [
            Order::Ask,
            Order::Prepare { epoch },
            Order::Warm,
            Order::Snapshot { round: 4 },
            Order::Restore(COPY),
            Order::Quiesce { patience: Duration::from_millis(1500), cut_streams: true },
            Order::Move { to, epoch },
            Order::Drain { to, epoch, force: true },
            Order::Discard,
        ];
        for order in orders.into_iter().chain(serves) {
            let leads = matches!(order, Order::Move { .. } | Order::Drain { .. });
            let told = Told {
                command: Command { stamp: STAMP, incarnation: Some(Incarnation(8)), order },
                token: vec![9; 32],
                from: matches!(order, Order::Warm | Order::Restore(_))
                    .then(|| "198.18.0.1:7".parse().unwrap()),
                to: if leads { [(80, "[fd00::1]:8080".parse().unwrap())].into() } else { BTreeMap::new() },
            };
            assert_eq!(decode_command(encode_command(&told)), Ok(told));
        }
        let voids = WHYS.map(|why| Stand::Void { why });
        let stands = [
            Stand::Empty,
            Stand::Reserved,
            Stand::Warm,
            Stand::Copied { round: 3 },
            Stand::Ready { digest: Digest([2; 32]) },
            Stand::Opening { epoch },
            Stand::Serving { epoch },
            Stand::Parking { epoch },
            Stand::Frozen { epoch },
            Stand::Moved,
            Stand::Drained { cut: 6 },
        ];
        let whys = [Unfrozen::Busy, Unfrozen::Withheld, Unfrozen::Unsaid].into_iter().cycle();
        for (stand, why) in stands.into_iter().chain(voids).zip(whys) {
            let report = Report {
                incarnation: Incarnation(4),
                revision: 11,
                heard: STAMP,
                stand,
                copy: Some(COPY),
                declined: Some(Declined { migration: 3, why }),
            };
            assert_eq!(decode_report(encode_report(&report, 12)), Ok((report, 12)));
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        assert_eq!(decode_command(wire::PlaceCommand::default()), Err(Malformed("stamp")));
        let stamp = Some(encode_stamp(STAMP));
        let order = Some(WireOrder::Restore(wire::Restore::default()));
        let said = wire::PlaceCommand { stamp, order, ..wire::PlaceCommand::default() };
        assert_eq!(decode_command(said), Err(Malformed("restore.from")));
        let short = wire::PlaceReport { stand: Some(WireStand::Ready(vec![1])), ..Default::default() };
        assert_eq!(decode_report(short), Err(Malformed("digest")));
    }
}
