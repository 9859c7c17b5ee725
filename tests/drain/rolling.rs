//! Programs under `lighter run` are restarted one after the other, while they are used.

use libtest_mimic::Trial;
use rustix::process::{Pid, Signal};

use crate::handover::SHOP;
use crate::load::{Load, Rate};
use crate::place::{APP, Place, Who};
use crate::support::metrics::{self, Metrics};
use crate::support::process::{Program, free_address};
use crate::support::{full, test_where, wait_until};
use crate::world::{Sidecar, World};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("rolling::restarts_of_programs_fail_no_request", restarts),
        test_where("rolling::hand_overs_beside_programs_fail_no_request", hand_overs),
        test_where("rolling::a_successor_that_does_not_start_changes_nothing", no_successor),
        test_where("rolling::one_successor_at_a_time_starts_and_none_keeps_a_program_up", one_at_a_time),
    ]
}

fn restarts() -> Result<(), String> {
    let (rate, restarts) = if full() { (1000, 100) } else { (200, 4) };
    under_load(rate, |shops, web, load| {
        let count = shops.len();
        for turn in 0..restarts {
            shops[turn % count].restart();
            wait_until("it is known again", || web.endpoints() == count);
            load.more(u64::from(rate) / 4);
        }
        format!("{restarts} restarts")
    })
}

/// The program goes on while one process after the other is its sidecar.
fn hand_overs() -> Result<(), String> {
    let (rate, rounds) = if full() { (1000, 7) } else { (200, 2) };
    under_load(rate, |shops, _, load| {
        for round in 1..=rounds {
            for shop in &*shops {
                shop.hand_over(round);
                load.more(u64::from(rate));
            }
        }
        format!("{} hand-overs", shops.len() * rounds as usize)
    })
}

/// Does `work`, which says what it was, while three instances are asked `rate` times a second.
fn under_load(rate: u32, work: impl FnOnce(&mut [Shop], &Sidecar, &Load) -> String) -> Result<(), String> {
    Place::possible(Who::Same)?;
    let world = World::new();
    world.apply(SHOP);
    let place = Place::new(Who::Same);
    let mut shops: Vec<Shop> = (0..3).map(|at| Shop::start(&world, &place, at)).collect();
    let (web, listen) = world.caller("web", "shop");
    wait_until("all are known", || web.endpoints() == shops.len());
    let load = Load::start(listen, Rate { requests: rate, streams: 10 });
    load.more(200);
    let what = work(&mut shops, &web, &load);
    println!("{what} at {rate} requests a second: {}", load.end());
    for shop in &mut shops {
        shop.stop();
    }
    Ok(())
}

/// Whatever is wrong with the file that the new process reads, the old one serves.
fn no_successor() -> Result<(), String> {
    Place::possible(Who::Same)?;
    let world = World::new();
    world.apply(SHOP);
    let place = Place::new(Who::Same);
    let mut shop = Shop::start(&world, &place, 0);
    let (web, listen) = world.caller("web", "shop");
    wait_until("it is known", || web.endpoints() == 1);
    let good = std::fs::read_to_string(&shop.file).unwrap();
    for (fault, says) in
        [("workers: many\n", "workers"), ("probe: 203.0.113.1:9\n", "cannot listen on 203.0.113.1:9")]
    {
        std::fs::write(&shop.file, format!("{good}{fault}")).unwrap();
        shop.ask_for_another();
        shop.program.wait_until_it_says(says);
        assert_eq!(crate::world::get(listen), (200, "done".to_owned()));
    }
    wait_until("both are counted", || {
        shop.metrics().sum("lighter_handovers_total", &[("outcome", "failed")]) == 2.0
    });
    std::fs::write(&shop.file, good).unwrap();
    shop.hand_over(1);
    assert_eq!(crate::world::get(listen), (200, "done".to_owned()));
    // A program without a sidecar would be without a network.
    let sidecar = shop.facts()["sidecar_pid"].as_i64().and_then(|pid| Pid::from_raw(pid as i32)).unwrap();
    rustix::process::kill_process(sidecar, Signal::KILL).unwrap();
    assert_eq!(shop.program.wait().code(), Some(70), "{}", shop.program.said());
    Ok(())
}

/// Asked for another one, or to leave, while one is about to take over.
fn one_at_a_time() -> Result<(), String> {
    Place::possible(Who::Same)?;
    let world = World::new();
    world.apply(SHOP);
    let place = Place::new(Who::Same);
    let mut shop = Shop::start(&world, &place, 0);
    let before = shop.facts();
    // Whoever is to take over waits for what it says.
    world.plane().signal(Signal::STOP);
    shop.ask_for_another();
    shop.ask_for_another();
    shop.program.wait_until_it_says("no hand-over: another process is about to take over");
    world.plane().signal(Signal::CONT);
    shop.is_handed_over(&before, 1);
    shop.ask_for_another();
    shop.stop();
    Ok(())
}

/// An instance of the Service `shop`.
struct Shop {
    /// Its sidecar's own file.
    file: std::path::PathBuf,
    /// Facts about its run.
    status: std::path::PathBuf,
    place: std::path::PathBuf,
    command: Box<dyn Fn() -> std::process::Command>,
    admin: std::net::SocketAddr,
    program: Program,
}

impl Shop {
    fn start(world: &World, place: &Place, at: usize) -> Self {
        let name = format!("shop-{at}");
        world.token(&name, "shop");
        let admin = free_address();
        let [file, status] = ["yaml", "json"].map(|kind| world.path(&format!("{name}.{kind}")));
        std::fs::write(&file, "maxConnections: 10000\n").unwrap();
        let options = format!(
            "--service shop --port {APP} --listen {} --admin {admin} --link {} --workers 1 --drain-deadline 5s --control {} \
             --token-file {} --state {} --config {} --status-file {}",
            free_address(),
            free_address(),
            world.address,
            world.path(&format!("{name}.token")).display(),
            world.path(&format!("{name}-state")).display(),
            file.display(),
            status.display()
        );
        let options: Vec<&str> = options.split(' ').collect();
        let run = place.run_role(&options, &["@serve", &APP.to_string()]);
        let words: Vec<_> = run.get_args().map(ToOwned::to_owned).collect();
        let program = run.get_program().to_owned();
        let command = Box::new(move || {
            let mut command = std::process::Command::new(&program);
            command.args(&words);
            command
        });
        let folder = world.path("");
        let program = Program::start(command(), &folder).gentle();
        let mut shop = Shop { file, status, place: folder, command, admin, program };
        shop.wait_until_ready();
        shop
    }

    fn restart(&mut self) {
        self.stop();
        self.program = Program::start((self.command)(), &self.place).gentle();
        self.wait_until_ready();
    }

    /// Asks for another process in the place of the one that is its sidecar.
    fn ask_for_another(&self) {
        assert_eq!(metrics::ask(self.admin, "POST", "/handover").0, 200);
    }

    /// The same, and waits until that serves, as the process after `generation` others.
    fn hand_over(&self, generation: u32) {
        let before = self.facts();
        self.ask_for_another();
        self.is_handed_over(&before, generation);
    }

    fn is_handed_over(&self, before: &serde_json::Value, generation: u32) {
        wait_until("another process serves", || self.facts()["sidecar_pid"] != before["sidecar_pid"]);
        let metrics = self.metrics();
        assert_eq!(metrics.sum("lighter_generation", &[]), f64::from(generation));
        assert_eq!(metrics.sum("lighter_handovers_total", &[("outcome", "taken")]), 1.0);
        assert_eq!(self.facts()["app_pid"], before["app_pid"], "the program goes on");
    }

    fn facts(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(&self.status).unwrap()).unwrap()
    }

    fn metrics(&self) -> Metrics {
        Metrics::of(self.admin)
    }

    /// The program ends by the signal, after its callers have left.
    fn stop(&mut self) {
        self.program.signal(Signal::TERM);
        assert_eq!(self.program.wait().code(), Some(143), "{}", self.program.said());
        assert!(!self.program.said().contains("were cut"), "{}", self.program.said());
    }

    fn wait_until_ready(&mut self) {
        self.program.wait_until_it_says("listening");
        wait_until("it is registered", || self.metrics().sum("lighter_registry_ready", &[]) == 1.0);
    }
}
