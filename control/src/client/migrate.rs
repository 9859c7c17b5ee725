//! `lighter migrate`: moves a service from one instance to another, and says how it goes.

use std::time::{Duration, Instant, SystemTime};

use http::Method;
use lighter_config::name::DEFAULT_NAMESPACE;
use lighter_config::resource::{LIGHTER, Spec, migration::MigrationSpec};
use miette::miette;
use serde_json::json;

use super::access::{Access, Answered};
use super::{explain, files, migrations};
use crate::api::message::{Aborting, Done, Files};
use crate::exit::{self, Exit};
use crate::migrate::{Outcome, Shown};
use crate::output;

/// Arguments of `lighter migrate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which Service; what it keeps between requests moves with it, if its `state` says how
    #[arg(value_name = "SERVICE", value_parser = files::name, required_unless_present = "abort")]
    service: Option<String>,
    /// The instance where it is, as `get sidecars` calls it: `NAMESPACE/SERVICE/INSTANCE`, or `INSTANCE` alone
    #[arg(long, value_name = "INSTANCE", required_unless_present = "abort")]
    from: Option<String>,
    /// The instance where it goes
    #[arg(long, value_name = "INSTANCE", required_unless_present = "abort")]
    to: Option<String>,
    /// What the Migration is to be called; without it, after the Service and the time
    #[arg(long, value_name = "NAME", value_parser = files::name)]
    name: Option<String>,
    /// Have the Migration of this name aborted, while its service is where it was
    #[arg(long, value_name = "NAME", value_parser = files::name, conflicts_with_all = ["service", "from", "to", "name", "no_wait"])]
    abort: Option<String>,
    /// Do not wait for its end
    #[arg(long)]
    no_wait: bool,
    /// The namespace
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = files::name)]
    namespace: String,
    #[command(flatten)]
    access: Access,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    if let Some(name) = &args.abort {
        return args.abort(name);
    }
    let (Some(service), Some(from), Some(to)) = (&args.service, &args.from, &args.to) else {
        return Ok(Exit::Usage);
    };
    let name = args.name.clone().unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        format!("{service}-{}", now.as_millis())
    });
    if let Some(known) = args.find(&name, None)? {
        exit::explain(&miette!(
            help = "give another --name, or remove that one with `lighter delete migration`",
            "there is a Migration {} already",
            known.name
        ));
        return Ok(Exit::Fault);
    }
    let document = json!({
        "apiVersion": LIGHTER,
        "kind": MigrationSpec::KIND,
        "metadata": {"name": name, "namespace": args.namespace},
        "spec": {
            "service": service,
            "from": {"instance": instance(from)},
            "to": {"instance": instance(to)},
        },
    });
    let target = format!("/v1/resources/{}/{}/{name}", MigrationSpec::KIND, args.namespace);
    match args.access.ask::<Done>(Method::PUT, &target, Some(&document))? {
        Answered::Done(_) => output::line(format_args!("Migration {}/{name} begins", args.namespace))?,
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            return Ok(Exit::Fault);
        }
    }
    if args.no_wait { Ok(Exit::Ok) } else { args.follow(&name) }
}

impl Args {
    fn abort(&self, name: &str) -> miette::Result<Exit> {
        let target = format!("/v1/migrations/{}/{name}/abort", self.namespace);
        match self.access.ask::<Aborting>(Method::POST, &target, None::<&()>)? {
            Answered::Done(aborting) => {
                output::line(format_args!("Migration {} is to be aborted", aborting.migration))?;
                Ok(Exit::Ok)
            }
            Answered::Refused(_, refused) => {
                explain(&refused, &Files::default());
                Ok(Exit::Fault)
            }
        }
    }

    /// The one of this name. Of those whose resource is gone only the one that began then: others had the name before.
    fn find(&self, name: &str, began: Option<u64>) -> miette::Result<Option<Shown>> {
        let all = migrations::ask(&self.access, Some(&self.namespace))?;
        let is_it = |shown: &Shown| {
            shown.name == name
                && (!shown.gone || shown.outcome.is_none() || began.is_some() && shown.began == began)
        };
        Ok(all.into_iter().flatten().find(is_it))
    }

    /// Says each phase as it is entered, until the end.
    fn follow(&self, name: &str) -> miette::Result<Exit> {
        let mut told = 0;
        let (mut waited, mut began) = (false, None);
        let mut heard = Instant::now();
        loop {
            match self.find(name, began) {
                Ok(Some(shown)) => {
                    heard = Instant::now();
                    began = shown.began;
                    for entered in shown.phases.iter().skip(told) {
                        output::line(format_args!("  {:<12} +{} ms", entered.phase, entered.after))?;
                    }
                    told = told.max(shown.phases.len());
                    if !std::mem::replace(&mut waited, true) && shown.began.is_none() {
                        output::line("  waits for another migration of its Service")?;
                    }
                    if let Some(outcome) = shown.outcome {
                        return tell(&shown, outcome);
                    }
                }
                // It may be about to be begun, or the control plane is being started again.
                Ok(None) | Err(_) if heard.elapsed() < AWAY => {}
                Ok(None) => return Err(miette!("Migration {name} was removed before it began")),
                Err(error) => return Err(error),
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Says how it ended.
fn tell(shown: &Shown, outcome: Outcome) -> miette::Result<Exit> {
    let took = shown.took.unwrap_or_default();
    let because = shown.because.as_deref().unwrap_or("nobody knows why");
    match outcome {
        Outcome::Done => {
            let left = match shown.left {
                Some(0) => "nothing is under way at the old instance".to_owned(),
                Some(left) => format!("{left} requests still end at the old instance"),
                None => "the old instance did not say what is under way there".to_owned(),
            };
            output::line(format_args!("{} is at {} after {took} ms; {left}", shown.service, shown.to))?;
            return Ok(Exit::Ok);
        }
        Outcome::Aborted => {
            exit::explain(&miette!("aborted, {} is at {} as before: {because}", shown.service, shown.from));
        }
        Outcome::RolledBack => {
            exit::explain(&miette!("rolled back, {} is at {} again: {because}", shown.service, shown.from));
        }
        Outcome::Lost => {
            exit::explain(&miette!("decided for {}, and {because}", shown.to));
        }
        Outcome::Refused => {
            exit::explain(&miette!("not begun: {because}"));
        }
    }
    Ok(Exit::Fault)
}

/// The instance of `namespace/service/instance`.
fn instance(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

/// How often it is asked how it goes.
const LOOK: Duration = Duration::from_millis(100);
/// How long the control plane may be away meanwhile.
const AWAY: Duration = Duration::from_secs(60);
