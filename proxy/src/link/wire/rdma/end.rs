//! One end of a wire before there is one: made, shown to the peer, connected, and proved.

use std::fmt;
use std::io;
use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use lighter_verbs::{
    Access, Completion, CompletionQueue, Domain, Endpoint, Gid, Path, QueuePair, Region, Remote, Requests,
    Status, Write,
};
use tokio::time::timeout;

use super::core::{Core, QUEUE, SENDS};
use super::devices::Device;
use super::verbs::{PROBE, RECEIVE, Verbs};
use crate::link::wire::shm::{ATTACH_LIMIT, AttachFault, Tokens, same};
use crate::telemetry::{self, Registered};

/// A wire that was proved to work.
pub(crate) type RdmaWire = Core<Verbs>;

/// An end that waits for the other one.
pub(crate) struct End {
    pair: QueuePair,
    completions: CompletionQueue,
    out: Region,
    inward: Region,
    from: Gid,
    card: Card,
    ring_bytes: usize,
    registered: Registered,
}

/// What the other side must know of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Card {
    /// The device's address.
    pub(crate) gid: Ipv6Addr,
    /// The queue pair's number, 24 bits.
    pub(crate) pair: u32,
    /// The number of its first packet, 24 bits.
    pub(crate) first_packet: u32,
    /// The way in: where it lies,
    pub(crate) address: u64,
    /// and its key.
    pub(crate) key: u32,
    /// Most bytes of a packet, as `verbs.h` writes it.
    pub(crate) mtu: u32,
}

impl Card {
    /// Whether there can be an end like this.
    pub(crate) fn can_be(&self) -> bool {
        let is_short = |number: u32| number < 1 << 24;
        is_short(self.pair) && is_short(self.first_packet) && (1..=5).contains(&self.mtu)
    }
}

impl End {
    /// Makes an end of `device` at its address `from`. `first_packet` is not to be guessed. In a pool of threads that may
    /// wait, as the kernel pins memory.
    pub(crate) async fn make(
        device: Arc<Device>,
        from: Gid,
        ring_bytes: u32,
        first_packet: u32,
    ) -> Result<Self, AttachFault> {
        waits(move || {
            let ring_bytes = ring_bytes as usize;
            let domain = Domain::new(device.context())?;
            let completions = CompletionQueue::new(device.context(), (REQUESTS.send + REQUESTS.receive) * 2)?;
            let out = Region::new(&domain, ring_bytes + SLOT_BYTES, Access::Local)?;
            let inward = Region::new(&domain, ring_bytes + SLOT_BYTES, Access::RemoteWrite)?;
            let pair = QueuePair::new(&domain, &completions, REQUESTS)?;
            let card = Card {
                gid: from.address,
                pair: pair.number(),
                first_packet: first_packet & 0xFF_FFFF,
                address: inward.address(),
                key: inward.remote_key(),
                mtu: device.mtu(),
            };
            let registered = telemetry::rdma().registered(2 * (ring_bytes + SLOT_BYTES) as u64);
            Ok(End { pair, completions, out, inward, from, card, ring_bytes, registered })
        })
        .await
    }

    /// What the other side must know.
    pub(crate) fn card(&self) -> Card {
        self.card
    }

    /// Connects it to the other end. The kernel may have to ask for the way there.
    pub(crate) async fn connect(mut self, peer: Card) -> Result<Connected, AttachFault> {
        waits(move || {
            let to = Endpoint { pair: peer.pair, first_packet: peer.first_packet, address: peer.gid };
            let Card { first_packet, mtu, .. } = self.card;
            self.pair.connect(&Path { from: self.from, first_packet, to, mtu: mtu.min(peer.mtu) })?;
            // Those of the proof go before.
            self.pair.receive(RECEIVE, QUEUE + PROOFS)?;
            let to = Remote { address: peer.address, key: peer.key };
            Ok(Connected { end: self, to })
        })
        .await
    }
}

/// An end that is connected.
pub(crate) struct Connected {
    end: End,
    to: Remote,
}

impl Connected {
    /// What the other side must know.
    pub(crate) fn card(&self) -> Card {
        self.end.card
    }

    /// Ends once this side's probe came back with the token of the right peer, and the peer's was echoed. `first`: the peer
    /// is connected by now, and hears. The other side waits for it, so that nothing has to be sent twice.
    pub(crate) async fn prove(self, tokens: Tokens, first: bool) -> Result<RdmaWire, AttachFault> {
        timeout(ATTACH_LIMIT, self.prove_at_leisure(tokens, first))
            .await
            .unwrap_or(Err(AttachFault::TimedOut))
    }

    async fn prove_at_leisure(self, tokens: Tokens, first: bool) -> Result<RdmaWire, AttachFault> {
        let probe: [u8; 16] = std::array::from_fn(|_| fastrand::u8(..));
        let shown = [&tokens.ours[..], &probe].concat();
        if first {
            self.show(SHOWN, &shown)?;
        }
        let mut ended = Vec::new();
        let (mut at, mut heard) = (0, 0);
        while heard < PROOFS {
            if at == ended.len() {
                self.end.completions.completed(&mut ended).await.map_err(failed)?;
                continue;
            }
            let completion: Completion = ended[at];
            at += 1;
            if completion.status != Status::Success {
                telemetry::rdma().ended(completion.status);
                return Err(io::Error::other(format!("{:?}", completion.status)).into());
            }
            if !completion.received {
                continue;
            }
            heard += 1;
            let (kind, len) = (completion.immediate, completion.len as usize);
            match heard {
                1 if kind == Some(SHOWN) && len == shown.len() => {
                    let (mut token, mut theirs) = ([0; 32], [0; 16]);
                    self.end.inward.read(self.end.ring_bytes, &mut token);
                    self.end.inward.read(self.end.ring_bytes + token.len(), &mut theirs);
                    if !same(&token, &tokens.theirs) {
                        return Err(AttachFault::Token);
                    }
                    if !first {
                        self.show(SHOWN, &shown)?;
                    }
                    self.show(ECHO, &theirs)?;
                }
                2 if kind == Some(ECHO) && len == probe.len() => {
                    let mut back = [0; 16];
                    self.end.inward.read(self.end.ring_bytes + ECHO_AT, &mut back);
                    if back != probe {
                        return Err(AttachFault::Probe);
                    }
                }
                _ => return Err(AttachFault::Probe),
            }
        }
        // The peer may have gone over already.
        ended.drain(..at);
        let End { pair, completions, out, inward, ring_bytes, registered, .. } = self.end;
        Ok(Core::new(Verbs {
            pair,
            completions,
            out,
            inward,
            to: self.to,
            size: ring_bytes,
            ended,
            _registered: registered,
        }))
    }

    /// Writes into the peer's slot.
    fn show(&self, kind: u32, bytes: &[u8]) -> Result<(), AttachFault> {
        let at = self.end.ring_bytes + if kind == ECHO { ECHO_AT } else { 0 };
        self.end.out.write(at, bytes);
        let write = Write {
            id: PROBE,
            part: at..at + bytes.len(),
            region: &self.end.out,
            to: self.to.at(at),
            immediate: kind,
            signalled: true,
        };
        self.end.pair.write(&[write]).map_err(failed)
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End").field("card", &self.card).finish_non_exhaustive()
    }
}

/// Does what the kernel may take its time for where nothing else waits.
async fn waits<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, lighter_verbs::Error> + Send + 'static,
) -> Result<T, AttachFault> {
    let done = timeout(KERNEL_LIMIT, tokio::task::spawn_blocking(work)).await;
    match done {
        Ok(Ok(done)) => done.map_err(failed),
        Ok(Err(lost)) => Err(io::Error::other(lost).into()),
        Err(_) => Err(AttachFault::TimedOut),
    }
}

fn failed(error: lighter_verbs::Error) -> AttachFault {
    io::Error::other(error).into()
}

/// Bytes behind each ring: token 32, probe 16, echo 16.
pub(super) const SLOT_BYTES: usize = 64;

/// Where in the slot the echo lies.
const ECHO_AT: usize = 48;

/// Messages of the proof from each side.
const PROOFS: usize = 2;

/// What the numbers of these say: a token and a probe,
const SHOWN: u32 = 1;

/// and an echo.
const ECHO: u32 = 2;

/// Requests of one queue pair, those of the proof among them.
const REQUESTS: Requests = Requests { send: (SENDS + PROOFS) as u32, receive: (QUEUE + PROOFS) as u32 };

/// How long the kernel may take.
const KERNEL_LIMIT: Duration = Duration::from_secs(2);
