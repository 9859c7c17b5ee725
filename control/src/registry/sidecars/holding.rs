//! Sidecars whose callers' requests wait while a Service moves.

use lighter_config::xds::wire::lighter::registry::v1::report_response::Order;
use lighter_proxy::stateful::held::wire as held;

use super::{Id, Sidecars};

impl Sidecars {
    /// Takes over whether it can have its callers' requests wait while a Service moves.
    pub fn can_hold(&self, id: &Id, holds: bool) {
        if let Some(reporting) = self.lock().get_mut(id) {
            reporting.holds = holds;
        }
    }

    /// All that can.
    pub fn holders(&self) -> Vec<Id> {
        let all = self.lock();
        all.iter().filter(|(_, reporting)| reporting.holds).map(|(id, _)| id.clone()).collect()
    }

    /// Has requests wait that its callers make to a Service, or lets them go. Returns whether there is one to hear it.
    pub fn hold(&self, id: &Id, said: &held::Said) -> bool {
        let all = self.lock();
        let Some(reporting) = all.get(id) else { return false };
        reporting.orders.try_send(Order::Hold(held::encode(said))).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use lighter_config::identity::Spiffe;
    use lighter_config::name::ServiceName;
    use lighter_migrate::Stamp;
    use tokio::sync::mpsc;

    use super::*;

    fn id() -> Id {
        let identity = Spiffe::parse("spiffe://mesh.lighter/ns/shop/sa/web").unwrap();
        Id { identity, instance: "host-1".into() }
    }

    #[test]
    fn requests_wait_where_a_sidecar_says_on_its_stream_that_it_can_do_that() {
        let sidecars = Sidecars::default();
        let (orders, mut heard) = mpsc::channel(1);
        sidecars.enter(id(), 1, orders.clone());
        assert_eq!(sidecars.holders(), []);
        sidecars.can_hold(&id(), true);
        assert_eq!(sidecars.holders(), [id()]);
        let service = ServiceName::new("default", "shop");
        let stamp = Stamp { migration: 2, term: 1, sequence: 7 };
        let said = held::Said { service: service.clone(), stamp, what: held::What::Release };
        assert!(sidecars.hold(&id(), &said));
        assert_eq!(heard.try_recv(), Ok(Order::Hold(held::encode(&said))));
        sidecars.enter(id(), 2, orders);
        assert_eq!(sidecars.holders(), []);
    }
}
