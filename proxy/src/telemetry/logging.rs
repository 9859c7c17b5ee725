//! The program's own log, to standard error, with a filter that can be changed while it runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, reload};

/// Begins to log what `filter` lets through (`LIGHTER_LOG` in the environment goes before it), as JSON or as text.
/// Again in one process does nothing.
pub fn install(filter: &str, json: bool) -> Result<(), LogError> {
    let wanted = std::env::var("LIGHTER_LOG").unwrap_or_else(|_| filter.to_owned());
    let (filter, handle) = reload::Layer::new(parse(&wanted)?);
    if HANDLE.set(handle).is_err() {
        return Ok(());
    }
    let registry = tracing_subscriber::registry().with(filter);
    let colour = std::io::stderr().is_terminal();
    let to_stderr = fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    // Fails only where the program that this is part of has a log of its own: then that one is used.
    let _ =
        if json { registry.with(to_stderr.json()).try_init() } else { registry.with(to_stderr).try_init() };
    Ok(())
}

/// The filter in force. `None` if this process does not log.
pub fn level() -> Option<String> {
    HANDLE.get()?.with_current(ToString::to_string).ok()
}

/// Changes the filter: a level (`info`), or levels by module (`warn,lighter_proxy=debug`).
pub fn set_level(filter: &str) -> Result<(), LogError> {
    let filter = parse(filter)?;
    let handle = HANDLE.get().ok_or(LogError::NoLog)?;
    handle.reload(filter).map_err(|_| LogError::NoLog)
}

/// Why a filter was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("not a log filter: {0}; examples: info, warn,lighter_proxy=debug")]
    Filter(String),
    /// There is nothing to filter.
    #[error("this process has no log")]
    NoLog,
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    // An empty filter would be read as `error`, which nobody means.
    if filter.trim().is_empty() {
        return Err(LogError::Filter("it is empty".to_owned()));
    }
    // A single word that is no level would be read as the name of a module.
    let word = filter.bytes().all(|byte| byte.is_ascii_alphabetic());
    if word && filter.parse::<tracing_subscriber::filter::LevelFilter>().is_err() {
        return Err(LogError::Filter(format!("{filter} is no level")));
    }
    EnvFilter::try_new(filter).map_err(|error| LogError::Filter(error.to_string()))
}

static HANDLE: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_would_silence_everything_by_mistake_is_refused() {
        for good in ["info", "DEBUG", "off", "warn,lighter_proxy=debug", "lighter_proxy::balance=trace"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "verbose", "info,=", "lighter=loud"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
