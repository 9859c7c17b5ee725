//! What only Lighter's own control plane says: workloads and addresses.

use super::*;

fn links() -> lighter::LinkPolicy {
    lighter::LinkPolicy {
        shm: "mustNot".into(),
        hot_bytes_per_second: 1,
        ring_bytes: 1 << 16,
        back_off_ms: 1,
        idle_timeout_ms: None,
        rdma: "should".into(),
        devices: vec!["mlx5_0".into()],
        quic: "should".into(),
        congestion: "bbr".into(),
        quic_calm_ms: Some(1),
    }
}

fn workload_message() -> lighter::Workload {
    let rule = lighter::Rule {
        policy: "default/p/0".into(),
        action: "deny".into(),
        audit: true,
        sources: vec![lighter::Source {
            principals: vec!["spiffe://mesh.lighter/ns/a/*".into()],
            cidrs: vec!["10.0.0.0/8".into()],
            ..Default::default()
        }],
        operations: vec![lighter::Operation {
            methods: vec!["GET".into()],
            headers: vec![lighter::HeaderMatch { name: "x".into(), exact: None }],
            ..Default::default()
        }],
    };
    let port = lighter::InboundPort {
        port: 80,
        mtls: "strict".into(),
        rules: vec![rule],
        allow: vec!["default/p".into()],
        audit_allow: Vec::new(),
    };
    lighter::Workload {
        service: "default/a".into(),
        trust_domain: "mesh.lighter".into(),
        outbound_policy: "registryOnly".into(),
        ports: vec![port],
        links: Some(links()),
    }
}

#[test]
fn a_workload_is_read_as_it_is_written() {
    let message = workload_message();
    assert_eq!(encode::workload(&workload(&message.encode_to_vec()).unwrap()), message);
}

#[test]
fn every_word_of_a_workload_is_known_or_it_is_refused() {
    let with = |change: &dyn Fn(&mut lighter::Workload)| {
        let mut message = workload_message();
        change(&mut message);
        refused(workload(&message.encode_to_vec()))
    };
    let rule =
        |change: &dyn Fn(&mut lighter::Rule)| with(&|workload| change(&mut workload.ports[0].rules[0]));
    assert_eq!(with(&|w| w.ports[0].mtls = "lax".into()), "default/a: ports[0].mtls: `lax` is not known");
    assert_eq!(with(&|w| w.ports[0].mtls.clear()), "default/a: ports[0].mtls: `` is not known");
    assert_eq!(with(&|w| w.outbound_policy.clear()), "default/a: outbound_policy: `` is not known");
    assert_eq!(
        with(&|w| w.trust_domain = "a b".into()),
        "default/a: trust_domain: `spiffe://a b/ns` is not a SPIFFE ID"
    );
    assert_eq!(with(&|w| w.service = "a".into()), "a: service: `a` is no workload");
    let lax =
        |w: &mut lighter::Workload| w.links = Some(lighter::LinkPolicy { shm: "lax".into(), ..links() });
    assert_eq!(with(&lax), "default/a: links.shm: `lax` is not known");
    let hasty = |w: &mut lighter::Workload| {
        w.links = Some(lighter::LinkPolicy { quic_calm_ms: Some(0), ..links() });
    };
    assert_eq!(
        with(&hasty),
        "default/a: links.quic_calm_ms: after no time nobody knows whether anything is lost"
    );
    let at = "default/a: ports[0].rules[0]";
    assert_eq!(rule(&|rule| rule.action = "log".into()), format!("{at}.action: `log` is not known"));
    // Taken as it stands, this would be about everybody.
    assert_eq!(
        rule(&|rule| rule.sources = vec![lighter::Source::default()]),
        format!("{at}.sources[0]: a source that says nothing")
    );
    assert_eq!(
        rule(&|rule| rule.operations.push(lighter::Operation::default())),
        format!("{at}.operations[1]: an operation that says nothing")
    );
    assert_eq!(
        rule(&|rule| rule.sources[0].cidrs = vec!["10.0.0.0/64".into()]),
        format!("{at}.sources[0].cidrs[0]: `10.0.0.0/64` is not a range of addresses")
    );
    let mut bytes = workload_message().encode_to_vec();
    bytes.extend([9 << 3, 1]);
    assert_eq!(refused(workload(&bytes)), "default/a: : field number 9 is not known");
}

#[test]
fn an_address_is_answered_even_if_nobody_has_it() {
    let read = |message: lighter::Address| address(&message.encode_to_vec());
    let nobody = read(lighter::Address { key: "10.0.0.1:80".into(), ..Default::default() }).unwrap();
    assert_eq!(nobody.found, None);
    let found = lighter::Address {
        key: "dns:default/a".into(),
        service: "default/a".into(),
        virtual_v4: "198.19.0.1".into(),
        virtual_v6: "fd00:11:6874:e5::1".into(),
        ..Default::default()
    };
    let known = read(found.clone()).unwrap();
    assert_eq!(encode::address(&known.key, known.found.as_ref()), found);
    // A server cannot take real addresses over.
    let said = refused(read(lighter::Address { virtual_v4: "10.0.0.1".into(), ..found }));
    assert!(said.starts_with("dns:default/a: virtual_v4: "), "{said}");
}

#[test]
fn a_state_that_cannot_be_moved_is_refused() {
    let text = "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: a}\nspec:\n  \
                ports: [{port: 80}]\n  state: {class: volatile, snapshot: /s, restore: /r, freeze: /f, thaw: /t}";
    let resources = crate::load::Resources::parse("test.yaml", text).unwrap();
    let snapshot = crate::snapshot::Snapshot::build(&resources).unwrap();
    let message = encode::service(snapshot.services.values().next().unwrap());
    let with = |change: &dyn Fn(&mut lighter::State)| {
        let mut message = message.clone();
        message.state.iter_mut().for_each(change);
        refused(service(&message.encode_to_vec()))
    };
    let park = |change: &dyn Fn(&mut lighter::Park)| with(&|state| state.park.iter_mut().for_each(change));
    for (said, expected) in [
        (with(&|state| state.class = "kept".into()), "class: `kept` is not known"),
        (
            with(&|state| state.class = "journaled".into()),
            "class: `journaled` takes `changes`, which is missing",
        ),
        (with(&|state| state.when_alone = "wait".into()), "when_alone: `wait` is not known"),
        (with(&|state| state.moves = "often".into()), "moves: `often` is not known"),
        (with(&|state| state.port = 0), "port: 0 is not a port"),
        (with(&|state| state.port = 81), "port: the Service has no port 81"),
        (with(&|state| state.snapshot.clear()), "snapshot: `` is not a path"),
        (with(&|state| state.restore = "/a\r\nb".into()), "restore: `/a\\r\\nb` is not a path"),
        (with(&|state| state.thaw.clear()), "freeze: nothing would end it"),
        (with(&|state| state.timeout_ms = 0), "timeout_ms: this is from 1ms to 24h"),
        (with(&|state| state.max_bytes = 0), "max_bytes: 0 is not from 1 to 17179869184"),
        (with(&|state| state.park = None), "park: missing"),
        (park(&|park| park.requests = 0), "park.requests: 0 is not from 1 to 1000000"),
        (
            park(&|park| park.bytes = u64::MAX),
            "park.bytes: 18446744073709551615 is not from 1 to 17179869184",
        ),
        (park(&|park| park.wait_ms = u64::MAX), "park.wait_ms: longer than a thousand years"),
    ] {
        assert_eq!(said, format!("default/a: state.{expected}"));
    }
}
