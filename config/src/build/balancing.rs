//! How endpoints are chosen: what is wrong with it, and what it comes to.

use super::{Report, check, health, load_report};
use crate::document::At;
use crate::error::ConfigError;
use crate::resource::balancing as resource;
use crate::snapshot::{Balancer, Balancing, HashOn};

/// Says what is wrong.
pub(super) fn check(said: &resource::Balancing, at: &At<'_>, report: &mut Report) {
    let mut needs = |field: &str, is_said: bool, which: &[Balancer]| {
        // Without a policy here, that of the whole Service is meant.
        if is_said && said.policy.is_some_and(|balancer| !which.contains(&balancer)) {
            let words: Vec<_> = which.iter().map(|balancer| format!("`{}`", balancer.label())).collect();
            let error = at.field(field).error("this balancer does not use it");
            report.error(error.hint(format!("it is for {}", words.join(" and "))));
        }
    };
    needs("hash", said.hash.is_some(), &[Balancer::RingHash, Balancer::Maglev]);
    needs("ringSize", said.ring_size.is_some(), &[Balancer::RingHash]);
    needs("loadReports", said.load_reports.is_some(), &[Balancer::WeightedRoundRobin]);
    needs("tableSize", said.table_size.is_some(), &[Balancer::Maglev]);
    let drawn = Balancer::ALL.into_iter().filter(|balancer| !balancer.hashes()).collect::<Vec<_>>();
    needs("slowStart", said.slow_start.is_some(), &drawn);
    if let Some(start) = &said.slow_start {
        health::check_start(start, &at.field("slowStart"), report);
    }
    if let Some(reports) = &said.load_reports {
        load_report::check(reports, &at.field("loadReports"), report);
    }
    if let Some(hash) = &said.hash {
        let at = at.field("hash");
        if hash.is_empty() {
            report.error(at.error("nothing to hash").hint("leave the field out for the caller's address"));
        }
        report.ok(check::at_most(&at, hash.len(), MAX_HASHES));
        for (index, on) in hash.iter().enumerate().take(MAX_HASHES) {
            report.ok(hash_on(on, &at.index(index)));
        }
    }
    if let Some(size) = said.ring_size {
        report.ok(ring_size(&at.field("ringSize"), size));
    }
    if let Some(size) = said.table_size {
        report.ok(table_size(&at.field("tableSize"), size));
    }
}

/// Puts what is said in place of what held before.
pub(super) fn fill_in(said: &resource::Balancing, balancing: &mut Balancing) {
    balancing.balancer = said.policy.unwrap_or(balancing.balancer);
    balancing.ring_size = said.ring_size.unwrap_or(balancing.ring_size);
    balancing.table_size = said.table_size.unwrap_or(balancing.table_size);
    if let Some(start) = &said.slow_start {
        balancing.slow_start = Some(health::start(start));
    }
    if let Some(reports) = &said.load_reports {
        balancing.reports = load_report::load_reports(reports);
    }
    if let Some(hash) = &said.hash {
        balancing.hash = hash.iter().filter_map(plain).collect();
    }
}

/// Places on a ring.
pub(crate) fn ring_size(at: &At<'_>, size: u32) -> Result<u32, ConfigError> {
    match size {
        1..=MAX_RING => Ok(size),
        _ => Err(at.error(format!("{size} is no size of a ring")).hint(format!("from 1 to {MAX_RING}"))),
    }
}

/// Places in a table. A prime: so the places that an endpoint likes best, one after the other, are all of them.
pub(crate) fn table_size(at: &At<'_>, size: u32) -> Result<u32, ConfigError> {
    if size <= MAX_TABLE && is_prime(size) {
        return Ok(size);
    }
    let error = at.error(format!("{size} is no size of a table"));
    Err(error.hint(format!("a prime number of at most {MAX_TABLE}, as 65537 is")))
}

fn hash_on(on: &resource::HashOn, at: &At<'_>) -> Result<(), ConfigError> {
    let said = [on.header.is_some(), on.cookie.is_some(), on.source_address.is_some(), on.path.is_some()];
    if said.iter().filter(|said| **said).count() != 1 {
        return Err(at.error("exactly one thing is hashed").hint(ONE_OF));
    }
    for (field, value) in [("sourceAddress", on.source_address), ("path", on.path)] {
        if value == Some(false) {
            return Err(at.field(field).error("to leave it out, leave the entry out"));
        }
    }
    if let Some(name) = &on.header {
        check::header_name(&at.field("header"), name)?;
    }
    match &on.cookie {
        Some(name) => cookie(&at.field("cookie"), name),
        None => Ok(()),
    }
}

/// The name of a cookie: a token (RFC 6265 §4.1.1), as a header's name is.
pub(crate) fn cookie(at: &At<'_>, name: &str) -> Result<(), ConfigError> {
    check::header_name(at, name)
}

/// None where it was refused.
fn plain(on: &resource::HashOn) -> Option<HashOn> {
    let header = on.header.as_ref().map(|name| HashOn::Header(name.to_ascii_lowercase().into()));
    let cookie = || on.cookie.as_ref().map(|name| HashOn::Cookie(name.as_str().into()));
    header
        .or_else(cookie)
        .or_else(|| on.source_address.map(|_| HashOn::SourceAddress))
        .or_else(|| on.path.map(|_| HashOn::Path))
}

fn is_prime(number: u32) -> bool {
    let parts = (2..).take_while(|part| part * part <= u64::from(number));
    number > 1 && parts.into_iter().all(|part| u64::from(number) % part != 0)
}

/// Most things of which the first is hashed.
pub(crate) const MAX_HASHES: usize = 8;

const MAX_RING: u32 = 1 << 20;

/// As Envoy has it.
const MAX_TABLE: u32 = 5_000_011;

const ONE_OF: &str = "`header: NAME`, `cookie: NAME`, `sourceAddress: true` or `path: true`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_others() {
        let primes: Vec<u32> = (0..30).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
        assert!(is_prime(65_537) && is_prime(MAX_TABLE) && !is_prime(65_536) && !is_prime(65_535));
    }
}
