//! RequestMirror: has a copy of a share of the requests sent elsewhere.

use lighter_config::snapshot::Route;
use lighter_config::snapshot::filter::Share;
use tower::Layer;

use crate::filter::Filter;
use crate::head::{LocalAnswer, RequestHead, ResponseHead};

/// Makes [`Mirror`] around a filter.
pub struct MirrorLayer {
    place: u32,
    share: Share,
}

/// Orders copies of what the filter inside lets pass.
pub struct Mirror<S> {
    place: u32,
    share: Share,
    inner: S,
}

impl MirrorLayer {
    /// A layer that orders copies for number `place` of the route's mirrors.
    pub fn new(place: u32, share: Share) -> Self {
        MirrorLayer { place, share }
    }
}

impl<S> Layer<S> for MirrorLayer {
    type Service = Mirror<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Mirror { place: self.place, share: self.share, inner }
    }
}

impl<S: Filter> Filter for Mirror<S> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        let answer = self.inner.on_request(route, head);
        if answer.is_none() && self.share.has((head.facts.dice)()) {
            // A rule has fewer filters than there are bits.
            head.orders.mirrors |= 1u64.checked_shl(self.place).unwrap_or_default();
        }
        answer
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
    }
}
