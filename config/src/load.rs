//! Reading resources from files and folders.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::document::{At, Document, MAX_FILE_BYTES};
use crate::error::{ConfigError, ConfigErrors};
use crate::manifest::Manifest;
use crate::resource::authorization::AuthorizationPolicySpec;
use crate::resource::device::DeviceSpec;
use crate::resource::function::FunctionSpec;
use crate::resource::link::LinkPolicySpec;
use crate::resource::migration::MigrationSpec;
use crate::resource::offload::OffloadPolicySpec;
use crate::resource::policy::{MeshPolicySpec, TrafficPolicySpec};
use crate::resource::route::{GrpcRouteSpec, HttpRouteSpec, TcpRouteSpec};
use crate::resource::service::ServiceSpec;
use crate::resource::{Resource, Spec};
use crate::suggest::closest;

/// Resources as written, each of a known kind and with fields of the right types. What they say together is checked
/// when a [`Snapshot`](crate::snapshot::Snapshot) is built.
#[derive(Clone, Debug, Default)]
pub struct Resources {
    pub(crate) services: Vec<Arc<Loaded<ServiceSpec>>>,
    pub(crate) http_routes: Vec<Arc<Loaded<HttpRouteSpec>>>,
    pub(crate) grpc_routes: Vec<Arc<Loaded<GrpcRouteSpec>>>,
    pub(crate) tcp_routes: Vec<Arc<Loaded<TcpRouteSpec>>>,
    pub(crate) traffic_policies: Vec<Arc<Loaded<TrafficPolicySpec>>>,
    pub(crate) mesh_policies: Vec<Arc<Loaded<MeshPolicySpec>>>,
    pub(crate) link_policies: Vec<Arc<Loaded<LinkPolicySpec>>>,
    pub(crate) authorization_policies: Vec<Arc<Loaded<AuthorizationPolicySpec>>>,
    pub(crate) devices: Vec<Arc<Loaded<DeviceSpec>>>,
    pub(crate) functions: Vec<Arc<Loaded<FunctionSpec>>>,
    pub(crate) offload_policies: Vec<Arc<Loaded<OffloadPolicySpec>>>,
    pub(crate) migrations: Vec<Arc<Loaded<MigrationSpec>>>,
    /// `kind namespace/name`, in the order of the files.
    names: Vec<String>,
}

/// A resource with the document it was read from.
#[derive(Clone, Debug)]
pub(crate) struct Loaded<S> {
    pub(crate) document: Document,
    pub(crate) resource: Resource<S>,
}

impl<S> Loaded<S> {
    pub(crate) fn at(&self) -> At<'_> {
        self.document.root()
    }

    pub(crate) fn spec(&self) -> At<'_> {
        self.at().field("spec")
    }

    pub(crate) fn name(&self) -> &str {
        &self.resource.metadata.name
    }

    pub(crate) fn namespace(&self) -> &str {
        self.resource.metadata.namespace.as_deref().unwrap_or(crate::name::DEFAULT_NAMESPACE)
    }
}

impl Resources {
    /// Reads files, and the `*.yaml`, `*.yml` and `*.json` files of folders in order of their names. Hidden files and
    /// folders within folders are left out. A file that is named twice is read once.
    pub fn read(paths: &[PathBuf]) -> Result<Resources, ConfigErrors> {
        let (mut resources, mut errors) = (Resources::default(), Vec::new());
        let mut seen = HashSet::new();
        for path in paths {
            for file in files(path, &mut errors) {
                if !seen.insert(file.canonicalize().unwrap_or_else(|_| file.clone())) {
                    continue;
                }
                match read_regular(&file) {
                    Ok(text) => errors.extend(resources.take(&file.display().to_string(), &text)),
                    Err(error) => errors.push(error),
                }
            }
        }
        ConfigErrors::or(errors, resources)
    }

    /// The files that [`Resources::read`] would read now. What cannot be listed has none.
    pub fn files(paths: &[PathBuf]) -> Vec<PathBuf> {
        paths.iter().flat_map(|path| files(path, &mut Vec::new())).collect()
    }

    /// Whether a file of this name is read in a folder.
    pub fn is_read(name: &OsStr) -> bool {
        let known =
            matches!(Path::new(name).extension().and_then(|e| e.to_str()), Some("yaml" | "yml" | "json"));
        known && !name.as_encoded_bytes().starts_with(b".")
    }

    /// Reads the documents of one text. `file` is what errors call it.
    pub fn parse(file: &str, text: &str) -> Result<Resources, ConfigErrors> {
        let mut resources = Resources::default();
        let errors = resources.take(file, text);
        ConfigErrors::or(errors, resources)
    }

    /// Adds the documents of one text behind what there is. After an error, some of them may be missing.
    pub fn add_text(&mut self, file: &str, text: &str) -> Result<(), ConfigErrors> {
        ConfigErrors::or(self.take(file, text), ())
    }

    /// Reads manifests, in their order: where two have one name, the later is at fault.
    pub fn of(manifests: impl IntoIterator<Item = Manifest>) -> Result<Resources, ConfigErrors> {
        let mut resources = Resources::default();
        resources.add(manifests)?;
        Ok(resources)
    }

    /// Adds manifests behind what there is. After an error, some of them may be missing.
    pub fn add(&mut self, manifests: impl IntoIterator<Item = Manifest>) -> Result<(), ConfigErrors> {
        let take = |manifest: Manifest| self.take_one(manifest.document).err();
        let errors = manifests.into_iter().filter_map(take).flatten().collect();
        ConfigErrors::or(errors, ())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// What there is, as `kind namespace/name`, in the order of the files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    fn take(&mut self, file: &str, text: &str) -> Vec<ConfigError> {
        let (documents, mut errors) = Document::parse(file, text);
        errors.extend(documents.into_iter().filter_map(|document| self.take_one(document).err()).flatten());
        errors
    }

    pub(crate) fn take_one(&mut self, mut document: Document) -> Result<(), Vec<ConfigError>> {
        let kind = identify(&mut document)?;
        let name = document.resource.clone();
        match kind.as_str() {
            "Service" => self.services.push(typed(document)?),
            "HTTPRoute" => self.http_routes.push(typed(document)?),
            "GRPCRoute" => self.grpc_routes.push(typed(document)?),
            "TCPRoute" => self.tcp_routes.push(typed(document)?),
            "TrafficPolicy" => self.traffic_policies.push(typed(document)?),
            "MeshPolicy" => self.mesh_policies.push(typed(document)?),
            "LinkPolicy" => self.link_policies.push(typed(document)?),
            "AuthorizationPolicy" => self.authorization_policies.push(typed(document)?),
            "Device" => self.devices.push(typed(document)?),
            "Function" => self.functions.push(typed(document)?),
            "OffloadPolicy" => self.offload_policies.push(typed(document)?),
            "Migration" => self.migrations.push(typed(document)?),
            _ => return Err(vec![unknown_kind(&document, &kind)]),
        }
        self.names.extend(name);
        Ok(())
    }
}

/// The kinds that can stand in a resource file.
pub const RESOURCE_KINDS: [&str; 12] = [
    "Service",
    "HTTPRoute",
    "GRPCRoute",
    "TCPRoute",
    "TrafficPolicy",
    "MeshPolicy",
    "LinkPolicy",
    "AuthorizationPolicy",
    "Device",
    "Function",
    "OffloadPolicy",
    "Migration",
];

/// The kind of a document, which is one of those known; from here on its errors say which resource it is.
pub(crate) fn identify(document: &mut Document) -> Result<String, Vec<ConfigError>> {
    let kind = kind(document).map_err(|error| vec![error])?;
    document.resource = Some(resource_name(&kind, &document.value));
    match RESOURCE_KINDS.contains(&&*kind) {
        true => Ok(kind),
        false => Err(vec![unknown_kind(document, &kind)]),
    }
}

fn unknown_kind(document: &Document, unknown: &str) -> ConfigError {
    let error = document.root().field("kind").error(format!("unknown kind `{unknown}`"));
    error.hint(match closest(unknown, RESOURCE_KINDS) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("known kinds: {}", RESOURCE_KINDS.join(", ")),
    })
}

fn kind(document: &Document) -> Result<String, ConfigError> {
    let at = document.root();
    let Value::Object(fields) = &document.value else {
        let error = at.error("a resource is a mapping with apiVersion, kind, metadata and spec");
        return Err(error.hint("see `lighter schema KIND`"));
    };
    match fields.get("kind") {
        Some(Value::String(kind)) => Ok(kind.clone()),
        Some(_) => Err(at.field("kind").error("the kind is a word, such as `Service`")),
        None => Err(at
            .error("missing field `kind`")
            .hint("every document needs apiVersion, kind, metadata and spec; see `lighter schema KIND`")),
    }
}

fn resource_name(kind: &str, value: &Value) -> String {
    let metadata = &value["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or(crate::name::DEFAULT_NAMESPACE);
    match metadata["name"].as_str() {
        Some(name) => format!("{kind} {namespace}/{name}"),
        None => kind.to_string(),
    }
}

fn typed<S: Spec>(mut document: Document) -> Result<Arc<Loaded<S>>, Vec<ConfigError>> {
    // Before the fields: those of another group's kind of the same name would be a long way round to the reason.
    match &document.value["apiVersion"] {
        Value::Null => {}
        Value::String(version) if S::API_VERSIONS.contains(&version.as_str()) => {}
        other => {
            let said = other.as_str().map_or_else(|| other.to_string(), str::to_string);
            let error = document
                .root()
                .field("apiVersion")
                .error(format!("unknown apiVersion `{said}` for {}", S::KIND));
            return Err(vec![error.hint(format!("expected {}", S::API_VERSIONS.join(" or ")))]);
        }
    }
    let resource = document.read()?;
    // Only the places are needed from here on.
    document.value = Value::Null;
    Ok(Arc::new(Loaded { document, resource }))
}

/// The files that `path` stands for.
fn files(path: &Path, errors: &mut Vec<ConfigError>) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_path_buf()];
    }
    let entries = match std::fs::read_dir(path).and_then(|entries| entries.collect::<Result<Vec<_>, _>>()) {
        Ok(entries) => entries,
        Err(error) => {
            errors.push(ConfigError::of_file(
                &path.display().to_string(),
                format!("cannot be listed: {error}"),
            ));
            return Vec::new();
        }
    };
    let is_wanted = |file: &PathBuf| file.file_name().is_some_and(Resources::is_read) && file.is_file();
    let mut found: Vec<PathBuf> = entries.iter().map(|entry| entry.path()).filter(is_wanted).collect();
    found.sort();
    found
}

/// A resource file's text. These are read again while a sidecar runs, and a pipe would hold it up.
fn read_regular(path: &Path) -> Result<String, ConfigError> {
    text_of(path, || {
        // Without waiting for whoever writes to a pipe; on a file this changes nothing.
        let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
        match opened.metadata()?.is_file() {
            true => Ok(opened),
            false => Err(io::Error::other("it is not a regular file")),
        }
    })
}

/// A file's text, if it is text; a little more than the most that a file may have, if it has more. What can be read
/// once only, such as a pipe, is read until whoever writes to it is done.
pub fn read_text(path: &Path) -> Result<String, ConfigError> {
    text_of(path, || File::open(path))
}

/// The text of standard input, in the same way. Errors call it `-`.
pub fn read_standard_input() -> Result<String, ConfigError> {
    text_of(Path::new("-"), || Ok(io::stdin().lock()))
}

fn text_of<R: Read>(path: &Path, open: impl FnOnce() -> io::Result<R>) -> Result<String, ConfigError> {
    let file = path.display().to_string();
    let mut bytes = Vec::new();
    open()
        .and_then(|opened| opened.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| ConfigError::of_file(&file, format!("cannot be read: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        let line =
            1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        ConfigError::of_file(&file, format!("line {line} is not UTF-8"))
    })
}

/// The same on every Linux that Rust knows but MIPS and SPARC.
const O_NONBLOCK: i32 = 0o4000;
