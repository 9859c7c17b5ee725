//! Compiles the gRPC clients of the control plane's services. Their messages are `lighter-config`'s.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../config/proto");
    let files = [
        "../config/proto/envoy/service/discovery/v3/discovery.proto",
        "../config/proto/lighter/identity/v1/identity.proto",
        "../config/proto/lighter/registry/v1/registry.proto",
    ];
    let services = protox::compile(files, ["../config/proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .build_client(true)
        .extern_path(".envoy", "::lighter_config::xds::wire::envoy")
        .extern_path(".google.rpc", "::lighter_config::xds::wire::google::rpc")
        .extern_path(".lighter", "::lighter_config::xds::wire::lighter")
        .compile_fds(services)?;
    Ok(())
}
