//! What is counted of Redis.

use std::sync::OnceLock;

use lighter_config::name::ServicePort;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

use super::session::Pin;
use crate::telemetry::Direction;

/// Counters of one port's sessions, as one of them has them.
pub(super) struct Counts {
    direction: &'static str,
    service: String,
    port: String,
    commands: Counter,
    /// Why the session stays where it is at the moment.
    pinned: Option<Pin>,
}

/// What became of a try to give a session another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reattachment {
    /// It has one.
    Done,
    /// There is nobody to connect to.
    Unreached,
    /// The server does not take the session as it was.
    Refused,
}

impl Counts {
    /// Of a session with this port, which is not pinned.
    pub(super) fn of(direction: Direction, key: &ServicePort) -> Self {
        describe();
        let (direction, service, port) = (direction.label(), key.service.to_string(), key.port.to_string());
        let commands = counter!(
            "lighter_redis_commands_total",
            "direction" => direction, "service" => service.clone(), "port" => port.clone()
        );
        Counts { direction, service, port, commands, pinned: None }
    }

    /// A command went to a server.
    pub(super) fn command(&self) {
        self.commands.increment(1);
    }

    /// A session was, or was not, given another connection, on which so many commands were said again.
    pub(super) fn reattached(&self, outcome: Reattachment, replayed: u32) {
        let outcome = match outcome {
            Reattachment::Done => "done",
            Reattachment::Unreached => "unreached",
            Reattachment::Refused => "refused",
        };
        counter!(
            "lighter_redis_reattachments_total",
            "direction" => self.direction, "service" => self.service.clone(), "port" => self.port.clone(), "outcome" => outcome
        )
        .increment(1);
        self.count("lighter_redis_replayed_commands_total", u64::from(replayed));
    }

    /// So many commands had no answer when the server's connection ended.
    pub(super) fn unknown(&self, commands: u64) {
        self.count("lighter_redis_outcomes_unknown_total", commands);
    }

    /// A command was not executed.
    pub(super) fn refused(&self) {
        self.count("lighter_redis_commands_refused_total", 1);
    }

    /// What came was no RESP. `by`: who sent it.
    pub(super) fn malformed(&self, by: &'static str) {
        counter!(
            "lighter_redis_malformed_total",
            "direction" => self.direction, "service" => self.service.clone(), "port" => self.port.clone(), "by" => by
        )
        .increment(1);
    }

    /// Why the session stays where it is from now on; none: it does not. Returns whether that is new.
    pub(super) fn pinned(&mut self, now: Option<Pin>) -> bool {
        let before = std::mem::replace(&mut self.pinned, now);
        if before == now {
            return false;
        }
        if let Some(before) = before {
            self.gauge(before).decrement(1.0);
        }
        if let Some(now) = now {
            self.gauge(now).increment(1.0);
            counter!(
                "lighter_redis_pinned_total",
                "direction" => self.direction, "service" => self.service.clone(), "port" => self.port.clone(),
                "cause" => now.label()
            )
            .increment(1);
        }
        true
    }

    fn gauge(&self, cause: Pin) -> Gauge {
        gauge!(
            "lighter_redis_pinned",
            "direction" => self.direction, "service" => self.service.clone(), "port" => self.port.clone(),
            "cause" => cause.label()
        )
    }

    fn count(&self, name: &'static str, more: u64) {
        if more > 0 {
            let (service, port) = (self.service.clone(), self.port.clone());
            counter!(name, "direction" => self.direction, "service" => service, "port" => port)
                .increment(more);
        }
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        self.pinned(None);
    }
}

fn describe() {
    static DESCRIBED: OnceLock<()> = OnceLock::new();
    DESCRIBED.get_or_init(|| {
        describe_counter!("lighter_redis_commands_total", "Commands of Redis that went to a server.");
        describe_counter!(
            "lighter_redis_commands_refused_total",
            "Commands of Redis that were answered here as not executed."
        );
        describe_counter!(
            "lighter_redis_reattachments_total",
            "Times that a client's session with Redis was to go on over another connection to a server."
        );
        describe_counter!(
            "lighter_redis_replayed_commands_total",
            "Commands that were said again so that another connection is like the one before."
        );
        describe_counter!(
            "lighter_redis_outcomes_unknown_total",
            "Commands of Redis that had no answer when the connection to the server ended."
        );
        describe_counter!(
            "lighter_redis_malformed_total",
            "Connections that ended as what came on them was no RESP."
        );
        describe_counter!(
            "lighter_redis_pinned_total",
            "Times that a session with Redis began to stay where it was."
        );
        describe_gauge!("lighter_redis_pinned", "Sessions with Redis that stay where they are, by why.");
    });
}
