//! Sends spans to the collector, in batches, from the control thread. A collector that is slow or away never stops a
//! worker: what does not fit into the queue is dropped and counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use metrics::{Counter, counter, describe_counter};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Channel;

use super::SPANS;
use super::otlp::{self, Client, Named, Span};
use crate::channel;
use crate::worker::Shared;

/// What workers put in and the control thread takes out.
pub(super) struct Queue {
    spans: mpsc::Sender<Item>,
    taken: Mutex<Option<mpsc::Receiver<Item>>>,
    named: Named,
    dropped: Counter,
}

enum Item {
    Span(Box<Span>),
    /// All before it is to be sent now, and whoever asks is told.
    Flush(oneshot::Sender<()>),
}

impl Queue {
    pub(super) fn new(named: Named) -> Self {
        describe_counter!(COUNTED, "Spans of traces, by what became of them.");
        let (spans, taken) = mpsc::channel(WAITING);
        Queue {
            spans,
            taken: Mutex::new(Some(taken)),
            named,
            dropped: counter!(COUNTED, "outcome" => "dropped"),
        }
    }

    pub(super) fn put(&self, span: Span) {
        if self.spans.try_send(Item::Span(Box::new(span))).is_err() {
            self.dropped.increment(1);
        }
    }
}

/// Sends what is put into the queue to `address`, `host:port`, until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>, address: String) {
    let Some(spans) = SPANS.get() else { return };
    let Some(taken) = spans.queue.taken.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let mut exporter =
        Exporter { shared, address, client: None, named: spans.queue.named.clone(), away: false };
    exporter.run(taken).await;
}

/// Waits until all that was recorded before is sent, but not longer than `patience`.
pub(crate) async fn flush(patience: Duration) {
    let Some(spans) = SPANS.get() else { return };
    let (told, sent) = oneshot::channel();
    let flush = async {
        if spans.queue.spans.send(Item::Flush(told)).await.is_ok() {
            let _ = sent.await;
        }
    };
    let _ = timeout(patience, flush).await;
}

struct Exporter {
    shared: Arc<Shared>,
    address: String,
    client: Option<Client<Channel>>,
    named: Named,
    /// The log has said that the collector is away.
    away: bool,
}

impl Exporter {
    async fn run(&mut self, mut taken: mpsc::Receiver<Item>) {
        let mut items = Vec::new();
        while taken.recv_many(&mut items, BATCH).await > 0 {
            // Others may follow soon, unless somebody waits for these.
            if items.len() < BATCH && !items.iter().any(|item| matches!(item, Item::Flush(_))) {
                sleep(EVERY).await;
                while items.len() < BATCH
                    && let Ok(item) = taken.try_recv()
                {
                    items.push(item);
                }
            }
            let (mut spans, mut asked) = (Vec::new(), Vec::new());
            for item in items.drain(..) {
                match item {
                    Item::Span(span) => spans.push(*span),
                    Item::Flush(told) => asked.push(told),
                }
            }
            if !spans.is_empty() {
                self.export(spans).await;
            }
            for told in asked {
                let _ = told.send(());
            }
        }
    }

    /// Sends one batch; what fails for the moment is tried again a few times.
    async fn export(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let request = otlp::export(&self.named, spans);
        let mut pause = FIRST_PAUSE;
        for _ in 0..TRIES {
            match timeout(ANSWERED_WITHIN, self.send(&request)).await {
                Ok(Ok(rejected)) => {
                    let rejected = rejected.min(count);
                    counter!(COUNTED, "outcome" => "exported").increment(count - rejected);
                    counter!(COUNTED, "outcome" => "rejected").increment(rejected);
                    if std::mem::take(&mut self.away) {
                        tracing::info!(address = self.address, "the collector of spans is back");
                    }
                    return;
                }
                Ok(Err((error, again))) => {
                    self.log(&error);
                    if !again {
                        break;
                    }
                }
                Err(_) => self.log("it does not answer"),
            }
            self.client = None;
            sleep(pause).await;
            pause *= 4;
        }
        counter!(COUNTED, "outcome" => "failed").increment(count);
    }

    /// How many spans were rejected; or what failed, and whether it may be tried again.
    async fn send(&mut self, request: &Bytes) -> Result<u64, (String, bool)> {
        let client = match &mut self.client {
            Some(client) => client,
            none => {
                let opened = channel::connect(&self.address, self.shared.outside.clone(), None).await;
                none.insert(Client::new(opened.map_err(|error| (error, true))?.channel))
            }
        };
        let answer = client.export(request.clone()).await.map_err(|status| {
            // Those that OTLP says may be tried again.
            let again = matches!(
                status.code(),
                Code::Cancelled
                    | Code::DeadlineExceeded
                    | Code::Aborted
                    | Code::OutOfRange
                    | Code::Unavailable
                    | Code::DataLoss
            );
            (channel::say(&status), again)
        })?;
        let partial = answer.into_inner().partial_success.unwrap_or_default();
        if !partial.error_message.is_empty() {
            self.log(&partial.error_message);
        }
        Ok(u64::try_from(partial.rejected_spans).unwrap_or(0))
    }

    /// Once, until all is well again.
    fn log(&mut self, error: &str) {
        if !std::mem::replace(&mut self.away, true) {
            tracing::warn!(address = self.address, error, "the collector does not take spans");
        }
    }
}

const COUNTED: &str = "lighter_trace_spans_total";

/// Most spans that wait.
const WAITING: usize = 4096;
/// Most spans of one request to the collector.
const BATCH: usize = 512;
/// How long a span waits for others.
const EVERY: Duration = Duration::from_millis(500);
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
