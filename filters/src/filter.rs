//! What every filter is: a [`tower::Layer`] that wraps a [`Filter`] in another.
//!
//! A filter looks at heads only, and never waits. So the call is a plain method with borrowed heads, not
//! `tower::Service`, whose future and owned request would cost every exchange an allocation.

use lighter_config::snapshot::Route;

use crate::head::{LocalAnswer, RequestHead, ResponseHead};

/// One link of a chain; it calls the next one inside it.
pub trait Filter: Send + Sync {
    /// Changes the request, or answers it. What is put into `head` may be borrowed from the filter.
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer>;

    /// Changes the answer.
    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>);
}

/// A filter of any type, as a chain holds it.
pub type Boxed = Box<dyn Filter>;

/// The innermost link: the request goes on as it is.
pub struct Upstream;

impl Filter for Upstream {
    fn on_request<'a>(&'a self, _: &'a Route, _: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        None
    }

    fn on_response<'a>(&'a self, _: &mut ResponseHead<'a>) {}
}

impl<F: Filter + ?Sized> Filter for Box<F> {
    fn on_request<'a>(&'a self, route: &'a Route, head: &mut RequestHead<'a>) -> Option<LocalAnswer> {
        (**self).on_request(route, head)
    }

    fn on_response<'a>(&'a self, head: &mut ResponseHead<'a>) {
        (**self).on_response(head);
    }
}
