//! The task that keeps a stream to the control plane and puts what it tells in force. Of the control thread.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use lighter_config::snapshot::Snapshot;
use lighter_config::xds::Kind;
use lighter_config::xds::client::{Backoff, Key, Received};
use lighter_config::xds::decode::{self, Resource};
use lighter_config::xds::wire::envoy::config::core::v3::Node;
use lighter_config::xds::wire::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::stream::futures::BoxFuture;
use super::stream::{self, Answers, Opening};
use super::{Discover, State, store};
use crate::worker::Shared;
use crate::{channel, resources};

/// Puts in force what was in force when the last process of this sidecar ended.
pub(crate) fn restore(shared: &Shared, discover: &Discover) {
    let Some(path) = discover.config.state.as_deref().map(store::path) else { return };
    let mut state = discover.state();
    let own = state.client.wanted().clone();
    match store::read(&path) {
        Ok(Some(kept)) => {
            for refusal in state.client.restore(&kept) {
                tracing::warn!("what was kept of {refusal} is not usable any more");
            }
            // Beside its own file's wants stay those of traffic. Others are of an earlier file, and perhaps of another
            // workload, whose word on who may call is nothing to this one.
            let is_over = |key: &&Key| key.kind != Kind::Address && !own.contains(*key);
            let over: Vec<Key> = state.client.wanted().iter().filter(is_over).cloned().collect();
            over.iter().for_each(|key| state.client.unwant(key));
            let resources = state.client.in_force().count();
            tracing::info!(path = %path.display(), resources, "what was in force last is in force again");
            publish(shared, discover, &mut state);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(path = %path.display(), %error, "what was in force last cannot be read"),
    }
}

/// Talks to the control plane until it is dropped.
pub(crate) async fn run(shared: Arc<Shared>) {
    let Some(discover) = &shared.discover else { return };
    let inbox = discover.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut asks) = inbox else { return };
    let mut task = Task::new(&shared, discover);
    loop {
        task.speak();
        task.publish();
        let now = Instant::now();
        let client = task.client_wakes_at();
        let time = task.keep_at.into_iter().chain(client).min();
        let alarm = async {
            match time {
                Some(at) => sleep_until(at.max(now).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = task.link.next() => task.happened(event),
            Some(key) = asks.recv() => {
                task.want(key);
                while let Ok(key) = asks.try_recv() {
                    task.want(key);
                }
            }
            () = alarm => task.time_passed().await,
        }
    }
}

struct Task<'a> {
    shared: &'a Arc<Shared>,
    discover: &'a Discover,
    link: Link,
    backoff: Backoff,
    /// What was asked for by lookups, the oldest first.
    asked: VecDeque<Key>,
    /// What the mesh was last made from.
    published: Option<u64>,
    /// When what is in force is written down, if it changed since it was.
    keep_at: Option<Instant>,
    /// The next request is the first of its stream.
    is_first: bool,
    /// The log says that there is a control plane.
    is_told: bool,
}

/// The way to the server.
enum Link {
    /// It is tried again after a while.
    Waiting(BoxFuture<()>),
    Connecting(BoxFuture<Result<Opening, String>>),
    Opening(mpsc::UnboundedSender<DiscoveryRequest>, BoxFuture<Result<Answers, String>>),
    Open(mpsc::UnboundedSender<DiscoveryRequest>, Box<Answers>),
}

enum Event {
    Waited,
    Connected(Opening),
    Opened(Box<Answers>),
    Answer(Box<DiscoveryResponse>),
    Lost(String),
}

impl Link {
    /// What happens next. Dropped before it is ready, nothing is lost.
    async fn next(&mut self) -> Event {
        match self {
            Link::Waiting(pause) => {
                pause.await;
                Event::Waited
            }
            Link::Connecting(connecting) => match connecting.await {
                Ok(opening) => Event::Connected(opening),
                Err(error) => Event::Lost(error),
            },
            Link::Opening(_, opening) => match opening.await {
                Ok(answers) => Event::Opened(Box::new(answers)),
                Err(error) => Event::Lost(error),
            },
            Link::Open(_, answers) => match answers.message().await {
                Ok(Some(answer)) => Event::Answer(Box::new(answer)),
                Ok(None) => Event::Lost("the server ended the stream".to_owned()),
                Err(status) => Event::Lost(channel::say(&status)),
            },
        }
    }
}

impl<'a> Task<'a> {
    fn new(shared: &'a Arc<Shared>, discover: &'a Discover) -> Self {
        let state = discover.state();
        let on_demand = state.client.wanted().iter().filter(|key| key.kind == Kind::Address);
        Task {
            shared,
            discover,
            link: connecting(shared, discover),
            backoff: Backoff::default(),
            asked: on_demand.cloned().collect(),
            published: None,
            keep_at: None,
            is_first: true,
            is_told: false,
        }
    }

    /// Sends what is to be said.
    fn speak(&mut self) {
        let (Link::Opening(requests, _) | Link::Open(requests, _)) = &self.link else { return };
        let mut state = self.discover.state();
        while let Some(mut request) = state.client.poll(Instant::now()) {
            if std::mem::take(&mut self.is_first) {
                request.node = Some(node(self.shared));
            }
            self.discover.metrics.requested();
            // Fails on a stream that is lost, which is heard of next.
            let _ = requests.send(request);
        }
    }

    /// Puts in force what is new.
    fn publish(&mut self) {
        let mut state = self.discover.state();
        if self.published.replace(state.client.revision()) != Some(state.client.revision()) {
            publish(self.shared, self.discover, &mut state);
            if self.discover.config.state.is_some() {
                self.keep_at.get_or_insert(Instant::now() + KEEP_AFTER);
            }
        } else {
            state.note_in_force();
            self.discover.tell(&state);
        }
        self.discover.metrics.show(&state.client);
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Waited => self.link = connecting(self.shared, self.discover),
            Event::Connected(Opening { requests, answers }) => {
                self.is_first = true;
                self.discover.state().client.connected();
                self.link = Link::Opening(requests, answers);
            }
            Event::Opened(answers) => {
                self.discover.metrics.stream(true);
                if let Link::Opening(requests, _) = &self.link {
                    self.link = Link::Open(requests.clone(), answers);
                }
            }
            Event::Answer(answer) => self.heard(*answer),
            Event::Lost(fault) => self.lost(fault),
        }
    }

    fn heard(&mut self, answer: DiscoveryResponse) {
        let mut state = self.discover.state();
        if state.fault.take().is_some() || !self.is_told {
            self.is_told = true;
            tracing::info!(control = self.discover.config.address, "the control plane answers");
        }
        self.backoff.reset();
        let (type_url, version) = (answer.type_url.clone(), answer.version_info.clone());
        let received = state.client.receive(answer);
        self.discover.metrics.received(&received);
        match received {
            Received::Accepted(kind) => tracing::debug!(%kind, version, "accepted"),
            Received::Refused(kind, refusals) => {
                for refusal in refusals {
                    tracing::error!(%kind, version, "refused, what was in force stays: {refusal}");
                }
            }
            Received::Unasked => {
                tracing::warn!(type_url, "the control plane tells of what it was not asked for")
            }
        }
    }

    fn lost(&mut self, fault: String) {
        let mut state = self.discover.state();
        if !matches!(self.link, Link::Open(..)) {
            self.discover.metrics.stream(false);
        }
        let wait = self.backoff.wait(fastrand::f64());
        // Said once, not at every try.
        if state.fault.as_ref() != Some(&fault) {
            tracing::warn!(
                control = self.discover.config.address,
                fault,
                "no control plane: what is in force stays"
            );
        }
        state.client.disconnected();
        state.fault = Some(fault);
        self.link = Link::Waiting(Box::pin(sleep(wait)));
    }

    /// Wants what a lookup asks for; of too many, the oldest that means nothing is forgotten.
    fn want(&mut self, key: Key) {
        let mut state = self.discover.state();
        if state.client.wanted().contains(&key) {
            return;
        }
        if self.asked.len() >= MOST_ASKED {
            let is_nothing = |key: &Key| match state.client.get(key) {
                Some(Resource::Address(address)) => address.found.is_none(),
                _ => true,
            };
            let place = self.asked.iter().position(is_nothing).unwrap_or(0);
            if let Some(oldest) = self.asked.remove(place) {
                state.client.unwant(&oldest);
            }
        }
        state.client.want(key.clone());
        self.asked.push_back(key);
    }

    fn client_wakes_at(&self) -> Option<Instant> {
        self.discover.state().client.wakes_at()
    }

    async fn time_passed(&mut self) {
        let now = Instant::now();
        self.discover.state().client.time_passed(now);
        if self.keep_at.is_some_and(|at| at <= now) {
            self.keep_at = None;
            self.keep().await;
        }
    }

    /// Writes down what is in force. A disk may be slow, so that a thread of its own does.
    async fn keep(&mut self) {
        let Some(path) = self.discover.config.state.as_deref().map(store::path) else { return };
        let kept = self.discover.state().client.keep();
        let place = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || store::write(&path, &kept)).await;
        let written = written.map_err(std::io::Error::other).flatten();
        self.discover.metrics.kept(written.is_ok());
        if let Err(error) = written {
            tracing::warn!(path = place, %error, "what is in force cannot be kept");
        }
    }
}

/// Makes what is in force the mesh's, and lets lookups see it.
fn publish(shared: &Shared, discover: &Discover, state: &mut State) {
    resources::pushed(shared, snapshot(state));
    state.note_in_force();
    discover.tell(state);
}

/// What is in force as a snapshot.
fn snapshot(state: &State) -> Snapshot {
    decode::assemble(state.client.in_force().map(|(_, held)| held.resource()))
}

fn connecting(shared: &Arc<Shared>, discover: &Discover) -> Link {
    let (shared, control) = (shared.clone(), discover.config.clone());
    Link::Connecting(Box::pin(async move { channel::open(&shared, &control).await.map(stream::open) }))
}

/// What the server is told of this sidecar.
fn node(shared: &Shared) -> Node {
    let service = match shared.service() {
        Some(service) => service.to_string(),
        None => format!("-/{}", shared.config.namespace),
    };
    Node {
        id: format!("{service}/{}", shared.instance),
        cluster: service,
        user_agent_name: "lighter".into(),
        user_agent_version: env!("CARGO_PKG_VERSION").into(),
        ..Node::default()
    }
}

/// Changes that come one after the other are written down together.
const KEEP_AFTER: Duration = Duration::from_millis(200);

/// Addresses and names that lookups asked about.
const MOST_ASKED: usize = 1024;
