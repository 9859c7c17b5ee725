//! Service: ports, protocol hints, endpoints.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de::Error};

use super::locality::Locality;
use super::state::StateSpec;
use crate::probe::ProbeSpec;
use crate::snapshot::Protocol;
use crate::suggest::closest;
use crate::wording::HINT;

/// A Service.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// The ports that callers use.
    #[schemars(length(min = 1))]
    pub ports: Vec<ServicePort>,
    /// The replicas that serve them.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// How the control plane asks those of `endpoints` whether they are well for which no sidecar speaks; not by `exec`. One
    /// that is not is listed to nobody. Default: they are not asked.
    #[serde(default)]
    pub probe: Option<ProbeSpec>,
    /// What it keeps between requests. Default: nothing, and all of its instances serve.
    #[serde(default)]
    pub state: Option<StateSpec>,
}

/// One port of a Service.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServicePort {
    /// Its name. Needed if there is more than one port.
    #[serde(default)]
    pub name: Option<String>,
    /// The port that callers use.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// The port on which the replicas listen. Default: `port`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub target_port: Option<u16>,
    /// What is spoken on it. Default: found out per connection.
    #[serde(default)]
    pub app_protocol: Option<AppProtocol>,
    /// `TCP`, which is the default.
    #[serde(default)]
    pub protocol: Option<Transport>,
}

/// What carries a port.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub enum Transport {
    /// TCP.
    TCP,
}

/// One replica.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Its IP address.
    pub address: String,
    /// The port on which it listens, if the Service has one port. Default: that port's `targetPort`.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The ports on which it listens, by the names of the Service's ports. Default: their `targetPort`.
    #[serde(default)]
    pub ports: Option<BTreeMap<String, u16>>,
    /// Its share among its siblings, from 1 to 1000000. Default 1.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub weight: Option<u32>,
    /// It takes traffic while no endpoint of a lower number is healthy, from 0 to 127. Default 0.
    #[serde(default)]
    #[schemars(range(max = 127))]
    pub priority: Option<u32>,
    /// Where it is. Default: not known.
    #[serde(default)]
    pub locality: Option<Locality>,
    /// How its sidecar is reached with both identities proved. Default: it is called in plain text.
    #[serde(default)]
    pub secure: Option<Secure>,
}

/// The sidecar of a replica.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Secure {
    /// Who it must prove to be, `spiffe://TRUST-DOMAIN/PATH`.
    pub identity: String,
    /// Where it accepts links, `address:port`. Default: none; it is called by HTTP/2 and mTLS at its own address.
    #[serde(default)]
    pub link: Option<String>,
}

/// A protocol hint: one of Lighter's words, or one that Kubernetes defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppProtocol(pub Protocol);

const APP_PROTOCOLS: [(&str, Protocol); 13] = [
    ("auto", Protocol::Auto),
    ("http", Protocol::Http),
    ("http1", Protocol::Http),
    ("kubernetes.io/ws", Protocol::Http),
    ("http2", Protocol::Http2),
    ("h2c", Protocol::Http2),
    ("kubernetes.io/h2c", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    ("tls", Protocol::Tls),
    ("https", Protocol::Tls),
    ("kubernetes.io/wss", Protocol::Tls),
    ("tcp", Protocol::Tcp),
    ("redis", Protocol::Redis),
];

impl<'de> Deserialize<'de> for AppProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Cow::<'de, str>::deserialize(deserializer)?;
        let known = APP_PROTOCOLS.iter().find(|(name, _)| *name == word);
        known.map(|(_, protocol)| AppProtocol(*protocol)).ok_or_else(|| {
            let names = APP_PROTOCOLS.map(|(name, _)| name);
            match closest(&word, names) {
                Some(close) => {
                    D::Error::custom(format!("unknown protocol `{word}`{HINT}did you mean `{close}`?"))
                }
                None => D::Error::custom(format!(
                    "unknown protocol `{word}`{HINT}known protocols: {}",
                    names.join(", ")
                )),
            }
        })
    }
}

impl JsonSchema for AppProtocol {
    fn schema_name() -> Cow<'static, str> {
        "AppProtocol".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": APP_PROTOCOLS.map(|(name, _)| name) })
    }
}
