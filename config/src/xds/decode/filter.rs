//! What filters are told for one route: faults and limits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use prost_types::Any;

use super::{duration, matching, missing, session, unsupported};
use crate::build::check;
use crate::build::shape::MOST_KEYS;
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::filter::{Abort, Fault, Mirror, Per, RateLimit, Share, SizeLimits, limits};
use crate::snapshot::{Action, Persistence};
use crate::xds::wire::envoy::config::core::v3::RuntimeFractionalPercent;
use crate::xds::wire::envoy::config::route::v3::FilterConfig;
use crate::xds::wire::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use crate::xds::wire::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use crate::xds::wire::envoy::extensions::filters::http::fault::v3::HttpFault;
use crate::xds::wire::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use crate::xds::wire::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use crate::xds::wire::envoy::r#type::v3::FractionalPercent;
use crate::xds::wire::envoy::r#type::v3::fractional_percent::DenominatorType;
use crate::xds::wire::lighter::config::v1 as lighter;
use crate::xds::{names, type_url};

/// What filters do for one route.
pub(super) struct OfRoute {
    pub(super) actions: Vec<Action>,
    pub(super) session: Option<Arc<Persistence>>,
}

/// The same as it is told. What is not known must not be overlooked, unless the server says that it may be.
pub(super) fn of_route(configs: &BTreeMap<String, Any>, at: &At<'_>) -> Result<OfRoute, ConfigError> {
    let mut rates = Vec::new();
    let (mut sizes, mut fault) = (SizeLimits::default(), None);
    let (mut stateful, mut own) = (None, None);
    for (name, any) in configs {
        let at = at.field(name);
        let Some(Told { any, may_be_left_out }) = told(any, &at)? else { continue };
        match any.type_url.as_str() {
            type_url::HTTP_FAULT => fault = Some(http_fault(&open(&any, &at)?, &at)?),
            type_url::LOCAL_RATE_LIMIT => rates.extend(local(&open(&any, &at)?, &at)?),
            type_url::GUARDS => {
                let guards: lighter::Guards = open(&any, &at)?;
                sizes = self::sizes(&guards, &at)?;
                rates.extend(rate_limits(&guards, &at)?);
            }
            type_url::STATEFUL_SESSION => stateful = session::stateful(&any, &at)?,
            type_url::SESSION => own = Some(session::own(&any, &at)?),
            _ if may_be_left_out => {}
            _ => return Err(unsupported(&at, "say `is_optional` if requests may go on without it")),
        }
    }
    let actions = limits(sizes, rates).chain(fault.map(Action::Fault)).collect();
    // Lighter's own says more.
    Ok(OfRoute { actions, session: own.or(stateful).map(Arc::new) })
}

/// Copies of requests.
pub(super) fn mirrors(policies: &[RequestMirrorPolicy], at: &At<'_>) -> Result<Vec<Action>, ConfigError> {
    check::at_most(at, policies.len(), check::MAX_ITEMS)?;
    let mirror = |(index, policy): (usize, &RequestMirrorPolicy)| {
        let at = at.index(index);
        if policy.cluster.is_empty() || !policy.cluster_header.is_empty() {
            return Err(unsupported(&at, "send `cluster`"));
        }
        // Absent: all of them.
        let fraction = policy.runtime_fraction.as_ref();
        let share = fraction.map(|part| runtime_share(Some(part), &at.field("runtime_fraction")));
        let share = share.transpose()?.unwrap_or(Share::ALL);
        Ok(Action::Mirror(Mirror { target: names::of_cluster(&policy.cluster), share }))
    };
    policies.iter().enumerate().map(mirror).collect()
}

/// What filters are told for many routes or for a part of one. Nothing is known of that.
pub(super) fn of_others(configs: &BTreeMap<String, Any>, at: &At<'_>) -> Result<(), ConfigError> {
    for (name, any) in configs {
        let at = at.field(name);
        if told(any, &at)?.is_some_and(|told| !told.may_be_left_out) {
            return Err(unsupported(&at, "say `is_optional` if requests may go on without it"));
        }
    }
    Ok(())
}

/// The limits of a port.
pub(super) fn guards(guards: &lighter::Guards, at: &At<'_>) -> Result<Vec<Action>, ConfigError> {
    Ok(limits(sizes(guards, at)?, rate_limits(guards, at)?).collect())
}

/// What a filter is told.
struct Told {
    any: Any,
    may_be_left_out: bool,
}

/// None: nothing, since it is switched off.
fn told(any: &Any, at: &At<'_>) -> Result<Option<Told>, ConfigError> {
    if any.type_url != type_url::FILTER_CONFIG {
        return Ok(Some(Told { any: any.clone(), may_be_left_out: false }));
    }
    let config: FilterConfig = open(any, at)?;
    let any = config.config.unwrap_or_default();
    Ok((!config.disabled).then_some(Told { any, may_be_left_out: config.is_optional }))
}

pub(super) fn open<M: Message + Default>(any: &Any, at: &At<'_>) -> Result<M, ConfigError> {
    M::decode(&*any.value).map_err(|error| at.error(format!("no message: {error}")))
}

fn http_fault(fault: &HttpFault, at: &At<'_>) -> Result<Fault, ConfigError> {
    if !fault.upstream_cluster.is_empty()
        || !fault.downstream_nodes.is_empty()
        || !fault.response_rate_limit.is_empty()
    {
        return Err(unsupported(at, "`delay`, `abort` and `headers` are"));
    }
    let delay = fault.delay.as_ref().map(|delay| {
        let at = at.field("delay");
        let Some(FaultDelaySecifier::FixedDelay(fixed)) = &delay.fault_delay_secifier else {
            return Err(unsupported(&at, "send `fixed_delay`"));
        };
        let fixed = duration(fixed, &at.field("fixed_delay"))?;
        Ok((fixed, share(delay.percentage.as_ref(), &at.field("percentage"))?))
    });
    let abort = fault.abort.as_ref().map(|abort| {
        let at = at.field("abort");
        let answer = match abort.error_type {
            Some(ErrorType::HttpStatus(status @ 200..=599)) => Abort::Http(status as u16),
            Some(ErrorType::GrpcStatus(status @ 1..=16)) => Abort::Grpc(status as u8),
            _ => return Err(unsupported(&at, "send `http_status` or `grpc_status`")),
        };
        Ok((answer, share(abort.percentage.as_ref(), &at.field("percentage"))?))
    });
    let headers = matching::headers(&fault.headers, &at.field("headers"))?;
    Ok(Fault { delay: delay.transpose()?, abort: abort.transpose()?, headers })
}

/// None: it limits nothing.
fn local(limit: &LocalRateLimit, at: &At<'_>) -> Result<Option<RateLimit>, ConfigError> {
    if !limit.descriptors.is_empty() {
        return Err(unsupported(&at.field("descriptors"), "send `token_bucket` alone"));
    }
    for (field, part) in
        [("filter_enabled", &limit.filter_enabled), ("filter_enforced", &limit.filter_enforced)]
    {
        let at = at.field(field);
        match runtime_share(part.as_ref(), &at)? {
            Share(0) => return Ok(None),
            Share::ALL => {}
            _ => return Err(unsupported(&at, "all requests, or none")),
        }
    }
    let at = at.field("token_bucket");
    let bucket = limit.token_bucket.as_ref().ok_or_else(|| missing(&at))?;
    let at_interval = at.field("fill_interval");
    let interval = bucket.fill_interval.as_ref().ok_or_else(|| missing(&at_interval))?;
    let interval = duration(interval, &at_interval)?;
    rate_limit(bucket.tokens_per_fill.unwrap_or(1), interval, bucket.max_tokens, Per::All, 1, &at).map(Some)
}

fn rate_limits(guards: &lighter::Guards, at: &At<'_>) -> Result<Vec<RateLimit>, ConfigError> {
    let at = at.field("rate_limits");
    check::at_most(&at, guards.rate_limits.len(), check::MAX_ITEMS)?;
    let limit = |(index, limit): (usize, &lighter::RateLimit)| {
        let at = at.index(index);
        let per = match limit.per.as_str() {
            "all" => Per::All,
            "identity" => Per::Identity,
            "header" => {
                check::header_name(&at.field("header"), &limit.header)?;
                Per::Header(limit.header.to_ascii_lowercase().into())
            }
            other => {
                let error = at.field("per").error(format!("`{}` is not known", other.escape_debug()));
                return Err(error.hint("`all`, `identity` or `header`"));
            }
        };
        let interval = Duration::from_millis(limit.interval_ms);
        rate_limit(limit.requests, interval, limit.burst, per, limit.max_keys, &at)
    };
    guards.rate_limits.iter().enumerate().map(limit).collect()
}

fn rate_limit(
    requests: u32,
    interval: Duration,
    burst: u32,
    per: Per,
    max_keys: u32,
    at: &At<'_>,
) -> Result<RateLimit, ConfigError> {
    let good = requests > 0
        && burst > 0
        && (1..=MOST_KEYS).contains(&max_keys)
        && !interval.is_zero()
        && interval <= MOST_INTERVAL;
    if !good {
        return Err(at
            .error("no limit of rate")
            .hint("every number is at least 1, and an interval at most a day"));
    }
    let max_keys = if per == Per::All { 1 } else { max_keys };
    Ok(RateLimit { requests, interval, burst, per, max_keys })
}

fn sizes(guards: &lighter::Guards, at: &At<'_>) -> Result<SizeLimits, ConfigError> {
    if guards.max_head_bytes == Some(0) || guards.max_body_bytes == Some(0) {
        return Err(at.error("no request is so small"));
    }
    Ok(SizeLimits { head: guards.max_head_bytes, body: guards.max_body_bytes })
}

/// Absent: none at all.
fn runtime_share(part: Option<&RuntimeFractionalPercent>, at: &At<'_>) -> Result<Share, ConfigError> {
    share(part.and_then(|part| part.default_value.as_ref()), &at.field("default_value"))
}

/// Absent: none at all, as Envoy has it.
fn share(part: Option<&FractionalPercent>, at: &At<'_>) -> Result<Share, ConfigError> {
    let Some(part) = part else { return Ok(Share(0)) };
    let each = match DenominatorType::try_from(part.denominator) {
        Ok(DenominatorType::Hundred) => 10_000,
        Ok(DenominatorType::TenThousand) => 100,
        Ok(DenominatorType::Million) => 1,
        Err(_) => return Err(unsupported(&at.field("denominator"), "a hundred, ten thousand or a million")),
    };
    // More than all is all.
    Ok(Share(part.numerator.saturating_mul(each).min(Share::ALL.0)))
}

const MOST_INTERVAL: Duration = Duration::from_secs(24 * 3600);
