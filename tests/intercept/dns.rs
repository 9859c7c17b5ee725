//! DNS as an unchanged client sees it: it asks the name server that it always asked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use libtest_mimic::Trial;
use lighter_config::name::ServiceName;
use lighter_config::sidecar::{DnsConfig, InterceptConfig, SidecarConfig};
use lighter_config::snapshot::{Service, Snapshot, VirtualIps};
use lighter_proxy::dial::Here;
use lighter_proxy::intercept::{self, Installed, Ports, dns, listen};
use lighter_proxy::mesh::Mesh;
use lighter_proxy::worker::Shared;

use crate::support::namespace::{connect, test};

pub fn tests() -> Vec<Trial> {
    vec![
        test("services_are_named_whoever_is_asked_and_how", services_are_named_whoever_is_asked_and_how),
        test("other_names_are_asked_of_the_hosts_resolvers", other_names_are_asked_of_the_hosts_resolvers),
        test("a_long_answer_is_fetched_over_tcp", a_long_answer_is_fetched_over_tcp),
        test("a_name_that_nobody_can_resolve_fails_at_once", a_name_that_nobody_can_resolve_fails_at_once),
    ]
}

/// Starts the server behind the rules, with one Service, `reviews`.
fn serve(upstream: &str) -> Installed {
    let intercept = InterceptConfig { inbound: false, ..InterceptConfig::default() };
    let mark = Some(intercept.mark);
    let config = SidecarConfig {
        dns: Some(DnsConfig { upstream: vec![upstream.parse().unwrap()], ..DnsConfig::default() }),
        intercept: Some(intercept.clone()),
        ..SidecarConfig::default()
    };
    let rules = intercept::install(&intercept, &Ports::of(&config)).unwrap();
    let sockets = listen::dns(intercept::nft::DNS_PORT).unwrap();
    assert_eq!(sockets.len(), 2, "both families");
    let shared = Arc::new(Shared::new(config, Arc::new(Here { mark }), Arc::new(Here { mark })));
    shared.mesh.store(Arc::new(mesh()));
    // The thread is in this namespace too, and ends with the process.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut serving = tokio::task::JoinSet::new();
            for (udp, tcp) in sockets {
                serving.spawn(dns::serve(udp, tcp, shared.clone()));
            }
            while serving.join_next().await.is_some() {}
        });
    });
    rules
}

fn mesh() -> Mesh {
    let name = ServiceName::new("default", "reviews");
    let virtual_ips = VirtualIps { v4: REVIEWS, v6: "fd00:11:6874:e5::7".parse().unwrap() };
    let service = Arc::new(Service {
        name: name.clone(),
        virtual_ips,
        ports: Vec::new(),
        probe: None,
        links: Default::default(),
        state: None,
    });
    let snapshot = Snapshot { services: [(name, service)].into(), ..Snapshot::default() };
    Mesh::build(Arc::new(snapshot), &Mesh::default())
}

const REVIEWS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(198, 19, 0, 7);

fn services_are_named_whoever_is_asked_and_how() {
    let rules = serve("127.0.0.1:9");
    for server in ["10.255.255.53:53", "[2001:db8::53]:53", "127.0.0.53:53", "[::1]:53"] {
        let server: SocketAddr = server.parse().unwrap();
        let asked = query(0x4c69, "reviews.default.svc.cluster.local", A);
        for answer in [over_udp(server, &asked), over_tcp(server, &asked)] {
            assert_eq!(answer[..2], asked[..2], "{server}");
            assert!(answer.ends_with(&REVIEWS.octets()), "{server}: {answer:02x?}");
        }
    }
    for counter in rules.counters().unwrap() {
        match counter.rule.as_str() {
            "dns-udp" | "dns-tcp" => assert_eq!(counter.packets, 4, "{}", counter.rule),
            _ => assert_eq!(counter.packets, 0, "{}", counter.rule),
        }
    }
}

fn other_names_are_asked_of_the_hosts_resolvers() {
    // On port 53: only its mark keeps the sidecar's own query from coming back to it.
    let resolver = UdpSocket::bind("127.0.0.1:53").unwrap();
    let rules = serve("127.0.0.1:53");
    let asker = std::thread::spawn(|| {
        let server = "10.255.255.53:53".parse().unwrap();
        over_udp(server, &query(0x0102, "example.com", A))
    });
    let mut buffer = [0; 512];
    let (length, from) = resolver.recv_from(&mut buffer).unwrap();
    let mut answer = buffer[..length].to_vec();
    assert_eq!(answer[2..], query(0, "example.com", A)[2..], "it comes unchanged but for its number");
    answer[2] |= 0x80;
    // Somebody guesses: another number, and the right one from another address.
    let mut forged = answer.clone();
    forged[0] ^= 0xff;
    resolver.send_to(&forged, from).unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(&with_address(&answer, [6, 6, 6, 6]), from).unwrap();
    resolver.send_to(&with_address(&answer, [192, 0, 2, 1]), from).unwrap();
    let answer = asker.join().unwrap();
    assert_eq!(answer[..2], [1, 2]);
    assert!(answer.ends_with(&[192, 0, 2, 1]), "{answer:02x?}");
    assert_eq!(rules.counters().unwrap()[0].packets, 1, "the sidecar's own query was not redirected");
}

fn a_long_answer_is_fetched_over_tcp() {
    let resolver = UdpSocket::bind("127.0.0.1:53").unwrap();
    let streams = TcpListener::bind("127.0.0.1:53").unwrap();
    let _rules = serve("127.0.0.1:53");
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = resolver.recv_from(&mut buffer) {
            let mut cut = buffer[..length].to_vec();
            cut[2] |= 0x82;
            resolver.send_to(&cut, from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in streams.incoming() {
            let mut stream = stream.unwrap();
            let mut answer = read_message(&mut stream);
            answer[2] |= 0x80;
            answer = with_address(&answer, [192, 0, 2, 2]);
            // What makes it long is of no interest: a record of the additional section.
            answer.extend_from_slice(&[0; 600]);
            write_message(&mut stream, &answer);
        }
    });
    let server = "10.255.255.53:53".parse().unwrap();
    let asked = query(7, "example.com", A);
    let cut = over_udp(server, &asked);
    assert!(cut[2] & 0x02 != 0 && cut.len() <= 512, "too long for this asker, who is told so");
    let whole = over_tcp(server, &asked);
    assert!(whole[2] & 0x02 == 0 && whole.len() > 600);
}

fn a_name_that_nobody_can_resolve_fails_at_once() {
    // Nobody listens on this port, and the kernel says so.
    let _rules = serve("127.0.0.1:9");
    let server = "10.255.255.53:53".parse().unwrap();
    for answer in [over_udp(server, &query(9, "example.com", A)), over_tcp(server, &query(9, "a.b.c", A))] {
        assert_eq!(answer[3] & 0x0f, 2, "SERVFAIL");
    }
}

const A: u16 = 1;

fn query(number: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut query = number.to_be_bytes().to_vec();
    query.extend_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.push(0);
    query.extend_from_slice(&kind.to_be_bytes());
    query.extend_from_slice(&[0, 1]);
    query
}

/// `answer` with an address record for its question at the end.
fn with_address(answer: &[u8], address: [u8; 4]) -> Vec<u8> {
    let mut answer = answer.to_vec();
    answer[7] = 1;
    answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend_from_slice(&address);
    answer
}

/// Asks over a connected socket: an answer from another address than the one asked would not arrive.
fn over_udp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket.send(query).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{server}: {error}"));
    buffer[..length].to_vec()
}

fn over_tcp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let mut stream = connect(server);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write_message(&mut stream, query);
    read_message(&mut stream)
}

fn read_message(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).unwrap();
    message
}

fn write_message(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(message).unwrap();
}

const PATIENCE: Duration = Duration::from_secs(20);
