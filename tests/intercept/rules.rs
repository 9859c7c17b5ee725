//! What the rules do to connections, and what is left of them.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use libtest_mimic::Trial;
use lighter_config::sidecar::{InboundConfig, InterceptConfig, SidecarConfig};
use lighter_config::snapshot::Protocol;
use lighter_proxy::dial::{Here, SocketFactory};
use lighter_proxy::intercept::netlink::Netlink;
use lighter_proxy::intercept::{self, Installed, Ports, listen, probe};
use lighter_proxy::worker::{self, Sockets, Start};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_netfilter::nftables::{NfTablesMessage, TableAttribute, TableMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use crate::place::{Place, Who};
use crate::support::namespace::{self, accept, connect};
use crate::support::test_where;

pub fn tests() -> Vec<Trial> {
    let isolated_tests: [(&str, fn()); 9] = [
        ("a_redirected_connection_keeps_its_destination", a_redirected_connection_keeps_its_destination),
        ("what_is_excluded_is_left_alone", what_is_excluded_is_left_alone),
        ("an_excluded_user_is_left_alone", an_excluded_user_is_left_alone),
        ("connections_from_outside_meet_the_inbound_port", connections_from_outside_meet_the_inbound_port),
        ("rules_set_twice_stand_once", rules_set_twice_stand_once),
        ("removal_leaves_no_table_and_no_other_is_touched", removal_leaves_no_table_and_no_other_is_touched),
        ("rules_outlive_a_sidecar_that_fails", rules_outlive_a_sidecar_that_fails),
        ("many_rules_fit_into_one_transaction", many_rules_fit_into_one_transaction),
        ("the_probe_tells_our_port_from_others", the_probe_tells_our_port_from_others),
    ];
    let mut tests: Vec<Trial> =
        isolated_tests.into_iter().map(|(name, test)| namespace::test(name, test)).collect();
    tests.push(test_where(
        "without_the_capability_the_error_names_it",
        without_the_capability_the_error_names_it,
    ));
    tests
}

fn config() -> InterceptConfig {
    InterceptConfig { inbound: false, dns: false, ..InterceptConfig::default() }
}

fn ports() -> Ports {
    Ports { outbound: 15001, inbound: 15006, dns: Some(15053), own: vec![15000, 15001, 15006] }
}

fn count(rules: &Installed, rule: &str) -> u64 {
    rules
        .counters()
        .unwrap()
        .iter()
        .filter(|counter| counter.rule == rule)
        .map(|counter| counter.packets)
        .sum()
}

fn a_redirected_connection_keeps_its_destination() {
    let rules = intercept::install(&config(), &ports()).unwrap();
    let listeners = listen::outbound(15001, 2).unwrap();
    assert_eq!(listeners.len(), 4, "two workers, two families");
    let destinations =
        ["198.19.0.1:80", "[fd00:11:6874:e5::1]:443", "203.0.113.9:5432", "[2001:db8::9]:6379"];
    for destination in destinations.map(|address| address.parse::<SocketAddr>().unwrap()) {
        let client = connect(destination);
        let (_, server) = accept(&listeners);
        assert_eq!(listen::original_destination(&server).unwrap(), destination);
        assert_eq!(client.peer_addr().unwrap(), destination, "the client sees what it asked for");
        assert_eq!(client.local_addr().unwrap(), server.peer_addr().unwrap());
    }
    assert_eq!(count(&rules, "outbound"), 4);
}

fn what_is_excluded_is_left_alone() {
    let excluding = InterceptConfig {
        exclude_outbound_ports: vec![2525],
        exclude_cidrs: vec![("198.51.100.128".parse().unwrap(), 25), ("2001:db8:1::".parse().unwrap(), 48)],
        ..config()
    };
    let rules = intercept::install(&excluding, &ports()).unwrap();
    let mut listeners = listen::outbound(15001, 1).unwrap();
    let redirected = listeners.len();
    for port in [2525, 80] {
        listeners.push(listen::tcp(format!("[::]:{port}").parse().unwrap()).unwrap());
    }
    let arrives = |address: &str| {
        let _client = connect(address.parse().unwrap());
        let (at, server) = accept(&listeners);
        assert_eq!(listen::original_destination(&server).unwrap(), address.parse().unwrap());
        if at < redirected { "redirected" } else { "left alone" }
    };
    for (address, expected) in [
        ("198.19.0.1:80", "redirected"),
        ("198.19.0.1:2525", "left alone"),
        ("[fd00:11:6874:e5::1]:2525", "left alone"),
        ("198.51.100.127:80", "redirected"),
        ("198.51.100.129:80", "left alone"),
        ("[2001:db8:1:2::3]:80", "left alone"),
        ("[2001:db8:2::3]:80", "redirected"),
        ("127.0.0.1:80", "left alone"),
        ("127.1.2.3:80", "left alone"),
        ("[::1]:80", "left alone"),
    ] {
        assert_eq!(arrives(address), expected, "{address}");
    }
    // A redirect would lose the link that such an address belongs to.
    let here = namespace::own();
    namespace::link_to(namespace::number(&here), "one", "other");
    for (name, address) in [("one", "fe80::5"), ("other", "fe80::6")] {
        namespace::raise(name, &[(address.parse().unwrap(), 64)]);
    }
    let link = namespace::index("one");
    let _client = connect(format!("[fe80::5%{link}]:80").parse().unwrap());
    assert!(accept(&listeners).0 >= redirected, "link-local");
    // What carries the sidecar's mark is the sidecar's own.
    let destination = "198.19.0.1:80".parse().unwrap();
    let marked = Here { mark: Some(config().mark) }.tcp(destination).unwrap();
    let _ = marked.connect(&destination.into());
    assert!(accept(&listeners).0 >= redirected);
    assert_eq!(count(&rules, "outbound"), 3);
}

fn an_excluded_user_is_left_alone() {
    const USER: u32 = 54321;
    let excluding = InterceptConfig { exclude_uids: vec![USER], ..config() };
    let _rules = intercept::install(&excluding, &ports()).unwrap();
    let mut listeners = listen::outbound(15001, 1).unwrap();
    let redirected = listeners.len();
    listeners.push(listen::tcp("0.0.0.0:80".parse().unwrap()).unwrap());
    for (user, left_alone) in [(USER, true), (USER + 1, false)] {
        // A thread has its own user for files and sockets, and this namespace.
        let client = std::thread::spawn(move || {
            // SAFETY: changes the user of this thread, which ends with the connection.
            unsafe { libc::setfsuid(user) };
            connect("198.19.0.1:80".parse().unwrap())
        });
        let (at, _server) = accept(&listeners);
        assert_eq!(at >= redirected, left_alone, "user {user}");
        client.join().unwrap();
    }
}

fn connections_from_outside_meet_the_inbound_port() {
    let excluding =
        InterceptConfig { inbound: true, outbound: false, exclude_inbound_ports: vec![2222], ..config() };
    let rules = intercept::install(&excluding, &ports()).unwrap();
    let workload: [IpAddr; 2] = ["198.18.9.1".parse().unwrap(), "fd00:11:6874:9::1".parse().unwrap()];
    let caller: [IpAddr; 2] = ["198.18.9.2".parse().unwrap(), "fd00:11:6874:9::2".parse().unwrap()];
    let inside = namespace::own();
    let (linked, wait) = mpsc::channel();
    let (ask, asked) = mpsc::channel::<SocketAddr>();
    let outside = std::thread::spawn(move || {
        namespace::enter();
        namespace::link_to(namespace::number(&inside), "caller", "workload");
        namespace::raise("caller", &[(caller[0], 24), (caller[1], 64)]);
        linked.send(()).unwrap();
        // Kept open until nobody asks any more.
        asked.into_iter().map(connect).collect::<Vec<_>>()
    });
    wait.recv().unwrap();
    namespace::raise("workload", &[(workload[0], 24), (workload[1], 64)]);
    let mut listeners = listen::inbound(15006, 1).unwrap();
    for port in [8080, 2222, 15000] {
        listeners.push(listen::tcp(format!("[::]:{port}").parse().unwrap()).unwrap());
    }
    for address in workload {
        // By redirection, by exclusion, and because it is the sidecar's own.
        for (port, expected) in [(8080, 0), (2222, 2), (15000, 3)] {
            let destination = SocketAddr::new(address, port);
            ask.send(destination).unwrap();
            let (at, server) = accept(&listeners);
            assert_eq!(at, expected, "{destination}");
            assert_eq!(listen::original_destination(&server).unwrap(), destination);
        }
    }
    drop(ask);
    outside.join().unwrap();
    assert_eq!(count(&rules, "inbound"), 2);
}

fn rules_set_twice_stand_once() {
    let both = InterceptConfig { inbound: true, dns: true, ..config() };
    let first = intercept::install(&both, &ports()).unwrap().counters().unwrap();
    let again = intercept::install(&both, &ports()).unwrap();
    assert_eq!(again.counters().unwrap(), first);
    let names: Vec<_> = first.iter().map(|counter| counter.rule.as_str()).collect();
    assert_eq!(names, ["dns-udp", "dns-tcp", "outbound", "inbound"]);
    assert_eq!(tables(), ["lighter"]);
    // Another configuration replaces it as a whole.
    let less = intercept::install(&config(), &ports()).unwrap();
    assert_eq!(less.counters().unwrap().len(), 1);
}

fn removal_leaves_no_table_and_no_other_is_touched() {
    assert!(tables().is_empty());
    add_table("other");
    let rules = intercept::install(&config(), &ports()).unwrap();
    assert_eq!(tables(), ["lighter", "other"]);
    rules.remove().unwrap();
    assert_eq!(tables(), ["other"]);
    intercept::remove().expect("nothing to take away is no error");
    let plain = TcpListener::bind("0.0.0.0:80").unwrap();
    let _client = connect("198.19.0.1:80".parse().unwrap());
    accept(&[plain]);
}

fn rules_outlive_a_sidecar_that_fails() {
    /// An application that listens when it is said to.
    #[derive(Default)]
    struct App(AtomicBool);
    impl SocketFactory for App {
        fn tcp(&self, address: SocketAddr) -> std::io::Result<socket2::Socket> {
            Here::default().tcp(address)
        }
        fn listens(&self, _address: SocketAddr) -> bool {
            self.0.load(Ordering::Relaxed)
        }
    }
    // A door that somebody else takes before it opens.
    let bound = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 7070)).into()).unwrap();
        socket
    };
    let (door, stranger) = (bound(), bound());
    stranger.listen(1).unwrap();
    let (config, app) = (config(), Arc::new(App::default()));
    let inbound = InboundConfig {
        listen: "127.0.0.1:7070".parse().unwrap(),
        app: "127.0.0.1:7071".parse().unwrap(),
        port: None,
        protocol: Protocol::Tcp,
    };
    let (_stop, stopped) = tokio::sync::mpsc::unbounded_channel();
    let start = Start {
        sockets: Sockets { inbound: vec![vec![door.into()]], ..Sockets::default() },
        outside: Arc::new(Here { mark: Some(config.mark) }),
        inside: app.clone(),
        ready: Box::new(move || app.0.store(true, Ordering::Relaxed)),
        stop: Some(stopped),
        callers_gone: None,
        successor: None,
        functions: None,
        config: SidecarConfig {
            workers: 1,
            inbound: vec![inbound],
            intercept: Some(config),
            ..SidecarConfig::default()
        },
    };
    let error = worker::run(start).unwrap_err().to_string();
    assert!(error.contains("cannot listen on 127.0.0.1:7070"), "{error}");
    assert_eq!(tables(), ["lighter"], "nothing slips by until it is started again");
}

fn many_rules_fit_into_one_transaction() {
    let many = InterceptConfig { exclude_outbound_ports: (20_000..20_400).collect(), ..config() };
    let rules = intercept::install(&many, &ports()).unwrap();
    let mut listeners = listen::outbound(15001, 1).unwrap();
    listeners.push(TcpListener::bind("0.0.0.0:20399").unwrap());
    let _client = connect("198.19.0.1:20399".parse().unwrap());
    assert_eq!(accept(&listeners).0, listeners.len() - 1);
    assert_eq!(count(&rules, "outbound"), 0);
}

fn the_probe_tells_our_port_from_others() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = config();
    let _rules = intercept::install(&config, &ports()).unwrap();
    let plain = |address: SocketAddr| Here::default().tcp(address);
    runtime.block_on(async {
        let error = probe::run(&config, plain).await.unwrap_err().to_string();
        assert!(error.contains("outbound port") && error.contains("refused"), "{error}");

        let listeners: Vec<_> = listen::outbound(15001, 1)
            .unwrap()
            .into_iter()
            .map(|listener| tokio::net::TcpListener::from_std(listener).unwrap())
            .collect();
        let serve = async {
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listeners[0].accept() => accepted.unwrap(),
                    accepted = listeners[1].accept() => accepted.unwrap(),
                };
                assert!(probe::is_probe(listen::original_destination(&stream).unwrap()));
                probe::answer(stream).await.unwrap();
            }
        };
        tokio::select! {
            () = serve => unreachable!("it serves for ever"),
            proved = probe::run(&config, plain) => proved.unwrap(),
        }

        // Somebody else holds the port.
        let stranger = async {
            loop {
                let (mut stream, _) = listeners[0].accept().await.unwrap();
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n")
                    .await
                    .unwrap();
            }
        };
        tokio::select! {
            () = stranger => unreachable!("it serves for ever"),
            proved = probe::run(&config, plain) => {
                let error = proved.unwrap_err().to_string();
                assert!(error.contains("another process answered"), "{error}");
            }
        }
        intercept::remove().unwrap();
        assert!(probe::run(&config, plain).await.is_err(), "nothing is redirected any more");
    });
}

fn without_the_capability_the_error_names_it() -> Result<(), String> {
    namespace::root()?;
    let place = Place::new(Who::Nobody);
    let output = place.program(place.own()).arg("@install").output().unwrap();
    let error = String::from_utf8(output.stdout).unwrap();
    assert!(error.contains("CAP_NET_ADMIN") && error.contains("lighter run"), "{error}");
    Ok(())
}

/// The names of all tables in this namespace, in order.
pub fn tables() -> Vec<String> {
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER).unwrap();
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0);
    let all = NfTablesMessage::GetTable(TableMessage { attributes: Vec::new() });
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, all));
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let name = |message: NetfilterMessage| {
        let NetfilterMessageInner::NfTables(NfTablesMessage::NewTable(table)) = message.inner else {
            panic!("{message:?} among the tables");
        };
        table.attributes.into_iter().find_map(|attribute| match attribute {
            TableAttribute::Name(name) => Some(name),
            _ => None,
        })
    };
    let mut names: Vec<_> = netlink.dump(message).unwrap().into_iter().filter_map(name).collect();
    names.sort();
    names
}

fn add_table(name: &str) {
    let mut netlink = Netlink::open(netlink_sys::protocols::NETLINK_NETFILTER).unwrap();
    let edge = |inner: ControlMessage| {
        NetlinkMessage::from(NetfilterMessage::new(
            NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10),
            inner,
        ))
    };
    let table = TableMessage { attributes: vec![TableAttribute::Name(name.into())] };
    let header = NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0);
    let table = NetlinkMessage::from(NetfilterMessage::new(header, NfTablesMessage::NewTable(table)));
    let mut messages = vec![edge(ControlMessage::BatchBegin), table, edge(ControlMessage::BatchEnd)];
    for message in &mut messages {
        message.header.flags = NLM_F_REQUEST;
    }
    messages[1].header.flags |= NLM_F_CREATE | NLM_F_ACK;
    netlink.transact(messages).unwrap();
}
