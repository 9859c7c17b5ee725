//! RDMA on real verbs: soft-RoCE in a virtual machine, because the kernel at hand need not have it.
//!
//! One machine boots for all tests. In it this program runs again and does the tests; out here each of them is reported
//! with what it did there. Left out, with the reason, where qemu and a kernel cannot be had as Debian packages.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod inside;
mod outside;

/// The machine, as the demo boots it. Some of it only the demo needs.
#[allow(dead_code)]
#[path = "../../control/src/demo/vm/mod.rs"]
mod machine;

#[path = "../../control/src/demo/child.rs"]
mod child;

fn main() {
    if std::env::var_os(inside::PEER).is_some() {
        return inside::peer();
    }
    let what = std::env::var(inside::INSIDE);
    if what.as_deref() == Ok(inside::COSTS) {
        return inside::print_costs();
    }
    if what.as_deref() == Ok(inside::TESTS) {
        let tests = inside::tests().into_iter();
        support::run(tests.map(|(name, test)| support::test(name, test)).collect());
    }
    if std::env::var_os(APART).is_some() {
        println!("{APART} is set: the machine is not booted here");
        return;
    }
    support::run(outside::tests())
}

/// Set where whoever runs all suites one after the other runs this one apart, beside something else.
const APART: &str = "LIGHTER_VM_APART";
