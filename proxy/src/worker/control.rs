//! The control thread: starts the workers, tells them what is in force, and sees them out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use super::doors::{Door, Role};
use super::thread::{self, Event};
use super::{Shared, Sockets, Start, StartError, Summary, limits};
use crate::drain::{Machine, Phase};

/// Runs a sidecar until it has drained. Blocks the calling thread, which becomes the control runtime's.
pub fn run(start: Start) -> Result<Summary, StartError> {
    limits::raise_descriptors();
    let Start { config, sockets, outside, inside, ready, stop } = start;
    let shared = Arc::new(Shared::new(config, outside, inside));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, control(shared, sockets, ready, stop))
}

async fn control(
    shared: Arc<Shared>,
    sockets: Sockets,
    ready: Box<dyn FnOnce() + Send>,
    stop: Option<oneshot::Receiver<()>>,
) -> Result<Summary, StartError> {
    let doors = doors(&shared, sockets)?;
    tokio::task::spawn_local(stop_when_asked(shared.clone(), stop)?);
    let mut workers = Workers::start(&shared, doors)?;
    workers.up().await?;
    shared.up.store(true, Ordering::Release);
    ready();
    workers.see_out(&shared).await
}

/// Forwards what asks this process to end (or to reload) from outside of it.
fn stop_when_asked(
    shared: Arc<Shared>,
    stop: Option<oneshot::Receiver<()>>,
) -> std::io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut signals = match stop {
        None => Some((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)),
        Some(_) => None,
    };
    Ok(async move {
        let mut stop = stop;
        loop {
            let asked = async {
                match (&mut signals, &mut stop) {
                    (Some((terminate, interrupt)), _) => {
                        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                    }
                    // Whoever would ask is gone: that is asking too.
                    (None, Some(receiver)) => {
                        let _ = receiver.await;
                        stop = None;
                    }
                    (None, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                () = asked => shared.drain(),
                _ = hangup.recv() => shared.reload(),
            }
        }
    })
}

/// The workers' threads as the control thread sees them.
struct Workers {
    running: usize,
    phases: watch::Sender<Phase>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Workers {
    fn start(shared: &Arc<Shared>, doors: Vec<Vec<Door>>) -> Result<Self, StartError> {
        let (phases, _) = watch::channel(Phase::Serving);
        let (sender, events) = mpsc::unbounded_channel();
        let running = doors.len();
        for (index, doors) in doors.into_iter().enumerate() {
            thread::start(index, shared.clone(), doors, phases.subscribe(), sender.clone())?;
        }
        Ok(Workers { running, phases, events })
    }

    /// Resolves when every worker accepts.
    async fn up(&mut self) -> Result<(), StartError> {
        for _ in 0..self.running {
            match self.events.recv().await {
                Some(Event::Up) => {}
                Some(Event::Failed(error)) => return Err(error.into()),
                Some(Event::Died(index)) => return Err(StartError::Died(index)),
                Some(Event::Drained(_)) | None => return Err(StartError::Died(0)),
            }
        }
        Ok(())
    }

    /// Waits for a drain, leads it through its phases, and counts what it cut.
    async fn see_out(mut self, shared: &Shared) -> Result<Summary, StartError> {
        let mut machine = Machine::new(shared.config.drain_deadline);
        let mut summary = Summary::default();
        while self.running > 0 {
            let wake = machine.wakes_at();
            let time = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shared.stop.notified() => { machine.stop(Instant::now()); }
                () = time => {}
                event = self.events.recv() => match event {
                    Some(Event::Drained(cut)) => {
                        self.running -= 1;
                        summary.cut += cut;
                    }
                    Some(Event::Died(index)) => {
                        tracing::error!(worker = index, "a worker died: this process ends");
                        return Err(StartError::Died(index));
                    }
                    Some(Event::Failed(error)) => return Err(error.into()),
                    Some(Event::Up) => {}
                    None => break,
                },
            }
            self.enter(shared, machine.advance(Instant::now(), self.running));
        }
        if summary.cut > 0 {
            tracing::warn!(cut = summary.cut, "drain deadline passed: connections were cut");
        } else {
            tracing::info!("drained, nothing was cut");
        }
        Ok(summary)
    }

    fn enter(&self, shared: &Shared, phase: Phase) {
        if *self.phases.borrow() == phase {
            return;
        }
        tracing::info!(?phase, open = shared.open_connections(), "drain");
        shared.phase.store(phase as u8, Ordering::Release);
        self.phases.send_replace(phase);
    }
}

/// Makes what has to listen and was not handed over, and deals it out to the workers.
fn doors(shared: &Shared, sockets: Sockets) -> Result<Vec<Vec<Door>>, StartError> {
    let config = &shared.config;
    let mut dealt: Vec<Vec<Door>> = (0..config.workers.max(1)).map(|_| Vec::new()).collect();
    let workers = dealt.len();
    let mut deal = |role: Role, listeners: Vec<std::net::TcpListener>| {
        for (at, listener) in listeners.into_iter().enumerate() {
            dealt[at % workers].push(Door { role, listener });
        }
    };
    let mut given = sockets.inbound.into_iter();
    deal(Role::Outbound, sockets.outbound);
    for (index, inbound) in config.inbound.iter().enumerate() {
        let listeners = match given.next() {
            Some(listeners) if !listeners.is_empty() => listeners,
            _ => listen(inbound.listen, workers)?,
        };
        deal(Role::App(index), listeners);
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        deal(Role::Listener(index), listen(listener.listen, workers)?);
    }
    if let Some(address) = config.connect {
        deal(Role::Proxy, listen(address, workers)?);
    }
    Ok(dealt)
}

/// One listener for every worker on the same address, among which the kernel spreads connections.
fn listen(address: SocketAddr, workers: usize) -> Result<Vec<std::net::TcpListener>, StartError> {
    let mut address = address;
    let mut listeners = Vec::with_capacity(workers);
    for _ in 0..workers {
        let listener = bind(address, workers > 1).map_err(|source| StartError::Listen { address, source })?;
        // Where the system was to choose the port, all of them get the first one's.
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn bind(address: SocketAddr, shared: bool) -> std::io::Result<std::net::TcpListener> {
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}
