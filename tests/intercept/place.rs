//! Where a test's programs run, and as whom.

use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::process::{Program, copy_program, free_address};

/// As whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// As whoever runs the tests: root, where namespaces are made without more ado.
    Same,
    /// As a user without any privilege.
    Nobody,
}

/// A folder with the programs, that the user can read and write.
pub struct Place {
    folder: tempfile::TempDir,
    who: Who,
}

const NOBODY: u32 = 65534;

impl Place {
    /// Whether runs as this user can be tried here, or why not.
    pub fn possible(who: Who) -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".into());
        }
        let output = Place::new(who).run(&[], &["true"]).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        // The two things that a machine can lack; anything else is a fault.
        let lacking = ["cannot make a network namespace", "the kernel has no support"];
        match lacking.iter().any(|reason| error.contains(reason)) {
            true => Err(error.trim().to_owned()),
            false => Ok(()),
        }
    }

    pub fn new(who: Who) -> Self {
        let folder = tempfile::Builder::new().prefix("lighter-intercept-").tempdir().unwrap();
        let place = Place { folder, who };
        if who == Who::Nobody {
            for (from, to) in [(lighter(), place.lighter()), (std::env::current_exe().unwrap(), place.own())]
            {
                copy_program(&from, &to);
            }
            chown(place.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// This binary.
    pub fn own(&self) -> PathBuf {
        match self.who {
            Who::Same => std::env::current_exe().unwrap(),
            Who::Nobody => self.path("program"),
        }
    }

    fn lighter(&self) -> PathBuf {
        match self.who {
            Who::Same => lighter(),
            Who::Nobody => self.path("lighter"),
        }
    }

    /// A program, run as the user of this place.
    pub fn program(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        if self.who == Who::Nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// `lighter run OPTIONS -- PROGRAM`.
    pub fn run(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = self.program(self.lighter());
        command.arg("run").args(options).arg("--").args(program);
        command
    }

    /// The same with this binary in a role.
    pub fn run_role(&self, options: &[&str], role: &[&str]) -> Command {
        let own = self.own();
        self.run(options, &[&[own.to_str().unwrap()], role].concat())
    }

    /// Starts a program with a sidecar and waits until it has written `ready` or the status says that it runs.
    pub fn start(&self, options: &[&str], role: &[&str]) -> Running {
        let status = self.path(&format!("status-{}.json", free_address().port()));
        let options = [&["--status-file", status.to_str().unwrap()], options].concat();
        let mut running =
            Running { program: Program::start(self.run_role(&options, role), self.folder.path()), status };
        let file = running.status.clone();
        running.program.wait_until("the program runs", || file.exists());
        running
    }

    /// Adds a Service of opaque TCP to the resource file.
    pub fn mesh(&self, name: &str, port: u16, endpoint: SocketAddr) -> String {
        let file = self.path("mesh.yaml");
        let mut text = std::fs::read_to_string(&file).unwrap_or_default();
        text += &format!(
            "---\napiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             ports: [{{name: main, port: {port}, targetPort: {APP}, appProtocol: tcp}}]\n  \
             endpoints: [{{address: {}, port: {}}}]\n",
            endpoint.ip(),
            endpoint.port()
        );
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

/// The port on which programs listen inside.
pub const APP: u16 = 8080;

/// A program with its sidecar.
pub struct Running {
    pub program: Program,
    status: PathBuf,
}

impl Running {
    /// What the status file says.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&std::fs::read(&self.status).unwrap()).unwrap()
    }

    /// One of the numbers in it.
    pub fn number(&self, name: &str) -> u64 {
        self.status()[name].as_u64().unwrap_or_else(|| panic!("{name} in {}", self.status()))
    }

    pub fn signal(&self, number: i32) {
        self.program.signal(Signal::from_named_raw(number).unwrap());
    }
}

/// How a command ended, as a shell says it.
pub fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{:?}", output.status))
}

/// Whether a process of this number exists and has not ended.
pub fn lives(pid: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

fn lighter() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lighter")).to_owned()
}
