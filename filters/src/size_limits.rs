//! Limits of size: refuses requests whose head is too large, or whose body is said to be; a body of which it is not said is
//! counted by the engine as it comes.

use lighter_config::snapshot::Route;
use lighter_config::snapshot::filter::SizeLimits as Limits;
use tower::Layer;

use crate::filter::Filter;
use crate::head::{LocalAnswer, Refusal, RequestHead, ResponseHead};

/// Makes [`SizeLimits`] around a filter.
pub struct SizeLimitsLayer(Limits);

/// Refuses what is too large.
pub struct SizeLimits<S> {
    limits: Limits,
    inner: S,
}

impl SizeLimitsLayer {
    /// A layer with these limits.
    pub fn new(limits: Limits) -> Self {
        SizeLimitsLayer(limits)
    }
}

impl<S> Layer<S> for SizeLimitsLayer {
    type Service = SizeLimits<S>;

    fn layer(&self, inner: S) -> Self::Service {
        SizeLimits { limits: self.0, inner }
    }
}

impl<S: Filter> Filter for SizeLimits<S> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        if self.limits.head.is_some_and(|most| size(head) > most) {
            return Some(LocalAnswer::refusal(Refusal::HeadTooLarge, head.facts.grpc));
        }
        if let Some(most) = self.limits.body {
            if head.facts.body.is_some_and(|length| length > most) {
                return Some(LocalAnswer::refusal(Refusal::BodyTooLarge, head.facts.grpc));
            }
            head.orders.max_body = head.orders.max_body.min(most);
        }
        self.inner.on_request(route, head)
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
    }
}

/// Bytes of target, authority, and names and values of fields.
fn size(head: &RequestHead<'_>) -> u64 {
    let fields = head.fields.iter().map(|(name, value)| name.len() + value.len());
    (head.target.len() + head.authority.len() + fields.sum::<usize>()) as u64
}
