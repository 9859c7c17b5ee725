//! `lighter control`: the control plane. It tells sidecars and other xDS clients what the mesh says.

use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use lighter_config::control::ControlConfig;
use lighter_config::identity::TrustDomain;
use lighter_config::xds::Kind;
use lighter_proxy::telemetry::logging;
use miette::{Context, IntoDiagnostic, miette};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::api::{self, Api};
use crate::ca::{Authority, Tls};
use crate::exit::Exit;
use crate::index::Index;
use crate::inject::webhook::{Shown, Webhook};
use crate::migrate;
use crate::plan;
use crate::probes;
use crate::registry::{self, Registry};
use crate::state::State;
use crate::store::Store;

mod ads;
mod certificates;
pub mod grpc;
mod source;
pub mod streams;

/// The gRPC services, as compiled from `config/proto`.
#[allow(missing_docs, clippy::all)]
pub mod rpc {
    pub mod lighter {
        pub mod identity {
            pub mod v1 {
                tonic::include_proto!("lighter.identity.v1");
            }
        }
        pub mod registry {
            pub mod v1 {
                tonic::include_proto!("lighter.registry.v1");
            }
        }
    }
    pub mod envoy {
        pub mod service {
            pub mod discovery {
                pub mod v3 {
                    tonic::include_proto!("envoy.service.discovery.v3");
                }
            }
        }
    }
}

/// Arguments of `lighter control`. A flag goes before what the file says.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The control plane's own file; without it, everything is as by default
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder of all that outlives the process
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// ADS without TLS, on loopback only
    #[arg(long, value_name = "ADDRESS:PORT")]
    plaintext_ads: Option<SocketAddr>,
    /// Files or folders with resources, watched, beside those that the file names
    #[arg(long, value_name = "PATH", num_args = 1..)]
    resources: Vec<PathBuf>,
    /// What is logged to standard error: a level, or levels by module; LIGHTER_LOG goes before it
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
    /// Log JSON instead of text
    #[arg(long)]
    log_json: bool,
}

/// Runs the control plane until it is told to stop.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    if let Err(error) = logging::install(&args.log, args.log_json) {
        eprintln!("lighter: --log: {error}");
        return Ok(Exit::Usage);
    }
    let config = config(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().into_diagnostic()?;
    runtime.block_on(run(config))?;
    Ok(Exit::Ok)
}

fn config(args: &Args) -> miette::Result<ControlConfig> {
    let read = args.config.as_ref().map(|file| ControlConfig::read(file)).transpose();
    let mut config = read.map_err(|errors| miette!("{errors}"))?.unwrap_or_default();
    if let Some(state) = &args.state {
        config.state.clone_from(state);
    }
    config.plaintext_ads = args.plaintext_ads.or(config.plaintext_ads);
    config.resources.extend(args.resources.iter().cloned());
    match config.conflict() {
        Some(conflict) => Err(miette!("{conflict}")),
        None => Ok(config),
    }
}

async fn run(config: ControlConfig) -> miette::Result<()> {
    // Before anything that may take time: who starts it may end it from now on.
    let mut terminate = signal(SignalKind::terminate()).into_diagnostic()?;
    let mut interrupt = signal(SignalKind::interrupt()).into_diagnostic()?;
    let (state, seen) = open(config)?;
    migrate::open(&state).map_err(|error| miette!("migrations: {error}"))?;
    let state = Arc::new(state);
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(state.clone()));
    tasks.spawn(source::watch(state.clone(), seen));
    tasks.spawn(registry::keep(state.clone()));
    tasks.spawn(registry::keep_devices(state.clone()));
    tasks.spawn(plan::keep(state.clone()));
    tasks.spawn(migrate::keep(state.clone()));
    tasks.spawn(probes::keep(state.clone()));
    if let Some(address) = state.config.plaintext_ads {
        let listener = listen(address, "plaintextAds").await?;
        tracing::info!(%address, "ADS in plain text");
        // The gRPC profile, without whom a workload lets in. It has the identities of endpoints: they are no secret, and
        // who follows a listener without TLS relies on nobody else of this machine listening there.
        let ads = ads::Server::new(ads::Ads::new(state.clone(), &Kind::STANDARD));
        tasks.spawn(grpc::serve(
            state.clone(),
            listener,
            grpc::Services { ads, certificates: None, registry: None },
            None,
        ));
    }
    let api = Api::open(state.clone()).into_diagnostic().wrap_err("cannot open the API")?;
    let tls = api.tls().into_diagnostic().wrap_err("the API has no certificate")?;
    let listener = listen(state.config.api, "api").await?;
    tasks.spawn(api::serve(listener, move || tls.config(), Arc::new(api)));
    if let Some(config) = &state.config.webhook {
        let shown =
            Shown::open(&state, config).into_diagnostic().wrap_err("the webhook has no certificate")?;
        let listener = listen(config.listen, "webhook").await?;
        tracing::info!(address = %config.listen, "admission webhook");
        let webhook = Arc::new(Webhook::new(state.clone(), config));
        tasks.spawn(api::serve(listener, move || shown.config(), webhook));
    }
    let listener = listen(state.config.ads, "ads").await?;
    tracing::info!(address = %state.config.ads, trust_domain = %state.authority.domain(), "certificates and ADS over TLS");
    let ads = ads::Server::new(ads::Ads::new(state.clone(), &Kind::ALL));
    let certificates = Some(certificates::Server::new(certificates::Certificates::new(state.clone())));
    let registry = Some(registry::Server::new(registry::Reports::new(state.clone())));
    let services = grpc::Services { ads, certificates, registry };
    tasks.spawn(grpc::serve(state.clone(), listener, services, Some(state.tls.clone())));
    tasks.spawn(keep_identity(state.clone()));
    tracing::info!(services = state.index.snapshot().services.len(), "ready");
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = died(&mut tasks) => Some(ended),
    };
    state.stop();
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(LONGEST_GOODBYE, all).await.is_err() {
        tracing::warn!("some clients did not take their leave in time");
    }
    tracing::info!("stopped");
    match ended {
        None => Ok(()),
        Some(panic) => std::panic::resume_unwind(panic),
    }
}

/// Waits for a task to panic: no part of the control plane may be gone without anybody knowing.
async fn died(tasks: &mut JoinSet<()>) -> Box<dyn std::any::Any + Send> {
    loop {
        match tasks.join_next().await {
            Some(Err(error)) if error.is_panic() => return error.into_panic(),
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Opens all that outlives the process, and reads the resource files.
pub fn open(config: ControlConfig) -> miette::Result<(State, source::Seen)> {
    own_folder(&config.state)
        .into_diagnostic()
        .wrap_err_with(|| format!("the state folder {}", config.state.display()))?;
    let (files, seen) = source::read(&config.resources).map_err(|errors| miette!("{errors}"))?;
    let store = Store::open(&config.state.join("store.redb"), files).map_err(|error| miette!("{error}"))?;
    let (authority, tls) = identity(&config)?;
    let index = Index::new(&config.trust_domain);
    index.set_snapshot(store.snapshot());
    let registry = Registry::open(config.lease, &store, &index, Instant::now())
        .map_err(|error| miette!("registrations: {error}"))?;
    Ok((State::new(config, Arc::new(store), index, registry, authority, tls), seen))
}

/// Makes a folder for its owner alone. One that is there has to be ours, with nobody else to write in it: whoever can
/// lays a token or a key of their own there.
fn own_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = std::fs::metadata(path)?;
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    if found.uid() != rustix::process::geteuid().as_raw() {
        return denied(format!("it belongs to another user, {}", found.uid()));
    }
    if found.mode() & 0o022 != 0 {
        let mode = found.mode() & 0o7777;
        return denied(format!(
            "others can write in it (mode {mode:o}); take that from them with chmod go-w"
        ));
    }
    Ok(())
}

/// The authority, made where there is none, and what it lets this control plane show.
fn identity(config: &ControlConfig) -> miette::Result<(Arc<Authority>, Arc<Tls>)> {
    let now = SystemTime::now();
    let domain = TrustDomain::parse(&config.trust_domain)
        .map_err(|error| miette!("trustDomain `{}`: {error}", config.trust_domain.escape_debug()))?;
    let authority = Arc::new(Authority::open_or_init(&config.state, &domain, now).into_diagnostic()?);
    let addresses = vec![config.ads.ip(), config.api.ip()];
    let tls = Tls::new(authority.clone(), addresses, config.svid_lifetime, now).into_diagnostic()?;
    Ok((authority, Arc::new(tls)))
}

/// Keeps what the ports over TLS show alive.
async fn keep_identity(state: Arc<State>) {
    let mut stopping = state.stopping();
    tokio::select! {
        () = stopping.asked() => {}
        () = state.tls.keep() => {}
    }
}

async fn listen(address: SocketAddr, what: &str) -> miette::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.into_diagnostic();
    listener.wrap_err_with(|| format!("cannot listen on {address} ({what})"))
}

/// Brings every change of the store into the index.
async fn follow(state: Arc<State>) {
    let mut changed = state.store.watch();
    let mut stopping = state.stopping();
    loop {
        let view = state.store.view();
        for warning in &view.snapshot.warnings {
            tracing::warn!("{warning}");
        }
        if state.index.snapshot().version != view.snapshot.version {
            let (version, services) = (view.snapshot.version.clone(), view.snapshot.services.len());
            state.index.set_snapshot(view.snapshot.clone());
            state.metrics.snapshots.fetch_add(1, Relaxed);
            tracing::info!(services, %version, "resources in force");
        }
        tokio::select! {
            () = stopping.asked() => return,
            changed = changed.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// How long clients may take to end their streams when the control plane stops.
const LONGEST_GOODBYE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_state_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("deep/state");
        own_folder(&state).unwrap();
        assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        own_folder(&state).unwrap();
        for (mode, fine) in [(0o755, true), (0o775, false), (0o1777, false)] {
            std::fs::set_permissions(&state, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(own_folder(&state).is_ok(), fine, "{mode:o}");
        }
        // As a file is no folder.
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert!(own_folder(&folder.path().join("file")).is_err());
    }
}
