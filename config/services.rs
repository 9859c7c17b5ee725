// The gRPC services between sidecars and a control plane, for the build scripts of both, which include this file.

/// Compiles them. Their messages are `lighter-config`'s.
fn services(build: tonic_prost_build::Builder) -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../config/proto");
    let files = [
        "../config/proto/envoy/service/discovery/v3/discovery.proto",
        "../config/proto/lighter/identity/v1/identity.proto",
        "../config/proto/lighter/registry/v1/registry.proto",
    ];
    let services = protox::compile(files, ["../config/proto"])?;
    build
        .extern_path(".envoy", "::lighter_config::xds::wire::envoy")
        .extern_path(".google.rpc", "::lighter_config::xds::wire::google::rpc")
        .extern_path(".lighter", "::lighter_config::xds::wire::lighter")
        .compile_fds(services)?;
    Ok(())
}
