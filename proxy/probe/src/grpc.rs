//! By gRPC: `grpc.health.v1.Health/Check`, answered with SERVING.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper::rt::bounds::Http2ClientConnExec;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Fault, through};

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is SERVING.
#[derive(Clone, PartialEq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks for `service`, or for the server as a whole if that is empty, on a fresh connection.
pub(crate) async fn ask<S, E>(stream: S, host: SocketAddr, service: &str, executor: E) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    E: Http2ClientConnExec<Full<Bytes>, TokioIo<S>> + Unpin + Clone,
{
    let (mut sender, connection) = http2::handshake(executor, TokioIo::new(stream)).await?;
    let request = Request::post(format!("http://{host}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header("te", "trailers")
        .body(Full::new(frame(&CheckRequest { service: service.to_owned() })));
    let request = request.map_err(|error| Fault::Unwell(format!("cannot be asked: {error}")))?;
    let asked = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MOST_BYTES).collect().await;
        let body = body.map_err(|error| Fault::Unwell(format!("a broken answer: {error}")))?;
        // An answer without a body has it in its head.
        let status = body.trailers().and_then(grpc_status).or_else(|| grpc_status(&head.headers));
        match status {
            Some(0) => judge(&body.to_bytes()),
            Some(status) => Err(Fault::Unwell(format!("gRPC status {status}"))),
            None => Err(Fault::Unwell(format!("no answer of gRPC: status {}", head.status))),
        }
    };
    through(asked, connection).await
}

fn judge(answer: &[u8]) -> Result<(), Fault> {
    let message = answer.get(PREFIX..).and_then(|message| CheckResponse::decode(message).ok());
    match message {
        Some(CheckResponse { status: SERVING }) => Ok(()),
        Some(CheckResponse { status }) => Err(Fault::Unwell(format!("serving status {status}"))),
        None => Err(Fault::Unwell("a broken answer".to_owned())),
    }
}

/// A message as it goes over the wire: not compressed, its length, itself.
fn frame(message: &impl Message) -> Bytes {
    let bytes = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(PREFIX + bytes.len());
    frame.put_u8(0);
    // A service's name has no 4 GiB.
    frame.put_u32(bytes.len() as u32);
    frame.put_slice(&bytes);
    frame.freeze()
}

fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

const SERVING: i32 = 1;
const PREFIX: usize = 5;
const MOST_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_serving_is_well() {
        for (status, is_well) in [(0, false), (1, true), (2, false), (3, false)] {
            assert_eq!(judge(&frame(&CheckResponse { status })).is_ok(), is_well, "{status}");
        }
        assert!(judge(b"").is_err());
    }

    #[test]
    fn the_question_is_that_of_the_protocol() {
        assert_eq!(&*frame(&CheckRequest { service: "a.B".into() }), b"\0\0\0\0\x05\x0a\x03a.B");
        assert_eq!(&*frame(&CheckRequest { service: String::new() }), b"\0\0\0\0\0");
    }
}
