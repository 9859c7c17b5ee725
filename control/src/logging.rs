//! The log of long-running commands: lines of text on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts the log. `LIGHTER_LOG` says what is logged, as in `info,lighter_proxy::detect=debug`; without it, `info`.
pub fn start() {
    let filter = EnvFilter::try_from_env("LIGHTER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // It fails where a log was started before, which then goes on.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
