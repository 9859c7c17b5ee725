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
    /// Why it is cut short, once what came before has had its turn to go out.
    cut: Option<io::Error>,
}

impl Answer {
    /// An answer that is whole.
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Answer {
            first: Some(bytes.into()).filter(|bytes| !bytes.is_empty()),
            whole: true,
            rest: None,
            cut: None,
        }
    }

    /// The first bytes of a result, and where more come from.
    pub(super) fn begun(first: Bytes, rest: mpsc::Receiver<Said>) -> Self {
        Answer {
            first: Some(first).filter(|first| !first.is_empty()),
            whole: false,
            rest: Some(rest),
            cut: None,
        }
    }

    /// On an error hyper closes at once and drops what it has not yet written, which may be all of the answer: the caller would
    /// see a connection that ends, not an answer that is cut. It writes when there is nothing more for now.
    fn cut(&mut self, cx: &mut Context<'_>, why: String) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.cut = Some(io::Error::other(why));
        cx.waker().wake_by_ref();
        Poll::Pending
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
        if let Some(why) = self.cut.take() {
            return Poll::Ready(Some(Err(why)));
        }
        let Some(rest) = &mut self.rest else { return Poll::Ready(None) };
        match ready!(rest.poll_recv(cx)) {
            Some(Said::Piece(_, bytes) | Said::Last(_, bytes)) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Said::End(_, ended)) if ended.http == 200 => {
                self.rest = None;
                Poll::Ready(None)
            }
            Some(Said::End(_, ended)) => self.cut(cx, format!("{}: {}", ended.status, ended.message)),
            None => self.cut(cx, "the run is gone".into()),
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::Response;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::run::Head;
    use super::super::{Ended, Took};
    use super::*;

    #[tokio::test]
    async fn what_came_before_a_fault_goes_out() {
        let (says, said) = mpsc::channel(2);
        let ended = Ended {
            status: "CS_ERROR_IN_EXECUTION",
            http: 500,
            message: String::new(),
            took: Took::default(),
        };
        // All of it is there before anybody looks.
        assert!(says.try_send(Said::End(Head::default(), ended)).is_ok());
        let answer = std::sync::Mutex::new(Some(Answer::begun(Bytes::from_static(b"half"), said)));
        let (mut caller, served) = tokio::io::duplex(4096);
        let service = service_fn(|_| {
            let answer = answer.lock().unwrap().take().unwrap();
            async { Ok::<_, Infallible>(Response::new(answer)) }
        });
        let serve = http1::Builder::new().serve_connection(TokioIo::new(served), service);
        caller.write_all(b"GET / HTTP/1.1\r\nHost: data\r\n\r\n").await.unwrap();
        let mut heard = String::new();
        let (ended, _) = tokio::join!(serve, caller.read_to_string(&mut heard));
        assert!(ended.is_err());
        assert!(
            heard.starts_with("HTTP/1.1 200 OK\r\n") && heard.ends_with("\r\n4\r\nhalf\r\n"),
            "{heard:?}"
        );
    }
}
