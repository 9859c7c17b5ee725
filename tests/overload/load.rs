//! Clients that ask at a steady rate, whatever comes of it, and for whom an answer after more than a second is none.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until, timeout};

use crate::support::http2;

/// What came of a time.
#[derive(Default)]
pub struct Seen {
    /// Of what was answered in time, and well.
    pub latencies: Vec<Duration>,
    /// Answered with 503.
    pub refused: usize,
    /// Not answered in time.
    pub late: usize,
    /// All else.
    pub failed: usize,
    time: Duration,
}

impl Seen {
    /// Good answers in a second.
    pub fn goodput(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }

    /// The latency that so many percent of them do not exceed.
    pub fn quantile(&self, percent: usize) -> Duration {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        latencies.get(latencies.len() * percent / 100).or(latencies.last()).copied().unwrap_or_default()
    }
}

/// Asks `rate` times a second for a time, and waits for the last answer.
pub fn ask(at: SocketAddr, rate: f64, time: Duration) -> Seen {
    let seen = Rc::new(RefCell::new(Seen { time, ..Seen::default() }));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(http2::connect(at).await);
        }
        let began = Instant::now();
        let mut asked = JoinSet::new();
        for number in 0..(rate * time.as_secs_f64()) as usize {
            sleep_until(began + Duration::from_secs_f64(number as f64 / rate)).await;
            asked.spawn_local(one(clients[number % CONNECTIONS].clone(), seen.clone()));
            while asked.try_join_next().is_some() {}
        }
        while asked.join_next().await.is_some() {}
    });
    Rc::into_inner(seen).unwrap().into_inner()
}

/// Whoever is late is waited for all the same: a client that breaks off at that moment would relieve the other side.
async fn one(client: SendRequest<Bytes>, seen: Rc<RefCell<Seen>>) {
    let began = Instant::now();
    let answer = timeout(LAST, http2::get(&client, "/")).await;
    let (mut seen, latency) = (seen.borrow_mut(), began.elapsed());
    match answer {
        Ok(Ok(answer)) if answer.head.status == 503 => seen.refused += 1,
        Ok(Ok(answer)) if answer.head.status == 200 && latency <= PATIENCE => seen.latencies.push(latency),
        Ok(Ok(answer)) if answer.head.status == 200 => seen.late += 1,
        _ => seen.failed += 1,
    }
}

const CONNECTIONS: usize = 8;
/// An answer that takes longer is good for nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// None takes longer.
const LAST: Duration = Duration::from_secs(30);
