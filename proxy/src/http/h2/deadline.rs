//! The deadlines of all streams of one connection, by one timer.
//!
//! A timer a request would cost an entry in the runtime's wheel, twice, for a moment that hardly ever comes. Here a
//! deadline is a place in a slab. The connection's task sleeps until the earliest one that it knows of, and finds out
//! when it wakes whether that still stands.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Instant;

use slab::Slab;
use tokio::time::Sleep;

/// The deadlines of one connection's streams.
#[derive(Default)]
pub(crate) struct Deadlines {
    slots: RefCell<Slab<Slot>>,
    /// When the connection's task will look, if it sleeps.
    armed: Cell<Option<Instant>>,
    task: RefCell<Option<Waker>>,
}

/// One stream's deadline. Dropping it takes it back.
pub(crate) struct Deadline {
    of: Rc<Deadlines>,
    key: usize,
}

struct Slot {
    at: Instant,
    waker: Waker,
    due: bool,
}

impl Deadlines {
    /// Wakes `waker` at `at`, or a moment later.
    pub(crate) fn add(self: &Rc<Self>, at: Instant, waker: &Waker) -> Deadline {
        let key = self.slots.borrow_mut().insert(Slot { at, waker: waker.clone(), due: false });
        self.hurry(at);
        Deadline { of: self.clone(), key }
    }

    /// Wakes the streams that are due, and arms `timer` for the next one. To be called whenever the connection's
    /// task runs.
    pub(crate) fn poll(&self, timer: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) {
        loop {
            let Some(next) = self.armed.get().or_else(|| self.earliest()) else {
                self.remember(cx);
                return;
            };
            if timer.as_ref().is_none_or(|timer| timer.deadline().into_std() != next) {
                match timer {
                    Some(timer) => timer.as_mut().reset(next.into()),
                    None => *timer = Some(Box::pin(tokio::time::sleep_until(next.into()))),
                }
            }
            self.armed.set(Some(next));
            let ready = timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
            if !ready {
                self.remember(cx);
                return;
            }
            self.fire(next.max(Instant::from(tokio::time::Instant::now())));
            self.armed.set(self.earliest());
            if self.armed.get().is_none() {
                *timer = None;
            }
        }
    }

    fn remember(&self, cx: &Context<'_>) {
        let mut task = self.task.borrow_mut();
        match &mut *task {
            Some(known) => known.clone_from(cx.waker()),
            None => *task = Some(cx.waker().clone()),
        }
    }

    fn earliest(&self) -> Option<Instant> {
        self.slots.borrow().iter().filter(|(_, slot)| !slot.due).map(|(_, slot)| slot.at).min()
    }

    fn fire(&self, now: Instant) {
        for (_, slot) in self.slots.borrow_mut().iter_mut() {
            if !slot.due && slot.at <= now {
                slot.due = true;
                slot.waker.wake_by_ref();
            }
        }
    }

    /// Wakes the connection's task if it sleeps for longer than until `at`.
    fn hurry(&self, at: Instant) {
        if self.armed.get().is_none_or(|armed| at < armed) {
            self.armed.set(Some(at));
            if let Some(task) = &*self.task.borrow() {
                task.wake_by_ref();
            }
        }
    }
}

impl Deadline {
    /// Whether the moment has come.
    pub(crate) fn is_due(&self) -> bool {
        self.of.slots.borrow().get(self.key).is_some_and(|slot| slot.due)
    }

    /// Another moment in its stead.
    pub(crate) fn set(&self, at: Instant) {
        if let Some(slot) = self.of.slots.borrow_mut().get_mut(self.key) {
            slot.at = at;
            slot.due = false;
        }
        self.of.hurry(at);
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.of.slots.borrow_mut().try_remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;

    /// Runs `work` in the task that drives `deadlines`, so that one waker serves both.
    async fn with_driver<F: Future>(deadlines: Rc<Deadlines>, work: impl FnOnce(Waker) -> F) -> F::Output {
        let mut timer = None;
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let mut work = std::pin::pin!(work(waker));
        poll_fn(|cx| {
            deadlines.poll(&mut timer, cx);
            let done = work.as_mut().poll(cx);
            deadlines.poll(&mut timer, cx);
            done
        })
        .await
    }

    async fn due(deadline: &Deadline) {
        poll_fn(|_| if deadline.is_due() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_and_an_earlier_deadline_come_in_their_order() {
        let deadlines = Rc::new(Deadlines::default());
        let start = tokio::time::Instant::now();
        let at = |ms| Instant::from(start) + Duration::from_millis(ms);
        let order = with_driver(deadlines.clone(), |waker| async move {
            let late = deadlines.add(at(500), &waker);
            let early = deadlines.add(at(20), &waker);
            due(&early).await;
            let first = start.elapsed();
            assert!(!late.is_due());
            due(&late).await;
            (first, start.elapsed())
        })
        .await;
        assert!(order.0 >= Duration::from_millis(20) && order.0 < Duration::from_millis(100), "{order:?}");
        assert!(order.1 >= Duration::from_millis(500), "{order:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_be_put_off_and_taken_back() {
        let deadlines = Rc::new(Deadlines::default());
        let start = tokio::time::Instant::now();
        let at = |ms| Instant::from(start) + Duration::from_millis(ms);
        let kept = deadlines.clone();
        with_driver(deadlines.clone(), |waker| async move {
            drop(deadlines.add(at(5), &waker));
            let put_off = deadlines.add(at(10), &waker);
            put_off.set(at(300));
            due(&put_off).await;
        })
        .await;
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert_eq!(kept.slots.borrow().len(), 0);
    }
}
