//! What one stream was asked for of one kind, and what it answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One kind's part of a stream. The version outlives streams.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    /// What this stream was asked for, and since when.
    asked: BTreeMap<Arc<str>, Instant>,
    /// What it is no longer asked for, and since when. The server may not know yet, and hold it told what it sends.
    dropped: BTreeMap<Arc<str>, Instant>,
    /// Whether this stream was asked at all.
    ever_asked: bool,
    /// Of the last answer that was accepted whole.
    version: String,
    /// Of the last answer on this stream.
    nonce: String,
    /// Why the last answer was refused.
    error: Option<String>,
    /// Whether the last answer is neither acknowledged nor refused.
    owes: bool,
}

impl Subscription {
    /// The stream has ended.
    pub(super) fn end(&mut self) {
        let version = std::mem::take(&mut self.version);
        *self = Subscription { version, ..Subscription::default() };
    }

    /// Notes that a request for `wanted` is sent, if there is a reason to send one. Returns whether there is.
    pub(super) fn ask(&mut self, wanted: &BTreeSet<&Arc<str>>, now: Instant) -> bool {
        // The first request without a name would ask for everything there is.
        let is_news =
            (!wanted.is_empty() || self.ever_asked) && !wanted.iter().copied().eq(self.asked.keys());
        if !is_news && !self.owes {
            return false;
        }
        let asked = std::mem::take(&mut self.asked);
        self.dropped
            .extend(asked.keys().filter(|name| !wanted.contains(name)).map(|name| (name.clone(), now)));
        for name in wanted {
            self.dropped.remove(*name);
            self.asked.insert(Arc::clone(name), asked.get(*name).copied().unwrap_or(now));
        }
        self.ever_asked = true;
        self.owes = false;
        true
    }

    /// When there is something to release.
    pub(super) fn releases_at(&self) -> Option<Instant> {
        self.dropped.values().min().map(|since| *since + LONGEST_ON_THE_WAY)
    }

    /// Lets go of what is no longer asked for, once the server must have seen that. Returns whether there was any.
    pub(super) fn release(&mut self, now: Instant) -> bool {
        let before = self.dropped.len();
        self.dropped.retain(|_, since| now.saturating_duration_since(*since) < LONGEST_ON_THE_WAY);
        self.dropped.len() != before
    }

    /// An answer was taken in, or refused.
    pub(super) fn answered(&mut self, version: String, nonce: String, error: Option<String>) {
        if error.is_none() {
            self.version = version;
        }
        (self.nonce, self.error, self.owes) = (nonce, error, true);
    }

    /// What this stream is asked for, and since when.
    pub(super) fn asked(&self) -> impl Iterator<Item = (&Arc<str>, Instant)> {
        self.asked.iter().map(|(name, since)| (name, *since))
    }

    /// Whether the server may be telling of `name`, as this stream is or lately was asked for it.
    pub(super) fn hears_of(&self, name: &str) -> bool {
        self.asked.contains_key(name) || self.dropped.contains_key(name)
    }

    /// Whether this stream was asked for anything.
    pub(super) fn is_asked(&self) -> bool {
        self.ever_asked
    }

    /// Whether this stream has not answered yet.
    pub(super) fn is_new(&self) -> bool {
        self.nonce.is_empty()
    }

    pub(super) fn take_error(&mut self) -> Option<String> {
        self.error.take()
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn set_version(&mut self, version: String) {
        self.version = version;
    }

    pub(super) fn nonce(&self) -> &str {
        &self.nonce
    }
}

/// No request is longer on its way than this, unless its stream is lost.
pub(super) const LONGEST_ON_THE_WAY: Duration = Duration::from_secs(60);
