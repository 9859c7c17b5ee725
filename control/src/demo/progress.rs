//! What the demo says while it works: a spinner on a terminal, a line for each thing otherwise.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Tells a person how far the demo is, on standard error.
pub struct Progress {
    spinner: Option<ProgressBar>,
    /// Standard output is for the result alone.
    quiet: bool,
}

impl Progress {
    /// A spinner if standard error is a terminal. `quiet`: nothing is written to standard output.
    pub fn new(quiet: bool) -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        Progress { spinner, quiet }
    }

    /// What is being done now.
    pub fn now(&self, what: impl std::fmt::Display) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(what.to_string()),
            None => eprintln!("… {what}"),
        }
    }

    /// Something that is part of the result: it goes to standard output if that is for people.
    pub fn done(&self, what: impl std::fmt::Display) {
        if self.quiet {
            return self.say(what);
        }
        // Who no longer reads the result still wants everything ended in order.
        self.beside_spinner(|| drop(output::line(&what)));
    }

    /// Something that stays on the screen.
    pub fn say(&self, what: impl std::fmt::Display) {
        self.beside_spinner(|| eprintln!("{what}"));
    }

    /// Takes the spinner away.
    pub fn clear(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }

    fn beside_spinner(&self, write: impl FnOnce()) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
