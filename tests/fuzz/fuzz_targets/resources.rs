//! Whatever stands in a file, it is taken or refused with a place, and never ends the process.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lighter_config::control::ControlConfig;
use lighter_config::load::Resources;
use lighter_config::manifest::Manifest;
use lighter_config::sidecar::SidecarConfig;
use lighter_config::snapshot::Snapshot;

fuzz_target!(|text: &str| {
    if let Ok(resources) = Resources::parse("fuzz.yaml", text) {
        let one = Snapshot::build(&resources);
        let two = Snapshot::build(&resources);
        assert_eq!(one.is_ok(), two.is_ok());
        if let (Ok(one), Ok(two)) = (one, two) {
            assert_eq!(one.version, two.version, "equal resources have equal versions");
        }
    }
    let _ = SidecarConfig::parse("fuzz.yaml", text);
    let _ = ControlConfig::parse("fuzz.yaml", text);
    // As the control plane and the injector read what is pushed to them.
    for manifest in Manifest::parse("fuzz.yaml", text, "default").into_iter().flatten() {
        assert!(!manifest.key().name.is_empty());
    }
});
