//! The demo's load: a few callers that ask for pages without pause, and what became of every page.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::client::{Answer, Client};

/// Callers at work. They stop when this is dropped.
pub struct Load {
    shared: Rc<Shared>,
    callers: Vec<JoinHandle<()>>,
}

/// What became of some requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Counts {
    /// Pages asked for and ended, well or not.
    pub requests: u64,
    /// Pages that did not come, or came with a status other than 200.
    pub failed: u64,
    /// What the first few of those said.
    pub failures: Vec<String>,
    /// Pages by the version of reviews in them; of reports, by the sum of what is in them.
    pub versions: BTreeMap<String, u64>,
    /// Pages by the instance of reviews in them, as `version/instance`; of reports, by how many rows they are about; of a counter,
    /// by where it was.
    pub instances: BTreeMap<String, u64>,
    /// What a counter was at, by each answer of one.
    #[serde(skip)]
    pub counted: Vec<u64>,
    /// Connections that the callers made: one each, if none was ever closed on them.
    pub dialled: u64,
    /// Kept connections between the services that were closed on them, as the last page says.
    pub services_lost: u64,
    /// How long each page took that came.
    #[serde(skip)]
    pub took: Vec<Duration>,
    /// When each of those came.
    #[serde(skip)]
    pub came: Vec<Instant>,
}

impl Counts {
    /// The share of pages with this version of reviews, from 0 to 1.
    pub fn share(&self, version: &str) -> f64 {
        let pages: u64 = self.versions.values().sum();
        self.versions.get(version).map_or(0.0, |count| *count as f64 / pages as f64)
    }

    /// How long a page took in the mean, and how long all but one in a hundred took at most. Zero, if there is none.
    pub fn latency(&self) -> (Duration, Duration) {
        let mut took = self.took.clone();
        took.sort_unstable();
        let count = u32::try_from(took.len()).unwrap_or(u32::MAX);
        let mean = took.iter().sum::<Duration>().checked_div(count).unwrap_or_default();
        (mean, took.get(took.len() * 99 / 100).copied().unwrap_or_default())
    }

    /// How long the longest took.
    pub fn longest(&self) -> Duration {
        self.took.iter().max().copied().unwrap_or_default()
    }

    /// How long none came, at most, between two that did.
    pub fn longest_gap(&self) -> Duration {
        let mut came = self.came.clone();
        came.sort_unstable();
        came.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
    }

    /// The highest that a counter was at.
    pub fn highest(&self) -> u64 {
        self.counted.iter().max().copied().unwrap_or_default()
    }

    /// Whether a counter that began with 0 counted each request once: no answer said what another one said, and none is missing.
    pub fn counted_each_once(&self) -> bool {
        let mut counted = self.counted.clone();
        counted.sort_unstable();
        counted.into_iter().eq(1..=self.requests)
    }

    /// These and others, of which none was counted twice.
    pub fn and(&self, others: &Self) -> Self {
        let mut both = self.clone();
        both.requests += others.requests;
        both.failed += others.failed;
        both.failures.extend(others.failures.iter().take(NAMED_FAILURES - both.failures.len()).cloned());
        for (mine, theirs) in
            [(&mut both.versions, &others.versions), (&mut both.instances, &others.instances)]
        {
            theirs.iter().for_each(|(name, count)| *mine.entry(name.clone()).or_default() += count);
        }
        both.dialled += others.dialled;
        both.services_lost = both.services_lost.max(others.services_lost);
        both.counted.extend(&others.counted);
        both.took.extend(&others.took);
        both.came.extend(&others.came);
        both
    }

    fn add(&mut self, outcome: &Result<Page, String>, dialled: u64, took: Duration) {
        self.requests += 1;
        self.dialled += dialled;
        match outcome {
            Ok(page) => {
                *self.versions.entry(page.of.version().to_owned()).or_default() += 1;
                *self.instances.entry(page.of.instance()).or_default() += 1;
                self.took.push(took);
                self.came.push(Instant::now());
                self.counted.extend(page.of.count());
                self.services_lost = self.services_lost.max(page.connections.lost);
            }
            Err(failure) => {
                self.failed += 1;
                if self.failures.len() < NAMED_FAILURES {
                    self.failures.push(failure.clone());
                }
            }
        }
    }
}

/// How many failures are told word for word.
const NAMED_FAILURES: usize = 3;

impl Load {
    /// Starts `callers` callers of `web`, or of what serves like it, each on a connection of its own, each with `pause` between its requests.
    /// To be called within a `LocalSet`.
    pub fn start(web: SocketAddr, callers: usize, pause: Duration) -> Self {
        Self::asking(Asks::Pages, web, callers, pause)
    }

    /// The same of a device that has the function `counters`: each request adds one to the same counter.
    pub fn adding(device: SocketAddr, callers: usize, pause: Duration) -> Self {
        Self::asking(Asks::Adds, device, callers, pause)
    }

    fn asking(asks: Asks, at: SocketAddr, callers: usize, pause: Duration) -> Self {
        let shared = Rc::new(Shared::default());
        let call = |_| tokio::task::spawn_local(call(asks, at, pause, shared.clone()));
        Load { callers: (0..callers).map(call).collect(), shared }
    }

    /// Counts `requests` requests that begin from now on. Fails if they take longer than `limit`.
    pub async fn measure(&self, requests: u64, limit: Duration) -> Result<Counts, String> {
        self.wait(limit, |counts| counts.requests >= requests).await
    }

    /// Counts requests that begin from now on, until `enough`. Fails if that takes longer than `limit`.
    pub async fn wait(&self, limit: Duration, enough: impl Fn(&Counts) -> bool) -> Result<Counts, String> {
        let shared = &self.shared;
        shared.begin_phase();
        let reached = async {
            while !enough(&shared.phase.borrow()) {
                shared.progress.notified().await;
            }
        };
        let in_time = tokio::time::timeout(limit, reached).await.is_ok();
        let counts = shared.begin_phase();
        let seconds = limit.as_secs_f32();
        if in_time { Ok(counts) } else { Err(format!("not reached within {seconds} s: {counts:?}")) }
    }

    /// Everything since the start.
    pub fn total(&self) -> Counts {
        self.shared.total.borrow().clone()
    }

    /// Lets every caller finish the request it is at, and counts everything since the start.
    pub async fn finish(mut self) -> Counts {
        self.shared.stop.set(true);
        for caller in std::mem::take(&mut self.callers) {
            // A caller does not panic; if one did, the load would lack requests, which its counts would show.
            let _ = caller.await;
        }
        self.total()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.callers.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Default)]
struct Shared {
    stop: Cell<bool>,
    /// Which phase a request that begins now belongs to.
    epoch: Cell<u64>,
    phase: RefCell<Counts>,
    total: RefCell<Counts>,
    progress: Notify,
}

impl Shared {
    /// Begins a new phase and says what the one before counted.
    fn begin_phase(&self) -> Counts {
        self.epoch.set(self.epoch.get() + 1);
        self.phase.take()
    }

    /// Counts a request that began in phase `epoch`.
    fn count(&self, epoch: u64, outcome: &Result<Page, String>, dialled: u64, took: Duration) {
        self.total.borrow_mut().add(outcome, dialled, took);
        if self.epoch.get() == epoch {
            self.phase.borrow_mut().add(outcome, dialled, took);
        }
        self.progress.notify_one();
    }
}

/// What callers ask for.
#[derive(Clone, Copy)]
enum Asks {
    Pages,
    Adds,
}

async fn call(asks: Asks, at: SocketAddr, pause: Duration, shared: Rc<Shared>) {
    let mut client = Client::new(at);
    while !shared.stop.get() {
        let (epoch, dialled, began) = (shared.epoch.get(), client.dialled, Instant::now());
        let answered = match asks {
            Asks::Pages => client.get("/").await.map(|answer| read(&answer)),
            Asks::Adds => client.post("/counters/visits").await.map(|answer| read_row(&answer)),
        };
        let outcome = answered.map_err(|error| error.to_string()).flatten();
        shared.count(epoch, &outcome, client.dialled - dialled, began.elapsed());
        tokio::time::sleep(pause).await;
    }
}

/// The parts of a page that tell where it came from.
#[derive(Deserialize)]
struct Page {
    #[serde(flatten)]
    of: Origin,
    connections: PageConnections,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Origin {
    /// By web: reviews are signed by who wrote them.
    Reviews { version: String, instance: String },
    /// By reports: what it was told of orders is known by its sum.
    Orders { rows: u64, sha256: String },
    /// By a counter: where it was when it counted so far.
    Counter { place: String, count: u64 },
    /// By the function `counters`, which does not say where it is.
    #[serde(skip)]
    Row { value: u64 },
}

/// What the function `counters` says.
#[derive(Deserialize)]
struct Row {
    value: u64,
}

#[derive(Deserialize)]
struct PageConnections {
    lost: u64,
}

impl Origin {
    fn version(&self) -> &str {
        match self {
            Origin::Reviews { version, .. } => version,
            Origin::Orders { sha256, .. } => sha256,
            Origin::Counter { .. } => "counter",
            Origin::Row { .. } => "counters",
        }
    }

    fn count(&self) -> Option<u64> {
        match self {
            Origin::Counter { count, .. } | Origin::Row { value: count } => Some(*count),
            Origin::Reviews { .. } | Origin::Orders { .. } => None,
        }
    }

    fn instance(&self) -> String {
        match self {
            Origin::Reviews { version, instance } => format!("{version}/{instance}"),
            Origin::Orders { rows, .. } => format!("{rows} rows"),
            Origin::Counter { place, .. } => format!("counter/{place}"),
            Origin::Row { .. } => "counters".to_owned(),
        }
    }
}

fn read(answer: &Answer) -> Result<Page, String> {
    parse(answer, "a page")
}

fn read_row(answer: &Answer) -> Result<Page, String> {
    let Row { value } = parse(answer, "a row")?;
    Ok(Page { of: Origin::Row { value }, connections: PageConnections { lost: 0 } })
}

fn parse<T: DeserializeOwned>(answer: &Answer, what: &str) -> Result<T, String> {
    let text = String::from_utf8_lossy(&answer.body);
    match answer.status {
        200 => serde_json::from_str(&text).map_err(|error| format!("not {what}: {error}: {text}")),
        other => Err(format!("{other}: {}", text.trim())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::LocalSet;

    const LONG: Duration = Duration::from_secs(60);

    /// Every fourth answer is a failure; the pages alternate between two versions.
    async fn web(listener: TcpListener) {
        let served = Rc::new(Cell::new(0));
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let served = served.clone();
            tokio::task::spawn_local(async move {
                while socket.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
                    let n = served.get();
                    served.set(n + 1);
                    let (status, version) = (if n % 4 == 3 { 502 } else { 200 }, 1 + n % 2);
                    let page = format!(
                        r#"{{"reviews":{{"version":"v{version}","instance":"a"}},"connections":{{"lost":2}}}}"#
                    );
                    let answer =
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{page}", page.len());
                    socket.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    }

    fn with_load(test: impl AsyncFnOnce(Load)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::task::spawn_local(web(listener));
            test(Load::start(address, 2, Duration::ZERO)).await;
        });
    }

    #[test]
    fn every_page_is_counted_by_its_version_and_every_failure_is_named() {
        with_load(async |load| {
            let counts = load.measure(400, LONG).await.unwrap();
            assert!((400..404).contains(&counts.requests), "{counts:?}");
            assert!((99..=102).contains(&counts.failed), "{counts:?}");
            assert_eq!(counts.failures.len(), NAMED_FAILURES);
            assert!(counts.failures[0].starts_with("502: "), "{counts:?}");
            assert!((0.6..0.7).contains(&counts.share("v1")), "{counts:?}");
            assert_eq!(counts.services_lost, 2);
            let total = load.finish().await;
            assert!(total.requests >= counts.requests);
            assert_eq!(total.dialled, 2, "connections are kept");
        });
    }

    #[test]
    fn waiting_for_what_does_not_come_fails_with_what_was_seen() {
        with_load(async |load| {
            let failure = load.wait(Duration::from_millis(50), |_| false).await.unwrap_err();
            assert!(failure.contains("not reached") && failure.contains("requests"), "{failure}");
        });
    }
}
