//! A client's session with Redis, without I/O: what was asked and not answered, what the server keeps for this connection, and
//! whether another connection could take its place.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use self::kind::{Kind, Slot, gives_name, kind};
use super::resp::{Answer, Command};

mod kind;

/// What a client's connection has asked for, and what has become of it.
#[derive(Debug, Default)]
pub struct Session {
    /// What is to be answered, in order.
    owed: VecDeque<Owed>,
    /// How many commands there were.
    count: u64,
    /// What comes of commands once they are answered well.
    changes: VecDeque<(u64, Change)>,
    /// Bytes of these.
    pending: usize,
    /// What the server was told of this connection, each once, in order.
    kept: Vec<(Slot, Bytes)>,
    /// Bytes of that, and of the names of channels.
    bytes: usize,
    /// Channels, patterns and shard channels.
    subscribed: [BTreeSet<Box<[u8]>>; 3],
    /// The commands since which these are open, until the server has answered what ends them.
    multi: Option<u64>,
    watch: Option<u64>,
    /// The MULTI within which the server will see what is sent next.
    within: Option<u64>,
    /// The server speaks RESP3.
    is_resp3: bool,
    /// Commands that wait on the server for something.
    blocking: u32,
    /// It stays where it is since this command, unless the server begins anew behind it.
    pinned: Option<(u64, Pin)>,
    /// Nothing is known any more of what its bytes are.
    is_raw: bool,
    /// The client was answered that this is its end.
    is_over: bool,
}

/// Why a session stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pin {
    /// It is in a transaction.
    Transaction,
    /// It watches keys.
    Watch,
    /// It waits on the server for something.
    Blocking,
    /// It hears all that the server does.
    Monitor,
    /// The server remembers what it has read.
    Tracking,
    /// It has said which answers it wants.
    Replies,
    /// It is a replica.
    Replication,
    /// It debugs scripts.
    Debug,
    /// What it would have to be told again is too much.
    TooMuch,
    /// It has asked for something that may change a session in a way that is not known here.
    Unknown,
}

impl Pin {
    /// Each.
    pub const ALL: [Pin; 10] = [
        Pin::Transaction,
        Pin::Watch,
        Pin::Blocking,
        Pin::Monitor,
        Pin::Tracking,
        Pin::Replies,
        Pin::Replication,
        Pin::Debug,
        Pin::TooMuch,
        Pin::Unknown,
    ];

    /// In a word, as a label.
    pub const fn label(self) -> &'static str {
        match self {
            Pin::Transaction => "transaction",
            Pin::Watch => "watch",
            Pin::Blocking => "blocking",
            Pin::Monitor => "monitor",
            Pin::Tracking => "tracking",
            Pin::Replies => "replies",
            Pin::Replication => "replication",
            Pin::Debug => "debug",
            Pin::TooMuch => "too_much",
            Pin::Unknown => "unknown",
        }
    }
}

/// Something that the client is to be told.
#[derive(Debug)]
struct Owed {
    number: u64,
    due: Due,
}

#[derive(Debug)]
enum Due {
    /// One answer.
    One,
    /// One, of what waits for something.
    Late,
    /// As many confirmations as it names channels. None: as many as there are, and one at least.
    Confirms {
        subscribes: bool,
        which: usize,
        left: Option<u32>,
    },
    /// Of MULTI, of WATCH, and of what ends both or the second.
    Multi,
    Watch,
    Ends,
    Unwatch,
    /// This, which the server does not say.
    Local(&'static str),
}

#[derive(Debug)]
enum Change {
    Keep(Slot, Bytes),
    Subscribe(usize, Vec<Box<[u8]>>),
    /// None named: all.
    Unsubscribe(usize, Vec<Box<[u8]>>),
    Reset,
    Quit,
}

/// A command, as far as its way depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    kind: Kind,
    /// With it the session stays where it is, for a while at least.
    pub pins: bool,
}

/// What a new connection is told so that it is like the one before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Commands.
    pub bytes: Vec<u8>,
    /// How many commands that are.
    pub commands: u32,
    /// How many answers that makes.
    pub answers: u32,
}

impl Change {
    /// How many bytes it takes.
    fn bytes(&self) -> usize {
        match self {
            Change::Keep(_, bytes) => bytes.len(),
            Change::Subscribe(_, names) | Change::Unsubscribe(_, names) => {
                names.iter().map(|name| name.len() + OVERHEAD).sum()
            }
            Change::Reset | Change::Quit => 0,
        }
    }
}

impl Session {
    /// What a command is. None: it is empty, and nobody answers it.
    pub fn look(&self, command: &Command<'_>) -> Option<Look> {
        let kind = match kind(command)? {
            // Within a transaction everything waits for its end.
            Kind::Blocks if self.within.is_some() => Kind::Plain,
            Kind::Keep(_) | Kind::Pins(_) if self.within.is_some() => Kind::Pins(Pin::Transaction),
            Kind::Confirms { .. } if self.within.is_some() => Kind::Raw(Pin::Transaction),
            Kind::Keep(_) | Kind::Confirms { .. } if command.is_quoted() => Kind::Raw(Pin::Unknown),
            Kind::Keep(_) if !self.has_room(command) => Kind::Pins(Pin::TooMuch),
            Kind::Confirms { subscribes: true, .. } if !self.has_room(command) => Kind::Raw(Pin::TooMuch),
            // How many confirmations there are is not known.
            Kind::Confirms { .. } if !command.is_whole => Kind::Raw(Pin::TooMuch),
            kind => kind,
        };
        let pins = matches!(kind, Kind::Blocks | Kind::Multi | Kind::Watch | Kind::Pins(_) | Kind::Raw(_));
        Some(Look { kind, pins })
    }

    fn has_room(&self, command: &Command<'_>) -> bool {
        command.is_whole && self.bytes + command.bytes.len() <= MOST_KEPT
    }

    /// Whether so much is not answered that no more is to be sent until some of it is: a client may write without reading.
    pub fn is_full(&self) -> bool {
        self.owed.len() >= MOST_OWED || self.pending > MOST_KEPT
    }

    /// A command goes to the server. Returns its number.
    pub fn sent(&mut self, look: Look, command: &Command<'_>) -> u64 {
        self.count += 1;
        let number = self.count;
        let named = || command.parts().skip(1).map(Box::from).collect::<Vec<Box<[u8]>>>();
        let mut change = None;
        let due = match look.kind {
            Kind::Plain => Due::One,
            Kind::Blocks => {
                self.blocking += 1;
                Due::Late
            }
            Kind::Multi => {
                self.multi.get_or_insert(number);
                self.within.get_or_insert(number);
                Due::Multi
            }
            Kind::Exec => {
                self.within = None;
                Due::Ends
            }
            Kind::Watch => {
                self.watch.get_or_insert(number);
                Due::Watch
            }
            Kind::Unwatch if self.within.is_none() => Due::Unwatch,
            Kind::Unwatch => Due::One,
            Kind::Keep(slot) => {
                change = Some(Change::Keep(slot, Bytes::copy_from_slice(command.bytes)));
                Due::One
            }
            Kind::Confirms { subscribes, which } => {
                let named = named();
                let left = u32::try_from(named.len()).ok().filter(|left| *left > 0);
                change = match (subscribes, left) {
                    // Without a channel it is an error.
                    (true, None) => None,
                    (true, Some(_)) => Some(Change::Subscribe(which, named)),
                    (false, _) => Some(Change::Unsubscribe(which, named)),
                };
                match (subscribes, left) {
                    (true, None) => Due::One,
                    _ => Due::Confirms { subscribes, which, left },
                }
            }
            Kind::Quit => {
                change = Some(Change::Quit);
                Due::One
            }
            Kind::Reset => {
                self.within = None;
                change = Some(Change::Reset);
                Due::One
            }
            Kind::Pins(pin) => {
                self.pinned = Some((number, pin));
                Due::One
            }
            Kind::Raw(pin) => {
                self.pinned = Some((number, pin));
                self.is_raw = true;
                self.owed.clear();
                self.changes.clear();
                self.pending = 0;
                return number;
            }
        };
        if let Some(change) = change {
            self.pending += change.bytes();
            self.changes.push_back((number, change));
        }
        self.owed.push_back(Owed { number, due });
        number
    }

    /// The client is told this in its turn, in the place of an answer.
    pub fn owe(&mut self, text: &'static str) {
        self.owed.push_back(Owed { number: self.count, due: Due::Local(text) });
    }

    /// What the client is to be told now, between two answers of the server.
    pub fn local(&mut self) -> Option<&'static str> {
        let Due::Local(text) = self.owed.front()?.due else { return None };
        self.owed.pop_front();
        Some(text)
    }

    /// Whether the client is to be told something next that the server does not say.
    pub fn is_local_next(&self) -> bool {
        self.owed.front().is_some_and(|owed| matches!(owed.due, Due::Local(_)))
    }

    /// How many commands went to a server.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The server has said something. Returns the number of the last command that has been answered with all before it, if it was an
    /// answer.
    pub fn answered(&mut self, answer: Answer<'_>) -> Option<u64> {
        if self.is_raw || self.is_push(answer) {
            return None;
        }
        let failed = answer.is_error();
        let Some(front) = self.owed.front_mut() else {
            // It speaks unasked: of what, nobody knows.
            self.pinned.get_or_insert((self.count, Pin::Unknown));
            return None;
        };
        let number = front.number;
        if let Due::Confirms { which, left, .. } = &mut front.due {
            let all = self.subscribed[*which].len().max(1);
            let more = left.get_or_insert(u32::try_from(all).unwrap_or(u32::MAX));
            *more -= 1;
            let is_done = *more == 0;
            self.change(number, failed);
            if !is_done && !failed {
                return None;
            }
        }
        let owed = self.owed.pop_front()?;
        self.change(number, failed);
        // RESP2 has no maps.
        self.is_resp3 |= answer.is_map();
        let before = |since: Option<u64>| since.is_some_and(|since| since < number);
        match owed.due {
            Due::Late => self.blocking = self.blocking.saturating_sub(1),
            Due::Multi if failed => {
                if self.multi == Some(number) {
                    self.multi = self.next_multi();
                }
                // Nothing that ends it was sent since, or it would be another one.
                if self.within == Some(number) {
                    self.within = self.next_multi();
                }
            }
            Due::Watch if failed && self.watch == Some(number) => self.watch = self.next_watch(),
            Due::Ends => {
                if before(self.multi) {
                    self.multi = self.next_multi();
                }
                if before(self.watch) {
                    self.watch = self.next_watch();
                }
            }
            Due::Unwatch if !failed && before(self.watch) => self.watch = self.next_watch(),
            _ => {}
        }
        Some(number)
    }

    /// The next of these that was sent and is not answered: it may open again what has just ended.
    fn next_multi(&self) -> Option<u64> {
        self.owed.iter().find(|owed| matches!(owed.due, Due::Multi)).map(|owed| owed.number)
    }

    fn next_watch(&self) -> Option<u64> {
        self.owed.iter().find(|owed| matches!(owed.due, Due::Watch)).map(|owed| owed.number)
    }

    /// Whether an array that begins so was published. In RESP3 it is an answer, as what is published is a push there.
    fn is_message(&self, word: Option<&[u8]>) -> bool {
        !self.is_resp3 && word.is_some_and(|word| MESSAGES.contains(&word))
    }

    /// Whether it is something that the client has subscribed to.
    fn is_push(&self, answer: Answer<'_>) -> bool {
        let word = answer.word();
        let confirms = || {
            let Some(Owed { due: Due::Confirms { subscribes, which, .. }, .. }) = self.owed.front() else {
                return false;
            };
            let names = if *subscribes { SUBSCRIBES } else { UNSUBSCRIBES };
            word.is_some_and(|word| word.eq_ignore_ascii_case(names[*which].as_bytes()))
        };
        if answer.is_push() {
            return !confirms();
        }
        self.subscriptions() > 0 && self.is_message(word)
    }

    /// What comes of the command of this number.
    fn change(&mut self, number: u64, failed: bool) {
        if self.changes.front().is_none_or(|(of, _)| *of != number) {
            return;
        }
        let Some((_, change)) = self.changes.pop_front() else { return };
        self.pending -= change.bytes();
        if failed {
            return;
        }
        match change {
            Change::Keep(slot, bytes) => {
                if matches!(slot, Slot::Hello | Slot::HelloAuth) {
                    // Until its answer is seen to be a map.
                    self.is_resp3 = false;
                }
                self.keep(slot, bytes);
            }
            Change::Subscribe(which, names) => {
                for name in names {
                    let length = name.len();
                    if self.subscribed[which].insert(name) {
                        self.bytes += length + OVERHEAD;
                    }
                }
            }
            Change::Unsubscribe(which, names) => {
                let names = match names.is_empty() {
                    true => self.subscribed[which].iter().cloned().collect(),
                    false => names,
                };
                for name in names {
                    if self.subscribed[which].remove(&name) {
                        self.bytes -= name.len() + OVERHEAD;
                    }
                }
            }
            Change::Reset => {
                self.kept.clear();
                self.subscribed.iter_mut().for_each(BTreeSet::clear);
                (self.bytes, self.is_resp3) = (0, false);
                // What was begun behind it stays open, and is not looked for again each time.
                self.pinned = self.pinned.filter(|(since, _)| *since > number);
                if self.multi.is_some_and(|since| since < number) {
                    self.multi = self.next_multi();
                }
                if self.watch.is_some_and(|since| since < number) {
                    self.watch = self.next_watch();
                }
            }
            Change::Quit => self.is_over = true,
        }
    }

    fn keep(&mut self, slot: Slot, bytes: Bytes) {
        // It is said again before a name that was given earlier, which would undo the one that it gives.
        let names = slot == Slot::HelloAuth && gives_name(&bytes);
        let replaces = |old: Slot| match slot {
            Slot::HelloAuth => {
                matches!(old, Slot::HelloAuth | Slot::Hello | Slot::Auth) || (names && old == Slot::Name)
            }
            slot => old == slot,
        };
        self.kept.retain(|(old, _)| !replaces(*old));
        self.kept.push((slot, bytes));
        let kept: usize = self.kept.iter().map(|(_, bytes)| bytes.len()).sum();
        let names: usize = self.subscribed.iter().flatten().map(|name| name.len() + OVERHEAD).sum();
        self.bytes = kept + names;
    }

    /// The server's connection has broken: what it owed is not known. `text` is said in the place of each. Returns how many those
    /// were.
    pub fn broken(&mut self, text: &'static str) -> u64 {
        let mut unknown = 0;
        for owed in &mut self.owed {
            if !matches!(owed.due, Due::Local(_)) {
                owed.due = Due::Local(text);
                unknown += 1;
            }
        }
        self.changes.clear();
        self.pending = 0;
        self.blocking = 0;
        unknown
    }

    /// Why it stays where it is, if it does.
    pub fn pin(&self) -> Option<Pin> {
        let multi = self.multi.map(|_| Pin::Transaction);
        let watch = self.watch.map(|_| Pin::Watch);
        let blocking = (self.blocking > 0).then_some(Pin::Blocking);
        self.pinned.map(|(_, pin)| pin).or(multi).or(watch).or(blocking)
    }

    /// Whether the server has answered everything, and the client was told so.
    pub fn is_even(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether nothing is known any more of what bytes are.
    pub fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// Whether the client was answered that this is its end.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// To how many channels it listens.
    pub fn subscriptions(&self) -> usize {
        self.subscribed.iter().map(BTreeSet::len).sum()
    }

    /// What the client has called itself.
    pub fn name(&self) -> Option<String> {
        let (_, bytes) = self.kept.iter().find(|(slot, _)| *slot == Slot::Name)?;
        let name = Command { bytes, is_whole: true }.parts().nth(2)?;
        Some(name.escape_ascii().to_string())
    }

    /// What makes a new connection like this one.
    pub fn replay(&self) -> Replay {
        let mut replay = Replay::default();
        let is_auth = |slot: Slot| matches!(slot, Slot::Auth | Slot::HelloAuth);
        // A server that wants a password takes nothing else before it.
        let first = self.kept.iter().filter(|(slot, _)| is_auth(*slot));
        let rest = self.kept.iter().filter(|(slot, _)| !is_auth(*slot));
        for (_, bytes) in first.chain(rest) {
            replay.bytes.extend_from_slice(bytes);
            replay.commands += 1;
            replay.answers += 1;
        }
        for (which, names) in self.subscribed.iter().enumerate() {
            for name in names {
                let word = SUBSCRIBES[which];
                let head = format!("*2\r\n${}\r\n{word}\r\n${}\r\n", word.len(), name.len());
                replay.bytes.extend_from_slice(head.as_bytes());
                replay.bytes.extend_from_slice(name);
                replay.bytes.extend_from_slice(b"\r\n");
                replay.commands += 1;
                replay.answers += 1;
            }
        }
        replay
    }

    /// Whether what comes while a replay is under way answers that.
    pub fn answers_replay(&self, answer: Answer<'_>) -> bool {
        let word = answer.word();
        let is = |words: &[&str]| {
            word.is_some_and(|word| words.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes())))
        };
        if answer.is_push() { is(&SUBSCRIBES) } else { !self.is_message(word) }
    }
}

/// By channel, pattern and shard channel.
const SUBSCRIBES: [&str; 3] = ["subscribe", "psubscribe", "ssubscribe"];
const UNSUBSCRIBES: [&str; 3] = ["unsubscribe", "punsubscribe", "sunsubscribe"];
const MESSAGES: [&[u8]; 3] = [b"message", b"pmessage", b"smessage"];

/// What is kept of one client, in bytes.
const MOST_KEPT: usize = 256 * 1024;

/// So many answers are awaited at most. Some clients write a whole pipeline before they read, and one that is longer than this and
/// than what the sockets hold of its answers would stand still: so it is far above what pipelines have.
const MOST_OWED: usize = 64 * 1024;

/// What a channel takes beside its name.
const OVERHEAD: usize = 48;

#[cfg(test)]
mod tests;
