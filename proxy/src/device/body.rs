//! The body of an answer: a result as it comes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::run::Said;

/// Bytes that are there already, and what a run still says.
pub(super) struct Answer {
    first: Option<Bytes>,
    /// Whether that is all.
    whole: bool,
    rest: Option<mpsc::Receiver<Said>>,
}

impl Answer {
    /// An answer that is whole.
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Answer { first: Some(bytes.into()).filter(|bytes| !bytes.is_empty()), whole: true, rest: None }
    }

    /// The first bytes of a result, and where more come from.
    pub(super) fn begun(first: Bytes, rest: mpsc::Receiver<Said>) -> Self {
        Answer { first: Some(first), whole: false, rest: Some(rest) }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    /// A run that did not end well cuts the answer short: it never looks whole.
    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        match ready!(rest.poll_recv(cx)) {
            Some(Said::Piece(_, bytes) | Said::Last(_, bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Said::End(_, ended)) if ended.http == 200 => {
                self.rest = None;
                Poll::Ready(None)
            }
            Some(Said::End(_, ended)) => {
                let why = format!("{}: {}", ended.status, ended.message);
                Poll::Ready(Some(Err(io::Error::other(why))))
            }
            None => Poll::Ready(Some(Err(io::Error::other("the run is gone")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.whole {
            true => SizeHint::with_exact(self.first.as_ref().map_or(0, |first| first.len() as u64)),
            false => SizeHint::default(),
        }
    }
}
