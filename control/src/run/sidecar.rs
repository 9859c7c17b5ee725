//! A sidecar and whoever started it: a thread of this process, or a process that took over from another one.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::Arc;

use lighter_config::sidecar::SidecarConfig;
use lighter_proxy::dial::SocketFactory;
use lighter_proxy::worker::{self, Ask, Sockets, Start};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::channel::{Channel, Given, Said, Tell};

/// A sidecar, as whoever started it knows it.
pub(super) struct Sidecar {
    channel: Channel,
    /// Its process, unless it is a thread of this one.
    child: Option<Child>,
}

/// How a sidecar hears of whoever started it, and says what happens.
pub(super) struct Hooks {
    pub(super) ready: Box<dyn FnOnce() + Send>,
    pub(super) callers_gone: Box<dyn FnOnce() + Send>,
    pub(super) successor: Box<dyn Fn() + Send + Sync>,
    pub(super) stop: UnboundedReceiver<Ask>,
}

impl Hooks {
    /// A sidecar with these hooks.
    pub(super) fn start(
        self,
        config: SidecarConfig,
        sockets: Sockets,
        outside: Arc<dyn SocketFactory>,
        inside: Arc<dyn SocketFactory>,
    ) -> Start {
        Start {
            config,
            sockets,
            outside,
            inside,
            ready: self.ready,
            stop: Some(self.stop),
            callers_gone: Some(self.callers_gone),
            successor: Some(self.successor),
            functions: None,
        }
    }
}

impl Sidecar {
    /// Starts one on a thread of this process.
    pub(super) fn on_thread(start: impl FnOnce(Hooks) -> Start + Send + 'static) -> io::Result<Self> {
        let (channel, its) = Channel::pair()?;
        std::thread::Builder::new().name("control".into()).spawn(move || serve(its, start))?;
        Ok(Sidecar { channel, child: None })
    }

    /// The process `child`, which has the other end of `channel`.
    pub(super) fn in_process(channel: Channel, child: Child) -> Self {
        Sidecar { channel, child: Some(child) }
    }

    /// The process in which it is.
    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or_else(std::process::id, Child::id)
    }

    /// Gives it what it starts with.
    pub(super) fn give(&self, given: &Given, along: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.channel.send(given, along)
    }

    /// It may have ended by itself.
    pub(super) fn tell(&self, tell: Tell, along: &[BorrowedFd<'_>]) {
        let _ = self.channel.send(&tell, along);
    }

    /// What it says next. `None`: it is gone.
    pub(super) fn hear(&self) -> Option<Said> {
        self.channel.receive().ok().flatten().map(|(said, _)| said)
    }

    /// Sees to it that it is gone. One that has not said that it ended is killed.
    pub(super) fn end(self) {
        if let Some(mut child) = self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl AsFd for Sidecar {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// Is a sidecar until it has ended. Whoever started it is at the other end of `channel`.
pub(super) fn serve(channel: Channel, start: impl FnOnce(Hooks) -> Start) {
    let channel = Arc::new(channel);
    let say = {
        let channel = channel.clone();
        // Whoever does not hear it has ended, which is noticed elsewhere.
        move |said: Said| drop(channel.send(&said, &[]))
    };
    let (stop, asked) = unbounded_channel();
    let hears = std::thread::Builder::new().name("supervisor".into()).spawn(move || hear(&channel, &stop));
    let (ready, callers_gone, successor) = (say.clone(), say.clone(), say.clone());
    let hooks = Hooks {
        ready: Box::new(move || ready(Said::Ready)),
        callers_gone: Box::new(move || callers_gone(Said::CallersGone)),
        successor: Box::new(move || successor(Said::SuccessorWanted)),
        stop: asked,
    };
    let run = || {
        hears
            .map_err(|error| error.to_string())
            .and_then(|_| worker::run(start(hooks)).map_err(|error| error.to_string()))
    };
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    let (fault, handed_over) = match ended {
        Ok(Ok(summary)) => (None, summary.handed_over),
        Ok(Err(fault)) => (Some(fault), false),
        Err(_) => (Some("the sidecar's control thread died; its log says where".to_owned()), false),
    };
    say(Said::Ended { fault, handed_over });
}

/// Passes on what the sidecar is told, until whoever tells is gone: then the sidecar learns it from the end of `stop`.
fn hear(channel: &Channel, stop: &UnboundedSender<Ask>) {
    while let Ok(Some((tell, along))) = channel.receive::<Tell>() {
        let ask = match (tell, along.into_iter().next()) {
            (Tell::Drain, _) => Ask::Drain,
            (Tell::Finish, _) => Ask::Finish,
            (Tell::GiveWay, Some(to)) => Ask::GiveWay(Channel::over(to)),
            (Tell::GiveWay, None) => continue,
        };
        if stop.send(ask).is_err() {
            return;
        }
    }
}
