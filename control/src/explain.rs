//! `lighter explain`: why requests of a rule with an OffloadPolicy went where they did.

use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lighter_place::{Logged, recompute};
use miette::{IntoDiagnostic, WrapErr, miette};

use crate::exit::Exit;
use crate::tap::encoded;
use crate::{ask, output};

/// Arguments of `lighter explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sidecar's admin port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// Only requests by this rule, as metrics name it
    #[arg(long)]
    route: Option<String>,
    /// So many of the last decisions; a sidecar keeps 1024 for each policy at a port
    #[arg(long, value_name = "N", default_value_t = 1)]
    last: u16,
    /// Lines of JSON, with all that a decision was made from: a log for `--check`
    #[arg(long)]
    json: bool,
    /// Make every decision of such a log again; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["admin", "route", "last", "json"])]
    check: Option<PathBuf>,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    match &args.check {
        Some(file) => check(file),
        None => show(args),
    }
}

fn show(args: &Args) -> miette::Result<Exit> {
    let route = args.route.as_ref().map(|route| format!("&route={}", encoded(route)));
    let path = format!("/decisions?last={}{}", args.last, route.unwrap_or_default());
    let page = ask::get(args.admin, &path).map_err(|error| {
        miette!(help = ask::IS_IT_THERE, "the sidecar at {} cannot be asked: {error}", args.admin)
    })?;
    if page.is_empty() {
        eprintln!("no request of a rule with an OffloadPolicy yet");
    }
    for line in page.lines() {
        if args.json {
            output::line(line)?;
        } else {
            output::line(text(&read(line)?))?;
        }
    }
    Ok(Exit::Ok)
}

/// Makes every decision of a log again. They are to be the same, to the last bit.
fn check(file: &Path) -> miette::Result<Exit> {
    let mut log = String::new();
    match file.to_str() {
        Some("-") => std::io::stdin().read_to_string(&mut log).map(|_| ()),
        _ => std::fs::read_to_string(file).map(|text| log = text),
    }
    .into_diagnostic()
    .wrap_err_with(|| format!("{} cannot be read", file.display()))?;
    let (mut same, mut others) = (0u64, 0u64);
    for (number, line) in log.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let logged = read(line).wrap_err_with(|| format!("line {} of {}", number + 1, file.display()))?;
        let again = recompute(&logged.record);
        if again == logged.record.decision {
            same += 1;
            continue;
        }
        others += 1;
        let made =
            Logged { record: lighter_place::Record { decision: again, ..logged.record }, ..logged.clone() };
        output::line(format_args!(
            "line {}: was {}\nmade again: {}",
            number + 1,
            first(&logged.explain()),
            first(&made.explain())
        ))?;
    }
    if same + others == 0 {
        return Err(miette!(
            help = "`lighter explain --json` writes one",
            "{} has no decision",
            file.display()
        ));
    }
    output::line(format_args!("{same} decisions are made again as they were, {others} are not"))?;
    Ok(if others == 0 { Exit::Ok } else { Exit::Fault })
}

fn read(line: &str) -> miette::Result<Logged> {
    serde_json::from_str(line).map_err(|error| miette!("this is no decision: {error}"))
}

/// A decision for people. Names are those of resources, but the line came from somewhere.
fn text(logged: &Logged) -> String {
    let explained = logged.explain();
    let lines = explained.lines().map(|line| line.escape_debug().to_string());
    let lines: Vec<String> = lines.collect();
    let (service, route) = (logged.service.escape_debug(), logged.route.escape_debug());
    format!("{service} {route} → {}", lines.join("\n"))
}

fn first(text: &str) -> String {
    text.lines().next().unwrap_or_default().escape_debug().to_string()
}
