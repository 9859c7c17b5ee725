//! What is counted of RDMA: devices, memory, messages, and what went wrong.

use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use lighter_verbs::{Error, Status};

use super::exposition::{Exposition, Family, Kind, LabelValue, Unit};
use super::recorder::recorder;
use super::shards::Cells;

/// Counts of RDMA.
pub struct RdmaMetrics {
    cells: LazyLock<Cells>,
    devices: Mutex<Devices>,
}

/// What links can use, and what keeps them from more.
#[derive(Debug, Default)]
struct Devices {
    usable: Vec<String>,
    /// Where the labels of the causes stand among all.
    unusable: Vec<usize>,
}

/// Memory that a device reaches, counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Registered(u64);

/// Counts of RDMA.
pub fn rdma() -> &'static RdmaMetrics {
    &recorder().rdma
}

impl RdmaMetrics {
    /// So many bytes are registered now.
    pub(crate) fn registered(&self, bytes: u64) -> Registered {
        self.cells.add(REGISTERED, bytes);
        Registered(bytes)
    }

    /// Messages went out: with bytes, and without.
    #[inline]
    pub(crate) fn sent(&self, is_credit: bool) {
        self.cells.add(MESSAGES + usize::from(is_credit), 1);
    }

    /// A message came: with bytes, or without.
    #[inline]
    pub(crate) fn received(&self, is_credit: bool) {
        self.cells.add(MESSAGES + 2 + usize::from(is_credit), 1);
    }

    /// A write found no room, or the peer had no request to receive.
    pub(crate) fn stalled(&self, of_receives: bool) {
        self.cells.add(STALLS + usize::from(of_receives), 1);
    }

    /// A request ended like this.
    pub(crate) fn ended(&self, status: Status) {
        if let Some(at) = status.index() {
            self.cells.add(ERRORS + at, 1);
        }
    }

    /// These devices can be used, and these causes keep links from others.
    pub(crate) fn devices<'a>(&self, usable: Vec<String>, unusable: impl Iterator<Item = &'a Error>) {
        let mut unusable: Vec<_> = unusable.map(Error::index).collect();
        unusable.sort_unstable();
        unusable.dedup();
        *self.lock() = Devices { usable, unusable };
    }

    pub(super) fn collect(&self, out: &mut Exposition) {
        let Devices { usable, unusable } = &*self.lock();
        for device in usable {
            out.sample(&USABLE, format_args!("device=\"{}\"", LabelValue(device)), 1);
            for (counter, count) in counters(device) {
                let (device, counter) = (LabelValue(device), LabelValue(&counter));
                out.sample(&DEVICE_COUNT, format_args!("device=\"{device}\",counter=\"{counter}\""), count);
            }
        }
        for cause in unusable {
            out.sample(&UNUSABLE, format_args!("cause=\"{}\"", Error::LABELS[*cause]), 1);
        }
        let cells = &*self.cells;
        if cells.untouched() {
            return;
        }
        out.sample(&REGISTERED_NOW, "", cells.level(REGISTERED));
        for (at, direction) in ["sent", "received"].into_iter().enumerate() {
            for (kind_at, kind) in ["data", "credit"].into_iter().enumerate() {
                let labels = format_args!("direction=\"{direction}\",kind=\"{kind}\"");
                out.sample(&MESSAGES_TOTAL, labels, cells.sum(MESSAGES + 2 * at + kind_at));
            }
        }
        for (at, of) in ["bytes", "receives"].into_iter().enumerate() {
            out.sample(&STALLS_TOTAL, format_args!("of=\"{of}\""), cells.sum(STALLS + at));
        }
        for (at, status) in Status::LABELS.into_iter().enumerate() {
            out.sample(&ERRORS_TOTAL, format_args!("status=\"{status}\""), cells.sum(ERRORS + at));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Devices> {
        self.devices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for RdmaMetrics {
    /// Its cells are made when something is counted: by then it is known how many workers there are.
    fn default() -> Self {
        RdmaMetrics { cells: LazyLock::new(|| Cells::new(CELLS)), devices: Mutex::default() }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        rdma().cells.shard().sub(REGISTERED, self.0);
    }
}

/// What the kernel counts of a device's first port, by the kernel's names.
fn counters(device: &str) -> Vec<(String, u64)> {
    let folder: PathBuf =
        [Path::new("/sys/class/infiniband"), Path::new(device), Path::new(COUNTERS)].iter().collect();
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let count = |file: std::fs::DirEntry| {
        let name = file.file_name().into_string().ok()?;
        let count = std::fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
        // How often the kernel looks is no count.
        (name != "lifespan").then_some((name, count))
    };
    files.flatten().filter_map(count).collect()
}

const COUNTERS: &str = "ports/1/hw_counters";

const REGISTERED: usize = 0;
const MESSAGES: usize = 1;
const STALLS: usize = MESSAGES + 4;
const ERRORS: usize = STALLS + 2;
const CELLS: usize = ERRORS + Status::LABELS.len();

static USABLE: Family =
    Family::new(Kind::Gauge, Unit::None, "lighter_rdma_usable", "RDMA devices that links can use: 1.");
static UNUSABLE: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_rdma_unusable",
    "What keeps links from RDMA, or from some device, by cause: 1.",
);
static DEVICE_COUNT: Family = Family::new(
    Kind::Gauge,
    Unit::None,
    "lighter_rdma_device_count",
    "What the kernel counts of a device, by its own name for it (hw_counters).",
);
static REGISTERED_NOW: Family = Family::new(
    Kind::Gauge,
    Unit::Bytes,
    "lighter_rdma_registered_bytes",
    "Memory that is registered with RDMA devices.",
);
static MESSAGES_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_rdma_messages",
    "Messages of RDMA wires, with bytes or with credit only.",
);
static STALLS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_rdma_stalls",
    "Times that a write to an RDMA wire had to wait, for room or for the peer's requests to receive.",
);
static ERRORS_TOTAL: Family = Family::new(
    Kind::Counter,
    Unit::None,
    "lighter_rdma_completion_errors",
    "Requests to RDMA devices that ended badly, by status.",
);
