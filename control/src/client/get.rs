//! `lighter get`: what is stored.

use std::time::SystemTime;

use http::Method;
use lighter_config::name::DEFAULT_NAMESPACE;
use lighter_config::resource::{Spec, device::DeviceSpec, migration::MigrationSpec};
use miette::miette;
use serde_json::{Value, json};

use super::access::{Access, Answered};
use super::{devices, explain, files, kind, links, migrations, sidecars, table};
use crate::api::message::{Files, Item, List};
use crate::exit::{self, Exit};
use crate::output;
use crate::store::{parse_rfc3339, seconds};

/// Arguments of `lighter get`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to show: nothing for all resources, `KIND`, `KIND NAME…`, `KIND/NAME…`, `sidecars`, or `links`; of `devices`, how those
    /// stand that are written or have registered, and how busy they are; of `migrations`, how they went (but as `yaml`)
    #[arg(value_name = "KIND NAME")]
    named: Vec<String>,
    /// The namespace
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        default_value = DEFAULT_NAMESPACE,
        value_parser = files::name,
        conflicts_with = "all_namespaces"
    )]
    namespace: String,
    /// Every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// How to write it
    #[arg(short, long, value_enum, default_value = "table")]
    output: Form,
    #[command(flatten)]
    access: Access,
}

/// How resources are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// A line each
    Table,
    /// A longer line each
    Wide,
    /// Documents that can be applied again
    Yaml,
    /// One JSON object: the resource that was named, or a list
    Json,
}

/// Runs the command.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    match args.named.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["sidecar" | "sidecars"] => return sidecars::execute(&args.access, args.output),
        ["link" | "links"] => return links::execute(&args.access, args.output),
        [word, names @ ..] if kind::of(word) == Ok(MigrationSpec::KIND) && args.output != Form::Yaml => {
            return args.migrations(names);
        }
        [word, names @ ..] if kind::of(word) == Ok(DeviceSpec::KIND) => {
            if !names.is_empty()
                && let Err(message) = kind::names(&args.named)
            {
                exit::explain(&miette!("{message}"));
                return Ok(Exit::Usage);
            }
            return args.devices(names);
        }
        [word, ..] if word.contains('/') => {
            if let Ok(named) = kind::names(&args.named)
                && named.iter().all(|(kind, _)| *kind == DeviceSpec::KIND)
            {
                return args.devices(&named.iter().map(|(_, name)| *name).collect::<Vec<_>>());
            }
        }
        _ => {}
    }
    let wanted = match wanted(&args.named) {
        Ok(wanted) => wanted,
        Err(message) => {
            exit::explain(&miette!("{message}"));
            return Ok(Exit::Usage);
        }
    };
    let mut target = "/v1/resources?".to_string();
    if let Wanted::Kind(kind) = wanted {
        target += &format!("kind={kind}&");
    }
    if !args.all_namespaces {
        target += &format!("namespace={}", args.namespace);
    }
    let list = match args.access.ask::<List>(Method::GET, &target, None::<&()>)? {
        Answered::Done(list) => list,
        Answered::Refused(_, refused) => {
            explain(&refused, &Files::default());
            return Ok(Exit::Fault);
        }
    };
    let (items, missing) = wanted.of(list.items);
    match args.output {
        Form::Yaml => {
            let documents =
                items.iter().map(|item| yaml(&item.document)).collect::<miette::Result<Vec<_>>>()?;
            if !documents.is_empty() {
                output::line(documents.join("---\n").trim_end())?;
            }
        }
        Form::Json => match (&wanted, items.as_slice()) {
            (Wanted::Names(names), [only]) if names.len() == 1 => output::json(&only.document)?,
            _ => {
                let documents: Vec<&Value> = items.iter().map(|item| &item.document).collect();
                output::json(&json!({"apiVersion": "v1", "kind": "List", "items": documents}))?;
            }
        },
        Form::Table | Form::Wide if items.is_empty() => {
            if missing.is_empty() {
                eprintln!("there are no such resources");
            }
        }
        form => output::line(table(&items, args.all_namespaces, form == Form::Wide))?,
    }
    for (kind, name) in &missing {
        exit::explain(&miette!("there is no {kind} {name} in {}", args.place()));
    }
    Ok(if missing.is_empty() { Exit::Ok } else { Exit::Fault })
}

impl Args {
    /// Devices, which are shown whether they are written or have registered. No name: all.
    fn devices(&self, names: &[&str]) -> miette::Result<Exit> {
        let namespace = (!self.all_namespaces).then_some(self.namespace.as_str());
        devices::execute(&self.access, self.output, namespace, names)
    }

    /// Migrations, which are shown with how they went. No name: all.
    fn migrations(&self, names: &[&str]) -> miette::Result<Exit> {
        let namespace = (!self.all_namespaces).then_some(self.namespace.as_str());
        migrations::execute(&self.access, self.output, namespace, names)
    }

    fn place(&self) -> String {
        match self.all_namespaces {
            true => "any namespace".into(),
            false => format!("namespace {}", self.namespace),
        }
    }
}

/// A document in YAML.
pub(super) fn yaml(document: &Value) -> miette::Result<String> {
    let mut text = lighter_config::manifest::yaml(document).map_err(|error| miette!("{error}"))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Which resources are wanted.
enum Wanted<'a> {
    All,
    Kind(&'static str),
    Names(Vec<(&'static str, &'a str)>),
}

fn wanted(words: &[String]) -> Result<Wanted<'_>, String> {
    match words {
        [] => Ok(Wanted::All),
        [all] if all == "all" => Ok(Wanted::All),
        [kind] if !kind.contains('/') => Ok(Wanted::Kind(kind::of(kind)?)),
        words => Ok(Wanted::Names(kind::names(words)?)),
    }
}

impl<'a> Wanted<'a> {
    /// Those of `items` that are wanted, and those names that none has.
    fn of(&self, mut items: Vec<Item>) -> (Vec<Item>, Vec<(&'static str, &'a str)>) {
        let Wanted::Names(names) = self else { return (items, Vec::new()) };
        let has =
            |(kind, name): &(&str, &str), item: &Item| *kind == &*item.key.kind && *name == &*item.key.name;
        let missing =
            names.iter().filter(|wanted| !items.iter().any(|item| has(wanted, item))).copied().collect();
        items.retain(|item| names.iter().any(|wanted| has(wanted, item)));
        (items, missing)
    }
}

fn table(items: &[Item], all_namespaces: bool, wide: bool) -> String {
    let now = seconds(SystemTime::now());
    let mut titles = vec!["KIND", "NAME", "ACCEPTED", "RESOLVED", "AGE"];
    if all_namespaces {
        titles.insert(0, "NAMESPACE");
    }
    if wide {
        titles.extend(["GENERATION", "SET", "WRITTEN-BY", "WRITTEN", "MESSAGE"]);
    }
    let row = |item: &Item| {
        let key = &item.key;
        let made = item.document["metadata"]["creationTimestamp"].as_str().and_then(parse_rfc3339);
        let mut row = vec![key.kind.to_string(), key.name.to_string()];
        row.push(condition(item, "Accepted", "status"));
        row.push(condition(item, "ResolvedRefs", "status"));
        row.push(table::age(now.saturating_sub(made.unwrap_or(item.at))));
        if all_namespaces {
            row.insert(0, key.namespace.to_string());
        }
        if wide {
            row.push(item.generation.to_string());
            row.push(item.set.clone().unwrap_or_else(|| "-".into()));
            row.push(item.written_by.clone());
            row.push(table::age(now.saturating_sub(item.at)));
            row.push(condition(item, "ResolvedRefs", "message"));
        }
        row
    };
    table::write(&titles, &items.iter().map(row).collect::<Vec<_>>())
}

/// A field of a condition; of a route, that of its first parent, which is that of all.
fn condition(item: &Item, of: &str, field: &str) -> String {
    let status = &item.document["status"];
    let conditions = status["parents"][0]["conditions"].as_array().or(status["conditions"].as_array());
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == of);
    match found.and_then(|condition| condition[field].as_str()) {
        None | Some("") => "-".into(),
        Some(text) => text.to_string(),
    }
}
