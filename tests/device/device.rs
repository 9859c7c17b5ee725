//! A sidecar with a device, before which there is nothing but its inbound listener.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::process::free_address;
use crate::support::raw::{Body, Head, Peer};
use crate::support::sidecar::{Sidecar, service};

/// What it holds, in a folder of its own.
pub struct Data {
    folder: TempDir,
    datasets: Vec<String>,
    tenant: &'static str,
}

pub struct Device {
    pub sidecar: Sidecar,
    /// Where callers come in.
    pub at: SocketAddr,
    _data: Data,
}

impl Data {
    pub fn new() -> Self {
        Data { folder: tempfile::tempdir().unwrap(), datasets: Vec::new(), tenant: "default" }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file, at version 7. The end of its name says how it is written.
    pub fn with(mut self, file: &str, write: impl FnOnce(&Path)) -> Self {
        let path = self.path(file);
        write(&path);
        let (name, format) = file.rsplit_once('.').unwrap();
        let path = path.display();
        self.datasets.push(format!(
            "{{name: {name}, version: '7', path: {path}, format: {format}, tenant: {}}}",
            self.tenant
        ));
        self
    }

    /// What comes from now on is of this tenant.
    pub fn of_tenant(mut self, tenant: &'static str) -> Self {
        self.tenant = tenant;
        self
    }

    pub fn with_text(self, file: &str, text: impl AsRef<[u8]>) -> Self {
        self.with(file, |path| std::fs::write(path, text).unwrap())
    }

    /// Starts a device; `more` are fields of its section on one line, `own` more of the sidecar's file.
    pub fn start(self, more: &str, own: &str) -> Device {
        self.start_with("", more, own)
    }

    /// A device of another class.
    pub fn start_as(self, class: &str, more: &str) -> Device {
        self.start_all(class, "", "", more, "")
    }

    /// The same with more resources than its Service, `data`.
    pub fn start_with(self, resources: &str, more: &str, own: &str) -> Device {
        self.start_all("csd", resources, "", more, own)
    }

    /// The same with another inbound listener.
    pub fn start_beside(self, inbound: &str, more: &str) -> Device {
        self.start_all("csd", "", &format!(", {inbound}"), more, "")
    }

    fn start_all(self, class: &str, resources: &str, inbound: &str, more: &str, own: &str) -> Device {
        let (at, app) = (free_address(), free_address());
        let datasets = self.datasets.join(", ");
        let resources = format!("{}---\n{resources}", service("data", "http", &[]));
        let own = format!(
            "service: data\nworkers: 1\ninbound: [{{listen: '{at}', app: '{app}', port: 80}}{inbound}]\n\
             device: {{class: {class}, listen: '{app}', datasets: [{datasets}]{more}}}\n{own}"
        );
        Device { sidecar: Sidecar::start(&resources, &own), at, _data: self }
    }
}

impl Device {
    /// Asks over a connection of its own.
    pub fn get(&self, target: &str) -> (Head, Body) {
        Peer::connect(self.at).exchange(get(target))
    }

    pub fn counted(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.sidecar.metrics().sum(name, labels)
    }

    pub fn in_flight(&self) -> f64 {
        self.counted("lighter_device_runs_in_flight", &[])
    }
}

pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: data\r\n\r\n")
}

/// The text of a whole body.
pub fn text(body: Body) -> String {
    match body {
        Body::Whole(bytes) => String::from_utf8(bytes).unwrap(),
        Body::Cut(bytes) => panic!("cut after {} bytes", bytes.len()),
    }
}
