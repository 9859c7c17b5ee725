//! What is counted of a route's other tries. Most routes never need it.

use std::sync::OnceLock;

use super::exposition::{Exposition, Family, Kind, Unit};
use super::shards::Cells;
use crate::retry::{Condition, Refusal};

/// Counters of one route's other tries.
#[derive(Default)]
pub(super) struct RetryCells(OnceLock<Cells>);

impl RetryCells {
    /// Another try was made.
    #[cold]
    pub(super) fn again(&self, condition: Condition) {
        self.cells().add(condition as usize, 1);
    }

    /// Another try was called for, and not made.
    #[cold]
    pub(super) fn refused(&self, refusal: Refusal) {
        self.cells().add(REFUSED + refusal as usize, 1);
    }

    /// A try took too long.
    #[cold]
    pub(super) fn late(&self) {
        self.cells().add(LATE, 1);
    }

    /// How many other tries there were.
    pub(super) fn tries(&self) -> u64 {
        let Some(cells) = self.0.get() else { return 0 };
        Condition::ALL.iter().map(|condition| cells.sum(*condition as usize)).sum()
    }

    pub(super) fn collect(&self, labels: &str, out: &mut Exposition) {
        let Some(cells) = self.0.get() else { return };
        for condition in Condition::ALL {
            let count = cells.sum(condition as usize);
            if count > 0 {
                out.sample(&RETRIES, format_args!("{labels},condition=\"{}\"", condition.label()), count);
            }
        }
        for refusal in Refusal::ALL {
            let count = cells.sum(REFUSED + refusal as usize);
            if count > 0 {
                let reason = refusal.label();
                out.sample(&REFUSALS, format_args!("{labels},reason=\"{reason}\""), count);
            }
        }
        let late = cells.sum(LATE);
        if late > 0 {
            out.sample(&TRY_TIMEOUTS, labels, late);
        }
    }

    fn cells(&self) -> &Cells {
        self.0.get_or_init(|| Cells::new(CELLS))
    }
}

const REFUSED: usize = Condition::ALL.len();
const LATE: usize = REFUSED + Refusal::ALL.len();
const CELLS: usize = LATE + 1;

static RETRIES: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_retries",
    "How often a request was tried again, by what called for it; unread: no endpoint had read it.",
);
static REFUSALS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_retries_refused",
    "How often a request was not tried again although its policy called for it, by the reason; budget: it was used up.",
);
static TRY_TIMEOUTS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_try_timeouts",
    "How often an endpoint did not answer within the time that a try has.",
);
