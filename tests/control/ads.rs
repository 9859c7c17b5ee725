//! A raw ADS client: it sends what it is told to, and shows every answer.

use std::net::SocketAddr;

use lighter_config::xds::Kind;
use lighter_config::xds::wire::envoy::config::core::v3::Node;
use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

use crate::rpc::{Call, Identity};

/// One stream.
pub struct Stream(Call<DiscoveryRequest, DiscoveryResponse>);

impl Stream {
    /// Opens one to a server in plain text.
    pub fn open(server: SocketAddr) -> Self {
        Stream(Call::open(server, METHOD, None))
    }

    /// Opens one over TLS.
    pub fn open_as(server: SocketAddr, identity: &Identity) -> Self {
        Stream(Call::open(server, METHOD, Some(identity)))
    }

    /// Sends a request.
    pub fn send(&mut self, request: &DiscoveryRequest) {
        self.0.send(request);
    }

    /// Asks for these names.
    pub fn ask(&mut self, kind: Kind, names: &[&str]) {
        self.send(&request(kind, names, ""));
    }

    /// Accepts an answer, still wanting these names.
    pub fn accept(&mut self, answer: &DiscoveryResponse, names: &[&str]) {
        let kind = Kind::of_url(&answer.type_url).unwrap();
        let version_info = answer.version_info.clone();
        self.send(&DiscoveryRequest { version_info, ..request(kind, names, &answer.nonce) });
    }

    /// The next answer. Fails if it does not come.
    pub fn next(&mut self) -> DiscoveryResponse {
        self.0.next()
    }

    /// Waits for the stream's end; gives the gRPC status.
    pub fn end(&mut self) -> String {
        self.0.end()
    }
}

/// A request for these names, about the answer of this nonce.
pub fn request(kind: Kind, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(Node { id: "raw".into(), ..Node::default() }),
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: kind.url().into(),
        response_nonce: nonce.into(),
        ..DiscoveryRequest::default()
    }
}

const METHOD: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
