//! How often a place is tried that is not expected to be the best.

/// What may be spent on finding out, as a part of decisions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exploration {
    /// At most this part of the decisions in which there was a choice, beside [`BURST`]. None at all, if it is zero. Default
    /// 0.02.
    pub share: f32,
}

impl Default for Exploration {
    fn default() -> Self {
        Exploration { share: 0.02 }
    }
}

/// What is left of it. Each decision puts a share in, each exploration takes one out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Purse(f32);

impl Purse {
    pub(crate) fn new(rules: &Exploration) -> Self {
        Purse(if rules.share > 0.0 { BURST } else { 0.0 })
    }

    pub(crate) fn put(&mut self, rules: &Exploration) {
        self.0 = (self.0 + rules.share.clamp(0.0, 1.0)).min(BURST);
    }

    pub(crate) fn has_one(&self) -> bool {
        self.0 >= 1.0
    }

    pub(crate) fn take(&mut self) {
        self.0 -= 1.0;
    }
}

/// So many at once, at the beginning and after a while without.
pub const BURST: f32 = 4.0;
