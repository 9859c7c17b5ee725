//! `device: {natives: [{name: NAME, exec: [PROGRAM, …], memoryBytes: N, …}]}`: functions that are programs of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::limits::LEAST_MEMORY;
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::probe;
use crate::resource;

/// What stands for the port in arguments.
pub const PORT_ARGUMENT: &str = "{port}";

const USUAL_START: Duration = Duration::from_secs(30);
const USUAL_STOP: Duration = Duration::from_secs(5);
/// What a device says of itself, to which no function can answer.
const TAKEN: &str = "log";

/// `{name: NAME, exec: [PROGRAM, ARGUMENT, …], memoryBytes: N}`: a program that answers HTTP on a port of 127.0.0.1. It runs
/// while the function is active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeConfig {
    /// What requests call it: the first part of their path.
    pub name: String,
    /// The program and its arguments. Never empty. No shell reads them; [`PORT_ARGUMENT`] stands for the port.
    pub exec: Vec<String>,
    /// What its environment has beside `PORT` and a little of the sidecar's.
    pub env: BTreeMap<String, String>,
    /// Where it is started.
    pub folder: PathBuf,
    /// Where it listens. None: on one that is free, of which `PORT` and its arguments tell it.
    pub port: Option<u16>,
    /// What it takes while it is active, in bytes: what is planned with, and what each of its processes may map to write to.
    pub memory_bytes: u64,
    /// The path of a GET that it answers with a status from 200 to 399 once it is ready. None: once it accepts a connection.
    pub probe: Option<String>,
    /// How long it may take until it is ready. Default 30 s.
    pub start_timeout: Duration,
    /// How long it has from SIGTERM to SIGKILL. Default 5 s.
    pub stop_timeout: Duration,
}

/// A function that is a program of its own: it answers HTTP on a port of 127.0.0.1, and runs while the function is active.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NativeFile {
    /// What requests call it, as the first part of their path: letters, digits, `.`, `-` and `_`.
    name: String,
    /// The program and its arguments. No shell reads them; `{port}` in an argument stands for the port. A program with a `/` in
    /// its name is relative to this file, any other one is looked for in `PATH`.
    #[schemars(length(min = 1))]
    exec: Vec<String>,
    /// What its environment has beside `PORT`, and `PATH`, `HOME`, `LANG`, `TZ` and `TMPDIR` of the sidecar.
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// Where it is started, relative to this file. Default: where this file is.
    #[serde(default)]
    folder: Option<PathBuf>,
    /// Where it listens, on 127.0.0.1. Default: a port that is free, which `PORT` and its arguments tell it.
    #[serde(default)]
    #[schemars(range(min = 1))]
    port: Option<u16>,
    /// What it takes while it is active, in bytes. Each of its processes can map no more to write to.
    #[schemars(range(min = 1_048_576))]
    memory_bytes: u64,
    /// When it is ready. Default: when it accepts a connection.
    #[serde(default)]
    probe: Option<NativeProbeFile>,
    /// How long it may take until it is ready, from 10ms to 1h. Default 30s.
    #[serde(default)]
    start_timeout: Option<resource::Duration>,
    /// How long it has from SIGTERM until it is killed, from 10ms to 1h. Default 5s.
    #[serde(default)]
    stop_timeout: Option<resource::Duration>,
}

/// When a program is ready.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NativeProbeFile {
    /// When it answers a GET of this path with a status from 200 to 399.
    http: String,
}

/// What is known of a device beside its programs.
pub(super) struct Beside<'a> {
    /// Names of other functions.
    pub(super) names: Vec<&'a str>,
    pub(super) listen: Option<SocketAddr>,
    pub(super) is_planned: bool,
    /// What all functions that are active may take.
    pub(super) budget: Option<u64>,
}

impl NativeFile {
    /// What it takes while it is active.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// What it says, with paths relative to `folder`, beside those `before` it.
    pub(super) fn read(
        &self,
        folder: &Path,
        (before, beside): (&[NativeFile], &Beside<'_>),
        at: &At<'_>,
        refuse: &mut impl FnMut(ConfigError),
    ) -> NativeConfig {
        self.check_name(before, beside, at, refuse);
        if !beside.is_planned {
            let error = at.error("a program runs only while it is wanted");
            refuse(error.hint("with `activation: planned` in `device`"));
        }
        self.check_exec(at, refuse);
        for (name, value) in &self.env {
            let at = at.field("env").field(name);
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                refuse(at.error("no environment can have that"));
            } else if name == "PORT" {
                refuse(at.error("this is where it is told its port").hint("write `port` to say which"));
            }
        }
        self.check_port(before, beside, at, refuse);
        self.check_memory(beside, at, refuse);
        if let Some(NativeProbeFile { http }) = &self.probe
            && !probe::is_path(http)
        {
            let at = at.field("probe").field("http");
            let error = at.error(format!("`{}` is not a path", http.escape_debug()));
            refuse(error.hint("it begins with `/`, and has no space and nothing but ASCII"));
        }
        let mut length = |field: &str, said: Option<resource::Duration>, usual: Duration| {
            let length = said.map_or(usual, |said| said.0);
            if !probe::is_length(length) {
                refuse(at.field(field).error(format!("{length:?} is out of range")).hint("from 10ms to 1h"));
            }
            length
        };
        NativeConfig {
            name: self.name.clone(),
            start_timeout: length("startTimeout", self.start_timeout, USUAL_START),
            stop_timeout: length("stopTimeout", self.stop_timeout, USUAL_STOP),
            exec: self.exec_within(folder),
            env: self.env.clone(),
            folder: self.folder.as_ref().map_or_else(|| folder.to_owned(), |own| folder.join(own)),
            port: self.port,
            memory_bytes: self.memory_bytes,
            probe: self.probe.as_ref().map(|probe| probe.http.clone()),
        }
    }

    /// The same, where a program that is named by its path is found by that from everywhere.
    fn exec_within(&self, folder: &Path) -> Vec<String> {
        let mut exec = self.exec.clone();
        if let Some(program) = exec.first_mut().filter(|program| program.contains('/')) {
            *program = folder.join(&*program).to_string_lossy().into_owned();
        }
        exec
    }

    fn check_name(
        &self,
        before: &[NativeFile],
        beside: &Beside<'_>,
        at: &At<'_>,
        refuse: &mut impl FnMut(ConfigError),
    ) {
        let (at, name) = (at.field("name"), &self.name);
        if let Err(error) = check::data_name(&at, name) {
            refuse(error);
        }
        if name == TAKEN {
            refuse(at.error("`/log` is what the device says itself").hint("give it another name"));
        }
        let mut others = beside.names.iter().copied().chain(before.iter().map(|other| &*other.name));
        if others.any(|other| other == name) {
            let error = at.error(format!("there is a function `{name}` already"));
            refuse(error.hint("give it a name of its own"));
        }
    }

    fn check_exec(&self, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
        let at = at.field("exec");
        if self.exec.first().is_none_or(String::is_empty) {
            refuse(at.error("there is no program").hint("`[PROGRAM, ARGUMENT, …]`"));
        }
        for (index, _) in self.exec.iter().enumerate().filter(|(_, argument)| argument.contains('\0')) {
            refuse(at.index(index).error("no argument can have a NUL"));
        }
    }

    fn check_port(
        &self,
        before: &[NativeFile],
        beside: &Beside<'_>,
        at: &At<'_>,
        refuse: &mut impl FnMut(ConfigError),
    ) {
        let Some(port) = self.port else { return };
        let at = at.field("port");
        if let Err(error) = check::port(&at, port) {
            refuse(error);
        }
        if beside.listen.is_some_and(|listen| listen.port() == port) {
            refuse(at.error(format!("the device listens on {port} itself")));
        }
        if let Some(other) = before.iter().find(|other| other.port == Some(port)) {
            refuse(at.error(format!("`{}` listens on {port}", other.name)));
        }
    }

    fn check_memory(&self, beside: &Beside<'_>, at: &At<'_>, refuse: &mut impl FnMut(ConfigError)) {
        let (at, bytes) = (at.field("memoryBytes"), self.memory_bytes);
        if bytes < LEAST_MEMORY {
            let error = at.error(format!("no program runs in {bytes} bytes"));
            refuse(error.hint(format!("at least {LEAST_MEMORY}")));
        }
        if let Some(budget) = beside.budget.filter(|budget| bytes > *budget) {
            let error = at.error(format!("{bytes} bytes are more than all functions may take together"));
            refuse(error.hint(format!("at most `device.memoryBytes` ({budget})")));
        }
    }
}
