//! Compiles the gRPC services that the control plane serves, and tells the build what it is: the target, the commit
//! where git knows it, the features.

use std::process::Command;

include!("../config/services.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    identify();
    services(tonic_prost_build::configure().build_server(true).build_client(false))
}

fn identify() {
    println!("cargo::rerun-if-env-changed=LIGHTER_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    for path in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", path]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    // A packager who builds from an archive says the commit; a clone knows it. Neither: not known.
    let commit = std::env::var("LIGHTER_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    println!("cargo::rustc-env=LIGHTER_BUILD_COMMIT={}", commit.unwrap_or_default());
    println!("cargo::rustc-env=LIGHTER_BUILD_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo::rustc-env=LIGHTER_BUILD_PROFILE={}", std::env::var("PROFILE").unwrap_or_default());
    println!("cargo::rustc-env=LIGHTER_BUILD_FEATURES={}", features().join(","));
}

/// What git answers, in one line; nothing where there is no git, no repository or no answer.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

/// The cargo features of this build, in order.
fn features() -> Vec<String> {
    let mut features: Vec<String> = std::env::vars()
        .filter_map(|(name, _)| name.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase))
        .map(|name| name.replace('_', "-"))
        .filter(|name| name != "default")
        .collect();
    features.sort();
    features
}
