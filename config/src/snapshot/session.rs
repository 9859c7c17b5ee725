//! How requests of one session find the endpoint of the first one again.

use std::sync::Arc;
use std::time::Duration;

/// How requests of one session find the endpoint of the first one again.
#[derive(Clone, Debug, PartialEq)]
pub struct Persistence {
    /// Of the cookie, or of the header in lower case.
    pub name: Arc<str>,
    /// What carries the value.
    pub carrier: Carrier,
    /// How long a session lasts; whole seconds, at least one.
    pub absolute: Option<Duration>,
    /// How long it lasts without a request; whole seconds, at least one.
    pub idle: Option<Duration>,
}

/// What carries the value of a session.
#[derive(Clone, Debug, PartialEq)]
pub enum Carrier {
    /// A cookie.
    Cookie {
        /// Of which paths it is. Empty: what the client makes of the path that it asked for.
        path: Arc<str>,
        /// The client keeps it for as long as the session can last, which is limited then.
        permanent: bool,
    },
    /// A header of answers and requests.
    Header,
}
