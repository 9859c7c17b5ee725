//! What became of the sessions of a route's requests. Most routes have none.

use std::sync::OnceLock;

use super::exposition::{Exposition, Family, Kind, Unit};
use super::shards::Cells;
use crate::session::Joined;

/// Counters of one route's sessions.
#[derive(Default)]
pub(super) struct SessionCells(OnceLock<Cells>);

impl SessionCells {
    /// An endpoint was picked for a request.
    pub(super) fn joined(&self, joined: Joined) {
        self.0.get_or_init(|| Cells::new(Joined::ALL.len())).add(joined as usize, 1);
    }

    pub(super) fn collect(&self, labels: &str, out: &mut Exposition) {
        let Some(cells) = self.0.get() else { return };
        for joined in Joined::ALL {
            let (count, result) = (cells.sum(joined as usize), joined.label());
            if count > 0 {
                out.sample(&PICKS, format_args!("{labels},result=\"{result}\""), count);
            }
        }
    }
}

static PICKS: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_session_picks",
    "What became of the sessions of requests when an endpoint was picked, by the result; new: there was none yet.",
);
