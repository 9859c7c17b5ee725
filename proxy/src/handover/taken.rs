//! The successor's side.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{Asks, Group, NAME, Says, VERSION};
use crate::link::wire::shm::Directory;
use crate::messages::Channel;

/// What a predecessor hands over.
#[derive(Debug)]
pub struct Taken {
    channel: Channel,
    sockets: HashMap<String, Group>,
    rules: Option<String>,
    generation: u64,
}

/// Why there is no hand-over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The folder, or the socket in it, is of no use.
    #[error("cannot take over in {folder}: {source}")]
    Folder {
        /// Which.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is said between the two does not arrive.
    #[error("cannot talk to the sidecar that runs: {0}")]
    Conversation(#[from] io::Error),
    /// The process that serves does not hand over.
    #[error("the sidecar that runs does not hand over: {0}")]
    Refused(String),
    /// It says what it should not.
    #[error("the sidecar that runs does not speak as a hand-over needs it: {0}")]
    Broken(&'static str),
}

impl Taken {
    /// Asks the process that serves, if there is one. `None`: nobody is there to take over from.
    pub fn ask(folder: &Path) -> Result<Option<Self>, HandoverError> {
        let failed = |source| HandoverError::Folder { folder: folder.to_owned(), source };
        let directory = Directory::open(Some(folder)).map_err(failed)?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.map_err(|error| failed(error.into()))?;
        let address = SocketAddrUnix::new(directory.reach(NAME)).map_err(|error| failed(error.into()))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            // Whoever was there ended without taking its name away, or nobody was.
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        }
        Taken::over(Channel::over(socket)).map(Some)
    }

    /// Asks the process at the other end of `channel`.
    pub fn over(channel: Channel) -> Result<Self, HandoverError> {
        channel.patience(PATIENCE)?;
        channel.send(&Asks::Sockets { version: VERSION }, &[])?;
        let mut sockets: HashMap<String, Group> = HashMap::new();
        loop {
            let Some((says, descriptors)) = channel.receive::<Says>()? else {
                return Err(HandoverError::Broken("it ended the conversation"));
            };
            match says {
                Says::Sockets(named) if named.len() == descriptors.len() => {
                    for (named, socket) in named.into_iter().zip(descriptors) {
                        let group = sockets.entry(named.key).or_default();
                        group.workers = named.workers;
                        group.sockets.push(socket);
                    }
                }
                Says::All { generation, rules } => {
                    return Ok(Taken { channel, sockets, rules, generation });
                }
                Says::Refused(why) => return Err(HandoverError::Refused(why)),
                Says::Sockets(_) => return Err(HandoverError::Broken("a socket is missing")),
                Says::Yours => return Err(HandoverError::Broken("it left before it was asked to")),
            }
        }
    }

    /// Hand-overs since a sidecar was started here.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// The sockets, by what they are for.
    pub(crate) fn take_sockets(&mut self) -> HashMap<String, Group> {
        std::mem::take(&mut self.sockets)
    }

    /// Whether rules of interception stand, made by what makes `wanted`.
    pub(crate) fn has_rules(&self, wanted: &str) -> bool {
        self.rules.as_deref() == Some(wanted)
    }

    /// This process serves: its predecessor is to leave. Fails if that goes on serving instead.
    pub(crate) fn ready(self) -> Result<(), HandoverError> {
        // Whoever ended meanwhile leaves too.
        if self.channel.send(&Asks::Ready, &[]).is_err() {
            return Ok(());
        }
        match self.channel.receive::<Says>() {
            Ok(Some((Says::Refused(why), _))) => Err(HandoverError::Refused(why)),
            Ok(Some((Says::Yours, _)) | None) => Ok(()),
            Ok(Some(_)) => Err(HandoverError::Broken("it does not say that it leaves")),
            Err(_) => Err(HandoverError::Broken("it does not answer")),
        }
    }
}

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
