//! What a session has at the gate of a place: for each batch of commands, and for as long as it stays where it is.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::balance::Endpoint;
use crate::error::Cause;
use crate::stateful::entry::Came;
use crate::stateful::gate::{self, Gate, LetIn};
use crate::worker::Shared;

/// What was let in of one session, until it is answered.
#[derive(Default)]
pub(super) struct Inside {
    /// For as long as it stays.
    stays: Option<Stays>,
    /// Batches, by the last command of each.
    batches: VecDeque<(u64, LetIn)>,
    /// More may come with the last of these.
    is_open: bool,
    asking: Option<Asking>,
    /// All commands up to this were answered.
    answered: u64,
}

struct Stays {
    _let_in: Rc<LetIn>,
    cut: Pin<Box<dyn Future<Output = ()>>>,
}

/// What waits to be let in, and whether it stays.
struct Asking {
    pins: bool,
    settled: Pin<Box<dyn Future<Output = Result<LetIn, Cause>>>>,
}

impl Inside {
    /// Whether what was let in holds for what comes next as well: something that has the session stay (`pins`), or something else.
    pub(super) fn covers(&self, pins: bool) -> bool {
        self.stays.is_some() || (self.is_open && !pins)
    }

    /// Lets in what comes from `peer`. Returns where it goes: to an endpoint, or (None) to the application here.
    pub(super) fn ask(
        &mut self,
        cx: &mut Context<'_>,
        gate: &Arc<Gate>,
        shared: &Arc<Shared>,
        peer: SocketAddr,
        pins: bool,
        bytes: usize,
    ) -> Poll<Result<Option<Arc<Endpoint>>, Cause>> {
        loop {
            let (let_in, is_pin) = match &mut self.asking {
                Some(asking) => {
                    let is_pin = asking.pins;
                    let settled = std::task::ready!(asking.settled.as_mut().poll(cx));
                    self.asking = None;
                    (settled?, is_pin)
                }
                None => {
                    let came = Came {
                        source: gate::source(peer),
                        bytes,
                        deadline: None,
                        is_stream: pins,
                        waits: true,
                        is_kept: false,
                        is_forwarded: false,
                    };
                    let mut let_in = gate.ask(shared, came, || Ok(None))?;
                    if let_in.waits() {
                        let settled = async move { let_in.settled().await.map(|_| let_in) };
                        self.asking = Some(Asking { pins, settled: Box::pin(settled) });
                        continue;
                    }
                    (let_in, pins)
                }
            };
            if is_pin != pins && pins {
                // What was asked for before was something else.
                continue;
            }
            let to = let_in.sent().map(|(endpoint, _)| endpoint.clone());
            if is_pin {
                let let_in = Rc::new(let_in);
                let its = let_in.clone();
                self.stays = Some(Stays { _let_in: let_in, cut: Box::pin(async move { its.cut().await }) });
            } else {
                self.batches.push_back((0, let_in));
                self.is_open = true;
            }
            return Poll::Ready(Ok(to));
        }
    }

    /// Whether something waits to be let in.
    pub(super) fn asks(&self) -> bool {
        self.asking.is_some()
    }

    /// A command of this number went to the server with what was let in last.
    pub(super) fn went(&mut self, number: u64) {
        if let Some((last, _)) = self.batches.back_mut().filter(|_| self.is_open) {
            *last = number;
        }
    }

    /// Nothing more comes with the last batch.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.release();
    }

    /// All commands up to this one were answered.
    pub(super) fn answered(&mut self, number: u64) {
        self.answered = number;
        self.release();
    }

    /// The session does not stay any more.
    pub(super) fn is_free(&mut self) {
        self.stays = None;
    }

    /// Whether it stays, and is not to.
    pub(super) fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.stays.as_mut().is_some_and(|stays| stays.cut.as_mut().poll(cx).is_ready())
    }

    fn release(&mut self) {
        while let Some((last, _)) = self.batches.front()
            && *last <= self.answered
            && !(self.is_open && self.batches.len() == 1)
        {
            self.batches.pop_front();
        }
    }
}
