//! What TrafficPolicies do to single requests, by what they are about.
//!
//! Of a Service or port, limits are kept by the sidecar of the Service, which sees all callers and knows who they are; of a
//! route, by the sidecar of the caller, which is where routes are. Faults are made by the caller's sidecar.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::kind::Kinds;
use super::offload::Offloads;
use super::{Making, Report, check, http, offload};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::filter::{FaultAbort, RateLimitPer};
use crate::resource::meta::TargetRef;
use crate::resource::policy::TrafficPolicySpec;
use crate::resource::route::{GrpcRouteSpec, HttpRouteSpec};
use crate::resource::{self, GATEWAY_GROUP, Spec};
use crate::snapshot::filter::{Abort, Fault, Per, RateLimit, Share, SizeLimits, limits};
use crate::snapshot::{Action, Route};

/// What one policy says of single requests.
#[derive(Clone, Default)]
pub(super) struct Shape {
    rate_limits: Option<Vec<RateLimit>>,
    sizes: SizeLimits,
    fault: Option<Fault>,
}

/// One of a policy's `targetRefs` that names a route.
#[derive(Clone)]
pub(super) struct RouteTarget {
    /// Its place among them.
    pub(super) index: usize,
    /// What stands for the route; see [`route_name`].
    pub(super) route: ServiceName,
    /// The name of a rule. None: all of them.
    pub(super) rule: Option<Arc<str>>,
}

impl RouteTarget {
    /// What number `index` of a policy's `targetRefs` leads to, which names a route and stands at `at`.
    pub(super) fn of(
        index: usize,
        target: &TargetRef,
        at: &At<'_>,
        namespace: &str,
    ) -> Result<RouteTarget, ConfigError> {
        if target.group.as_deref() != Some(GATEWAY_GROUP) {
            let error = at.field("group").error(format!("an {} is of another group", kind(target)));
            return Err(error.hint(format!("write `group: {GATEWAY_GROUP}`")));
        }
        if target.port.is_some() {
            return Err(at.field("port").error("a route has no ports").hint("name a rule by `sectionName`"));
        }
        let route = named_route(target, namespace);
        Ok(RouteTarget { index, route, rule: target.section_name.as_deref().map(Arc::from) })
    }
}

/// Whether what a policy is about is a route that policies can be about.
pub(super) fn names_route(target: &TargetRef) -> bool {
    [HttpRouteSpec::KIND, GrpcRouteSpec::KIND].contains(&kind(target))
}

/// What stands for the route that a policy in `namespace` is about.
pub(super) fn named_route(target: &TargetRef, namespace: &str) -> ServiceName {
    of_kind(kind(target), namespace, &target.name)
}

fn kind(target: &TargetRef) -> &str {
    target.kind.as_deref().unwrap_or_default()
}

/// What stands for a route where Services are named. No Service is called so.
pub(super) fn route_name<S: Spec>(route: &Loaded<S>) -> ServiceName {
    of_kind(S::KIND, route.namespace(), route.name())
}

/// The same for a route of this kind and name.
pub(super) fn of_kind(kind: &str, namespace: &str, name: &str) -> ServiceName {
    ServiceName::new(namespace, &format!("{kind}/{name}"))
}

/// Whether it stands for a route.
pub(super) fn is_route(name: &ServiceName) -> bool {
    name.name.contains('/')
}

impl Shape {
    /// What a policy says, each part valid by itself.
    pub(super) fn of(spec: &TrafficPolicySpec, at: &At<'_>, report: &mut Report) -> Self {
        let rate_limits = spec.rate_limits.as_ref().map(|limits| {
            let at = at.field("rateLimits");
            report.ok(check::at_most(&at, limits.len(), MAX_RATE_LIMITS));
            let limits = limits.iter().enumerate().take(MAX_RATE_LIMITS);
            let mut found: Vec<RateLimit> = Vec::new();
            for (index, limit) in limits {
                let at = at.index(index);
                let Some(limit) = report.ok(rate_limit(limit, &at)) else { continue };
                if found.contains(&limit) {
                    report.error(at.error("the same limit is there already"));
                }
                found.push(limit);
            }
            found
        });
        for (field, limit) in
            [("maxRequestBytes", spec.max_request_bytes), ("maxHeaderBytes", spec.max_header_bytes)]
        {
            if limit == Some(0) {
                let error = at.field(field).error("no request is so small");
                report.error(error.hint("leave the field out for no limit"));
            }
        }
        let sizes = SizeLimits { head: spec.max_header_bytes, body: spec.max_request_bytes };
        let fault = spec.fault.as_ref().and_then(|said| fault(said, &at.field("fault"), report));
        Shape { rate_limits, sizes, fault }
    }

    /// Whether limits go by who calls.
    pub(super) fn is_per_identity(&self) -> bool {
        self.rate_limits.iter().flatten().any(|limit| limit.per == Per::Identity)
    }

    /// Takes what `narrower` says in place of what is said here.
    fn narrow(&mut self, narrower: &Shape) {
        let Shape { rate_limits, sizes, fault } = narrower;
        if rate_limits.is_some() {
            self.rate_limits.clone_from(rate_limits);
        }
        self.sizes.head = sizes.head.or(self.sizes.head);
        self.sizes.body = sizes.body.or(self.sizes.body);
        if fault.is_some() {
            self.fault.clone_from(fault);
        }
    }

    /// What guards against too many or too large requests.
    fn guards(&self) -> impl Iterator<Item = Action> {
        limits(self.sizes, self.rate_limits.iter().flatten().cloned())
    }

    fn faults(&self) -> Option<Action> {
        self.fault.clone().map(Action::Fault)
    }
}

/// What is said of a Service and its ports: by port, or by nothing for all of them.
pub(super) type ByPort<'m> = BTreeMap<Option<u16>, &'m Shape>;

/// Applies what is said of a Service and its ports.
pub(super) fn apply(said: &ByPort<'_>, ports: &mut [Making<'_>]) {
    for port in ports {
        let mut shape = Shape::default();
        for narrower in [None, Some(port.draft.key.port)].iter().filter_map(|about| said.get(about)) {
            shape.narrow(narrower);
        }
        port.guards = shape.guards().collect();
        port.faults = shape.faults();
    }
}

/// What policies say of one route: by rule, or by nothing for all of them.
pub(super) struct ByRule<'m> {
    said: BTreeMap<Option<&'m str>, (&'m TrafficPolicySpec, &'m Shape)>,
    offloads: Offloads<'m>,
}

impl<'m> ByRule<'m> {
    /// What they say of the route that `name` stands for.
    pub(super) fn of(name: &ServiceName, kinds: &'m Kinds) -> Self {
        let mut found = BTreeMap::new();
        for (policy, said) in kinds.traffic_policies.about(name) {
            for target in said.routes.iter().filter(|target| target.route == *name) {
                let spec = (&policy.resource.spec, &said.shape);
                found.entry(target.rule.as_deref()).or_insert(spec);
            }
        }
        ByRule { said: found, offloads: Offloads::of(name, kinds) }
    }

    /// Has a match of a rule do as they say; `faults`: what is said of the port.
    pub(super) fn apply(&self, route: &mut Route, faults: Option<&Action>) {
        let label = route.name.clone();
        let rule = label.rsplit('/').next();
        // What is answered by the sidecar itself runs nowhere.
        if !route.backends.is_empty() {
            route.offload = self.offloads.of_rule(rule);
        }
        if self.said.is_empty() && faults.is_none() {
            return;
        }
        let mut shape = Shape::default();
        let (mut limit, mut priority) = (None, None);
        for (spec, narrower) in [None, rule].iter().filter_map(|about| self.said.get(about)) {
            shape.narrow(narrower);
            limit = spec.request_timeout.or(limit);
            priority = spec.priority.or(priority);
        }
        let faults = shape.faults().or_else(|| faults.cloned());
        let own = std::mem::take(&mut route.actions);
        route.actions = shape.guards().chain(faults).chain(own).collect();
        route.request_timeout = route.request_timeout.or(limit.map(resource::Duration::limit));
        route.priority = priority.unwrap_or_default();
    }
}

/// Judges the policies about a route, which has these rules if it is there.
pub(super) fn judge(name: &ServiceName, rules: Option<&[Arc<str>]>, kinds: &Kinds, report: &mut Report) {
    let traffic = kinds.traffic_policies.about(name);
    judge_targets(name, rules, traffic.iter().map(|(policy, said)| (*policy, &*said.routes)), report);
    let offload = kinds.offload_policies.about(name);
    judge_targets(name, rules, offload.iter().map(|(policy, said)| (*policy, &***said)), report);
    offload.iter().for_each(|(policy, _)| offload::judge(policy, kinds, report));
}

/// Of two policies of one kind about one thing, the later is at fault.
fn judge_targets<'m, S: Spec + 'm>(
    name: &ServiceName,
    rules: Option<&[Arc<str>]>,
    policies: impl Iterator<Item = (&'m Loaded<S>, &'m [RouteTarget])>,
    report: &mut Report,
) {
    let mut places: BTreeMap<Option<&str>, At<'_>> = BTreeMap::new();
    for (policy, targets) in policies {
        for target in targets.iter().filter(|target| target.route == *name) {
            let at = policy.spec().field("targetRefs").index(target.index);
            match (rules, &target.rule) {
                (None, _) => report.error(at.field("name").error(format!("there is no {}", written(name)))),
                (Some(rules), Some(rule)) if !rules.contains(rule) => {
                    let error = at.field("sectionName");
                    let error = error.error(format!("{} has no rule `{rule}`", written(name)));
                    report.error(error.hint(format!("its rules are: {}", rules.join(", "))));
                }
                _ => {}
            }
            if let Some(first) = places.get(&target.rule.as_deref()) {
                let rule = target.rule.as_ref().map(|rule| format!("rule `{rule}` of ")).unwrap_or_default();
                let error = at.error(format!(
                    "{rule}{} has a{} {} already",
                    written(name),
                    article(S::KIND),
                    S::KIND
                ));
                report.error(error.hint(format!("the first is at {}", first.place())));
            } else {
                places.insert(target.rule.as_deref(), at);
            }
        }
    }
}

/// What makes `a` fit before a kind.
fn article(kind: &str) -> &'static str {
    if kind.starts_with(['A', 'O']) { "n" } else { "" }
}

/// `HTTPRoute default/reviews`.
fn written(name: &ServiceName) -> String {
    let (kind, own) = name.name.split_once('/').unwrap_or_default();
    format!("{kind} {}/{own}", name.namespace)
}

fn rate_limit(limit: &resource::filter::RateLimit, at: &At<'_>) -> Result<RateLimit, ConfigError> {
    let at_least_one = |field: &str, number: u32| match number {
        0 => Err(at.field(field).error("at least 1")),
        number => Ok(number),
    };
    let requests = at_least_one("requests", limit.requests)?;
    let interval = limit.interval.map_or(std::time::Duration::from_secs(1), |interval| interval.0);
    if interval.is_zero() || interval > MOST_INTERVAL {
        return Err(at.field("interval").error("an interval is from 1ms to 24h"));
    }
    let header = match (limit.per, &limit.header) {
        (RateLimitPer::Header, Some(name)) => {
            check::header_name(&at.field("header"), name)?;
            Some(name.to_ascii_lowercase())
        }
        (RateLimitPer::Header, None) => return Err(at.error("missing field `header`")),
        (_, Some(_)) => {
            return Err(at.field("header").error("this field goes with `per: Header` only"));
        }
        (_, None) => None,
    };
    let per = match (limit.per, header) {
        (_, Some(header)) => Per::Header(header.into()),
        (RateLimitPer::Identity, None) => Per::Identity,
        _ => Per::All,
    };
    if limit.max_keys.is_some() && per == Per::All {
        return Err(at.field("maxKeys").error("all requests share one limit: there are no keys"));
    }
    let default = if per == Per::All { 1 } else { DEFAULT_KEYS };
    let max_keys = at_least_one("maxKeys", limit.max_keys.unwrap_or(default))?;
    if max_keys > MOST_KEYS {
        return Err(at.field("maxKeys").error(format!("at most {MOST_KEYS}")));
    }
    let burst = at_least_one("burst", limit.burst.unwrap_or(requests))?;
    Ok(RateLimit { requests, interval, burst, per, max_keys })
}

fn fault(said: &resource::filter::Fault, at: &At<'_>, report: &mut Report) -> Option<Fault> {
    if said.delay.is_none() && said.abort.is_none() {
        report.error(at.error("the fault does nothing").hint("give it `delay` or `abort`"));
    }
    let delay = said.delay.as_ref().and_then(|delay| {
        let at = at.field("delay");
        if delay.duration.0.is_zero() || delay.duration.0 > MOST_DELAY {
            report.error(at.field("duration").error("a delay is from 1ms to 1h"));
        }
        Some((delay.duration.0, report.ok(share(delay.percent, &at.field("percent")))?))
    });
    let abort = said.abort.as_ref().and_then(|abort| {
        let at = at.field("abort");
        let share = report.ok(share(abort.percent, &at.field("percent")));
        Some((report.ok(self::abort(abort, &at))?, share?))
    });
    let headers = http::headers(&said.headers, &at.field("headers"), report)?;
    Some(Fault { delay, abort, headers })
}

fn abort(said: &FaultAbort, at: &At<'_>) -> Result<Abort, ConfigError> {
    match (said.http_status, said.grpc_status) {
        (Some(status @ 400..=599), None) => Ok(Abort::Http(status)),
        (None, Some(status @ 1..=16)) => Ok(Abort::Grpc(status)),
        (Some(_), Some(_)) => Err(at.field("grpcStatus").error("there is `httpStatus` already")),
        (None, None) => Err(at.error("missing field `httpStatus`").hint("or `grpcStatus`")),
        (Some(status), None) => {
            let error = at.field("httpStatus").error(format!("{status} is not the status of a failure"));
            Err(error.hint("from 400 to 599"))
        }
        (None, Some(status)) => {
            let error = at.field("grpcStatus").error(format!("{status} is not the status of a failure"));
            Err(error.hint("from 1 to 16"))
        }
    }
}

fn share(percent: Option<f64>, at: &At<'_>) -> Result<Share, ConfigError> {
    let percent = percent.unwrap_or(100.0);
    if !(0.0..=100.0).contains(&percent) {
        return Err(at.error(format!("{percent} is no share of all")).hint("from 0 to 100 percent"));
    }
    // Within the range, so it fits.
    Ok(Share((percent * 10_000.0).round() as u32))
}

/// Most rate limits of one policy. Each costs every request something.
const MAX_RATE_LIMITS: usize = 8;
const MOST_INTERVAL: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
const MOST_DELAY: std::time::Duration = std::time::Duration::from_secs(3600);
const DEFAULT_KEYS: u32 = 4096;
/// Most keys of one limit: 16 bytes each.
pub(crate) const MOST_KEYS: u32 = 1_000_000;
