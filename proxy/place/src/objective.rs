//! What counts when places are compared.

use serde::{Deserialize, Serialize};

/// What a route's OffloadPolicy wants least of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// Time until the answer.
    #[default]
    Latency,
    /// Joules, by the model.
    Energy,
    /// Bytes that cross the network.
    Bytes,
}

/// What a second, a joule and a byte cost beside each other. Only their ratios matter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weights {
    /// Of a second until the answer.
    pub second: f32,
    /// Of a joule.
    pub joule: f32,
    /// Of a byte that crosses the network.
    pub byte: f32,
}

impl Objective {
    /// The weights that stand for it. What is not wanted least of still breaks ties.
    pub const fn weights(self) -> Weights {
        match self {
            Objective::Latency => Weights { second: 1.0, joule: 1e-6, byte: 1e-15 },
            Objective::Energy => Weights { second: 1e-3, joule: 1.0, byte: 1e-15 },
            Objective::Bytes => Weights { second: 1.0, joule: 1e-6, byte: 1e-3 },
        }
    }
}

impl Weights {
    /// What these cost together.
    pub fn cost(&self, seconds: f64, joules: f64, bytes: f64) -> f64 {
        f64::from(self.second) * seconds + f64::from(self.joule) * joules + f64::from(self.byte) * bytes
    }
}
