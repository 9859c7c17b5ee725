//! What a route can do to a request, one tower Layer a file.

use std::borrow::Cow;

use lighter_config::snapshot::{Action, Route};
use smallvec::SmallVec;

/// Header fields in order, names in the case in which they came.
pub type Fields<'a> = SmallVec<[(Cow<'a, [u8]>, Cow<'a, [u8]>); 24]>;

/// A request's head on its way through a chain. Borrowed until something is changed.
pub struct RequestHead<'a> {
    /// `GET`.
    pub method: Cow<'a, [u8]>,
    /// `http` or `https`, as the caller knows it.
    pub scheme: &'static str,
    /// Path and query as they came.
    pub target: Cow<'a, [u8]>,
    /// Host or :authority.
    pub authority: Cow<'a, [u8]>,
    /// Every other field.
    pub fields: Fields<'a>,
}

/// A response's head on its way back through a chain.
pub struct ResponseHead<'a> {
    /// The status.
    pub status: u16,
    /// Every field.
    pub fields: Fields<'a>,
}

/// An answer that a filter gives itself.
#[derive(Debug, PartialEq, Eq)]
pub struct LocalAnswer {
    /// The status.
    pub status: u16,
    /// Fields beside Content-Length.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// What one route does to its requests.
pub struct Chain {}

impl Chain {
    /// The chain of `actions`, in order.
    pub fn new(_actions: &[Action]) -> Self {
        unimplemented!()
    }

    /// Whether nothing is done, so that the engine need not build the head types at all.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }

    /// Whether answers are changed.
    pub fn changes_response(&self) -> bool {
        unimplemented!()
    }

    /// Changes the request, or answers it.
    pub fn on_request(&self, _route: &Route, _head: &mut RequestHead<'_>) -> Option<LocalAnswer> {
        unimplemented!()
    }

    /// Changes the answer.
    pub fn on_response(&self, _head: &mut ResponseHead<'_>) {
        unimplemented!()
    }
}
