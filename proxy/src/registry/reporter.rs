//! What the control plane was told of this instance, against what is true. No clock and no socket of its own.
//!
//! Level-triggered: what is sent is what is true now, and nothing that was lost on the way is lost for good. One report
//! is on its way at a time, so that changes that come one after the other are told together.

use lighter_config::xds::wire::lighter::registry::v1::Registration;

/// Decides what to send on a stream of reports.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    truth: Registration,
    /// What was sent last on this stream, if there is one and something was.
    sent: Option<Registration>,
    is_connected: bool,
    /// It was not answered yet.
    is_awaited: bool,
}

impl Reporter {
    /// This is true from now on.
    pub(super) fn set(&mut self, truth: Registration) {
        self.truth = truth;
    }

    /// A stream begins. Nothing was told on it.
    pub(super) fn connected(&mut self) {
        *self =
            Reporter { truth: std::mem::take(&mut self.truth), is_connected: true, ..Reporter::default() };
    }

    /// The stream is lost.
    pub(super) fn disconnected(&mut self) {
        *self = Reporter { truth: std::mem::take(&mut self.truth), ..Reporter::default() };
    }

    /// What was sent last is known at the other side.
    pub(super) fn answered(&mut self) {
        self.is_awaited = false;
    }

    /// Whether the other side knows what is true.
    pub(super) fn is_known(&self) -> bool {
        !self.is_awaited && self.sent.as_ref() == Some(&self.truth)
    }

    /// Whether anything was sent on this stream.
    pub(super) fn is_said(&self) -> bool {
        self.sent.is_some()
    }

    /// What to send now.
    pub(super) fn poll(&mut self) -> Option<Registration> {
        if !self.is_connected || self.is_awaited || self.is_known() {
            return None;
        }
        self.is_awaited = true;
        self.sent = Some(self.truth.clone());
        self.sent.clone()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn truth(number: u8) -> Registration {
        Registration { instance: format!("i-{number}"), ..Registration::default() }
    }

    #[test]
    fn nothing_is_said_twice_and_nothing_without_a_stream() {
        let mut reporter = Reporter::default();
        reporter.set(truth(1));
        assert_eq!(reporter.poll(), None);
        reporter.connected();
        assert_eq!(reporter.poll(), Some(truth(1)));
        assert_eq!((reporter.poll(), reporter.is_known()), (None, false));
        reporter.answered();
        reporter.set(truth(1));
        assert_eq!((reporter.poll(), reporter.is_known()), (None, true));
    }

    #[test]
    fn changes_on_the_way_are_told_together() {
        let mut reporter = Reporter::default();
        reporter.connected();
        reporter.set(truth(1));
        assert_eq!(reporter.poll(), Some(truth(1)));
        reporter.set(truth(2));
        reporter.set(truth(3));
        assert_eq!(reporter.poll(), None);
        reporter.answered();
        assert_eq!(reporter.poll(), Some(truth(3)));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Set(u8),
        Connected,
        Lost,
        Answered,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (0u8..4).prop_map(Event::Set),
            Just(Event::Connected),
            Just(Event::Lost),
            Just(Event::Answered),
        ]
    }

    proptest! {
        /// Whatever happens on the way: with a stream that stays, the other side comes to know what is true, and then
        /// nothing more is said.
        #[test]
        fn the_truth_arrives(events in proptest::collection::vec(event(), 0..40)) {
            let mut reporter = Reporter::default();
            for event in events {
                match event {
                    Event::Set(number) => reporter.set(truth(number)),
                    Event::Connected => reporter.connected(),
                    Event::Lost => reporter.disconnected(),
                    Event::Answered => reporter.answered(),
                }
                reporter.poll();
            }
            reporter.set(truth(9));
            reporter.connected();
            let mut told = None;
            while let Some(said) = reporter.poll() {
                told = Some(said);
                reporter.answered();
            }
            prop_assert_eq!(told, Some(truth(9)));
            prop_assert!(reporter.is_known());
        }
    }
}
