//! By what a try reaches its endpoint: a connection of the pool, or a link to its sidecar.

use std::rc::Rc;

use lighter_config::snapshot::TrafficPolicy;

use super::call::Call;
use super::pool::Lease;
use super::{Downstream, answer};
use crate::balance::{Endpoint, Picked};
use crate::error::{Cause, ProxyError};
use crate::http::stream::{Broken, Stream};
use crate::link::connection::Link;
use crate::link::halves;
use crate::stateful::moved::Keeps;

/// The way to an endpoint, with room for one stream.
pub(crate) enum Way {
    Http2(Lease),
    Link(Rc<Link>),
}

impl Way {
    /// Finds it. Waits where there is no room.
    pub(crate) async fn find(
        downstream: &Downstream,
        policy: &TrafficPolicy,
        picked: &Picked,
    ) -> Result<Self, ProxyError> {
        let (worker, endpoint) = (&downstream.context.worker, &*picked.endpoint);
        let direction = picked.direction(downstream.context.direction);
        match endpoint.link() {
            Some((secure, address)) => {
                worker.links.link(worker, secure, address, policy.connect_timeout).await.map(Way::Link)
            }
            None => worker.http2.lease(worker, direction, endpoint, policy).await.map(Way::Http2),
        }
    }

    /// Sends the request's head to `endpoint`. `end`: nothing is behind it. An error means that nothing was sent.
    pub(crate) fn open(
        &self,
        call: &mut Call<'_>,
        endpoint: &Endpoint,
        end: bool,
    ) -> Result<Stream, ProxyError> {
        call.refresh_deadline();
        match self {
            Way::Http2(lease) => {
                call.keeps = None;
                lease.upstream().send(&call.head, end).map(Stream::Http2).map_err(|_| {
                    ProxyError::new(Cause::UpstreamClosed, "the connection was lost before the request")
                        .safe()
                })
            }
            Way::Link(link) => {
                let left = call.limits.left();
                let keeps = Keeps::is_said_over(&mut call.keeps, call.attempts, link);
                let opened = halves::open(link, &endpoint.name, &call.head, left, (end, keeps));
                opened.map(Stream::Link).map_err(|cut| answer::before_head(Broken::Link(cut)))
            }
        }
    }

    /// Whether a sidecar of the mesh is at its other end for certain.
    pub(crate) fn is_link(&self) -> bool {
        matches!(self, Way::Link(_))
    }

    /// Gives the stream up.
    pub(crate) fn cancel(self, stream: Stream) {
        match (self, stream) {
            (Way::Http2(lease), Stream::Http2(stream)) => lease.cancel(stream),
            (_, stream) => stream.cancel(),
        }
    }

    /// The stream was refused unread. Whether that says more of the connection than of the stream.
    pub(crate) fn was_crowded(&self) -> bool {
        match self {
            Way::Http2(lease) => lease.was_crowded(),
            Way::Link(_) => false,
        }
    }
}
