//! How long a run waited for its caller, whose pace says nothing of how long the function takes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// The waits of one run: for its caller to take what there is, and for what its caller sends, until it answers: from then on
/// nobody knows what it waits for. Where it waits for both, time counts once.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: u32,
    since: Option<Instant>,
    /// Of waits that have ended.
    took: Duration,
    /// It waits for what its caller sends.
    for_upload: bool,
    has_answered: bool,
}

impl State {
    fn begin(&mut self) {
        self.now += 1;
        self.since.get_or_insert_with(Instant::now);
    }

    fn end(&mut self) {
        self.now -= 1;
        if self.now == 0
            && let Some(since) = self.since.take()
        {
            self.took += since.elapsed();
        }
    }

    fn upload(&mut self, waits: bool) {
        match (
            waits && !self.has_answered,
            std::mem::replace(&mut self.for_upload, waits && !self.has_answered),
        ) {
            (true, false) => self.begin(),
            (false, true) => self.end(),
            _ => {}
        }
    }
}

/// One that goes on until this is dropped.
#[derive(Debug)]
pub(super) struct Wait(Waits);

impl Waits {
    /// It waits.
    pub(super) fn begin(&self) -> Wait {
        self.state().begin();
        Wait(self.clone())
    }

    /// The head of its answer is there.
    pub(super) fn answers(&self) {
        let mut state = self.state();
        state.has_answered = true;
        state.upload(false);
    }

    /// How long it waited.
    pub(super) fn took(&self) -> Duration {
        let state = self.state();
        state.took + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.0.state().end();
    }
}

/// What a caller sends, and how long it is waited for.
#[derive(Debug)]
pub(super) struct Upload<B> {
    body: B,
    waits: Waits,
}

impl<B> Upload<B> {
    pub(super) fn new(body: B, waits: &Waits) -> Self {
        Upload { body, waits: waits.clone() }
    }
}

impl<B: Body + Unpin> Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Upload { body, waits } = self.get_mut();
        let polled = Pin::new(body).poll_frame(cx);
        waits.state().upload(polled.is_pending());
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Upload<B> {
    fn drop(&mut self) {
        self.waits.state().upload(false);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::task::Waker;

    use bytes::Bytes;
    use tokio::sync::mpsc;
    use tokio::time::advance;

    use super::*;

    /// A body that has what was sent so far.
    struct Comes(mpsc::Receiver<Bytes>);

    impl Body for Comes {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    /// Whether there is more.
    fn has_more(upload: &mut Upload<Comes>) -> bool {
        Pin::new(upload).poll_frame(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn time_counts_once_however_many_waits_there_are() {
        let waits = Waits::default();
        advance(SECOND).await;
        assert_eq!(waits.took(), Duration::ZERO, "it runs");
        let first = waits.begin();
        advance(SECOND).await;
        let second = waits.begin();
        advance(SECOND).await;
        drop(first);
        advance(SECOND).await;
        assert_eq!(waits.took(), 3 * SECOND, "one goes on");
        drop(second);
        advance(SECOND).await;
        assert_eq!(waits.took(), 3 * SECOND);
        drop(waits.begin());
        assert_eq!(waits.took(), 3 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_come_is_not_waited_for() {
        let (sends, comes) = mpsc::channel(1);
        let waits = Waits::default();
        let mut upload = Upload::new(Comes(comes), &waits);
        sends.try_send(Bytes::from_static(b"one")).unwrap();
        advance(SECOND).await;
        assert!(has_more(&mut upload));
        advance(SECOND).await;
        assert_eq!(waits.took(), Duration::ZERO, "nobody asked for more");
        assert!(!has_more(&mut upload));
        advance(SECOND).await;
        assert_eq!(waits.took(), SECOND);
        sends.try_send(Bytes::from_static(b"two")).unwrap();
        assert!(has_more(&mut upload));
        advance(SECOND).await;
        assert_eq!(waits.took(), SECOND);
        assert!(!has_more(&mut upload));
        advance(SECOND).await;
        drop(upload);
        advance(SECOND).await;
        assert_eq!(waits.took(), 2 * SECOND, "a program that wants no more does not wait");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_sent_to_a_program_that_answers_is_not_waited_for() {
        let (_sends, comes) = mpsc::channel(1);
        let waits = Waits::default();
        let mut upload = Upload::new(Comes(comes), &waits);
        assert!(!has_more(&mut upload));
        advance(SECOND).await;
        waits.answers();
        advance(SECOND).await;
        assert!(!has_more(&mut upload));
        advance(SECOND).await;
        assert_eq!(waits.took(), SECOND);
        let taken = waits.begin();
        advance(SECOND).await;
        drop((taken, upload));
        assert_eq!(waits.took(), 2 * SECOND);
    }
}
