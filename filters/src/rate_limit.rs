//! A limit of rate: so many requests in a time, for all of them together, for each caller or for each value of a header.

use std::sync::Arc;

use lighter_config::snapshot::Route;
use lighter_config::snapshot::filter::Per;
use tower::Layer;

use crate::bucket::Buckets;
use crate::filter::Filter;
use crate::head::{LocalAnswer, Refusal, RequestHead, ResponseHead};

/// Makes [`RateLimit`] around a filter.
pub struct RateLimitLayer {
    per: Per,
    buckets: Arc<Buckets>,
}

/// Refuses what comes too fast.
pub struct RateLimit<S> {
    per: Per,
    buckets: Arc<Buckets>,
    inner: S,
}

impl RateLimitLayer {
    /// A layer that takes a token of `buckets` for each request.
    pub fn new(per: &Per, buckets: Arc<Buckets>) -> Self {
        RateLimitLayer { per: per.clone(), buckets }
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit { per: self.per.clone(), buckets: self.buckets.clone(), inner }
    }
}

impl<S: Filter> Filter for RateLimit<S> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        let key = match &self.per {
            Per::All => b"",
            Per::Identity => head.facts.caller.as_bytes(),
            Per::Header(name) => head.value(name.as_bytes()).unwrap_or_default(),
        };
        let Err(wait) = self.buckets.take(key, head.facts.now) else {
            return self.inner.on_request(route, head);
        };
        // In whole seconds, and not before there is a token.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let mut answer = LocalAnswer::refusal(Refusal::RateLimited, head.facts.grpc);
        answer.fields.push(("retry-after".to_string(), seconds.max(1).to_string().into_bytes()));
        Some(answer)
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
    }
}
