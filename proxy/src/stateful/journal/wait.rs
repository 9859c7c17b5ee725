//! An answer that waits for the journal.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, timeout};

use super::counts::{self, Answered};
use super::{Journal, Part};
use crate::error::Cause;

/// Holds an answer until what it acknowledges is journaled. It begins to wait when it is first polled.
pub(crate) struct Waits {
    journal: Arc<Journal>,
    waiting: RefCell<Waiting>,
}

enum Waiting {
    NotYet,
    For(Pin<Box<dyn Future<Output = Result<(), Cause>>>>),
    Over(Result<(), Cause>),
}

impl Waits {
    pub(crate) fn new(journal: &Arc<Journal>) -> Self {
        Waits { journal: journal.clone(), waiting: RefCell::new(Waiting::NotYet) }
    }

    /// Whether the answer, which is there, may go on. Fails where what it acknowledges may be done and may be lost.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        let mut waiting = self.waiting.borrow_mut();
        if matches!(*waiting, Waiting::NotYet) {
            *waiting = Waiting::For(Box::pin(journaled(self.journal.clone())));
        }
        let over = match &mut *waiting {
            Waiting::For(future) => ready!(future.as_mut().poll(cx)),
            Waiting::Over(over) => *over,
            Waiting::NotYet => Ok(()),
        };
        *waiting = Waiting::Over(over);
        Poll::Ready(over)
    }
}

async fn journaled(journal: Arc<Journal>) -> Result<(), Cause> {
    if !journal.is_on() {
        return Ok(());
    }
    let began = Instant::now();
    let (ticket, patience) = {
        let mut inner = journal.lock();
        match inner.ledger.part() {
            Part::Alone if inner.serves_alone => {
                counts::answered(Answered::Unjournaled, began.elapsed());
                return Ok(());
            }
            // Whoever is to keep the journal has to have it as well.
            _ if inner.ledger.is_alone() && inner.serves_alone && !inner.is_blind => {
                inner.ledger.rounds.ask();
                inner.ledger.rounds.pass();
                drop(inner);
                journal.asks();
                counts::answered(Answered::Unjournaled, began.elapsed());
                return Ok(());
            }
            // Nobody will ever journal it.
            part if part == Part::Alone || part == Part::Deposed || inner.is_blind => {
                counts::answered(Answered::Unknown, began.elapsed());
                return Err(Cause::OutcomeUnknown);
            }
            _ => (inner.ledger.rounds.ask(), inner.patience),
        }
    };
    journal.asks();
    let known = async {
        loop {
            let settled = journal.settled.notified();
            {
                let inner = journal.lock();
                if let Some(is_journaled) = inner.ledger.rounds.is_journaled(ticket) {
                    return match is_journaled {
                        false => Answered::Unknown,
                        true if inner.ledger.is_alone() => Answered::Unjournaled,
                        true => Answered::Journaled,
                    };
                }
            }
            settled.await;
        }
    };
    let answered = timeout(patience, known).await.unwrap_or(Answered::Unknown);
    counts::answered(answered, began.elapsed());
    match answered {
        Answered::Unknown => Err(Cause::OutcomeUnknown),
        Answered::Journaled | Answered::Unjournaled => Ok(()),
    }
}
