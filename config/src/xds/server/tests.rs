use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::select;

use super::super::wire::google::rpc;
use super::*;

/// What there is: one byte a resource.
#[derive(Clone, Debug, Default)]
struct World(BTreeMap<(Kind, Arc<str>), u8>);

impl Resources for World {
    fn get(&self, kind: Kind, name: &str) -> Option<Encoded> {
        let content = self.0.get(&(kind, name.into()))?;
        Some(Encoded::new([name.as_bytes(), &[*content]].concat()))
    }

    fn names(&self, kind: Kind) -> Vec<Arc<str>> {
        self.0.keys().filter(|(of, _)| *of == kind).map(|(_, name)| name.clone()).collect()
    }
}

impl World {
    fn of(resources: &[(Kind, &str, u8)]) -> Self {
        World(resources.iter().map(|(kind, name, content)| ((*kind, (*name).into()), *content)).collect())
    }
}

fn ask(kind: Kind, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        resource_names: names.iter().map(ToString::to_string).collect(),
        type_url: kind.url().into(),
        response_nonce: nonce.into(),
        ..DiscoveryRequest::default()
    }
}

/// The names in an answer.
fn names(answer: &DiscoveryResponse) -> Vec<String> {
    answer.resources.iter().map(|any| content(any).0).collect()
}

fn content(any: &Any) -> (String, u8) {
    let (content, name) = any.value.split_last().unwrap();
    (String::from_utf8(name.to_vec()).unwrap(), *content)
}

/// A stream whose requests must be understood.
struct Talk {
    stream: Stream,
    now: Instant,
}

impl Talk {
    fn new() -> Self {
        Talk { stream: Stream::new(&Kind::ALL), now: Instant::now() }
    }

    fn say(&mut self, request: &DiscoveryRequest) -> Said {
        self.stream.request(request, self.now).unwrap()
    }

    fn poll(&mut self, world: &World) -> Option<DiscoveryResponse> {
        self.stream.poll(world, self.now)
    }

    /// Polls once and acknowledges, as a client with these names.
    fn settle(&mut self, world: &World, kind: Kind, subscribed: &[&str]) -> DiscoveryResponse {
        let answer = self.poll(world).unwrap();
        assert!(
            matches!(self.say(&ask(kind, subscribed, &answer.nonce)), Said::Accepted(of, _) if of == kind)
        );
        answer
    }

    fn standing(&self, kind: Kind) -> Standing {
        self.stream.standing().find(|standing| standing.kind == kind).unwrap()
    }
}

#[test]
fn whole_kinds_are_told_whole_and_the_others_by_what_changed() {
    for (kind, expected) in [(Kind::Listener, vec!["a", "b"]), (Kind::Endpoints, vec!["b"])] {
        let mut world = World::of(&[(kind, "a", 1), (kind, "b", 1), (kind, "c", 1)]);
        let mut talk = Talk::new();
        talk.say(&ask(kind, &["a", "b"], ""));
        assert_eq!(names(&talk.settle(&world, kind, &["a", "b"])), ["a", "b"]);
        assert_eq!(talk.poll(&world), None);

        world.0.insert((kind, "b".into()), 2);
        talk.stream.changed(kind, &"b".into());
        assert_eq!(names(&talk.settle(&world, kind, &["a", "b"])), expected);
    }
}

#[test]
fn what_is_gone_is_absent_from_a_whole_answer() {
    let (kind, mut world) = (Kind::Cluster, World::of(&[(Kind::Cluster, "a", 1), (Kind::Cluster, "b", 1)]));
    let mut talk = Talk::new();
    talk.say(&ask(kind, &[], ""));
    assert_eq!(names(&talk.settle(&world, kind, &[])), ["a", "b"], "no name at all asks for everything");
    world.0.remove(&(kind, "a".into()));
    talk.stream.changed(kind, &"a".into());
    assert_eq!(names(&talk.settle(&world, kind, &[])), ["b"]);
    // A name, and then none: now that means nothing.
    talk.say(&ask(kind, &["b"], "2"));
    assert_eq!(names(&talk.settle(&world, kind, &["b"])), ["b"]);
    talk.say(&ask(kind, &[], "3"));
    assert!(names(&talk.settle(&world, kind, &[])).is_empty());
}

#[test]
fn nothing_is_pushed_when_nothing_changed() {
    let (kind, world) = (Kind::Route, World::of(&[(Kind::Route, "a", 1)]));
    let mut talk = Talk::new();
    talk.say(&ask(kind, &["a"], ""));
    talk.settle(&world, kind, &["a"]);
    // A rumour, a rumour of everything, news of what nobody asked for, and a repeated acknowledgement.
    talk.stream.changed(kind, &"a".into());
    assert_eq!(talk.poll(&world), None);
    talk.stream.all_changed();
    assert_eq!(talk.poll(&world), None);
    talk.stream.changed(kind, &"z".into());
    assert_eq!(talk.poll(&world), None);
    assert_eq!(talk.say(&ask(kind, &["a"], "1")), Said::Asked(kind));
    assert_eq!(talk.poll(&world), None);
}

#[test]
fn every_change_of_subscription_is_answered_even_with_nothing() {
    let mut talk = Talk::new();
    let world = World::default();
    for kind in [Kind::Listener, Kind::Endpoints] {
        talk.say(&ask(kind, &["missing"], ""));
        assert!(names(&talk.settle(&world, kind, &["missing"])).is_empty());
        let nonce = talk.stream.nonces.to_string();
        talk.say(&ask(kind, &["missing", "other"], &nonce));
        assert!(names(&talk.settle(&world, kind, &["missing", "other"])).is_empty());
    }
}

#[test]
fn a_rejection_is_kept_with_its_reason_until_something_is_accepted() {
    let (kind, mut world) = (Kind::Cluster, World::of(&[(Kind::Cluster, "a", 1)]));
    let mut talk = Talk::new();
    talk.say(&ask(kind, &["a"], ""));
    let good = talk.settle(&world, kind, &["a"]);
    world.0.insert((kind, "a".into()), 2);
    talk.stream.changed(kind, &"a".into());
    let bad = talk.poll(&world).unwrap();
    let error_detail = Some(rpc::Status { message: "no such policy".into(), ..rpc::Status::default() });
    let said = talk.say(&DiscoveryRequest { error_detail, ..ask(kind, &["a"], &bad.nonce) });
    let expected = Rejection { version: bad.version_info.as_str().into(), reason: "no such policy".into() };
    assert_eq!(said, Said::Rejected(kind, Arc::new(expected.clone())));
    // The same again would be rejected again.
    assert_eq!(talk.poll(&world), None);
    let standing = talk.standing(kind);
    assert_eq!(*standing.accepted, good.version_info);
    assert_eq!(*standing.version, bad.version_info);
    assert_eq!(standing.rejected.as_deref(), Some(&expected));

    world.0.insert((kind, "a".into()), 1);
    talk.stream.changed(kind, &"a".into());
    let repaired = talk.settle(&world, kind, &["a"]);
    assert_eq!(repaired.version_info, good.version_info, "equal contents have equal versions");
    assert_eq!(talk.standing(kind).rejected, None);
}

#[test]
fn a_stale_request_neither_accepts_nor_rejects() {
    let (kind, mut world) =
        (Kind::Endpoints, World::of(&[(Kind::Endpoints, "a", 1), (Kind::Endpoints, "b", 1)]));
    let mut talk = Talk::new();
    talk.say(&ask(kind, &["a"], ""));
    let first = talk.settle(&world, kind, &["a"]);
    world.0.insert((kind, "a".into()), 2);
    talk.stream.changed(kind, &"a".into());
    let second = talk.poll(&world).unwrap();
    // It crossed the answer on its way.
    assert_eq!(talk.say(&ask(kind, &["a", "b"], &first.nonce)), Said::Stale(kind));
    assert!(talk.standing(kind).waiting_since.is_some());
    assert_eq!(talk.poll(&world), None, "one answer at a time");
    talk.say(&ask(kind, &["a", "b"], &second.nonce));
    assert_eq!(names(&talk.poll(&world).unwrap()), ["b"]);
}

#[test]
fn clusters_go_first_and_are_gone_last() {
    let kinds = Kind::STANDARD;
    let mut world = World::of(&kinds.map(|kind| (kind, "old", 1)));
    let mut talk = Talk::new();
    for kind in kinds.into_iter().rev() {
        talk.say(&ask(kind, &["old", "new"], ""));
    }
    let mut order = Vec::new();
    while let Some(answer) = talk.poll(&world) {
        let kind = Kind::of_url(&answer.type_url).unwrap();
        order.push((kind, names(&answer)));
        talk.say(&ask(kind, &["old", "new"], &answer.nonce));
    }
    assert_eq!(order, kinds.map(|kind| (kind, vec!["old".to_owned()])));

    // All moves from `old` to `new` at once, while the client is slow to accept the routes.
    world = World::of(&kinds.map(|kind| (kind, "new", 1)));
    talk.stream.all_changed();
    let mut told = Vec::new();
    let mut accept = None;
    while let Some(answer) = talk.poll(&world) {
        let kind = Kind::of_url(&answer.type_url).unwrap();
        told.push((kind, names(&answer)));
        match kind {
            Kind::Route => accept = Some(answer),
            kind => drop(talk.say(&ask(kind, &["old", "new"], &answer.nonce))),
        }
    }
    let of = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        told,
        [
            (Kind::Cluster, of(&["new", "old"])),
            (Kind::Endpoints, of(&["new"])),
            (Kind::Listener, of(&["new"])),
            (Kind::Route, of(&["new"])),
            (Kind::Cluster, of(&["new"])),
        ]
    );
    assert!(accept.is_some());
}

#[test]
fn what_is_not_served_is_not_understood() {
    let mut stream = Stream::new(&Kind::STANDARD);
    let world = World::of(&[(Kind::Workload, "a", 1)]);
    let now = Instant::now();
    assert_eq!(stream.request(&ask(Kind::Workload, &["a"], ""), now), Ok(Said::Unknown));
    let foreign =
        DiscoveryRequest { type_url: "type.googleapis.com/x.Y".into(), ..DiscoveryRequest::default() };
    assert_eq!(stream.request(&foreign, now), Ok(Said::Unknown));
    assert_eq!(stream.poll(&world, now), None);
    let many = vec!["a".to_owned(); MAX_NAMES + 1];
    let greedy = DiscoveryRequest { resource_names: many, ..ask(Kind::Cluster, &[], "") };
    assert_eq!(stream.request(&greedy, now), Err(TooMany));
}

#[test]
fn a_reason_is_cut_between_characters() {
    assert_eq!(cut(&"é".repeat(MAX_REASON)).len(), MAX_REASON);
    assert_eq!(cut(&format!("x{}", "é".repeat(MAX_REASON))).len(), MAX_REASON - 1);
}

/// A step of a conversation in which everything takes its time.
#[derive(Clone, Debug)]
enum Step {
    /// A resource is made, changed or removed, and the stream hears of it.
    Change(Kind, &'static str, Option<u8>),
    Subscribe(Kind, Vec<&'static str>),
    /// The next request reaches the server.
    Request,
    /// The next answer reaches the client, which accepts it or not.
    Answer(bool),
    /// The server sends what it has to.
    Poll,
}

const KINDS: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Route, Kind::Service];
const NAMES: [&str; 4] = ["a", "b", "c", "*"];

fn step() -> impl Strategy<Value = Step> {
    let kind = || select(&KINDS[..]);
    let name = select(&NAMES[..3]);
    prop_oneof![
        (kind(), name, proptest::option::of(0..3_u8)).prop_map(|(k, n, c)| Step::Change(k, n, c)),
        (kind(), proptest::sample::subsequence(&NAMES[..], 0..=3)).prop_map(|(k, n)| Step::Subscribe(k, n)),
        Just(Step::Request),
        proptest::bool::weighted(0.8).prop_map(Step::Answer),
        Just(Step::Poll),
    ]
}

/// A client as the protocol describes it, and the wires to and from it.
struct Client {
    talk: Talk,
    world: World,
    requests: VecDeque<DiscoveryRequest>,
    answers: VecDeque<DiscoveryResponse>,
    sides: BTreeMap<Kind, Side>,
}

/// The client's side of one kind.
#[derive(Default)]
struct Side {
    names: Vec<&'static str>,
    named: bool,
    nonce: String,
    /// What it was told last of what it is subscribed to, accepted or not.
    seen: BTreeMap<String, u8>,
    /// What the server knows it to ask for, and whether that was not answered yet.
    heard: Option<(bool, BTreeSet<String>)>,
    heard_name: bool,
    unanswered: bool,
}

impl Side {
    fn wants(&self, kind: Kind, name: &str) -> bool {
        let all = kind.has_wildcard() && (!self.named || self.names.contains(&"*"));
        all || name != "*" && self.names.contains(&name)
    }
}

impl Client {
    fn take(&mut self, step: &Step) {
        match step {
            Step::Change(kind, name, content) => {
                let key = (*kind, Arc::<str>::from(*name));
                match content {
                    Some(content) => drop(self.world.0.insert(key, *content)),
                    None => drop(self.world.0.remove(&key)),
                }
                self.talk.stream.changed(*kind, &(*name).into());
            }
            Step::Subscribe(kind, names) => {
                let side = self.sides.entry(*kind).or_default();
                side.names.clone_from(names);
                side.named |= !names.is_empty();
                let seen = std::mem::take(&mut side.seen);
                side.seen = seen.into_iter().filter(|(name, _)| side.wants(*kind, name)).collect();
                self.requests.push_back(ask(*kind, names, &side.nonce));
            }
            Step::Request => self.request(),
            Step::Answer(accept) => drop(self.answer(*accept)),
            Step::Poll => drop(self.poll()),
        }
    }

    fn request(&mut self) {
        let Some(request) = self.requests.pop_front() else { return };
        let kind = Kind::of_url(&request.type_url).unwrap();
        let side = self.sides.get_mut(&kind).unwrap();
        let mut names: BTreeSet<String> = request.resource_names.iter().cloned().collect();
        side.heard_name |= !names.is_empty();
        let all = names.remove("*") || !side.heard_name;
        let heard = Some((all && kind.has_wildcard(), names));
        side.unanswered |= side.heard != heard;
        side.heard = heard;
        self.talk.say(&request);
    }

    fn answer(&mut self, accept: bool) -> bool {
        let Some(answer) = self.answers.pop_front() else { return false };
        let kind = Kind::of_url(&answer.type_url).unwrap();
        let side = self.sides.get_mut(&kind).unwrap();
        if kind.is_whole() {
            side.seen.clear();
        }
        let told: Vec<_> =
            answer.resources.iter().map(content).filter(|(name, _)| side.wants(kind, name)).collect();
        side.seen.extend(told);
        side.nonce = answer.nonce;
        let error_detail = (!accept).then(rpc::Status::default);
        self.requests.push_back(DiscoveryRequest { error_detail, ..ask(kind, &side.names, &side.nonce) });
        true
    }

    fn poll(&mut self) -> bool {
        let Some(answer) = self.talk.poll(&self.world) else { return false };
        self.sides.get_mut(&Kind::of_url(&answer.type_url).unwrap()).unwrap().unanswered = false;
        self.answers.push_back(answer);
        true
    }

    /// Lets everything arrive that is on its way.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.request();
            if !self.answer(true) && !self.poll() && self.requests.is_empty() {
                return;
            }
        }
        panic!("the two talk for ever");
    }
}

proptest! {
    #[test]
    fn whatever_happens_the_client_ends_up_with_what_there_is(steps in proptest::collection::vec(step(), 0..80)) {
        let mut client = Client {
            talk: Talk::new(),
            world: World::default(),
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            sides: BTreeMap::new(),
        };
        for step in &steps {
            client.take(step);
        }
        client.settle();
        for (kind, side) in &client.sides {
            let there: BTreeMap<String, u8> = client.world.0.iter()
                .filter(|((of, name), _)| of == kind && side.wants(*kind, name))
                .map(|((_, name), content)| (name.to_string(), *content))
                .collect();
            if kind.is_whole() {
                prop_assert_eq!(&side.seen, &there, "{}", kind);
            }
            // Of the other kinds, the client is not told what is gone.
            for (name, content) in &there {
                prop_assert_eq!(side.seen.get(name), Some(content), "{} {}", kind, name);
            }
            prop_assert!(!side.unanswered, "a subscription of {} was not answered", kind);
        }
        client.talk.stream.all_changed();
        prop_assert_eq!(client.talk.poll(&client.world), None, "nothing changed");
    }
}
