//! A place for an exchange, empty while a connection rests.
//!
//! What an exchange has to know is as large as all that a resting connection keeps. A worker keeps a short free list,
//! so that taking a place costs no allocation.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use super::exchange::Exchange;

/// Places kept for use again by one worker.
const KEPT: usize = 64;

thread_local! {
    // Boxed, so that a place moves by its address alone.
    #[allow(clippy::vec_box)]
    static FREE: RefCell<Vec<Box<Exchange>>> = const { RefCell::new(Vec::new()) };
}

/// A place for an exchange. Taken by the first change to it.
pub(super) struct Seat(Option<Box<Exchange>>);

impl Seat {
    /// No exchange runs.
    pub(super) const fn empty() -> Self {
        Seat(None)
    }

    /// The exchange has ended, and nothing of it is needed any more.
    pub(super) fn leave(&mut self) {
        let Some(mut exchange) = self.0.take() else { return };
        exchange.let_go();
        // The list is gone when the thread ends: then the allocator gets the place.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(exchange);
            }
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Deref for Seat {
    type Target = Exchange;

    #[inline]
    fn deref(&self) -> &Exchange {
        match &self.0 {
            Some(exchange) => exchange,
            None => unreachable!("an exchange is looked at only once it has begun"),
        }
    }
}

impl DerefMut for Seat {
    #[inline]
    fn deref_mut(&mut self) -> &mut Exchange {
        self.0.get_or_insert_with(place)
    }
}

/// A place that was used before, or a new one.
#[inline(never)]
fn place() -> Box<Exchange> {
    let kept = FREE.try_with(|free| free.borrow_mut().pop());
    kept.ok().flatten().unwrap_or_else(|| Box::new(Exchange::new()))
}
