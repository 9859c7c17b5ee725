//! A line of a log of decisions.

use serde::{Deserialize, Serialize};

use crate::record::Record;

/// A decision, with the names of what it is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Logged {
    /// When it was made, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The Service that was asked for, `namespace/name:port`.
    pub service: String,
    /// The rule of the route.
    pub route: String,
    /// The OffloadPolicy.
    pub policy: String,
    /// Where the request went.
    pub place: String,
    /// Why, in a word.
    pub reason: String,
    /// The names of the places that were compared.
    pub places: Vec<String>,
    /// What the decision was made from, and what it was.
    pub record: Record,
}

impl Logged {
    /// The decision in words, and what was expected of each place.
    pub fn explain(&self) -> String {
        self.record.explain(|place| {
            let candidates = self.record.inputs.candidates.iter();
            let named = candidates.zip(&self.places).find(|(candidate, _)| candidate.place == place);
            named.map_or("?", |(_, name)| name).to_owned()
        })
    }
}
