//! Migrations as people see them, and as the API says them.

use lighter_config::snapshot::{Migration, StateClass};
use lighter_migrate::Copy;
use serde::{Deserialize, Serialize};

use super::story::{Moved, Outcome, Reason, Story, since_1970};

/// A migration as it is now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// Of its resource.
    pub namespace: String,
    /// Of its resource.
    pub name: String,
    /// `namespace/name`.
    pub service: String,
    /// The instance where it was.
    pub from: String,
    /// The instance where it goes.
    pub to: String,
    /// Why it was asked for: somebody `asked`, the instance that had the state `leaves`, or the other one serves it better (`gain`).
    #[serde(default)]
    pub reason: Option<String>,
    /// Of `gain`: what was foreseen.
    #[serde(default)]
    pub foreseen: Option<Foreseen>,
    /// What the Service keeps between requests: `stateless`, `volatile` or `journaled`. None: it has not begun.
    #[serde(default)]
    pub class: Option<String>,
    /// Of a Service with state: the instance whose it is now.
    #[serde(default)]
    pub owner: Option<String>,
    /// Where its state is journaled: the instance that keeps the journal.
    #[serde(default)]
    pub standby: Option<String>,
    /// Which epoch that serves.
    #[serde(default)]
    pub epoch: Option<u64>,
    /// How many times the Service's state was lost so far, or may have been.
    #[serde(default)]
    pub losses: Option<u64>,
    /// The last that was entered; `waiting`: it has not begun, as another one of its Service is under way.
    pub phase: String,
    /// The phases that were entered, in order.
    pub phases: Vec<Entered>,
    /// The copies that were made of the state, in order.
    #[serde(default)]
    pub copies: Vec<Made>,
    /// `done`, `aborted`, `rolled_back`, `refused` or `lost`. None: it is not over.
    pub outcome: Option<Outcome>,
    /// Why it ended so, if not well.
    pub because: Option<String>,
    /// What callers still had under way at the old place when it was over; it ends there.
    pub left: Option<u64>,
    /// In milliseconds since 1970.
    pub began: Option<u64>,
    /// How long it took, or takes so far, in milliseconds.
    pub took: Option<u64>,
    /// Its resource is no longer there: another one may have its name.
    #[serde(default)]
    pub gone: bool,
}

/// What was foreseen of a migration that was asked for as another instance serves better, in seconds that callers wait, of all of
/// them together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Foreseen {
    /// So much less behind it, over the Service's `horizon`.
    pub gain_seconds: f64,
    /// So much more meanwhile.
    pub cost_seconds: f64,
}

/// A phase that was entered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Which.
    pub phase: String,
    /// When, in milliseconds after the beginning.
    pub after: u64,
}

/// A copy of a state that was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// How long it was, in bytes.
    pub bytes: u64,
    /// Whether it was of what had changed since the one before, and not of all.
    pub changes: bool,
    /// Whether nobody served meanwhile.
    pub frozen: bool,
}

impl Shown {
    pub(super) fn of(story: &Story, moved: Option<&Moved>) -> Self {
        let (namespace, name) = story.name.split_once('/').unwrap_or_default();
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let phases = story.phases().map(|(phase, at)| Entered {
            phase: phase.label().to_owned(),
            after: millis(at.saturating_sub(story.began)),
        });
        let held = moved.filter(|moved| moved.owner.is_some());
        let until = story.ended.unwrap_or_else(since_1970);
        Shown {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service: story.service.to_string(),
            from: story.from.to_string(),
            to: story.to.to_string(),
            reason: Some(story.reason.label().to_owned()),
            foreseen: foreseen(story.reason),
            class: Some(story.class.label().to_owned()),
            owner: held.and_then(|moved| Some(moved.owner.as_ref()?.instance.to_string())),
            standby: held.and_then(|moved| Some(moved.standby.as_ref()?.instance.as_ref()?.to_string())),
            epoch: held.map(|moved| moved.epoch.0),
            losses: held.map(|moved| moved.losses),
            phase: story.phase().map_or("-", |phase| phase.label()).to_owned(),
            phases: phases.collect(),
            copies: story.copies.iter().map(made).collect(),
            outcome: story.outcome,
            because: story.because.clone(),
            left: story.left,
            began: Some(millis(story.began)),
            took: Some(millis(until.saturating_sub(story.began))),
            gone: story.is_gone,
        }
    }

    pub(super) fn waiting(name: &str, asked: &Migration, reason: Reason) -> Self {
        let (namespace, name) = name.split_once('/').unwrap_or_default();
        Shown {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service: asked.service.to_string(),
            from: asked.from.to_string(),
            to: asked.to.to_string(),
            reason: Some(reason.label().to_owned()),
            foreseen: foreseen(reason),
            class: asked.class.map(|class| class.label().to_owned()),
            owner: None,
            standby: None,
            epoch: None,
            losses: None,
            phase: "waiting".to_owned(),
            phases: Vec::new(),
            copies: Vec::new(),
            outcome: None,
            because: None,
            left: None,
            began: None,
            took: None,
            gone: false,
        }
    }

    /// The Service keeps this by now. To its migrations what is journaled was in memory.
    pub(super) fn is_of(&mut self, class: Option<StateClass>) {
        let journaled = StateClass::Journaled.label();
        if class == Some(StateClass::Journaled) && self.class.as_deref() == Some(StateClass::Volatile.label())
        {
            self.class = Some(journaled.to_owned());
        }
    }

    pub(super) fn is_called(&self, name: &str) -> bool {
        name.split_once('/') == Some((&self.namespace, &self.name))
    }
}

fn foreseen(reason: Reason) -> Option<Foreseen> {
    match reason {
        Reason::Gain { gain_seconds, cost_seconds } => Some(Foreseen { gain_seconds, cost_seconds }),
        Reason::Asked | Reason::Leaves => None,
    }
}

fn made(copy: &Copy) -> Made {
    Made { bytes: copy.bytes, changes: copy.base > 0, frozen: copy.last }
}
