//! The filters of one route, one around the other.

use lighter_config::snapshot::{Action, Route};
use tower::Layer;

use crate::fault::FaultLayer;
use crate::filter::{Boxed, Filter, Upstream};
use crate::head::{LocalAnswer, RequestHead, ResponseHead};
use crate::memory::Memory;
use crate::mirror::MirrorLayer;
use crate::rate_limit::RateLimitLayer;
use crate::redirect::RedirectLayer;
use crate::request_headers::RequestHeadersLayer;
use crate::response_headers::ResponseHeadersLayer;
use crate::rewrite::RewriteLayer;
use crate::size_limits::SizeLimitsLayer;

/// What one route does to its requests; by default nothing.
#[derive(Default)]
pub struct Chain {
    /// None when nothing is done.
    outermost: Option<Boxed>,
    changes_response: bool,
}

impl Chain {
    /// The chain of `actions`: the first sees a request first and its answer last, except that answers' headers are
    /// always changed outermost, so that a filter's own answer is changed as well. What it counts, it shares with all
    /// chains of the same `scope` in `memory`.
    pub fn new(actions: &[Action], scope: &str, memory: &Memory) -> Self {
        let is_outer = |action: &&Action| matches!(action, Action::ResponseHeaders(_));
        let outer = actions.iter().filter(is_outer);
        let inner = actions.iter().filter(|action| !is_outer(action));
        // They are numbered as they stand, and come from behind here.
        let mut mirrors = actions.iter().filter(|action| matches!(action, Action::Mirror(_))).count() as u32;
        let outermost = outer.chain(inner).rev().fold(None, |inside: Option<Boxed>, action| {
            let inside = inside.unwrap_or_else(|| Box::new(Upstream));
            Some(match action {
                Action::RequestHeaders(changes) => Box::new(RequestHeadersLayer::new(changes).layer(inside)),
                Action::ResponseHeaders(changes) => {
                    Box::new(ResponseHeadersLayer::new(changes).layer(inside))
                }
                Action::Redirect(redirect) => Box::new(RedirectLayer::new(redirect).layer(inside)),
                Action::Rewrite(rewrite) => Box::new(RewriteLayer::new(rewrite).layer(inside)),
                Action::RateLimit(limit) => {
                    Box::new(RateLimitLayer::new(&limit.per, memory.buckets(scope, limit)).layer(inside))
                }
                Action::SizeLimits(limits) => Box::new(SizeLimitsLayer::new(*limits).layer(inside)),
                Action::Mirror(mirror) => {
                    mirrors -= 1;
                    Box::new(MirrorLayer::new(mirrors, mirror.share).layer(inside))
                }
                Action::Fault(fault) => Box::new(FaultLayer::new(fault).layer(inside)),
            })
        });
        Chain { outermost, changes_response: actions.iter().any(|action| is_outer(&action)) }
    }

    /// Whether nothing is done, so that the engine need not build the head types at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.outermost.is_none()
    }

    /// Whether answers are changed.
    #[inline]
    pub fn changes_response(&self) -> bool {
        self.changes_response
    }

    /// Changes the request, or answers it. `route` is the one whose actions made this chain. An answer given here has
    /// been through [`on_response`](Self::on_response) already.
    pub fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        self.outermost.as_ref()?.on_request(route, head)
    }

    /// Changes the answer.
    pub fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        if let Some(outermost) = &self.outermost {
            outermost.on_response(head);
        }
    }
}
