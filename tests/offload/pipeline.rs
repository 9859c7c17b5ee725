//! The pipeline in `examples/pipeline`: three services that know nothing of Lighter, each stage where it is best.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::support::metrics::Metrics;
use crate::support::process::{Program, free_address, listens, python};
use crate::support::raw::Peer;
use crate::support::sidecar::LIGHTER;
use crate::support::{metrics, test_where, wait_until};
use crate::world::{get, said};

pub fn tests() -> Vec<Trial> {
    vec![test_where("pipeline::each_stage_runs_where_it_is_best", stages)]
}

/// The addresses of the example, which stand here for ones that are free.
const ADDRESSES: [&str; 12] = [
    "127.0.0.1:9500",
    "127.0.0.1:9501",
    "127.0.0.1:9502",
    "127.0.0.1:9503",
    "127.0.0.1:9511",
    "127.0.0.1:9512",
    "127.0.0.1:9521",
    "127.0.0.1:9522",
    "127.0.0.1:9531",
    "127.0.0.1:15000",
    "127.0.0.1:15001",
    "127.0.0.1:15002",
];

struct Pipeline {
    folder: TempDir,
    places: Vec<SocketAddr>,
}

impl Pipeline {
    fn new() -> Self {
        let (folder, places) = (tempfile::tempdir().unwrap(), ADDRESSES.map(|_| free_address()).to_vec());
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/pipeline");
        for file in std::fs::read_dir(&example).unwrap() {
            let path = file.unwrap().path();
            let mut text = std::fs::read_to_string(&path).unwrap();
            for (address, place) in ADDRESSES.iter().zip(&places) {
                let port = |address: &str| address.rsplit_once(':').unwrap().1.to_owned();
                let endpoint = |port: &str| format!("{{address: 127.0.0.1, port: {port}}}");
                text = text.replace(&format!("\"{address}\""), &format!("\"{place}\""));
                text = text.replace(&endpoint(&port(address)), &endpoint(&place.port().to_string()));
            }
            let data = example.join("../data/").canonicalize().unwrap();
            let text = text.replace("../data/", &format!("{}/", data.display()));
            std::fs::write(folder.path().join(path.file_name().unwrap()), text).unwrap();
        }
        Pipeline { folder, places }
    }

    /// Where the example has this port.
    fn at(&self, port: u16) -> SocketAddr {
        let position = ADDRESSES.iter().position(|address| address.ends_with(&format!(":{port}")));
        self.places[position.expect("a port of the example")]
    }

    fn service(&self, python: &Path, name: &str, port: u16, arguments: &[&str]) -> Program {
        let mut command = Command::new(python);
        command.arg(self.folder.path().join(name)).arg(self.at(port).port().to_string()).args(arguments);
        let mut program = Program::start(command, self.folder.path());
        program.wait_until("it listens", || listens(self.at(port)));
        program
    }

    fn sidecar(&self, name: &str, admin: u16) -> Program {
        let mut command = Command::new(LIGHTER);
        command.args(["proxy", "--config"]).arg(self.folder.path().join(name));
        let mut program = Program::start(command, self.folder.path());
        let admin = self.at(admin);
        program.wait_until("it is ready", || listens(admin) && metrics::get(admin, "/ready").0 == 200);
        program
    }
}

fn stages() -> Result<(), String> {
    let python = python("http.server")?;
    let pipeline = Pipeline::new();
    let orders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/data/orders.csv");
    let _pre = pipeline.service(&python, "pre.py", 9501, &[orders.to_str().unwrap()]);
    // Far enough apart for a machine that is busy otherwise.
    let _infer = pipeline.service(&python, "infer.py", 9502, &["150"]);
    let _fast = pipeline.service(&python, "infer.py", 9503, &["0"]);
    let [_csd, gpu] = [("csd.yaml", 15001), ("gpu.yaml", 15002)].map(|(name, at)| pipeline.sidecar(name, at));
    let _own = pipeline.sidecar("post.yaml", 15000);
    let [pre, infer] = [9511, 9512].map(|port| format!("http://{}", pipeline.at(port)));
    let _post = pipeline.service(&python, "post.py", 9500, &[&pre, &infer]);

    let mut client = Peer::connect(pipeline.at(9500));
    let mut report = || said(client.exchange(get("/report")));
    let first = report();
    assert_eq!(first, "{\"scored\": 9, \"worth_a_look\": [\"29\"]}\n");
    let answered = |service: &str, place: &str| {
        let labels = [("service", service), ("place", place), ("outcome", "answered")];
        Metrics::of(pipeline.at(15000)).sum("lighter_offload_requests_total", &labels)
    };
    let both = || (answered("default/pre", "default/csd"), answered("default/infer", "default/gpu"));
    wait_until("ten in a row have each stage where it is best", || {
        let before = both();
        // Whoever runs a stage says the same.
        (0..10).for_each(|_| assert_eq!(report(), first));
        let after = both();
        after.0 - before.0 >= 10.0 && after.1 - before.1 >= 10.0
    });
    let runs = Metrics::of(pipeline.at(15001)).sum("lighter_device_runs_total", &[("function", "scan")]);
    assert!(runs >= 10.0, "{runs} scans in the drive");
    let received = Metrics::of(pipeline.at(15002))
        .sum("lighter_requests_total", &[("direction", "inbound"), ("code_class", "2xx")]);
    assert!(received >= 10.0, "{received} calls of the other replica");

    // One place is lost: its stage is on the host, the other one stays where it is.
    drop(gpu);
    let (scans, before) = (both().0, answered("default/infer", "host"));
    (0..10).for_each(|_| assert_eq!(report(), first));
    assert!(answered("default/infer", "host") - before >= 10.0);
    assert!(both().0 > scans);
    Ok(())
}
