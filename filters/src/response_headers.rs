//! ResponseHeaderModifier: changes the headers of answers.

use std::borrow::Cow;

use lighter_config::snapshot::{HeaderChanges, Route};
use tower::Layer;

use crate::filter::Filter;
use crate::head::{LocalAnswer, RequestHead, ResponseHead, apply};

/// Makes [`ResponseHeaders`] around a filter.
pub struct ResponseHeadersLayer<'c>(&'c HeaderChanges);

/// Changes the headers of answers that come from the filter inside.
pub struct ResponseHeaders<S> {
    changes: HeaderChanges,
    inner: S,
}

impl<'c> ResponseHeadersLayer<'c> {
    /// A layer that makes these changes.
    pub fn new(changes: &'c HeaderChanges) -> Self {
        ResponseHeadersLayer(changes)
    }
}

impl<S> Layer<S> for ResponseHeadersLayer<'_> {
    type Service = ResponseHeaders<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResponseHeaders { changes: self.0.clone(), inner }
    }
}

impl<S: Filter> Filter for ResponseHeaders<S> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        Some(self.change(self.inner.on_request(route, head)?))
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        self.inner.on_response(head);
        apply(&self.changes, &mut head.fields);
    }
}

impl<S> ResponseHeaders<S> {
    /// The changes in an answer that a filter inside gave. Rare, so it may copy.
    fn change(&self, mut answer: LocalAnswer) -> LocalAnswer {
        let owned = |(name, value): (String, Vec<u8>)| (Cow::Owned(name.into_bytes()), Cow::Owned(value));
        let mut fields = std::mem::take(&mut answer.fields).into_iter().map(owned).collect();
        apply(&self.changes, &mut fields);
        let text = |name: Cow<'_, [u8]>| String::from_utf8_lossy(&name).into_owned();
        let fields = fields.into_iter().map(|(name, value)| (text(name), value.into_owned())).collect();
        LocalAnswer { fields, ..answer }
    }
}
