//! How a call of a device ends.

use std::fmt;

/// The status of a call, named after `CS_STATUS` of the SNIA Computational Storage API, version 1.0.
/// Of its list there are only those that something here can end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// It ended well, and the result is whole.
    Success,
    /// As many runs as the device takes are under way.
    DeviceNotAvailable,
    /// The device has the dataset, but not at the version that was asked for.
    EntityNotOnDevice,
    /// The dataset cannot be read, or is not what its format says, or a program broke off.
    ErrorInExecution,
    /// A fault of the device itself.
    FatalError,
    /// The function is loaded already, or runs right now.
    HandleInUse,
    /// The parameters of the request are faulty.
    InvalidArg,
    /// The function is not active.
    InvalidFunction,
    /// There is no such function.
    InvalidFunctionName,
    /// No function was loaded under this number, or it was unloaded.
    InvalidId,
    /// The time that a run may take passed.
    IoTimeout,
    /// The function cannot be loaded.
    LoadError,
    /// There is no such dataset.
    NoSuchEntityExists,
    /// Whoever asked left before the end.
    NotDone,
    /// The run needs more memory than it may have.
    NotEnoughMemory,
    /// The result is larger than it may be.
    OutOfResources,
    /// The dataset has something that functions do not read.
    Unsupported,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 17] = [
        Status::Success,
        Status::DeviceNotAvailable,
        Status::EntityNotOnDevice,
        Status::ErrorInExecution,
        Status::FatalError,
        Status::HandleInUse,
        Status::InvalidArg,
        Status::InvalidFunction,
        Status::InvalidFunctionName,
        Status::InvalidId,
        Status::IoTimeout,
        Status::LoadError,
        Status::NoSuchEntityExists,
        Status::NotDone,
        Status::NotEnoughMemory,
        Status::OutOfResources,
        Status::Unsupported,
    ];

    /// Its name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Success => "CS_SUCCESS",
            Status::DeviceNotAvailable => "CS_DEVICE_NOT_AVAILABLE",
            Status::EntityNotOnDevice => "CS_ENTITY_NOT_ON_DEVICE",
            Status::ErrorInExecution => "CS_ERROR_IN_EXECUTION",
            Status::FatalError => "CS_FATAL_ERROR",
            Status::HandleInUse => "CS_HANDLE_IN_USE",
            Status::InvalidArg => "CS_INVALID_ARG",
            Status::InvalidFunction => "CS_INVALID_FUNCTION",
            Status::InvalidFunctionName => "CS_INVALID_FUNCTION_NAME",
            Status::InvalidId => "CS_INVALID_ID",
            Status::IoTimeout => "CS_IO_TIMEOUT",
            Status::LoadError => "CS_LOAD_ERROR",
            Status::NoSuchEntityExists => "CS_NO_SUCH_ENTITY_EXISTS",
            Status::NotDone => "CS_NOT_DONE",
            Status::NotEnoughMemory => "CS_NOT_ENOUGH_MEMORY",
            Status::OutOfResources => "CS_OUT_OF_RESOURCES",
            Status::Unsupported => "CS_UNSUPPORTED",
        }
    }

    /// Whether the same request may end otherwise later, or on another device of the same data.
    pub const fn may_be_retried(self) -> bool {
        matches!(self, Status::DeviceNotAvailable | Status::IoTimeout | Status::FatalError)
    }

    /// Whether whoever asked has to ask otherwise.
    pub const fn is_callers(self) -> bool {
        matches!(
            self,
            Status::EntityNotOnDevice
                | Status::InvalidArg
                | Status::InvalidFunction
                | Status::InvalidFunctionName
                | Status::InvalidId
                | Status::NoSuchEntityExists
                | Status::NotDone
        )
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a call did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Fault {
    /// What it was.
    pub status: Status,
    /// Where and why, for people.
    pub message: String,
}

impl Fault {
    /// A fault of this kind.
    pub fn new(status: Status, message: impl Into<String>) -> Self {
        Fault { status, message: message.into() }
    }

    /// Faulty parameters.
    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Fault::new(Status::InvalidArg, message)
    }

    /// Of a dataset.
    pub(crate) fn data(message: impl Into<String>) -> Self {
        Fault::new(Status::ErrorInExecution, message)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Status;

    #[test]
    fn every_status_has_a_name_of_its_own() {
        let names: HashSet<&str> = Status::ALL.iter().map(|status| status.name()).collect();
        assert_eq!(names.len(), Status::ALL.len());
        assert!(names.iter().all(|name| name.starts_with("CS_")));
    }
}
