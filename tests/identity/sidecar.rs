//! The identity of a sidecar, from files.

use std::process::Command;

use libtest_mimic::Trial;

use crate::support::sidecar::{LIGHTER, Sidecar};
use crate::support::{test, wait_until};
use crate::world::ca;

pub fn tests() -> Vec<Trial> {
    vec![
        test("sidecar::its_certificate_is_counted_down_and_renewed", counted_down_and_renewed),
        test("sidecar::files_that_do_not_fit_are_said_at_the_start", said_at_the_start),
    ]
}

fn counted_down_and_renewed() {
    let folder = tempfile::tempdir().unwrap();
    let (state, out) = (folder.path().join("state"), folder.path().join("web"));
    let out = out.display().to_string();
    ca(&state, &["init"]);
    let said = ca(&state, &["issue", "--service", "web", "--life", "1h", "--out", &out]);
    assert_eq!(said, "spiffe://mesh.lighter/ns/default/sa/web");
    let own = format!(
        "identity: {{certificate: {out}/certificate.pem, key: {out}/key.pem, bundle: {out}/bundle.pem}}"
    );
    let sidecar = Sidecar::start("", &own);
    let left = || sidecar.metrics().sum("lighter_identity_seconds_left", &[]);
    let first = left();
    assert!((3000.0..=3600.0).contains(&first), "{first}");
    ca(&state, &["issue", "--service", "web", "--life", "2h", "--out", &out]);
    wait_until("the renewed certificate is in force", || left() > first);
    assert!(sidecar.program.said().contains("what they say is in force"));
    // A key that is not the certificate's: what was in force stays.
    std::fs::copy(folder.path().join("state/ca/root-1.key"), format!("{out}/key.pem")).unwrap();
    wait_until("the fault is said", || sidecar.program.said().contains("what was in force stays"));
    assert!(left() > first);
}

fn said_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (state, out) = (folder.path().join("state"), folder.path().join("web"));
    let out = out.display().to_string();
    ca(&state, &["init"]);
    ca(&state, &["issue", "--service", "web", "--out", &out]);
    let file = folder.path().join("sidecar.yaml");
    let root = format!("{}/ca/root-1.pem", state.display());
    // An authority is nobody's identity.
    let own = format!("identity: {{certificate: {root}, key: {out}/key.pem, bundle: {out}/bundle.pem}}\n");
    std::fs::write(&file, own).unwrap();
    let output = Command::new(LIGHTER).args(["proxy", "--config"]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("no SPIFFE ID of a workload"), "{said}");
}
