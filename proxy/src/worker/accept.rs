//! The loops behind accept sockets.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use super::doors::{After, Door, Role};
use super::thread::Event;
use super::{Admitted, StartError, Worker};
use crate::carry::Call;
use crate::guard::Shed;
use crate::intercept::listen::{self, Reserved};
use crate::io::Io;
use crate::telemetry::WorkerMetrics;
use crate::{connect, inbound, link, outbound};

impl Door {
    /// Accepts until the other end of `open` is dropped. What keeps it from listening later on is one of `events`.
    pub(super) fn open(
        self,
        worker: Rc<Worker>,
        open: watch::Receiver<()>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Result<impl Future<Output = ()>, StartError> {
        self.listener.set_nonblocking(true)?;
        let Door { role, listener, after } = self;
        // Where the application listens already, no caller is refused.
        let ready = match after {
            Some(after) if worker.shared.inside.listens(after.app) => Ok(begin(listener, &after.reserved)?),
            Some(after) => Err((listener, after)),
            None => Ok(TcpListener::from_std(listener)?),
        };
        Ok(async move {
            let listener = match ready {
                Ok(listener) => listener,
                Err((_, After { app, .. })) if !wait_for(app, &worker, open.clone()).await => return,
                Err((listener, After { reserved, .. })) => match begin(listener, &reserved) {
                    Ok(listener) => listener,
                    // Nobody listens to it any more where another door failed before.
                    Err(error) => return drop(events.send(Event::Failed(error))),
                },
            };
            accept(worker, listener, role, open).await;
        })
    }
}

/// Lets callers in.
fn begin(listener: std::net::TcpListener, reserved: &Reserved) -> Result<TcpListener, StartError> {
    let address = listener.local_addr()?;
    reserved.begin(&listener).map_err(|source| StartError::Listen { address, source })?;
    // Only now: what does not listen would be reported to be hung up for ever.
    Ok(TcpListener::from_std(listener)?)
}

/// Waits until something listens at `app`. False: the door was closed before.
async fn wait_for(app: SocketAddr, worker: &Worker, mut open: watch::Receiver<()>) -> bool {
    let began = tokio::time::Instant::now();
    let mut pause = LOOK_EVERY.0;
    let mut told = false;
    while !worker.shared.inside.listens(app) {
        if !told && began.elapsed() > SLOW_START {
            told = true;
            tracing::warn!(%app, "nothing listens there yet: callers are refused");
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {
                pause = if told { LOOK_EVERY.2 } else { (pause * 2).min(LOOK_EVERY.1) };
            }
            // Nothing is ever sent: this is its end.
            _ = open.changed() => return false,
        }
    }
    true
}

async fn accept(worker: Rc<Worker>, listener: TcpListener, role: Role, mut open: watch::Receiver<()>) {
    let mut exhausted = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // Nothing is ever sent: this is its end.
            _ = open.changed() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                exhausted = false;
                if admit(&worker, stream, peer, role) == Err(Shed::Descriptors) {
                    // Room is being made. Who comes meanwhile waits, and is not refused as fast as it can call.
                    tokio::time::sleep(EXHAUSTED_PAUSE).await;
                }
            }
            Err(error) => back_off(&worker, error, &mut exhausted).await,
        }
    }
    if worker.connections.is_handed_over() {
        // The socket stays open elsewhere, and whoever got through is served there.
        return;
    }
    // Who got through before the door closed is served: closing the socket would reset them. As somebody may always come
    // between the last look and that, nobody else gets through from here on, and who was about to has time for it.
    let closing = Closing::begin(&worker, &listener);
    let until = tokio::time::Instant::now() + SETTLE;
    while closing.is_ok() && tokio::time::Instant::now() < until {
        match tokio::time::timeout_at(until, listener.accept()).await {
            Ok(Ok((stream, peer))) => drop(admit(&worker, stream, peer, role)),
            Ok(Err(error)) => back_off(&worker, error, &mut exhausted).await,
            Err(_elapsed) => break,
        }
    }
    drop(closing);
    // Whatever was not waited for.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
            let _ = admit(&worker, stream, peer, role);
        }
    }
}

/// Nobody else gets through by a door.
struct Closing<'a> {
    listener: &'a TcpListener,
    /// A successor may have the socket already, and goes on with it should it get ready in time.
    is_shared: bool,
}

impl<'a> Closing<'a> {
    fn begin(worker: &Worker, listener: &'a TcpListener) -> std::io::Result<Self> {
        let begun = listen::lets_nobody_begin(listener);
        begun.inspect_err(|error| tracing::debug!(%error, "who comes as a door closes may be reset"))?;
        Ok(Closing { listener, is_shared: worker.shared.gives_way() })
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        if self.is_shared {
            let _ = listen::lets_all_begin(self.listener);
        }
    }
}

/// Serves a connection, or refuses it with a reset.
fn admit(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr, role: Role) -> Result<(), Shed> {
    let room = worker.shared.guard.has_room_behind(stream.as_fd());
    let admitted = match room.and_then(|()| worker.shared.admit().ok_or(Shed::Connections)) {
        Ok(admitted) => admitted,
        Err(why) => {
            worker.metrics.shed(why);
            Io::new(stream).reset_on_close();
            return Err(why);
        }
    };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let ticket = match role.is_inbound() {
        true => worker.connections.enter_inbound(),
        false => worker.connections.enter(),
    };
    let call = Call { worker: worker.clone(), io: Io::new(stream), peer, ticket };
    tokio::task::spawn_local(serve(call, role, admitted, Counted::new(worker)));
    Ok(())
}

async fn serve(call: Call, role: Role, _admitted: Admitted, _counted: Counted) {
    let engine = match role {
        Role::Outbound => Box::pin(outbound::intercepted(call)).await,
        Role::Listener(index) => Box::pin(outbound::explicit(call, index)).await,
        Role::Inbound => Box::pin(inbound::intercepted(call)).await,
        Role::App(index) => Box::pin(inbound::explicit(call, index)).await,
        Role::Proxy => Box::pin(connect::negotiated(call)).await,
        Role::Link => Box::pin(link::serve::accepted(call)).await,
    };
    if let Some(engine) = engine {
        engine.await;
    }
}

/// A connection among those of its worker that are open. A panic that ends it is counted too.
pub(crate) struct Counted(Arc<WorkerMetrics>);

impl Counted {
    pub(crate) fn new(worker: &Worker) -> Self {
        worker.metrics.accepted();
        Counted(worker.metrics.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ended();
        if std::thread::panicking() {
            self.0.panicked();
        }
    }
}

/// A failed accept is either the peer's (it left again: go on) or ours (no descriptor: wait for one, and say so once).
async fn back_off(worker: &Worker, error: std::io::Error, exhausted: &mut bool) {
    use rustix::io::Errno;
    worker.metrics.accept_failed();
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
            if !std::mem::replace(exhausted, true) {
                tracing::warn!(%error, "cannot accept: waiting for connections to end");
            }
            worker.shared.guard.no_descriptor();
            tokio::time::sleep(EXHAUSTED_PAUSE).await;
        }
        _ => tracing::debug!(%error, "a connection was gone before it was accepted"),
    }
}

/// How often it is looked whether the application listens: soon at first, then less often, and seldom
/// when it takes long.
const LOOK_EVERY: (Duration, Duration, Duration) =
    (Duration::from_millis(1), Duration::from_millis(10), Duration::from_millis(100));

/// An application that takes longer to listen is worth a word.
const SLOW_START: Duration = Duration::from_secs(10);

/// Long enough not to spin, short enough not to be noticed once descriptors are free again.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(20);

/// How long a door that closes waits for those whose connection has begun: longer than a packet takes there and back. Who
/// comes meanwhile is refused a second later, when they try again.
const SETTLE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use lighter_config::sidecar::SidecarConfig;

    use super::*;
    use crate::dial::Here;
    use crate::worker::Shared;

    #[tokio::test]
    async fn a_connection_at_rest_takes_little_memory() {
        let here = Arc::new(Here::default());
        let worker = Worker::new(0, Arc::new(Shared::new(SidecarConfig::default(), here.clone(), here)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let peer = stream.peer_addr().unwrap();
        let ticket = worker.connections.enter();
        let call = Call { worker: worker.clone(), io: Io::new(stream), peer, ticket };
        let admitted = worker.shared.admit().unwrap();
        let size = size_of_val(&serve(call, Role::Outbound, admitted, Counted::new(&worker)));
        // Engines are boxed: this is what every connection pays beside its own engine.
        assert!(size <= 256, "{size} bytes");
    }
}
