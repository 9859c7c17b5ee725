//! What a query is answered with, as a function of the mesh: no sockets here.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use lighter_config::name::ServiceName;
use lighter_config::snapshot::{Service, is_virtual};

use crate::mesh::{self, Mesh};

/// What is done with a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// This is the answer.
    Answer(Vec<u8>),
    /// Somebody else knows.
    Forward,
    /// Nothing: it is no query, or too short to be answered.
    Ignore,
}

/// Decides about the query in `message`. `own` is the namespace of short names; a name that ends in one of the
/// domains in `search` is also taken without it, because resolvers append them before they ask.
pub fn decide(message: &[u8], mesh: &Mesh, own: &str, search: &[String]) -> Decision {
    let Some(flags) = message.get(2) else { return Decision::Ignore };
    if message.len() < HEADER || flags & 0x80 != 0 {
        return Decision::Ignore;
    }
    let Ok(query) = Message::from_vec(message) else {
        return Decision::Answer(error(message, FORMERR));
    };
    if query.metadata.op_code != OpCode::Query {
        return Decision::Answer(error(message, NOTIMP));
    }
    let [question] = &query.queries[..] else { return Decision::Answer(error(message, FORMERR)) };
    if question.query_class() != DNSClass::IN {
        return Decision::Forward;
    }
    let name = question.name();
    if let Some(address) = asked_address(name, question.query_type()) {
        let service = mesh.config.services.values().find(|service| has(service, address));
        let record = service.and_then(|service| {
            let name = format!("{}.{}.svc.cluster.local.", service.name.name, service.name.namespace);
            Some(RData::PTR(PTR(Name::from_ascii(name).ok()?)))
        });
        let code = if record.is_some() { ResponseCode::NoError } else { ResponseCode::NXDomain };
        return reply(message, &query, code, record);
    }
    let Some(service) = find(name, mesh, own, search) else { return Decision::Forward };
    let ips = service.virtual_ips;
    let v4 = matches!(question.query_type(), RecordType::A | RecordType::ANY).then(|| RData::from(ips.v4));
    let v6 = matches!(question.query_type(), RecordType::AAAA | RecordType::ANY).then(|| RData::from(ips.v6));
    reply(message, &query, ResponseCode::NoError, v4.into_iter().chain(v6))
}

/// The Services that the query in `message` can be about, for which [`decide`] asks the mesh; none of what it would not
/// ask about.
pub(super) fn asked(message: &[u8], own: &str, search: &[String]) -> Vec<ServiceName> {
    let Ok(query) = Message::from_vec(message) else { return Vec::new() };
    match &query.queries[..] {
        [question] if question.query_class() == DNSClass::IN => {
            meant(&question.name().to_ascii(), own, search).collect()
        }
        _ => Vec::new(),
    }
}

/// An answer that says: it did not work, try again later (SERVFAIL).
pub(super) fn failure(query: &[u8]) -> Vec<u8> {
    error(query, SERVFAIL)
}

/// The longest answer over UDP that the asker takes (RFC 6891 §6.2.3).
pub(super) fn udp_limit(query: &[u8]) -> usize {
    Message::from_vec(query).map_or(512, |query| usize::from(query.max_payload()))
}

/// Where the first question of `message` ends, if it is whole. Names in questions are not compressed.
pub(super) fn question_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *message.get(at)? {
            0 => break,
            label @ 1..=63 => at += 1 + usize::from(label),
            _ => return None,
        }
    }
    let end = at + 1 + 4;
    (end <= message.len()).then_some(end)
}

fn find<'a>(name: &Name, mesh: &'a Mesh, own: &str, search: &[String]) -> Option<&'a Service> {
    let host = name.to_ascii();
    let service = meant(&host, own, search).find_map(|name| mesh.config.services.get(&name));
    service.map(|service| &**service)
}

/// The Services that `host` can mean, the likeliest first.
fn meant(host: &str, own: &str, search: &[String]) -> impl Iterator<Item = ServiceName> {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let unqualified =
        search.iter().filter_map(|domain| host.strip_suffix(domain.as_str())?.strip_suffix('.'));
    let names: Vec<_> =
        std::iter::once(host).chain(unqualified).filter_map(|host| mesh::meant(host, own)).collect();
    names.into_iter()
}

/// The address whose name is asked for, if it is one that only this mesh can know: who else is asked would at best
/// take its time to say that it does not.
fn asked_address(name: &Name, kind: RecordType) -> Option<IpAddr> {
    if kind != RecordType::PTR {
        return None;
    }
    let network = name.parse_arpa_name().ok()?;
    let address = network.addr();
    let whole = network.prefix_len() == network.max_prefix_len();
    (whole && is_ours(address)).then_some(address)
}

/// Virtual addresses, and those that `lighter run` gives to workloads: the benchmarking range (RFC 2544) and our own
/// unique local prefix (RFC 4193).
fn is_ours(address: IpAddr) -> bool {
    is_virtual(address)
        || match address {
            IpAddr::V4(v4) => matches!(v4.octets(), [198, 18 | 19, ..]),
            IpAddr::V6(v6) => v6.segments()[..3] == [0xfd00, 0x11, 0x6874],
        }
}

fn has(service: &Service, address: IpAddr) -> bool {
    address == service.virtual_ips.v4 || address == service.virtual_ips.v6
}

fn reply(
    message: &[u8],
    query: &Message,
    code: ResponseCode,
    data: impl IntoIterator<Item = RData>,
) -> Decision {
    let [question] = &query.queries[..] else { return Decision::Ignore };
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    let records = data.into_iter().map(|data| Record::from_rdata(question.name().clone(), TTL_SECONDS, data));
    reply.answers.extend(records);
    reply.queries.push(question.clone());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        reply.edns = Some(edns);
    }
    Decision::Answer(reply.to_vec().unwrap_or_else(|_| failure(message)))
}

/// `query` turned into an answer that says only `code`, with its question if that is whole.
fn error(query: &[u8], code: u8) -> Vec<u8> {
    let question = question_end(query).and_then(|end| query.get(HEADER..end)).unwrap_or_default();
    let byte = |at: usize| query.get(at).copied().unwrap_or_default();
    let mut answer = vec![
        byte(0),
        byte(1),
        // An answer (0x80) to the same operation, recursion as desired; available (0x80); `code`.
        0x80 | (byte(2) & 0x79),
        0x80 | code,
        0,
        u8::from(!question.is_empty()),
    ];
    answer.resize(HEADER, 0);
    answer.extend_from_slice(question);
    answer
}

/// Virtual addresses do not change, but Services come and go.
const TTL_SECONDS: u32 = 5;

const HEADER: usize = 12;
const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NOTIMP: u8 = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use hickory_proto::op::Query;
    use lighter_config::name::ServiceName;
    use lighter_config::snapshot::{Snapshot, VirtualIps};
    use proptest::prelude::*;

    fn mesh() -> Mesh {
        let service = |namespace: &str, name: &str, last: u8| {
            let name = ServiceName::new(namespace, name);
            let v6 = format!("fd00:11:6874:e5::{last}").parse().unwrap();
            let virtual_ips = VirtualIps { v4: [198, 19, 0, last].into(), v6 };
            (
                name.clone(),
                Arc::new(Service {
                    name,
                    virtual_ips,
                    ports: Vec::new(),
                    probe: None,
                    links: Default::default(),
                    state: None,
                }),
            )
        };
        let services = [service("default", "reviews", 1), service("shop", "cart", 2)].into();
        Mesh::build(Arc::new(Snapshot { services, ..Snapshot::default() }), &Mesh::default())
    }

    fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut query = Message::query();
        query.metadata.id = 0x4c69;
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        query.to_vec().unwrap()
    }

    fn asked(name: &str, kind: RecordType) -> Decision {
        let search = ["corp.example".to_owned()];
        decide(&query(name, kind), &mesh(), "default", &search)
    }

    fn answer(name: &str, kind: RecordType) -> Message {
        match asked(name, kind) {
            Decision::Answer(answer) => Message::from_vec(&answer).unwrap(),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn a_service_is_known_by_every_form_of_its_name() {
        for name in [
            "reviews",
            "REVIEWS.",
            "reviews.default",
            "reviews.default.svc",
            "Reviews.Default.Svc.Cluster.Local.",
            "reviews.corp.example",
            "reviews.default.corp.example.",
        ] {
            let answer = answer(name, RecordType::A);
            assert_eq!(answer.metadata.id, 0x4c69);
            assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
            let records: Vec<_> = answer.answers.iter().map(|record| &record.data).collect();
            assert_eq!(records, [&RData::from(std::net::Ipv4Addr::new(198, 19, 0, 1))], "{name}");
            // Askers compare the question byte for byte (0x20 encoding).
            assert!(answer.queries[0].name().eq_ignore_root_case(&Name::from_ascii(name).unwrap()), "{name}");
        }
        let v6: std::net::Ipv6Addr = "fd00:11:6874:e5::2".parse().unwrap();
        assert_eq!(answer("cart.shop", RecordType::AAAA).answers[0].data, RData::from(v6));
    }

    #[test]
    fn another_type_of_a_known_name_is_empty_and_no_error() {
        for kind in [RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::SRV] {
            let answer = answer("reviews", kind);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.answers.is_empty());
        }
    }

    #[test]
    fn other_names_are_somebody_elses() {
        for name in ["example.com", "cart", "reviews.shop", "reviews.example.com", "corp.example", "."] {
            assert_eq!(asked(name, RecordType::A), Decision::Forward, "{name}");
        }
    }

    #[test]
    fn an_address_of_ours_is_named_or_known_not_to_be() {
        let named = answer("1.0.19.198.in-addr.arpa.", RecordType::PTR);
        let name = Name::from_ascii("reviews.default.svc.cluster.local.").unwrap();
        assert_eq!(named.answers[0].data, RData::PTR(PTR(name)));
        let workload = answer("1.0.18.198.in-addr.arpa.", RecordType::PTR);
        assert_eq!(workload.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(asked("4.4.8.8.in-addr.arpa.", RecordType::PTR), Decision::Forward);
    }

    #[test]
    fn edns_is_answered_with_edns() {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii("reviews").unwrap(), RecordType::A));
        query.set_edns(Edns::new());
        let Decision::Answer(answer) = decide(&query.to_vec().unwrap(), &mesh(), "default", &[]) else {
            panic!("not answered");
        };
        assert!(Message::from_vec(&answer).unwrap().edns.is_some());
    }

    #[test]
    fn what_is_no_query_is_not_answered_with_one() {
        let whole = query("reviews", RecordType::A);
        let mut response = whole.clone();
        response[2] |= 0x80;
        assert_eq!(decide(&response, &mesh(), "default", &[]), Decision::Ignore);
        assert_eq!(decide(&whole[..11], &mesh(), "default", &[]), Decision::Ignore);
        let Decision::Answer(cut) = decide(&whole[..whole.len() - 1], &mesh(), "default", &[]) else {
            panic!("not answered");
        };
        assert_eq!((cut[3] & 0x0f, cut.len()), (FORMERR, HEADER));
        let mut update = whole;
        update[2] = 5 << 3;
        let Decision::Answer(update) = decide(&update, &mesh(), "default", &[]) else {
            panic!("not answered")
        };
        assert_eq!((update[2] >> 3 & 0x0f, update[3] & 0x0f), (5, NOTIMP));
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(
            message in proptest::collection::vec(any::<u8>(), 0..600),
            of_a_query in any::<bool>(),
        ) {
            let mut whole = query("reviews.default", RecordType::A);
            if of_a_query {
                whole.truncate(HEADER + 4);
                whole.extend_from_slice(&message);
            } else {
                whole = message;
            }
            if let Decision::Answer(answer) = decide(&whole, &mesh(), "default", &["example".into()]) {
                prop_assert_eq!(&answer[..2], &whole[..2]);
                prop_assert!(answer[2] & 0x80 != 0);
                prop_assert!(Message::from_vec(&answer).is_ok());
            }
            failure(&whole);
            udp_limit(&whole);
        }
    }
}
