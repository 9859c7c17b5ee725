//! `lighter inject` and `lighter uninject`.

use std::sync::Arc;

use lighter_config::error::ConfigError;
use miette::Severity;

use super::edit::{self, Outcome};
use super::wishes::Defaults;
use super::workload::Workload;
use super::yaml::{self, Document, Node};
use super::{CONTROL, IMAGE, patch};
use crate::api::message::File;
use crate::check::files::Shown;
use crate::client::files;
use crate::exit::Exit;
use crate::output;

/// Arguments of `lighter inject`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct Args {
    #[command(flatten)]
    files: files::Paths,
    /// The image of the sidecar
    #[arg(long, value_name = "IMAGE", default_value = IMAGE)]
    image: String,
    /// Where the control plane listens for sidecars
    #[arg(long, value_name = "HOST:PORT", default_value = CONTROL)]
    control: String,
    /// Write what changes, as a JSON patch (RFC 6902) for each document, a line each
    #[arg(long)]
    patch: bool,
}

/// Arguments of `lighter uninject`.
#[derive(Debug, clap::Args)]
#[command(after_help = ABOUT)]
pub struct UninjectArgs {
    #[command(flatten)]
    files: files::Paths,
    /// Write what changes, as a JSON patch (RFC 6902) for each document, a line each
    #[arg(long)]
    patch: bool,
}

/// Runs `lighter inject`.
pub fn execute(args: &Args) -> miette::Result<Exit> {
    let defaults = Defaults {
        image: args.image.clone(),
        control: args.control.clone(),
        namespace: args.files.namespace.clone(),
    };
    run(&args.files, args.patch, |document| edit::inject(document, &defaults))
}

/// Runs `lighter uninject`.
pub fn uninject(args: &UninjectArgs) -> miette::Result<Exit> {
    run(&args.files, args.patch, edit::uninject)
}

/// Writes the files with every document changed: all, or nothing where a fault is.
fn run(
    paths: &files::Paths,
    patch: bool,
    mut change: impl FnMut(&mut Node) -> Vec<(Workload, Outcome)>,
) -> miette::Result<Exit> {
    let mut written = Written { patch, ..Written::default() };
    let mut faulty = false;
    for file in files::read(&paths.paths)?.files {
        let documents = match yaml::read(&file.text) {
            Ok(documents) => documents,
            Err(fault) => {
                tell(&file, (fault.line, fault.column), None, fault.message);
                faulty = true;
                continue;
            }
        };
        for document in documents {
            let mut node = document.node.clone();
            for (workload, outcome) in change(&mut node) {
                let title = workload.title(&paths.namespace);
                match outcome {
                    Outcome::Injected => eprintln!("{title}: injected"),
                    Outcome::Removed => eprintln!("{title}: uninjected"),
                    Outcome::LeftOut(reason) => eprintln!("{title}: left out: {reason}"),
                    Outcome::Refused(faults) => {
                        faulty = true;
                        for fault in faults {
                            tell(&file, (document.line, 1), Some(title.clone()), fault);
                        }
                    }
                }
            }
            written.document(&file.text, &document, &node)?;
        }
    }
    if faulty {
        return Ok(Exit::Fault);
    }
    output::text(&written.text)?;
    Ok(Exit::Ok)
}

fn tell(file: &File, (line, column): (u32, u32), resource: Option<String>, message: String) {
    let name = Arc::from(&*file.name);
    let error = ConfigError { file: name, line, column, resource, path: String::new(), message, hint: None };
    Shown::new(&error, Severity::Error, file.text.clone()).tell();
}

/// What goes to standard output.
#[derive(Default)]
struct Written {
    text: String,
    patch: bool,
}

impl Written {
    /// A document of `source` that became `node`. One that did not change is written as it was, with its comments; of
    /// another, those before it stay.
    fn document(
        &mut self,
        source: &str,
        document: &Document,
        node: &Node,
    ) -> Result<(), output::OutputError> {
        if self.patch {
            if !document.node.is_null() {
                let steps = patch::between(&document.node, node);
                self.text += &serde_json::to_string(&steps).map_err(std::io::Error::from)?;
                self.text.push('\n');
            }
            return Ok(());
        }
        let source = source.get(document.range.clone()).unwrap_or_default();
        let (head, rest) = head(source);
        let begins = head.lines().any(|line| line.starts_with("---")) || rest.starts_with("---");
        if !self.text.is_empty() && !begins {
            self.text += "---\n";
        }
        if *node == document.node {
            self.text += source;
        } else {
            self.text += head;
            if !self.text.is_empty() && rest.starts_with("---") {
                self.text += "---\n";
            }
            self.text += &yaml::write(node);
        }
        if !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        Ok(())
    }
}

/// The lines before a document's first that says something.
fn head(source: &str) -> (&str, &str) {
    let mut length = 0;
    for line in source.split_inclusive('\n') {
        let said = line.trim();
        let after = said.strip_prefix("---").map_or(said, str::trim_start);
        if !(after.is_empty() || after.starts_with('#') || said.starts_with('%')) {
            break;
        }
        length += line.len();
    }
    source.split_at(length)
}

const ABOUT: &str = "\
What is at fault is told, and then nothing is written. Documents that describe no pods pass untouched. Of one that
changes, the comments within it are lost. Annotations tune a sidecar or leave it out: see README.md.";
