//! The codec, without sockets of its own.

mod agreement;
mod codec;
mod properties;
mod smuggling;

use super::body::Body;
use super::head::{self, Refusal};

/// A message as it was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Message {
    method: String,
    target: String,
    body: Vec<u8>,
}

/// Reads request after request as a connection would; also why it stopped, where that is a refusal.
fn read_all(mut bytes: &[u8]) -> (Vec<Message>, Option<Refusal>) {
    let mut messages = Vec::new();
    loop {
        match read_one(&mut bytes) {
            Ok(Some((message, keep_alive))) => {
                messages.push(message);
                if !keep_alive {
                    return (messages, None);
                }
            }
            Ok(None) => return (messages, None),
            Err(refusal) => return (messages, Some(refusal)),
        }
    }
}

fn read_one(bytes: &mut &[u8]) -> Result<Option<(Message, bool)>, Refusal> {
    let skipped = head::empty_lines(bytes).unwrap_or_default();
    *bytes = &bytes[skipped..];
    let mut room = head::room();
    let Some(request) = head::request(bytes, &mut room)? else { return Ok(None) };
    let mut body = Body::new(request.framing);
    let mut content = Vec::new();
    let seen = body.decode(&bytes[request.len..], &mut content)?;
    if !body.is_done() {
        return Ok(None);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let message = Message { method: text(request.method), target: text(request.target), body: content };
    let keep_alive = request.keep_alive;
    *bytes = &bytes[request.len + seen..];
    Ok(Some((message, keep_alive)))
}
