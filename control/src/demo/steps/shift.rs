//! Traffic moves from one version to another because a file is changed, and nobody notices: no request fails, no
//! connection is closed.

use serde_json::json;

use super::{Stage, check, check_unharmed};
use crate::demo::load::Counts;
use crate::demo::report::Evidence;
use crate::demo::resources::Split;
use crate::demo::samples::Samples;

pub async fn execute(stage: &mut Stage<'_>, evidence: &mut Evidence) -> Result<(), String> {
    let load = stage.load()?;
    // Every caller's first request opens connections; what is counted comes after.
    load.measure(stage.requests, stage.limit).await?;
    let closed_before = closed(&stage.web().await?);
    let mut rows = Vec::new();
    for (name, split) in PHASES {
        stage.split(split).await?;
        let counts = load.measure(stage.requests, stage.limit).await?;
        rows.push(json!({
            "phase": name,
            "weights": format!("{}/{}", split.v1, split.v2),
            "requests": counts.requests,
            "v1": rounded(counts.share("v1")),
            "v2": rounded(counts.share("v2")),
        }));
        evidence.keep("phases", &rows);
        check_share(name, split, &counts)?;
    }
    let closed = closed(&stage.web().await?) - closed_before;
    evidence.keep("upstream_connections_closed", closed);
    let total = load.finish().await;
    evidence.keep("load", &total);
    check_unharmed(&total)?;
    check(closed == 0, || format!("web's sidecar closed {closed} connections to its upstreams"))
}

const PHASES: [(&str, Split); 3] = [
    ("before", Split { v1: 100, v2: 0 }),
    ("during", Split { v1: 50, v2: 50 }),
    ("after", Split { v1: 0, v2: 100 }),
];

/// Connections to upstreams that a sidecar has closed or lost.
pub(super) fn closed(samples: &Samples) -> u64 {
    samples.count("lighter_pool_connections_closed_total", &[])
}

/// A version without weight gets nothing at all. With weight it gets its share, give or take what chance does to a
/// fair choice: five standard deviations, which by chance alone is passed once in two million runs.
pub(super) fn check_share(phase: &str, split: Split, counts: &Counts) -> Result<(), String> {
    let expected = f64::from(split.v2) / f64::from(split.v1 + split.v2);
    let deviation = (expected * (1.0 - expected) / counts.requests as f64).sqrt();
    let measured = counts.share("v2");
    check((measured - expected).abs() <= 5.0 * deviation, || {
        format!("{phase}: the share of v2 is {measured:.3} instead of {expected:.3}")
    })
}

pub(super) fn rounded(share: f64) -> f64 {
    (share * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(v1: u64, v2: u64) -> Counts {
        let versions = [("v1".to_owned(), v1), ("v2".to_owned(), v2)].into();
        Counts { requests: v1 + v2, versions, ..Counts::default() }
    }

    #[test]
    fn a_version_without_weight_gets_nothing_at_all() {
        let [(_, all_v1), (_, half), (_, all_v2)] = PHASES;
        assert!(check_share("x", all_v1, &counts(400, 0)).is_ok());
        assert!(check_share("x", all_v1, &counts(399, 1)).is_err());
        assert!(check_share("x", all_v2, &counts(0, 400)).is_ok());
        assert!(check_share("x", all_v2, &counts(1, 399)).is_err());
        assert!(check_share("x", half, &counts(230, 170)).is_ok());
        let wrong = check_share("x", half, &counts(300, 100)).unwrap_err();
        assert_eq!(wrong, "x: the share of v2 is 0.250 instead of 0.500");
    }
}
