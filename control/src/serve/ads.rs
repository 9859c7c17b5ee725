//! Aggregated discovery: one task a stream drives its state, which is `lighter-config`'s.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use lighter_config::identity::Spiffe;
use lighter_config::name::ServiceName;
use lighter_config::xds::Kind;
use lighter_config::xds::server::{Encoded, Resources, Said, Stream};
use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::grpc::Caller;
use super::rpc::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use super::streams::Entry;
use crate::index::{Change, Index};
use crate::state::State;

pub use super::rpc::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer as Server;

/// The service on one listener.
pub struct Ads {
    state: Arc<State>,
    served: &'static [Kind],
}

impl Ads {
    /// Serves these kinds.
    pub fn new(state: Arc<State>, served: &'static [Kind]) -> Self {
        Ads { state, served }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let caller = request.extensions().get::<Caller>();
        let peer = caller.map(|caller| caller.address);
        let identity = caller.and_then(|caller| caller.peer.as_ref()).map(|peer| peer.id.clone());
        let own = identity.as_ref().and_then(Spiffe::service_name);
        let (sender, receiver) = mpsc::channel(1);
        let talk =
            Talk { state: self.state.clone(), stream: Stream::new(self.served), sender, peer, identity, own };
        tokio::spawn(talk.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream.
struct Talk {
    state: Arc<State>,
    stream: Stream,
    sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    peer: Option<SocketAddr>,
    /// Who the client proved to be.
    identity: Option<Spiffe>,
    /// The service that the client proved to be of.
    own: Option<ServiceName>,
}

/// What a client may be told.
struct Told<'i> {
    index: &'i Index,
    own: Option<&'i ServiceName>,
}

impl Resources for Told<'_> {
    fn get(&self, kind: Kind, name: &str) -> Option<Encoded> {
        // Whom a workload lets in is its own affair.
        let is_own = |own: &ServiceName| match name.strip_prefix("-/") {
            Some(namespace) => *own.namespace == *namespace,
            None => own.to_string() == name,
        };
        match kind {
            Kind::Workload if !self.own.is_some_and(is_own) => None,
            _ => self.index.get(kind, name),
        }
    }

    fn names(&self, kind: Kind) -> Vec<Arc<str>> {
        self.index.names(kind)
    }
}

impl Talk {
    async fn run(mut self, mut requests: Streaming<DiscoveryRequest>) {
        let state = self.state.clone();
        let entry = state.streams.enter(self.peer, self.identity.take());
        let mut changes = state.index.changes();
        let mut seen = state.index.last_change();
        let mut stopping = state.stopping();
        loop {
            tokio::select! {
                // The client knows by the clean end that it may come back elsewhere.
                () = stopping.asked() => return,
                request = requests.message() => match request {
                    Ok(Some(request)) => {
                        if let Err(status) = self.take(&request, &entry) {
                            // Fails where the client is gone already.
                            let _ = self.sender.send(Err(status)).await;
                            return;
                        }
                    }
                    Ok(None) => return,
                    Err(status) => {
                        tracing::debug!(peer = ?self.peer, %status, "a discovery stream broke");
                        return;
                    }
                },
                change = changes.recv() => match change {
                    Ok((number, change)) => {
                        seen = number;
                        match change {
                            Change::Of(names) => names.iter().for_each(|(kind, name)| self.stream.changed(*kind, name)),
                            Change::Any => self.stream.all_changed(),
                        }
                    }
                    Err(RecvError::Lagged(_)) => {
                        seen = state.index.last_change();
                        self.stream.all_changed();
                    }
                    Err(RecvError::Closed) => return,
                },
            }
            let told = Told { index: &state.index, own: self.own.as_ref() };
            while let Some(answer) = self.stream.poll(&told, Instant::now()) {
                self.count(&answer);
                entry.stands(self.stream.standing());
                tokio::select! {
                    () = stopping.asked() => return,
                    sent = self.sender.send(Ok(answer)) => if sent.is_err() {
                        return;
                    },
                }
            }
            entry.has_seen(seen, self.stream.is_behind(Kind::Endpoints));
        }
    }

    fn take(&mut self, request: &DiscoveryRequest, entry: &Entry<'_>) -> Result<(), Status> {
        // Only the first request has to say it.
        if let Some(node) = &request.node {
            entry.named(&node.id);
        }
        let said = self.stream.request(request, Instant::now());
        match said.map_err(|fault| Status::resource_exhausted(fault.to_string()))? {
            Said::Accepted(kind, took) => self.state.metrics.accepted(kind, took),
            Said::Rejected(kind, rejection) => {
                self.state.metrics.rejected(kind);
                let reason = rejection.reason.escape_debug();
                tracing::warn!(peer = ?self.peer, %kind, version = %rejection.version, %reason, "a client rejects what it was sent");
            }
            Said::Unknown => {
                tracing::debug!(peer = ?self.peer, of = %request.type_url.escape_debug(), "not served here");
            }
            Said::Asked(_) | Said::Stale(_) => {}
        }
        entry.stands(self.stream.standing());
        Ok(())
    }

    fn count(&self, answer: &DiscoveryResponse) {
        if let Some(kind) = Kind::of_url(&answer.type_url) {
            let bytes = answer.resources.iter().map(|resource| resource.value.len()).sum();
            self.state.metrics.pushed(kind, answer.resources.len(), bytes);
        }
    }
}
