//! A raw ADS client: it sends what it is told to, and shows every answer.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use lighter_config::xds::Kind;
use lighter_config::xds::wire::envoy::config::core::v3::Node;
use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use prost::Message;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::support::PATIENCE;

/// One stream.
pub struct Stream {
    runtime: Runtime,
    requests: SendStream<Bytes>,
    answers: RecvStream,
    read: BytesMut,
}

impl Stream {
    /// Opens one to a server in plain text.
    pub fn open(server: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (requests, answers) = runtime.block_on(async {
            let socket = tokio::net::TcpStream::connect(server).await.unwrap();
            let (mut client, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::spawn(connection);
            let request = http::Request::post(format!(
                "http://{server}/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
            ))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
            let (response, requests) = client.send_request(request, false).unwrap();
            let response = timeout(PATIENCE, response).await.unwrap().unwrap();
            assert_eq!(response.status(), 200);
            (requests, response.into_body())
        });
        Stream { runtime, requests, answers, read: BytesMut::new() }
    }

    /// Sends a request.
    pub fn send(&mut self, request: &DiscoveryRequest) {
        let message = request.encode_to_vec();
        let mut frame = vec![0];
        frame.extend((message.len() as u32).to_be_bytes());
        frame.extend(message);
        self.requests.send_data(frame.into(), false).unwrap();
        // The connection's task has to run for it to leave.
        self.runtime.block_on(tokio::task::yield_now());
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
        self.within(PATIENCE).expect("the stream has ended").expect("an answer in time")
    }

    /// Waits for the stream's end; gives the gRPC status.
    pub fn end(&mut self) -> String {
        assert_eq!(self.within(PATIENCE), None, "an answer instead of the end");
        let trailers = self
            .runtime
            .block_on(async { timeout(PATIENCE, self.answers.trailers()).await })
            .unwrap()
            .unwrap();
        trailers.unwrap()["grpc-status"].to_str().unwrap().to_owned()
    }

    /// The next answer if one comes; `Some(None)` if none came in time, `None` at the end.
    fn within(&mut self, time: Duration) -> Option<Option<DiscoveryResponse>> {
        loop {
            if let Some(length) =
                self.read.get(1..5).map(|length| u32::from_be_bytes(length.try_into().unwrap()))
                && self.read.len() >= 5 + length as usize
            {
                self.read.advance(5);
                return Some(Some(DiscoveryResponse::decode(self.read.split_to(length as usize)).unwrap()));
            }
            let Ok(data) = self.runtime.block_on(async { timeout(time, self.answers.data()).await }) else {
                return Some(None);
            };
            let data = data?.unwrap();
            self.answers.flow_control().release_capacity(data.len()).unwrap();
            self.read.extend_from_slice(&data);
        }
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
