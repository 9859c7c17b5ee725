//! Where endpoints and sidecars are.

use schemars::JsonSchema;
use serde::Deserialize;

/// Where an endpoint or a sidecar is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Locality {
    /// The largest part: a region of a cloud, a site.
    #[schemars(length(min = 1, max = 63))]
    pub region: String,
    /// A part of it that fails by itself. Default: not known.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    pub zone: Option<String>,
    /// A part of the zone: a rack, a host. Default: not known.
    #[serde(default)]
    #[schemars(length(min = 1, max = 63))]
    pub sub_zone: Option<String>,
}

/// That endpoints near the caller take its requests. As they fall away, a growing part goes to those farther off.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Nearness {
    /// Which endpoints are near enough, so that none of them is preferred to another. Default `zone`.
    #[serde(default)]
    pub prefer: Option<Level>,
    /// How much more than its share a group of endpoints is trusted with, in percent. Of 140, those farther off get requests
    /// once less than five sevenths of the near ones are there. It holds for priorities as well. Default 140.
    #[serde(default)]
    #[schemars(range(min = 100, max = 1000))]
    pub overprovisioning: Option<u32>,
}

/// A part of the world.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// Those of the caller's region.
    Region,
    /// Those of its zone, then those of its region.
    Zone,
    /// Those of its part of the zone, then those of the zone, then those of the region.
    SubZone,
}
