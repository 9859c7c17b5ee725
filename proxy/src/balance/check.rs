//! Active health checks: each endpoint of a port whose policy says so is asked time after time whether it is well, once by
//! this process and not by each worker.
//!
//! The question goes the way that requests go: in plain text, in mTLS, or by a link. Of the first worker, since links are of
//! workers. A call of gRPC needs a connection of HTTP/2, which no link is: it goes in mTLS beside it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::probe::{How, Probe};
use lighter_config::snapshot::{HealthCheck, Secure};
use lighter_probe::{Fault, Judge};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Endpoint;
use crate::dial;
use crate::error::{Cause, ProxyError};
use crate::identity::{ALPN_H2, ALPN_HTTP1};
use crate::io::Io;
use crate::link;
use crate::link::exchange::Exchange;
use crate::mesh::Mesh;
use crate::telemetry::Direction;
use crate::worker::Worker;

/// Has the endpoints asked that the mesh of the moment says, until it is dropped.
pub(crate) async fn run(worker: Rc<Worker>) {
    let mut asked: HashMap<u32, Asked> = HashMap::new();
    loop {
        let changed = worker.shared.mesh.changed();
        let mesh = worker.shared.mesh.load_full();
        let wanted = wanted(&mesh);
        asked.retain(|id, asked| wanted.get(id).is_some_and(|(_, check)| ***check == *asked.check));
        for (id, (endpoint, check)) in wanted {
            asked.entry(id).or_insert_with(|| Asked::start(&worker, endpoint.clone(), check.clone()));
        }
        drop(mesh);
        changed.await;
    }
}

fn wanted(mesh: &Mesh) -> HashMap<u32, (&Arc<Endpoint>, &Arc<HealthCheck>)> {
    let of_port = mesh.destinations().filter_map(|destination| {
        let check = destination.policy().health_check.as_ref()?;
        Some(destination.cluster.endpoints().iter().map(move |endpoint| (endpoint.id, (endpoint, check))))
    });
    of_port.flatten().collect()
}

/// An endpoint that is asked. One that is not asked any more is taken for well.
struct Asked {
    endpoint: Arc<Endpoint>,
    check: Arc<HealthCheck>,
    task: JoinHandle<()>,
}

impl Asked {
    fn start(worker: &Rc<Worker>, endpoint: Arc<Endpoint>, check: Arc<HealthCheck>) -> Self {
        let task = tokio::task::spawn_local(ask(worker.clone(), endpoint.clone(), check.clone()));
        Asked { endpoint, check, task }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
        self.endpoint.is_well(true);
    }
}

async fn ask(worker: Rc<Worker>, endpoint: Arc<Endpoint>, check: Arc<HealthCheck>) {
    let probe = &check.probe;
    // An endpoint is well until it is known not to be, or a sidecar that starts would serve nobody.
    let mut judge = Judge::new(true);
    // Those that are listed together are not asked together.
    sleep(probe.interval.min(FIRST).mul_f32(fastrand::f32())).await;
    loop {
        let answer = once(&worker, &endpoint, probe).await;
        endpoint.metrics.checked(answer.is_ok());
        if judge.hear(&answer, probe) {
            endpoint.is_well(judge.is_well());
            let (service, address) = (&endpoint.group.key, endpoint.address);
            match answer {
                Ok(()) => {
                    tracing::info!(%service, endpoint = %address, "the endpoint passes its health check")
                }
                Err(fault) => {
                    tracing::warn!(%service, endpoint = %address, %fault, "the endpoint fails its health check");
                }
            }
        }
        sleep(probe.interval.mul_f32(0.9 + 0.2 * fastrand::f32())).await;
    }
}

async fn once(worker: &Rc<Worker>, endpoint: &Endpoint, probe: &Probe) -> Result<(), Fault> {
    let connect = async |at| connect(worker, endpoint, probe, at).await.map_err(io::Error::other);
    lighter_probe::ask_over(probe, endpoint.address, connect, OnThisThread).await
}

/// A connection to the application, as a request to it would have one.
async fn connect(
    worker: &Rc<Worker>,
    endpoint: &Endpoint,
    probe: &Probe,
    at: SocketAddr,
) -> Result<Io, ProxyError> {
    let (shared, timeout) = (&worker.shared, probe.timeout);
    match (&endpoint.secure, &probe.how) {
        (None, _) => dial::connect(&*shared.outside, at, timeout).await.map(Io::new),
        (Some(secure @ Secure { link: Some(link), .. }), How::Http(_)) => {
            let link = worker.links.link(worker, secure, *link, timeout).await?;
            Ok(Io::over_link(Exchange::calling(link, at.to_string().into())))
        }
        (Some(secure @ Secure { link: Some(link), .. }), How::Tcp) => {
            match worker.links.tunnel(worker, secure, *link, at, timeout).await {
                // Of a port that speaks HTTP: there the sidecar answers for its application.
                Err(error) if error.cause == Cause::Unsupported => {
                    link::dial::connect(shared, Direction::Outbound, at, Some(secure), ALPN_HTTP1, timeout)
                        .await
                }
                tunnel => tunnel,
            }
        }
        (secure @ Some(_), how) => {
            let protocol = if matches!(how, How::Grpc(_)) { ALPN_H2 } else { ALPN_HTTP1 };
            let secure = secure.as_ref();
            link::dial::connect(shared, Direction::Outbound, at, secure, protocol, timeout).await
        }
    }
}

/// Runs what a connection of HTTP/2 has to do beside its requests.
#[derive(Clone)]
struct OnThisThread;

impl<F: Future + 'static> hyper::rt::Executor<F> for OnThisThread {
    fn execute(&self, beside: F) {
        tokio::task::spawn_local(async move {
            beside.await;
        });
    }
}

/// The first question is asked within so much time.
const FIRST: Duration = Duration::from_secs(1);
