//! What is tried again, in the words of Envoy's RetryPolicy.

use std::sync::Arc;

use super::duration;
use super::route::exact;
use crate::snapshot::{GrpcStatus, Retry, RetryBudget};
use crate::xds::wire::envoy::config::cluster::v3::{CircuitBreakers, circuit_breakers};
use crate::xds::wire::envoy::config::route::v3 as wire;
use crate::xds::wire::envoy::r#type::v3::Percent;
use circuit_breakers::{Thresholds, thresholds};
use wire::header_matcher::HeaderMatchSpecifier;
use wire::retry_policy::{RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat, RetryBackOff};

/// `retry` as a RetryPolicy.
pub(in crate::xds) fn policy(retry: &Retry) -> wire::RetryPolicy {
    let method = |method: &Arc<str>| wire::HeaderMatcher {
        name: ":method".to_string(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(method))),
        ..Default::default()
    };
    let waited = |most| RateLimitedRetryBackOff {
        reset_headers: vec![ResetHeader {
            name: "Retry-After".to_string(),
            format: ResetHeaderFormat::Seconds.into(),
        }],
        max_interval: Some(duration(most)),
    };
    wire::RetryPolicy {
        retry_on: conditions(retry).join(","),
        num_retries: Some(retry.attempts.into()),
        per_try_timeout: retry.try_timeout.map(duration),
        retriable_status_codes: retry.codes.iter().map(|code| u32::from(*code)).collect(),
        retry_back_off: Some(RetryBackOff {
            base_interval: Some(duration(retry.backoff)),
            max_interval: Some(duration(retry.backoff_max)),
        }),
        retriable_request_headers: retry.methods.iter().flatten().map(method).collect(),
        rate_limited_retry_back_off: retry.retry_after.map(waited),
    }
}

/// The budget as a Cluster has it; none: it is the default.
pub(super) fn budget(budget: &RetryBudget) -> Option<CircuitBreakers> {
    if *budget == RetryBudget::default() {
        return None;
    }
    let budget = thresholds::RetryBudget {
        budget_percent: Some(Percent { value: budget.percent.into() }),
        min_retry_concurrency: Some(budget.min_per_second),
    };
    Some(CircuitBreakers {
        thresholds: vec![Thresholds { retry_budget: Some(budget), ..Default::default() }],
    })
}

fn conditions(retry: &Retry) -> Vec<&'static str> {
    let mut words = Vec::new();
    let on = retry.on;
    for (is_on, word) in [
        (on.connect_failure, "connect-failure"),
        (on.connect_failure, "refused-stream"),
        (on.reset, "reset"),
        (on.gateway_error, "gateway-error"),
        (on.server_error, "5xx"),
        (!retry.codes.is_empty(), "retriable-status-codes"),
    ] {
        words.extend(is_on.then_some(word));
    }
    words.extend(retry.grpc.iter().map(|status| grpc(*status)));
    words
}

/// What Envoy and gRPC call a status where they try again by it.
pub(in crate::xds) fn grpc(status: GrpcStatus) -> &'static str {
    match status {
        GrpcStatus::Cancelled => "cancelled",
        GrpcStatus::DeadlineExceeded => "deadline-exceeded",
        GrpcStatus::ResourceExhausted => "resource-exhausted",
        GrpcStatus::Internal => "internal",
        GrpcStatus::Unavailable => "unavailable",
    }
}
