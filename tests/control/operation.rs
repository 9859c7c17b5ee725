//! Starting, stopping, and being told nonsense.

use std::process::Command;

use libtest_mimic::Trial;
use lighter_config::xds::Kind;
use rustix::process::Signal;

use crate::ads::Stream;
use crate::plane::Plane;
use crate::support::sidecar::{LIGHTER, service};
use crate::support::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("operation::ends_every_stream_in_good_order", ends_every_stream_in_good_order),
        test("operation::does_not_start_with_a_faulty_file", does_not_start_with_a_faulty_file),
        test("operation::one_store_has_one_control_plane", one_store_has_one_control_plane),
    ]
}

fn ends_every_stream_in_good_order() {
    let mut plane = Plane::start(&service("a", "http", &[]));
    let mut streams = [Stream::open(plane.ads), Stream::open(plane.ads)];
    for stream in &mut streams {
        stream.ask(Kind::Cluster, &["default/a:80"]);
        assert_eq!(stream.next().resources.len(), 1);
    }
    plane.program.signal(Signal::TERM);
    for stream in &mut streams {
        assert_eq!(stream.end(), "0");
    }
    assert!(plane.program.wait().success());
    assert!(!plane.program.said().contains("did not take their leave"));
}

fn does_not_start_with_a_faulty_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("control.yaml");
    for (text, said) in [
        ("trust: example.org\n", "unknown field `trust`"),
        ("plaintextAds: 0.0.0.0:1\n", "must be a loopback address"),
        ("resources: [missing.yaml]\n", "cannot be read"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = Command::new(LIGHTER).args(["control", "--config"]).arg(&file).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && stderr.contains(said), "{text}{stderr}");
    }
}

fn one_store_has_one_control_plane() {
    let plane = Plane::start(&service("a", "http", &[]));
    let mut command = Command::new(LIGHTER);
    command.args(["control", "--config"]).arg(plane.path("control.yaml"));
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && stderr.contains("is in use by another process"), "{stderr}");
}
