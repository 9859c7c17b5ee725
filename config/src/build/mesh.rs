//! A mesh that changes: what its resources say together, judged anew as far as a change concerns it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::kind::{FullName, Kind, Kinds, Order, Refers, every_kind};
use super::making::{self, Everywhere};
use super::registered::{DeviceInForce, Registered, RegisteredDevice};
use super::version::Sum;
use super::virtual_ips::{self, Addresses};
use super::{Draft, Drafts, Report, check, service};
use crate::document::At;
use crate::error::{ConfigError, ConfigErrors, sort};
use crate::load::{Loaded, Resources};
use crate::manifest::Key;
use crate::name::{ServiceName, ServicePort};
use crate::resource::Spec;
use crate::resource::service::ServiceSpec;
use crate::snapshot::{Authorization, Migration, Snapshot};

/// Resources, and the snapshot that they make.
///
/// A change is made on a copy, which costs little, and is in force if [`Mesh::judge`] says that it is sound: whoever keeps the
/// mesh then puts the copy in its place. Of a copy that is faulty nothing can be used.
#[derive(Clone, Default)]
pub struct Mesh {
    services: Drafts,
    kinds: Kinds,
    addresses: Addresses,
    everywhere: Everywhere,
    sum: Sum,
    snapshot: Arc<Snapshot>,
    /// What was changed since it was judged.
    changed: Changed,
}

/// Where resources come from. Of two that cannot both be, those of files come first, and those that are pushed come last;
/// of one origin, the first; of those in a store, the first by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Files.
    Files,
    /// A store, in which they were sound together.
    Store,
    /// Somebody pushes them.
    Push,
}

#[derive(Clone, Default)]
struct Changed {
    /// What is wrong with resources by themselves.
    report: Report,
    /// Services that were put or removed, as they were when the mesh was judged.
    services: BTreeMap<ServiceName, Option<Arc<Draft>>>,
    /// Services about which something else is said now. [`ServiceName::nobody`]: something is said of the mesh.
    touched: BTreeSet<ServiceName>,
    /// Services of which something else is registered.
    registered: BTreeSet<ServiceName>,
}

impl Mesh {
    /// Adds resources, in their order.
    pub fn put(&mut self, resources: &Resources, origin: Origin) {
        for (at, written) in resources.services.iter().enumerate() {
            self.put_service(written, origin.order(at));
        }
        let Kinds { http_routes, grpc_routes, tcp_routes, .. } = &mut self.kinds;
        put(http_routes, &resources.http_routes, origin, &mut self.changed);
        put(grpc_routes, &resources.grpc_routes, origin, &mut self.changed);
        put(tcp_routes, &resources.tcp_routes, origin, &mut self.changed);
        let Kinds { traffic_policies, mesh_policies, link_policies, authorization_policies, .. } =
            &mut self.kinds;
        put(traffic_policies, &resources.traffic_policies, origin, &mut self.changed);
        put(mesh_policies, &resources.mesh_policies, origin, &mut self.changed);
        put(link_policies, &resources.link_policies, origin, &mut self.changed);
        put(authorization_policies, &resources.authorization_policies, origin, &mut self.changed);
        let Kinds { devices, functions, offload_policies, migrations, .. } = &mut self.kinds;
        put(devices, &resources.devices, origin, &mut self.changed);
        put(functions, &resources.functions, origin, &mut self.changed);
        put(offload_policies, &resources.offload_policies, origin, &mut self.changed);
        put(migrations, &resources.migrations, origin, &mut self.changed);
    }

    /// Removes a resource, if it is there.
    pub fn remove(&mut self, key: &Key) {
        let name = FullName { namespace: key.namespace.clone(), name: key.name.clone() };
        if &*key.kind == ServiceSpec::KIND {
            return self.remove_service(&name);
        }
        every_kind!(&mut self.kinds, |kind| if kind.is(&key.kind) {
            kind.remove(&name, &mut self.changed.touched);
        });
    }

    /// Removes what was read from files.
    pub fn remove_files(&mut self) {
        let of_files = self.services.iter().filter(|(_, draft)| matches!(draft.order, Order::File(_)));
        let names: Vec<ServiceName> = of_files.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.remove_service(name));
        every_kind!(&mut self.kinds, |kind| for name in kind.of_files() {
            kind.remove(&name, &mut self.changed.touched);
        });
    }

    /// Takes over what the instances of a Service register of their functions. None: nothing, any more. Returns whether that is
    /// something else than before.
    pub fn set_registered(&mut self, service: &ServiceName, device: Option<RegisteredDevice>) -> bool {
        let before = self.kinds.registered.get(service);
        let is_same = match (&device, before) {
            (Some(device), Some(before)) => before.says(device),
            (None, None) => true,
            _ => false,
        };
        if is_same {
            return false;
        }
        match device {
            Some(device) => {
                self.kinds.registered.insert(service.clone(), Arc::new(Registered::new(device)));
            }
            None => drop(self.kinds.registered.remove(service)),
        }
        self.changed.registered.insert(service.clone());
        true
    }

    /// The Migrations that are asked for, by namespace and name.
    pub fn migrations(&self) -> Vec<(Key, Migration)> {
        self.kinds.all_migrations()
    }

    /// The Devices in force, those that are registered among them, by namespace and name.
    pub fn devices(&self) -> Vec<DeviceInForce> {
        self.kinds.all_devices()
    }

    /// Judges the changes together with everything there is, and makes a snapshot of all of it.
    pub fn judge(&mut self) -> Result<Arc<Snapshot>, ConfigErrors> {
        let Changed { mut report, services, mut touched, registered } = std::mem::take(&mut self.changed);
        self.follow(&services, &mut touched, &mut report);
        self.resolve(&services, registered, &mut touched);
        self.kinds.judge_routes(&mut touched, &mut report);
        if touched.remove(&ServiceName::nobody()) {
            let everywhere = Everywhere::of(&self.kinds, &mut report);
            if everywhere != self.everywhere {
                self.everywhere = everywhere;
                touched.extend(self.services.keys().cloned());
            }
        }
        touched.extend(self.assign(&services, &mut report));
        let mut next = Snapshot::clone(&self.snapshot);
        for name in &touched {
            self.finish(name, &mut next, &mut report);
        }
        if !report.errors.is_empty() {
            return ConfigErrors::or(report.errors, Arc::default());
        }
        (next.outbound_policy, next.mtls) = (self.everywhere.outbound_policy, self.everywhere.mtls);
        next.links = self.everywhere.links.clone();
        next.version = self.sum.version(&next);
        next.warnings = self.warnings();
        self.snapshot = Arc::new(next);
        Ok(self.snapshot.clone())
    }

    /// Takes resources that were pushed, and found sound, for those of a store: their text is gone, and their place is
    /// `origin`. Returns the snapshot, which differs in the places of its warnings.
    pub fn keep(&mut self, pushed: &[Key], origin: &Arc<str>) -> Arc<Snapshot> {
        for key in pushed {
            let name = FullName { namespace: key.namespace.clone(), name: key.name.clone() };
            if &*key.kind == ServiceSpec::KIND {
                self.keep_service(&name, origin);
            }
            every_kind!(&mut self.kinds, |kind| if kind.is(&key.kind) {
                kind.keep(&name, origin);
            });
        }
        if !self.snapshot.warnings.is_empty() {
            let warnings = self.warnings();
            Arc::make_mut(&mut self.snapshot).warnings = warnings;
        }
        self.snapshot.clone()
    }

    fn put_service(&mut self, written: &Arc<Loaded<ServiceSpec>>, order: Order) {
        let Changed { report, services, touched, .. } = &mut self.changed;
        check_names(written, check::dns_label, report);
        let (name, draft) = (written.full_name(), service::draft(written, order, report));
        if let Some(known) = self.services.get(&name) {
            let known_first = known.order <= order;
            let (first, later) =
                if known_first { (&known.written, written) } else { (written, &known.written) };
            report.error(later.surplus(first));
            if known_first {
                return;
            }
        }
        touched.insert(name.clone());
        let before = self.services.insert(name.clone(), Arc::new(draft));
        services.entry(name).or_insert(before);
    }

    fn remove_service(&mut self, name: &ServiceName) {
        let Some(before) = self.services.remove(name) else { return };
        self.changed.touched.insert(name.clone());
        self.changed.services.entry(name.clone()).or_insert(Some(before));
    }

    fn keep_service(&mut self, name: &ServiceName, origin: &Arc<str>) {
        let Some(draft) = self.services.get_mut(name) else { return };
        let draft = Arc::make_mut(draft);
        draft.order = Order::Stored;
        Arc::make_mut(&mut draft.written).document.forget(origin);
    }

    /// Follows references again: those of resources that were put, and those to Services that are seen otherwise now.
    fn follow(
        &mut self,
        services: &BTreeMap<ServiceName, Option<Arc<Draft>>>,
        touched: &mut BTreeSet<ServiceName>,
        report: &mut Report,
    ) {
        let mut renamed = false;
        for (name, before) in services {
            let now = self.services.get(name);
            renamed |= before.is_some() != now.is_some();
            let is_same = match (before, now) {
                (Some(before), Some(now)) => now.is_seen_as(before),
                (before, now) => before.is_none() && now.is_none(),
            };
            if !is_same {
                every_kind!(&mut self.kinds, |kind| kind.reshaped(name));
            }
        }
        let drafts = &self.services;
        every_kind!(&mut self.kinds, |kind| {
            if renamed {
                kind.renamed();
            }
            kind.follow(drafts, touched, report);
        });
    }

    /// Finds again by which ports devices are reached: those of which something else is registered, and those of Services that
    /// were put or removed.
    fn resolve(
        &mut self,
        services: &BTreeMap<ServiceName, Option<Arc<Draft>>>,
        mut registered: BTreeSet<ServiceName>,
        touched: &mut BTreeSet<ServiceName>,
    ) {
        registered.extend(services.keys().filter(|name| self.kinds.registered.contains_key(name)).cloned());
        for name in registered {
            if let Some(known) = self.kinds.registered.get_mut(&name) {
                *known = Arc::new(known.resolved(&name, &self.services));
            }
            touched.extend(self.kinds.parts_of(&name));
        }
    }

    /// Gives new Services their addresses and takes those of others back. Returns whose addresses are others now.
    fn assign(
        &mut self,
        services: &BTreeMap<ServiceName, Option<Arc<Draft>>>,
        report: &mut Report,
    ) -> Vec<ServiceName> {
        let mut moved = Vec::new();
        // First there is room.
        for (name, before) in services {
            if before.is_some() && !self.services.contains_key(name) {
                moved.extend(self.addresses.remove(name));
            }
        }
        for (name, before) in services {
            if before.is_none() && self.services.contains_key(name) {
                let Some(others) = self.addresses.insert(name) else {
                    let most = virtual_ips::MOST;
                    let message = format!("more than {most} Services: there are no virtual addresses left");
                    let first = self.services.values().next();
                    report.errors.extend(first.map(|draft| draft.written.name_at().error(message)));
                    return moved;
                };
                moved.extend(others);
            }
        }
        moved
    }

    /// Puts a Service into a snapshot as it is now, or takes it out.
    fn finish(&mut self, name: &ServiceName, next: &mut Snapshot, report: &mut Report) {
        let old = next.services.get(name).cloned();
        let draft = self.services.get(name).zip(self.addresses.of(name));
        let made = draft.map(|(draft, addresses)| {
            making::service(name, draft, &self.kinds, &self.everywhere, addresses, report)
        });
        let (new, mut authorization) =
            made.map_or((None, Vec::new()), |(service, said)| (Some(service), said));
        let ports = old.iter().flat_map(|service| &service.ports).map(|port| port.key.clone());
        for port in ports.collect::<Vec<_>>() {
            if !authorization.iter().any(|(of, _)| *of == port) {
                self.authorize(port, None, next);
            }
        }
        for (port, said) in authorization.drain(..) {
            self.authorize(port, Some(said), next);
        }
        // What is as it was stays the same memory: whoever compares snapshots sees it at once.
        if old.as_deref() == new.as_ref() {
            return;
        }
        if let Some(old) = &old {
            self.sum.remove_service(old);
        }
        match new {
            Some(new) => {
                self.sum.add_service(&new);
                next.services.insert(name.clone(), Arc::new(new));
            }
            None => drop(next.services.remove(name)),
        }
    }

    fn authorize(&mut self, port: ServicePort, said: Option<Authorization>, next: &mut Snapshot) {
        let old = next.authorization.get(&port);
        if old.map(|old| &**old) == said.as_ref() {
            return;
        }
        if let Some(old) = old {
            self.sum.remove_authorization(&port, old);
        }
        match said {
            Some(said) => {
                self.sum.add_authorization(&port, &said);
                next.authorization.insert(port, Arc::new(said));
            }
            None => drop(next.authorization.remove(&port)),
        }
    }

    fn warnings(&self) -> Vec<ConfigError> {
        let mut warnings = Vec::new();
        every_kind!(&self.kinds, |kind| warnings.extend(kind.warnings().cloned()));
        sort(&mut warnings);
        warnings
    }
}

impl Origin {
    fn order(self, at: usize) -> Order {
        match self {
            Origin::Files => Order::File(at),
            Origin::Store => Order::Stored,
            Origin::Push => Order::Pushed(at),
        }
    }
}

fn put<S: Refers>(kind: &mut Kind<S>, resources: &[Arc<Loaded<S>>], origin: Origin, changed: &mut Changed) {
    for (at, written) in resources.iter().enumerate() {
        check_names(written, check::dns_name, &mut changed.report);
        kind.put(written, origin.order(at), &mut changed.touched, &mut changed.report);
    }
}

/// Checks that a resource has a proper name.
fn check_names<S>(
    written: &Loaded<S>,
    check_name: fn(&At<'_>, &str) -> Result<(), ConfigError>,
    report: &mut Report,
) {
    let metadata = written.at().field("metadata");
    report.ok(check_name(&metadata.field("name"), written.name()));
    report.ok(check::dns_label(&metadata.field("namespace"), written.namespace()));
    if let Some(timestamp) = &written.resource.metadata.creation_timestamp {
        report.ok(check::timestamp(&metadata.field("creationTimestamp"), timestamp));
    }
}
