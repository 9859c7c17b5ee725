//! How an application is asked whether it is well.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;
use crate::resource;

/// How an application is asked, how often, and how many answers count.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What is asked.
    pub how: How,
    /// Where. None: where callers go.
    pub port: Option<u16>,
    /// From one question to the next.
    pub interval: Duration,
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// So many failures in a row, and it is taken for unwell.
    pub failure_threshold: u32,
    /// So many good answers in a row, and it is taken for well again.
    pub success_threshold: u32,
}

/// What an application is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// Whether it accepts a connection.
    Tcp,
    /// To answer a GET of this path with a status from 200 to 399.
    Http(String),
    /// `grpc.health.v1.Health/Check` for this service; the empty one is the server as a whole.
    Grpc(String),
    /// This command is to succeed.
    Exec(Vec<String>),
}

impl Default for Probe {
    fn default() -> Self {
        Probe {
            how: How::Tcp,
            port: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }
}

/// How an application is asked whether it is well: by `http`, `grpc` or `exec`; by none of them: whether it accepts a TCP
/// connection.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeSpec {
    /// The path of a GET that is to be answered with a status from 200 to 399.
    #[serde(default)]
    pub http: Option<String>,
    /// The service that `grpc.health.v1.Health/Check` is asked for; empty: the server as a whole.
    #[serde(default)]
    pub grpc: Option<String>,
    /// A command and its arguments; it is to end with status 0. For a sidecar's own application only.
    #[serde(default)]
    pub exec: Option<Vec<String>>,
    /// Where it is asked. Default: where callers go.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// From one question to the next. Default 10s.
    #[serde(default)]
    pub interval: Option<resource::Duration>,
    /// Longest wait for an answer. Default 1s.
    #[serde(default)]
    pub timeout: Option<resource::Duration>,
    /// So many failures in a row, and it is taken for unwell. Default 3.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub failure_threshold: Option<u32>,
    /// So many good answers in a row, and it is taken for well again. Default 1.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub success_threshold: Option<u32>,
}

impl ProbeSpec {
    /// The probe, with every default filled in. What is wrong with it goes to `fault`.
    pub(crate) fn read(&self, at: &At<'_>, mut fault: impl FnMut(ConfigError)) -> Probe {
        let usual = Probe::default();
        let hows = [
            self.http.as_ref().map(|path| ("http", How::Http(path.clone()))),
            self.grpc.as_ref().map(|service| ("grpc", How::Grpc(service.clone()))),
            self.exec.as_ref().map(|command| ("exec", How::Exec(command.clone()))),
        ];
        let mut said = hows.into_iter().flatten();
        let first = said.next();
        for (field, _) in said {
            fault(
                at.field(field).error("a probe asks one thing").hint("write one of `http`, `grpc`, `exec`"),
            );
        }
        match &first {
            Some((field, How::Http(path))) if !is_path(path) => {
                let error = at.field(field).error(format!("`{}` is not a path", path.escape_debug()));
                fault(error.hint("it begins with `/`, and has no space and nothing but ASCII"));
            }
            Some((field, How::Exec(command))) if command.first().is_none_or(String::is_empty) => {
                fault(at.field(field).error("there is no command"));
            }
            _ => {}
        }
        if let Some(Err(error)) = self.port.map(|port| check::port(&at.field("port"), port)) {
            fault(error);
        }
        let mut length = |field: &str, said: Option<resource::Duration>, usual: Duration| {
            let length = said.map_or(usual, |said| said.0);
            if !is_length(length) {
                let error = at.field(field).error("out of range");
                fault(error.hint(format!("from {SHORTEST:?} to {LONGEST:?}")));
            }
            length
        };
        let interval = length("interval", self.interval, usual.interval);
        let timeout = length("timeout", self.timeout, usual.timeout);
        let mut count = |field: &str, said: Option<u32>, usual: u32| {
            if said == Some(0) {
                fault(at.field(field).error("at least 1"));
            }
            said.unwrap_or(usual)
        };
        Probe {
            how: first.map_or(usual.how, |(_, how)| how),
            port: self.port,
            interval,
            timeout,
            failure_threshold: count("failureThreshold", self.failure_threshold, usual.failure_threshold),
            success_threshold: count("successThreshold", self.success_threshold, usual.success_threshold),
        }
    }
}

/// Whether a GET can be asked for it.
pub(crate) fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Whether an interval or a timeout can be so long.
pub(crate) fn is_length(length: Duration) -> bool {
    (SHORTEST..=LONGEST).contains(&length)
}

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(3600);
