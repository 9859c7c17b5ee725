//! A stream to an ADS server.

use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use crate::channel::{Opened, say};

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

/// Asks for a stream.
pub(super) fn open(opened: Opened) -> Opening {
    let (requests, queue) = mpsc::unbounded_channel();
    let mut client =
        AggregatedDiscoveryServiceClient::new(opened.channel).max_decoding_message_size(MAX_ANSWER_BYTES);
    let answers = Box::pin(async move {
        let answer = client.stream_aggregated_resources(UnboundedReceiverStream::new(queue)).await;
        answer.map(tonic::Response::into_inner).map_err(|status| say(&status))
    });
    Opening { requests, answers }
}

/// More than a sidecar should ever hold, and less than what would harm it.
const MAX_ANSWER_BYTES: usize = 32 << 20;
