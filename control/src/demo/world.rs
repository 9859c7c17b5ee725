//! The demo's processes: five applications, each in a network namespace of its own with a sidecar beside it, all
//! started by `lighter run`; later a control plane too, in the same way. They end with this process, however it ends.

use std::io;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::instance::{Instance, LedBy};
use super::plane::Plane;
use super::resources::{self, Split};
use super::say;

/// Everything that runs.
pub struct World {
    folder: TempDir,
    /// Every instance.
    pub instances: Vec<Instance>,
    plane: Option<Plane>,
}

/// `(name, service, role, version, instance)`.
const INSTANCES: [[&str; 5]; 5] = [
    ["web", "web", "web", "v1", "a"],
    ["catalog", "catalog", "catalog", "v1", "a"],
    ["reviews-v1", "reviews-v1", "reviews", "v1", "a"],
    ["reviews-v2-a", "reviews-v2", "reviews", "v2", "a"],
    ["reviews-v2-b", "reviews-v2", "reviews", "v2", "b"],
];

/// One that does what web does, and is not let in.
const STRANGER: [&str; 5] = ["stranger", "stranger", "web", "v1", "a"];

impl World {
    /// Chooses ports and makes the folder; nothing runs yet.
    pub fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("lighter-demo-").tempdir()?;
        let instance = |one| Instance::new(one, folder.path());
        let instances = INSTANCES.into_iter().map(instance).collect::<io::Result<_>>()?;
        Ok(World { instances, folder, plane: None })
    }

    /// Starts everything and waits until it serves. All that the sidecars know is in a file.
    pub async fn start(&mut self, split: Split) -> Result<(), String> {
        self.split(split)?;
        let led_by = LedBy::File(self.resources());
        for instance in &mut self.instances {
            instance.start(led_by.clone())?;
        }
        for instance in &mut self.instances {
            instance.serves().await?;
        }
        Ok(())
    }

    /// Starts everything anew around a control plane, which the sidecars join by token.
    pub async fn join(&mut self, split: Split) -> Result<(), String> {
        for runner in self.instances.iter().filter_map(Instance::runner) {
            runner.terminate();
        }
        for instance in &mut self.instances {
            instance.stop().await;
        }
        let plane = self.plane.insert(Plane::new(self.folder.path()).map_err(say("the control plane"))?);
        plane.start().await?;
        plane.apply(&resources::joined(split)).await?;
        for instance in &mut self.instances {
            let led_by = plane.invite(instance).await?;
            instance.start(led_by)?;
        }
        for instance in &mut self.instances {
            instance.serves().await?;
            instance.registered().await?;
        }
        Ok(())
    }

    /// A sixth service, which nobody has allowed anything.
    pub async fn stranger(&mut self) -> Result<Instance, String> {
        let mut stranger = Instance::new(STRANGER, self.folder.path()).map_err(say("a free port"))?;
        stranger.start(self.plane()?.invite(&stranger).await?)?;
        stranger.serves().await?;
        Ok(stranger)
    }

    /// The control plane, once there is one.
    pub fn plane(&mut self) -> Result<&mut Plane, String> {
        self.plane.as_mut().ok_or_else(|| "there is no control plane".into())
    }

    /// An instance by its name in [`INSTANCES`].
    pub fn instance(&mut self, name: &str) -> Result<&mut Instance, String> {
        self.instances.iter_mut().find(|one| one.name == name).ok_or_else(|| format!("no instance {name}"))
    }

    /// Writes the resource file anew.
    pub fn split(&self, split: Split) -> Result<(), String> {
        let endpoints: Vec<_> = self.instances.iter().map(|one| (one.service, one.inbound)).collect();
        resources::write(&self.resources(), &endpoints, split).map_err(say("the resource file"))
    }

    /// The resource file that every sidecar watches.
    pub fn resources(&self) -> PathBuf {
        self.folder.path().join("mesh.yaml")
    }

    /// The folder with the resource file and the logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How to move the traffic by hand.
    pub fn how_to_move(&self) -> String {
        match &self.plane {
            Some(plane) => plane.how_to_apply(),
            None => format!("edit {}", self.resources().display()),
        }
    }

    /// Ends everything in an orderly way. `keep_logs`: the folder stays.
    pub async fn stop(mut self, keep_logs: bool) {
        for runner in self.instances.iter().filter_map(Instance::runner) {
            runner.terminate();
        }
        for instance in &mut self.instances {
            instance.stop().await;
        }
        if let Some(plane) = &mut self.plane {
            plane.stop().await;
        }
        if keep_logs {
            self.folder.disable_cleanup(true);
        }
    }
}
