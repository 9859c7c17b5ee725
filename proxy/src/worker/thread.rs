//! One worker's thread, from its start to the end of its drain.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet};

use super::doors::Door;
use super::{Shared, Worker};
use crate::drain::Phase;

/// What a worker tells the control thread.
#[derive(Debug)]
pub(super) enum Event {
    /// It accepts connections.
    Up,
    /// It could not start.
    Failed(std::io::Error),
    /// It drained; so many connections were cut.
    Drained(usize),
    /// It died of a panic.
    Died(usize),
}

/// Starts worker `index` behind `doors`.
pub(super) fn start(
    index: usize,
    shared: Arc<Shared>,
    doors: Vec<Door>,
    phases: watch::Receiver<Phase>,
    events: mpsc::UnboundedSender<Event>,
) -> std::io::Result<()> {
    let body = move || {
        let mut obituary = Obituary { index, events, last: None };
        obituary.last = Some(work(index, shared, doors, phases, &obituary.events));
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
    phases: watch::Receiver<Phase>,
    events: &mpsc::UnboundedSender<Event>,
) -> Event {
    crate::telemetry::set_worker(index);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => return Event::Failed(error),
    };
    let tasks = LocalSet::new();
    let worker = Worker::new(index, shared);
    let cut = tasks.block_on(&runtime, async {
        let accepting = doors
            .into_iter()
            .map(|door| Ok(tokio::task::spawn_local(door.open(worker.clone())?)))
            .collect::<std::io::Result<Vec<_>>>()?;
        let _ = events.send(Event::Up);
        Ok(drained(worker, accepting, phases).await)
    });
    // Tasks that are left end here, before the runtime that they hang on.
    drop(tasks);
    match cut {
        Ok(cut) => Event::Drained(cut),
        Err(error) => Event::Failed(error),
    }
}

/// Follows the phases until there is nothing left to do. Returns how many connections were cut.
async fn drained(
    worker: Rc<Worker>,
    mut accepting: Vec<JoinHandle<()>>,
    mut phases: watch::Receiver<Phase>,
) -> usize {
    let connections = &worker.connections;
    loop {
        let phase = *phases.borrow_and_update();
        connections.advance(phase);
        if phase == Phase::Closed {
            let cut = connections.open();
            // Each connection's own task makes its end a reset, so that no peer takes it for a clean one.
            let _ = tokio::time::timeout(LAST_WORDS, connections.idle()).await;
            return cut;
        }
        if phase == Phase::Draining {
            // Accept loops empty their backlog before they close; what they took counts.
            for door in accepting.drain(..) {
                let _ = door.await;
            }
        }
        tokio::select! {
            // The control thread is gone: there is nobody to serve for.
            changed = phases.changed() => if changed.is_err() { return connections.open() },
            () = connections.idle(), if phase == Phase::Draining => return 0,
        }
    }
}

/// How long connections may take to notice that they are cut.
const LAST_WORDS: Duration = Duration::from_millis(50);
