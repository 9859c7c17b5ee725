//! gRPC: Python's own client and server, unchanged.

use libtest_mimic::Trial;

use crate::support::metrics::Metrics;
use crate::support::process::python;
use crate::support::{test_where, wait_until};
use crate::world::{World, script};

pub fn tests() -> Vec<Trial> {
    vec![
        test_where("grpc::every_kind_of_call_by_hint", || every_kind_of_call("grpc")),
        test_where("grpc::every_kind_of_call_found_out", || every_kind_of_call("auto")),
    ]
}

/// Unary and the three kinds of stream, deadlines, cancellation, and a thousand calls at once against a server that
/// takes five at a time on a connection.
fn every_kind_of_call(protocol: &str) -> Result<(), String> {
    let python = python("grpc")?;
    let world = World::of("echo", 50051, protocol);
    let mut server = world.serve(&python, &[&script("grpc_server.py"), "50051", "5"]);
    server.wait_until_it_says("ready");
    let said = world.must_call(&python, &[&script("grpc_client.py"), "echo:50051", "1000"]);
    for story in ["unary", "streams", "deadlines", "cancellation", "parallel"] {
        assert!(said.contains(story), "{story} is missing:\n{said}");
    }
    let labels = [("direction", "inbound"), ("protocol", "grpc"), ("service", "default/echo")];
    wait_until("the callee's sidecar has counted every call", || {
        Metrics::of(server.admin).sum("lighter_requests_total", &labels) >= 1000.0
    });
    Ok(())
}
