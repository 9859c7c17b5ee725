//! Functions.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::kind::Refers;
use super::offload::{check_bytes_per_second, check_number, part};
use super::{Drafts, Report};
use crate::load::Loaded;
use crate::name::ServiceName;
use crate::resource::function::FunctionSpec;
use crate::snapshot::OffloadFunction;

impl Refers for FunctionSpec {
    type Said = OffloadFunction;

    fn about(function: &Loaded<Self>) -> Vec<ServiceName> {
        vec![part::<Self>(function.namespace(), function.name())]
    }

    fn follow(function: &Loaded<Self>, _: &Drafts, report: &mut Report) -> OffloadFunction {
        let (spec, at) = (&function.resource.spec, function.spec());
        let seconds = spec.time.map_or(DEFAULT_TIME, |time| time.0).as_secs_f64();
        if !SECONDS.contains(&seconds) {
            report
                .error(at.field("time").error("a function takes up to 24h").hint("write for example `1ms`"));
        }
        let rate = spec.bytes_per_second;
        report.ok(check_bytes_per_second(&at.field("bytesPerSecond"), rate));
        let percent = spec.result_percent.unwrap_or(1.0);
        report.ok(check_number(&at.field("resultPercent"), percent, &(0.0..=OUT_SHARE.end() * 100.0)));
        OffloadFunction {
            name: function.name().into(),
            seconds,
            seconds_per_byte: rate.map_or(0.0, |rate| 1.0 / rate as f64),
            out_share: percent / 100.0,
        }
    }
}

const DEFAULT_TIME: Duration = Duration::from_millis(1);

/// How long a function can take.
pub(crate) const SECONDS: RangeInclusive<f64> = 0.0..=86_400.0;
/// How large its result can be for each byte.
pub(crate) const OUT_SHARE: RangeInclusive<f64> = 0.0..=10_000.0;
