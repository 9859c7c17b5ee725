//! From this workload to a Service.
