//! Sees to it that links to a sidecar go over QUIC when they are to, and over TCP otherwise.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use lighter_config::identity::Spiffe;
use lighter_config::snapshot::{LinkPolicy, Secure, WireUse, Wires};
use tokio::sync::oneshot;

use super::choice::{LOOK, Quic, Seen, Sent, Step};
use super::{CONNECT, dial, drive};
use crate::link::connection::{Link, Nothing};
use crate::link::life::Life;
use crate::link::pool::{Place, REST};
use crate::link::session::{Leave, Side};
use crate::link::upgrade::{Far, said_of};
use crate::telemetry::{self, QuicHandshake, QuicSwitch};
use crate::worker::Worker;

/// Looks after the links at `place`, which lead to the sidecar at `address`, for as long as there are any.
pub(crate) async fn watch(worker: Weak<Worker>, place: Weak<Place>, address: SocketAddr, secure: Secure) {
    let (mut current, mut known) = (Current::default(), None);
    let (mut sent, mut pause) = (Sent::default(), LOOK);
    loop {
        let (Some(worker), Some(place)) = (worker.upgrade(), place.upgrade()) else { return };
        if place.links().is_empty() {
            place.choice.borrow_mut().alone();
            return place.unwatched();
        }
        // First the generation: what is read behind it is of that mesh or a later one.
        let generation = worker.shared.mesh.generation();
        let (policy, theirs) = match known.take() {
            Some((of, said)) if of == generation => said,
            _ => said(&worker, address, &secure),
        };
        let (links, quic) = (place.links(), current.standing());
        let seen = Seen {
            may: if theirs.quic { policy.quic } else { WireUse::MustNot },
            is_forbidden: policy.quic == WireUse::MustNot,
            back_off: policy.back_off,
            calm: policy.quic_calm,
            tcp: links.iter().filter_map(|link| link.sent_over_tcp()).fold(Sent::default(), Sent::and),
            quic: quic.as_ref().map(|link| {
                let (sent, stalled) = link.over_quic_is();
                Quic { sent, stalled }
            }),
            ended_well: current.ended_well(),
        };
        drop(links);
        let step = place.choice.borrow_mut().look(Instant::now(), &seen);
        match step {
            Step::Stay => {}
            Step::Fell(why) => telemetry::quic().switched(why),
            Step::Leave(why) => {
                if let Some(link) = &quic {
                    link.leave(Leave::Soon, if why == QuicSwitch::Calm { "calm" } else { "policy" });
                }
                telemetry::quic().switched(why);
            }
            Step::Dial(why) => {
                let opened = open(&worker, &place, &secure, address, &policy).await;
                let stands = opened.is_some();
                place.choice.borrow_mut().dialled(Instant::now(), why, stands, policy.back_off);
                if let Some((link, ended_well)) = opened {
                    current = Current { link: Rc::downgrade(&link), ended_well };
                    place.prefer(link);
                    telemetry::quic().switched(why);
                }
            }
        }
        // Where nothing can come of it, or nothing was sent, nothing has changed that would be urgent.
        let rests = seen.quic.is_none() && (seen.may == WireUse::MustNot || seen.tcp == sent);
        pause = if rests { (2 * pause).min(RESTED) } else { LOOK };
        (sent, known) = (seen.tcp, Some((generation, (policy, theirs))));
        drop((worker, place, quic));
        tokio::time::sleep(pause).await;
    }
}

/// How often it is looked at most seldom.
const RESTED: Duration = Duration::from_secs(4);

/// The link over QUIC that was opened last. Not held: it counts as open for as long as it is.
#[derive(Default)]
struct Current {
    link: Weak<Link>,
    /// Once it is gone: whether it ended as links end.
    ended_well: Rc<Cell<bool>>,
}

impl Current {
    fn standing(&self) -> Option<Rc<Link>> {
        self.link.upgrade().filter(|link| !link.is_over())
    }

    fn ended_well(&self) -> bool {
        self.link.upgrade().map_or(self.ended_well.get(), |link| link.ended_well())
    }
}

/// What is said of links to the sidecar at `address` now.
fn said(worker: &Worker, address: SocketAddr, secure: &Secure) -> (LinkPolicy, Wires) {
    let service = Spiffe::parse(&secure.identity).ok().and_then(|id| id.service_name());
    said_of(&worker.shared, service.as_ref(), address, &secure.identity)
}

/// A link over QUIC to the sidecar at `address`, once that has answered on it.
async fn open(
    worker: &Rc<Worker>,
    place: &Rc<Place>,
    secure: &Secure,
    address: SocketAddr,
    policy: &LinkPolicy,
) -> Option<(Rc<Link>, Rc<Cell<bool>>)> {
    let (connection, peer) = dial(worker, secure, address, policy.congestion).await.ok()?;
    let life = Life::of_peer(peer, worker.shared.identity.get()?);
    let far = Far {
        address,
        identity: secure.identity.clone(),
        service: Spiffe::parse(&secure.identity).ok().and_then(|id| id.service_name()),
    };
    let link = Link::over_quic(Side::Opener, life.aging_as_all(), &worker.shared, far);
    let (stands, stood) = oneshot::channel();
    if let Some(quic) = &link.quic {
        quic.stands.set(Some(stands));
    }
    place.opened(worker, &link, address, secure);
    let (driven, place, ended_well) = (link.clone(), place.clone(), Rc::new(Cell::new(false)));
    let ended = ended_well.clone();
    tokio::task::spawn_local(async move {
        drive(driven.clone(), connection, None, Some(REST), Nothing).await;
        ended.set(driven.ended_well());
        place.gone(&driven);
    });
    // The handshake says that the other side is who it is to be; only its answer says that it takes this side for that.
    let how = match tokio::time::timeout(CONNECT, stood).await {
        Ok(Ok(())) => QuicHandshake::Done,
        Ok(Err(_ended)) => QuicHandshake::Failed,
        Err(_elapsed) => QuicHandshake::Late,
    };
    telemetry::quic().handshake(Side::Opener, how);
    if how != QuicHandshake::Done {
        link.leave(Leave::Now, "unanswered");
        return None;
    }
    Some((link, ended_well))
}
