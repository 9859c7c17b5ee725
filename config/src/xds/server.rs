//! One ADS stream as its server sees it: what the client asked for, what it was told, what it is to be told next. State
//! of the world (the xDS protocol, "Variants of the xDS Transport Protocol"); no socket, no clock.
//!
//! The shell hands in each request ([`Stream::request`]) and what changed ([`Stream::changed`]), and then sends what
//! [`Stream::poll`] returns until that is nothing. Of each kind one answer is on its way at a time: what changes before
//! it is acknowledged goes into the next one, so that a slow client costs no memory and skips what is outdated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost_types::Any;
use sha2::{Digest, Sha256};

use super::Kind;
use super::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

/// Where a stream's answers come from.
pub trait Resources {
    /// The resource as it is now. None: there is none of that name.
    fn get(&self, kind: Kind, name: &str) -> Option<Encoded>;

    /// The names of all there are, for clients that ask for everything.
    fn names(&self, kind: Kind) -> Vec<Arc<str>>;
}

/// A resource as it is sent. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// What it says, as a hash.
    pub version: Version,
    /// The message.
    pub message: Arc<[u8]>,
}

/// A content hash: the first 16 bytes of a SHA-256. Equal versions say the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version([u8; 16]);

/// The state of one stream.
#[derive(Debug)]
pub struct Stream {
    kinds: [Subscription; Kind::ALL.len()],
    served: &'static [Kind],
    nonces: u64,
}

/// What a request said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A subscription, new or as it was.
    Asked(Kind),
    /// The last answer of this kind was accepted, so long after it was given.
    Accepted(Kind, Duration),
    /// The last answer of this kind was rejected: the client stays with what it had.
    Rejected(Kind, Arc<Rejection>),
    /// It speaks of an older answer than the last, of which the client will speak too: neither accepted nor rejected.
    Stale(Kind),
    /// A type that is not served on this stream: ignored.
    Unknown,
}

/// A client's refusal of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Of which version.
    pub version: Arc<str>,
    /// The client's words, cut at [`MAX_REASON`] bytes.
    pub reason: String,
}

/// The request asks for more than a client may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// How a client stands with one kind of resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which kind.
    pub kind: Kind,
    /// Whether it asked for everything.
    pub all: bool,
    /// How many names it asked for.
    pub names: usize,
    /// How many resources it was told.
    pub told: usize,
    /// The version that it was told last; empty: none.
    pub version: Arc<str>,
    /// The version that it accepted last; empty: none.
    pub accepted: Arc<str>,
    /// Why it rejected the last answer.
    pub rejected: Option<Arc<Rejection>>,
    /// Since when an answer is neither accepted nor rejected.
    pub waiting_since: Option<Instant>,
}

impl Stream {
    /// A stream on which these kinds are served.
    pub fn new(served: &'static [Kind]) -> Self {
        Stream { kinds: Default::default(), served, nonces: 0 }
    }

    /// Takes a request in. An error ends the stream.
    pub fn request(&mut self, request: &DiscoveryRequest, now: Instant) -> Result<Said, TooMany> {
        let served = |kind: &Kind| self.served.contains(kind);
        let Some(kind) = Kind::of_url(&request.type_url).filter(served) else { return Ok(Said::Unknown) };
        let subscription = &mut self.kinds[kind as usize];
        // What it asks for counts even then: it may have given a name up and taken it up again before the newer answer
        // came, and that answer need not have it.
        subscription.ask(kind, &request.resource_names)?;
        if subscription.is_stale(&request.response_nonce) {
            return Ok(Said::Stale(kind));
        }
        Ok(match subscription.waiting_since.take() {
            // A client that says no nonce begins anew.
            Some(since) if !request.response_nonce.is_empty() => {
                subscription.conclude(request, kind, now.saturating_duration_since(since))
            }
            _ => Said::Asked(kind),
        })
    }

    /// Notes that a resource changed, came or went.
    pub fn changed(&mut self, kind: Kind, name: &Arc<str>) {
        let subscription = &mut self.kinds[kind as usize];
        if subscription.all || subscription.names.contains(name) {
            subscription.look.at(name.clone());
        }
    }

    /// Notes that anything may have changed.
    pub fn all_changed(&mut self) {
        for subscription in self.kinds.iter_mut().filter(|subscription| subscription.asked) {
            subscription.look = Look::Everywhere;
        }
    }

    /// The next answer, if there is something to tell. To be called again until there is not.
    pub fn poll(&mut self, resources: &impl Resources, now: Instant) -> Option<DiscoveryResponse> {
        // Clusters once more at the end: those that are gone are told of after the last that names them.
        Kind::ALL.into_iter().chain([Kind::Cluster]).find_map(|kind| self.next(kind, resources, now))
    }

    /// How the client stands, kind by kind; nothing of kinds that it never asked for.
    pub fn standing(&self) -> impl Iterator<Item = Standing> {
        let asked = Kind::ALL.into_iter().zip(&self.kinds).filter(|(_, subscription)| subscription.asked);
        asked.map(|(kind, subscription)| Standing {
            kind,
            all: subscription.all,
            names: subscription.names.len(),
            told: subscription.told.len(),
            version: subscription.version.clone(),
            accepted: subscription.accepted.clone(),
            rejected: subscription.rejected.clone(),
            waiting_since: subscription.waiting_since,
        })
    }

    /// Whether there may be more to tell of this kind than the client has accepted or rejected.
    pub fn is_behind(&self, kind: Kind) -> bool {
        let subscription = &self.kinds[kind as usize];
        subscription.waiting_since.is_some() || subscription.has_to_look()
    }

    fn next(&mut self, kind: Kind, resources: &impl Resources, now: Instant) -> Option<DiscoveryResponse> {
        let keep_removed = kind == Kind::Cluster
            && [Kind::Listener, Kind::Route].iter().any(|user| self.kinds[*user as usize].has_to_look());
        let subscription = &mut self.kinds[kind as usize];
        if subscription.waiting_since.is_some() || !subscription.has_to_look() {
            return None;
        }
        let news = subscription.news(kind, resources, keep_removed);
        let answer = std::mem::take(&mut subscription.must_answer);
        // Of kinds whose answers are not whole, nobody can be told that something is gone.
        let says = |(_, now): &(Arc<str>, Option<Encoded>)| kind.is_whole() || now.is_some();
        let is_news = news.iter().any(says);
        let mut changed = Vec::new();
        for (name, now) in news {
            match now {
                Some(encoded) => {
                    changed.push(encoded.clone());
                    subscription.told.insert(name, encoded);
                }
                None => drop(subscription.told.remove(&name)),
            }
        }
        if !is_news && !answer {
            return None;
        }
        self.nonces += 1;
        subscription.nonce = self.nonces;
        subscription.waiting_since = Some(now);
        subscription.version = subscription.version();
        let resource =
            |encoded: &Encoded| Any { type_url: kind.url().into(), value: encoded.message.to_vec() };
        Some(DiscoveryResponse {
            version_info: subscription.version.to_string(),
            resources: match kind.is_whole() {
                true => subscription.told.values().map(resource).collect(),
                false => changed.iter().map(resource).collect(),
            },
            type_url: kind.url().into(),
            nonce: self.nonces.to_string(),
            ..DiscoveryResponse::default()
        })
    }
}

/// What a client wants of one kind, and what it was told.
#[derive(Debug, Default)]
struct Subscription {
    /// Whether there ever was a request.
    asked: bool,
    /// Whether there ever was a name in it: from then on no name means nothing, not everything.
    named: bool,
    /// Whether everything is wanted.
    all: bool,
    names: BTreeSet<Arc<str>>,
    /// Where the client's knowledge may be outdated.
    look: Look,
    /// Whether the client waits for an answer even if that has no news.
    must_answer: bool,
    /// What the client was told, by name.
    told: BTreeMap<Arc<str>, Encoded>,
    /// The last answer's. 0: there was none.
    nonce: u64,
    waiting_since: Option<Instant>,
    version: Arc<str>,
    accepted: Arc<str>,
    rejected: Option<Arc<Rejection>>,
}

/// Which names are to be looked at.
#[derive(Debug)]
enum Look {
    At(BTreeSet<Arc<str>>),
    Everywhere,
}

impl Default for Look {
    fn default() -> Self {
        Look::At(BTreeSet::new())
    }
}

impl Look {
    fn at(&mut self, name: Arc<str>) {
        if let Look::At(names) = self {
            names.insert(name);
        }
    }
}

impl Subscription {
    /// A nonce of an answer before the last. Before the first answer there is nothing to be stale: it may then be one of
    /// an earlier stream.
    fn is_stale(&self, nonce: &str) -> bool {
        self.nonce != 0 && !nonce.is_empty() && nonce.parse() != Ok(self.nonce)
    }

    fn conclude(&mut self, request: &DiscoveryRequest, kind: Kind, took: Duration) -> Said {
        match &request.error_detail {
            None => {
                self.accepted = self.version.clone();
                self.rejected = None;
                Said::Accepted(kind, took)
            }
            Some(status) => {
                let reason = cut(&status.message);
                let rejection = Arc::new(Rejection { version: self.version.clone(), reason });
                self.rejected = Some(rejection.clone());
                Said::Rejected(kind, rejection)
            }
        }
    }

    /// Takes over what is asked for.
    fn ask(&mut self, kind: Kind, asked: &[String]) -> Result<(), TooMany> {
        if asked.len() > MAX_NAMES || asked.iter().any(|name| name.len() > MAX_NAME) {
            return Err(TooMany);
        }
        self.named |= !asked.is_empty();
        let all = kind.has_wildcard() && (!self.named || asked.iter().any(|name| name == EVERYTHING));
        let names: BTreeSet<Arc<str>> =
            asked.iter().filter(|name| *name != EVERYTHING).map(|name| name.as_str().into()).collect();
        if self.asked && all == self.all && names == self.names {
            return Ok(());
        }
        match all {
            true => self.look = Look::Everywhere,
            false => {
                self.told.retain(|name, _| names.contains(name));
                // What was told of under `*` need not be told again.
                names.iter().filter(|name| !self.told.contains_key(*name)).for_each(|name| {
                    self.look.at(name.clone());
                });
            }
        }
        (self.asked, self.all, self.names, self.must_answer) = (true, all, names, true);
        Ok(())
    }

    fn has_to_look(&self) -> bool {
        self.must_answer || !matches!(&self.look, Look::At(names) if names.is_empty())
    }

    /// What differs from what the client was told. With `keep_removed`, what is gone is looked for again another time.
    fn news(
        &mut self,
        kind: Kind,
        resources: &impl Resources,
        keep_removed: bool,
    ) -> Vec<(Arc<str>, Option<Encoded>)> {
        let names = match std::mem::take(&mut self.look) {
            Look::At(names) => names,
            Look::Everywhere => {
                let mut names = self.names.clone();
                names.extend(self.told.keys().cloned());
                if self.all {
                    names.extend(resources.names(kind));
                }
                names
            }
        };
        let mut news = Vec::new();
        for name in names {
            if !self.all && !self.names.contains(&name) {
                continue;
            }
            match (self.told.get(&name), resources.get(kind, &name)) {
                (Some(old), Some(new)) if old.version == new.version => {}
                (None, None) => {}
                (Some(_), None) if keep_removed => self.look.at(name),
                (_, now) => news.push((name, now)),
            }
        }
        news
    }

    /// The version of all that was told.
    fn version(&self) -> Arc<str> {
        let mut hash = Sha256::new();
        for (name, encoded) in &self.told {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(encoded.version.0);
        }
        Version::of_hash(hash).to_string().into()
    }
}

impl Encoded {
    /// A message with the version that its bytes have. To be encoded the same way each time: a map in it would not be.
    pub fn new(message: Vec<u8>) -> Self {
        Encoded { version: Version::of_hash(Sha256::new_with_prefix(&message)), message: message.into() }
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.version, self.message.len())
    }
}

impl Version {
    fn of_hash(hash: Sha256) -> Self {
        let mut version = [0; 16];
        version.copy_from_slice(&hash.finalize()[..16]);
        Version(version)
    }
}

impl fmt::Display for Version {
    /// 32 hex digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {MAX_NAMES} names of one kind, or one longer than {MAX_NAME} bytes")
    }
}

impl std::error::Error for TooMany {}

fn cut(reason: &str) -> String {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}

/// The name that asks for everything.
const EVERYTHING: &str = "*";

/// Most names of one kind that a client may ask for.
pub const MAX_NAMES: usize = 100_000;

/// Longest name that a client may ask for, in bytes.
pub const MAX_NAME: usize = 1024;

/// What is kept of a client's words, in bytes.
pub const MAX_REASON: usize = 4096;

#[cfg(test)]
mod tests;
