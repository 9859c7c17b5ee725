//! Which answers wait for which round of the journal, and what whoever keeps it has. Without I/O.
//!
//! A round begins with what the application gives of what has changed, and ends when the standby has it. One is under way at a
//! time; an answer waits for one that began when it was there already, so that what it acknowledges is in what the
//! application gave. Tickets stand for answers, in their order.

/// The rounds of an instance that serves.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// The last ticket that was given.
    asked: u64,
    /// What these and all before them acknowledge, the standby has.
    covered: u64,
    /// Of these and all before them nobody will ever know, unless it was told already.
    lost: u64,
    /// In which view there is a standby.
    view: Option<u64>,
    /// The standby has all that it was given so far, and what has changed since can follow.
    is_whole: bool,
    /// The number of the next round in this view.
    next: u64,
    under_way: Option<Round>,
    size: Size,
}

/// A round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Round {
    /// Of which view.
    pub(super) view: u64,
    /// The how manieth there.
    pub(super) number: u64,
    /// The last ticket that it covers.
    covers: u64,
    /// All of the state is to be given.
    pub(super) is_whole: bool,
}

/// How long what the standby has is, in bytes.
#[derive(Debug, Default)]
struct Size {
    whole: u64,
    changes: u64,
    rounds: u32,
}

impl Rounds {
    /// An answer is there, and may acknowledge something.
    pub(super) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    /// Whether what it acknowledges is at the standby. None: that is not known yet.
    pub(super) fn is_journaled(&self, ticket: u64) -> Option<bool> {
        match () {
            // Whoever serves by now may know nothing of it, whatever was covered later.
            () if ticket <= self.lost => Some(false),
            () if ticket <= self.covered => Some(true),
            () => None,
        }
    }

    /// Another standby was named, which has nothing.
    pub(super) fn name(&mut self, view: u64) {
        self.part();
        self.view = Some(view);
    }

    /// There is no standby any more. What waits waits on.
    pub(super) fn part(&mut self) {
        (self.view, self.is_whole, self.next, self.under_way) = (None, false, 1, None);
        self.size = Size::default();
    }

    /// What waits is not journaled, and will not be.
    pub(super) fn lose(&mut self) {
        self.lost = self.asked;
    }

    /// What waits goes on although nobody keeps a journal.
    pub(super) fn pass(&mut self) {
        self.covered = self.asked;
    }

    /// Begins a round, if one is needed and none is under way.
    pub(super) fn begin(&mut self) -> Option<Round> {
        let view = self.view.filter(|_| self.under_way.is_none())?;
        if self.is_whole && self.asked <= self.covered.max(self.lost) {
            return None;
        }
        let is_whole = !self.is_whole || self.size.is_long();
        self.under_way = Some(Round { view, number: self.next, covers: self.asked, is_whole });
        self.under_way
    }

    /// Whether it is still wanted.
    pub(super) fn is_under_way(&self, round: Round) -> bool {
        self.under_way == Some(round)
    }

    /// The standby has what was given: all of the state, or what has changed.
    pub(super) fn took(&mut self, round: Round, is_whole: bool, bytes: u64) {
        if !self.end(round) {
            return;
        }
        self.next += 1;
        self.covered = self.covered.max(round.covers);
        self.is_whole = true;
        match is_whole {
            true => self.size = Size { whole: bytes, ..Size::default() },
            // What is empty is not kept.
            false => {
                self.size.changes = self.size.changes.saturating_add(bytes);
                self.size.rounds += u32::from(bytes > 0);
            }
        }
    }

    /// The standby lacks what it builds on.
    pub(super) fn lacks(&mut self, round: Round) {
        if self.end(round) {
            self.next += 1;
            self.is_whole = false;
        }
    }

    /// The application did not give anything, and the standby was told nothing.
    pub(super) fn fail(&mut self, round: Round) {
        self.end(round);
    }

    fn end(&mut self, round: Round) -> bool {
        self.under_way.take_if(|under_way| *under_way == round).is_some()
    }
}

impl Size {
    /// Whether all of the state is to take the place of what has changed: the standby keeps both, and its application would take
    /// one after the other.
    fn is_long(&self) -> bool {
        match self.rounds {
            ..FEW_ROUNDS => false,
            FEW_ROUNDS..MANY_ROUNDS => self.changes > self.whole.max(SMALL),
            MANY_ROUNDS..MOST_ROUNDS => self.changes > self.whole / 4,
            MOST_ROUNDS.. => true,
        }
    }
}

const FEW_ROUNDS: u32 = 64;
/// So many take an application longer than all of a state that is not much longer.
const MANY_ROUNDS: u32 = 1024;
const MOST_ROUNDS: u32 = 8 * MANY_ROUNDS;
const SMALL: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::shadow::{Shadow, Taken};
    use super::*;
    use crate::stateful::copies::{Gathering, State};

    /// What happens. Numbers choose among what there is.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// The application changes something, and answers.
        Write,
        /// A round begins, or what was sent is sent once more.
        Send,
        /// One that is under way to the standby, or was, arrives there, once more maybe.
        Arrive(usize),
        /// What the standby said arrives, late maybe.
        Hear(usize),
        /// Another standby is named.
        Name,
    }

    /// An application whose state is how often it was changed; what has changed since then is another number.
    struct World {
        state: u64,
        /// By tickets: the state that an answer has shown.
        shown: Vec<u64>,
        rounds: Rounds,
        view: u64,
        given: u64,
        sending: Option<(Round, u64, State)>,
        sent: Vec<(Round, u64, State)>,
        shadow: Shadow,
        heard: Vec<(Round, u64, Taken)>,
    }

    fn written(of: [u64; 2]) -> State {
        let mut gathering = Gathering::new(16);
        of.into_iter().for_each(|number| gathering.push(&number.to_be_bytes()).unwrap());
        gathering.finish()
    }

    fn read(state: &State) -> [u64; 2] {
        let mut bytes = Vec::new();
        let mut reading = state.read(0);
        while let Some(Ok(frame)) = futures_frame(&mut reading) {
            bytes.extend_from_slice(frame.data_ref().unwrap());
        }
        [0, 8].map(|at| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()))
    }

    fn futures_frame(
        reading: &mut crate::stateful::copies::Reading,
    ) -> Option<Result<hyper::body::Frame<bytes::Bytes>, std::convert::Infallible>> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match hyper::body::Body::poll_frame(std::pin::Pin::new(reading), &mut cx) {
            std::task::Poll::Ready(frame) => frame,
            std::task::Poll::Pending => None,
        }
    }

    impl World {
        fn new() -> Self {
            let mut rounds = Rounds::default();
            rounds.name(1);
            World {
                state: 0,
                shown: Vec::new(),
                rounds,
                view: 1,
                given: 0,
                sending: None,
                sent: Vec::new(),
                shadow: Shadow::default(),
                heard: Vec::new(),
            }
        }

        fn step(&mut self, step: Step) {
            match step {
                Step::Write => {
                    self.state += 1;
                    assert_eq!(self.rounds.ask(), self.shown.len() as u64 + 1);
                    self.shown.push(self.state);
                }
                Step::Send => {
                    if self.sending.as_ref().is_none_or(|(round, ..)| !self.rounds.is_under_way(*round)) {
                        let Some(round) = self.rounds.begin() else { return };
                        let since = if round.is_whole { 0 } else { self.given };
                        self.sending = Some((round, self.state, written([since, self.state])));
                    }
                    self.sent.extend(self.sending.clone());
                }
                Step::Arrive(at) => {
                    let Some((round, state, given)) = self.sent.get(at % self.sent.len().max(1)).cloned()
                    else {
                        return;
                    };
                    // Who keeps it by now knows the view.
                    if round.view == self.view {
                        let taken = self.shadow.take(round.number, round.is_whole, given, 1 << 20);
                        self.heard.push((round, state, taken));
                    }
                }
                Step::Hear(at) => {
                    let Some((round, state, taken)) = self.heard.get(at % self.heard.len().max(1)).copied()
                    else {
                        return;
                    };
                    if !self.rounds.is_under_way(round) {
                        return;
                    }
                    match taken {
                        Taken::All => {
                            self.rounds.took(round, round.is_whole, 16);
                            self.given = state;
                        }
                        Taken::Lacks => self.rounds.lacks(round),
                        Taken::Closed => {}
                    }
                }
                Step::Name => {
                    self.view += 1;
                    self.rounds.name(self.view);
                    self.shadow = Shadow::default();
                }
            }
        }

        /// What an application comes to that takes all that the standby has, if that is a state.
        fn recovered(&self) -> Option<u64> {
            let (base, changes) = self.shadow.parts()?;
            changes.iter().try_fold(read(base)[1], |state, changes| {
                let [since, to] = read(changes);
                // What lies in between is missing otherwise; given once more it does no harm.
                (since <= state).then_some(to.max(state))
            })
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        /// However messages are lost, come twice and late: what an answer has acknowledged the standby has, in this view, as soon
        /// as it counts as journaled there.
        #[test]
        fn what_is_acknowledged_is_at_the_standby(
            steps in prop::collection::vec(prop_oneof![
                4 => Just(Step::Write),
                6 => Just(Step::Send),
                6 => any::<usize>().prop_map(Step::Arrive),
                6 => any::<usize>().prop_map(Step::Hear),
                1 => Just(Step::Name),
            ], 0..300),
        ) {
            let mut world = World::new();
            for step in steps {
                world.step(step);
                let journaled = (1..=world.shown.len() as u64)
                    .filter(|ticket| world.rounds.is_journaled(*ticket) == Some(true)).max();
                // A standby that was just named has nothing yet; who was it before has all of it.
                if let (Some(last), true) = (journaled, world.rounds.is_whole) {
                    let shown = world.shown[last as usize - 1];
                    prop_assert!(world.recovered() >= Some(shown), "{:?} < {shown}", world.recovered());
                }
            }
        }
    }

    #[test]
    fn a_round_covers_what_was_there_when_it_began_and_what_comes_then_goes_with_the_next() {
        let mut rounds = Rounds::default();
        let early = rounds.ask();
        assert_eq!((rounds.begin(), rounds.is_journaled(early)), (None, None), "there is nobody");
        rounds.name(1);
        let first = rounds.begin().unwrap();
        assert!(first.is_whole && rounds.begin().is_none());
        let late = rounds.ask();
        rounds.took(first, true, 100);
        assert_eq!([early, late].map(|ticket| rounds.is_journaled(ticket)), [Some(true), None]);
        let second = rounds.begin().unwrap();
        assert!(!second.is_whole);
        rounds.took(first, true, 100);
        assert_eq!(rounds.is_journaled(late), None, "that is over");
        rounds.took(second, false, 10);
        assert_eq!((rounds.is_journaled(late), rounds.begin()), (Some(true), None), "nobody waits");
    }

    #[test]
    fn what_is_lost_stays_lost_whatever_is_journaled_later() {
        let mut rounds = Rounds::default();
        rounds.name(1);
        let gone = rounds.ask();
        rounds.lose();
        let next = rounds.ask();
        let round = rounds.begin().unwrap();
        rounds.took(round, true, 1);
        assert_eq!([gone, next].map(|ticket| rounds.is_journaled(ticket)), [Some(false), Some(true)]);
    }

    #[test]
    fn all_of_the_state_goes_again_once_what_has_changed_is_longer() {
        let mut rounds = Rounds::default();
        rounds.name(1);
        for number in 0..=u64::from(FEW_ROUNDS) + 1 {
            rounds.ask();
            let round = rounds.begin().unwrap();
            assert_eq!(round.is_whole, number == 0 || number == u64::from(FEW_ROUNDS) + 1, "{number}");
            rounds.took(round, round.is_whole, 1 << 20);
        }
        rounds.ask();
        assert!(!rounds.begin().unwrap().is_whole, "it begins anew");
    }

    /// After how many rounds of so many bytes all of a state of 1 MiB goes again.
    fn rounds_of(bytes: u64, most: u32) -> Option<u32> {
        let mut rounds = Rounds::default();
        rounds.name(1);
        (0..=most).find(|number| {
            rounds.ask();
            let round = rounds.begin().unwrap();
            rounds.took(round, round.is_whole, if round.is_whole { 1 << 20 } else { bytes });
            round.is_whole && *number > 0
        })
    }

    #[test]
    fn nobody_who_only_reads_has_all_of_the_state_go_again_and_few_who_change_a_little() {
        assert_eq!(rounds_of(0, 3 * MOST_ROUNDS), None);
        assert_eq!(rounds_of(8, 3 * MOST_ROUNDS), Some(MOST_ROUNDS + 1));
        assert_eq!(rounds_of(1 << 10, 3 * MOST_ROUNDS), Some(MANY_ROUNDS + 1));
    }
}
