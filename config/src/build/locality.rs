//! Where endpoints and sidecars are: what is wrong with it, and what it comes to.

use std::sync::Arc;

use super::Report;
use crate::document::At;
use crate::error::ConfigError;
use crate::resource::locality as resource;
use crate::snapshot::{Locality, Nearness};

/// Where something is.
pub(crate) fn locality(said: &resource::Locality, at: &At<'_>) -> Result<Locality, ConfigError> {
    let part = |field: &str, text: &str| name(&at.field(field), text);
    let known = |field: &str, text: &Option<String>| {
        text.as_ref().map_or(Ok(Arc::default()), |text| part(field, text))
    };
    if said.zone.is_none() && said.sub_zone.is_some() {
        return Err(at.field("subZone").error("a part of no zone").hint("name the zone too"));
    }
    Ok(Locality {
        region: part("region", &said.region)?,
        zone: known("zone", &said.zone)?,
        sub_zone: known("subZone", &said.sub_zone)?,
    })
}

/// The name of a part: 1 to 63 characters that need no quotes.
pub(crate) fn name(at: &At<'_>, text: &str) -> Result<Arc<str>, ConfigError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if (1..=63).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.into());
    }
    let error = at.error(format!("`{}` is no name of a place", text.escape_debug()));
    Err(error.hint("1 to 63 letters, digits, `-`, `_` and `.`"))
}

/// Says what is wrong with a preference.
pub(super) fn check(said: &resource::Nearness, at: &At<'_>, report: &mut Report) {
    if let Some(percent) = said.overprovisioning {
        report.ok(overprovisioning(&at.field("overprovisioning"), percent));
    }
}

/// A preference with what held before it.
pub(super) fn nearness(said: &resource::Nearness, before: Option<Nearness>) -> Nearness {
    let usual = before.unwrap_or(Nearness { within: 2, overprovisioning: 140 });
    Nearness {
        within: match said.prefer {
            Some(resource::Level::Region) => 1,
            Some(resource::Level::Zone) => 2,
            Some(resource::Level::SubZone) => 3,
            None => usual.within,
        },
        overprovisioning: said.overprovisioning.unwrap_or(usual.overprovisioning),
    }
}

/// In percent.
pub(crate) fn overprovisioning(at: &At<'_>, percent: u32) -> Result<u32, ConfigError> {
    match percent {
        100..=1000 => Ok(percent),
        _ => Err(at.error(format!("{percent} percent is out of range")).hint("from 100 to 1000")),
    }
}
