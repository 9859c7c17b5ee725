//! Opaque bytes, spliced both ways with half-close.
