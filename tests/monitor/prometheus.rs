//! A Prometheus that watches one sidecar, with the example's own configuration but for where and how often.

use std::net::SocketAddr;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::process::{Program, find, free_address, listens};
use crate::support::{metrics, wait_until};

pub struct Prometheus {
    address: SocketAddr,
    _program: Program,
    _folder: TempDir,
}

impl Prometheus {
    /// Starts one; the reason where it is not installed.
    pub fn watch(admin: SocketAddr) -> Result<Self, String> {
        let program = find("prometheus")?;
        let folder = tempfile::tempdir().unwrap();
        let example = std::fs::read_to_string(crate::monitoring("prometheus.yaml")).unwrap();
        let (sidecars, _) = example.split_once("  - job_name: lighter-control").unwrap();
        let config = sidecars
            .replace("interval: 15s", "interval: 500ms")
            .replace("127.0.0.1:15000", &admin.to_string());
        assert!(config.contains("500ms") && config.contains(&admin.to_string()), "{config}");
        std::fs::write(folder.path().join("prometheus.yaml"), config).unwrap();
        std::fs::copy(crate::monitoring("alerts.yaml"), folder.path().join("alerts.yaml")).unwrap();
        let address = free_address();
        let mut command = std::process::Command::new(program);
        command.current_dir(folder.path());
        command.args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data", "--log.level=warn"]);
        command.arg("--enable-feature=exemplar-storage");
        command.arg(format!("--web.listen-address={address}"));
        let mut program = Program::start(command, folder.path());
        program.wait_until("it is ready", || listens(address) && metrics::get(address, "/-/ready").0 == 200);
        Ok(Prometheus { address, _program: program, _folder: folder })
    }

    /// How many series answer a query. It is a fault if the query cannot be worked out.
    pub fn ask(&self, query: &str) -> usize {
        self.values(query).len()
    }

    /// Waits until a query gives one series of this value.
    pub fn wait_for(&self, query: &str, value: f64) {
        wait_until(&format!("{query} is {value}"), || self.values(query) == [value]);
    }

    /// How many alerts it knows, and how many of them it cannot work out.
    pub fn alerts(&self) -> (usize, usize) {
        let mut health = Vec::new();
        wait_until("it has looked at each alert", || {
            let answer = self.json("/api/v1/rules?type=alert");
            let groups = answer["data"]["groups"].as_array().unwrap();
            let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
            health = rules.map(|rule| rule["health"].as_str().unwrap().to_owned()).collect();
            health.iter().all(|health| health != "unknown")
        });
        (health.len(), health.iter().filter(|health| *health != "ok").count())
    }

    /// The traces of the exemplars of a metric.
    pub fn exemplars(&self, metric: &str) -> Vec<String> {
        let answer = self.json(&format!("/api/v1/query_exemplars?query={metric}&start=0&end=9999999999"));
        let series = answer["data"].as_array().unwrap().iter();
        let exemplars = series.flat_map(|series| series["exemplars"].as_array().unwrap());
        exemplars.map(|one| one["labels"]["trace_id"].as_str().unwrap().to_owned()).collect()
    }

    fn values(&self, query: &str) -> Vec<f64> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.json(&format!("/api/v1/query?query={query}"));
        let series = answer["data"]["result"].as_array().unwrap();
        series.iter().map(|series| series["value"][1].as_str().unwrap().parse().unwrap()).collect()
    }

    fn json(&self, path: &str) -> Value {
        let (status, answer) = metrics::get(self.address, path);
        assert_eq!(status, 200, "{path}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }
}
