//! What of a dataset is not read, by the sidecar's own counters and by the kernel's.

use std::fs;

use libtest_mimic::Trial;

use crate::device::{Data, Device, text};
use crate::parquet;
use crate::support::test;

pub fn tests() -> Vec<Trial> {
    vec![test("pushdown::what_is_not_needed_is_not_read", not_read)]
}

/// Twenty row groups, a few megabytes.
fn device() -> (Device, u64) {
    let data = Data::new().with("wide.parquet", |path| {
        parquet::write_wide(path, 20_000, 12);
    });
    let size = fs::metadata(data.path("wide.parquet")).unwrap().len();
    assert!(size > 2_000_000, "{size}");
    (data.start("", ""), size)
}

fn not_read() {
    let (device, size) = device();
    let counted = |name| device.counted(name, &[("function", "scan"), ("dataset", "wide")]);
    let read = || counted("lighter_device_read_bytes_total");
    let skipped = || counted("lighter_device_skipped_bytes_total");
    let rows = |way| device.counted("lighter_device_rows_total", &[("way", way)]);
    // What the process has read of files, however it counts itself.
    let from_files = || {
        let io = fs::read_to_string(format!("/proc/{}/io", device.sidecar.program.pid())).unwrap();
        let of = io.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
        of.parse::<u64>().unwrap()
    };
    // One column of one row group of twenty.
    let before = from_files();
    let result = text(device.get("/scan/wide?where=id%3E%3D5000+and+id%3C5010&select=id&format=csv").1);
    let from_files_now = from_files() - before;
    assert_eq!(result.lines().count(), 11);
    assert_eq!((rows("in"), rows("out")), (1000.0, 10.0));
    let size = size as f64;
    assert!(read() < size / 50.0 && skipped() > size * 0.97, "{} and {} of {size}", read(), skipped());
    // Beside the file it reads requests and answers of its own.
    assert!((from_files_now as f64) < size / 20.0, "{from_files_now} of {size}");
    // All of it.
    let (before_read, before_skipped) = (read(), skipped());
    assert_eq!(text(device.get("/scan/wide").1).lines().count(), 20_000);
    assert!(read() - before_read > size * 0.99 && skipped() == before_skipped);
    assert_eq!(rows("in"), 21_000.0);
    let result = counted("lighter_device_result_bytes_total");
    assert!(result > size, "{result}");
    assert!(device.counted("lighter_device_busy_seconds_total", &[]) > 0.0);
}
