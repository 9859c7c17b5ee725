//! What is drawn by chance, from a seed.

use std::f64::consts::TAU;

use lighter_config::scenario::{FanOut, LogNormal};

/// A number from a normal distribution.
pub fn normal(random: &mut fastrand::Rng) -> f64 {
    // Box and Muller's; the logarithm of zero is not asked for.
    let (radius, angle) = (1.0 - random.f64(), random.f64());
    (-2.0 * radius.ln()).sqrt() * (TAU * angle).cos()
}

/// One from a log-normal distribution.
pub fn log_normal(said: LogNormal, random: &mut fastrand::Rng) -> f64 {
    said.median * (said.sigma * normal(random)).exp()
}

/// How many requests come at once.
pub fn fan_out(said: FanOut, random: &mut fastrand::Rng) -> u32 {
    let drawn = (1.0 - random.f64()).powf(-1.0 / said.shape);
    (drawn as u32).clamp(1, said.most)
}

/// By what factor a run of this request at this place differs from others: always the same, so that all policies meet the same.
pub fn noise(sigma: f64, seed: u64, request: usize, place: usize) -> f64 {
    let mixed = seed ^ (request as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (place as u64).rotate_left(32);
    (sigma * normal(&mut fastrand::Rng::with_seed(mixed))).exp()
}

/// Draws one of several by their weights.
pub struct Weighted {
    /// Sums of the weights up to and with each.
    sums: Vec<f64>,
}

impl Weighted {
    /// Of at least one.
    pub fn new(weights: impl Iterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let add = |weight: f64| {
            sum += weight;
            sum
        };
        Weighted { sums: weights.map(add).collect() }
    }

    /// The place of the one that is drawn.
    pub fn draw(&self, random: &mut fastrand::Rng) -> usize {
        let at = random.f64() * self.sums.last().copied().unwrap_or(0.0);
        self.sums.partition_point(|sum| *sum <= at).min(self.sums.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_has_the_shape_that_is_said() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut drawn: Vec<f64> = (0..20_001)
            .map(|_| log_normal(LogNormal { median: 10.0, sigma: 1.0 }, &mut random).ln())
            .collect();
        drawn.sort_by(f64::total_cmp);
        assert!((drawn[10_000].exp() - 10.0).abs() < 0.3);
        assert!((drawn[16_827] - drawn[10_000] - 1.0).abs() < 0.05, "a sigma above lie 84.13 %");

        let said = FanOut { shape: 1.5, most: 32 };
        let many: Vec<u32> = (0..20_000).map(|_| fan_out(said, &mut random)).collect();
        let more_than_three = many.iter().filter(|one| **one > 3).count() as f64 / 20_000.0;
        assert!((more_than_three - 4f64.powf(-1.5)).abs() < 0.01, "{more_than_three}");
        assert!(many.iter().all(|one| (1..=32).contains(one)));

        let weighted = Weighted::new([1.0, 0.0, 3.0].into_iter());
        let draws: Vec<usize> = (0..4000).map(|_| weighted.draw(&mut random)).collect();
        assert!(!draws.contains(&1));
        assert!((draws.iter().filter(|one| **one == 2).count() as f64 / 4000.0 - 0.75).abs() < 0.03);
    }

    #[test]
    fn noise_belongs_to_a_request_and_a_place() {
        assert_eq!(noise(0.3, 1, 2, 3), noise(0.3, 1, 2, 3));
        assert_ne!(noise(0.3, 1, 2, 3), noise(0.3, 1, 2, 4));
        assert_ne!(noise(0.3, 1, 2, 3), noise(0.3, 1, 3, 2));
        assert_eq!(noise(0.0, 1, 2, 3), 1.0);
    }
}
