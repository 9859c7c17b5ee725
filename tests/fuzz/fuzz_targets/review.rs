//! Whatever an API server or a manifest says, a pod is let in or not, injecting twice is injecting once, and nothing ends the
//! process. The control plane is a program and no library: its sources are part of this one.

#![no_main]
#![allow(dead_code, missing_docs, unused_imports)]

use libfuzzer_sys::fuzz_target;

#[path = "../../../control/src/inject"]
mod inject {
    pub mod edit;
    pub mod patch;
    pub mod review;
    pub mod sidecar;
    pub mod wishes;
    pub mod workload;
    pub mod yaml;
}

use inject::edit::{self, Outcome};
use inject::review;
use inject::wishes::Defaults;
use inject::yaml;

fuzz_target!(|text: &str| {
    let defaults =
        Defaults { image: "image".into(), control: "control:15010".into(), namespace: "default".into() };
    let _ = review::answer(text.as_bytes(), &defaults);
    // Not everything has to be found: a review of what stands there.
    let object = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","operation":"CREATE","object":{text}}}}}"#
    );
    if let Ok((answer, _)) = review::answer(object.as_bytes(), &defaults) {
        assert!(serde_json::to_string(&answer).is_ok());
    }
    for document in yaml::read(text).into_iter().flatten() {
        let mut once = document.node;
        let before = edit::inject(&mut once, &defaults);
        if before.iter().all(|(_, outcome)| *outcome == Outcome::Injected) {
            let mut twice = once.clone();
            edit::inject(&mut twice, &defaults);
            assert!(twice == once, "twice is once");
        }
        let _ = yaml::write(&once);
        edit::uninject(&mut once);
    }
});
