//! From a caller to this workload's application.
