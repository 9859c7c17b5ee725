//! Functions on a device: real sidecars that run them, asked by curl and by raw peers, and judged by Python.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../../filters/functions/tests/common/parquet.rs"]
mod parquet;

mod answers;
mod calls;
mod clients;
mod components;
mod course;
mod device;
mod limits;
mod natives;
mod planned;
mod pushdown;
mod reserve;

fn main() {
    let suites = [
        answers::tests(),
        calls::tests(),
        components::tests(),
        course::tests(),
        limits::tests(),
        natives::tests(),
        planned::tests(),
        pushdown::tests(),
        reserve::tests(),
    ];
    support::run(suites.into_iter().flatten().collect())
}
