//! The client against a server that forgets, repeats, reorders, restarts and says what is wrong.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use prost_types::Any;

use super::*;

/// Messages are text: `name;tag;bad;needs;leads`.
struct Text;

#[derive(Clone, Debug, PartialEq)]
struct Body {
    tag: u8,
    bad: bool,
    needs: Vec<Key>,
    leads: Vec<Key>,
}

impl Codec for Text {
    type Resource = u8;

    fn decode(&self, _: Kind, message: &[u8]) -> Result<Decoded<u8>, Refusal> {
        let text = std::str::from_utf8(message).unwrap();
        let [name, tag, bad, needs, leads] = text.split(';').collect::<Vec<_>>().try_into().unwrap();
        let name: Arc<str> = name.into();
        if bad == "true" {
            return Err(Refusal { name: Some(name), reason: "tag: bad".into() });
        }
        let keys = |text: &str| text.split(',').filter(|one| !one.is_empty()).map(parse).collect();
        Ok(Decoded { name, resource: tag.parse().unwrap(), needs: keys(needs), leads: keys(leads) })
    }
}

fn key(kind: Kind, name: &str) -> Key {
    Key { kind, name: name.into() }
}

fn parse(text: &str) -> Key {
    let (kind, name) = text.split_once(' ').unwrap();
    key(Kind::ALL.into_iter().find(|one| one.label() == kind).unwrap(), name)
}

fn message(name: &str, body: &Body) -> Vec<u8> {
    let keys = |keys: &[Key]| keys.iter().map(Key::to_string).collect::<Vec<_>>().join(",");
    format!("{name};{};{};{};{}", body.tag, body.bad, keys(&body.needs), keys(&body.leads)).into_bytes()
}

fn wrapped(kind: Kind, name: &str, body: &Body) -> Any {
    Any { type_url: kind.url().into(), value: message(name, body) }
}

/// What there is to say, and the revision of each kind, which is its version.
#[derive(Default)]
struct World {
    bodies: BTreeMap<Key, Body>,
    revisions: BTreeMap<Kind, u64>,
}

impl World {
    fn set(&mut self, key: Key, body: Option<Body>) {
        *self.revisions.entry(key.kind).or_default() += 1;
        match body {
            Some(body) => drop(self.bodies.insert(key, body)),
            None => drop(self.bodies.remove(&key)),
        }
    }

    fn version(&self, kind: Kind) -> String {
        self.revisions.get(&kind).copied().unwrap_or_default().to_string()
    }
}

/// The server's end of a stream.
#[derive(Default)]
struct Server {
    names: BTreeMap<Kind, BTreeSet<String>>,
    told: BTreeMap<Key, Body>,
    nonces: BTreeMap<Kind, u64>,
    last: BTreeMap<Kind, DiscoveryResponse>,
}

impl Server {
    fn take(&mut self, request: &DiscoveryRequest, world: &World) -> Option<DiscoveryResponse> {
        let kind = Kind::of_url(&request.type_url).unwrap();
        let nonce = self.nonces.get(&kind).copied().unwrap_or_default();
        if nonce != 0 && request.response_nonce != nonce.to_string() {
            return None;
        }
        let names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        let is_first = !self.names.contains_key(&kind);
        assert!(!(is_first && names.is_empty()), "it asks for everything there is");
        let before = self.names.insert(kind, names.clone());
        self.told.retain(|key, _| key.kind != kind || names.contains(&*key.name));
        if is_first && request.version_info == world.version(kind) {
            for (key, body) in world.bodies.iter().filter(|(key, _)| names.contains(&*key.name)) {
                if key.kind == kind {
                    self.told.insert(key.clone(), body.clone());
                }
            }
            return None;
        }
        (before.as_ref() != Some(&names)).then(|| self.answer(kind, world))
    }

    /// What changed, of every kind that was asked for.
    fn push(&mut self, world: &World) -> Vec<DiscoveryResponse> {
        let mut answers = Vec::new();
        for kind in self.names.keys().copied().collect::<Vec<_>>() {
            let now = self.now(kind, world);
            let told: BTreeMap<Key, Body> = self
                .told
                .iter()
                .filter(|(key, _)| key.kind == kind)
                .map(|(k, b)| (k.clone(), b.clone()))
                .collect();
            if now != told {
                answers.push(self.answer(kind, world));
            }
        }
        answers
    }

    fn now(&self, kind: Kind, world: &World) -> BTreeMap<Key, Body> {
        let names = &self.names[&kind];
        let wanted = world.bodies.iter().filter(|(key, _)| key.kind == kind && names.contains(&*key.name));
        wanted.map(|(key, body)| (key.clone(), body.clone())).collect()
    }

    fn answer(&mut self, kind: Kind, world: &World) -> DiscoveryResponse {
        let now = self.now(kind, world);
        let news = now.iter().filter(|(key, body)| kind.is_whole() || self.told.get(*key) != Some(*body));
        let resources = news.map(|(key, body)| wrapped(kind, &key.name, body)).collect();
        self.told.retain(|key, _| key.kind != kind);
        self.told.extend(now);
        let nonce = self.nonces.entry(kind).or_default();
        *nonce += 1;
        let answer = DiscoveryResponse {
            version_info: world.version(kind),
            resources,
            type_url: kind.url().into(),
            nonce: nonce.to_string(),
            ..DiscoveryResponse::default()
        };
        self.last.insert(kind, answer.clone());
        answer
    }
}

/// A client, a server, what is on its way between them, and a clock.
struct Bench {
    client: Client<Text>,
    world: World,
    server: Server,
    requests: VecDeque<DiscoveryRequest>,
    answers: VecDeque<DiscoveryResponse>,
    last: BTreeMap<Kind, DiscoveryRequest>,
    now: Instant,
    /// Since when something is on its way.
    under_way: Option<Instant>,
}

impl Bench {
    fn new() -> Self {
        Bench {
            client: Client::new(Text, ABSENT_AFTER),
            world: World::default(),
            server: Server::default(),
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            last: BTreeMap::new(),
            now: Instant::now(),
            under_way: None,
        }
    }

    fn cut(&mut self) {
        self.client.disconnected();
        self.requests.clear();
        self.answers.clear();
        self.last.clear();
        self.server = Server::default();
    }

    fn connect(&mut self) {
        if !self.client.is_connected() {
            self.client.connected();
        }
    }

    /// A new process with what the old one left.
    fn restart(&mut self) {
        self.cut();
        let kept = Kept::from_bytes(&self.client.keep().to_bytes()).unwrap();
        // All but what waits for something that is not in force itself.
        self.client.held = self.client.in_force.clone();
        self.client.settle();
        let before = in_force(&self.client);
        self.client = Client::new(Text, ABSENT_AFTER);
        assert_eq!(self.client.restore(&kept), []);
        assert_eq!(in_force(&self.client), before);
    }

    /// The client says what it has to say. A request that says nothing new is a fault.
    fn poll(&mut self) {
        while let Some(request) = self.client.poll(self.now) {
            let kind = Kind::of_url(&request.type_url).unwrap();
            if let Some(last) = self.last.insert(kind, request.clone()) {
                assert_ne!(
                    last.resource_names, request.resource_names,
                    "asked for the same, and owes no word"
                );
            }
            self.requests.push_back(request);
        }
    }

    fn serve_one(&mut self) -> bool {
        let Some(request) = self.requests.pop_front() else { return false };
        self.answers.extend(self.server.take(&request, &self.world));
        true
    }

    fn hear_one(&mut self) -> bool {
        let Some(answer) = self.answers.pop_front() else { return false };
        self.hear(answer);
        true
    }

    /// Takes an answer in, and checks what must hold at every step.
    fn hear(&mut self, answer: DiscoveryResponse) {
        // To which a word is owed.
        Kind::of_url(&answer.type_url).map(|kind| self.last.remove(&kind));
        self.checked(|client| drop(client.receive(answer)));
    }

    fn checked(&mut self, step: impl FnOnce(&mut Client<Text>)) {
        let client = &mut self.client;
        let before = client.in_force.clone();
        let revision = client.revision();
        step(client);
        for (key, held) in &client.in_force {
            if before.get(key).is_some_and(|old| Arc::ptr_eq(old, held)) {
                continue;
            }
            for need in &held.decoded.needs {
                let is_there = client.in_force.contains_key(need) || client.absent.contains(need);
                assert!(is_there, "{key} came in force before {need}");
            }
        }
        for key in before.keys().filter(|key| client.reached.contains(key) && !client.absent.contains(key)) {
            assert!(client.in_force.contains_key(key), "{key} was lost");
        }
        let is_same = before.len() == client.in_force.len()
            && client
                .in_force
                .iter()
                .all(|(key, held)| before.get(key).is_some_and(|old| Arc::ptr_eq(old, held)));
        assert!(is_same || client.revision() > revision, "a change that nobody is told of");
    }

    /// Until nobody has anything to say, time or no time.
    fn settle(&mut self) {
        self.connect();
        for _ in 0..200 {
            self.poll();
            let mut moved = self.serve_one();
            moved |= self.hear_one();
            if !moved {
                let news = self.server.push(&self.world);
                moved = !news.is_empty();
                self.answers.extend(news);
            }
            if !moved {
                match self.client.wakes_at() {
                    Some(at) => {
                        self.now = at;
                        let now = self.now;
                        self.checked(|client| client.time_passed(now));
                    }
                    None => return,
                }
            }
        }
        panic!("it does not settle");
    }

    /// What must hold when everything was said.
    fn check(&self) {
        let client = &self.client;
        for key in &client.reached {
            assert!(self.server.names[&key.kind].contains(&*key.name), "{key} was not asked for");
            match self.world.bodies.get(key) {
                Some(body) if body.bad => assert!(client.refused.contains_key(key), "{key} is bad"),
                Some(body) => {
                    let held = client.held.get(key).unwrap_or_else(|| panic!("{key} is not held"));
                    assert_eq!(held.message, message(&key.name, body), "{key} is outdated");
                }
                // Who may call is kept until the server says something else.
                None if key.kind == Kind::Workload => {}
                None if key.kind.is_whole() => assert_eq!(client.standing(key), Standing::Absent, "{key}"),
                // Nobody says that something of these kinds is gone.
                None => {}
            }
        }
        let asked = self.server.names.values().map(BTreeSet::len).sum::<usize>();
        assert_eq!(asked, client.reached.len(), "asked for what nobody wants");
        let is_needless = |key: &Key| !client.reached.contains(key);
        assert!(!client.held.keys().chain(&client.absent).any(is_needless), "holds what nobody wants");
        for key in client.reached.iter().filter(|key| self.is_warm(key, &mut BTreeSet::new())) {
            let body = &self.world.bodies[key];
            assert_eq!(client.get(key), Some(&body.tag), "{key} is not in force");
        }
    }

    /// Whether the world says it, and all that it needs.
    fn is_warm(&self, key: &Key, seen: &mut BTreeSet<Key>) -> bool {
        let Some(body) = self.world.bodies.get(key).filter(|body| !body.bad) else { return false };
        let mut fits = |need: &Key| {
            !seen.insert(need.clone())
                || !self.world.bodies.contains_key(need) && need.kind.is_whole()
                || self.is_warm(need, seen)
        };
        body.needs.iter().all(&mut fits)
    }
}

fn in_force(client: &Client<Text>) -> BTreeMap<Key, u8> {
    client.in_force().map(|(key, held)| (key.clone(), *held.resource())).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Set(Key, Body),
    Delete(Key),
    Push,
    Poll,
    ToServer,
    ToClient,
    /// The server says again what it said last.
    Repeat(Index),
    Cut,
    Connect,
    Restart,
    Want(Key),
    Unwant(Key),
    Wait,
}

const ABSENT_AFTER: Duration = Duration::from_secs(15);

const NAMES: [&str; 3] = ["a", "b", "c"];

fn of(kinds: &'static [Kind]) -> impl Strategy<Value = Key> {
    (select(kinds), select(&NAMES[..])).prop_map(|(kind, name)| key(kind, name))
}

fn body(kind: Kind) -> impl Strategy<Value = Body> {
    let (needs, leads): (&[Kind], &[Kind]) = match kind {
        Kind::Listener => (&[Kind::Route], &[]),
        Kind::Route => (&[Kind::Cluster], &[]),
        // A circle, as a Service's own cluster makes one.
        Kind::Cluster => (&[Kind::Endpoints, Kind::Service], &[]),
        Kind::Service => (&[Kind::Cluster], &[Kind::Listener]),
        Kind::Address => (&[], &[Kind::Service]),
        Kind::Endpoints | Kind::Workload => (&[], &[]),
    };
    let some = |kinds: &'static [Kind]| match kinds {
        [] => Just(Vec::new()).boxed(),
        kinds => prop::collection::vec(of(kinds), 0..3).boxed(),
    };
    let bad = prop::bool::weighted(0.15);
    (any::<u8>(), bad, some(needs), some(leads)).prop_map(|(tag, bad, needs, leads)| Body {
        tag,
        bad,
        needs,
        leads,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let set =
        of(&Kind::ALL).prop_flat_map(|key| body(key.kind).prop_map(move |body| Op::Set(key.clone(), body)));
    prop_oneof![
        6 => set,
        2 => of(&Kind::ALL).prop_map(Op::Delete),
        4 => Just(Op::Push),
        6 => Just(Op::Poll),
        6 => Just(Op::ToServer),
        6 => Just(Op::ToClient),
        1 => any::<Index>().prop_map(Op::Repeat),
        1 => Just(Op::Cut),
        2 => Just(Op::Connect),
        1 => Just(Op::Restart),
        3 => of(&[Kind::Address, Kind::Service, Kind::Listener, Kind::Workload]).prop_map(Op::Want),
        1 => of(&[Kind::Address, Kind::Service, Kind::Listener, Kind::Workload]).prop_map(Op::Unwant),
        1 => Just(Op::Wait),
    ]
}

impl Bench {
    fn run(&mut self, op: Op) {
        if self.requests.is_empty() && self.answers.is_empty() {
            self.under_way = None;
        } else {
            self.under_way.get_or_insert(self.now);
        }
        match op {
            Op::Set(key, body) => self.world.set(key, Some(body)),
            Op::Delete(key) => self.world.set(key, None),
            Op::Push => {
                let news = self.server.push(&self.world);
                self.answers.extend(news);
            }
            Op::Poll => self.poll(),
            Op::ToServer => drop(self.serve_one()),
            Op::ToClient => drop(self.hear_one()),
            Op::Repeat(index) => {
                if !self.server.last.is_empty() {
                    let kind = *index.get(&self.server.last.keys().collect::<Vec<_>>()).to_owned();
                    let answer = self.server.last[&kind].clone();
                    self.answers.push_back(answer);
                }
            }
            Op::Cut => self.cut(),
            Op::Connect => self.connect(),
            Op::Restart => self.restart(),
            Op::Want(key) => self.checked(|client| client.want(key)),
            Op::Unwant(key) => self.checked(|client| client.unwant(&key)),
            Op::Wait => {
                let is_late = |since: Instant| self.now - since > subscription::LONGEST_ON_THE_WAY / 2;
                if self.under_way.is_some_and(is_late) {
                    while self.serve_one() || self.hear_one() {}
                }
                self.now += Duration::from_secs(6);
                let now = self.now;
                self.checked(|client| client.time_passed(now));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_what_is_wanted_is_held_in_the_end(ops in prop::collection::vec(op(), 0..80)) {
        let mut bench = Bench::new();
        for op in ops {
            bench.run(op);
        }
        bench.settle();
        bench.check();
        // And nothing is said any more.
        bench.now += ABSENT_AFTER * 2;
        bench.client.time_passed(bench.now);
        prop_assert_eq!(bench.client.poll(bench.now), None);
        // It is the same after a restart without a server, and quiet after one with it.
        bench.restart();
        bench.settle();
        bench.check();
    }
}

#[test]
fn what_is_accepted_is_not_settled_before_it_is_in_force() {
    let mut client = Client::new(Text, Duration::from_secs(3));
    let (listener, route) = (key(Kind::Listener, "l"), key(Kind::Route, "r"));
    client.want(listener.clone());
    client.connected();
    while client.poll(Instant::now()).is_some() {}
    let answer = |kind: Kind, name: &str, needs: Vec<Key>| DiscoveryResponse {
        type_url: kind.url().into(),
        version_info: "1".into(),
        nonce: "1".into(),
        resources: vec![wrapped(kind, name, &Body { tag: 1, bad: false, needs, leads: Vec::new() })],
        ..DiscoveryResponse::default()
    };
    assert_eq!(client.receive(answer(Kind::Listener, "l", vec![route])), Received::Accepted(Kind::Listener));
    assert_eq!((client.version(Kind::Listener), client.is_settled(Kind::Listener)), ("1", false));
    while client.poll(Instant::now()).is_some() {}
    client.receive(answer(Kind::Route, "r", Vec::new()));
    assert!(client.is_settled(Kind::Listener) && client.is_settled(Kind::Route));
    assert_eq!(client.standing(&listener), Standing::InForce);
}
