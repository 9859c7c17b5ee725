//! `device: {components: [{name: NAME, path: FILE, …}]}`: functions that somebody else wrote.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::device::BuiltIn;
use super::limits::{ComponentLimits, ComponentLimitsFile, DeviceLimits};
use crate::build::check;
use crate::document::At;
use crate::error::ConfigError;

/// `{name: NAME, path: FILE, tenant: TENANT, memory: fresh|kept}`: a WebAssembly component of `wasi:http/incoming-handler`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComponentConfig {
    /// What requests call it.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Whose it is: it sees datasets and keys of this tenant alone. Default `default`.
    pub tenant: String,
    /// What its runs may take. None: what those of any function may.
    pub limits: Option<ComponentLimits>,
    /// What of its memory lasts. Default [`ComponentMemory::Fresh`].
    pub memory: ComponentMemory,
}

/// What of a component's memory lasts from one run to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ComponentMemory {
    /// Nothing: each run has an instance of its own.
    #[default]
    Fresh,
    /// All of it: runs are one after the other in one instance.
    Kept,
}

/// A WebAssembly component.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ComponentFile {
    /// What requests call it: letters, digits, `.`, `-` and `_`.
    pub(super) name: String,
    /// Its file, relative to this one.
    path: PathBuf,
    /// Whose it is: it sees datasets and keys of this tenant alone. Of the same letters. Default `default`.
    #[serde(default = "super::device::usual_tenant")]
    tenant: String,
    /// What its runs may take, each at most what the device's `limits` say. Default: that.
    #[serde(default)]
    limits: Option<ComponentLimitsFile>,
    /// What of its memory lasts: `fresh`, nothing, as each run has an instance of its own; or `kept`, all of it, as runs are one
    /// after the other in one instance. Not with `activation: planned`. Default `fresh`.
    #[serde(default)]
    pub(super) memory: ComponentMemory,
}

impl ComponentFile {
    /// Refuses what is no component beside those `before` it.
    pub(super) fn check(&self, at: &At<'_>, before: &[ComponentFile], refuse: &mut impl FnMut(ConfigError)) {
        for (field, text) in [("name", &self.name), ("tenant", &self.tenant)] {
            if let Err(error) = check::data_name(&at.field(field), text) {
                refuse(error);
            }
        }
        if BuiltIn::ALL.iter().any(|function| function.name() == self.name) {
            let error = at.field("name").error(format!("`{}` is built in", self.name));
            refuse(error.hint("give the component a name of its own"));
        }
        if before.iter().any(|other| other.name == self.name) {
            refuse(at.field("name").error(format!("there is a component `{}` already", self.name)));
        }
        if self.path.as_os_str().is_empty() {
            refuse(at.field("path").error("an empty path names no file"));
        }
    }
    /// Most memory of one of its runs, in bytes, where any function of the device may take what `device` says.
    pub(super) fn memory_bytes(&self, device: &DeviceLimits) -> u64 {
        self.limits.as_ref().and_then(|own| own.memory_bytes).unwrap_or(device.memory_bytes)
    }

    /// What is said, with paths relative to `folder`, of a component of a device with these limits.
    pub(super) fn read(
        self,
        folder: &Path,
        device: &DeviceLimits,
        at: &At<'_>,
        refuse: &mut impl FnMut(ConfigError),
    ) -> ComponentConfig {
        ComponentConfig {
            name: self.name,
            path: folder.join(self.path),
            tenant: self.tenant,
            memory: self.memory,
            limits: self.limits.map(|own| own.read(device, &at.field("limits"), refuse)),
        }
    }
}
