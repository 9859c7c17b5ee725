//! The built-in functions do on every class of device what a device has to do, with the same bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use lighter_functions::conformance;
use lighter_functions::{Builtins, Class};

#[test]
fn every_class_of_device_does_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut all = Class::ALL.into_iter().map(|class| {
        let answers = conformance::check(class, folder.path(), &[], &|setup| Box::new(Builtins::new(setup)));
        answers.unwrap_or_else(|fault| panic!("{class:?}: {fault}"))
    });
    let first = all.next().unwrap();
    assert!(first.len() >= 9);
    for other in all {
        assert_eq!(other, first);
    }
}

#[test]
fn a_device_that_does_otherwise_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let other = conformance::check(Class::Csd, folder.path(), &[], &|mut setup| {
        setup.class = Class::Host;
        Box::new(Builtins::new(setup))
    });
    assert!(other.unwrap_err().starts_with("class: expected Csd"));
    let generous = conformance::check(Class::Csd, folder.path(), &[], &|mut setup| {
        setup.limits.rows_out = u64::MAX;
        Box::new(Builtins::new(setup))
    });
    assert!(generous.unwrap_err().contains("run within"));
}
