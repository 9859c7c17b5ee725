//! One worker's thread, from its start to the end of its drain.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::doors::Door;
use super::{Shared, StartError, Worker};
use crate::drain::{Kinds, Phase, Stand};

/// What a worker tells the control thread.
#[derive(Debug)]
pub(super) enum Event {
    /// It accepts connections.
    Up,
    /// It could not start, or a door of its that was to open later did not.
    Failed(StartError),
    /// It accepts no callers any more, and the last one is gone.
    CallersGone,
    /// It drained; these connections were cut.
    Drained(Kinds),
    /// It died of a panic.
    Died(usize),
}

/// Starts worker `index` behind `doors`.
pub(super) fn start(
    index: usize,
    shared: Arc<Shared>,
    doors: Vec<Door>,
    stands: watch::Receiver<Stand>,
    events: mpsc::UnboundedSender<Event>,
) -> std::io::Result<()> {
    let body = move || {
        let mut obituary = Obituary { index, events, last: None };
        obituary.last = Some(work(index, shared, doors, stands, &obituary.events));
    };
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(body)?;
    Ok(())
}

/// Sends a worker's last word, whatever way it ends.
struct Obituary {
    index: usize,
    events: mpsc::UnboundedSender<Event>,
    last: Option<Event>,
}

impl Drop for Obituary {
    fn drop(&mut self) {
        // Nobody listens when the control thread failed first.
        let _ = self.events.send(self.last.take().unwrap_or(Event::Died(self.index)));
    }
}

fn work(
    index: usize,
    shared: Arc<Shared>,
    doors: Vec<Door>,
    stands: watch::Receiver<Stand>,
    events: &mpsc::UnboundedSender<Event>,
) -> Event {
    crate::telemetry::set_worker(index);
    // Tasks of this thread alone, with no set of them between the task and the runtime: a wake costs less.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = match builder.enable_io().enable_time().build_local(LocalOptions::default()) {
        Ok(runtime) => runtime,
        Err(error) => return Event::Failed(error.into()),
    };
    let worker = Worker::new(index, shared);
    let cut = runtime.block_on(async {
        let (inbound, outbound) = doors.into_iter().partition(|door| door.role.is_inbound());
        let accepting =
            [Accepting::start(&worker, inbound, events)?, Accepting::start(&worker, outbound, events)?];
        tokio::task::spawn_local(crate::guard::make_room(worker.clone()));
        if worker.shared.config.link.is_some() {
            tokio::task::spawn_local(crate::link::quic::serve(worker.clone()));
            tokio::task::spawn_local(crate::stateful::ahead::run(worker.clone()));
        }
        if index == 0 {
            tokio::task::spawn_local(crate::balance::check::run(worker.clone()));
        }
        let _ = events.send(Event::Up);
        Ok(drained(worker, accepting, stands, events).await)
    });
    // Ends the tasks that are left. Not dropped: that would wait for lookups of names that nobody wants to know any more.
    runtime.shutdown_background();
    match cut {
        Ok(cut) => Event::Drained(cut),
        Err(error) => Event::Failed(error),
    }
}

/// Accept loops that are ended together.
struct Accepting {
    open: watch::Sender<()>,
    loops: Vec<JoinHandle<()>>,
}

impl Accepting {
    fn start(
        worker: &Rc<Worker>,
        doors: Vec<Door>,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<Self, StartError> {
        let (open, seen) = watch::channel(());
        let start = |door: Door| {
            Ok(tokio::task::spawn_local(door.open(worker.clone(), seen.clone(), events.clone())?))
        };
        let loops = doors.into_iter().map(start).collect::<Result<_, StartError>>()?;
        Ok(Accepting { open, loops })
    }

    /// Resolves when they have emptied their backlogs and closed; what they took counts.
    async fn close(self) {
        drop(self.open);
        for door in self.loops {
            let _ = door.await;
        }
    }
}

/// Follows both sides' phases until there is nothing left to do. Returns which connections were cut.
async fn drained(
    worker: Rc<Worker>,
    accepting: [Accepting; 2],
    mut stands: watch::Receiver<Stand>,
    events: &mpsc::UnboundedSender<Event>,
) -> Kinds {
    let connections = &worker.connections;
    let finish = async {
        let [inbound, outbound] = accepting;
        connections.callers_shut_out().await;
        inbound.close().await;
        let outbound = match connections.is_handed_over() {
            true => {
                outbound.close().await;
                None
            }
            false => Some(outbound),
        };
        connections.callers_gone().await;
        let _ = events.send(Event::CallersGone);
        connections.workload_reached(Phase::Draining).await;
        if let Some(outbound) = outbound {
            outbound.close().await;
        }
        connections.idle().await;
    };
    let mut finish = std::pin::pin!(finish);
    let (mut before, mut cut) = (Stand::default(), Kinds::default());
    loop {
        let stand = *stands.borrow_and_update();
        if stand.workload == Phase::Closed {
            cut.extend(&cut_off(connections.kinds()));
        } else if stand.callers == Phase::Closed && before.callers != Phase::Closed {
            cut.extend(&cut_off(connections.callers_kinds()));
        }
        before = stand;
        connections.advance(stand);
        if stand.workload == Phase::Closed {
            // Each connection's own task makes its end a reset, so that no peer takes it for a clean one.
            let _ = tokio::time::timeout(LAST_WORDS, connections.idle()).await;
            return cut;
        }
        tokio::select! {
            // The control thread is gone: there is nobody to serve for.
            changed = stands.changed() => if changed.is_err() {
                cut.extend(&cut_off(connections.kinds()));
                return cut;
            },
            () = &mut finish => {
                // Those at the other end know that nothing more comes, and lose nothing.
                let _ = tokio::time::timeout(LAST_WORDS, worker.links.close()).await;
                return cut;
            }
        }
    }
}

/// Counts what is cut.
fn cut_off(kinds: Kinds) -> Kinds {
    for (kind, count) in kinds.each() {
        metrics::counter!("lighter_drain_cut_total", "kind" => kind).increment(count as u64);
    }
    kinds
}

/// How long connections may take to notice that they are cut.
const LAST_WORDS: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;

    use lighter_config::sidecar::SidecarConfig;

    use super::super::doors::{After, Role};
    use super::*;
    use crate::dial::{Here, SocketFactory};
    use crate::intercept::listen;

    /// Keeps one of the runtime's threads busy.
    struct Busy(Mutex<Option<std::sync::mpsc::Receiver<()>>>);

    impl SocketFactory for Busy {
        fn tcp(&self, address: SocketAddr) -> std::io::Result<socket2::Socket> {
            Here::default().tcp(address)
        }

        fn listens(&self, _address: SocketAddr) -> bool {
            if let Some(end) = self.0.lock().unwrap().take() {
                tokio::task::spawn_blocking(move || end.recv());
            }
            true
        }
    }

    #[test]
    fn a_worker_does_not_wait_for_a_thread_that_looks_something_up() {
        let (end, ended) = std::sync::mpsc::channel();
        let busy = Arc::new(Busy(Mutex::new(Some(ended))));
        let shared = Arc::new(Shared::new(SidecarConfig::default(), busy.clone(), busy));
        let (mut listeners, reserved) = listen::reserve("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let app = "127.0.0.1:9".parse().unwrap();
        let after = Some(After { app, reserved: Arc::new(reserved) });
        let door = Door { role: Role::App(0), listener: listeners.remove(0), after };
        let (stands, seen) = watch::channel(Stand::default());
        let (events, mut heard) = mpsc::unbounded_channel();
        start(0, shared, vec![door], seen, events).unwrap();
        assert!(matches!(heard.blocking_recv(), Some(Event::Up)));
        stands.send(Phase::Closed.into()).unwrap();
        assert!(matches!(heard.blocking_recv(), Some(Event::Drained(cut)) if cut.total() == 0));
        drop(end);
    }

    #[test]
    fn a_worker_that_panics_is_heard_of() {
        let (events, mut heard) = mpsc::unbounded_channel();
        let worker = std::thread::spawn(move || {
            let _obituary = Obituary { index: 3, events, last: None };
            panic!("as a fault would");
        });
        assert!(worker.join().is_err());
        assert!(matches!(heard.blocking_recv(), Some(Event::Died(3))));
    }
}
