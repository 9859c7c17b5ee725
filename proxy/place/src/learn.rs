//! What answers teach: by how much the prior is wrong, as a logarithm, in layers that are added up.
//!
//! A device that is twice as slow as it is said to be is so for all routes, and a function that takes twice as long is so on all
//! devices. What is left belongs to one route, place and size class. So a device with few answers of its own is still known
//! by those of others, and one with many by its own.

use crate::time::Time;

/// A part of the correction.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layer {
    /// What is added to the logarithm of the prior.
    log: f32,
    /// How many answers say so.
    answers: u32,
    last: Time,
}

impl Layer {
    pub(crate) fn log(&self) -> f32 {
        self.log
    }

    /// How many answers ever said so.
    pub(crate) fn answers(&self) -> u32 {
        self.answers
    }

    /// How many answers of late say so; none, if the last was long ago.
    pub(crate) fn fresh_answers(&self, now: Time) -> u32 {
        if now.seconds_since(self.last) < STALE_SECONDS { self.answers } else { 0 }
    }

    /// An answer was off by `error`, of which this part is for this layer to explain.
    pub(crate) fn learn(&mut self, error: f32, part: f32, floor: f32, now: Time) {
        // Of the first answers the mean, from then on what was said of late.
        let gain = (1.0 / (self.answers as f32 + 1.0)).max(floor);
        self.log = (self.log + error * part * gain).clamp(-MOST, MOST);
        self.answers = self.answers.saturating_add(1);
        self.last = now;
    }

    /// The place is not what it was: all of the error is believed.
    pub(crate) fn jump(&mut self, error: f32) {
        self.log = (self.log + error).clamp(-MOST, MOST);
    }
}

/// Answers in a row that are all far too slow, or all far too fast. One says little, since times vary; a few say that the
/// place has changed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surprise(i8);

impl Surprise {
    /// Whether an answer that was off by `error` is one too many.
    pub(crate) fn is_change(&mut self, error: f32) -> bool {
        self.0 = match error {
            _ if error > FAR => self.0.max(0) + 1,
            _ if error < -FAR => self.0.min(0) - 1,
            _ => 0,
        };
        let is_change = self.0.unsigned_abs() >= ROW;
        if is_change {
            self.0 = 0;
        }
        is_change
    }
}

/// The logarithm of the most by which a layer corrects, about 20,000 times.
const MOST: f32 = 10.0;
/// What nothing confirmed for so long is asked for again.
const STALE_SECONDS: f64 = 10.0;
/// The logarithm of 2.5 times.
const FAR: f32 = 0.916;
/// How many of them in a row are a change.
const ROW: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answers_count_as_their_mean_and_later_ones_as_those_of_late() {
        let mut layer = Layer::default();
        for (error, expected) in [(2.0, 2.0), (-1.0, 1.5), (1.5, 2.0)] {
            layer.learn(error, 1.0, 0.05, Time::default());
            assert!((layer.log() - expected).abs() < 1e-6, "{layer:?}");
        }
        assert_eq!(layer.fresh_answers(Time::from_seconds(9.0)), 3);
        assert_eq!(layer.fresh_answers(Time::from_seconds(11.0)), 0);
    }

    #[test]
    fn three_surprises_of_one_kind_are_a_change() {
        let mut surprise = Surprise::default();
        let said = [1.0, 1.0, -1.0, -1.0, 0.1, 2.0, 2.0, 2.0, 2.0].map(|error| surprise.is_change(error));
        assert_eq!(said, [false, false, false, false, false, false, false, true, false]);
    }
}
