//! Certificates: the first one for a join token, each further one for the one before, and the roots as they change.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lighter_config::identity::Peer;
use lighter_config::xds::wire::lighter::identity::v1 as wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::grpc::Caller;
use super::rpc::lighter::identity::v1::certificates_server::Certificates as Service;
use crate::ca::{CaError, Issued};
use crate::metrics::Signed;
use crate::state::State;

pub use super::rpc::lighter::identity::v1::certificates_server::CertificatesServer as Server;

/// The service.
pub struct Certificates {
    state: Arc<State>,
}

impl Certificates {
    /// Serves what the authority of `state` issues.
    pub fn new(state: Arc<State>) -> Self {
        Certificates { state }
    }

    fn bundle(&self) -> wire::Bundle {
        bundle(&self.state)
    }

    /// The first certificate.
    fn join(&self, request: &wire::SignRequest) -> Result<Issued, Refused> {
        let life = self.state.config.svid_lifetime;
        match self.state.authority.join(&request.join_token, &request.csr, life, SystemTime::now()) {
            Ok(Ok(issued)) => Ok(issued),
            // Who guesses learns nothing; the log has the reason.
            Ok(Err(error)) => Err(Refused(
                Signed::TokenRefused,
                format!("a join token was refused: {error}"),
                Status::unauthenticated("the join token is not accepted"),
            )),
            Err(error) => Err(Refused::of(&error)),
        }
    }

    /// The next certificate of who has one.
    fn renew(&self, request: &wire::SignRequest, peer: &Peer) -> Result<Issued, Refused> {
        if peer.id.service_name().is_none() {
            let said = format!("{} asks for a certificate and is no workload", peer.id);
            return Err(Refused(
                Signed::Refused,
                said,
                Status::permission_denied("only workloads are certified"),
            ));
        }
        let now = SystemTime::now();
        // It was verified when it connected, which may be long ago.
        if let Err(refusal) = self.state.tls.verify(peer, now) {
            return Err(Refused(
                Signed::Refused,
                format!("the certificate of {} leads to no other: {refusal}", peer.id),
                Status::unauthenticated("the certificate is not accepted any more"),
            ));
        }
        let life = self.state.config.svid_lifetime;
        let signed = self.state.authority.sign(&request.csr, &peer.id, life, now);
        signed.map_err(|error| Refused::of(&error))
    }
}

#[tonic::async_trait]
impl Service for Certificates {
    type WatchBundleStream = ReceiverStream<Result<wire::Bundle, Status>>;

    async fn sign(
        &self,
        request: Request<wire::SignRequest>,
    ) -> Result<Response<wire::SignResponse>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let address = caller.as_ref().map(|caller| caller.address);
        let request = request.into_inner();
        let signed = match caller.as_ref().and_then(|caller| caller.peer.as_deref()) {
            _ if !request.join_token.is_empty() => self.join(&request),
            Some(peer) => self.renew(&request, peer),
            None => Err(Refused(
                Signed::Refused,
                "a certificate was asked for with neither a join token nor a certificate".to_owned(),
                Status::unauthenticated("a join token or a certificate is needed"),
            )),
        };
        match signed {
            Ok(issued) => {
                let joined = !request.join_token.is_empty();
                self.state.metrics.signed(if joined { Signed::Joined } else { Signed::Renewed });
                tracing::info!(peer = ?address, identity = %issued.id, joined, "certificate issued");
                Ok(Response::new(wire::SignResponse {
                    chain: issued.chain.iter().map(|one| one.to_vec()).collect(),
                    bundle: Some(self.bundle()),
                    not_after: seconds(issued.not_after),
                }))
            }
            Err(Refused(outcome, said, status)) => {
                self.state.metrics.signed(outcome);
                tracing::warn!(peer = ?address, reason = outcome.label(), "{said}");
                Err(status)
            }
        }
    }

    async fn watch_bundle(
        &self,
        request: Request<wire::WatchBundleRequest>,
    ) -> Result<Response<Self::WatchBundleStream>, Status> {
        let peer = request.extensions().get::<Caller>().and_then(|caller| caller.peer.as_ref());
        if peer.is_none() {
            return Err(Status::unauthenticated("a certificate is needed"));
        }
        let (sender, receiver) = mpsc::channel(1);
        let state = self.state.clone();
        tokio::spawn(async move {
            let mut changes = state.tls.changes();
            let mut stopping = state.stopping();
            loop {
                changes.mark_unchanged();
                if sender.send(Ok(bundle(&state))).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = stopping.asked() => return,
                    () = sender.closed() => return,
                    changed = changes.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// What is counted, what the log says, and what the caller is told.
struct Refused(Signed, String, Status);

impl Refused {
    fn of(error: &CaError) -> Self {
        let said = format!("no certificate was issued: {error}");
        match error {
            CaError::Request(why) => Refused(Signed::Refused, said, Status::invalid_argument(*why)),
            _ => Refused(Signed::Failed, said, Status::internal("the authority failed; its log says why")),
        }
    }
}

fn bundle(state: &State) -> wire::Bundle {
    let (roots, sequence) = state.authority.bundle();
    wire::Bundle {
        trust_domain: state.authority.domain().to_string(),
        roots: roots.iter().map(|root| root.to_vec()).collect(),
        sequence,
    }
}

fn seconds(time: SystemTime) -> i64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
