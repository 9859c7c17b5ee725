//! The sidecar's side of an ADS stream: what is wanted, what is held, what is in force. State of the world (the xDS
//! protocol, "Variants of the xDS Transport Protocol"); no socket, no clock.
//!
//! The shell says what is wanted ([`Client::want`]), hands in what happens (a stream begins, an answer arrives, the stream
//! ends, time passes), and then sends what [`Client::poll`] returns until that is nothing. Everything is level-triggered: a
//! request is what is wanted against what this stream was asked for, so nothing that is lost on the way is lost for good.
//!
//! A resource that was accepted is *held*. It comes *in force* once all that it needs is in force or is known not to
//! exist; until then the version of it that was in force before stays, and so does all that this one needs. What is in
//! force can be relied on: nothing in it leads to something that has yet to come.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Kind;
use super::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use super::wire::google::rpc::Status;

mod backoff;
mod keep;
mod subscription;
mod warm;

pub use backoff::Backoff;
pub use keep::Kept;

use subscription::Subscription;

/// Which resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name within the kind.
    pub name: Arc<str>,
}

/// How messages become resources.
pub trait Codec {
    /// A resource of any kind, checked.
    type Resource: PartialEq;

    /// Checks a message of `kind`.
    fn decode(&self, kind: Kind, message: &[u8]) -> Result<Decoded<Self::Resource>, Refusal>;
}

/// A resource, and what it takes to use it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded<R> {
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub resource: R,
    /// It cannot be used before these are.
    pub needs: Vec<Key>,
    /// Where it is itself wanted, and not only needed by others, these are wanted too.
    pub leads: Vec<Key>,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The resource's name, if that could be read.
    pub name: Option<Arc<str>>,
    /// What is wrong with it, naming the field.
    pub reason: String,
}

/// A resource that was accepted.
#[derive(Debug)]
pub struct Held<R> {
    /// As it came.
    message: Vec<u8>,
    /// As it was understood.
    decoded: Decoded<R>,
}

impl<R> Held<R> {
    /// What it says.
    pub fn resource(&self) -> &R {
        &self.decoded.resource
    }
}

/// How things stand with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is in force.
    InForce,
    /// There is none of that name.
    Absent,
    /// It has yet to come, or something that it needs has.
    Awaited,
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// All in it was accepted.
    Accepted(Kind),
    /// Some of it was refused, for these reasons; the rest was accepted.
    Refused(Kind, Vec<Refusal>),
    /// It is of a type that was not asked for on this stream.
    Unasked,
}

/// A sidecar's state of discovery.
pub struct Client<C: Codec> {
    codec: C,
    absent_after: Duration,
    wanted: BTreeSet<Key>,
    kinds: [Subscription; Kind::ALL.len()],
    held: BTreeMap<Key, Arc<Held<C::Resource>>>,
    in_force: BTreeMap<Key, Arc<Held<C::Resource>>>,
    absent: BTreeSet<Key>,
    refused: BTreeMap<Key, String>,
    connected: bool,
    /// What is wanted, for its own sake or by something else.
    reached: BTreeSet<Key>,
    revision: u64,
}

impl<C: Codec> Client<C> {
    /// A client that wants and holds nothing. What a stream was asked for and has not told of after `absent_after` is taken
    /// not to exist.
    pub fn new(codec: C, absent_after: Duration) -> Self {
        Client {
            codec,
            absent_after,
            wanted: BTreeSet::new(),
            kinds: Default::default(),
            held: BTreeMap::new(),
            in_force: BTreeMap::new(),
            absent: BTreeSet::new(),
            refused: BTreeMap::new(),
            connected: false,
            reached: BTreeSet::new(),
            revision: 0,
        }
    }

    /// Wants a resource, with all that it needs and leads to.
    pub fn want(&mut self, key: Key) {
        if self.wanted.insert(key) {
            self.settle();
        }
    }

    /// Wants it no more. What nothing else wants or needs is forgotten.
    pub fn unwant(&mut self, key: &Key) {
        if self.wanted.remove(key) {
            self.settle();
        }
    }

    /// What is wanted for its own sake.
    pub fn wanted(&self) -> &BTreeSet<Key> {
        &self.wanted
    }

    /// A stream begins. Whatever was sent or received on an earlier one is over.
    pub fn connected(&mut self) {
        self.disconnected();
        self.connected = true;
    }

    /// The stream has ended. What is in force stays so.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.kinds.iter_mut().for_each(Subscription::end);
    }

    /// Whether there is a stream.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Takes an answer in.
    pub fn receive(&mut self, answer: DiscoveryResponse) -> Received {
        let kind = match Kind::of_url(&answer.type_url) {
            Some(kind) if self.connected && self.subscription(kind).is_asked() => kind,
            _ => return Received::Unasked,
        };
        let (fresh, refusals) = self.decode(kind, &answer);
        if kind.is_whole() && refusals.iter().all(|refusal| refusal.name.is_some()) {
            self.drop_missing(kind, &fresh, &refusals);
        }
        for held in fresh {
            let key = Key { kind, name: held.decoded.name.clone() };
            self.absent.remove(&key);
            self.refused.remove(&key);
            self.hold(key, held);
        }
        for refusal in &refusals {
            if let Some(name) = &refusal.name {
                self.refused.insert(Key { kind, name: name.clone() }, refusal.reason.clone());
            }
        }
        let error = (!refusals.is_empty()).then(|| reasons(&refusals));
        self.kinds[kind as usize].answered(answer.version_info, answer.nonce, error);
        self.settle();
        match refusals.is_empty() {
            true => Received::Accepted(kind),
            false => Received::Refused(kind, refusals),
        }
    }

    /// The next request to send, if there is one: to be called again until there is not.
    pub fn poll(&mut self, now: Instant) -> Option<DiscoveryRequest> {
        if !self.connected {
            return None;
        }
        Kind::ALL.into_iter().find_map(|kind| self.request(kind, now))
    }

    /// When [`Client::time_passed`] has something to do.
    pub fn wakes_at(&self) -> Option<Instant> {
        let of = |kind: Kind| {
            let unheard = self.subscription(kind).asked().filter(move |(name, _)| !self.is_known(kind, name));
            let absent = unheard.map(|(_, since)| since + self.absent_after).min();
            absent.into_iter().chain(self.subscription(kind).releases_at()).min()
        };
        Kind::ALL.into_iter().filter_map(of).min()
    }

    /// Takes what nobody told of for so long for absent, and lets go of what was wanted once.
    pub fn time_passed(&mut self, now: Instant) {
        let mut absent = Vec::new();
        let mut is_news = false;
        for kind in Kind::ALL {
            for (name, since) in self.subscription(kind).asked() {
                if now.saturating_duration_since(since) >= self.absent_after && !self.is_known(kind, name) {
                    absent.push(Key { kind, name: name.clone() });
                }
            }
            is_news |= self.kinds[kind as usize].release(now);
        }
        if !absent.is_empty() {
            is_news = true;
            self.revision += 1;
            self.absent.extend(absent);
        }
        if is_news {
            self.settle();
        }
    }

    /// Goes up whenever what is in force, or is known not to exist, changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Everything that is in force.
    pub fn in_force(&self) -> impl Iterator<Item = (&Key, &Held<C::Resource>)> {
        self.in_force.iter().map(|(key, held)| (key, &**held))
    }

    /// How things stand with a resource.
    pub fn standing(&self, key: &Key) -> Standing {
        if self.in_force.contains_key(key) {
            Standing::InForce
        } else if self.absent.contains(key) {
            Standing::Absent
        } else {
            Standing::Awaited
        }
    }

    /// What a resource says, if it is in force.
    pub fn get(&self, key: &Key) -> Option<&C::Resource> {
        self.in_force.get(key).map(|held| held.resource())
    }

    /// Of which resources the newest version was refused, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.refused.iter().map(|(key, reason)| (key, &**reason))
    }

    /// What is wanted and does not exist.
    pub fn absent(&self) -> impl Iterator<Item = &Key> {
        self.absent.iter().filter(|key| self.reached.contains(*key))
    }

    /// What has yet to come.
    pub fn awaited(&self) -> impl Iterator<Item = &Key> {
        self.reached.iter().filter(|key| self.standing(key) == Standing::Awaited)
    }

    /// The version of the last answer of this kind that was accepted whole; empty: none.
    pub fn version(&self, kind: Kind) -> &str {
        self.subscription(kind).version()
    }

    /// Whether everything that was accepted of this kind is in force: nothing of it waits for what it needs.
    pub fn is_settled(&self, kind: Kind) -> bool {
        let mut held = self.held.iter().filter(|(key, _)| key.kind == kind && self.reached.contains(*key));
        held.all(|(key, held)| self.in_force.get(key).is_some_and(|now| Arc::ptr_eq(now, held)))
    }

    fn subscription(&self, kind: Kind) -> &Subscription {
        &self.kinds[kind as usize]
    }

    /// Whether anything was ever heard of it.
    fn is_known(&self, kind: Kind, name: &Arc<str>) -> bool {
        let key = Key { kind, name: name.clone() };
        self.held.contains_key(&key) || self.absent.contains(&key) || self.refused.contains_key(&key)
    }

    /// The resources in an answer that were asked for, and what is wrong with the rest.
    fn decode(&self, kind: Kind, answer: &DiscoveryResponse) -> (Vec<Held<C::Resource>>, Vec<Refusal>) {
        let (mut fresh, mut refusals, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        // Servers may send more than was asked for.
        let is_asked = |name: &Arc<str>| self.subscription(kind).hears_of(name);
        for resource in &answer.resources {
            if resource.type_url != kind.url() {
                let reason =
                    format!("a resource of type `{}` among those of {}", resource.type_url, kind.url());
                refusals.push(Refusal { name: None, reason });
                continue;
            }
            match self.codec.decode(kind, &resource.value) {
                Ok(decoded) if !is_asked(&decoded.name) => {}
                Ok(decoded) if !seen.insert(decoded.name.clone()) => {
                    let reason = "there are two of this name".to_owned();
                    refusals.push(Refusal { name: Some(decoded.name), reason });
                }
                Ok(decoded) => fresh.push(Held { message: resource.value.clone(), decoded }),
                Err(refusal) if refusal.name.as_ref().is_none_or(is_asked) => refusals.push(refusal),
                Err(_) => {}
            }
        }
        (fresh, refusals)
    }

    /// In an answer that has everything, what is missing is gone. Only what was there before can be: the answer may be to a
    /// request from before something was asked for.
    fn drop_missing(&mut self, kind: Kind, fresh: &[Held<C::Resource>], refusals: &[Refusal]) {
        // Who may call is not forgotten: a server that has lost it must not open the door.
        if kind == Kind::Workload {
            return;
        }
        let there: BTreeSet<&Arc<str>> = (fresh.iter().map(|held| &held.decoded.name))
            .chain(refusals.iter().filter_map(|refusal| refusal.name.as_ref()))
            .collect();
        let is_gone = |key: &Key| {
            key.kind == kind && !there.contains(&key.name) && self.subscription(kind).hears_of(&key.name)
        };
        let known = self.held.keys().chain(self.refused.keys());
        let gone: Vec<Key> = known.filter(|key| is_gone(key)).cloned().collect();
        for key in gone {
            self.held.remove(&key);
            self.refused.remove(&key);
            self.in_force.remove(&key);
            self.absent.insert(key);
            self.revision += 1;
        }
    }

    /// Takes a resource over, unless it says what the one that is held says.
    fn hold(&mut self, key: Key, fresh: Held<C::Resource>) {
        match self.held.get(&key) {
            Some(old) if old.decoded == fresh.decoded => {}
            _ => drop(self.held.insert(key, Arc::new(fresh))),
        }
    }

    fn request(&mut self, kind: Kind, now: Instant) -> Option<DiscoveryRequest> {
        let of_kind = self.reached.iter().filter(|key| key.kind == kind);
        let all_held = of_kind.clone().all(|key| self.held.contains_key(key));
        let wanted: BTreeSet<&Arc<str>> = of_kind.map(|key| &key.name).collect();
        let subscription = &mut self.kinds[kind as usize];
        if !subscription.ask(&wanted, now) {
            return None;
        }
        let names = wanted.iter().map(|name| name.to_string()).collect();
        let error = subscription.take_error();
        Some(DiscoveryRequest {
            // A server that has nothing newer need not say it again. One that knows no version tells of everything.
            version_info: match subscription.is_new() && !all_held {
                true => String::new(),
                false => subscription.version().to_owned(),
            },
            node: None,
            resource_names: names,
            type_url: kind.url().into(),
            response_nonce: subscription.nonce().to_owned(),
            error_detail: error.map(|message| Status {
                code: INVALID_ARGUMENT,
                message,
                ..Status::default()
            }),
        })
    }
}

impl fmt::Display for Key {
    /// `kind name`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{name}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// What the server is told, which is not more than it can be expected to keep.
fn reasons(refusals: &[Refusal]) -> String {
    let mut text = String::new();
    for (told, refusal) in refusals.iter().enumerate() {
        let one = refusal.to_string();
        if text.len() + one.len() > MAX_REASONS && told > 0 {
            text += &format!("; and {} more", refusals.len() - told);
            break;
        }
        if told > 0 {
            text += "; ";
        }
        text += &one;
    }
    text
}

/// Bytes of reasons in one refusal, roughly.
const MAX_REASONS: usize = 4096;

/// `google.rpc.Code.INVALID_ARGUMENT`.
const INVALID_ARGUMENT: i32 = 3;

#[cfg(test)]
mod tests;
