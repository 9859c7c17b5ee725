//! A component that keeps its memory: one instance, which is asked one thing at a time.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lighter_functions::keys::{MOST_BESIDE, digits};
use lighter_functions::memory::{KEPT, PAGE};
use lighter_functions::{
    At, Call, Code, Contents, Entries, Fault, Memory, Meter, NotGiven, NotReplaced, Out, Status,
};

use crate::component::Compiled;
use crate::host::{Answered, stopped};
use crate::live::{Ended, Live};
use crate::movable::Hidden;

/// The component, and what it keeps.
pub(crate) struct Kept {
    compiled: Compiled,
    /// As it is told.
    digest: String,
    sum: [u8; 32],
    /// How many globals move with its memory, or why it does not.
    door: Result<usize, Hidden>,
    /// Most memory of it, in bytes.
    most: AtomicU64,
    /// Instances that broke off while the host did something with them, and that nobody has been told of.
    lost: AtomicU64,
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// Who is next, each in the order in which they came.
struct Queue {
    /// None: somebody has it.
    held: Option<Held>,
    /// What the host does with it, before all calls.
    hosts: VecDeque<u64>,
    calls: VecDeque<u64>,
    next: u64,
}

/// What lasts.
struct Held {
    live: Option<Live>,
    is_frozen: bool,
    /// It grows with each time that something is given.
    version: u64,
}

/// What lasts is lent until this is dropped.
struct Turn<'k> {
    kept: &'k Kept,
    held: Option<Held>,
}

impl Kept {
    /// Without an instance, until something is asked of it.
    pub(crate) fn new(compiled: Compiled, sum: [u8; 32], door: Result<usize, Hidden>) -> Self {
        let (most, version) = (compiled.runtime.memory_bytes, compiled.runtime.first);
        let held = Held { live: None, is_frozen: false, version };
        Kept {
            compiled,
            digest: format!("{KEPT}{}", digits(&sum)),
            sum,
            door,
            most: most.into(),
            lost: AtomicU64::new(0),
            queue: Mutex::new(Queue {
                held: Some(held),
                hosts: VecDeque::new(),
                calls: VecDeque::new(),
                next: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// From now on it has no more memory than this.
    pub(crate) fn within(&self, memory_bytes: u64) {
        self.most.fetch_min(memory_bytes, Relaxed);
    }

    /// Why it cannot be moved, if it cannot.
    pub(crate) fn hidden(&self) -> Option<&Hidden> {
        self.door.as_ref().err()
    }

    /// Waits until nobody has it, as long as `waits` lets it: a call behind others, and what is no call behind what is none.
    fn turn(&self, is_call: bool, waits: impl Fn() -> Result<(), Fault>) -> Result<Turn<'_>, Fault> {
        let mut queue = self.queue();
        let own = queue.next;
        queue.next += 1;
        let line = if is_call { &mut queue.calls } else { &mut queue.hosts };
        line.push_back(own);
        loop {
            drop(queue);
            // Looked at last before it has its turn, and while nobody waits for this.
            let may = waits();
            queue = self.queue();
            if let Err(fault) = may {
                queue.leave(own);
                self.changed.notify_all();
                return Err(fault);
            }
            if queue.hosts.front().or(queue.calls.front()) == Some(&own)
                && let Some(held) = queue.held.take()
            {
                queue.leave(own);
                return Ok(Turn { kept: self, held: Some(held) });
            }
            queue = self.changed.wait_timeout(queue, NAP).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance that nobody has asked anything yet.
    fn begin(&self, meter: &Arc<Meter>) -> Result<Live, Fault> {
        Live::new(&self.compiled, self.door.as_ref().ok().copied(), meter)
    }

    /// What counts while the host itself does something with it.
    fn unasked(&self) -> Arc<Meter> {
        Meter::unasked(self.most.load(Relaxed), TO_MOVE)
    }

    fn answer(&self, call: &Call<'_>) -> Result<Answered, Fault> {
        let mut held = self.turn(true, || call.meter.check())?;
        if held.is_frozen {
            let why = "what the function keeps in its memory moves to another device, or has";
            return Err(Fault::new(Status::DeviceNotAvailable, why));
        }
        // One that waited for others for long would break off, and take away what they have there.
        call.meter.begin();
        let mut live = match held.live.take() {
            Some(live) => live,
            None => self.begin(call.meter)?,
        };
        // Whoever leaves does not take with it what others have there.
        call.meter.stay(true);
        let ended = live.call(&self.compiled, call);
        call.meter.stay(false);
        match ended {
            Ended::Well(answered) => {
                held.live = Some(live);
                answered
            }
            Ended::Broken(mut fault) => {
                call.meter.lose_memory();
                fault.message += "; what it kept in its memory is lost";
                Err(fault)
            }
        }
    }

    /// What has changed since a version, or all. None: that is not known.
    fn give(&self, since: Option<u64>, meter: &Arc<Meter>) -> Result<Option<At>, NotGiven> {
        let not_given = |fault: Fault| NotGiven(fault.to_string());
        let mut held = self.turn(false, || Ok(())).map_err(not_given)?;
        let (since, of_keys) = match since {
            None => (None, None),
            Some(since) => match held.live.as_ref().and_then(|live| live.given(since)) {
                None => return Ok(None),
                Some(of_keys) => (Some(since), Some(of_keys)),
            },
        };
        let Compiled { tenant, runtime, .. } = &self.compiled;
        let keys = match of_keys {
            None => runtime.keys.read(tenant, self.sum),
            Some(of_keys) => match runtime.keys.changes(tenant, self.sum, of_keys) {
                None => return Ok(None),
                Some(keys) => keys,
            },
        };
        // A call that goes before may take long.
        meter.begin();
        let _running = runtime.ticker.running();
        let mut live = match held.live.take() {
            Some(live) => live,
            None => self.begin(meter).map_err(not_given)?,
        };
        let version = held.version + 1;
        match self.told(&mut live, meter, since, version, &keys) {
            Ok(bytes) => {
                live.gave(version, keys.version);
                held.live = Some(live);
                held.version = version;
                Ok(Some(At { version, bytes }))
            }
            Err(Failed::Whole(why)) => {
                held.live = Some(live);
                Err(NotGiven(why))
            }
            Err(Failed::Broken(error)) => Err(NotGiven(self.lose(&error))),
        }
    }

    fn told(
        &self,
        live: &mut Live,
        meter: &Arc<Meter>,
        since: Option<u64>,
        now: u64,
        keys: &At,
    ) -> Result<Vec<u8>, Failed<String>> {
        let keys = Entries::parse(&keys.bytes).map_err(|why| Failed::Whole(why.to_string()))?;
        live.counted_by(meter).map_err(|fault| Failed::Whole(fault.to_string()))?;
        let (pages, globals) = live.globals().map_err(Failed::Broken)?;
        let told = live.look(since, now, |scan| {
            let (are_changes, blocks) = (since.is_some(), scan.given());
            Memory { are_changes, digest: self.sum, pages, globals, blocks, keys }.write()
        });
        told.map_err(Failed::Broken)
    }

    fn take(
        &self,
        memory: &Memory<'_>,
        meter: &Arc<Meter>,
        gone: &dyn Fn() -> bool,
    ) -> Result<(), NotReplaced> {
        let (bytes, most) = (u64::from(memory.pages) * PAGE as u64, self.most.load(Relaxed));
        if bytes > most {
            return Err(NotReplaced::Memory(bytes, most));
        }
        if self.door.as_ref().ok() != Some(&memory.globals.len()) {
            return Err(NotReplaced::Malformed("it has other globals"));
        }
        let mut held = self.turn(false, || waited_for(gone)).map_err(not_taken)?;
        let Compiled { tenant, runtime, .. } = &self.compiled;
        // A call that goes before may take long.
        meter.begin();
        let _running = runtime.ticker.running();
        if !memory.are_changes {
            let mut live = self.begin(meter).map_err(not_taken)?;
            let filled = live.grow(memory.pages).and_then(|()| live.fill(memory));
            filled.map_err(|error| NotReplaced::Failed(format!("{error:#}")))?;
            runtime.keys.replace(tenant, &memory.keys)?;
            held.live = Some(live);
            return Ok(());
        }
        let Some(mut live) = held.live.take() else {
            return Err(NotReplaced::Malformed("what has changed, where there is nothing"));
        };
        match self.patch(&mut live, meter, memory) {
            Ok(()) => {
                held.live = Some(live);
                Ok(())
            }
            Err(Failed::Whole(why)) => {
                held.live = Some(live);
                Err(why)
            }
            // One that took a part of it is none of either.
            Err(Failed::Broken(error)) => Err(NotReplaced::Failed(self.lose(&error))),
        }
    }

    /// What may be refused is before what cannot be undone.
    fn patch(
        &self,
        live: &mut Live,
        meter: &Arc<Meter>,
        memory: &Memory<'_>,
    ) -> Result<(), Failed<NotReplaced>> {
        live.counted_by(meter).map_err(|fault| Failed::Whole(not_taken(fault)))?;
        let pages = live.size().map_err(Failed::Broken)?;
        let Some(more) = memory.pages.checked_sub(pages) else {
            return Err(Failed::Whole(NotReplaced::Failed("its memory is larger than that".into())));
        };
        let more = u64::from(more) * PAGE as u64;
        meter.hold(more).map_err(|fault| Failed::Whole(not_taken(fault)))?;
        meter.release(more);
        live.grow(memory.pages).map_err(Failed::Broken)?;
        let Compiled { tenant, runtime, .. } = &self.compiled;
        runtime.keys.replace(tenant, &memory.keys).map_err(Failed::Whole)?;
        live.fill(memory).map_err(Failed::Broken)
    }

    /// An instance that broke off is never used again. Why, for people.
    fn lose(&self, error: &wasmtime::Error) -> String {
        self.lost.fetch_add(1, Relaxed);
        format!("{error:#}; what it kept in its memory is lost")
    }
}

/// What could not be done with an instance.
enum Failed<E> {
    /// It has what it had.
    Whole(E),
    /// It broke off.
    Broken(wasmtime::Error),
}

fn not_taken(fault: Fault) -> NotReplaced {
    NotReplaced::Failed(fault.to_string())
}

/// Whoever asked is still there.
fn waited_for(gone: &dyn Fn() -> bool) -> Result<(), Fault> {
    if gone() { Err(Fault::new(Status::NotDone, "whoever asked has left")) } else { Ok(()) }
}

impl Queue {
    /// It waits no longer.
    fn leave(&mut self, own: u64) {
        self.hosts.retain(|waiting| *waiting != own);
        self.calls.retain(|waiting| *waiting != own);
    }
}

impl Deref for Turn<'_> {
    type Target = Held;

    fn deref(&self) -> &Held {
        self.held.as_ref().unwrap_or_else(|| unreachable!("it is lent until the turn is over"))
    }
}

impl DerefMut for Turn<'_> {
    fn deref_mut(&mut self) -> &mut Held {
        self.held.as_mut().unwrap_or_else(|| unreachable!("it is lent until the turn is over"))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.kept.queue().held = self.held.take();
        self.kept.changed.notify_all();
    }
}

/// A component that is loaded, and keeps its memory.
pub(crate) struct Keeping(pub(crate) Arc<Kept>);

impl Code for Keeping {
    fn run(&self, call: Call<'_>, out: &mut dyn Out) -> Result<(), Fault> {
        let Answered { head, bytes } = self.0.answer(&call)?;
        if let Some((status, media_type)) = head {
            out.answer(status, media_type);
        }
        for piece in bytes.chunks(PIECE) {
            out.write(piece.to_vec(), call.meter.until()).map_err(|stop| stopped(stop, call.meter))?;
        }
        Ok(())
    }
}

impl Contents for Keeping {
    fn digest(&self) -> &str {
        &self.0.digest
    }

    fn most_bytes(&self) -> u64 {
        let globals = self.0.door.as_ref().ok().copied().unwrap_or_default();
        let keys = self.0.compiled.runtime.keys.quota().saturating_add(MOST_BESIDE);
        Memory::most_bytes(self.0.most.load(Relaxed), globals).saturating_add(keys)
    }

    fn read(&self) -> Result<At, NotGiven> {
        let given = self.0.give(None, &self.0.unasked())?;
        given.ok_or_else(|| NotGiven("nothing is known of it".into()))
    }

    fn changes(&self, since: u64) -> Result<Option<At>, NotGiven> {
        self.0.give(Some(since), &self.0.unasked())
    }

    fn replace(&self, with: &[u8], gone: &dyn Fn() -> bool) -> Result<(), NotReplaced> {
        let memory = Memory::parse(with)?;
        if memory.digest != self.0.sum {
            let (theirs, ours) = (digits(&memory.digest), digits(&self.0.sum));
            return Err(NotReplaced::OtherProgram { theirs, ours });
        }
        self.0.take(&memory, &self.0.unasked(), gone)
    }

    /// Waits for the call that is under way, which may still change keys and values.
    fn freeze(&self, is_frozen: bool, gone: &dyn Fn() -> bool) {
        // Whoever gave up may have had it go on, which then is to be the last word. To go on does no harm.
        let waits = || if is_frozen { waited_for(gone) } else { Ok(()) };
        let Ok(mut held) = self.0.turn(false, waits) else { return };
        self.0.compiled.runtime.keys.freeze(&self.0.compiled.tenant, is_frozen);
        held.is_frozen = is_frozen;
    }

    fn lost(&self) -> u64 {
        self.0.lost.swap(0, Relaxed)
    }
}

/// How long a call waits before it looks again whether it may.
const NAP: Duration = Duration::from_millis(10);
/// The longest that an instance may take to begin, and to be read or written.
const TO_MOVE: Duration = Duration::from_secs(60);
/// What of an answer is passed on at once, in bytes.
const PIECE: usize = 64 << 10;

#[cfg(test)]
mod tests;
