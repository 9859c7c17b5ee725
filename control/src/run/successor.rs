//! Another process in the place of a sidecar under `lighter run`: this command again, with the same words, as the file in
//! its place is now. It gets its channel as standard input, and leaves the program to the process that started it.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;

use lighter_proxy::dial::Here;
use lighter_proxy::handover::Taken;
use lighter_proxy::intercept::Installed;
use lighter_proxy::worker::{Sockets, Start};
use rustix::process::Pid;

use super::Args;
use super::channel::{Channel, Given, Order, Said, Tell, VERSION};
use super::options::Options;
use super::sidecar::{self, Hooks, Sidecar};
use super::signals::{PASSED_ON, Signals};
use super::sockets;

/// Whatever a successor needs beside what its predecessor hands over.
pub(super) struct Heritage {
    /// The process inside.
    pub(super) inside: Pid,
    /// Where the admin port is.
    pub(super) admin: SocketAddr,
    /// The netlink socket by which the rules' counters are read.
    pub(super) rules: OwnedFd,
}

impl Heritage {
    /// Starts a process that takes over from `predecessor`. `control` leads to the process inside.
    pub(super) fn pass_on(&self, predecessor: &Sidecar, control: &Channel) -> io::Result<Sidecar> {
        let (channel, its) = Channel::pair()?;
        let (before, after) = Channel::pair()?;
        let (makes, takes) = Channel::pair()?;
        // It learns from the end of that channel if nobody could be started.
        predecessor.tell(Tell::GiveWay, &[before.as_fd()]);
        let mut words = std::env::args_os();
        let program = words.next().unwrap_or_else(|| OsString::from("lighter"));
        let mut command = Command::new(&program);
        // What follows is `run`, and all that was said to it.
        command.args(words.next()).arg("--successor").args(words).stdin(its.into_fd());
        let child = command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot start {}: {error}", program.to_string_lossy()))
        })?;
        let sidecar = Sidecar::in_process(channel, child);
        let given = Given { version: VERSION, inside: self.inside.as_raw_pid(), admin: self.admin };
        let along = [after.as_fd(), takes.as_fd(), self.rules.as_fd()];
        let given =
            sidecar.give(&given, &along).and_then(|()| control.send(&Order::Sockets, &[makes.as_fd()]));
        match given {
            Ok(()) => Ok(sidecar),
            Err(error) => {
                sidecar.end();
                Err(error)
            }
        }
    }
}

/// Is that process. `args`: what the first one was told.
pub(super) fn serve(args: Args) -> io::Result<()> {
    let channel = Channel::over(io::stdin().as_fd().try_clone_to_owned()?);
    // They are for the program, and the process that started this one passes them on.
    Signals::hold(&PASSED_ON)?;
    match take_over(args, &channel) {
        Ok(start) => sidecar::serve(channel, start),
        Err(fault) => channel.send(&Said::Ended { fault: Some(fault), handed_over: false }, &[])?,
    }
    Ok(())
}

fn take_over(args: Args, channel: &Channel) -> Result<impl FnOnce(Hooks) -> Start + use<>, String> {
    let said = |error: io::Error| error.to_string();
    let (given, along) = channel.receive::<Given>().map_err(said)?.ok_or("nothing is given to it")?;
    if given.version != VERSION {
        return Err("the process that started it speaks another version of this conversation".to_owned());
    }
    let Ok([before, takes, rules]) = <[OwnedFd; 3]>::try_from(along) else {
        return Err("a socket is missing".to_owned());
    };
    // First of all, as it is waited for.
    let taken = Taken::over(Channel::over(before)).map_err(|error| error.to_string())?;
    let inside = Pid::from_raw(given.inside).ok_or("there is no process inside")?;
    let inside = Arc::new(sockets::Inside::new(Channel::over(takes), inside).map_err(said)?);
    let rules = Installed::from_fd(rules).map_err(said)?;
    let Options { mut config, .. } = Options::from(args)?;
    config.intercept = None;
    if config.admin.port() == 0 {
        config.admin = given.admin;
    }
    let sockets = Sockets { taken: Some(taken), rules: Some(rules), ..Sockets::default() };
    Ok(move |hooks: Hooks| hooks.start(config, sockets, Arc::new(Here::default()), inside))
}
