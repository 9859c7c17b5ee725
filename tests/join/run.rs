//! Programs of `lighter run` that know of each other by a control plane alone.

use std::net::{SocketAddr, TcpStream};

use libtest_mimic::{Completion, Trial};
use rustix::process::Signal;

use crate::place::{APP, Place, Who, status};
use crate::support::metrics::Metrics;
use crate::support::process::{Program, free_address};
use crate::support::wait_until;
use crate::world::{WEB, World, get};

pub fn tests() -> Vec<Trial> {
    let both: [Test; 2] = [
        ("programs_talk_by_name_and_prove_who_they_are", talk_by_name),
        ("a_program_waits_until_its_sidecar_has_joined", waits_until_joined),
    ];
    let mut tests = Vec::new();
    for (name, test) in both {
        for (who, suffix) in [(Who::Same, "as_root"), (Who::Nobody, "unprivileged")] {
            tests.push(Trial::ignorable_test(format!("join::{name}_{suffix}"), move || {
                if let Err(reason) = Place::possible(who) {
                    return Ok(Completion::ignored_with(reason));
                }
                test(&World::new(), &Place::new(who));
                Ok(Completion::Completed)
            }));
        }
    }
    tests
}

/// A name and what is tried, as root and as nobody.
type Test = (&'static str, fn(&World, &Place));

fn talk_by_name(world: &World, place: &Place) {
    let reviews = Reviews::new(world, place);
    token(world, place, "reviews");
    let options: Vec<&str> = reviews.options.iter().map(String::as_str).collect();
    let mut running = place.start(&options, &["@serve", &APP.to_string()]);
    wait_until("it is registered", || {
        ["known", "ready"].iter().all(|fact| reviews.sum(&format!("lighter_registry_{fact}"), &[]) == 1.0)
    });

    token(world, place, "web");
    let as_web = format!("x-forwarded-client-cert: URI={WEB}\n");
    let said = call(world, place);
    assert!(said.starts_with("200 ok\n") && said.contains(&as_web), "{said}");
    assert!(reviews.connections("mtls", "served") >= 1.0);
    assert_eq!(reviews.sum("lighter_link_streams_total", &[("side", "acceptor")]), 1.0);
    assert_eq!(reviews.connections("plaintext", "served"), 0.0);

    assert_eq!(get(reviews.listen).0, 200, "who proves nothing is served");
    world.add(
        "apiVersion: mesh.lighter.dev/v1\nkind: MeshPolicy\nmetadata: {name: all}\nspec: {mtls: strict}\n",
    );
    wait_until("who proves nothing is refused", || get(reviews.listen).0 == 403);
    assert!(reviews.connections("plaintext", "refused") >= 1.0);
    let said = call(world, place);
    assert!(said.starts_with("200 ok\n") && said.contains(&as_web), "{said}");

    running.signal(libc::SIGTERM);
    assert_eq!(running.program.wait().code(), Some(143), "{}", running.program.said());
    wait_until("it has left", || call(world, place).starts_with("503 no_endpoint\n"));
}

fn waits_until_joined(world: &World, place: &Place) {
    let reviews = Reviews::new(world, place);
    let options: Vec<&str> = reviews.options.iter().map(String::as_str).collect();
    let command = || place.run_role(&options, &["@serve", &APP.to_string()]);
    let mut waiting = Program::start(command(), world.path("").as_path());
    waiting.wait_until_it_says("no certificate: ");
    assert!(TcpStream::connect(reviews.listen).is_err());
    waiting.signal(Signal::TERM);
    assert_eq!(waiting.wait().code(), Some(143), "{}", waiting.said());
    assert!(!waiting.said().contains("listening"), "{}", waiting.said());

    let mut waiting = Program::start(command(), world.path("").as_path()).gentle();
    waiting.wait_until_it_says("no certificate: ");
    token(world, place, "reviews");
    waiting.wait_until_it_says("listening");
}

/// The run of an instance of `reviews`.
struct Reviews {
    listen: SocketAddr,
    admin: SocketAddr,
    options: Vec<String>,
}

impl Reviews {
    fn new(world: &World, place: &Place) -> Self {
        let (listen, admin) = (free_address(), free_address());
        let options = format!(
            "--service reviews --port {APP} --listen {listen} --admin {admin} --link {} --control {} --token-file {} --state {}",
            free_address(),
            world.address,
            place.path("reviews.token").display(),
            place.path("reviews-state").display()
        );
        Reviews { listen, admin, options: options.split(' ').map(str::to_owned).collect() }
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        Metrics::of(self.admin).sum(name, labels)
    }

    fn connections(&self, security: &str, outcome: &str) -> f64 {
        self.sum("lighter_inbound_connections_total", &[("security", security), ("outcome", outcome)])
    }
}

/// Puts a join token for `service` where its run looks for it.
fn token(world: &World, place: &Place, service: &str) {
    let token = world.ca(&["token", "--service", service]);
    std::fs::write(place.path(&format!("{service}.token")), token).unwrap();
}

/// What the program of a pure caller is answered by `reviews`. It is told of the control plane by its environment.
fn call(world: &World, place: &Place) -> String {
    let mut command = place.run_role(&[], &["@get", "reviews"]);
    command.env("LIGHTER_CONTROL", world.address.to_string());
    command
        .env("LIGHTER_JOIN_TOKEN_FILE", place.path("web.token"))
        .env("LIGHTER_STATE", place.path("web-state"));
    let output = command.output().unwrap();
    assert_eq!(status(&output), 0, "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
