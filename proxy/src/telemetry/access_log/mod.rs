//! The access log: a line for every exchange and every opaque connection, as JSON or text.
//!
//! A worker formats the line into a buffer of its own; one thread writes the buffers out. A slow disk therefore never
//! stops a worker: when a buffer is full, lines are dropped and counted. With no access log, nothing is formatted.

pub(super) mod format;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use lighter_config::sidecar::AccessLogConfig;

use super::{Record, sidecar};

/// Begins to write the access log that `config` asks for. The second of two in one process has no effect, as there is
/// one log in a process.
pub fn install(config: &AccessLogConfig) -> io::Result<()> {
    let sink = Sink::open(config.path.clone())?;
    let log = Arc::new(Log::new(config.json));
    if LOG.set(log.clone()).is_err() {
        return Ok(());
    }
    thread::Builder::new().name("access-log".into()).spawn(move || log.run(sink))?;
    super::listens();
    Ok(())
}

/// Opens the file anew, for a rotation that has moved the old one away. Lines that were already written go to the old
/// file.
pub fn reopen() {
    if let Some(log) = LOG.get() {
        log.wake(|state| state.reopen = true);
    }
}

/// Writes out all that was logged before, and waits for it, but not longer than `patience`.
pub fn flush(patience: Duration) {
    let Some(log) = LOG.get() else { return };
    let wanted = log.wake(|state| {
        state.flushes_wanted += 1;
        state.flushes_wanted
    });
    let state = log.state();
    // Whether it came in time changes nothing for the caller.
    drop(log.flushed.wait_timeout_while(state, patience, |state| state.flushes_done < wanted));
}

/// All the buffers, and the thread that empties them.
struct Log {
    json: bool,
    state: Mutex<State>,
    /// Tells the writing thread that there is something to do.
    work: Condvar,
    /// Tells those who wait in `flush`.
    flushed: Condvar,
    /// Whether the writing thread was already told since it last looked.
    told: AtomicBool,
}

#[derive(Default)]
struct State {
    buffers: Vec<Arc<Buffer>>,
    lines: bool,
    reopen: bool,
    flushes_wanted: u64,
    flushes_done: u64,
}

/// One thread's lines. The lock is taken by that thread, and now and then for a moment by the writing thread.
#[derive(Default)]
struct Buffer(Mutex<Vec<u8>>);

static LOG: OnceLock<Arc<Log>> = OnceLock::new();

thread_local! {
    static BUFFER: RefCell<Option<Arc<Buffer>>> = const { RefCell::new(None) };
}

/// Most bytes that wait to be written for one thread.
const LIMIT: usize = 1 << 20;

/// A longer line is cut off in its longest fields, which are cut to this many bytes each.
pub(super) const FIELD_LIMIT: usize = 4096;

/// How long the writing thread lets lines gather.
const GATHER: Duration = Duration::from_millis(50);

/// Writes one line if there is an access log.
pub(super) fn write(record: &Record<'_>) {
    let Some(log) = LOG.get() else { return };
    // While a thread ends, it may no longer have a buffer.
    let _ = BUFFER.try_with(|own| {
        let mut own = own.borrow_mut();
        let buffer = own.get_or_insert_with(|| log.add_buffer());
        if log.append(buffer, record, SystemTime::now()) {
            log.tell();
        }
    });
}

impl Log {
    fn new(json: bool) -> Self {
        Log {
            json,
            state: Mutex::default(),
            work: Condvar::new(),
            flushed: Condvar::new(),
            told: AtomicBool::new(false),
        }
    }

    fn add_buffer(&self) -> Arc<Buffer> {
        let buffer = Arc::new(Buffer::default());
        self.state().buffers.push(buffer.clone());
        buffer
    }

    /// Whether the line was taken.
    fn append(&self, buffer: &Buffer, record: &Record<'_>, now: SystemTime) -> bool {
        let mut lines = buffer.lock();
        if lines.len() >= LIMIT {
            drop(lines);
            sidecar::log_dropped(1);
            return false;
        }
        if self.json {
            format::json(&mut lines, record, now, FIELD_LIMIT);
        } else {
            format::text(&mut lines, record, now, FIELD_LIMIT);
        }
        true
    }

    /// Says once that there are lines.
    fn tell(&self) {
        if !self.told.load(Relaxed) && !self.told.swap(true, AcqRel) {
            self.wake(|state| state.lines = true);
        }
    }

    fn wake<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state());
        self.work.notify_one();
        changed
    }

    fn run(&self, mut sink: Sink) {
        loop {
            let mut state = self.state();
            while !state.lines && !state.reopen && state.flushes_done == state.flushes_wanted {
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.flushes_done == state.flushes_wanted && !state.reopen {
                // Nobody waits: let a few lines gather, so that one write takes them all.
                let timeout = self.work.wait_timeout(state, GATHER);
                state = timeout.unwrap_or_else(PoisonError::into_inner).0;
            }
            state.lines = false;
            let reopen = std::mem::take(&mut state.reopen);
            let wanted = state.flushes_wanted;
            let buffers = state.buffers.clone();
            drop(state);

            self.told.store(false, Release);
            for buffer in &buffers {
                sink.drain(buffer);
            }
            drop(buffers);
            if reopen {
                sink.reopen();
            }

            let mut state = self.state();
            // A buffer whose thread has ended and whose lines are written is no longer needed.
            state.buffers.retain(|buffer| Arc::strong_count(buffer) > 1 || !buffer.lock().is_empty());
            state.flushes_done = wanted;
            drop(state);
            self.flushed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        // A line that a panic left half written is ended by the next one's start at worst.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the lines go, and the empty buffer that is exchanged for a full one.
struct Sink {
    path: Option<PathBuf>,
    file: File,
    spare: Vec<u8>,
    broken: bool,
}

impl Sink {
    fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let file = match &path {
            Some(path) => append_to(path)?,
            None => {
                // Not `io::stdout()`: its lock and line buffer would be one more wait.
                use std::os::fd::AsFd;
                File::from(io::stdout().as_fd().try_clone_to_owned()?)
            }
        };
        Ok(Sink { path, file, spare: Vec::new(), broken: false })
    }

    fn drain(&mut self, buffer: &Buffer) {
        // The lock is held for the exchange only, not for the write.
        std::mem::swap(&mut *buffer.lock(), &mut self.spare);
        if self.spare.is_empty() {
            return;
        }
        if let Err(error) = self.file.write_all(&self.spare) {
            sidecar::log_dropped(self.spare.iter().filter(|byte| **byte == b'\n').count() as u64);
            if !self.broken {
                tracing::error!(%error, "cannot write the access log; lines are dropped");
            }
            self.broken = true;
        } else {
            self.broken = false;
        }
        self.spare.clear();
        // A burst must not cost its memory for ever.
        self.spare.shrink_to(LIMIT / 8);
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match append_to(path) {
            Ok(file) => self.file = file,
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "cannot reopen the access log; the old file stays");
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests;
