//! `lighter-proxy`: the sidecar alone, for container images.

fn main() {}
