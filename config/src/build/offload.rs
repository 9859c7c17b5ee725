//! OffloadPolicies, and what they say of routes together with the Functions and Devices that they name.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::device::has_dataset;
use super::kind::{FullName, Kind, Kinds, Refers};
use super::registered::DeviceInForce;
use super::shape::{self, RouteTarget};
use super::{Drafts, Report, check};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::device::DeviceSpec;
use crate::resource::function::{FunctionSpec, FunctionState};
use crate::resource::migration::MigrationSpec;
use crate::resource::offload::{self as resource, OffloadPolicySpec};
use crate::resource::{self as resources, Spec};
use crate::sidecar::DeviceClass;
use crate::snapshot::{Objective, Offload, OffloadDataset, OffloadDevice, PlaceProfile};
use crate::suggest::closest;

/// What stands for a Device or a Function where Services are named. No Service is called so, and no route.
pub(super) fn part<S: Spec>(namespace: &str, name: &str) -> ServiceName {
    shape::of_kind(S::KIND, namespace, name)
}

/// Whether it stands for a Device, a Function, or a Migration.
pub(super) fn is_part(name: &ServiceName) -> bool {
    let kind = name.name.split_once('/').map(|(kind, _)| kind);
    kind.is_some_and(|kind| [DeviceSpec::KIND, FunctionSpec::KIND, MigrationSpec::KIND].contains(&kind))
}

impl Refers for OffloadPolicySpec {
    type Said = Vec<RouteTarget>;

    fn about(policy: &Loaded<Self>) -> Vec<ServiceName> {
        let routes = policy.resource.spec.target_refs.iter().filter(|target| shape::names_route(target));
        routes.map(|target| shape::named_route(target, policy.namespace())).collect()
    }

    fn names(policy: &Loaded<Self>) -> Vec<ServiceName> {
        let (spec, namespace) = (&policy.resource.spec, policy.namespace());
        let named = spec.devices.iter().flatten().chain(&spec.host).map(String::as_str);
        // What stands for any of them is no name of one.
        let any = spec.devices.is_none().then_some("");
        let devices = named.chain(any).map(|device| part::<DeviceSpec>(namespace, device));
        devices.chain([part::<FunctionSpec>(namespace, &spec.function)]).collect()
    }

    fn follow(policy: &Loaded<Self>, _: &Drafts, report: &mut Report) -> Vec<RouteTarget> {
        let (spec, at) = (&policy.resource.spec, policy.spec());
        check(spec, &at, report);
        let at_targets = at.field("targetRefs");
        if spec.target_refs.is_empty() {
            report.error(at_targets.error("a policy has at least one target"));
        }
        let mut routes = Vec::new();
        for (index, target) in spec.target_refs.iter().enumerate() {
            let at = at_targets.index(index);
            if shape::names_route(target) {
                routes.extend(report.ok(RouteTarget::of(index, target, &at, policy.namespace())));
                continue;
            }
            let kind = target.kind.as_deref().unwrap_or("Service");
            let error = at.field("kind").error(format!("an OffloadPolicy cannot be about a `{kind}`"));
            report.error(error.hint("only about an `HTTPRoute` or a `GRPCRoute`"));
        }
        routes
    }
}

/// What policies say of one route: by rule, or by nothing for all of them.
pub(super) struct Offloads<'m>(BTreeMap<Option<&'m str>, Arc<Offload>>);

impl<'m> Offloads<'m> {
    /// What they say of the route that `name` stands for.
    pub(super) fn of(name: &ServiceName, kinds: &'m Kinds) -> Self {
        let mut found = BTreeMap::new();
        for (policy, routes) in kinds.offload_policies.about(name) {
            let targets = routes.iter().filter(|target| target.route == *name);
            let rules: Vec<Option<&str>> = targets.map(|target| target.rule.as_deref()).collect();
            // Where something is missing, that was reported.
            let Some(offload) = offload(policy, kinds).map(Arc::new) else { continue };
            for rule in rules {
                found.entry(rule).or_insert_with(|| offload.clone());
            }
        }
        Offloads(found)
    }

    /// What they say of a rule.
    pub(super) fn of_rule(&self, rule: Option<&str>) -> Option<Arc<Offload>> {
        rule.and_then(|rule| self.0.get(&Some(rule))).or_else(|| self.0.get(&None)).cloned()
    }
}

/// Judges what a policy names.
pub(super) fn judge(policy: &Loaded<OffloadPolicySpec>, kinds: &Kinds, report: &mut Report) {
    let (spec, at, namespace) = (&policy.resource.spec, policy.spec(), policy.namespace());
    let at_function = at.field("function");
    if let Some((function, _)) =
        report.ok(existing(&kinds.functions, namespace, &spec.function, &at_function))
    {
        let (name, at_dataset) = (function.name(), at.field("dataset"));
        match (function.resource.spec.state, &spec.dataset) {
            (FunctionState::Stateful, _) => {
                let error = at_function.error("a stateful function moves by migration, not by request");
                report.error(error.hint("name one that is `stateless` or `readOnly`"));
            }
            (FunctionState::ReadOnly, None) => {
                let error = at.error("missing field `dataset`");
                report.error(
                    error.hint(format!("`{name}` reads data: say which, so that devices read the same")),
                );
            }
            (FunctionState::Stateless, Some(_)) => {
                let error = at_dataset.error(format!("`{name}` reads no data"));
                report.error(error.hint("leave it out, or let the Function be `readOnly`"));
            }
            (FunctionState::ReadOnly, Some(_)) | (FunctionState::Stateless, None) => {}
        }
    }
    let written_class = |name: &str| {
        let device = kinds.devices.get(&FullName::new(namespace, name));
        device.map(|(device, _)| device.resource.spec.class)
    };
    for (index, name) in spec.devices.iter().flatten().enumerate().take(MAX_DEVICES) {
        if written_class(name) == Some(DeviceClass::Host) {
            let error = at.field("devices").index(index).error(format!("`{name}` is of class `host`"));
            report.error(error.hint("name it as `host`"));
        }
    }
    let Some(name) = &spec.host else { return };
    if written_class(name).is_some_and(|class| class != DeviceClass::Host) {
        let error = at.field("host").error(format!("`{name}` is not of class `host`"));
        report.error(error.hint("name it in `devices`"));
    }
}

/// What a policy uses that is not there now: instances register when they like, and until then requests stay where they are.
pub(super) fn lacks(policy: &Loaded<OffloadPolicySpec>, kinds: &Kinds) -> Vec<ConfigError> {
    let (spec, at, namespace) = (&policy.resource.spec, policy.spec(), policy.namespace());
    let mut lacks = Vec::new();
    let missing = |name: &str, at: &At<'_>| {
        let error = at.error(format!("there is no Device {namespace}/{name}"));
        let known = kinds.devices_in(namespace);
        match closest(name, known.iter().map(|known| &*known.name).take(MAX_SUGGESTED)) {
            Some(close) => {
                error.hint(format!("did you mean `{close}`? it is used once it registers, or is written"))
            }
            None => error.hint("it is used once it registers, or is written"),
        }
    };
    let class = |name: &str| kinds.device(&FullName::new(namespace, name)).map(|device| device.class);
    for (index, name) in spec.devices.iter().flatten().enumerate().take(MAX_DEVICES) {
        let at = at.field("devices").index(index);
        match class(name) {
            None => lacks.push(missing(name, &at)),
            Some(DeviceClass::Host) => {
                let error = at.error(format!("`{name}` has registered as one of class `host`"));
                lacks.push(error.hint("it is not used; name it as `host`"));
            }
            Some(_) => {}
        }
    }
    if spec.devices.is_none() {
        let count = selected(policy, kinds).count();
        let at = at.field("function");
        let wanted = match &spec.dataset {
            Some(dataset) => format!("`{}` and dataset {}@{}", spec.function, dataset.name, dataset.version),
            None => format!("`{}`", spec.function),
        };
        if count == 0 {
            let error = at.error(format!("there is no Device in {namespace} that holds {wanted}"));
            lacks.push(error.hint("those that do are used once they register, or are written"));
        } else if count > MAX_DEVICES {
            let error = at.error(format!("{count} Devices hold {wanted}: the first {MAX_DEVICES} are used"));
            lacks.push(error.hint("name the best in `devices`"));
        }
    }
    if let Some(name) = &spec.host {
        match class(name) {
            None => lacks.push(missing(name, &at.field("host"))),
            Some(DeviceClass::Host) => {}
            Some(_) => {
                let error =
                    at.field("host").error(format!("`{name}` has registered as one of another class"));
                lacks.push(error.hint("it is not used; name it in `devices`"));
            }
        }
    }
    lacks
}

/// The Devices that a policy uses that names none.
fn selected<'k>(
    policy: &'k Loaded<OffloadPolicySpec>,
    kinds: &'k Kinds,
) -> impl Iterator<Item = DeviceInForce> + 'k {
    let spec = &policy.resource.spec;
    let dataset = spec.dataset.as_ref().map(|wanted| (wanted.name.as_str(), wanted.version.as_str()));
    let devices = kinds.devices_in(policy.namespace()).into_iter().filter_map(|name| kinds.device(&name));
    devices.filter(move |device| device.can_run(&spec.function, dataset))
}

/// The resource of this name.
fn existing<'k, S: Refers>(
    kind: &'k Kind<S>,
    namespace: &str,
    name: &str,
    at: &At<'_>,
) -> Result<(&'k Loaded<S>, &'k S::Said), ConfigError> {
    kind.get(&FullName::new(namespace, name)).ok_or_else(|| {
        let error = at.error(format!("there is no {} {namespace}/{name}", S::KIND));
        match closest(name, kind.names_in(namespace).take(MAX_SUGGESTED)) {
            Some(close) => error.hint(format!("did you mean `{close}`?")),
            None => error,
        }
    })
}

/// What is wrong with a policy by itself.
fn check(spec: &OffloadPolicySpec, at: &At<'_>, report: &mut Report) {
    if let Some(devices) = &spec.devices {
        let at = at.field("devices");
        if devices.is_empty() || devices.len() > MAX_DEVICES {
            let error = at.error(format!("{} devices are named", devices.len()));
            report.error(error.hint(format!("from 1 to {MAX_DEVICES}; leave it out for all that fit")));
        }
        for (index, device) in devices.iter().enumerate().take(MAX_DEVICES) {
            report.ok(check::dns_name(&at.index(index), device));
            if devices[..index].contains(device) {
                report.error(at.index(index).error(format!("`{device}` stands there already")));
            }
        }
    }
    if let Some(host) = &spec.host {
        report.ok(check::dns_name(&at.field("host"), host));
    }
    if let Some(dataset) = &spec.dataset {
        let at = at.field("dataset");
        report.ok(check::data_name(&at.field("name"), &dataset.name));
        report.ok(check::data_name(&at.field("version"), &dataset.version));
        if dataset.bytes == 0 {
            report.error(at.field("bytes").error("at least 1").hint("how much a request reads of it"));
        }
    }
    let at_slo = at.field("slo");
    for (at, said) in [
        (at_slo.field("latency"), spec.slo.latency),
        (at_slo.field("window"), spec.slo.window),
        (at.field("tryTimeout"), spec.try_timeout),
    ] {
        if said.is_some_and(|said| !is_time(said.0)) {
            report.error(at.error("not from 1ms to 24h").hint("leave the field out for the default"));
        }
    }
    if let Some(percent) = spec.slo.miss_percent {
        report.ok(check_number(&at_slo.field("missPercent"), percent, &MISS_PERCENT));
    }
    for (field, said) in [("marginPercent", spec.margin_percent), ("explorePercent", spec.explore_percent)] {
        report.ok(said.map_or(Ok(0.0), |said| check_number(&at.field(field), said, &PERCENT)));
    }
}

/// What a policy comes to, if its function is there and any of its devices.
fn offload(policy: &Loaded<OffloadPolicySpec>, kinds: &Kinds) -> Option<Offload> {
    let (spec, namespace) = (&policy.resource.spec, policy.namespace());
    let named = |name: &String| kinds.device(&FullName::new(namespace, name));
    let (_, function) = kinds.functions.get(&FullName::new(namespace, &spec.function))?;
    let device = |device: DeviceInForce| {
        let held = |wanted: &resource::ReadDataset| has_dataset(&device.datasets, &wanted.name);
        Some(OffloadDevice {
            name: device.name.to_string().into(),
            has_function: device.is_active(&spec.function),
            dataset: spec.dataset.as_ref().and_then(held).map(Arc::from),
            target: device.target?,
            profile: device.profile,
        })
    };
    let devices: Vec<OffloadDevice> = match &spec.devices {
        Some(names) => names.iter().filter_map(named).filter_map(device).collect(),
        None => selected(policy, kinds).take(MAX_DEVICES).filter_map(device).collect(),
    };
    if devices.is_empty() {
        return None;
    }
    let host = spec.host.as_ref().and_then(named).filter(|host| host.class == DeviceClass::Host);
    let host = host.map_or(PlaceProfile::HOST, |host| host.profile);
    let time = |said: Option<resources::Duration>, default| said.map_or(default, |said| said.0);
    let share = |percent: Option<f64>, default| percent.unwrap_or(default) / 100.0;
    Some(Offload {
        policy: policy.full_name().to_string().into(),
        objective: spec.objective.map(objective).unwrap_or_default(),
        slo: time(spec.slo.latency, DEFAULT_SLO),
        miss_share: share(spec.slo.miss_percent, 1.0),
        window: time(spec.slo.window, DEFAULT_WINDOW),
        try_timeout: spec.try_timeout.map(|said| said.0),
        margin: share(spec.margin_percent, 10.0),
        explore_share: share(spec.explore_percent, 2.0),
        function: function.clone(),
        dataset: spec.dataset.as_ref().map(|dataset| OffloadDataset {
            name: dataset.name.as_str().into(),
            version: dataset.version.as_str().into(),
            bytes: dataset.bytes,
        }),
        host,
        devices,
    })
}

fn objective(said: resource::Objective) -> Objective {
    match said {
        resource::Objective::Latency => Objective::Latency,
        resource::Objective::Energy => Objective::Energy,
        resource::Objective::Bytes => Objective::Bytes,
    }
}

/// A number in its range, which those are not that are none.
pub(crate) fn check_number(
    at: &At<'_>,
    number: f64,
    range: &RangeInclusive<f64>,
) -> Result<f64, ConfigError> {
    if range.contains(&number) {
        return Ok(number);
    }
    let error = at.error(format!("{number} is out of range"));
    Err(error.hint(format!("from {} to {}", range.start(), range.end())))
}

/// A rate, if there is one.
pub(super) fn check_bytes_per_second(at: &At<'_>, rate: Option<u64>) -> Result<(), ConfigError> {
    match rate {
        Some(0) => Err(at.error("nothing would ever be done").hint("leave the field out for the default")),
        _ => Ok(()),
    }
}

/// Whether something can take, or be measured, so long.
pub(crate) fn is_time(time: Duration) -> bool {
    (Duration::from_millis(1)..=MOST_TIME).contains(&time)
}

const DEFAULT_SLO: Duration = Duration::from_millis(100);
const DEFAULT_WINDOW: Duration = Duration::from_secs(1);
const MOST_TIME: Duration = Duration::from_secs(24 * 3600);
const PERCENT: RangeInclusive<f64> = 0.0..=100.0;
/// No place is never late.
const MISS_PERCENT: RangeInclusive<f64> = 0.001..=100.0;
/// Most devices of one policy: every request thinks about each.
pub(crate) const MAX_DEVICES: usize = 32;
/// How many names are looked at for a "did you mean".
const MAX_SUGGESTED: usize = 1000;
