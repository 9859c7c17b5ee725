//! `lighter.registry.v1.Registry`: one stream a sidecar, from one that proved who it is.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use lighter_config::identity::Spiffe;
use lighter_config::xds::wire::lighter::registry::v1::report_request::Report;
use lighter_config::xds::wire::lighter::registry::v1::report_response::Order;
use lighter_config::xds::wire::lighter::registry::v1::{Lease, Registration, ReportRequest, ReportResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Instance;
use super::sidecars::Id;
use crate::serve::grpc::Caller;
use crate::serve::rpc::lighter::registry::v1::registry_server::Registry;
use crate::state::State;

pub use crate::serve::rpc::lighter::registry::v1::registry_server::RegistryServer as Server;

/// The service.
pub struct Reports {
    state: Arc<State>,
}

impl Reports {
    /// Takes reports for this control plane.
    pub fn new(state: Arc<State>) -> Self {
        Reports { state }
    }
}

#[tonic::async_trait]
impl Registry for Reports {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        let peer = request.extensions().get::<Caller>().and_then(|caller| caller.peer.as_ref());
        let peer = peer.ok_or_else(|| Status::unauthenticated("who registers shows a certificate"))?;
        let identity = peer.id.clone();
        let (sender, receiver) = mpsc::channel(1);
        let stream = self.state.registry.stream();
        let (orders, given) = mpsc::channel(MOST_ORDERS);
        let talk = Talk { state: self.state.clone(), stream, identity, sender, orders, given, id: None };
        tokio::spawn(talk.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream. When it is dropped, the lease of its instance begins to run.
struct Talk {
    state: Arc<State>,
    stream: u64,
    identity: Spiffe,
    sender: mpsc::Sender<Result<ReportResponse, Status>>,
    /// To have it do something.
    orders: mpsc::Sender<Order>,
    given: mpsc::Receiver<Order>,
    /// Which sidecar speaks, once it has said so.
    id: Option<Id>,
}

/// What is said on a stream.
enum Said {
    By(Option<Box<ReportRequest>>),
    ToIt(Box<Order>),
}

impl Talk {
    async fn run(mut self, mut requests: Streaming<ReportRequest>) {
        let mut stopping = self.state.stopping();
        loop {
            let request = tokio::select! {
                () = stopping.asked() => return,
                request = requests.message() => request.map(|said| Said::By(said.map(Box::new))),
                Some(order) = self.given.recv() => Ok(Said::ToIt(Box::new(order))),
            };
            let answer = match request {
                Ok(Said::ToIt(order)) => Ok(ReportResponse { order: Some(*order) }),
                Ok(Said::By(Some(request))) => match self.take(request.report) {
                    Some(answer) => answer,
                    None => continue,
                },
                Ok(Said::By(None)) | Err(_) => return,
            };
            let refused = answer.is_err();
            let sent = tokio::select! {
                () = stopping.asked() => return,
                sent = self.sender.send(answer) => sent,
            };
            if refused || sent.is_err() {
                return;
            }
        }
    }

    /// Takes a report in. Returns the answer, if it gets one.
    fn take(&mut self, report: Option<Report>) -> Option<Result<ReportResponse, Status>> {
        let sidecars = &self.state.registry.sidecars;
        match (report?, &self.id) {
            (Report::Registration(said), _) => return Some(self.register(&said)),
            (Report::InForce(said), Some(id)) => sidecars.in_force(id, said),
            (Report::Load(said), Some(id)) => sidecars.load(id, said, Instant::now()),
            (Report::Waiting(said), Some(id)) => sidecars.waiting(id, said),
            (Report::Counted(said), Some(id)) => {
                sidecars.counts(id, said);
                self.state.migrations.wake();
            }
            (Report::Place(said), Some(id)) => match sidecars.places(id, said) {
                Ok(()) => self.state.migrations.wake(),
                Err(error) => tracing::warn!(sidecar = %id, %error, "what it says of its place is left out"),
            },
            // It has not said who it is.
            (
                Report::InForce(_)
                | Report::Load(_)
                | Report::Waiting(_)
                | Report::Counted(_)
                | Report::Place(_),
                None,
            ) => {}
        }
        None
    }

    fn register(&mut self, said: &Registration) -> Result<ReportResponse, Status> {
        let State { registry, metrics, index, .. } = &*self.state;
        let taken = match Instance::read(said, &self.identity) {
            Ok(Some((name, instance))) => registry
                .register(self.stream, &name, instance, index)
                .map_err(|refused| Status::failed_precondition(refused.to_string())),
            Ok(None) => Ok(()),
            Err(faulty) => Err(Status::invalid_argument(faulty.to_string())),
        };
        match taken {
            Ok(()) => {
                if self.id.is_none() {
                    let id = Id { identity: self.identity.clone(), instance: said.instance.as_str().into() };
                    registry.sidecars.enter(id.clone(), self.stream, self.orders.clone());
                    self.id = Some(id);
                }
                if let Some(id) = &self.id {
                    registry.sidecars.can_hold(id, said.holds);
                }
                metrics.registrations.fetch_add(1, Relaxed);
                if said.leaving {
                    self.state.migrations.wake();
                }
                let seconds = self.state.config.lease.as_secs() as u32;
                Ok(ReportResponse { order: Some(Order::Lease(Lease { seconds })) })
            }
            Err(status) => {
                metrics.refused_registrations.fetch_add(1, Relaxed);
                let reason = status.message();
                tracing::warn!(identity = %self.identity, reason, "a registration is refused");
                Err(status)
            }
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.state.registry.sidecars.leave(id, self.stream);
        }
        self.state.registry.lost(self.stream, Instant::now());
    }
}

/// Most orders that a sidecar may leave unheard.
const MOST_ORDERS: usize = 4;
