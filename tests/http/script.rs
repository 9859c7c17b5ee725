//! Python scripts that are told lines, and answer each with one.

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::support::process::python;

/// A script that runs.
pub struct Script {
    child: Child,
    say: ChildStdin,
    heard: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Starts one beside this file, by a Python that has these modules; the reason where there is none.
    pub fn start(modules: &str, name: &str, arguments: &[&str]) -> Result<Self, String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/http/scripts").join(name);
        let mut command = Command::new(python(modules)?);
        command.arg(path).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let (say, heard) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Ok(Script { child, say, heard: BufReader::new(heard).lines() })
    }

    /// The words of the next line that it says.
    pub fn hear(&mut self) -> Vec<String> {
        self.heard.next().unwrap().unwrap().split(' ').map(str::to_owned).collect()
    }

    /// Tells it something; gives the words of its answer.
    pub fn tell(&mut self, line: &str) -> Vec<String> {
        writeln!(self.say, "{line}").unwrap();
        self.hear()
    }

    /// It is told nothing more, and must end well.
    pub fn end(self) {
        let Script { mut child, say, .. } = self;
        drop(say);
        assert!(child.wait().unwrap().success());
    }
}
