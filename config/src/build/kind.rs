//! All resources of one kind that refer to Services, with what they were found to say.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::registered::Registered;
use super::{Drafts, Report, offload, reference, shape};
use crate::document::At;
use crate::error::ConfigError;
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::Spec;
use crate::resource::authorization::AuthorizationPolicySpec;
use crate::resource::device::DeviceSpec;
use crate::resource::function::FunctionSpec;
use crate::resource::link::LinkPolicySpec;
use crate::resource::migration::MigrationSpec;
use crate::resource::offload::OffloadPolicySpec;
use crate::resource::policy::{MeshPolicySpec, TrafficPolicySpec};
use crate::resource::route::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec};
use crate::shared::SharedMap;

/// Namespace and name of a resource of any kind.
pub(super) type FullName = ServiceName;

/// A kind of resource that refers to Services.
pub(super) trait Refers: Spec + Clone {
    /// What a resource says, once its references are followed.
    type Said: Clone;

    /// The Services that it is about: those that are others because of it. [`ServiceName::nobody`] stands for the mesh.
    fn about(written: &Loaded<Self>) -> Vec<ServiceName>;

    /// The Services that it names beside.
    fn names(_: &Loaded<Self>) -> Vec<ServiceName> {
        Vec::new()
    }

    /// Follows its references. Looks at nothing of `drafts` but at the Services of [`Refers::about`] and
    /// [`Refers::names`]; only what is wrong with a reference may depend on others, for a hint.
    fn follow(written: &Loaded<Self>, drafts: &Drafts, report: &mut Report) -> Self::Said;
}

/// All that refers to Services, by kind.
#[derive(Clone, Default)]
pub(super) struct Kinds {
    pub(super) http_routes: Kind<HttpRouteSpec>,
    pub(super) grpc_routes: Kind<GrpcRouteSpec>,
    pub(super) tcp_routes: Kind<TcpRouteSpec>,
    pub(super) traffic_policies: Kind<TrafficPolicySpec>,
    pub(super) mesh_policies: Kind<MeshPolicySpec>,
    pub(super) link_policies: Kind<LinkPolicySpec>,
    pub(super) authorization_policies: Kind<AuthorizationPolicySpec>,
    pub(super) devices: Kind<DeviceSpec>,
    pub(super) functions: Kind<FunctionSpec>,
    pub(super) offload_policies: Kind<OffloadPolicySpec>,
    pub(super) migrations: Kind<MigrationSpec>,
    /// What instances register, by Service.
    pub(super) registered: SharedMap<ServiceName, Arc<Registered>>,
}

impl Kinds {
    /// Judges the policies about routes that are touched, of which either may be new or gone, and touches the Services of
    /// those routes in their place. A Device or Function that is touched touches the routes of the policies that name it.
    pub(super) fn judge_routes(&mut self, touched: &mut BTreeSet<ServiceName>, report: &mut Report) {
        let parts: Vec<ServiceName> = touched.extract_if(.., offload::is_part).collect();
        let has_parts = !parts.is_empty();
        for name in parts {
            touched.extend(self.offload_policies.referring(&name).flat_map(OffloadPolicySpec::about));
        }
        let routes: Vec<ServiceName> = touched.extract_if(.., shape::is_route).collect();
        let mut policies = BTreeSet::new();
        if has_parts {
            // What is missed may have a name like one that is there.
            policies.extend(self.offload_policies.warned.keys().cloned());
        }
        for name in routes {
            let about = self.offload_policies.about(&name);
            policies.extend(about.into_iter().map(|(policy, _)| policy.full_name()));
            let http = self.http_routes.about(&name).pop().map(|(route, _)| {
                let rules = route.resource.spec.rules.iter().map(|rule| rule.name.as_deref());
                (HttpRouteSpec::about(route), reference::rules(rules))
            });
            let grpc = self.grpc_routes.about(&name).pop().map(|(route, _)| {
                let rules = route.resource.spec.rules.iter().map(|rule| rule.name.as_deref());
                (GrpcRouteSpec::about(route), reference::rules(rules))
            });
            let found = http.or(grpc);
            shape::judge(&name, found.as_ref().map(|(_, rules)| &**rules), self, report);
            let about = found.into_iter().flat_map(|(about, _)| about);
            touched.extend(about.filter(|name| !shape::is_route(name)));
        }
        for name in policies {
            let policy = self.offload_policies.get(&name);
            let lacks = policy.map(|(policy, _)| offload::lacks(policy, self)).unwrap_or_default();
            self.offload_policies.warn(&name, lacks);
        }
    }
}

/// Does the same to every kind.
macro_rules! every_kind {
    ($kinds:expr, |$kind:ident| $do:expr) => {
        every_kind!($kinds, |$kind| $do; http_routes grpc_routes tcp_routes traffic_policies mesh_policies
            link_policies authorization_policies devices functions offload_policies migrations)
    };
    ($kinds:expr, |$kind:ident| $do:expr; $($field:ident)+) => {{
        let $crate::build::kind::Kinds { $($field),+, .. } = $kinds;
        $({ let $kind = $field; $do; })+
    }};
}
pub(super) use every_kind;

/// One resource.
#[derive(Clone)]
pub(super) struct Unit<S: Refers> {
    pub(super) written: Arc<Loaded<S>>,
    order: Order,
    /// None: it was not looked at yet.
    said: Option<S::Said>,
    warnings: Vec<ConfigError>,
    /// Those that other resources of the kind's own sort give rise to, found when they are judged together.
    beside: Vec<ConfigError>,
}

/// Where two resources cannot both be, the later is at fault. Of two that are stored, the one that is later by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// It was read from a file, as the so manieth.
    File(usize),
    /// It is kept in a store.
    Stored,
    /// It is pushed now, as the so manieth.
    Pushed(usize),
}

/// All resources of a kind. Copies share what is the same.
#[derive(Clone)]
pub(super) struct Kind<S: Refers> {
    units: SharedMap<FullName, Arc<Unit<S>>>,
    /// By Service, who refers to it, and whether it is about that Service.
    referrers: SharedMap<(ServiceName, FullName), bool>,
    /// Those of which something is to be warned.
    warned: SharedMap<FullName, ()>,
    /// Those that have to be looked at.
    stale: BTreeSet<FullName>,
    /// Those whose name another has, which comes first. This is a fault; what else is wrong with them is to be told, too.
    surplus: Vec<Arc<Loaded<S>>>,
}

impl<S: Refers> Default for Kind<S> {
    fn default() -> Self {
        Kind {
            units: SharedMap::default(),
            referrers: SharedMap::default(),
            warned: SharedMap::default(),
            stale: BTreeSet::new(),
            surplus: Vec::new(),
        }
    }
}

impl<S: Refers> Kind<S> {
    /// Whether it is the kind of this name.
    pub(super) fn is(&self, kind: &str) -> bool {
        kind == S::KIND
    }

    /// Adds a resource. Of two with one name, the later is at fault.
    pub(super) fn put(
        &mut self,
        written: &Arc<Loaded<S>>,
        order: Order,
        touched: &mut BTreeSet<ServiceName>,
        report: &mut Report,
    ) {
        let name = written.full_name();
        if let Some(known) = self.units.get(&name).cloned() {
            let known_first = known.order <= order;
            let (first, later) =
                if known_first { (&known.written, written) } else { (written, &known.written) };
            report.error(later.surplus(first));
            self.surplus.push(later.clone());
            if known_first {
                return;
            }
            self.remove(&name, touched);
        }
        let about = S::about(written);
        for service in S::names(written) {
            self.referrers.insert((service, name.clone()), false);
        }
        for service in &about {
            self.referrers.insert((service.clone(), name.clone()), true);
        }
        touched.extend(about);
        self.stale.insert(name.clone());
        let unit =
            Unit { written: written.clone(), order, said: None, warnings: Vec::new(), beside: Vec::new() };
        self.units.insert(name, Arc::new(unit));
    }

    /// Removes a resource, if it is there.
    pub(super) fn remove(&mut self, name: &FullName, touched: &mut BTreeSet<ServiceName>) {
        let Some(unit) = self.units.remove(name) else { return };
        let about = S::about(&unit.written);
        for service in about.iter().cloned().chain(S::names(&unit.written)) {
            self.referrers.remove(&(service, name.clone()));
        }
        touched.extend(about);
        self.warned.remove(name);
        self.stale.remove(name);
    }

    /// Has everything looked at again that refers to a Service.
    pub(super) fn reshaped(&mut self, service: &ServiceName) {
        let referrers: Vec<FullName> = self.referrers_of(service).map(|(name, _)| name.clone()).collect();
        self.stale.extend(referrers);
    }

    /// Has everything looked at again of which something is warned: a hint goes by what other names there are.
    pub(super) fn renamed(&mut self) {
        self.stale.extend(self.warned.keys().cloned());
    }

    /// Follows the references of all that has to be looked at. The Services that it is about are touched.
    pub(super) fn follow(
        &mut self,
        drafts: &Drafts,
        touched: &mut BTreeSet<ServiceName>,
        report: &mut Report,
    ) {
        for name in std::mem::take(&mut self.stale) {
            let Some(unit) = self.units.get_mut(&name) else { continue };
            let mut found = Report::default();
            let said = Some(S::follow(&unit.written, drafts, &mut found));
            touched.extend(S::about(&unit.written));
            report.errors.append(&mut found.errors);
            match found.warnings.is_empty() {
                true => drop(self.warned.remove(&name)),
                false => drop(self.warned.insert(name, ())),
            }
            let (warnings, beside) = (found.warnings, Vec::new());
            *unit = Arc::new(Unit { said, warnings, beside, ..Unit::clone(unit) });
        }
        for written in std::mem::take(&mut self.surplus) {
            S::follow(&written, drafts, report);
        }
    }

    /// What is said about a Service, in order.
    pub(super) fn about(&self, service: &ServiceName) -> Vec<(&Loaded<S>, &S::Said)> {
        let about = self.referrers_of(service).filter(|(_, about)| *about);
        let mut units: Vec<&Arc<Unit<S>>> = about.filter_map(|(name, _)| self.units.get(name)).collect();
        // They come by name.
        units.sort_by_key(|unit| unit.order);
        units.into_iter().filter_map(|unit| Some((&*unit.written, unit.said.as_ref()?))).collect()
    }

    /// The resource of this name, if it was looked at.
    pub(super) fn get(&self, name: &FullName) -> Option<(&Loaded<S>, &S::Said)> {
        let unit = self.units.get(name)?;
        Some((&unit.written, unit.said.as_ref()?))
    }

    /// Has this be all that is warned of a resource beside what was found when its references were followed.
    pub(super) fn warn(&mut self, name: &FullName, beside: Vec<ConfigError>) {
        let Some(unit) = self.units.get_mut(name).filter(|unit| unit.beside != beside) else { return };
        let unit = Arc::make_mut(unit);
        unit.beside = beside;
        match unit.warnings.is_empty() && unit.beside.is_empty() {
            true => drop(self.warned.remove(name)),
            false => drop(self.warned.insert(name.clone(), ())),
        }
    }

    /// The names of all, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &FullName> {
        self.units.keys()
    }

    /// The names of those in a namespace, in order.
    pub(super) fn names_in<'k>(&'k self, namespace: &'k str) -> impl Iterator<Item = &'k str> {
        let from = self.units.from(&ServiceName::new(namespace, ""));
        let of_namespace = from.take_while(move |(name, _)| *name.namespace == *namespace);
        of_namespace.map(|(name, _)| &*name.name)
    }

    /// All that name it, or are about it.
    pub(super) fn referring<'k>(&'k self, name: &'k ServiceName) -> impl Iterator<Item = &'k Loaded<S>> {
        let units = self.referrers_of(name).filter_map(|(name, _)| self.units.get(name));
        units.map(|unit| &*unit.written)
    }

    /// What is to be warned of.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &ConfigError> {
        self.warned
            .keys()
            .filter_map(|name| self.units.get(name))
            .flat_map(|unit| unit.warnings.iter().chain(&unit.beside))
    }

    /// Those that are read from files.
    pub(super) fn of_files(&self) -> Vec<FullName> {
        let of_files = self.units.iter().filter(|(_, unit)| matches!(unit.order, Order::File(_)));
        of_files.map(|(name, _)| name.clone()).collect()
    }

    /// Takes a resource that was pushed for one that is stored: without its text, in `origin`.
    pub(super) fn keep(&mut self, name: &FullName, origin: &Arc<str>) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let unit = Arc::make_mut(unit);
        unit.order = Order::Stored;
        Arc::make_mut(&mut unit.written).document.forget(origin);
        unit.warnings.iter_mut().chain(&mut unit.beside).for_each(|warning| warning.forget(origin));
    }

    fn referrers_of<'k>(&'k self, service: &'k ServiceName) -> impl Iterator<Item = (&'k FullName, bool)> {
        let of_service = self.referrers.from(&(service.clone(), ServiceName::nobody()));
        let of_service = of_service.take_while(move |((of, _), _)| of == service);
        of_service.map(|((_, name), about)| (name, *about))
    }
}

impl<S: Spec> Loaded<S> {
    /// What is wrong with it if another of its name comes first.
    pub(super) fn surplus(&self, first: &Self) -> ConfigError {
        let message = format!("there is a {} {}/{} already", S::KIND, self.namespace(), self.name());
        self.name_at().error(message).hint(format!("the first is at {}", first.name_at().place()))
    }
}

impl<S> Loaded<S> {
    /// Its namespace and name.
    pub(super) fn full_name(&self) -> FullName {
        ServiceName::new(self.namespace(), self.name())
    }

    /// Where its name is written.
    pub(super) fn name_at(&self) -> At<'_> {
        self.at().field("metadata").field("name")
    }
}
