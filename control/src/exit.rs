//! How a command ends, as its exit status says it.

use std::process::ExitCode;

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
    /// What another program ended with.
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

/// Writes `report` for a person and says how to end.
pub fn explain(report: &miette::Report) -> Exit {
    if is_broken_pipe(report.as_ref()) {
        // Who read the output has seen enough: `lighter schema Service | head`.
        return Exit::Ok;
    }
    eprintln!("{report:?}");
    Exit::Fault
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use miette::IntoDiagnostic;

    #[test]
    fn a_reader_who_leaves_early_is_no_fault() {
        let broken: miette::Result<()> =
            Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)).into_diagnostic();
        assert_eq!(explain(&broken.unwrap_err()), Exit::Ok);
    }
}
