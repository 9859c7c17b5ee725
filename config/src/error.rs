//! What is wrong with a configuration, and where.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// One fault, or one warning, of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigError {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Line, from 1. 0: the whole file is meant.
    pub line: u32,
    /// Column in characters, from 1. 0: the whole file is meant.
    pub column: u32,
    /// The resource, as `kind namespace/name`, where that much is known.
    pub resource: Option<String>,
    /// The field, as `spec.rules[0].matches[1].path.value`; empty: the whole document is meant.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What can be done about it.
    pub hint: Option<String>,
}

impl ConfigError {
    /// A fault of a whole file.
    pub(crate) fn of_file(file: &str, message: impl Into<String>) -> Self {
        ConfigError {
            file: file.into(),
            line: 0,
            column: 0,
            resource: None,
            path: String::new(),
            message: message.into(),
            hint: None,
        }
    }

    /// Has it be about the same field where there is no text.
    pub(crate) fn forget(&mut self, origin: &Arc<str>) {
        (self.file, self.line, self.column) = (origin.clone(), 0, 0);
    }

    /// The same with a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ConfigError {
    /// `file:line:column: path: message`, and on lines of their own the resource and the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.path.is_empty() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(resource) = &self.resource {
            write!(f, "\n  in {resource}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Every fault that was found; never empty. Nothing of the configuration is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// By file, line and column.
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// `Ok` with `whole` if there is no error.
    pub(crate) fn or<T>(mut errors: Vec<ConfigError>, whole: T) -> Result<T, ConfigErrors> {
        if errors.is_empty() {
            return Ok(whole);
        }
        sort(&mut errors);
        Err(ConfigErrors { errors })
    }
}

/// Sorts by place, and leaves out what is said twice. What comes out does not depend on the order before.
pub(crate) fn sort(errors: &mut Vec<ConfigError>) {
    fn rank(error: &ConfigError) -> impl Ord {
        let ConfigError { file, line, column, resource, path, message, hint } = error;
        (file, line, column, path, message, resource, hint)
    }
    errors.sort_by(|a, b| rank(a).cmp(&rank(b)));
    errors.dedup();
}

impl fmt::Display for ConfigErrors {
    /// One block an error.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
