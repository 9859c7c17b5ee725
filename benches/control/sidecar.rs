//! A sidecar as its control plane sees it.

use std::net::SocketAddr;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use lighter_config::xds::Kind;
use lighter_config::xds::client::{Client, Key, Received};
use lighter_config::xds::decode::Codec;
use lighter_config::xds::wire::envoy::config::core::v3::Node;
use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

use crate::rpc::{Call, Identity};

/// What became of it.
pub enum Event {
    /// It holds all that it calls.
    Settled,
    /// It was told something after that, and has said that it took it.
    Accepted(Kind),
}

/// Starts one, on a thread of its own, that calls these services.
pub fn start(
    number: usize,
    server: SocketAddr,
    identity: &Identity,
    calls: &[String],
    events: Sender<(Instant, Event)>,
) {
    let mut client = Client::new(Codec { own: true }, Duration::from_secs(3600));
    let service = |name: &String| Key { kind: Kind::Service, name: format!("default/{name}").into() };
    calls.iter().map(service).for_each(|key| client.want(key));
    client.want(Key { kind: Kind::Workload, name: "-/default".into() });
    client.connected();
    let (connector, mut node) =
        (identity.connector(), Some(Node { id: format!("simulated-{number}"), ..Node::default() }));
    std::thread::spawn(move || {
        let mut call: Call<DiscoveryRequest, DiscoveryResponse> = Call::over(server, METHOD, Some(connector));
        let mut settled = false;
        let mut taken = None;
        loop {
            while let Some(mut request) = client.poll(Instant::now()) {
                request.node = node.take();
                call.send(&request);
            }
            if settled {
                let event = taken.take().map(Event::Accepted);
                event.into_iter().for_each(|event| drop(events.send((Instant::now(), event))));
            } else if client.awaited().next().is_none() {
                settled = true;
                drop(events.send((Instant::now(), Event::Settled)));
            }
            let Some(answer) = call.wait() else { return };
            match client.receive(answer) {
                Received::Accepted(kind) => taken = Some(kind),
                other => panic!("{other:?}"),
            }
        }
    });
}

const METHOD: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
