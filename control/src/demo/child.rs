//! Children that end with this process, however it ends.

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::Signal;

/// Has the kernel end the child when the thread that starts it ends, also where that could not clean up.
pub fn end_with_parent(command: &mut Command) {
    let end = || Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?);
    // SAFETY: between fork and exec only one system call is made, which allocates nothing and takes no lock.
    unsafe { command.pre_exec(end) };
}
