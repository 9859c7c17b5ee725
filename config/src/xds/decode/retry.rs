//! What is tried again, from Envoy's RetryPolicy.
//!
//! A condition that is not known is passed over: without it, less is tried again. What narrows the requests that are is
//! not.

use std::sync::Arc;
use std::time::Duration;

use super::{duration, unsupported};
use crate::build::check as checks;
use crate::build::retry::{is_code, sorted};
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::retry::MAX_ATTEMPTS;
use crate::snapshot::{GrpcStatus, Retry, RetryBudget, RetryOn};
use crate::xds::encode::retry as words;
use crate::xds::wire::envoy::config::cluster::v3::CircuitBreakers;
use crate::xds::wire::envoy::config::route::v3 as wire;
use crate::xds::wire::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use wire::header_matcher::HeaderMatchSpecifier;
use wire::retry_policy::{ResetHeader, ResetHeaderFormat};

/// What `policy` tries again.
pub(super) fn policy(policy: &wire::RetryPolicy, at: &At<'_>) -> Result<Retry, ConfigError> {
    let otherwise = Retry::default();
    let has = |word: &str| policy.retry_on.split(',').any(|known| known.trim() == word);
    let on = RetryOn {
        connect_failure: has("connect-failure") || has("refused-stream"),
        reset: has("reset"),
        gateway_error: has("gateway-error"),
        server_error: has("5xx"),
    };
    let codes = match has("retriable-status-codes") {
        true => codes(&policy.retriable_status_codes, &at.field("retriable_status_codes"))?,
        false => Vec::new(),
    };
    let grpc = GrpcStatus::ALL.into_iter().filter(|status| has(words::grpc(*status))).collect();
    let at_limit = at.field("per_try_timeout");
    let try_timeout = policy.per_try_timeout.as_ref().map(|limit| duration(limit, &at_limit)).transpose()?;
    let (backoff, backoff_max) = backoff(policy, &at.field("retry_back_off"))?;
    let retry = Retry {
        // More would be of no use, and is taken for as many as there can be.
        attempts: policy.num_retries.map_or(otherwise.attempts, |count| {
            u8::try_from(count).unwrap_or(MAX_ATTEMPTS).min(MAX_ATTEMPTS)
        }),
        on,
        codes,
        grpc,
        methods: methods(&policy.retriable_request_headers, &at.field("retriable_request_headers"))?,
        try_timeout: try_timeout.filter(|limit| !limit.is_zero()),
        backoff,
        backoff_max,
        retry_after: retry_after(policy, &at.field("rate_limited_retry_back_off"))?,
    };
    Ok(retry.plain())
}

/// The budget that `breakers` have for requests of the default priority.
pub(super) fn budget(breakers: &CircuitBreakers, at: &At<'_>) -> Result<Option<RetryBudget>, ConfigError> {
    let of_default = breakers.thresholds.iter().enumerate().find(|(_, threshold)| threshold.priority == 0);
    let Some((index, threshold)) = of_default else { return Ok(None) };
    let Some(budget) = &threshold.retry_budget else { return Ok(None) };
    let at = at.field("thresholds").index(index).field("retry_budget").field("budget_percent");
    let otherwise = RetryBudget::default();
    let percent = match budget.budget_percent.as_ref().map(|percent| percent.value) {
        None => otherwise.percent,
        // A part of a percent is cut off.
        Some(percent) if (0.0..=100.0).contains(&percent) => percent as u8,
        Some(_) => return Err(at.error("from 0 to 100")),
    };
    let min_per_second = budget.min_retry_concurrency.unwrap_or(otherwise.min_per_second);
    Ok(Some(RetryBudget { percent, min_per_second }))
}

fn codes(codes: &[u32], at: &At<'_>) -> Result<Vec<u16>, ConfigError> {
    checks::at_most(at, codes.len(), checks::MAX_ITEMS)?;
    let code = |(index, code): (usize, &u32)| {
        let known = u16::try_from(*code).ok().filter(|code| is_code(*code));
        let error = || at.index(index).error(format!("{code} is not the status of a failure"));
        known.ok_or_else(|| error().hint("from 400 to 599"))
    };
    let codes = codes.iter().enumerate().map(code).collect::<Result<Vec<_>, _>>()?;
    Ok(sorted(codes.into_iter()))
}

fn methods(matchers: &[wire::HeaderMatcher], at: &At<'_>) -> Result<Option<Vec<Arc<str>>>, ConfigError> {
    checks::at_most(at, matchers.len(), checks::MAX_ITEMS)?;
    let method = |(index, matcher): (usize, &wire::HeaderMatcher)| {
        let said = match &matcher.header_match_specifier {
            Some(HeaderMatchSpecifier::ExactMatch(method)) => Some(method),
            Some(HeaderMatchSpecifier::StringMatch(matcher)) if !matcher.ignore_case => {
                match &matcher.match_pattern {
                    Some(MatchPattern::Exact(method)) => Some(method),
                    _ => None,
                }
            }
            _ => None,
        };
        let said = said.filter(|_| matcher.name == ":method" && !matcher.invert_match);
        let method = said.ok_or_else(|| unsupported(&at.index(index), "match `:method` exactly"))?;
        Ok(Arc::from(method.as_str()))
    };
    let methods = matchers.iter().enumerate().map(method).collect::<Result<Vec<_>, ConfigError>>()?;
    Ok((!methods.is_empty()).then(|| sorted(methods.into_iter())))
}

fn backoff(policy: &wire::RetryPolicy, at: &At<'_>) -> Result<(Duration, Duration), ConfigError> {
    let otherwise = Retry::default();
    let Some(said) = &policy.retry_back_off else { return Ok((otherwise.backoff, otherwise.backoff_max)) };
    let at_base = at.field("base_interval");
    let base = said.base_interval.as_ref().map(|base| duration(base, &at_base)).transpose()?;
    let base = base.unwrap_or(otherwise.backoff);
    if base.is_zero() {
        return Err(at_base.error("a pause takes some time"));
    }
    let at_max = at.field("max_interval");
    let max = said.max_interval.as_ref().map(|max| duration(max, &at_max)).transpose()?;
    let max = max.unwrap_or(Retry::longest_pause(base));
    match max < base {
        true => Err(at_max.error("shorter than `base_interval`")),
        false => Ok((base, max)),
    }
}

/// Only `Retry-After` is read, in seconds; other fields would have to be told from each other by what they mean.
fn retry_after(policy: &wire::RetryPolicy, at: &At<'_>) -> Result<Option<Duration>, ConfigError> {
    let Some(said) = &policy.rate_limited_retry_back_off else { return Ok(None) };
    let is_known = |header: &ResetHeader| {
        header.name.eq_ignore_ascii_case("retry-after")
            && header.format == i32::from(ResetHeaderFormat::Seconds)
    };
    if !said.reset_headers.iter().any(is_known) {
        return Ok(None);
    }
    let at = at.field("max_interval");
    let most = said.max_interval.as_ref().map(|most| duration(most, &at)).transpose()?;
    // As Envoy has it where it is not said.
    let most = most.unwrap_or(Duration::from_secs(300));
    Ok((!most.is_zero()).then_some(most))
}
