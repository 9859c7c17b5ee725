//! Sidecars for Kubernetes: `lighter inject` puts one into the pods that manifests describe, `lighter uninject` takes it out,
//! and the admission webhook of the control plane does the first as pods are made.
//!
//! A pod gets a native sidecar (an init container that goes on) before its other init containers. The sidecar's own file is
//! an annotation, which a volume shows it; its identity is a Secret; annotations say what it is to be like ([`wishes`]). What
//! was put in is written down in another annotation, so that doing it twice does nothing and undoing it leaves nothing.

pub mod command;
mod edit;
mod patch;
pub mod review;
mod sidecar;
pub mod webhook;
mod wishes;
mod workload;
mod yaml;

#[cfg(test)]
mod tests;

/// The image of the sidecar where nobody says another.
pub const IMAGE: &str = concat!("lighter-proxy:", env!("CARGO_PKG_VERSION"));
/// Where the control plane is where nobody says so: a Service `lighter-control` in the namespace `lighter`.
pub const CONTROL: &str = "lighter-control.lighter.svc:15010";
