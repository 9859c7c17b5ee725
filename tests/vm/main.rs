//! RDMA on real verbs: soft-RoCE in a virtual machine, because the kernel at hand need not have it.
//!
//! One machine boots for all tests. In it this program runs again and does the tests; out here each of them is reported
//! with what it did there. Left out, with the reason, where qemu and a kernel cannot be had as Debian packages.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod archive;
mod inside;
mod machine;
mod outside;
mod packages;

fn main() {
    if std::env::var_os(inside::PEER).is_some() {
        return inside::peer();
    }
    if std::env::var_os(inside::INSIDE).is_some() {
        let tests = inside::tests().into_iter();
        support::run(tests.map(|(name, test)| support::test(name, test)).collect());
    }
    support::run(outside::tests())
}
