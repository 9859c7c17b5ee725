//! Sends what a round gave to whoever keeps the journal: a request within TLS at the link port of its sidecar, which proves to
//! be of this very workload.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, StatusCode};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lighter_config::hex;
use lighter_config::snapshot::Secure;
use lighter_migrate::journal::Taken;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{PATH, Task};
use crate::error::ProxyError;
use crate::identity::ALPN_STATE;
use crate::link;
use crate::stateful::copies::{Reading, State};
use crate::telemetry::Direction;
use crate::worker::Shared;

/// A connection to the standby's sidecar.
pub(super) struct Line {
    at: SocketAddr,
    sender: SendRequest<Reading>,
    carries: JoinHandle<()>,
}

/// Whether the standby has it is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// This sidecar has no identity, and can prove nothing.
    #[error("this sidecar has no identity")]
    Nobody,
    /// The other sidecar cannot be connected to, or does not prove to be who it is to be.
    #[error("the sidecar of the standby cannot be reached: {0}")]
    Unreached(#[source] ProxyError),
    /// The connection was lost, or what came is no HTTP.
    #[error("the connection was lost: {0}")]
    Lost(#[source] hyper::Error),
    /// Nothing was answered for a while.
    #[error("nothing was answered for {0:?}")]
    Late(Duration),
    /// It does not take it, or not yet.
    #[error("the sidecar of the standby answers {0}")]
    Refused(StatusCode),
    /// The request cannot be written.
    #[error("no request: {0}")]
    Request(#[from] http::Error),
}

impl Drop for Line {
    fn drop(&mut self) {
        self.carries.abort();
    }
}

impl Line {
    async fn open(shared: &Shared, at: SocketAddr) -> Result<Line, SendError> {
        let own = shared.identity.get().ok_or(SendError::Nobody)?.current();
        let secure = Secure { identity: own.id().as_str().into(), link: None };
        let dialled =
            link::dial::connect(shared, Direction::Outbound, at, Some(&secure), ALPN_STATE, CONNECT_TIMEOUT);
        let io = dialled.await.map_err(SendError::Unreached)?;
        let (sender, connection) = handshake(TokioIo::new(io)).await.map_err(SendError::Lost)?;
        let carries = tokio::task::spawn_local(async move {
            // What was wrong with it whoever sends over it is told.
            let _ = connection.await;
        });
        Ok(Line { at, sender, carries })
    }
}

/// Sends it once, over `line` if that leads there. Returns what the standby made of it.
pub(super) async fn send(
    shared: &Shared,
    line: &mut Option<Line>,
    task: &Task,
    (state, is_whole): (&State, bool),
) -> Result<Taken, SendError> {
    let kept = line.take().filter(|line| line.at == task.at && !line.sender.is_closed());
    let mut to = match kept {
        Some(line) => line,
        None => Line::open(shared, task.at).await?,
    };
    let exchange = async {
        to.sender.ready().await.map_err(SendError::Lost)?;
        to.sender.send_request(request(task, state, is_whole)?).await.map_err(SendError::Lost)
    };
    // A long state takes longer.
    let within = PATIENCE + Duration::from_millis(state.bytes() >> 10);
    let answer = timeout(within, exchange).await.map_err(|_| SendError::Late(within))??;
    *line = Some(to);
    match answer.status() {
        StatusCode::NO_CONTENT => Ok(Taken::All),
        StatusCode::CONFLICT => Ok(Taken::Lacks),
        StatusCode::GONE => Ok(Taken::Closed),
        status => Err(SendError::Refused(status)),
    }
}

fn request(task: &Task, state: &State, is_whole: bool) -> Result<Request<Reading>, http::Error> {
    let Task { round, epoch, at, token, .. } = task;
    let mut token = HeaderValue::try_from(format!("Bearer {}", hex::encode(token)))?;
    token.set_sensitive(true);
    Request::post(format!(
        "{PATH}?epoch={}&view={}&number={}&whole={is_whole}",
        epoch.0, round.view, round.number
    ))
    .header(HOST, at.to_string())
    .header(AUTHORIZATION, token)
    .body(state.read(0))
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the standby may take to say that it has it.
const PATIENCE: Duration = Duration::from_secs(5);
