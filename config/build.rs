//! Compiles the protobuf messages, without protoc, and tables of their fields.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use prost_types::{DescriptorProto, FileDescriptorSet};

/// Messages of which every field counts, with all that lies in them: one that is not known is refused. See
/// `xds::unknown`.
const STRICT: [&str; 5] = [
    ".lighter.config.v1.Workload",
    ".envoy.config.core.v3.TransportSocket",
    ".envoy.config.route.v3.RouteMatch",
    ".envoy.config.route.v3.RedirectAction",
    ".envoy.config.route.v3.WeightedCluster.ClusterWeight",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut files = Vec::new();
    protos(Path::new("proto"), &mut files)?;
    files.sort();
    let messages = protox::compile(&files, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("shapes.rs"), shapes(&messages)?)?;
    let mut build = prost_build::Config::new();
    // Maps in order: equal messages have equal bytes.
    build.btree_map(["."]);
    build.include_file("xds.rs");
    build.compile_fds(messages)?;
    Ok(())
}

fn protos(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            protos(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    Ok(())
}

/// A static `Shape` of every message: `LIGHTER_CONFIG_V1_WORKLOAD`.
fn shapes(files: &FileDescriptorSet) -> Result<String, std::fmt::Error> {
    let mut messages = BTreeMap::new();
    for file in &files.file {
        let package = format!(".{}", file.package());
        for message in &file.message_type {
            nested(&package, message, &mut messages);
        }
    }
    let mut text = String::new();
    for (name, message) in &messages {
        let mut fields: Vec<_> = message.field.iter().collect();
        fields.sort_by_key(|field| field.number());
        writeln!(text, "pub static {}: Shape = Shape {{", constant(name))?;
        writeln!(text, "    strict: {},\n    fields: &[", STRICT.contains(&name.as_str()))?;
        for field in fields {
            let inner = match messages.contains_key(field.type_name()) {
                true => format!("Some(&{})", constant(field.type_name())),
                false => "None".to_string(),
            };
            let (number, name) = (field.number(), field.name());
            writeln!(text, "        Field {{ number: {number}, name: {name:?}, inner: {inner} }},")?;
        }
        writeln!(text, "    ],\n}};")?;
    }
    Ok(text)
}

fn nested<'m>(scope: &str, message: &'m DescriptorProto, found: &mut BTreeMap<String, &'m DescriptorProto>) {
    let name = format!("{scope}.{}", message.name());
    for inner in &message.nested_type {
        nested(&name, inner, found);
    }
    found.insert(name, message);
}

/// `.lighter.config.v1.InboundPort` as `LIGHTER_CONFIG_V1_INBOUNDPORT`.
fn constant(name: &str) -> String {
    name.trim_start_matches('.').replace('.', "_").to_uppercase()
}
