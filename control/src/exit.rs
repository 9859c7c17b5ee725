//! How a command ends, as its exit status says it.

use std::io::ErrorKind;
use std::process::ExitCode;

use miette::MietteHandlerOpts;

use crate::output::OutputError;

/// The exit statuses of every command. `run` is the exception: it ends with its program's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, nothing wrong.
    Ok,
    /// 1: something is at fault or differs.
    Fault,
    /// 2: the command was not understood; for `demo --strict`, a step was skipped.
    Usage,
    /// 70: a fault of Lighter itself (EX_SOFTWARE).
    Internal,
    /// What another program or the sidecar ended with.
    Status(u8),
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(match exit {
            Exit::Ok => 0,
            Exit::Fault => 1,
            Exit::Usage => 2,
            Exit::Internal => 70,
            Exit::Status(status) => status,
        })
    }
}

/// Has reports written so that a place in a file stays on one line, to be clicked or searched for.
pub fn prepare() {
    // It fails where it was done before.
    let _ = miette::set_hook(Box::new(|_| {
        Box::new(MietteHandlerOpts::new().wrap_lines(false).context_lines(1).build())
    }));
}

/// Writes `report` for a person and says how to end.
pub fn explain(report: &miette::Report) -> Exit {
    if is_broken_pipe(report) {
        // Who read the output has seen enough: `lighter schema Service | head`.
        return Exit::Ok;
    }
    eprintln!("{report:?}");
    Exit::Fault
}

fn is_broken_pipe(report: &miette::Report) -> bool {
    report.downcast_ref::<OutputError>().is_some_and(|error| error.0.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_leaves_early_is_no_fault() {
        assert_eq!(explain(&OutputError(ErrorKind::BrokenPipe.into()).into()), Exit::Ok);
        assert_eq!(explain(&OutputError(ErrorKind::StorageFull.into()).into()), Exit::Fault);
    }
}
