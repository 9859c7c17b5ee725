//! RequestHeaderModifier: changes the headers of requests.

use lighter_config::snapshot::{HeaderChanges, Route};
use tower::Layer;

use crate::filter::Filter;
use crate::head::{LocalAnswer, RequestHead, ResponseHead, apply};

/// Makes [`RequestHeaders`] around a filter.
pub struct RequestHeadersLayer<'c>(&'c HeaderChanges);

/// Changes the headers of requests, then calls the filter inside.
pub struct RequestHeaders<S> {
    changes: HeaderChanges,
    inner: S,
}

impl<'c> RequestHeadersLayer<'c> {
    /// A layer that makes these changes.
    pub fn new(changes: &'c HeaderChanges) -> Self {
        RequestHeadersLayer(changes)
    }
}

impl<S> Layer<S> for RequestHeadersLayer<'_> {
    type Service = RequestHeaders<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestHeaders { changes: self.0.clone(), inner }
    }
}

impl<S: Filter> Filter for RequestHeaders<S> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        apply(&self.changes, &mut head.fields);
        self.inner.on_request(route, head)
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
    }
}
