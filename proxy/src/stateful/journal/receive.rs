//! What whoever serves gives to the sidecar that keeps the journal.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use lighter_config::hex;
use lighter_migrate::Epoch;
use lighter_migrate::journal::Taken;
use tokio::time::timeout;

use super::counts::{self, Received};
use super::{Given, Journal, Refused};
use crate::stateful::copies::Gathering;

/// Where it is given.
pub(in crate::stateful) const PATH: &str = "/journal";

/// Takes what a request gives, and says by a status what became of it.
pub(in crate::stateful) async fn answer(journal: Option<&Journal>, request: Request<Incoming>) -> StatusCode {
    let (received, bytes, status) = match take(journal, request).await {
        Ok((taken, bytes)) => match taken {
            Taken::All => (Received::Taken, bytes, StatusCode::NO_CONTENT),
            Taken::Lacks => (Received::Lacks, 0, StatusCode::CONFLICT),
            Taken::Closed => (Received::Closed, 0, StatusCode::GONE),
        },
        Err((received, status)) => {
            tracing::debug!(%status, "what is to be journaled is not taken");
            (received, 0, status)
        }
    };
    counts::received(received, bytes);
    status
}

async fn take(
    journal: Option<&Journal>,
    request: Request<Incoming>,
) -> Result<(Taken, u64), (Received, StatusCode)> {
    let malformed = |status| (Received::Malformed, status);
    if request.method() != Method::POST {
        return Err(malformed(StatusCode::METHOD_NOT_ALLOWED));
    }
    let journal = journal.ok_or((Received::Unknown, StatusCode::NOT_FOUND))?;
    let (epoch, view, number, is_whole) =
        named(request.uri().query()).ok_or(malformed(StatusCode::BAD_REQUEST))?;
    let said = request.headers().get(AUTHORIZATION);
    let token = said.and_then(|said| hex::decode(said.as_bytes().strip_prefix(b"Bearer ")?));
    let token = token.ok_or((Received::Token, StatusCode::UNAUTHORIZED))?;
    let given = Given { epoch, view, token: &token, number, is_whole };
    // Nobody has this sidecar keep in its memory what it would not take.
    let room = journal.room(&given).map_err(status)?;
    let (mut gathering, mut body) = (Gathering::new(room.most), request.into_body());
    if body.size_hint().lower() > room.most {
        return Err(malformed(StatusCode::PAYLOAD_TOO_LARGE));
    }
    // Nobody who has stopped keeps others from giving anything.
    let frame = async |body: &mut Incoming| timeout(PATIENCE, body.frame()).await;
    while let Some(frame) = frame(&mut body).await.map_err(|_| malformed(StatusCode::REQUEST_TIMEOUT))? {
        let frame = frame.map_err(|_| malformed(StatusCode::BAD_REQUEST))?;
        if let Ok(bytes) = frame.into_data() {
            gathering.push(&bytes).map_err(|_| malformed(StatusCode::PAYLOAD_TOO_LARGE))?;
        }
    }
    let state = gathering.finish();
    let bytes = state.bytes();
    let taken = journal.take(&given, state);
    drop(room);
    taken.map(|taken| (taken, bytes)).map_err(status)
}

fn status(refused: Refused) -> (Received, StatusCode) {
    match refused {
        Refused::Unknown => (Received::Unknown, StatusCode::NOT_FOUND),
        Refused::Token => (Received::Token, StatusCode::UNAUTHORIZED),
        Refused::Closed => (Received::Closed, StatusCode::GONE),
        Refused::Busy => (Received::Busy, StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// Of which epoch and view it is, the how manieth round, and whether it is all of the state.
fn named(query: Option<&str>) -> Option<(Epoch, u64, u64, bool)> {
    let (mut epoch, mut view, mut number, mut whole) = (None, None, None, None);
    for pair in query?.split('&') {
        match pair.split_once('=')? {
            ("epoch", value) => epoch = Some(Epoch(value.parse().ok()?)),
            ("view", value) => view = Some(value.parse().ok()?),
            ("number", value) => number = Some(value.parse().ok()?),
            ("whole", value) => whole = Some(value.parse().ok()?),
            _ => {}
        }
    }
    Some((epoch?, view?, number?, whole?))
}

/// How long whoever gives something may stop.
const PATIENCE: Duration = Duration::from_secs(5);
