//! An identity from the control plane: the first certificate for a join token, each further one for the one before, and
//! the roots as they change. Of the control thread.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lighter_config::identity::{JoinToken, Pinned, Spiffe, provider};
use lighter_config::sidecar::{ControlConfig, ControlSecurity, TokenSource};
use lighter_config::xds::client::Backoff;
use lighter_config::xds::wire::lighter::identity::v1 as wire;
use rcgen::{CertificateParams, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::keep::{self, Credentials};
use super::schedule::{Due, Schedule};
use super::svid::judge;
use super::{ALPN_H2, Identity, Svid, now};
use crate::channel;
use crate::telemetry::{self, Request, RequestOutcome};
use crate::worker::Shared;

/// The client of the service, as compiled from its protobuf file.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod service {
    tonic::include_proto!("lighter.identity.v1");
}

use service::certificates_client::CertificatesClient;

/// Becomes who the control plane says, and goes on doing so, until it is dropped. `known` is told once this sidecar is
/// somebody. What fails is tried again: a token may yet come.
pub(crate) async fn run(shared: Arc<Shared>, known: oneshot::Sender<()>) {
    let Some(control) = shared.config.control.clone() else { return };
    let ControlSecurity::Joined { token, state } = control.security.clone() else { return };
    let mut member = Member {
        shared,
        control,
        token,
        path: keep::path(&state),
        credentials: None,
        schedule: Schedule::new(),
        fault: None,
    };
    member.restore();
    let mut known = Some(known);
    let (sender, mut bundles) = mpsc::channel(1);
    loop {
        if member.shared.identity.get().is_some()
            && let Some(known) = known.take()
        {
            // Whoever waited may be gone.
            let _ = known.send(());
            tokio::task::spawn_local(watch(member.shared.clone(), member.control.clone(), sender.clone()));
        }
        let now = now();
        match member.schedule.due(now) {
            Due::Join => member.join().await,
            Due::Renew => member.renew().await,
            Due::At(time) => {
                let pause = time.duration_since(now).unwrap_or_default().min(LONGEST_SLEEP);
                tokio::select! {
                    () = sleep(pause) => {}
                    Some(bundle) = bundles.recv() => member.trust(bundle),
                }
            }
        }
    }
}

/// Whether this sidecar's identity is the control plane's to give.
pub(crate) fn is_joining(control: Option<&ControlConfig>) -> bool {
    control.is_some_and(|control| matches!(control.security, ControlSecurity::Joined { .. }))
}

struct Member {
    shared: Arc<Shared>,
    control: ControlConfig,
    token: Option<TokenSource>,
    /// Where they are kept.
    path: PathBuf,
    credentials: Option<Credentials>,
    schedule: Schedule,
    /// What the log has said last of what fails.
    fault: Option<String>,
}

/// Why there is no certificate.
struct Failure {
    /// The control plane said no.
    refused: bool,
    why: String,
}

impl Member {
    /// Takes over what is kept.
    fn restore(&mut self) {
        let path = self.path.display();
        let credentials = match keep::read(&self.path) {
            Ok(Some(credentials)) => credentials,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%path, %error, "the identity that is kept cannot be read"),
        };
        if !credentials.chain.is_empty() {
            match credentials.svid(now()) {
                Ok(svid) if !self.is_own(svid.id()) => {
                    let identity = svid.id();
                    tracing::warn!(%path, %identity, "the identity that is kept is another service's: not used");
                    return;
                }
                Ok(svid) => {
                    tracing::info!(identity = %svid.id(), %path, "the identity that is kept is in force again");
                    self.schedule.received(credentials.issued, svid.not_after(), fastrand::f64());
                    self.assume(svid);
                }
                Err(error) => {
                    // The certificate is worth nothing any more; neither is its key.
                    tracing::warn!(%path, %error, "the identity that is kept is not usable any more");
                    return;
                }
            }
        }
        self.credentials = Some(credentials);
    }

    /// Whether it can be this sidecar's: of the Service that its file names, if it names one.
    fn is_own(&self, id: &Spiffe) -> bool {
        self.shared.service().is_none_or(|service| id.service_name().as_ref() == Some(service))
    }

    /// Asks for the first certificate.
    async fn join(&mut self) {
        let joined = self.try_join().await;
        self.done(Request::Join, joined);
    }

    async fn try_join(&mut self) -> Result<(), Failure> {
        let token = self.token()?;
        // Another certificate is for another key. One that was asked for in vain is asked for again: the token may be
        // spent for its key.
        let waiting = self.credentials.take().filter(|credentials| credentials.chain.is_empty());
        let credentials = match waiting {
            Some(credentials) => credentials,
            None => {
                let new = Credentials::new(now()).map_err(|error| Failure::of(&error))?;
                // Kept before the token is spent for it.
                keep::write(&self.path, &new)
                    .map_err(|error| Failure::here(format!("the key cannot be kept: {error}")))?;
                new
            }
        };
        let credentials = self.credentials.insert(credentials);
        let tls = pinned(&token).map_err(|error| Failure::of(&error))?;
        let sockets = self.shared.outside.clone();
        let opened = channel::connect(&self.control.address, sockets, Some(tls)).await;
        let opened = opened.map_err(Failure::here)?;
        let answer = sign(opened, &credentials.key, token.secret()).await?;
        let received = Credentials::received(credentials.key.clone(), answer);
        self.receive(received)
    }

    /// The token to join with, if there is any that can be the right one.
    fn token(&self) -> Result<JoinToken, Failure> {
        let token = match &self.token {
            None => {
                return Err(Failure::here(format!(
                    "there is no identity in {}, and no join token to get one with: say `tokenFile`",
                    self.path.display()
                )));
            }
            Some(TokenSource::Said(token)) => token.clone(),
            Some(TokenSource::File(path)) => {
                let fault = |why: String| Failure::here(format!("{}: {why}", path.display()));
                let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
                JoinToken::parse(&text).map_err(|error| fault(error.to_string()))?
            }
        };
        match self.shared.service() {
            // Found out before it is spent.
            Some(service) if service != token.service() => {
                let for_whom = token.service();
                Err(Failure::here(format!("the join token is for {for_whom}, and this is {service}")))
            }
            _ => Ok(token),
        }
    }

    /// Asks for the next certificate, for a key of its own.
    async fn renew(&mut self) {
        let renewed = self.try_renew().await;
        self.done(Request::Renew, renewed);
    }

    async fn try_renew(&mut self) -> Result<(), Failure> {
        let key = KeyPair::generate().map_err(|error| Failure::of(&error))?;
        let opened = channel::open(&self.shared, &self.control).await.map_err(Failure::here)?;
        let answer = sign(opened, &key, "").await?;
        self.receive(Credentials::received(Arc::new(key), answer))
    }

    /// Takes over a certificate, if it is one of this sidecar.
    fn receive(&mut self, credentials: Credentials) -> Result<(), Failure> {
        let svid = credentials.svid(now()).map_err(|error| Failure::of(&error))?;
        if !self.is_own(svid.id()) {
            return Err(Failure::here(format!("the certificate is for {}, another service", svid.id())));
        }
        if let Some(identity) = self.shared.identity.get()
            && identity.current().id() != svid.id()
        {
            let was = identity.current().id().clone();
            return Err(Failure::here(format!("the certificate is for {}, and this is {was}", svid.id())));
        }
        self.schedule.received(credentials.issued, svid.not_after(), fastrand::f64());
        tracing::info!(identity = %svid.id(), "a certificate of the control plane is in force");
        self.assume(svid);
        self.keep(credentials);
        Ok(())
    }

    /// Trusts other roots from now on.
    fn trust(&mut self, bundle: wire::Bundle) {
        let Some(before) = &self.credentials else { return };
        if bundle.sequence == before.sequence || before.chain.is_empty() {
            return;
        }
        let credentials = Credentials {
            key: before.key.clone(),
            chain: before.chain.clone(),
            roots: certificates(bundle.roots),
            sequence: bundle.sequence,
            issued: before.issued,
        };
        match credentials.svid(now()) {
            Ok(svid) if svid.id().trust_domain() == bundle.trust_domain => {
                let (roots, sequence) = (credentials.roots.len(), credentials.sequence);
                tracing::info!(roots, sequence, "other roots are in force");
                self.assume(svid);
                self.keep(credentials);
                self.schedule.roots_changed(now(), fastrand::f64());
            }
            Ok(_) => tracing::error!(
                trust_domain = bundle.trust_domain,
                "roots of another trust domain: those in force stay"
            ),
            Err(error) => tracing::error!(%error, "roots that cannot be used: those in force stay"),
        }
    }

    fn assume(&self, svid: Svid) {
        match self.shared.identity.get() {
            Some(identity) => identity.replace(svid),
            None => drop(self.shared.identity.set(Identity::new(svid))),
        }
    }

    fn keep(&mut self, credentials: Credentials) {
        if let Err(error) = keep::write(&self.path, &credentials) {
            let path = self.path.display();
            tracing::error!(%path, %error, "the identity cannot be kept: after a restart it is missing");
        }
        self.credentials = Some(credentials);
    }

    fn done(&mut self, request: Request, outcome: Result<(), Failure>) {
        let counted = match &outcome {
            Ok(()) => RequestOutcome::Received,
            Err(Failure { refused: true, .. }) => RequestOutcome::Refused,
            Err(_) => RequestOutcome::Failed,
        };
        telemetry::identity().requested(request, counted);
        let Err(Failure { why, .. }) = outcome else {
            self.fault = None;
            return;
        };
        self.schedule.failed(now(), fastrand::f64());
        // Said once, not at every try.
        if self.fault.as_ref() != Some(&why) {
            let control = &self.control.address;
            tracing::warn!(control, request = request.label(), "no certificate: {why}");
            self.fault = Some(why);
        }
    }
}

impl Credentials {
    fn received(key: Arc<KeyPair>, answer: wire::SignResponse) -> Self {
        let bundle = answer.bundle.unwrap_or_default();
        Credentials {
            key,
            chain: certificates(answer.chain),
            roots: certificates(bundle.roots),
            sequence: bundle.sequence,
            issued: now(),
        }
    }
}

impl Failure {
    /// Of this side, or of the way.
    fn here(why: String) -> Self {
        Failure { refused: false, why }
    }

    fn of(error: &dyn std::error::Error) -> Self {
        Self::here(error.to_string())
    }
}

/// TLS to a control plane of which nothing is known but what the token says.
fn pinned(token: &JoinToken) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(token.roots(), judge)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(Arc::new(config))
}

async fn sign(opened: channel::Opened, key: &KeyPair, token: &str) -> Result<wire::SignResponse, Failure> {
    // The control plane knows who this is; names in a request mean nothing to it.
    let request = CertificateParams::default().serialize_request(key).map_err(|error| Failure::of(&error))?;
    let request = wire::SignRequest { csr: request.der().to_vec(), join_token: token.to_owned() };
    let mut client = CertificatesClient::new(opened.channel);
    match timeout(LONGEST_ANSWER, client.sign(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => {
            let refused = matches!(
                status.code(),
                Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument
            );
            Err(Failure { refused, why: channel::say(&status) })
        }
        Err(_) => Err(Failure::here("no answer in time".to_owned())),
    }
}

/// Passes on every bundle that the control plane tells of, until nobody listens.
async fn watch(shared: Arc<Shared>, control: ControlConfig, bundles: mpsc::Sender<wire::Bundle>) {
    let mut backoff = Backoff::default();
    loop {
        // Why it ends says the ADS stream, which ends as well.
        if let Ok(opened) = channel::open(&shared, &control).await
            && let Ok(answer) =
                CertificatesClient::new(opened.channel).watch_bundle(wire::WatchBundleRequest {}).await
        {
            let mut told = answer.into_inner();
            while let Ok(Some(bundle)) = told.message().await {
                backoff.reset();
                if bundles.send(bundle).await.is_err() {
                    return;
                }
            }
        }
        sleep(backoff.wait(fastrand::f64())).await;
    }
}

fn certificates(all: Vec<Vec<u8>>) -> Vec<CertificateDer<'static>> {
    all.into_iter().map(CertificateDer::from).collect()
}

/// The clock may be set, and the machine may sleep: it is looked at now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// How long an answer may take.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
