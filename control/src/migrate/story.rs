//! What is kept of a migration: what was asked for, what the coordinator wrote down, whose the service is, and how it ended.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lighter_config::name::ServiceName;
use lighter_config::snapshot::Migration;
use lighter_migrate::{
    Cause, Cell, Class, Copy, Decision, Epoch, Incarnation, Owner, Phase, PlaceId, Plan, Record, Role, Rules,
    Source, Streams, Why,
};
use serde::{Deserialize, Serialize};

use super::standby::Standby;

/// A migration from its beginning to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Story {
    /// `namespace/name` of the resource.
    pub(super) name: Arc<str>,
    /// Its number among those of its Service.
    pub(super) number: u64,
    /// `namespace/name`.
    pub(super) service: Arc<str>,
    pub(super) from: Arc<str>,
    pub(super) to: Arc<str>,
    /// What the Service keeps between requests.
    #[serde(default = "stateless")]
    pub(super) class: Class,
    pub(super) prepare: Duration,
    #[serde(default)]
    pub(super) quiesce: Duration,
    /// How long the copy of the state may take, while requests wait.
    #[serde(default)]
    pub(super) copy: Duration,
    /// Why it was asked for.
    #[serde(default)]
    pub(super) reason: Reason,
    /// In how many rounds it is copied before that, while the old place serves.
    #[serde(default)]
    pub(super) rounds: u32,
    /// Streams that have not ended in time are cut.
    #[serde(default)]
    pub(super) cuts: bool,
    /// The copies that were made.
    #[serde(default)]
    pub(super) copies: Vec<Copy>,
    pub(super) switch: Duration,
    pub(super) drain: Duration,
    /// When, since 1970.
    pub(super) began: Duration,
    /// Callers were not told of the new place when it began.
    pub(super) was_withdrawn: bool,
    /// None: it was refused.
    pub(super) cell: Option<Cell>,
    pub(super) journal: Vec<Entry>,
    /// Most clients of ADS that there were meanwhile.
    pub(super) clients: usize,
    pub(super) outcome: Option<Outcome>,
    pub(super) because: Option<String>,
    /// What callers still had under way at the old place when it was over. None: it is not known.
    pub(super) left: Option<u64>,
    pub(super) ended: Option<Duration>,
    /// Its resource is no longer there.
    pub(super) is_gone: bool,
    /// What whoever fetches a copy of the state has to show.
    #[serde(default)]
    pub(super) token: Vec<u8>,
}

/// Something that was written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Entry {
    /// When, since 1970.
    pub(super) at: Duration,
    pub(super) record: Record,
}

/// What is kept of a Service that was moved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Moved {
    /// Of its last migration.
    pub(super) number: u64,
    pub(super) epoch: Epoch,
    /// The instances that callers are not told of.
    pub(super) withdrawn: BTreeSet<Arc<str>>,
    /// Of a Service with state: who serves the epoch. None: nobody ever did.
    #[serde(default)]
    pub(super) owner: Option<Holder>,
    /// The only instance of it that callers are told of.
    #[serde(default)]
    pub(super) listed: Option<Arc<str>>,
    /// How many times its state was lost, or may have been.
    #[serde(default)]
    pub(super) losses: u64,
    /// Of one whose state is journaled: who keeps the journal.
    #[serde(default)]
    pub(super) standby: Option<Standby>,
    /// Who is to follow that one, once it has everything as well.
    #[serde(default)]
    pub(super) next: Option<Standby>,
    /// The greatest number of what was told of the journal.
    #[serde(default)]
    pub(super) views: u64,
}

/// The instance to which a Service with state belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Holder {
    pub(super) instance: Arc<str>,
    /// Which of its lives.
    pub(super) incarnation: Incarnation,
    /// What it begins the epoch with.
    pub(super) source: Source,
}

/// Why a migration was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", rename_all_fields = "camelCase")]
pub(super) enum Reason {
    /// Somebody wanted it.
    #[default]
    Asked,
    /// The instance that had the state was to drain.
    Leaves,
    /// Another instance would serve it better.
    Gain {
        /// By so many seconds that callers wait less, over all of their requests of a while.
        gain_seconds: f64,
        /// And it was to cost so much of the same.
        cost_seconds: f64,
    },
}

impl Reason {
    /// Its word, in names and for people.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Reason::Asked => "asked",
            Reason::Leaves => "leaves",
            Reason::Gain { .. } => "gain",
        }
    }
}

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The service is at the new place.
    Done,
    /// It is at the old place, as if nothing had been.
    Aborted,
    /// It is at the old place again.
    RolledBack,
    /// It was not begun.
    Refused,
    /// It was the new place's, and neither place is there any more.
    Lost,
}

impl Outcome {
    pub(crate) const ALL: [Outcome; 5] =
        [Outcome::Done, Outcome::Aborted, Outcome::RolledBack, Outcome::Refused, Outcome::Lost];

    /// The label: in logs, in metrics and for people.
    pub const fn label(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Aborted => "aborted",
            Outcome::RolledBack => "rolled_back",
            Outcome::Refused => "refused",
            Outcome::Lost => "lost",
        }
    }
}

impl Default for Moved {
    fn default() -> Self {
        let withdrawn = BTreeSet::new();
        Moved {
            number: 0,
            epoch: Epoch(1),
            withdrawn,
            owner: None,
            listed: None,
            losses: 0,
            standby: None,
            next: None,
            views: 0,
        }
    }
}

impl Moved {
    /// Whom callers are told of, by what was decided of a migration that began when things were as they are here. Of a Service
    /// with state: whose it is.
    pub(super) fn decided(&self, story: &Story, cell: &Cell) -> Moved {
        if story.class != Class::Stateless {
            let Cell { epoch, owner: Owner { place, incarnation }, source, .. } = *cell;
            let lost = match source {
                Source::Kept if self.is_unacknowledged() => 0,
                _ => cell.losses.saturating_sub(story.cell.map_or(0, |before| before.losses)),
            };
            let owner = Some(Holder { instance: story.instance(place).clone(), incarnation, source });
            let losses = self.losses + u64::from(lost);
            // Who was to follow the heir was to in the epoch before.
            let next = self.next.clone().filter(|_| epoch == self.epoch);
            return Moved { epoch, owner, losses, next, ..self.clone() };
        }
        let mut withdrawn = self.withdrawn.clone();
        match cell.decision {
            Decision::Open | Decision::Aborted => {}
            Decision::Fenced => {
                withdrawn.remove(&story.to);
                withdrawn.insert(story.from.clone());
            }
            Decision::Returned => {
                withdrawn.remove(&story.from);
                if story.was_withdrawn {
                    withdrawn.insert(story.to.clone());
                }
            }
        }
        Moved { epoch: cell.epoch, withdrawn, ..self.clone() }
    }

    /// Whether nothing can have been acknowledged in the epoch that is kept: the state is journaled, and nobody was named who keeps the
    /// journal of that epoch.
    fn is_unacknowledged(&self) -> bool {
        self.standby.as_ref().is_some_and(|standby| standby.epoch < self.epoch)
    }
}

impl Story {
    pub(super) fn new(
        name: Arc<str>,
        asked: &Migration,
        class: Class,
        number: u64,
        was_withdrawn: bool,
    ) -> Self {
        Story {
            name,
            number,
            service: asked.service.to_string().into(),
            from: asked.from.clone(),
            to: asked.to.clone(),
            class,
            prepare: asked.prepare,
            quiesce: asked.quiesce,
            copy: Duration::ZERO,
            reason: Reason::Asked,
            rounds: 0,
            cuts: false,
            copies: Vec::new(),
            switch: asked.switch,
            drain: asked.drain,
            began: since_1970(),
            was_withdrawn,
            cell: None,
            journal: Vec::new(),
            clients: 0,
            outcome: None,
            because: None,
            left: None,
            ended: None,
            is_gone: false,
            token: Vec::new(),
        }
    }

    /// It does not begin.
    pub(super) fn refuse(&mut self, because: String) {
        self.outcome = Some(Outcome::Refused);
        self.because = Some(because);
        self.ended = Some(since_1970());
    }

    /// Nobody is left for whom anything could be done.
    pub(super) fn lose(&mut self) {
        self.outcome = Some(Outcome::Lost);
        self.because = Some(format!("neither `{}` nor `{}` is there any more", self.from, self.to));
        self.ended = Some(since_1970());
    }

    /// By what was about to be decided the Service would begin with nothing: whoever has the journal serves.
    pub(super) fn pass_on(&mut self, decision: Decision, heir: &str) {
        let (outcome, instance) = match decision {
            Decision::Open | Decision::Aborted => (Outcome::Aborted, &self.from),
            Decision::Fenced => (Outcome::Done, &self.to),
            Decision::Returned => (Outcome::RolledBack, &self.from),
        };
        self.outcome = Some(outcome);
        self.because = Some(format!("`{instance}` lost what it had: `{heir}` goes on with the journal"));
        self.ended = Some(since_1970());
    }

    /// It begins: the old place serves, by what is kept of the Service.
    pub(super) fn begin(&mut self, moved: &Moved) -> Cell {
        let holder = moved.owner.as_ref().filter(|_| self.class != Class::Stateless);
        let incarnation = holder.map_or(LIFE, |holder| holder.incarnation);
        let mut cell = Cell::new(self.number, moved.epoch, Owner { place: OLD, incarnation });
        cell.take_over(1);
        self.cell = Some(cell);
        cell
    }

    pub(super) fn service(&self) -> Option<ServiceName> {
        let (namespace, name) = self.service.split_once('/')?;
        Some(ServiceName::new(namespace, name))
    }

    /// The instance of this place.
    pub(super) fn instance(&self, place: PlaceId) -> &Arc<str> {
        if place == NEW { &self.to } else { &self.from }
    }

    pub(super) fn plan(&self) -> Plan {
        let rules = Rules {
            prepare: self.prepare,
            quiesce: self.quiesce,
            copy: self.copy.max(LEAST_COPY),
            switch: self.switch,
            drain: self.drain,
            rounds: self.rounds,
            streams: if self.cuts { Streams::Cut } else { Streams::Wait },
            ..Rules::default()
        };
        Plan { migration: self.number, class: self.class, old: OLD, new: NEW, holders: Vec::new(), rules }
    }

    /// Notes a copy that the old place has made, if there is another one. Returns whether there is.
    pub(super) fn copied(&mut self, copy: Option<Copy>) -> bool {
        let last = self.copies.last().map_or(0, |last| last.round);
        let new = copy.filter(|copy| copy.round > last);
        self.copies.extend(new);
        new.is_some()
    }

    /// The phase that it entered last.
    pub(super) fn phase(&self) -> Option<Phase> {
        self.phases().last().map(|(phase, _)| phase)
    }

    /// The phases that it entered, and when. What was entered again after a restart of the control plane counts once.
    pub(super) fn phases(&self) -> impl Iterator<Item = (Phase, Duration)> {
        let mut before = None;
        self.journal.iter().filter_map(move |entry| match entry.record {
            Record::Entered(phase) if before.replace(phase) != Some(phase) => Some((phase, entry.at)),
            _ => None,
        })
    }

    /// How long nobody served while it moved: from when requests waited until the new place served. None: it did not come to that.
    pub(super) fn blackout(&self) -> Option<Duration> {
        let waits = |phase: &Phase| matches!(phase, Phase::Hold | Phase::Quiesce);
        let (_, from) = self.phases().find(|(phase, _)| waits(phase))?;
        let mut behind = self.phases().skip_while(|(phase, _)| *phase != Phase::Activate).skip(1);
        behind.next().map(|(_, until)| until.saturating_sub(from))
    }

    /// How long the last copy of all of the state was, in bytes. None: there was none.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.copies.iter().rev().find(|copy| copy.base == 0).map(|copy| copy.bytes)
    }

    pub(super) fn records(&self) -> Vec<Record> {
        self.journal.iter().map(|entry| entry.record).collect()
    }

    /// Takes over what is to be written down, and what it means for how it ends.
    pub(super) fn write(&mut self, record: Record) {
        let at = since_1970();
        self.journal.push(Entry { at, record });
        match record {
            Record::Entered(phase) if phase.is_terminal() => {
                self.ended = Some(at);
                self.outcome = Some(match phase {
                    Phase::Aborted => Outcome::Aborted,
                    Phase::RolledBack => Outcome::RolledBack,
                    _ => Outcome::Done,
                });
                if phase == Phase::RolledBack && self.because.is_none() {
                    self.because = Some(format!("`{}` was not ready any more", self.to));
                }
            }
            Record::Aborting(cause) => self.because = Some(self.explain(cause)),
            Record::Vouched(Role::New) if self.has_begun() => {
                self.because = Some(format!("`{}` was gone after it had begun to serve", self.to));
            }
            _ => {}
        }
    }

    /// Whether the new instance was told to serve.
    fn has_begun(&self) -> bool {
        self.class != Class::Stateless && self.phases().any(|(phase, _)| phase == Phase::Activate)
    }

    fn explain(&self, cause: Cause) -> String {
        let (from, to) = (&self.from, &self.to);
        match cause {
            Cause::Refused(Why::NoRoom) => format!("`{to}` has no room for the state"),
            Cause::Refused(Why::Unhealthy) if self.class != Class::Stateless => {
                format!("`{to}` does not become healthy, or its application does not take a state")
            }
            Cause::Refused(Why::Digest) => format!("what `{to}` got is not what `{from}` has"),
            Cause::Refused(Why::Activation) => format!("the application of `{to}` did not take the state"),
            Cause::NewLost if self.class != Class::Stateless => {
                format!("`{to}` lost what it had: it began again")
            }
            Cause::OldGone => format!("`{from}` was not heard any more, and its lease is over"),
            Cause::OldLost => format!("`{from}` lost what it had: it began again"),
            Cause::Busy | Cause::Withheld | Cause::Unfrozen
                if matches!(self.phase(), Some(Phase::Precopy(_))) =>
            {
                format!("the application of `{from}` did not give a copy of its state")
            }
            Cause::Busy => {
                format!(
                    "`{from}` did not freeze: requests or streams there did not end in {:?}",
                    self.quiesce
                )
            }
            Cause::Withheld => format!(
                "`{from}` did not freeze: its application did not give its state, or not in {:?}",
                self.quiesce
            ),
            Cause::Unfrozen => format!(
                "`{from}` did not freeze: requests there did not end in {:?}, or its application did not give its state",
                self.quiesce
            ),
            Cause::Late(Phase::Quiesce) => format!("`{from}` did not say in time that it has frozen"),
            Cause::Late(Phase::Precopy(_) | Phase::Finalcopy) => {
                format!("it took too long to copy the state to `{to}`")
            }
            Cause::Late(Phase::Fence) => format!("`{to}` did not say in time that it has the state"),
            Cause::Asked => "somebody asked for it".to_owned(),
            Cause::Refused(Why::Unhealthy) => format!("`{to}` drains, or is not there any more"),
            Cause::NewLost => format!("`{to}` is not there any more"),
            Cause::Late(phase) => {
                format!("`{to}` was not ready in {:?}: {} took too long", self.prepare, phase.label())
            }
        }
    }
}

pub(super) fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// No copy has less time.
const LEAST_COPY: Duration = Duration::from_secs(1);

fn stateless() -> Class {
    Class::Stateless
}

/// The places of every migration.
pub(super) const OLD: PlaceId = PlaceId(1);
pub(super) const NEW: PlaceId = PlaceId(2);
/// Of a service without state. What is known of a place outlives the control plane, and an instance's name is that of one
/// process: each has one life.
pub(super) const LIFE: Incarnation = Incarnation(1);
