//! Facts about a run for whoever watches it: one JSON object in a file, written when the program has started, when
//! another sidecar serves it, and when it has ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use lighter_proxy::intercept::RuleCounter;
use rustix::process::Pid;
use serde::Serialize;

use super::{Made, namespace};

/// See above.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    #[serde(skip)]
    file: Option<PathBuf>,
    /// The sidecar's Service.
    pub(super) service: Option<String>,
    /// The sidecar's process.
    sidecar_pid: u32,
    /// The process inside the namespace.
    inside_pid: i32,
    /// The program's process, once it has started.
    app_pid: Option<u32>,
    /// Inode of the sidecar's network namespace: the host's.
    host_netns: Option<u64>,
    /// Inode of the program's network namespace.
    netns: u64,
    /// Whether a user namespace was made for it.
    user_namespace: bool,
    /// The admin port.
    pub(super) admin: Option<SocketAddr>,
    /// Where callers reach the program.
    pub(super) listen: Vec<SocketAddr>,
    /// What the rules counted, at the end.
    pub(super) rules: Vec<RuleCounter>,
    /// What this command ends with.
    exit_status: Option<u8>,
}

impl Status {
    pub(super) fn new(file: Option<PathBuf>, made: &Made, inside: Pid) -> Self {
        Status {
            file,
            service: None,
            sidecar_pid: std::process::id(),
            inside_pid: inside.as_raw_pid(),
            app_pid: None,
            host_netns: namespace::inode().ok(),
            netns: made.netns,
            user_namespace: made.user_namespace,
            admin: None,
            listen: Vec::new(),
            rules: Vec::new(),
            exit_status: None,
        }
    }

    pub(super) fn started(&mut self, app: u32) {
        self.app_pid = Some(app);
        tracing::info!(app, admin = ?self.admin, netns = self.netns, "the program runs");
        self.write();
    }

    /// Another process is the sidecar now.
    pub(super) fn succeeded(&mut self, pid: Option<u32>) {
        self.sidecar_pid = pid.unwrap_or(self.sidecar_pid);
        self.write();
    }

    pub(super) fn ended(&mut self, status: Option<u8>) {
        self.exit_status = status;
        self.write();
    }

    fn write(&self) {
        let Some(file) = &self.file else { return };
        if let Err(error) = replace(file, self) {
            tracing::warn!(%error, file = %file.display(), "cannot write the status file");
        }
    }
}

/// Readers see a whole object or the one before it.
fn replace(file: &Path, status: &Status) -> std::io::Result<()> {
    let mut written = file.as_os_str().to_owned();
    written.push(".new");
    let mut text = serde_json::to_vec(status)?;
    text.push(b'\n');
    std::fs::write(&written, text)?;
    std::fs::rename(written, file)
}
