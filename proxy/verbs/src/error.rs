//! Why RDMA cannot be used, or what failed while it was.

use std::io;

/// Each is one line that tells an operator enough.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libibverbs is not installed, or too old.
    #[error("libibverbs cannot be loaded: {0}")]
    NoLibrary(&'static str),
    /// There is neither RDMA hardware nor a software device.
    #[error("there is no RDMA device")]
    NoDevice,
    /// Devices come and go.
    #[error("there is no RDMA device called {0}")]
    UnknownDevice(String),
    /// The device file may not be opened by this user.
    #[error("no permission to open the RDMA device {0}")]
    NoPermission(String),
    /// Memory that a device reaches must stay where it is, and there is a limit to that.
    #[error("RLIMIT_MEMLOCK is {limit} bytes, too small to register {wanted} bytes")]
    Memlock {
        /// The limit that holds now.
        limit: u64,
        /// How much was to be registered.
        wanted: usize,
    },
    /// The device's first port has no link.
    #[error("the port of the RDMA device {0} is down")]
    PortDown(String),
    /// No address of the device can be used by RoCE v2.
    #[error("the RDMA device {0} has no address for RoCE v2")]
    NoAddress(String),
    /// A function of the library failed.
    #[error("{verb}: {source}")]
    Verb {
        /// The function.
        verb: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl Error {
    /// The labels of all causes.
    pub const LABELS: [&'static str; 7] =
        ["library", "device", "permission", "memlock", "port", "address", "verbs"];

    /// Where the label of its cause stands among [`LABELS`](Self::LABELS).
    pub const fn index(&self) -> usize {
        match self {
            Error::NoLibrary(_) => 0,
            Error::NoDevice | Error::UnknownDevice(_) => 1,
            Error::NoPermission(_) => 2,
            Error::Memlock { .. } => 3,
            Error::PortDown(_) => 4,
            Error::NoAddress(_) => 5,
            Error::Verb { .. } => 6,
        }
    }

    /// The function's own error, as `errno` has it.
    pub(crate) fn last(verb: &'static str) -> Self {
        Error::Verb { verb, source: io::Error::last_os_error() }
    }

    /// What a function returned: 0 or an error's number.
    pub(crate) fn check(verb: &'static str, number: i32) -> Result<(), Self> {
        match number {
            0 => Ok(()),
            number => Err(Error::Verb { verb, source: io::Error::from_raw_os_error(number) }),
        }
    }
}
