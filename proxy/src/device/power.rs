//! What a device takes: by a model of its power, and by what the machine counts where it does.

use std::fs;
use std::path::{Path, PathBuf};

use lighter_config::sidecar::PowerConfig;

/// Where the kernel shows what a machine counts.
pub(super) const POWERCAP: &str = "/sys/class/powercap";

/// `idle + busy × processors that run functions`, in watts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model(pub(super) PowerConfig);

impl Model {
    /// The watts while functions keep so many processors busy.
    pub(super) fn watts(&self, processors: f64) -> f64 {
        self.0.idle_watts + self.0.busy_watts * processors
    }

    /// How many processors may be busy. None: as many as there are.
    pub(super) fn most_busy(&self) -> Option<f64> {
        self.0.cap_watts.map(|cap| ((cap - self.0.idle_watts) / self.0.busy_watts).max(0.0))
    }
}

/// Counters of energy (RAPL), one for each package of processors. They are of the whole machine.
#[derive(Debug)]
pub(super) struct Rapl(Vec<Package>);

#[derive(Debug)]
struct Package {
    energy: PathBuf,
    /// What the counter begins again after, in microjoules.
    range: u64,
    last: u64,
}

impl Rapl {
    /// The counters below `folder`, if there are some and they can be read.
    pub(super) fn open(folder: &Path) -> Option<Self> {
        let mut packages = Vec::new();
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let name = entry.file_name();
            // `intel-rapl:0`, and so on AMD's too. `intel-rapl:0:1` is a part of it, and `intel-rapl-mmio:0` the same once more.
            let number = name.to_str().and_then(|name| name.strip_prefix("intel-rapl:"));
            if number.is_none_or(|number| number.parse::<u32>().is_err()) {
                continue;
            }
            // Beside packages there is `psys`, which has them in it.
            let is_package = fs::read_to_string(entry.path().join("name"))
                .is_ok_and(|name| name.trim().starts_with("package"));
            let energy = entry.path().join("energy_uj");
            if let (true, Some(last)) = (is_package, number_in(&energy)) {
                let range = number_in(&entry.path().join("max_energy_range_uj")).unwrap_or(u64::MAX);
                packages.push(Package { energy, range, last });
            }
        }
        (!packages.is_empty()).then_some(Rapl(packages))
    }

    /// What was taken since this was last asked, in microjoules.
    pub(super) fn taken(&mut self) -> u64 {
        self.0.iter_mut().map(Package::taken).fold(0, u64::saturating_add)
    }
}

impl Package {
    fn taken(&mut self) -> u64 {
        let Some(now) = number_in(&self.energy) else { return 0 };
        let last = std::mem::replace(&mut self.last, now);
        if now >= last { now - last } else { self.range.saturating_sub(last).saturating_add(now) }
    }
}

fn number_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_says_what_a_cap_leaves() {
        let model = |cap_watts| Model(PowerConfig { cap_watts, busy_watts: 4.0, idle_watts: 2.0 });
        assert_eq!((model(None).watts(0.5), model(None).most_busy()), (4.0, None));
        let most = model(Some(5.0)).most_busy().unwrap();
        assert_eq!((most, model(None).watts(most)), (0.75, 5.0));
    }

    #[test]
    fn a_machines_counters_are_read_where_there_are_some() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Rapl::open(folder.path()).is_none());
        assert!(Rapl::open(&folder.path().join("none")).is_none());
        let write = |at: &str, name: &str, energy: &str| {
            let at = folder.path().join(at);
            fs::create_dir_all(&at).unwrap();
            fs::write(at.join("name"), format!("{name}\n")).unwrap();
            fs::write(at.join("energy_uj"), format!("{energy}\n")).unwrap();
            fs::write(at.join("max_energy_range_uj"), "1000\n").unwrap();
        };
        write("intel-rapl:0", "package-0", "900");
        write("intel-rapl:1", "package-1", "5");
        write("intel-rapl:0:0", "core", "100");
        write("intel-rapl:2", "psys", "100");
        let mut rapl = Rapl::open(folder.path()).unwrap();
        assert_eq!(rapl.taken(), 0);
        write("intel-rapl:0", "package-0", "950");
        write("intel-rapl:1", "package-1", "10");
        write("intel-rapl:0:0", "core", "700");
        write("intel-rapl:2", "psys", "700");
        assert_eq!(rapl.taken(), 55);
        // One begins again.
        write("intel-rapl:0", "package-0", "20");
        assert_eq!(rapl.taken(), 70);
    }
}
