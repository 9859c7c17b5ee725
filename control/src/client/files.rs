//! The files that a command names: `-f FILE`, a folder, or `-` for standard input.

use std::path::PathBuf;

use lighter_config::error::{ConfigError, ConfigErrors};
use lighter_config::load::{Resources, read_standard_input, read_text};
use lighter_config::manifest::{Key, Manifest};
use lighter_config::name::DEFAULT_NAMESPACE;
use miette::miette;

use crate::api::is_name;
use crate::api::message::{File, Files};

/// Stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Files that are read whole.
#[derive(Debug, clap::Args)]
pub struct Paths {
    /// Files, folders, or `-` for standard input
    #[arg(short = 'f', long = "file", value_name = "FILE", num_args = 1.., required = true)]
    pub paths: Vec<PathBuf>,
    /// The namespace of resources that name none
    #[arg(short, long, value_name = "NAMESPACE", default_value = DEFAULT_NAMESPACE, value_parser = name)]
    pub namespace: String,
}

/// A namespace or a set, as an argument.
pub fn name(text: &str) -> Result<String, &'static str> {
    if is_name(text) { Ok(text.to_string()) } else { Err("letters, digits, `-`, `_` and `.` make a name") }
}

/// Reads files whole.
pub fn read(paths: &[PathBuf]) -> miette::Result<Files> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == STANDARD_INPUT {
            files.push(file(STANDARD_INPUT.into(), read_standard_input())?);
            continue;
        }
        for path in Resources::files(std::slice::from_ref(path)) {
            files.push(file(path.display().to_string(), read_text(&path))?);
        }
    }
    Ok(Files { files })
}

/// Which resources the files are about.
pub fn keys(files: &Files, namespace: &str) -> Result<Vec<Key>, ConfigErrors> {
    let (mut keys, mut errors) = (Vec::new(), Vec::new());
    for file in &files.files {
        match Manifest::parse(&file.name, &file.text, namespace) {
            Ok(manifests) => keys.extend(manifests.iter().map(|manifest| manifest.key().clone())),
            Err(found) => errors.extend(found.errors),
        }
    }
    keys.sort();
    keys.dedup();
    if errors.is_empty() { Ok(keys) } else { Err(ConfigErrors { errors }) }
}

fn file(name: String, text: Result<String, ConfigError>) -> miette::Result<File> {
    Ok(File { name, text: text.map_err(|error| miette!("{error}"))? })
}
