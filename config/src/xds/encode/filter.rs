//! What a route does beyond what a RouteAction can say: configurations of filters, for this route alone.
//!
//! Each may be left out by a reader that does not know it: clients of gRPC would refuse the whole table otherwise.

use std::collections::BTreeMap;

use prost_types::Any;

use super::{any, duration, millis, session};
use crate::snapshot::filter::{Abort, Fault, Mirror, Per, RateLimit, Share, SizeLimits};
use crate::snapshot::{Action, Route};
use crate::xds::type_url;
use crate::xds::wire::envoy::config::core::v3::RuntimeFractionalPercent;
use crate::xds::wire::envoy::config::route::v3::FilterConfig;
use crate::xds::wire::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use crate::xds::wire::envoy::extensions::filters::common::fault::v3::FaultDelay;
use crate::xds::wire::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use crate::xds::wire::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use crate::xds::wire::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use crate::xds::wire::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit;
use crate::xds::wire::envoy::r#type::v3::fractional_percent::DenominatorType;
use crate::xds::wire::envoy::r#type::v3::{FractionalPercent, TokenBucket};
use crate::xds::wire::lighter::config::v1 as lighter;

/// By the name of the filter.
pub(super) fn configurations(Route { actions, session, .. }: &Route) -> BTreeMap<String, Any> {
    let mut found = BTreeMap::new();
    let mut put = |name: &str, config: Any| {
        let config = FilterConfig { config: Some(config), is_optional: true, disabled: false };
        found.insert(name.to_string(), any(type_url::FILTER_CONFIG, &config));
    };
    let faults = actions.iter().find_map(|action| match action {
        Action::Fault(fault) => Some(fault),
        _ => None,
    });
    if let Some(fault) = faults {
        put("envoy.filters.http.fault", any(type_url::HTTP_FAULT, &http_fault(fault)));
    }
    let mut guards = guards(actions);
    // What Envoy can say is said in its words.
    if let [only] = &*rate_limits(actions).collect::<Vec<_>>()
        && only.per == Per::All
    {
        guards.rate_limits.clear();
        put("envoy.filters.http.local_ratelimit", any(type_url::LOCAL_RATE_LIMIT, &local(only)));
    }
    if guards != lighter::Guards::default() {
        put("lighter.guards", any(type_url::GUARDS, &guards));
    }
    if let Some(config) = session.as_deref().and_then(session::stateful) {
        put("envoy.filters.http.stateful_session", config);
    }
    if let Some(config) = session.as_deref().and_then(session::own) {
        put("lighter.session", config);
    }
    found
}

/// The limits among `actions`.
pub(super) fn guards(actions: &[Action]) -> lighter::Guards {
    let sizes = actions.iter().find_map(|action| match action {
        Action::SizeLimits(sizes) => Some(*sizes),
        _ => None,
    });
    let SizeLimits { head, body } = sizes.unwrap_or_default();
    let rate_limits = rate_limits(actions).map(rate_limit).collect();
    lighter::Guards { rate_limits, max_head_bytes: head, max_body_bytes: body }
}

/// Copies of requests, in words of a RouteAction.
pub(super) fn mirror(Mirror { target, share }: &Mirror) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster: target.to_string(),
        runtime_fraction: runtime(*share),
        cluster_header: String::new(),
        disable_shadow_host_suffix_append: true,
    }
}

fn rate_limits(actions: &[Action]) -> impl Iterator<Item = &RateLimit> {
    actions.iter().filter_map(|action| match action {
        Action::RateLimit(limit) => Some(limit),
        _ => None,
    })
}

fn rate_limit(limit: &RateLimit) -> lighter::RateLimit {
    let (per, header) = match &limit.per {
        Per::All => ("all", ""),
        Per::Identity => ("identity", ""),
        Per::Header(name) => ("header", &**name),
    };
    lighter::RateLimit {
        requests: limit.requests,
        interval_ms: millis(limit.interval),
        burst: limit.burst,
        per: per.to_string(),
        header: header.to_string(),
        max_keys: limit.max_keys,
    }
}

fn local(limit: &RateLimit) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "lighter".to_string(),
        token_bucket: Some(TokenBucket {
            max_tokens: limit.burst,
            tokens_per_fill: Some(limit.requests),
            fill_interval: Some(duration(limit.interval)),
        }),
        filter_enabled: runtime(Share::ALL),
        filter_enforced: runtime(Share::ALL),
        descriptors: Vec::new(),
        rate_limited_as_resource_exhausted: true,
    }
}

fn http_fault(fault: &Fault) -> HttpFault {
    let delay = fault.delay.map(|(delay, share)| FaultDelay {
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay))),
        percentage: Some(percent(share)),
    });
    let abort = fault.abort.map(|(abort, share)| FaultAbort {
        error_type: Some(match abort {
            Abort::Http(status) => ErrorType::HttpStatus(status.into()),
            Abort::Grpc(status) => ErrorType::GrpcStatus(status.into()),
        }),
        percentage: Some(percent(share)),
    });
    let headers = fault.headers.iter().map(super::route::header).collect();
    HttpFault { delay, abort, headers, ..HttpFault::default() }
}

fn runtime(share: Share) -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent { default_value: Some(percent(share)), runtime_key: String::new() })
}

fn percent(share: Share) -> FractionalPercent {
    FractionalPercent { numerator: share.0, denominator: DenominatorType::Million.into() }
}
