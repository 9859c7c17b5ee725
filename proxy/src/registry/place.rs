//! What this workload's place is told, and what is told of it, where its Service keeps state.

use std::sync::Arc;

use lighter_config::xds::wire::lighter::registry::v1::{JournalStand, PlaceCommand, PlaceReport};
use lighter_migrate::{Command, Report};
use metrics::{counter, describe_counter};
use tokio::sync::watch;

use crate::stateful::Hosted;
use crate::stateful::wire::{decode_command, encode_report};

/// Decides what to say of the place on a stream of reports.
#[derive(Default)]
pub(super) struct Telling(Option<Told>);

struct Told {
    hosted: Arc<Hosted>,
    reports: watch::Receiver<Option<(Report, u64)>>,
    /// What it is to the journal.
    journal: watch::Receiver<Option<JournalStand>>,
    /// What is true was said.
    is_said: bool,
}

impl Telling {
    /// A stream begins. Nothing was told on it.
    pub(super) fn connected(&mut self) {
        self.0 = None;
    }

    /// Resolves when there is something to say, of a place that was known when it was last asked what to say.
    pub(super) async fn news(&mut self) {
        let Some(told) = &mut self.0 else { return std::future::pending().await };
        let changed = tokio::select! {
            changed = told.reports.changed() => changed,
            changed = told.journal.changed() => changed,
        };
        if changed.is_err() {
            // A place is there for as long as it is known here.
            return std::future::pending().await;
        }
        told.is_said = false;
    }

    /// What to say now. `place`: that of the moment.
    pub(super) fn poll(&mut self, place: Option<Arc<Hosted>>) -> Option<PlaceReport> {
        if self.0.as_ref().map(|told| Arc::as_ptr(&told.hosted)) != place.as_ref().map(Arc::as_ptr) {
            let told = |hosted: Arc<Hosted>| {
                let (reports, journal) = (hosted.reports(), hosted.journal().stand());
                Told { reports, journal, hosted, is_said: false }
            };
            self.0 = place.map(told);
        }
        let told = self.0.as_mut().filter(|told| !told.is_said)?;
        told.is_said = true;
        let said = *told.reports.borrow_and_update();
        let journal = *told.journal.borrow_and_update();
        said.map(|(report, parked)| PlaceReport { journal, ..encode_report(&report, parked) })
    }
}

/// Has the place follow a command, which it answers by what is [told](Telling) of it. Counted.
pub(super) fn follow(place: Option<&Hosted>, command: PlaceCommand) {
    describe_counter!(
        "lighter_registry_commands_total",
        "Times that the control plane told this workload's place what to do, as its Service has state."
    );
    if let (Some(part), Some(hosted)) = (&command.journal, place) {
        hosted.journal().told(part);
    }
    let outcome = match (decode_command(command), place) {
        (Ok(told), Some(hosted)) => {
            let Command { stamp, order, .. } = told.command;
            tracing::debug!(?stamp, ?order, "the control plane commands this place");
            hosted.command(&told);
            "taken"
        }
        // Its Service has no state, as far as is known here.
        (Ok(_), None) => "nowhere",
        (Err(fault), _) => {
            tracing::warn!(%fault, "the control plane's command to this place is malformed");
            "malformed"
        }
    };
    counter!("lighter_registry_commands_total", "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lighter_migrate::{Epoch, Incarnation, Order, Source, Stamp, Stand};

    use super::*;
    use crate::stateful::tests::app::stateful;
    use crate::stateful::wire::{Told, decode_report, encode_command};
    use crate::telemetry;

    fn counted(outcome: &'static str) -> u64 {
        let label = ("outcome", outcome);
        telemetry::counted("lighter_registry_commands_total", Some(label), "outcome").values().sum()
    }

    fn command(sequence: u64, order: Order) -> PlaceCommand {
        let stamp = Stamp { migration: 1, term: 1, sequence };
        let command = Command { stamp, incarnation: Some(Incarnation(5)), order };
        encode_command(&Told { command, token: Vec::new(), from: None, to: Default::default() })
    }

    fn stand(said: Option<PlaceReport>) -> Option<Stand> {
        said.map(|said| decode_report(said).unwrap().0.stand)
    }

    #[tokio::test]
    async fn a_place_is_told_of_on_each_stream_and_whenever_it_says_something() {
        let mut telling = Telling::default();
        assert_eq!(telling.poll(None), None);
        let hosted = Hosted::new(&stateful(), Incarnation(5));
        assert_eq!(stand(telling.poll(Some(hosted.clone()))), Some(Stand::Empty));
        assert_eq!(telling.poll(Some(hosted.clone())), None, "it was said");
        follow(Some(&hosted), command(1, Order::Prepare { epoch: Epoch(1) }));
        telling.news().await;
        hosted.with(|place, _, out| place.reserved(true, out));
        assert_eq!(stand(telling.poll(Some(hosted.clone()))), Some(Stand::Reserved), "as it is by now");
        // A command that changes nothing is answered too.
        follow(Some(&hosted), command(1, Order::Prepare { epoch: Epoch(1) }));
        telling.news().await;
        assert_eq!(stand(telling.poll(Some(hosted.clone()))), Some(Stand::Reserved));
        telling.connected();
        assert_eq!(
            stand(telling.poll(Some(hosted.clone()))),
            Some(Stand::Reserved),
            "who is new knows nothing"
        );
        let another = Hosted::new(&stateful(), Incarnation(6));
        assert_eq!(stand(telling.poll(Some(another))), Some(Stand::Empty));
        assert_eq!(telling.poll(None), None);
    }

    #[test]
    fn what_is_no_command_changes_nothing_and_is_counted() {
        telemetry::install(1, Duration::from_secs(600));
        let hosted = Hosted::new(&stateful(), Incarnation(5));
        let before = [counted("malformed"), counted("nowhere")];
        follow(Some(&hosted), PlaceCommand::default());
        follow(None, command(1, Order::Serve { epoch: Epoch(1), from: Source::Nothing }));
        assert_eq!([counted("malformed"), counted("nowhere")], before.map(|count| count + 1));
        let reports = hosted.reports();
        assert_eq!(reports.borrow().unwrap().0.heard, Stamp::default());
    }
}
