//! URLRewrite: changes host and path before a request goes on.

use std::borrow::Cow;

use lighter_config::snapshot::Route;
use lighter_config::snapshot::route::Rewrite as Change;
use tower::Layer;

use crate::filter::Filter;
use crate::head::{LocalAnswer, RequestHead, ResponseHead};
use crate::path;

/// Makes [`Rewrite`] around a filter.
pub struct RewriteLayer<'c>(&'c Change);

/// Changes host and path of requests, then calls the filter inside.
pub struct Rewrite<S> {
    change: Change,
    inner: S,
}

impl<'c> RewriteLayer<'c> {
    /// A layer that makes this change.
    pub fn new(change: &'c Change) -> Self {
        RewriteLayer(change)
    }
}

impl<S> Layer<S> for RewriteLayer<'_> {
    type Service = Rewrite<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Rewrite { change: self.0.clone(), inner }
    }
}

impl<S: Filter> Filter for Rewrite<S> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        if let Some(hostname) = &self.change.hostname {
            head.authority = Cow::Borrowed(hostname.as_bytes());
        }
        // `*` and an empty target (OPTIONS, CONNECT) have no path that could be changed.
        if let Some(change) = &self.change.path
            && head.target.first() == Some(&b'/')
        {
            head.target = path::change(&head.target, change);
        }
        self.inner.on_request(route, head)
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
    }
}
