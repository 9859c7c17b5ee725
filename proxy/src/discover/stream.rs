//! A stream to an ADS server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use crate::dial::{self, SocketFactory};

/// The client of the service, as compiled from its protobuf file.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod service {
    tonic::include_proto!("envoy.service.discovery.v3");
}

use service::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;

/// What is received on a stream that is open.
pub(super) type Answers = Streaming<DiscoveryResponse>;

/// A stream that was asked for: what is sent goes out whether or not the server said a word yet.
pub(super) struct Opening {
    pub(super) requests: mpsc::UnboundedSender<DiscoveryRequest>,
    pub(super) answers: futures::BoxFuture<Result<Answers, String>>,
}

/// Futures that are kept.
pub(super) mod futures {
    use std::pin::Pin;

    /// A future of unknown type.
    pub(in super::super) type BoxFuture<T> = Pin<Box<dyn Future<Output = T>>>;
}

/// Connects to `address`, `host:port`, and asks for a stream. An error says what failed, for people.
pub(super) async fn open(address: String, sockets: Arc<dyn SocketFactory>) -> Result<Opening, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| chain(&error))?
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWERED_WITHIN)
        .keep_alive_while_idle(true)
        .connect_timeout(CONNECT_TIMEOUT);
    let connector = tower::service_fn(move |_| {
        let (address, sockets) = (address.clone(), sockets.clone());
        async move { Ok::<_, io::Error>(TokioIo::new(connect(&address, &*sockets).await?)) }
    });
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| chain(&error))?;
    let (requests, queue) = mpsc::unbounded_channel();
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let answers = Box::pin(async move {
        let answer = client.stream_aggregated_resources(UnboundedReceiverStream::new(queue)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| say(&status))
    });
    Ok(Opening { requests, answers })
}

/// What a stream ended with.
pub(super) fn say(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().to_string(),
        message => format!("{}: {message}", status.code()),
    }
}

async fn connect(address: &str, sockets: &dyn SocketFactory) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let found: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    for address in found {
        match dial::connect(sockets, address, CONNECT_TIMEOUT).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = io::Error::other(error.to_string()),
        }
    }
    Err(last)
}

/// An error with what caused it: the outermost alone says only that transport failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// A server that is gone without a word is noticed after this and the next.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_ANSWERED_WITHIN: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// More than a sidecar should ever hold, and less than what would harm it.
const MAX_ANSWER_BYTES: usize = 32 << 20;
