//! WebAssembly components as functions of a device: [`Component`] is a [`Program`](lighter_functions::Program).
//!
//! A component answers requests as `wasi:http/incoming-handler` has it. Of its host it gets what `wit/device.wit` says: the
//! datasets of its tenant, and keys that its tenant keeps. There is no clock, no chance and nobody to call, so that one
//! digest gives the same bytes on every device.
//!
//! Every run has an instance of its own, in memory that is zeroed before the next one gets it; or all runs of a component
//! have one after the other the same instance, whose memory moves to other devices where all that lasts can be reached. What it may take is what any
//! run may: the memory of its instance and what its host holds for it count as its memory, and ten milliseconds are the
//! longest that it goes on after its time is over or its caller has left.

mod cache;
mod component;
mod engine;
mod host;
mod kept;
mod live;
mod movable;
mod pages;
mod reach;
mod ticker;

pub use component::Component;
pub use engine::{Error, Runtime, Settings};
