//! How one sidecar joins, and what does not make it a member.

use std::os::unix::fs::PermissionsExt;

use libtest_mimic::Trial;
use rustix::process::Signal;

use crate::support::raw::Upstream;
use crate::support::{metrics, test, wait_until};
use crate::world::{World, ca, get};

pub fn tests() -> Vec<Trial> {
    vec![
        test("join::a_spent_token_is_refused_and_another_one_taken", spent_token),
        test("join::a_foreign_control_plane_gets_no_token", foreign_control_plane),
        test("join::a_token_for_another_service_is_not_spent", token_for_another),
        test("join::what_is_kept_is_for_its_owner_alone", kept_for_its_owner),
        test("join::an_instance_is_listed_while_its_application_answers_its_probe", application_answers),
        test("join::what_is_kept_of_another_service_is_not_used", kept_of_another),
    ]
}

fn spent_token() {
    let world = World::new();
    let (web, _) = world.web();
    drop(web);
    // Another place, as if the token had been copied there: the key that it was spent for is not.
    std::fs::copy(world.path("web.token"), world.path("thief.token")).unwrap();
    let mut thief = world.start("thief", "");
    thief.program.wait_until_it_says("no certificate: ");
    assert!(thief.program.said().contains("the join token is not accepted"), "{}", thief.program.said());
    assert!(world.plane().said().contains("a replay"), "{}", world.plane().said());
    assert!(thief.asked("join", "refused") >= 1.0);
    assert_eq!(metrics::get(thief.admin, "/ready").0, 503);
    world.token("thief", "web");
    thief.wait_until_ready();
    assert_eq!(thief.asked("join", "received"), 1.0);
}

fn foreign_control_plane() {
    let world = World::new();
    let elsewhere = world.path("elsewhere");
    ca(&elsewhere, &["init"]);
    std::fs::write(world.path("web.token"), ca(&elsewhere, &["token", "--service", "web"])).unwrap();
    let mut web = world.start("web", "");
    web.program.wait_until_it_says("no certificate: ");
    assert!(web.program.said().contains("reason=\"foreign\""), "{}", web.program.said());
    let refused = || web.metrics().sum("lighter_identity_refusals_total", &[("reason", "foreign")]);
    assert!(refused() >= 1.0);
    assert!(web.asked("join", "failed") >= 1.0);
    // It hears nothing of the token.
    assert!(!world.plane().said().contains("a join token was refused"), "{}", world.plane().said());
    // Who waits can be ended.
    web.program.signal(Signal::TERM);
    assert!(web.program.wait().success());
}

fn token_for_another() {
    let world = World::new();
    world.token("reviews", "web");
    let mut reviews = world.start("reviews", "service: reviews");
    reviews.program.wait_until_it_says("the join token is for default/web, and this is default/reviews");
    assert!(world.ca(&["list"]).contains("open     default/web"), "{}", world.ca(&["list"]));
}

fn kept_for_its_owner() {
    let world = World::new();
    let (web, _) = world.web();
    let mode = |name: &str| std::fs::metadata(world.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("web-state"), mode("web-state/identity")), (0o700, 0o600));
    let dump = metrics::get(web.admin, "/config_dump").1;
    assert!(dump.contains("web.token") && !dump.contains("lighter-join."), "{dump}");
    drop(web);
    // Once it is a member it needs no token, and joins no second time.
    std::fs::remove_file(world.path("web.token")).unwrap();
    let (web, _) = world.web_again();
    assert_eq!(web.asked("join", "received"), 0.0);
    wait_until("it follows the control plane", || web.metrics().sum("lighter_xds_connected", &[]) == 1.0);
}

fn kept_of_another() {
    let world = World::new();
    drop(world.web());
    let mut reviews = world.start("web", "service: reviews");
    reviews.program.wait_until_it_says("the identity that is kept is another service's");
    reviews.program.wait_until_it_says("the join token is for default/web");
    world.token("web", "reviews");
    reviews.wait_until_ready();
    let issued = "certificate issued";
    let said = world.plane().said();
    let joined = said.lines().filter(|line| line.contains(issued) && line.contains("/sa/reviews")).count();
    assert_eq!(joined, 1, "{said}");
}

fn application_answers() {
    let app = Upstream::answering("five stars");
    let world = World::new();
    let flag = world.path("well");
    let (web, listen) = world.web();
    let probe = format!("{{exec: [test, -e, {}], interval: 20ms, failureThreshold: 2}}", flag.display());
    let reviews = world.reviews_with("reviews", app.address, &format!("appProbe: {probe}")).ready();
    let read = |name: &str| reviews.metrics().sum(name, &[]);
    wait_until("it has been asked", || read("lighter_probe_answers_total") > 2.0);
    assert_eq!((read("lighter_probe_well"), read("lighter_registry_ready"), web.endpoints()), (0.0, 0.0, 0));
    std::fs::write(&flag, "").unwrap();
    wait_until("the instance is found", || get(listen) == (200, "five stars".into()));
    assert_eq!((read("lighter_probe_well"), read("lighter_registry_ready")), (1.0, 1.0));
    std::fs::remove_file(&flag).unwrap();
    wait_until("it is listed no more", || web.endpoints() == 0);
    // It asks by HTTP and gRPC as the control plane does.
    let probe = "appProbe: {http: /, interval: 20ms}";
    let _second = world.reviews_with("second", app.address, probe).ready();
    wait_until("the second instance is found", || get(listen) == (200, "five stars".into()));
    assert!(app.received().contains("user-agent: lighter-probe"), "{}", app.received());
}
