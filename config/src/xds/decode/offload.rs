//! Where requests of a route may run beside its backends: metadata of Lighter's own. What is not known in it is refused,
//! since it would send them elsewhere.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use prost_types::value::Kind;
use prost_types::{Struct, Value};

use super::missing;
use crate::build::check;
use crate::build::device::{COMPUTE_FACTOR, JOULES_PER_BYTE, WATTS};
use crate::build::function::{OUT_SHARE, SECONDS};
use crate::build::offload::{MAX_DEVICES, check_number, is_time};
use crate::document::At;
use crate::error::ConfigError;
use crate::snapshot::{Objective, Offload, OffloadDataset, OffloadDevice, OffloadFunction, PlaceProfile};
use crate::xds::encode::OFFLOAD;
use crate::xds::names;
use crate::xds::wire::envoy::config::core::v3 as core;

/// What a route's metadata says of it. None: nothing.
pub(super) fn offload(
    metadata: Option<&core::Metadata>,
    at: &At<'_>,
) -> Result<Option<Arc<Offload>>, ConfigError> {
    let Some(ours) = metadata.and_then(|metadata| metadata.filter_metadata.get(OFFLOAD)) else {
        return Ok(None);
    };
    let at = at.field("filter_metadata").field(OFFLOAD);
    let fields = Fields::of(ours, at, &WHOLE)?;
    let objective = fields.text("objective")?;
    let objective = Objective::of(objective).ok_or_else(|| {
        let error = format!("`{}` is no objective", objective.escape_debug());
        fields.at.field("objective").error(error)
    })?;
    let dataset = fields.optional("dataset").map(|_| dataset(&fields.inner("dataset", &DATASET)?));
    let try_timeout = fields.optional("try_timeout_ms").map(|_| fields.time("try_timeout_ms"));
    Ok(Some(Arc::new(Offload {
        policy: fields.full_name("policy")?,
        objective,
        slo: fields.time("slo_ms")?,
        miss_share: fields.number("miss_share", MISS_SHARE)?,
        window: fields.time("window_ms")?,
        try_timeout: try_timeout.transpose()?,
        margin: fields.number("margin", SHARE)?,
        explore_share: fields.number("explore_share", SHARE)?,
        function: function(&fields.inner("function", &FUNCTION)?)?,
        dataset: dataset.transpose()?,
        host: profile(&fields.inner("host", &PROFILE)?)?,
        devices: devices(&fields)?,
    })))
}

fn function(fields: &Fields<'_, '_>) -> Result<OffloadFunction, ConfigError> {
    let name = fields.text("name")?;
    check::dns_name(&fields.at.field("name"), name)?;
    Ok(OffloadFunction {
        name: name.into(),
        seconds: fields.number("seconds", SECONDS)?,
        seconds_per_byte: fields.number("seconds_per_byte", SECONDS_PER_BYTE)?,
        out_share: fields.number("out_share", OUT_SHARE)?,
    })
}

fn dataset(fields: &Fields<'_, '_>) -> Result<OffloadDataset, ConfigError> {
    Ok(OffloadDataset {
        name: fields.data_name("name")?,
        version: fields.data_name("version")?,
        bytes: fields.whole("bytes", 1..=u64::MAX)?,
    })
}

fn devices(fields: &Fields<'_, '_>) -> Result<Vec<OffloadDevice>, ConfigError> {
    let at = fields.at.field("devices");
    let Kind::ListValue(list) = fields.required("devices")? else { return Err(at.error("not a list")) };
    check::at_most(&at, list.values.len(), MAX_DEVICES)?;
    if list.values.is_empty() {
        return Err(at.error("no device").hint("leave the metadata out where there is none"));
    }
    let mut devices: Vec<OffloadDevice> = Vec::with_capacity(list.values.len());
    for (index, value) in list.values.iter().enumerate() {
        let at = at.index(index);
        let device = device(&Fields::of_value(value, at.clone(), &DEVICE)?)?;
        if devices.iter().any(|known| known.name == device.name) {
            return Err(at.field("name").error(format!("`{}` stands there already", device.name)));
        }
        devices.push(device);
    }
    Ok(devices)
}

fn device(fields: &Fields<'_, '_>) -> Result<OffloadDevice, ConfigError> {
    let cluster = fields.text("cluster")?;
    if cluster.is_empty() {
        return Err(missing(&fields.at.field("cluster")));
    }
    let dataset = fields.optional("dataset_version").map(|_| fields.data_name("dataset_version"));
    Ok(OffloadDevice {
        name: fields.full_name("name")?,
        target: names::of_cluster(cluster),
        profile: profile(&fields.inner("profile", &PROFILE)?)?,
        has_function: fields.flag("has_function")?,
        dataset: dataset.transpose()?,
    })
}

fn profile(fields: &Fields<'_, '_>) -> Result<PlaceProfile, ConfigError> {
    let slots = fields.whole("slots", 1..=u32::MAX.into())?;
    Ok(PlaceProfile {
        compute_factor: fields.number("compute_factor", COMPUTE_FACTOR)?,
        // Within the range, so it fits.
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
        link_bytes_per_second: fields.number("link_bytes_per_second", BYTES_PER_SECOND)?,
        data_bytes_per_second: fields.number("data_bytes_per_second", BYTES_PER_SECOND)?,
        busy_watts: fields.number("busy_watts", WATTS)?,
        joules_per_byte: fields.number("joules_per_byte", JOULES_PER_BYTE)?,
        is_data_moved: fields.flag("is_data_moved")?,
    })
}

/// The fields of a mapping, all of which are known.
struct Fields<'f, 'd> {
    fields: &'f Struct,
    at: At<'d>,
}

impl<'f, 'd> Fields<'f, 'd> {
    fn of(fields: &'f Struct, at: At<'d>, known: &[&str]) -> Result<Self, ConfigError> {
        match fields.fields.keys().find(|name| !known.contains(&name.as_str())) {
            Some(unknown) => {
                let error = at.field(unknown).error("not known");
                Err(error.hint(
                    "where requests go must not be overlooked; this sidecar may be older than the server",
                ))
            }
            None => Ok(Fields { fields, at }),
        }
    }

    fn of_value(value: &'f Value, at: At<'d>, known: &[&str]) -> Result<Self, ConfigError> {
        match &value.kind {
            Some(Kind::StructValue(fields)) => Self::of(fields, at, known),
            _ => Err(at.error("not a mapping")),
        }
    }

    fn optional(&self, name: &str) -> Option<&'f Value> {
        self.fields.fields.get(name)
    }

    fn required(&self, name: &str) -> Result<&'f Kind, ConfigError> {
        let value = self.optional(name).and_then(|value| value.kind.as_ref());
        value.ok_or_else(|| missing(&self.at.field(name)))
    }

    fn inner(&self, name: &str, known: &[&str]) -> Result<Fields<'f, 'd>, ConfigError> {
        let at = self.at.field(name);
        match self.optional(name) {
            Some(value) => Fields::of_value(value, at, known),
            None => Err(missing(&at)),
        }
    }

    fn text(&self, name: &str) -> Result<&'f str, ConfigError> {
        match self.required(name)? {
            Kind::StringValue(text) => Ok(text),
            _ => Err(self.at.field(name).error("not a text")),
        }
    }

    fn flag(&self, name: &str) -> Result<bool, ConfigError> {
        match self.required(name)? {
            Kind::BoolValue(flag) => Ok(*flag),
            _ => Err(self.at.field(name).error("neither true nor false")),
        }
    }

    fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<f64, ConfigError> {
        match self.required(name)? {
            Kind::NumberValue(number) => check_number(&self.at.field(name), *number, &range),
            _ => Err(self.at.field(name).error("not a number")),
        }
    }

    /// A whole number, which is written as a text.
    fn whole(&self, name: &str, range: RangeInclusive<u64>) -> Result<u64, ConfigError> {
        let text = self.text(name)?;
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let error = format!("`{}` is no whole number in its range", text.escape_debug());
            self.at.field(name).error(error).hint(format!("from {} to {}", range.start(), range.end()))
        })
    }

    fn time(&self, name: &str) -> Result<Duration, ConfigError> {
        let time = Duration::from_millis(self.whole(name, 1..=u64::MAX)?);
        if is_time(time) { Ok(time) } else { Err(self.at.field(name).error("not from 1ms to 24h")) }
    }

    /// `namespace/name`.
    fn full_name(&self, name: &str) -> Result<Arc<str>, ConfigError> {
        let (text, at) = (self.text(name)?, self.at.field(name));
        let (namespace, own) = text.split_once('/').unwrap_or_default();
        check::dns_label(&at, namespace)?;
        check::dns_name(&at, own)?;
        Ok(text.into())
    }

    fn data_name(&self, name: &str) -> Result<Arc<str>, ConfigError> {
        let text = self.text(name)?;
        check::data_name(&self.at.field(name), text)?;
        Ok(text.into())
    }
}

const WHOLE: [&str; 12] = [
    "policy",
    "objective",
    "slo_ms",
    "miss_share",
    "window_ms",
    "try_timeout_ms",
    "margin",
    "explore_share",
    "function",
    "dataset",
    "host",
    "devices",
];
const FUNCTION: [&str; 4] = ["name", "seconds", "seconds_per_byte", "out_share"];
const DATASET: [&str; 3] = ["name", "version", "bytes"];
const DEVICE: [&str; 5] = ["name", "cluster", "profile", "has_function", "dataset_version"];
const PROFILE: [&str; 7] = [
    "compute_factor",
    "slots",
    "link_bytes_per_second",
    "data_bytes_per_second",
    "busy_watts",
    "joules_per_byte",
    "is_data_moved",
];

const SHARE: RangeInclusive<f64> = 0.0..=1.0;
/// No place is never late.
const MISS_SHARE: RangeInclusive<f64> = f64::MIN_POSITIVE..=1.0;
/// How long a function can take for a byte, at one byte a second.
const SECONDS_PER_BYTE: RangeInclusive<f64> = 0.0..=1.0;
/// Every rate that fits in its field.
const BYTES_PER_SECOND: RangeInclusive<f64> = 1.0..=u64::MAX as f64;
