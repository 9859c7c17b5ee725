//! The components of a device, where this `lighter` was built with their runtime.

use std::sync::Arc;

use lighter_config::sidecar::DeviceConfig;
use lighter_functions::Program;

/// The components of the file, which were compiled once. Where functions are planned, none takes memory yet. A device without
/// any has nothing of their runtime.
#[cfg(feature = "wasm")]
pub(crate) fn load(config: &DeviceConfig) -> Result<Vec<Arc<dyn Program>>, String> {
    use lighter_config::sidecar::{ComponentConfig, ComponentMemory};
    use lighter_functions::Limits;
    use lighter_wasm::{Component, Runtime, Settings};

    if config.components.is_empty() {
        return Ok(Vec::new());
    }
    let settings = Settings {
        memory_bytes: config.limits.memory_bytes,
        runs: config.limits.runs,
        kept: config.components.iter().filter(|component| component.memory == ComponentMemory::Kept).count(),
        key_bytes: config.limits.key_bytes,
        cache: config.component_cache.clone(),
    };
    let runtime = Runtime::new(&settings).map_err(|error| error.to_string())?;
    let load = |ComponentConfig { name, path, tenant, limits, memory }: &ComponentConfig| {
        let component = match memory {
            ComponentMemory::Fresh => Component::load(&runtime, name, tenant, path),
            ComponentMemory::Kept => Component::load_kept(&runtime, name, tenant, path),
        };
        let component = component.map_err(|error| format!("`{name}`: {error}"))?;
        if let Some(why) = component.not_movable() {
            tracing::warn!(function = name, %why, "what a function keeps is not_movable: it stays on this device");
        }
        let component = match limits {
            None => component,
            Some(own) => component.within(Limits {
                memory_bytes: own.memory_bytes,
                rows_out: u64::MAX,
                bytes_out: own.result_bytes.unwrap_or(u64::MAX),
                deadline: own.deadline,
            }),
        };
        let component = if config.planned.is_some() { component.at_rest() } else { component };
        Ok(Arc::new(component) as Arc<dyn Program>)
    };
    config.components.iter().map(load).collect()
}

/// A file that has none is as good as with it.
#[cfg(not(feature = "wasm"))]
pub(crate) fn load(config: &DeviceConfig) -> Result<Vec<Arc<dyn Program>>, String> {
    match config.components.first() {
        None => Ok(Vec::new()),
        Some(component) => Err(format!(
            "`{}`: this `lighter` was built without components; build it with `cargo build --release --features wasm`",
            component.name
        )),
    }
}
