//! What tells running components that time passes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{io, thread};

/// Between two looks of a component at the clock. It costs a load and a comparison in each loop, and this much precision.
const TICK: Duration = Duration::from_millis(10);

/// Ticks while something runs, and sleeps otherwise.
pub(crate) struct Ticker(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    running: usize,
    is_over: bool,
}

/// Something runs until this is dropped.
pub(crate) struct Running<'t>(&'t Shared);

impl Ticker {
    /// Calls `tick`, on a thread of its own.
    pub(crate) fn start(tick: impl Fn() + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let ticking = shared.clone();
        let run = move || {
            loop {
                let is_idle = |state: &mut State| state.running == 0 && !state.is_over;
                let state = ticking.changed.wait_while(ticking.state(), is_idle);
                if state.unwrap_or_else(PoisonError::into_inner).is_over {
                    return;
                }
                thread::sleep(TICK);
                tick();
            }
        };
        thread::Builder::new().name("ticker".into()).spawn(run)?;
        Ok(Ticker(shared))
    }

    /// Something runs now.
    pub(crate) fn running(&self) -> Running<'_> {
        self.0.state().running += 1;
        self.0.changed.notify_one();
        Running(&self.0)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.state().running -= 1;
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.changed.notify_one();
    }
}
