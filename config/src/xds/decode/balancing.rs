//! How endpoints are chosen, as sidecars are told and as a Cluster and its routes say it.

use std::sync::Arc;

use prost::Message;
use prost_types::Any;

use super::{health, load_report, unsupported};
use crate::build::{balancing as rules, check};
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{Balancer, Balancing, HashOn};
use crate::xds::type_url;
use crate::xds::wire::envoy::config::cluster::v3 as cluster;
use crate::xds::wire::envoy::config::route::v3::route_action as route;
use crate::xds::wire::envoy::extensions::load_balancing_policies::client_side_weighted_round_robin::v3::ClientSideWeightedRoundRobin;
use crate::xds::wire::envoy::extensions::load_balancing_policies::maglev::v3::Maglev;
use crate::xds::wire::envoy::extensions::load_balancing_policies::ring_hash::v3::RingHash;
use crate::xds::wire::lighter::config::v1 as lighter;
use cluster::cluster::{LbConfig, LbPolicy};
use route::hash_policy::PolicySpecifier;

/// What a control plane of Lighter says.
pub(super) fn own(said: &lighter::Balancing, at: &At<'_>) -> Result<Balancing, ConfigError> {
    let known = Balancer::ALL.into_iter().find(|balancer| balancer.label() == said.policy);
    let balancer = known.ok_or_else(|| {
        let error = at.field("policy").error(format!("`{}` is not known", said.policy.escape_debug()));
        error.hint("this sidecar may be older than the server")
    })?;
    let at_hash = at.field("hash");
    check::at_most(&at_hash, said.hash.len(), rules::MAX_HASHES)?;
    let hash = said.hash.iter().enumerate().map(|(index, on)| hash_on(on, &at_hash.index(index)));
    let slow_start = said.slow_start.as_ref().map(|said| health::start(said, &at.field("slow_start")));
    let at_reports = at.field("reports");
    let reports = said.reports.as_ref().map(|said| load_report::own(said, &at_reports)).transpose()?;
    Ok(Balancing {
        reports: reports.unwrap_or_default(),
        slow_start: slow_start.transpose()?,
        balancer,
        hash: hash.collect::<Result<_, _>>()?,
        ring_size: rules::ring_size(&at.field("ring_size"), said.ring_size)?,
        table_size: rules::table_size(&at.field("table_size"), said.table_size)?,
    })
}

/// What a Cluster says. Round robin, which a server says that says nothing, is the default of this mesh, unless it stands
/// in a list of policies.
pub(super) fn of_cluster(cluster: &cluster::Cluster, at: &At<'_>) -> Result<Balancing, ConfigError> {
    let mut balancing = Balancing { hash: Arc::new([]), ..Balancing::default() };
    if let Some(list) = &cluster.load_balancing_policy {
        let at = at.field("load_balancing_policy").field("policies");
        for (index, policy) in list.policies.iter().enumerate() {
            let config = policy.typed_extension_config.as_ref();
            let Some(any) = config.and_then(|config| config.typed_config.as_ref()) else { continue };
            if let Some(balancer) = known(&any.type_url) {
                balancing.balancer = balancer;
                details(any, &mut balancing, &at.index(index))?;
                return Ok(balancing);
            }
        }
        return Err(unsupported(&at, "add `round_robin` to the list"));
    }
    balancing.balancer = match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RoundRobin) => Balancer::PeakEwma,
        Ok(LbPolicy::LeastRequest) => Balancer::LeastRequest,
        Ok(LbPolicy::Random) => Balancer::Random,
        Ok(LbPolicy::RingHash) => Balancer::RingHash,
        Ok(LbPolicy::Maglev) => Balancer::Maglev,
        _ => {
            let hint = "write `ROUND_ROBIN`, `LEAST_REQUEST`, `RANDOM`, `RING_HASH` or `MAGLEV`";
            return Err(unsupported(&at.field("lb_policy"), hint));
        }
    };
    match &cluster.lb_config {
        Some(LbConfig::RingHashLbConfig(ring)) => {
            let at = at.field("ring_hash_lb_config").field("minimum_ring_size");
            ring_size(ring.minimum_ring_size, &mut balancing, &at)?;
        }
        Some(LbConfig::MaglevLbConfig(table)) => {
            let at = at.field("maglev_lb_config").field("table_size");
            table_size(table.table_size, &mut balancing, &at)?;
        }
        None => {}
    }
    Ok(balancing)
}

/// By what a route's requests are told apart where its cluster hashes.
pub(super) fn hash_policies(said: &[route::HashPolicy], at: &At<'_>) -> Result<Arc<[HashOn]>, ConfigError> {
    check::at_most(at, said.len(), rules::MAX_HASHES)?;
    let mut hash = Vec::new();
    for (index, policy) in said.iter().enumerate() {
        let at = at.index(index);
        hash.push(match &policy.policy_specifier {
            Some(PolicySpecifier::Header(header)) => {
                self::header(&header.header_name, &at.field("header").field("header_name"))?
            }
            Some(PolicySpecifier::Cookie(cookie)) => {
                self::cookie(&cookie.name, &at.field("cookie").field("name"))?
            }
            Some(PolicySpecifier::ConnectionProperties(properties)) if properties.source_ip => {
                HashOn::SourceAddress
            }
            // What this side cannot read says where a request goes, not whether it may.
            _ => continue,
        });
    }
    Ok(hash.into())
}

fn known(type_url: &str) -> Option<Balancer> {
    // What stands before the last slash says nothing.
    let name = |url: &str| url.rsplit_once('/').map(|(_, name)| name.to_string());
    let is = |url: &str| name(url) == name(type_url);
    let known = [
        (type_url::ROUND_ROBIN, Balancer::RoundRobin),
        (type_url::LEAST_REQUEST, Balancer::LeastRequest),
        (type_url::RANDOM, Balancer::Random),
        (type_url::RING_HASH, Balancer::RingHash),
        (type_url::MAGLEV, Balancer::Maglev),
        (type_url::WRR_LOCALITY, Balancer::PeakEwma),
        (type_url::CLIENT_SIDE_WRR, Balancer::WeightedRoundRobin),
    ];
    known.into_iter().find(|(url, _)| is(url)).map(|(_, balancer)| balancer)
}

fn details(any: &Any, balancing: &mut Balancing, at: &At<'_>) -> Result<(), ConfigError> {
    let at = at.field("typed_config");
    let broken = |error: prost::DecodeError| at.error(format!("no message: {error}"));
    match balancing.balancer {
        Balancer::RingHash => {
            let ring = RingHash::decode(&*any.value).map_err(broken)?;
            ring_size(ring.minimum_ring_size, balancing, &at.field("minimum_ring_size"))
        }
        Balancer::Maglev => {
            let table = Maglev::decode(&*any.value).map_err(broken)?;
            table_size(table.table_size, balancing, &at.field("table_size"))
        }
        Balancer::WeightedRoundRobin => {
            let said = ClientSideWeightedRoundRobin::decode(&*any.value).map_err(broken)?;
            balancing.reports = load_report::client_side(&said, &at)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

fn ring_size(said: Option<u64>, balancing: &mut Balancing, at: &At<'_>) -> Result<(), ConfigError> {
    if let Some(size) = said {
        balancing.ring_size = rules::ring_size(at, u32::try_from(size).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

fn table_size(said: Option<u64>, balancing: &mut Balancing, at: &At<'_>) -> Result<(), ConfigError> {
    if let Some(size) = said {
        balancing.table_size = rules::table_size(at, u32::try_from(size).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

fn hash_on(on: &lighter::HashOn, at: &At<'_>) -> Result<HashOn, ConfigError> {
    use lighter::hash_on::On;
    match &on.on {
        Some(On::Header(name)) => header(name, &at.field("header")),
        Some(On::Cookie(name)) => cookie(name, &at.field("cookie")),
        Some(On::SourceAddress(true)) => Ok(HashOn::SourceAddress),
        Some(On::Path(true)) => Ok(HashOn::Path),
        _ => Err(at.error("nothing to hash").hint("this sidecar may be older than the server")),
    }
}

fn header(name: &str, at: &At<'_>) -> Result<HashOn, ConfigError> {
    check::header_name(at, name)?;
    Ok(HashOn::Header(name.to_ascii_lowercase().into()))
}

fn cookie(name: &str, at: &At<'_>) -> Result<HashOn, ConfigError> {
    rules::cookie(at, name)?;
    Ok(HashOn::Cookie(name.into()))
}
