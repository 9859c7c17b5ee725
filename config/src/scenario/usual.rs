//! What is simulated where a scenario says nothing.

use std::time;

use super::{Believed, DeviceClass, FanOut, Functions, Hosts, LogNormal, Objective, Scenario, Workload};
use crate::resource::Duration;

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            seed: 1,
            devices: 1000,
            requests: 200_000,
            requests_per_second: 3000.0,
            objective: Objective::default(),
            slo: millis(100),
            slo_miss_percent: 1.0,
            guard_window: millis(1000),
            try_timeout: None,
            report_interval: millis(200),
            static_rule_kibibytes: 1024.0,
            hosts: Hosts::default(),
            device_classes: vec![
                class("csd", 7),
                DeviceClass {
                    slots: 8,
                    compute_factor: 2.5,
                    link_megabytes_per_second: 2500.0,
                    media_megabytes_per_second: 2000.0,
                    busy_watts: 5.0,
                    ..class("dpu", 3)
                },
            ],
            workload: Workload::default(),
            functions: None,
            believed: Believed::default(),
            events: Vec::new(),
        }
    }
}

impl Default for Hosts {
    fn default() -> Self {
        Hosts {
            count: 32,
            slots: 16,
            link_megabytes_per_second: 1250.0,
            busy_watts: 12.0,
            joules_per_gigabyte: joules_per_gigabyte(),
        }
    }
}

impl Default for Workload {
    fn default() -> Self {
        Workload {
            routes: 40,
            popularity_exponent: 1.1,
            popularity_shift: None,
            replicas: 3,
            shards_per_device: 4,
            stale_percent: 2.0,
            stateful_percent: 5.0,
            scan_kibibytes: LogNormal { median: 1024.0, sigma: 1.5 },
            selectivity_percent: LogNormal { median: 1.0, sigma: 1.0 },
            compute_microseconds: LogNormal { median: 300.0, sigma: 2.36 },
            compute_nanoseconds_per_kibibyte: LogNormal { median: 150.0, sigma: 0.8 },
            noise_sigma: 0.25,
            fan_out: FanOut { shape: 1.6, most: 32 },
        }
    }
}

impl Default for Functions {
    fn default() -> Self {
        Functions {
            megabytes: LogNormal { median: 48.0, sigma: 0.5 },
            startup: millis(200),
            direct_percent: 1.0,
            activation_timeout: millis(10_000),
            interval: millis(2000),
            idle: millis(60_000),
            settle: millis(10_000),
        }
    }
}

impl Default for Believed {
    fn default() -> Self {
        Believed { link_factor: 1.0, media_factor: 1.0, compute_factor: 1.0, function_factor: 1.0 }
    }
}

fn class(name: &str, share: u32) -> DeviceClass {
    DeviceClass {
        name: name.to_owned(),
        share,
        slots: slots(),
        compute_factor: compute_factor(),
        link_megabytes_per_second: link_megabytes_per_second(),
        media_megabytes_per_second: media_megabytes_per_second(),
        busy_watts: device_watts(),
        joules_per_gigabyte: joules_per_gigabyte(),
        spread_sigma: spread_sigma(),
        max_queue: max_queue(),
        allowed_slots: None,
        memory_megabytes: memory_megabytes(),
    }
}

pub(super) fn memory_megabytes() -> f64 {
    128.0
}

pub(super) fn slots() -> u32 {
    2
}

pub(super) fn compute_factor() -> f64 {
    4.0
}

pub(super) fn link_megabytes_per_second() -> f64 {
    1250.0
}

pub(super) fn media_megabytes_per_second() -> f64 {
    3200.0
}

pub(super) fn device_watts() -> f64 {
    3.0
}

pub(super) fn joules_per_gigabyte() -> f64 {
    20.0
}

pub(super) fn spread_sigma() -> f64 {
    0.15
}

pub(super) fn max_queue() -> Duration {
    millis(150)
}

fn millis(millis: u64) -> Duration {
    Duration(time::Duration::from_millis(millis))
}
