//! The virtual machine: boots, does what it is told, and ends within a time, come what may.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::archive::Archive;
use crate::packages::{MODULES, Packages, find};
use crate::support::process::Program;

/// How a machine ended, and all that it said on its serial line.
pub struct Ended {
    pub how: How,
    pub said: String,
}

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
}

/// Boots a machine that runs `script` as its first program, with this program as `/bin/vm`.
pub fn boot(packages: &Packages, script: &str, limit: Duration) -> std::io::Result<Ended> {
    // Each takes a processor.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME.lock();
    let folder = tempfile::tempdir()?;
    let files = folder.path().join("files");
    write_files(packages, script, folder.path(), &files)?;
    let mut qemu = packages.qemu();
    qemu.args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", "768"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        // A byte written to this port ends the machine, with a status that nothing else gives.
        .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x01"])
        // Of the kernel only what is fatal. On a busy host its processor stands still at times: that is no fault.
        .args(["-append", "console=ttyS0 panic=-1 loglevel=1 nowatchdog rcupdate.rcu_cpu_stall_suppress=1"])
        .arg("-kernel")
        .arg(packages.kernel())
        .arg("-initrd")
        .arg(&files);
    let start = Instant::now();
    let mut machine = Program::start(qemu, folder.path());
    while !machine.has_ended() {
        if start.elapsed() > limit {
            return Ok(Ended { how: How::TimedOut, said: machine.said() });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let how = how(machine.wait().code());
    Ok(Ended { how, said: machine.said() })
}

/// The byte n that was written to the port makes a status of 2n + 1, and n is from 16 on.
fn how(status: Option<i32>) -> How {
    match status {
        Some(0) => How::Fell,
        Some(status @ 33..=63) if status % 2 == 1 => How::Said(((status - 33) / 2) as u8),
        _ => How::NotRun,
    }
}

fn write_files(packages: &Packages, script: &str, folder: &Path, to: &Path) -> std::io::Result<()> {
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
    archive.file("init", format!("{init}ip link set lo up\n{script}").as_bytes())?;
    for library in LIBRARIES {
        let path = format!("lib/x86_64-linux-gnu/{library}");
        archive.copy(&format!("usr/{path}"), &packages.file(&path))?;
    }
    archive.copy("etc/libibverbs.d/rxe.driver", &packages.file("etc/libibverbs.d/rxe.driver"))?;
    for tool in ["ip", "rdma"] {
        let Some(program) = find(tool) else { continue };
        // busybox has tools of the same names that know less.
        archive.program(&format!("bin/{tool}"), &program)?;
    }
    let own = std::env::current_exe()?;
    for (name, program) in [("vm", own.as_path()), ("lighter", Path::new(env!("CARGO_BIN_EXE_lighter")))] {
        // Debug information is most of it, and the machine has it all in memory.
        let stripped = folder.join(name);
        let strip = Command::new("strip").arg("-o").arg(&stripped).arg(program).status();
        let program = if strip.is_ok_and(|status| status.success()) { &stripped } else { program };
        archive.program(&format!("bin/{name}"), program)?;
    }
    archive.finish()
}

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
