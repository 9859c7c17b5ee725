//! Compiles the gRPC clients of the control plane's services, whose messages are `lighter-config`'s, and of a collector of
//! spans.

include!("../config/services.rs");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    services(clients())?;
    println!("cargo::rerun-if-changed=proto");
    let collector = "proto/opentelemetry/proto/collector/trace/v1/trace_service.proto";
    clients()
        // Of bytes that are encoded already: see `telemetry::spans::otlp`.
        .extern_path(".opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest", "::bytes::Bytes")
        .include_file("opentelemetry.rs")
        .compile_fds(protox::compile([collector], ["proto"])?)?;
    Ok(())
}

fn clients() -> tonic_prost_build::Builder {
    tonic_prost_build::configure().build_server(false).build_client(true)
}
