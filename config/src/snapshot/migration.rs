//! What a Migration says, with every default filled in.

use std::sync::Arc;
use std::time::Duration;

use crate::name::ServiceName;

/// A stateless Service is to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Which Service.
    pub service: ServiceName,
    /// The instance where it is.
    pub from: Arc<str>,
    /// The instance where it goes.
    pub to: Arc<str>,
    /// How long the new place may take to be registered and healthy.
    pub prepare: Duration,
    /// How long callers may take to hear of it.
    pub switch: Duration,
    /// How long what runs at the old place is waited for.
    pub drain: Duration,
}
