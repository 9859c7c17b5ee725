//! Readings of a sidecar's `/metrics`.

use std::net::SocketAddr;

use super::raw::{Body, Peer};

/// One reading.
#[derive(Debug)]
pub struct Metrics(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Reads them from an admin port.
    pub fn of(admin: SocketAddr) -> Self {
        Self::parse(&get(admin, "/metrics").1)
    }

    /// Prometheus text.
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Metrics(lines.map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"))).collect())
    }

    /// The sum of every series of `name` that has these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).sum()
    }

    /// Whether there is such a series.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.series(name, labels).next().is_some()
    }

    fn series<'a>(&'a self, name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = f64> + 'a {
        let fits = move |has: &[(String, String)]| {
            labels.iter().all(|(name, value)| has.iter().any(|(is, of)| is == name && of == value))
        };
        self.0
            .iter()
            .filter(move |sample| sample.name == name && fits(&sample.labels))
            .map(|sample| sample.value)
    }
}

/// Asks an admin port; gives status and body.
pub fn get(admin: SocketAddr, path: &str) -> (u16, String) {
    ask(admin, "GET", path)
}

/// Asks an admin port by another method.
pub fn ask(admin: SocketAddr, method: &str, path: &str) -> (u16, String) {
    let mut peer = Peer::connect(admin);
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let (head, body) = peer.exchange(request);
    match body {
        Body::Whole(bytes) => (head.status(), String::from_utf8(bytes).unwrap()),
        Body::Cut(_) => panic!("the admin port cuts its answer to {path}"),
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Sample { name: series.to_owned(), labels: Vec::new(), value });
    };
    let mut rest = rest.strip_suffix('}')?;
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        // Our own labels have no quotes in them.
        let (value, after) = after.split_once('"')?;
        labels.push((label.to_owned(), value.to_owned()));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some(Sample { name: name.to_owned(), labels, value })
}
