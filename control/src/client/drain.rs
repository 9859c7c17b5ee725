//! `lighter drain`: has a sidecar drain, as SIGTERM does, or without waiting.

use http::Method;
use lighter_config::name::DEFAULT_NAMESPACE;

use super::access::{Access, Answered};
use super::explain;
use crate::api::message::{Draining, Files};
use crate::exit::Exit;
use crate::output;

/// Arguments of `lighter drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which, as `get sidecars` calls it: `NAMESPACE/SERVICE/INSTANCE`, or `SERVICE/INSTANCE` in the namespace `default`
    #[arg(value_name = "SIDECAR", value_parser = sidecar)]
    sidecar: String,
    /// Do not wait: nobody is let in any more, and what still runs after a second is cut
    #[arg(long)]
    now: bool,
    #[command(flatten)]
    access: Access,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let query = if args.now { "?now=true" } else { "" };
    let target = format!("/v1/sidecars/{}/drain{query}", args.sidecar);
    match args.access.ask::<Draining>(Method::POST, &target, None::<&()>)? {
        Answered::Done(draining) => {
            output::line(format_args!("{} drains", draining.sidecar))?;
            Ok(Exit::Ok)
        }
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            Ok(Exit::Fault)
        }
    }
}

fn sidecar(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let parts: Vec<&str> = text.split('/').collect();
    match parts.iter().all(|part| !part.is_empty() && part.bytes().all(is_plain)) {
        true if parts.len() == 3 => Ok(text.to_owned()),
        true if parts.len() == 2 => Ok(format!("{DEFAULT_NAMESPACE}/{text}")),
        _ => Err("expected `namespace/service/instance` or `service/instance`".to_owned()),
    }
}
