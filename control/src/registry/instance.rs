//! An instance of a service, as it registers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lighter_config::identity::Spiffe;
use lighter_config::name::{ServiceName, ServicePort};
use lighter_config::snapshot::{Locality, MAX_PRIORITY, is_virtual};
use lighter_config::xds::names;
use lighter_config::xds::wire::lighter::registry::v1 as wire;
use prost::Message;

use super::device::{self, Device};
use super::sidecars::Id;

/// An instance with its sidecar. What it says has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Of which Service.
    pub service: ServiceName,
    /// Who it proved to be.
    pub identity: Arc<str>,
    /// Where it is reached.
    pub ports: Vec<Port>,
    /// Whether its application answers its probe and its sidecar accepts.
    pub ready: bool,
    /// It finishes what runs and takes no more.
    pub draining: bool,
    /// It waits for the state that it serves to move elsewhere, and drains then.
    pub leaving: bool,
    /// What its links can run over.
    pub wires: Vec<String>,
    /// The version of its sidecar.
    pub version: String,
    /// It takes traffic while no endpoint of a lower number is healthy.
    pub priority: u32,
    /// Where it is.
    pub locality: Locality,
    /// The functions that it runs near data, if it is a device.
    pub device: Option<Device>,
    /// What it has of the function whose memory is the state of its Service, where there is one.
    pub remembering: Option<Remembering>,
}

/// What an instance has of a function whose keys and values are the state of its Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembering {
    /// The function.
    pub function: String,
    /// SHA-256 of its program, in hexadecimal, behind `kept:` where it keeps its memory. Empty: what it remembers cannot be moved.
    pub digest: String,
    /// Why not.
    pub not_movable: String,
    /// What is taken in its place is no longer, in bytes. 0: it is not said.
    pub most_bytes: u64,
}

/// Where an instance is reached at one of its Service's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port of the Service.
    pub port: u16,
    /// Where callers reach it.
    pub address: SocketAddr,
    /// Where sidecars reach it by a link.
    pub link: Option<SocketAddr>,
}

/// How an instance stands for a migration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Who it proved to be.
    pub identity: Arc<str>,
    /// It is ready for requests, whether callers are told of it or not.
    pub ready: bool,
    /// It finishes what runs, or has left.
    pub draining: bool,
    /// It waits for the state that it serves to move elsewhere, and drains then.
    pub leaving: bool,
    /// Its stream stands. Otherwise it is not known whether it is there: its lease runs.
    pub is_heard: bool,
    /// The ports of its Service that it has.
    pub ports: BTreeSet<u16>,
    /// Where callers reach it, by those.
    pub addresses: BTreeMap<u16, SocketAddr>,
    /// Where its sidecar accepts links.
    pub link: Option<SocketAddr>,
    /// What it has of the function whose memory is the state of its Service, where there is one.
    pub remembering: Option<Remembering>,
}

impl Presence {
    /// Which sidecar that is, among those that report.
    pub fn id(&self, name: &Arc<str>) -> Option<Id> {
        Some(Id { identity: Spiffe::parse(&self.identity).ok()?, instance: name.clone() })
    }
}

/// Why a registration makes no sense, in words for whoever runs the sidecar.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Faulty(pub(super) String);

impl Instance {
    /// Checks what whoever proved to be `identity` says of itself. None: a pure caller, of which nobody needs to know.
    pub fn read(said: &wire::Registration, identity: &Spiffe) -> Result<Option<(Arc<str>, Self)>, Faulty> {
        let fault = |text: String| Err(Faulty(text));
        if said.instance.is_empty() || said.instance.len() > MAX_TEXT {
            return fault(format!("an instance's name has 1 to {MAX_TEXT} bytes"));
        }
        if said.service.is_empty() {
            return Ok(None);
        }
        let Some(service) = names::of_service(&said.service) else {
            return fault(format!("`{}` is not `namespace/name`", said.service.escape_debug()));
        };
        if identity.service_name().as_ref() != Some(&service) {
            return fault(format!("{identity} does not speak for {service}"));
        }
        if said.ports.len() > MAX_PORTS || said.wires.len() > MAX_PORTS {
            return fault(format!("more than {MAX_PORTS} ports or wires"));
        }
        if said.version.len() > MAX_TEXT || said.wires.iter().any(|wire| wire.len() > MAX_TEXT) {
            return fault(format!("a text is longer than {MAX_TEXT} bytes"));
        }
        if said.priority > MAX_PRIORITY {
            return fault(format!("priority {} is above {MAX_PRIORITY}", said.priority));
        }
        let places = [&said.region, &said.zone, &said.sub_zone];
        if places.iter().any(|place| place.len() > MAX_TEXT) {
            return fault(format!("the name of a place is longer than {MAX_TEXT} bytes"));
        }
        let [region, zone, sub_zone] = places.map(|place| place.as_str().into());
        let instance = Instance {
            locality: Locality { region, zone, sub_zone },
            service,
            identity: identity.as_str().into(),
            ports: said.ports.iter().map(port).collect::<Result<_, _>>()?,
            ready: said.ready,
            draining: said.draining,
            leaving: said.leaving,
            wires: said.wires.clone(),
            version: said.version.clone(),
            priority: said.priority,
            device: said.device.as_ref().map(device::read).transpose()?.flatten(),
            remembering: said.remembering.as_ref().map(remembering).transpose()?,
        };
        Ok(Some((said.instance.as_str().into(), instance)))
    }

    /// Whether callers are told of it.
    pub fn is_listed(&self) -> bool {
        self.ready && !self.draining
    }

    /// The ports of its Service that it has.
    pub fn service_ports(&self) -> BTreeSet<ServicePort> {
        let port = |port: &Port| ServicePort { service: self.service.clone(), port: port.port };
        self.ports.iter().map(port).collect()
    }

    /// As it is kept, to be read again by [`Instance::kept`].
    pub fn keep(&self, name: &str) -> Vec<u8> {
        let port = |port: &Port| wire::InstancePort {
            port: port.port.into(),
            address: port.address.to_string(),
            link_address: port.link.map(|link| link.to_string()).unwrap_or_default(),
        };
        let said = wire::Registration {
            instance: name.to_owned(),
            service: self.service.to_string(),
            ports: self.ports.iter().map(port).collect(),
            ready: self.ready,
            draining: self.draining,
            leaving: self.leaving,
            wires: self.wires.clone(),
            version: self.version.clone(),
            priority: self.priority,
            region: self.locality.region.to_string(),
            zone: self.locality.zone.to_string(),
            sub_zone: self.locality.sub_zone.to_string(),
            device: self.device.as_ref().map(device::keep),
            remembering: self.remembering.clone().map(|has| wire::Remembering {
                function: has.function,
                digest: has.digest,
                not_movable: has.not_movable,
                most_bytes: has.most_bytes,
            }),
            // It is asked on the stream that is open.
            holds: false,
        };
        let identity = self.identity.as_bytes();
        [&(identity.len() as u32).to_be_bytes(), identity, &*said.encode_to_vec()].concat()
    }

    /// What [`Instance::keep`] made. None: it is not that.
    pub fn kept(bytes: &[u8]) -> Option<(Arc<str>, Self)> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (identity, said) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let identity = Spiffe::parse(std::str::from_utf8(identity).ok()?).ok()?;
        Instance::read(&wire::Registration::decode(said).ok()?, &identity).ok()?
    }
}

fn remembering(said: &wire::Remembering) -> Result<Remembering, Faulty> {
    let wire::Remembering { function, digest, not_movable, most_bytes } = said.clone();
    if [&function, &digest, &not_movable].into_iter().any(|text| text.len() > MAX_REASON) {
        return Err(Faulty(format!("a text is longer than {MAX_REASON} bytes")));
    }
    Ok(Remembering { function, digest, not_movable, most_bytes })
}

fn port(said: &wire::InstancePort) -> Result<Port, Faulty> {
    let port = u16::try_from(said.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| Faulty(format!("{} is not a port", said.port)))?;
    let link = (!said.link_address.is_empty()).then(|| address(&said.link_address)).transpose()?;
    Ok(Port { port, address: address(&said.address)?, link })
}

/// An address at which one host can be reached.
fn address(text: &str) -> Result<SocketAddr, Faulty> {
    let fault = |why: &str| Err(Faulty(format!("`{}` {why}", text.escape_debug())));
    let Ok(address) = text.parse::<SocketAddr>() else { return fault("is not `address:port`") };
    let ip = address.ip();
    let many = ip.is_unspecified() || ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if many || is_virtual(ip) || address.port() == 0 {
        return fault("is not where one host can be reached");
    }
    Ok(address)
}

const MAX_TEXT: usize = 256;
const MAX_PORTS: usize = 256;
const MAX_REASON: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Spiffe {
        Spiffe::parse(&format!("spiffe://mesh.lighter/ns/default/sa/{name}")).unwrap()
    }

    fn said() -> wire::Registration {
        wire::Registration {
            instance: "a-1".into(),
            service: "default/a".into(),
            ports: vec![wire::InstancePort {
                port: 80,
                address: "10.0.0.1:8080".into(),
                link_address: "[fd00::1]:15008".into(),
            }],
            ready: true,
            draining: false,
            leaving: false,
            holds: false,
            wires: vec!["tcp".into()],
            version: "0.1.0".into(),
            priority: 1,
            region: "eu".into(),
            zone: "a".into(),
            sub_zone: String::new(),
            remembering: Some(wire::Remembering {
                function: "keep".into(),
                digest: "00".into(),
                not_movable: String::new(),
                most_bytes: 7,
            }),
            device: Some(wire::Device { class: "gpu".into(), slots: 3, ..wire::Device::default() }),
        }
    }

    #[test]
    fn what_is_kept_is_what_was_said() {
        let (name, instance) = Instance::read(&said(), &identity("a")).unwrap().unwrap();
        assert_eq!(Instance::kept(&instance.keep(&name)), Some((name, instance)));
        for broken in [&b""[..], b"\0\0\0\x09", b"\0\0\0\0", b"\xff\xff\xff\xff........"] {
            assert_eq!(Instance::kept(broken), None);
        }
    }

    #[test]
    fn a_pure_caller_is_nobodys_instance() {
        let caller = wire::Registration { service: String::new(), ..said() };
        assert_eq!(Instance::read(&caller, &identity("a")), Ok(None));
    }

    #[test]
    fn nobody_speaks_for_another_service() {
        let fault = Instance::read(&said(), &identity("b")).unwrap_err();
        assert_eq!(fault.to_string(), "spiffe://mesh.lighter/ns/default/sa/b does not speak for default/a");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let with = |port, address: &str, link: &str| {
            let port = wire::InstancePort { port, address: address.into(), link_address: link.into() };
            Instance::read(&wire::Registration { ports: vec![port], ..said() }, &identity("a"))
        };
        assert!(with(80, "10.0.0.1:1", "").is_ok());
        for (port, address, link) in [
            (0, "10.0.0.1:1", ""),
            (70_000, "10.0.0.1:1", ""),
            (80, "host:1", ""),
            (80, "0.0.0.0:1", ""),
            (80, "224.0.0.1:1", ""),
            (80, "198.19.0.1:1", ""),
            (80, "10.0.0.1:0", ""),
            (80, "10.0.0.1:1", "[::]:1"),
        ] {
            assert!(with(port, address, link).is_err(), "{port} {address} {link}");
        }
        for faulty in [
            wire::Registration { instance: String::new(), ..said() },
            wire::Registration { instance: "x".repeat(MAX_TEXT + 1), ..said() },
            wire::Registration { service: "a".into(), ..said() },
            wire::Registration { version: "x".repeat(MAX_TEXT + 1), ..said() },
            wire::Registration { priority: MAX_PRIORITY + 1, ..said() },
            wire::Registration { ports: vec![said().ports[0].clone(); MAX_PORTS + 1], ..said() },
        ] {
            assert!(Instance::read(&faulty, &identity("a")).is_err());
        }
    }
}
