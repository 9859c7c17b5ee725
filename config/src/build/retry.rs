//! What is tried again: by TrafficPolicies, and by rules of HTTPRoutes over them.

use std::time::Duration;

use super::{Report, check as checks};
use crate::document::At;
use crate::resource::Duration as Limit;
use crate::resource::policy::TrafficPolicySpec;
use crate::resource::retry::{Condition, GrpcRouteRetry, HttpRouteRetry, Retry as RetrySpec};
use crate::resource::route::{HttpRouteRule, Method};
use crate::snapshot::retry::MAX_ATTEMPTS;
use crate::snapshot::{GrpcStatus, Retry, RetryOn, TrafficPolicy};

/// What a rule of an HTTPRoute or GRPCRoute says of other tries.
#[derive(Clone, Debug, Default)]
pub(super) struct OfRule {
    /// Whether it says which there are.
    says: bool,
    attempts: Option<u8>,
    codes: Vec<u16>,
    /// Of calls of gRPC.
    grpc: Option<Vec<GrpcStatus>>,
    backoff: Option<Duration>,
    try_timeout: Option<Option<Duration>>,
}

impl OfRule {
    /// The same with what `policy` says of all the rest.
    pub(super) fn over(self, policy: &Retry) -> Retry {
        let mut retry = policy.clone();
        retry.try_timeout = self.try_timeout.unwrap_or(retry.try_timeout);
        if !self.says {
            return retry.plain();
        }
        retry.attempts = self.attempts.unwrap_or(retry.attempts);
        match self.grpc {
            // A rule that says `retry` at all means what gave no answer (GEP-1731).
            None => retry.on = RetryOn { connect_failure: true, reset: true, ..retry.on },
            // To who calls, no answer is a status like others.
            Some(statuses) => {
                let gateway_error = retry.on.gateway_error || statuses.contains(&GrpcStatus::Unavailable);
                retry.on = RetryOn { connect_failure: true, gateway_error, ..retry.on };
                retry.grpc = statuses;
                retry.methods = Some(vec![Method::Post.as_str().into()]);
            }
        }
        if !self.codes.is_empty() {
            retry.codes = self.codes;
        }
        if let Some(base) = self.backoff {
            (retry.backoff, retry.backoff_max) = (base, Retry::longest_pause(base));
        }
        retry.plain()
    }
}

/// What `rule` says of other tries, if anything.
pub(super) fn of_rule(rule: &HttpRouteRule) -> Option<OfRule> {
    let try_timeout = rule.timeouts.as_ref().and_then(|timeouts| timeouts.backend_request);
    let try_timeout = try_timeout.map(Limit::limit);
    let retry = rule.retry.as_ref();
    (retry.is_some() || try_timeout.is_some()).then(|| OfRule {
        says: retry.is_some(),
        attempts: retry.and_then(|retry| retry.attempts),
        codes: retry.map_or(Vec::new(), |retry| sorted(retry.codes.iter().copied())),
        grpc: None,
        backoff: retry.and_then(|retry| retry.backoff).map(|base| base.0),
        try_timeout,
    })
}

/// The same of a rule of a GRPCRoute, whose `retry` this is.
pub(super) fn of_grpc_rule(retry: &GrpcRouteRetry) -> OfRule {
    let statuses = retry.codes.as_deref().unwrap_or(&[GrpcStatus::Unavailable]);
    OfRule {
        says: true,
        attempts: retry.attempts,
        grpc: Some(sorted(statuses.iter().copied())),
        backoff: retry.backoff.map(|base| base.0),
        ..OfRule::default()
    }
}

/// Checks what a rule says of time and of other tries.
pub(super) fn check_rule(rule: &HttpRouteRule, at: &At<'_>, report: &mut Report) {
    if let Some(timeouts) = &rule.timeouts {
        let (whole, one) = (timeouts.request, timeouts.backend_request);
        fits(one, whole, at, ["timeouts", "backendRequest"], report);
    }
    let Some(HttpRouteRetry { codes, attempts, backoff }) = &rule.retry else { return };
    let at = at.field("retry");
    check_attempts(*attempts, &at, report);
    check_codes(codes, &at, report);
    check_pause(*backoff, &at, report);
}

/// The same of a rule of a GRPCRoute, whose `retry` this is.
pub(super) fn check_grpc_rule(retry: &GrpcRouteRetry, at: &At<'_>, report: &mut Report) {
    let at = at.field("retry");
    check_attempts(retry.attempts, &at, report);
    let count = retry.codes.as_ref().map_or(0, Vec::len);
    report.ok(checks::at_most(&at.field("codes"), count, checks::MAX_ITEMS));
    check_pause(retry.backoff, &at, report);
}

/// Checks what a TrafficPolicy says of other tries.
pub(super) fn check(policy: &TrafficPolicySpec, at_policy: &At<'_>, report: &mut Report) {
    let Some(spec) = &policy.retry else { return };
    let at = at_policy.field("retry");
    check_attempts(spec.attempts, &at, report);
    check_codes(spec.codes.as_deref().unwrap_or_default(), &at, report);
    if let Some(statuses) = spec.grpc_statuses.as_ref().filter(|statuses| !statuses.is_empty()) {
        report.ok(checks::at_most(&at.field("grpcStatuses"), statuses.len(), checks::MAX_ITEMS));
        let methods = spec.methods.as_deref().unwrap_or_default();
        if !methods.iter().any(|method| matches!(method, Method::Post)) {
            let error = at.field("grpcStatuses").error("gRPC calls are POST, of which none is tried again");
            report.error(error.hint("if they may run twice, write `methods: [POST]` beside it"));
        }
    }
    for (index, method) in spec.methods.iter().flatten().enumerate() {
        if matches!(method, Method::Connect) {
            report.error(at.field("methods").index(index).error("a tunnel cannot be tried again"));
        }
    }
    let (whole, one) = (policy.request_timeout, spec.per_try_timeout);
    fits(one, whole, at_policy, ["retry", "perTryTimeout"], report);
    if let Some(backoff) = spec.backoff {
        let at = at.field("backoff");
        let base = backoff.base.map_or(Retry::default().backoff, |base| base.0);
        if base.is_zero() {
            report.error(at.field("base").error("a pause takes some time"));
        }
        if backoff.max.is_some_and(|max| max.0 < base) {
            let error = at.field("max").error("shorter than `base`");
            report.error(error.hint("`base` is 25ms where it is left out"));
        }
    }
    if let Some(percent) = spec.budget.and_then(|budget| budget.percent).filter(|percent| *percent > 100) {
        let at = at.field("budget").field("percent");
        report.error(at.error(format!("{percent} percent is more than all")));
    }
}

/// Writes what `spec` says into `policy`.
pub(super) fn fill_in(spec: &RetrySpec, policy: &mut TrafficPolicy) {
    policy.safe_retry = spec.safe.unwrap_or(policy.safe_retry);
    let retry = &mut policy.retry;
    retry.attempts = spec.attempts.unwrap_or(retry.attempts);
    if let Some(on) = &spec.on {
        retry.on = RetryOn {
            connect_failure: on.contains(&Condition::ConnectFailure),
            reset: on.contains(&Condition::Reset),
            gateway_error: on.contains(&Condition::GatewayError),
            server_error: on.contains(&Condition::ServerError),
        };
    }
    if let Some(codes) = &spec.codes {
        retry.codes = sorted(codes.iter().copied());
    }
    if let Some(statuses) = &spec.grpc_statuses {
        retry.grpc = sorted(statuses.iter().copied());
    }
    if let Some(methods) = &spec.methods {
        retry.methods = Some(sorted(methods.iter().map(|method| method.as_str().into())));
    }
    if let Some(limit) = spec.per_try_timeout {
        retry.try_timeout = limit.limit();
    }
    if let Some(backoff) = spec.backoff {
        retry.backoff = backoff.base.map_or(retry.backoff, |base| base.0);
        retry.backoff_max = backoff.max.map_or(Retry::longest_pause(retry.backoff), |max| max.0);
    }
    if let Some(most) = spec.retry_after {
        retry.retry_after = most.limit();
    }
    if let Some(budget) = spec.budget {
        policy.retry_budget.percent = budget.percent.unwrap_or(policy.retry_budget.percent);
        policy.retry_budget.min_per_second =
            budget.min_per_second.unwrap_or(policy.retry_budget.min_per_second);
    }
}

/// Whether a status code can call for another try.
pub(crate) fn is_code(code: u16) -> bool {
    (400..=599).contains(&code)
}

/// In order, each once.
pub(crate) fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

fn check_attempts(attempts: Option<u8>, at: &At<'_>, report: &mut Report) {
    if let Some(attempts) = attempts.filter(|attempts| *attempts > MAX_ATTEMPTS) {
        let error = at.field("attempts").error(format!("{attempts} other tries are too many"));
        report.error(error.hint(format!("at most {MAX_ATTEMPTS}")));
    }
}

fn check_pause(base: Option<Limit>, at: &At<'_>, report: &mut Report) {
    if base.is_some_and(|base| base.0.is_zero()) {
        report.error(at.field("backoff").error("a pause takes some time"));
    }
}

fn check_codes(codes: &[u16], at: &At<'_>, report: &mut Report) {
    let at = at.field("codes");
    report.ok(checks::at_most(&at, codes.len(), checks::MAX_ITEMS));
    for (index, code) in codes.iter().enumerate().filter(|(_, code)| !is_code(**code)) {
        let error = at.index(index).error(format!("{code} is not the status of a failure"));
        report.error(error.hint("from 400 to 599"));
    }
}

/// One try takes no longer than all of them, if both are limited.
fn fits(one: Option<Limit>, whole: Option<Limit>, at: &At<'_>, name: [&str; 2], report: &mut Report) {
    let (Some(one), Some(whole)) = (one.and_then(Limit::limit), whole.and_then(Limit::limit)) else { return };
    if one > whole {
        let at = at.field(name[0]).field(name[1]);
        report.error(at.error("one try may take longer than the whole request"));
    }
}
