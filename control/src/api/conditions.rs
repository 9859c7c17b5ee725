//! The status of stored resources, as conditions of the Gateway API.
//!
//! A resource is in the store only if it was accepted, so `Accepted` is always true. `ResolvedRefs` of a route is false
//! while one of its backends does not exist, and of an OffloadPolicy while a Device that it would use does not. Nobody keeps when a condition changed, so `lastTransitionTime` is left out.

use lighter_config::error::ConfigError;
use lighter_config::resource::{Spec, offload::OffloadPolicySpec};
use serde_json::{Value, json};

use crate::store::Stored;

/// Who writes the status of a route.
const CONTROLLER: &str = "mesh.lighter.dev/controller";

/// The `status` of a resource. `warnings` are those of everything there is.
pub fn status(stored: &Stored, warnings: &[ConfigError]) -> Value {
    let generation = stored.generation;
    let accepted = json!({
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "observedGeneration": generation,
    });
    let resolved = |missing: Vec<String>, reason: &str| {
        json!({
            "type": "ResolvedRefs",
            "status": if missing.is_empty() { "True" } else { "False" },
            "reason": if missing.is_empty() { "ResolvedRefs" } else { reason },
            "message": missing.join("; "),
            "observedGeneration": generation,
        })
    };
    if &*stored.key.kind == OffloadPolicySpec::KIND {
        // All that is ever warned of one is what it lacks.
        let resolved = resolved(said(stored, warnings, "").collect(), "DeviceNotFound");
        return json!({"conditions": [accepted, resolved]});
    }
    let Some(parents) = stored.document["spec"]["parentRefs"].as_array() else {
        return json!({"conditions": [accepted]});
    };
    // The only other warnings of routes are about rules without any.
    let resolved = resolved(said(stored, warnings, "backendRefs[").collect(), "BackendNotFound");
    let of_parent = |parent: &Value| {
        json!({
            "parentRef": parent,
            "controllerName": CONTROLLER,
            "conditions": [accepted, resolved],
        })
    };
    json!({"parents": parents.iter().map(of_parent).collect::<Vec<_>>()})
}

/// What is warned of this resource, at places with this in their path.
fn said<'a>(
    stored: &Stored,
    warnings: &'a [ConfigError],
    path: &'a str,
) -> impl Iterator<Item = String> + use<'a> {
    let name = stored.key.to_string();
    warnings
        .iter()
        .filter(move |warning| warning.resource.as_ref() == Some(&name) && warning.path.contains(path))
        .map(|warning| format!("{}: {}", warning.path, warning.message))
}
