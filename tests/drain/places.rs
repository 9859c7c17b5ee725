//! What tests of services that move with their state begin with: the service, its two instances, a caller, and what holds in the
//! end.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::callers::Record;
use crate::migrate::{PATIENT, instances};
use crate::registers::App;
use crate::support::process::free_address;
use crate::support::wait_until;
use crate::world::{Sidecar, World};

/// One after the other: the load of each keeps all of a small machine busy, and what is to come about in a time would not.
pub fn alone(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        one_at_a_time(run);
        Ok(())
    })
}

/// Runs it while no other of these runs.
pub fn one_at_a_time(run: impl FnOnce()) {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    run();
}

/// An instance of `shop`.
pub struct Place {
    pub instance: String,
    pub sidecar: Sidecar,
    pub app: App,
}

impl Place {
    /// Two of them: `a`, which serves, and `b`, which stands by.
    pub fn both(world: &World, b: App) -> [Self; 2] {
        Self::both_by(world, b, [world.address; 2])
    }

    /// The same, where their sidecars reach the control plane by these addresses.
    pub fn both_by(world: &World, b: App, control: [SocketAddr; 2]) -> [Self; 2] {
        let a = Place::before(world, App::start(&world.path(""), "a"), control[0]);
        wait_until("the first one serves", || a.serves());
        let b = Place::before(world, b, control[1]);
        wait_until("the second one is ready", || {
            b.sidecar.metrics().sum("lighter_registry_ready", &[]) == 1.0
        });
        [a, b]
    }

    /// One more.
    pub fn another(world: &World, name: &str) -> Self {
        Self::another_by(world, name, world.address)
    }

    /// One whose sidecar reaches the control plane by this address.
    pub fn another_by(world: &World, name: &str, control: SocketAddr) -> Self {
        Self::before(world, App::start(&world.path(""), name), control)
    }

    /// One with these ports, that gives what runs there so long to end before it ends itself.
    pub fn at_ports(world: &World, name: &str, ports: &[u16], drain: Duration) -> Self {
        Self::before_at(world, App::start(&world.path(""), name), world.address, (ports, drain))
    }

    fn before(world: &World, app: App, control: SocketAddr) -> Self {
        Self::before_at(world, app, control, (&[80], Duration::from_secs(180)))
    }

    fn before_at(world: &World, app: App, control: SocketAddr, (ports, drain): (&[u16], Duration)) -> Self {
        let before = instances(world);
        let name = format!("shop-{}", app.name);
        world.token(&name, "shop");
        let inbound =
            |port| format!("{{listen: '{}', app: '{}', port: {port}}}", free_address(), app.address);
        let inbound: Vec<String> = ports.iter().map(inbound).collect();
        let own = format!(
            "drainDeadline: {}s\nservice: shop\ninbound: [{}]\n{PATIENT}link: '{}'\nappProbe: {{http: /well, interval: 100ms}}\n",
            drain.as_secs(),
            inbound.join(", "),
            free_address()
        );
        let sidecar = world.start_by(control, &name, &own).ready();
        let mut new = None;
        wait_until("it is there", || {
            new = instances(world).into_iter().find(|instance| !before.contains(instance));
            new.is_some()
        });
        Place { instance: new.unwrap(), sidecar, app }
    }

    /// Where its sidecar takes requests.
    pub fn door(&self) -> SocketAddr {
        self.doors()[0]
    }

    /// Where it does by each of its ports.
    pub fn doors(&self) -> Vec<SocketAddr> {
        let file = std::fs::read_to_string(&self.sidecar.file).unwrap();
        let at = |rest: &str| rest.split_once('\'').expect("a listener").0.parse().unwrap();
        file.split("listen: '").skip(1).map(at).collect()
    }

    /// Whether it has the state.
    pub fn serves(&self) -> bool {
        self.sidecar.metrics().sum("lighter_state_serving", &[]) == 1.0
    }

    /// The last epoch that it had.
    pub fn epoch(&self) -> f64 {
        self.sidecar.metrics().sum("lighter_state_epoch", &[])
    }

    /// Requests of callers that came here.
    pub fn requests(&self) -> f64 {
        self.sidecar.metrics().sum("lighter_requests_total", &[("direction", "inbound")])
    }

    /// Ends it at once, with all that it has in its memory.
    pub fn kill(&mut self) {
        self.kill_sidecar();
        self.app.kill();
    }

    /// Ends its sidecar at once. Its application runs on, and has what it had.
    pub fn kill_sidecar(&mut self) {
        self.sidecar.program.signal(Signal::KILL);
        self.sidecar.program.wait();
    }
}

/// A caller that knows who serves.
pub fn caller(world: &World) -> (Sidecar, SocketAddr) {
    let (web, listen) = world.caller_with("web", "shop", PATIENT);
    wait_until("the one that serves is known", || web.endpoints() == 1);
    (web, listen)
}

/// The Service, with more in its `state`.
pub fn shop(more: &str) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: shop}}\nspec:\n  ports: [{{port: 80, targetPort: 8080}}]\n  \
         state: {{class: volatile, snapshot: /state, restore: /state, freeze: /freeze, thaw: /thaw{more}}}\n"
    )
}

/// Asks for a migration that may take its time.
pub fn begin(world: &World, name: &str, from: &Place, to: &Place) {
    begin_within(world, name, from, to, "60s");
}

/// The same, where what runs at the old place may take so long.
pub fn begin_within(world: &World, name: &str, from: &Place, to: &Place, quiesce: &str) {
    let times =
        format!("prepareTimeout: 60s, quiesceTimeout: {quiesce}, switchTimeout: 60s, drainTimeout: 60s");
    begin_with(world, name, from, to, &times);
}

/// The same within all of these times.
pub fn begin_with(world: &World, name: &str, from: &Place, to: &Place, times: &str) {
    world.apply(&format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Migration\nmetadata: {{name: {name}}}\nspec: {{service: shop, \
         from: {{instance: {}}}, to: {{instance: {}}}, {times}}}\n",
        from.instance, to.instance
    ));
}

/// Nothing failed, and nothing was lost.
pub fn is_well(record: &Record) {
    let failures = record.failures();
    assert!(failures.is_empty(), "{} failed: {failures:#?}", failures.len());
    record.check().unwrap();
    record.check_sums().unwrap();
}

/// And nothing was done twice.
pub fn is_whole(record: &Record, places: &[Place; 2]) {
    is_well(record);
    let numbers: Vec<u64> = places.iter().flat_map(|place| place.app.numbers()).collect();
    record.check_once(&numbers).unwrap();
    record.check_done(&numbers).unwrap();
}

/// How many requests waited at once at most, at the caller's sidecar or at a place: never more than have room there.
pub fn most_waited<'s>(web: &'s Sidecar, places: impl IntoIterator<Item = &'s Sidecar>, room: usize) -> f64 {
    let sides = std::iter::once((web, "hold")).chain(places.into_iter().map(|place| (place, "state")));
    let peaks: Vec<[f64; 2]> = sides
        .map(|(of, side)| {
            let metrics = of.metrics();
            ["", "_bytes"].map(|of| metrics.sum(&format!("lighter_{side}_waiting_peak{of}"), &[]))
        })
        .collect();
    let is_within = |[count, bytes]: &[f64; 2]| *count <= room as f64 && *bytes <= PARK_BYTES;
    assert!(peaks.iter().all(is_within), "{peaks:?}");
    peaks.iter().map(|[count, _]| *count).fold(0.0, f64::max)
}

/// How often state was lost, as the control plane counts.
pub fn losses(world: &World) -> f64 {
    world.counts().sum("lighter_control_state_losses_total", &[])
}

/// And as it says.
pub fn is_lost_once(world: &World) {
    assert_eq!(losses(world), 1.0);
    let said = world.plane().said();
    assert_eq!(
        said.lines().filter(|line| line.contains("the state of a service is lost")).count(),
        1,
        "{said}"
    );
}

/// What may wait where the Service says nothing else.
const PARK_BYTES: f64 = (16 << 20) as f64;

/// As long as a test may hold a hook.
pub const SLOW: &str = ", timeout: 60s, park: {wait: 180s}";

/// What a migration of a Service with state goes through.
pub const PHASES: [&str; 11] = [
    "plan",
    "prepare",
    "warm",
    "quiesce",
    "finalcopy",
    "fence",
    "activate",
    "switch",
    "forward",
    "drain_old",
    "done",
];
