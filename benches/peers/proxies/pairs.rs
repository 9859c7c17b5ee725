//! Two of a proxy, the caller's and the service's, as every request in a mesh passes both. Between them is TLS 1.3 in
//! which both prove who they are; what comes before and behind is plain.

use std::path::Path;
use std::process::Command;

use super::config::{self, Place, Proof};
use super::{Ports, Start, Started, Upstreams, free_ports, lighter_version, sidecar};
use crate::root::Root;

/// Those that take part.
pub const ALL: [(&str, Start); 6] = [
    ("direct", super::direct),
    ("lighter", |upstreams, folder| lighter(upstreams, folder, None)),
    (ON_TCP, tcp_link),
    ("haproxy", |upstreams, folder| two(upstreams, folder, super::one_haproxy)),
    ("nginx", |upstreams, folder| two(upstreams, folder, super::one_nginx)),
    ("envoy", |upstreams, folder| two(upstreams, folder, super::one_envoy)),
];

/// Pairs of Lighter alone, with links that have one wire each.
pub const WIRES: [(&str, Start); 4] =
    [("direct", super::direct), (ON_TCP, tcp_link), (MOVES, shm_link), (QUIC, quic_link)];

/// The wires that the links of these are to have.
pub const WIRE_OF: [(&str, &str); 3] = [(ON_TCP, "tcp"), (MOVES, "shm"), (QUIC, "quic")];

/// The pair whose links stay on TCP.
const ON_TCP: &str = "lighter-link";

/// The pair whose links can change their wire.
pub const MOVES: &str = "lighter-shm";

/// The pair whose links go over QUIC.
pub const QUIC: &str = "lighter-quic";

/// Who the two ends of a pair are, with keys of one kind: ECDSA over P-256.
pub struct Ends {
    caller: Proof,
    service: Proof,
    /// Holds the files.
    _root: Root,
}

const CALLER: &str = "spiffe://mesh.lighter/ns/default/sa/caller";
const SERVICE: &str = "spiffe://mesh.lighter/ns/default/sa/bench";

impl Ends {
    pub fn new() -> Self {
        let root = Root::new();
        let proof = |own: &str, peer: &'static str| {
            let (certificate, key) = root.issue(own);
            let both = certificate.with_extension("both");
            let parts = [&certificate, &key].map(|file| std::fs::read(file).expect("the root wrote it"));
            std::fs::write(&both, parts.concat()).expect("the root's folder can be written to");
            let peer_name = peer.rsplit('/').next().expect("an ID ends in a name");
            Proof { certificate, key, both, bundle: root.bundle(), peer, peer_name }
        };
        Ends { caller: proof(CALLER, SERVICE), service: proof(SERVICE, CALLER), _root: root }
    }
}

fn shm_link(upstreams: &Upstreams, folder: &Path) -> Started {
    lighter(upstreams, folder, Some("shm: should, quic: mustNot"))
}

fn quic_link(upstreams: &Upstreams, folder: &Path) -> Started {
    lighter(upstreams, folder, Some("shm: mustNot, quic: should"))
}

const TCP: &str = "shm: mustNot, quic: mustNot";

fn tcp_link(upstreams: &Upstreams, folder: &Path) -> Started {
    lighter(upstreams, folder, Some(TCP))
}

/// HTTP/1.1 and HTTP/2 as they are, within TLS; over links where it is said which wires these use.
fn lighter(upstreams: &Upstreams, folder: &Path, wires: Option<&str>) -> Started {
    let [admin, far_admin] = free_ports();
    let ports = Ports { admin: Some(admin), far_admin: Some(far_admin), ..Ports::free() };
    let between = Ports::free();
    let Ends { caller, service, .. } = &upstreams.ends;
    let near = config::outbound(ports, [admin]) + &config::identity(caller);
    let mut far = config::inbound(between, upstreams.ports, [far_admin]) + &config::identity(service);
    let mut secure = format!("identity: '{}'", caller.peer);
    let mut policy = String::new();
    if let Some(wires) = wires {
        let [link] = free_ports();
        secure += &format!(", link: '127.0.0.1:{link}'");
        far += &format!("link: 127.0.0.1:{link}\n");
        policy = config::link_policy(wires);
    }
    let resources = config::resources(between, &format!(", secure: {{{secure}}}")) + &policy;
    let near = sidecar(folder, "out", &resources, &near)?;
    let far = sidecar(folder, "in", &(resources + config::STRICT), &far)?;
    let version = if wires.is_none_or(|wires| wires == TCP) { lighter_version()? } else { String::new() };
    Ok((ports, vec![near, far], version))
}

/// Makes one process of a proxy, whose files are called by the name given, and says its version.
type One = fn(Place<'_>, &Path, &str) -> Result<(Command, String), String>;

fn two(upstreams: &Upstreams, folder: &Path, one: One) -> Started {
    let (ports, between) = (Ports::free(), Ports::free());
    let Ends { caller, service, .. } = &upstreams.ends;
    let near = Place { calls: Some(caller), ..Place::plain(ports, between) };
    let far = Place { called: Some(service), ..Place::plain(between, upstreams.ports) };
    let (far, version) = one(far, folder, "far")?;
    let (near, _) = one(near, folder, "near")?;
    Ok((ports, vec![near, far], version))
}
