//! The place of a Service with state, from its first mention to its last.

use std::time::{SystemTime, UNIX_EPOCH};

use lighter_migrate::Incarnation;

use super::Hosted;
use crate::mesh::Mesh;
use crate::registry;
use crate::worker::Shared;

/// Has `mesh`, which is about to be in force, know this workload's place, where its own Service has state. There is one only
/// beside a control plane with which this sidecar registers: nobody else can say who serves. It is the same one until it is said
/// that the Service has no state.
pub(crate) fn keep(shared: &Shared, mesh: &mut Mesh) {
    let own = shared.service().filter(|_| registry::registers(&shared.config));
    let service = own.and_then(|own| mesh.config.services.get(own));
    let before = shared.hosted.load_full();
    let hosted = match (service.map(|service| &service.state), before) {
        (Some(Some(stateful)), Some(hosted)) => {
            hosted.set(stateful);
            Some(hosted)
        }
        (Some(Some(stateful)), None) => Some(Hosted::new(stateful, incarnation(None))),
        // For the moment nothing is known of the Service.
        (None, before) => before,
        (Some(None), Some(hosted)) => {
            hosted.journal().retire();
            // Whoever waits there would wait for nothing.
            hosted.renew(incarnation(Some(hosted.with(|place, _, _| place.incarnation()))));
            None
        }
        (Some(None), None) => None,
    };
    shared.hosted.store(hosted.clone());
    mesh.hosted = hosted;
}

/// The life of a place that begins now, after that one.
pub fn incarnation(before: Option<Incarnation>) -> Incarnation {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    Incarnation(before.map_or(now, |before| now.max(before.0.saturating_add(1))))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::Arc;
    use std::time::Duration;

    use lighter_config::name::ServiceName;
    use lighter_config::sidecar::{ControlConfig, ControlSecurity, SidecarConfig};
    use lighter_config::snapshot::{
        Hooks, OnDrain, Park, Service, Snapshot, StateAccess, StateClass, Stateful, Streams, VirtualIps,
        WhenAlone,
    };
    use lighter_migrate::Stand;

    use super::*;
    use crate::dial::Here;

    fn shared(service: &str, security: ControlSecurity) -> Shared {
        let control = ControlConfig {
            address: "control.test:1".to_owned(),
            security,
            own_resources: true,
            state: None,
            depends_on: Vec::new(),
        };
        let config = SidecarConfig {
            service: Some(service.into()),
            namespace: "default".into(),
            control: Some(control),
            ..SidecarConfig::default()
        };
        Shared::new(config, Arc::new(Here::default()), Arc::new(Here::default()))
    }

    /// A mesh with the one Service, if there is one, and its state.
    fn mesh(service: Option<Option<Stateful>>) -> Mesh {
        let name = ServiceName::new("default", "counter");
        let service = service.map(|state| Service {
            name: name.clone(),
            virtual_ips: VirtualIps { v4: Ipv4Addr::new(198, 19, 0, 1), v6: Ipv6Addr::LOCALHOST },
            ports: Vec::new(),
            probe: None,
            links: Default::default(),
            state: state.map(Arc::new),
        });
        let services = service.map(|service| (name, Arc::new(service))).into_iter().collect();
        Mesh::build(Arc::new(Snapshot { services, ..Snapshot::default() }), &Mesh::default())
    }

    fn stateful(path: &str) -> Stateful {
        let hooks =
            Hooks { snapshot: path.into(), restore: path.into(), changes: None, freeze: None, thaw: None };
        Stateful {
            class: StateClass::Journaled,
            port: 80,
            access: StateAccess::Http(hooks),
            timeout: Duration::from_secs(1),
            max_bytes: 1 << 20,
            park: Park::default(),
            streams: Streams::Wait,
            on_drain: OnDrain::Move,
            when_alone: WhenAlone::Refuse,
            moves: lighter_config::snapshot::Moves::default(),
        }
    }

    /// What is in force after that.
    fn kept(shared: &Shared, service: Option<Option<Stateful>>) -> Option<Arc<Hosted>> {
        let mut mesh = mesh(service);
        keep(shared, &mut mesh);
        assert_eq!(mesh.hosted.as_ref().map(Arc::as_ptr), shared.hosted.load().as_ref().map(Arc::as_ptr));
        mesh.hosted
    }

    #[tokio::test]
    async fn the_place_stays_while_its_service_has_state_whatever_else_is_said_of_that() {
        let shared = shared("counter", ControlSecurity::Files);
        assert!(kept(&shared, Some(None)).is_none());
        let place = kept(&shared, Some(Some(stateful("/a")))).unwrap();
        let first = place.with(|place, _, _| place.incarnation());
        let other = kept(&shared, Some(Some(stateful("/b")))).unwrap();
        assert!(Arc::ptr_eq(&place, &other) && place.stateful().access == stateful("/b").access);
        assert!(Arc::ptr_eq(&place, &kept(&shared, None).unwrap()), "nothing is known of it for a moment");
        assert_eq!(place.with(|place, _, _| place.incarnation()), first);
        assert!(kept(&shared, Some(None)).is_none());
        // Whoever still asks it is refused.
        assert_eq!(place.with(|place, _, _| place.stand()), Stand::Empty);
        assert!(!place.journal().is_on(), "nor is anything kept for it");
        let new = kept(&shared, Some(Some(stateful("/a")))).unwrap();
        assert!(!Arc::ptr_eq(&place, &new));
        assert!(new.with(|place, _, _| place.incarnation()) > first);
    }

    #[tokio::test]
    async fn only_an_instance_of_the_service_that_registers_has_a_place() {
        let elsewhere = shared("other", ControlSecurity::Files);
        assert!(kept(&elsewhere, Some(Some(stateful("/a")))).is_none());
        let alone = shared("counter", ControlSecurity::Plaintext);
        assert!(kept(&alone, Some(Some(stateful("/a")))).is_none());
    }

    #[test]
    fn a_later_life_has_a_greater_number_whatever_the_clock_says() {
        let now = incarnation(None);
        assert_eq!(incarnation(Some(Incarnation(u64::MAX - 1))), Incarnation(u64::MAX));
        assert!(incarnation(Some(now)) > now);
    }
}
