//! What a sidecar's `/metrics` says, read as any scraper would: samples of the Prometheus text format, and quantiles of its
//! histograms.

mod histogram;
mod text;

pub use histogram::Histogram;
pub use text::{Sample, sample, samples};
