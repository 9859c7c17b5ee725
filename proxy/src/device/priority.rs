//! How the threads of functions stand to all others of the machine.

use std::io;

use lighter_config::sidecar::Priority;
use rustix::process::setpriority_process;
use rustix::thread::gettid;

/// The niceness of those that get little.
const NICE: i32 = 19;

/// Gives this thread `wanted`, as far as the system lets it. Returns what it has. To be asked of a thread as it was begun.
pub(super) fn take(wanted: Priority) -> Priority {
    let got = match wanted {
        Priority::Normal => return Priority::Normal,
        Priority::Idle => idle().or_else(|_| low().map(|()| Priority::Low)),
        Priority::Low => low().map(|()| Priority::Low),
    };
    got.unwrap_or_else(|error| {
        tracing::debug!(%error, ?wanted, "functions run like all others");
        Priority::Normal
    })
}

pub(super) const fn label(priority: Priority) -> &'static str {
    match priority {
        Priority::Idle => "idle",
        Priority::Low => "low",
        Priority::Normal => "normal",
    }
}

fn low() -> io::Result<()> {
    // Of this thread alone, as Linux has it.
    Ok(setpriority_process(Some(gettid()), NICE)?)
}

fn idle() -> io::Result<Priority> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // By the number of the call, as musl has no more than a function that fails.
    // SAFETY: the kernel reads `parameters`, which is as long as it expects and lives until it has; 0 is this thread.
    let set =
        unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const parameters) };
    if set == 0 { Ok(Priority::Idle) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(wanted: Priority) -> (Priority, String, String) {
        let taken = std::thread::spawn(move || {
            let got = take(wanted);
            (got, std::fs::read_to_string("/proc/thread-self/stat").unwrap())
        });
        let (got, stat) = taken.join().unwrap();
        let behind: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // Of proc_pid_stat(5), whose third field is the first behind the name: niceness (19) and policy (41).
        (got, behind[16].to_owned(), behind[38].to_owned())
    }

    #[test]
    fn a_thread_has_what_it_says_that_it_has() {
        let (_, nice, policy) = got(Priority::Normal);
        // Of no weight where the policy is this one.
        assert_eq!(got(Priority::Idle), (Priority::Idle, nice.clone(), libc::SCHED_IDLE.to_string()));
        assert_eq!(got(Priority::Low), (Priority::Low, "19".into(), "0".into()));
        assert_ne!((nice.as_str(), policy.as_str()), ("19", "5"), "what one thread has is no other one's");
    }
}
