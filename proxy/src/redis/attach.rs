//! Another connection to a server for a session that had one: dialled, and told what the one before was told.

use std::future::poll_fn;
use std::pin::Pin as Pinned;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lighter_config::name::ServicePort;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::resp::Answers;
use super::session::Session;
use crate::balance::Endpoint;
use crate::buf::Buffer;
use crate::error::Cause;
use crate::mesh::Target;
use crate::tcp::{self, Onward, Upstream};
use crate::worker::Worker;

/// A connection to a server.
pub(super) struct Attached {
    pub(super) upstream: Upstream,
    /// Where it was sent on to. None: where the port leads.
    pub(super) sent: Option<Arc<Endpoint>>,
    /// So many commands were said again.
    pub(super) replayed: u32,
}

/// There is no other connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// Nobody can be connected to.
    #[error("no server can be reached: {0:?}")]
    Unreached(Cause),
    /// The connection was lost, or what came on it is no RESP.
    #[error("the connection was lost while the session was said again")]
    Lost,
    /// The server does not take the session as it was.
    #[error("the server does not take the session as it was")]
    Refused,
}

impl AttachError {
    /// Why, as it is counted.
    pub(super) const fn cause(&self) -> Cause {
        match self {
            AttachError::Unreached(cause) => *cause,
            AttachError::Lost => Cause::UpstreamReset,
            AttachError::Refused => Cause::Unsupported,
        }
    }
}

/// Connects to where `target` leads, or to `sent`, and makes that connection what `session` is. What was published meanwhile is
/// put behind `said`, for the client.
pub(super) async fn attach(
    worker: &Rc<Worker>,
    target: &mut Target,
    sent: Option<Arc<Endpoint>>,
    peer: std::net::SocketAddr,
    session: &Session,
    said: &mut Vec<u8>,
) -> Result<Attached, AttachError> {
    let within = target.destination.policy().connect_timeout;
    let until = Instant::now() + within;
    loop {
        let attached = async {
            let upstream = dial(worker, target, sent.as_ref(), peer).await?;
            let mut attached = Attached { upstream, sent: sent.clone(), replayed: 0 };
            let told = timeout(within, tell(&mut attached.upstream, session, said)).await;
            attached.replayed = told.map_err(|_| AttachError::Lost)??;
            Ok(attached)
        };
        match attached.await {
            Ok(attached) => return Ok(attached),
            // The one that is to be there may come a little later than the one before has left.
            Err(AttachError::Unreached(_) | AttachError::Lost) if Instant::now() < until => {
                sleep(PAUSE).await;
                target.refresh(&worker.shared.mesh.load());
            }
            Err(error) => return Err(error),
        }
    }
}

async fn dial(
    worker: &Rc<Worker>,
    target: &Target,
    sent: Option<&Arc<Endpoint>>,
    peer: std::net::SocketAddr,
) -> Result<Upstream, AttachError> {
    let target = match sent {
        None => target.clone(),
        Some(endpoint) => elsewhere(worker, &target.destination.port.key, endpoint)?,
    };
    let dialled = tcp::dial(worker, &Onward::Port(target), peer).await;
    dialled.map_err(|error| {
        tracing::debug!(%peer, %error, "no upstream for a session with Redis");
        AttachError::Unreached(error.cause)
    })
}

/// The port as its callers see it, at this endpoint.
fn elsewhere(worker: &Worker, key: &ServicePort, endpoint: &Arc<Endpoint>) -> Result<Target, AttachError> {
    let mesh = worker.shared.mesh.load();
    let destination = mesh.destination(key).ok_or(AttachError::Unreached(Cause::NoConfig))?.clone();
    Ok(Target { pinned: Some(endpoint.clone()), ..Target::of(destination) })
}

/// Says to the server what the one before was told, and hears that it takes it. Returns how many commands that were.
async fn tell(upstream: &mut Upstream, session: &Session, said: &mut Vec<u8>) -> Result<u32, AttachError> {
    let replay = session.replay();
    if replay.commands == 0 {
        return Ok(0);
    }
    upstream.io.write_all(&replay.bytes).await.map_err(|_| AttachError::Lost)?;
    poll_fn(|cx| Pinned::new(&mut upstream.io).poll_flush(cx)).await.map_err(|_| AttachError::Lost)?;
    let (mut answers, mut left) = (Answers::default(), replay.answers);
    // What is no answer is passed on once it is whole.
    let mut message = Vec::new();
    while left > 0 {
        let mut buffer = Buffer::take();
        let came = poll_fn(|cx| buffer.poll_read(&mut upstream.io, cx)).await;
        if came.map_err(|_| AttachError::Lost)? == 0 {
            return Err(AttachError::Lost);
        }
        while !buffer.is_empty() {
            if left == 0 {
                // Something that was published, behind the last answer.
                let rest = buffer.share();
                upstream.io.early = [&rest, &*upstream.io.early].concat().into();
                return Ok(replay.commands);
            }
            let (used, ended) = answers.advance(buffer.filled()).map_err(|_| AttachError::Lost)?;
            message.extend_from_slice(&buffer.filled()[..used]);
            buffer.consume(used);
            if message.len() > MOST_SAID {
                return Err(AttachError::Lost);
            }
            if !ended {
                continue;
            }
            if !session.answers_replay(answers.last()) {
                said.append(&mut message);
            } else if answers.last().is_error() {
                // What stands behind the first word may be what the client said, with a password in it.
                let code = message.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
                let error = code[..code.len().min(MOST_CODE)].escape_ascii().to_string();
                tracing::warn!(error, "a server does not take a session with Redis as it was");
                return Err(AttachError::Refused);
            } else {
                message.clear();
                left -= 1;
            }
        }
    }
    Ok(replay.commands)
}

/// An error begins with a word of so many bytes at most, as far as it is told.
const MOST_CODE: usize = 32;

/// How long is waited before another try.
const PAUSE: Duration = Duration::from_millis(25);

/// One answer, or one thing that is published meanwhile, has no more bytes.
const MOST_SAID: usize = 16 << 20;
