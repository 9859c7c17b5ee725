//! A virtual machine with RDMA over Ethernet in software, because the kernel at hand need not have it: boots, does what it
//! is told, and ends within a time, come what may. Of the tests too, by path.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::child::end_with_parent;

mod archive;
mod packages;

use archive::Archive;
use packages::MODULES;
pub use packages::Packages;

/// What runs in a machine.
pub struct Story<'a> {
    /// The script of its first program, behind what mounts and loads.
    pub script: &'a str,
    /// Programs of this host, in `/bin` under these names with all that they are linked to.
    pub programs: &'a [(&'a str, &'a Path)],
    /// How long it may take.
    pub limit: Duration,
}

/// How a machine ended, and all that was heard of it.
pub struct Ended {
    /// How.
    pub how: How,
    /// What it said on its first serial line, where its console is.
    pub said: String,
    /// What was written to its second one, `/dev/ttyS1`.
    pub told: String,
}

/// How a machine ended.
#[derive(Debug, PartialEq, Eq)]
pub enum How {
    /// What ran in it ended with this, up to 15.
    Said(u8),
    /// It went down or started again by itself: a panic, or nobody told why.
    Fell,
    /// qemu did not run it.
    NotRun,
    /// Its time was over.
    TimedOut,
    /// Whoever listened has heard enough.
    Left,
}

/// Boots a machine and waits for its end. `hear` is given all that it has said so far, again and again, and says whether
/// to go on.
///
/// # Errors
/// Its files cannot be put together, or qemu cannot be started.
pub fn boot(packages: &Packages, story: &Story<'_>, mut hear: impl FnMut(&str) -> bool) -> io::Result<Ended> {
    let folder = tempfile::Builder::new().prefix("lighter-vm-").tempdir()?;
    let [files, console, second] = ["files", "console", "second"].map(|name| folder.path().join(name));
    write_files(packages, story, folder.path(), &files)?;
    let mut qemu = packages.qemu();
    qemu.args(["-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "1024"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-serial")
        .arg(format!("file:{}", second.display()))
        // Its clock goes by instructions, a nanosecond each, and leaps where there is nothing to do. So nothing times out in
        // it because this host is busy, and the processor time of a process there is how many it executed.
        .args(["-accel", "tcg", "-icount", "shift=0,sleep=off"])
        // A byte written to this port ends the machine, with a status that nothing else gives.
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x01"])
        // Of the kernel only what is fatal.
        .args(["-append", "console=ttyS0 panic=-1 loglevel=1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1"])
        .arg("-kernel")
        .arg(packages.kernel()?)
        .arg("-initrd")
        .arg(&files);
    let output = File::create(&console)?;
    qemu.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    end_with_parent(&mut qemu);
    let mut machine = Machine(qemu.spawn()?);
    let heard = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let start = Instant::now();
    let how = loop {
        if let Some(status) = machine.0.try_wait()? {
            break how(status.code());
        }
        if start.elapsed() > story.limit {
            break How::TimedOut;
        }
        if !hear(&heard(&console)) {
            break How::Left;
        }
        std::thread::sleep(LOOK);
    };
    Ok(Ended { how, said: heard(&console), told: heard(&second) })
}

/// The byte n that was written to the port makes a status of 2n + 1, and n is from 16 on.
fn how(status: Option<i32>) -> How {
    match status {
        Some(0) => How::Fell,
        Some(status @ 33..=63) if status % 2 == 1 => How::Said(((status - 33) / 2) as u8),
        _ => How::NotRun,
    }
}

/// A qemu that ends when this is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write_files(packages: &Packages, story: &Story<'_>, folder: &Path, to: &Path) -> io::Result<()> {
    let mut archive = Archive::create(to)?;
    for empty in ["dev", "proc", "sys", "tmp", "run"] {
        archive.folder(empty)?;
    }
    let mut init = PRELUDE.to_owned();
    archive.copy("bin/busybox", &packages.file("bin/busybox"))?;
    for name in MODULES {
        if let Some(module) = packages.module(name) {
            archive.copy(&format!("modules/{name}.ko"), &module)?;
            init += &format!("$BUSYBOX insmod /modules/{name}.ko || end 14\n");
        }
    }
    archive.file("init", format!("{init}ip link set lo up\n{}", story.script).as_bytes())?;
    for library in LIBRARIES {
        let path = format!("lib/x86_64-linux-gnu/{library}");
        archive.copy(&format!("usr/{path}"), &packages.file(&path))?;
    }
    archive.copy("etc/libibverbs.d/rxe.driver", &packages.file("etc/libibverbs.d/rxe.driver"))?;
    for tool in ["ip", "rdma"] {
        let Some(program) = packages::find(tool) else { continue };
        // busybox has tools of the same names that know less.
        archive.program(&format!("bin/{tool}"), &program)?;
    }
    for (name, program) in story.programs {
        // Debug information is most of it, and the machine has it all in memory.
        let stripped = folder.join(name);
        let mut strip = Command::new("strip");
        strip.arg("-o").arg(&stripped).arg(program).stderr(Stdio::null());
        let program = if strip.status().is_ok_and(|status| status.success()) { &stripped } else { *program };
        archive.program(&format!("bin/{name}"), program)?;
    }
    archive.finish()
}

/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(50);

/// From the packages. What they are linked to is the C library, which comes with the programs.
const LIBRARIES: [&str; 4] =
    ["libibverbs.so.1", "libnl-3.so.200", "libnl-route-3.so.200", "libibverbs/librxe-rdmav34.so"];

/// `end N` ends the machine with a status of 33 + 2N.
const PRELUDE: &str = r#"#!/bin/busybox sh
export PATH=/bin BUSYBOX=/bin/busybox TMPDIR=/tmp
end() {
    $BUSYBOX printf "\\x$($BUSYBOX printf %x $((16 + $1)))" | $BUSYBOX dd of=/dev/port bs=1 seek=244 2>/dev/null
}
$BUSYBOX mount -t proc proc /proc
$BUSYBOX mount -t sysfs sys /sys
$BUSYBOX mount -t devtmpfs dev /dev
$BUSYBOX chmod 1777 /tmp
"#;
