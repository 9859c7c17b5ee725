//! `lighter ca`: the authority in the control plane's state folder, by hand. The control plane may run meanwhile.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use lighter_config::identity::{DEFAULT_TRUST_DOMAIN, Spiffe, TrustDomain};
use lighter_config::name::{DEFAULT_NAMESPACE, ServiceName, is_label};
use lighter_config::resource;
use miette::{Context, IntoDiagnostic, miette};
use serde::Serialize;

use super::root::seconds;
use super::{Authority, RootInfo, Step, disk};
use crate::api::message::JoinToken;
use crate::client::access::Access;
use crate::client::tokens;
use crate::exit::{self, Exit};
use crate::output;

/// Arguments of `lighter ca`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The control plane's state folder
    #[arg(long, value_name = "DIR", default_value = "lighter-state", global = true)]
    state: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Make an authority. `lighter control` makes one too where there is none
    Init {
        /// The trust domain that it vouches for
        #[arg(long, value_name = "DOMAIN", default_value = DEFAULT_TRUST_DOMAIN, value_parser = trust_domain)]
        trust_domain: TrustDomain,
    },
    /// Take the next step to a new root: trust it, then sign with it, then forget the old one
    Rotate {
        /// Do not wait until the step before has reached everyone
        #[arg(long)]
        hurry: bool,
        /// How long certificates live
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        svid_life: Duration,
    },
    /// Make a join token: with it one workload of the service gets its first certificate
    Token {
        /// For which service, `name` or `namespace/name`
        #[arg(long, value_name = "NAME", value_parser = service)]
        service: ServiceName,
        /// How long it can be used
        #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = duration)]
        life: Duration,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take a join token back
    Revoke {
        /// Which, as `list` calls it
        #[arg(value_name = "ID")]
        id: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// List the roots and the join tokens
    List {
        /// Write one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Write the roots, as PEM
    Bundle,
    /// Make a key and a certificate for an operator, who shows it to the control plane's API instead of the token
    Operator {
        /// Who: letters, digits, `.`, `-` and `_`. The audit log has the name
        #[arg(value_name = "NAME")]
        name: String,
        /// How long the certificate lives
        #[arg(long, value_name = "DURATION", default_value = "720h", value_parser = duration)]
        life: Duration,
        /// The folder for `certificate.pem`, `key.pem` and `bundle.pem`
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a key and a certificate without a control plane, for a sidecar's `identity`
    Issue {
        /// For which service, `name` or `namespace/name`
        #[arg(long, value_name = "NAME", value_parser = service)]
        service: ServiceName,
        /// How long the certificate lives
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
        life: Duration,
        /// The folder for `certificate.pem`, `key.pem` and `bundle.pem`
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
}

/// Whether the authority is elsewhere.
#[derive(Debug, clap::Args)]
struct Remote {
    /// Ask the control plane's API, not the files on this machine. Of roots it says nothing
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    access: Access,
}

impl Remote {
    /// The API, if it is to be asked.
    fn api(&self) -> Option<&Access> {
        self.remote.then_some(&self.access)
    }
}

/// What `list` shows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    trust_domain: String,
    roots: Vec<RootInfo>,
    tokens: Vec<JoinToken>,
}

/// Runs the command.
pub fn execute(args: Args) -> miette::Result<Exit> {
    let now = SystemTime::now();
    let open = || Authority::open(&args.state).into_diagnostic();
    match args.what {
        What::Init { trust_domain } => {
            let authority = Authority::init(&args.state, &trust_domain, now).into_diagnostic()?;
            output::line(format_args!("authority for {}, root 1 active", authority.domain()))?;
        }
        What::Rotate { hurry, svid_life } => {
            output::line(said(open()?.rotate(hurry, svid_life, now).into_diagnostic()?))?;
        }
        What::Token { service, life, remote } => match remote.api() {
            Some(api) => return tokens::make(api, &service, life),
            None => output::line(open()?.token(&service, life, now).into_diagnostic()?)?,
        },
        What::Revoke { id, remote } => {
            if let Some(api) = remote.api() {
                return tokens::revoke(api, &id);
            }
            if !open()?.revoke(&id).into_diagnostic()? {
                exit::explain(&miette!("there is no join token {id}"));
                return Ok(Exit::Fault);
            }
            output::line(format_args!("token {id} is taken back"))?;
        }
        What::List { json, remote } => {
            if let Some(api) = remote.api() {
                return tokens::list(api, json);
            }
            let authority = open()?;
            let tokens = authority.tokens(now).into_diagnostic()?;
            let listed = Listed {
                trust_domain: authority.domain().to_string(),
                roots: authority.roots(),
                tokens: tokens.iter().map(|info| JoinToken::of(info, now)).collect(),
            };
            if json { output::json(&listed)? } else { listed.show(now)? }
        }
        What::Operator { name, life, out } => {
            let authority = open()?;
            let id = authority.operator(&name).into_diagnostic()?;
            issue(&authority, &id, life, &out, now)?;
        }
        What::Bundle => output::line(open()?.bundle_pem().trim_end())?,
        What::Issue { service, life, out } => {
            let authority = open()?;
            let id = authority.identity(&service).into_diagnostic()?;
            issue(&authority, &id, life, &out, now)?;
        }
    }
    Ok(Exit::Ok)
}

fn issue(
    authority: &Authority,
    id: &Spiffe,
    life: Duration,
    out: &std::path::Path,
    now: SystemTime,
) -> miette::Result<()> {
    let (issued, key) = authority.make(id, &[], life, now).into_diagnostic()?;
    disk::folder(out)
        .into_diagnostic()
        .wrap_err_with(|| format!("cannot make the folder {}", out.display()))?;
    // The key last: a sidecar that looks in between takes none of it.
    let files = [
        ("bundle.pem", authority.bundle_pem()),
        ("certificate.pem", super::pem(&issued.chain)),
        ("key.pem", key.serialize_pem()),
    ];
    for (name, text) in files {
        let path = out.join(name);
        disk::write(&path, text.as_bytes())
            .into_diagnostic()
            .wrap_err_with(|| format!("cannot write {}", path.display()))?;
    }
    output::line(&issued.id)?;
    Ok(())
}

fn said(step: Step) -> String {
    match step {
        Step::Prepared(root) => format!(
            "root {root} is trusted from now on; `lighter ca rotate` again when it has reached every sidecar"
        ),
        Step::Activated(root) => format!(
            "root {root} signs from now on; `lighter ca rotate` again when no certificate of the old one is alive"
        ),
        Step::Retired => "the old root is trusted no more".to_owned(),
    }
}

impl Listed {
    fn show(&self, now: SystemTime) -> Result<(), output::OutputError> {
        output::line(format_args!("trust domain {}", self.trust_domain))?;
        for root in &self.roots {
            let state = format!("{:?}", root.state).to_lowercase();
            let minutes = seconds(now).saturating_sub(root.since) / 60;
            output::line(format_args!("root {:<6} {state:<8} for {minutes} min", root.number))?;
        }
        self.tokens.iter().try_for_each(tokens::show)
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

fn service(text: &str) -> Result<ServiceName, String> {
    let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
    if is_label(namespace) && is_label(name) {
        Ok(ServiceName::new(namespace, name))
    } else {
        Err("expected `name` or `namespace/name`, each a DNS label".to_owned())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match resource::Duration::parse(text) {
        Some(resource::Duration(duration)) if duration >= Duration::from_secs(1) => Ok(duration),
        _ => Err("expected for example `15m` or `24h`".to_owned()),
    }
}
