//! Whatever a resolver is asked, its answer is to the same question and never larger than it may be.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use lighter_config::load::Resources;
use lighter_config::snapshot::Snapshot;
use lighter_proxy::intercept::dns::{Decision, decide};
use lighter_proxy::mesh::Mesh;

const SERVICE: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: reviews}
spec: {ports: [{name: http, port: 80}], endpoints: []}
";

static MESH: LazyLock<Mesh> = LazyLock::new(|| {
    let resources = Resources::parse("service.yaml", SERVICE).expect("a valid Service");
    let snapshot = Snapshot::build(&resources).expect("a valid mesh");
    Mesh::build(Arc::new(snapshot), &Mesh::default())
});

fuzz_target!(|data: &[u8]| {
    let search = ["default.svc.cluster.local".to_owned()];
    if let Decision::Answer(answer) = decide(data, &MESH, "default", &search) {
        assert!(answer.len() >= 12, "an answer has a head");
        assert_eq!(answer[..2], data[..2], "an answer is to its question");
        assert!(answer[2] & 0x80 != 0, "an answer says that it is one");
    }
});
