//! Somebody who asks at one door all the time, wherever others are told to go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::Trial;

use super::client::{UNKNOWN, may_be_done};
use super::record::Record;
use crate::registers::{INSTANCE, NUMBER};
use crate::support::raw::{Body, Peer};
use crate::support::test;

/// Somebody who adds to the register `beside` and reads it, by turns. What came of it is in the record of others as well, as far as
/// numbers go.
pub struct Beside {
    is_over: Arc<AtomicBool>,
    said: Arc<Mutex<Vec<Said>>>,
    thread: JoinHandle<()>,
}

/// What one request was answered.
#[derive(Clone, Debug, Default)]
pub struct Said {
    pub adds: bool,
    /// Who has answered as it should be.
    pub by: Option<String>,
    /// With this.
    pub value: u64,
    /// What a sidecar names where nobody has.
    pub cause: Option<String>,
    /// When, since the beginning of the record.
    pub began: Duration,
    pub ended: Duration,
}

impl Beside {
    pub fn start(door: SocketAddr, record: &Arc<Record>) -> Self {
        let (is_over, said) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Said>>>::default());
        let (over, all, record) = (is_over.clone(), said.clone(), record.clone());
        let thread = std::thread::spawn(move || {
            for number in FIRST.. {
                if over.load(Relaxed) {
                    break;
                }
                let said = asks(door, number, &record);
                if said.adds && said.by.is_some() {
                    record.done(number);
                } else if said.adds && said.is_refused() {
                    record.not_done(number);
                }
                all.lock().unwrap().push(said);
                std::thread::sleep(PAUSE);
            }
        });
        Beside { is_over, said, thread }
    }

    /// How many were answered.
    pub fn asked(&self) -> usize {
        self.said.lock().unwrap().len()
    }

    /// How many were answered by this one.
    pub fn answered(&self, by: &str) -> usize {
        self.said.lock().unwrap().iter().filter(|said| said.is_by(by)).count()
    }

    pub fn said(&self) -> Vec<Said> {
        self.said.lock().unwrap().clone()
    }

    pub fn end(self) -> Vec<Said> {
        self.is_over.store(true, Relaxed);
        self.thread.join().unwrap();
        self.said.lock().unwrap().clone()
    }
}

impl Said {
    pub fn is_by(&self, by: &str) -> bool {
        self.by.as_deref() == Some(by)
    }

    /// It was answered that it was not done.
    fn is_refused(&self) -> bool {
        self.cause.as_deref().is_some_and(|cause| !may_be_done(cause))
    }
}

/// Fails where a register that began with this cannot have answered so: one of those that add was lost behind its answer, or counted
/// twice.
pub fn check_sums<'s>(said: impl IntoIterator<Item = &'s Said>, begins: u64) -> Result<(), String> {
    // What may have been done without an answer is done once, or never, or yet.
    let (mut sum, mut may_be) = (begins, 0);
    for (at, said) in said.into_iter().enumerate() {
        let has_added = u64::from(said.adds && said.by.is_some());
        may_be += u64::from(said.adds && said.by.is_none() && !said.is_refused());
        if said.by.is_none() {
            continue;
        }
        let more = said.value.checked_sub(sum + has_added).filter(|more| *more <= may_be);
        let Some(more) = more else {
            return Err(format!(
                "request {at} of those beside: {said:?} behind {sum}, {may_be} more at most"
            ));
        };
        (sum, may_be) = (said.value, may_be - more);
    }
    Ok(())
}

/// Fails where at one door `from` answered what began after `to` had answered.
pub fn check_turns(said: &[Said], places: [&str; 2]) -> Result<(), String> {
    Record::new().check_turns(said, Duration::ZERO, places)
}

/// Adds, or reads.
fn asks(door: SocketAddr, number: u64, record: &Record) -> Said {
    let began = record.now();
    let mut said = Said { adds: number % 2 == 1, began, ..Said::default() };
    said.answer(door, number);
    said.ended = record.now();
    said
}

impl Said {
    /// None: there is no whole answer.
    fn answer(&mut self, door: SocketAddr, number: u64) -> Option<()> {
        let mut peer = Peer::connect_where_taken(door)?;
        let (method, path) = if self.adds { ("POST", "/r/beside/add") } else { ("GET", "/r/beside") };
        let fields = format!("Host: shop\r\n{NUMBER}: {number}\r\nContent-Length: 0\r\nConnection: close");
        let head =
            peer.try_send(format!("{method} {path} HTTP/1.1\r\n{fields}\r\n\r\n")).then(|| peer.head())??;
        let Body::Whole(body) = peer.body(&head) else { return None };
        self.cause = head.cause().map(str::to_owned);
        self.value = String::from_utf8_lossy(&body).trim().parse().unwrap_or_default();
        self.by = head.get(INSTANCE).filter(|_| head.status() == 200).map(str::to_owned);
        Some(())
    }
}

pub fn tests() -> Vec<Trial> {
    vec![test("callers::what_cannot_be_is_found_beside_others", is_found)]
}

fn is_found() {
    let said = |by: &str, adds, value, times: (u64, u64)| {
        let [began, ended] = [times.0, times.1].map(Duration::from_millis);
        Said { adds, by: Some(by.to_owned()), value, cause: None, began, ended }
    };
    let well = [said("a", true, 1, (1, 2)), said("a", false, 1, (3, 6)), said("b", true, 2, (4, 5))];
    check_sums(&well, 0).unwrap();
    check_turns(&well, ["a", "b"]).unwrap();
    assert!(
        check_turns(&[well[2].clone(), said("a", false, 2, (6, 7))], ["a", "b"]).is_err(),
        "two by turns"
    );
    let done = said("b", true, 2, (3, 4));
    assert!(check_sums([&done, &well[1]], 1).is_err(), "what was added is gone");
    assert!(check_sums([&done], 0).is_err(), "it was counted twice");
    // Who is not answered may have added, once; who is refused has not.
    let [unknown, refused] = [UNKNOWN, "not_serving"].map(|cause| Said {
        adds: true,
        cause: Some(cause.to_owned()),
        ..Said::default()
    });
    check_sums([&unknown, &done], 0).unwrap();
    assert!(check_sums([&unknown, &done, &said("b", false, 3, (5, 6))], 0).is_err(), "it was counted twice");
    assert!(check_sums([&refused, &done], 0).is_err(), "it was done after all");
}

/// Beyond the numbers of all others. It adds.
const FIRST: u64 = (1 << 41) + 1;
/// Between one and the next.
const PAUSE: Duration = Duration::from_millis(10);
