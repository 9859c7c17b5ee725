//! Every file under `tests/faulty` is refused, with the place, the field and the words that its first lines expect:
//!
//! ```text
//! # expect LINE:COLUMN FIELD: PART OF THE MESSAGE
//! ```

#![allow(clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};

use lighter_config::error::{ConfigError, ConfigErrors};
use lighter_config::load::Resources;
use lighter_config::sidecar::SidecarConfig;
use lighter_config::snapshot::Snapshot;

#[derive(Debug)]
struct Expected {
    line: u32,
    column: u32,
    path: String,
    part: String,
}

impl Expected {
    fn all(text: &str) -> Vec<Expected> {
        text.lines().map_while(|line| line.strip_prefix("# expect ")).map(Expected::parse).collect()
    }

    fn parse(text: &str) -> Expected {
        let (place, rest) = text.split_once(' ').expect("a place");
        let (line, column) = place.split_once(':').expect("LINE:COLUMN");
        let (path, part) = rest.split_once(": ").expect("FIELD: MESSAGE");
        let number = |text: &str| text.parse().expect("a number");
        Expected { line: number(line), column: number(column), path: path.into(), part: part.into() }
    }

    fn is(&self, error: &ConfigError) -> bool {
        (error.line, error.column) == (self.line, self.column)
            && error.path == self.path
            && error.message.contains(&self.part)
    }
}

/// The YAML files of a folder beside the workspace's tests.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// Reads each file, and returns what is not as it expects.
fn differences<T: std::fmt::Debug>(
    files: &[PathBuf],
    read: impl Fn(&Path) -> Result<T, ConfigErrors>,
) -> Vec<String> {
    let mut differences = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("the file");
        let expected = Expected::all(&text);
        assert!(!expected.is_empty(), "{} expects nothing", file.display());
        match read(file) {
            Ok(_) => differences.push(format!("{} is accepted", file.display())),
            Err(found)
                if found.errors.len() == expected.len()
                    && expected.iter().zip(&found.errors).all(|(expected, error)| expected.is(error)) => {}
            Err(found) => differences.push(format!("expected {expected:#?}, found\n{found}\n")),
        }
    }
    differences
}

#[test]
fn faulty_resources_are_refused_with_place_and_field() {
    let files = files("tests/faulty");
    assert!(files.len() >= 30);
    let found = differences(&files, |file| {
        Resources::read(&[file.to_path_buf()]).and_then(|resources| Snapshot::build(&resources))
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn faulty_sidecar_files_are_refused_with_place_and_field() {
    let files = files("tests/faulty/sidecar");
    assert!(files.len() >= 5);
    let found = differences(&files, SidecarConfig::read);
    assert!(found.is_empty(), "{}", found.join("\n"));
}
