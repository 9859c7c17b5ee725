//! Whether mesh links can use RDMA on this machine, found out by trying.

use std::io;

use lighter_verbs::{Context, Error, Gid, devices};

use super::machine::Finding;

/// What was found: the devices that work with their addresses, or why none does.
pub(super) fn finding() -> Finding {
    match usable() {
        Ok(devices) => Finding::optional("RDMA", Ok(devices), ""),
        Err(error) => Finding::optional("RDMA", Err(error.to_string()), fix(&error)),
    }
}

/// Why links cannot use the devices that there are; none where there is no device, or nothing that knows of any.
pub fn found() -> Option<Result<(), String>> {
    match usable() {
        Ok(_) => Some(Ok(())),
        Err(Error::NoDevice | Error::NoLibrary(_)) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// Each device that works and its addresses, as text.
fn usable() -> Result<String, Error> {
    // The library wants a runtime to watch its devices by.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.map_err(|source| Error::Verb { verb: "epoll", source })?;
    let _within = runtime.enter();
    let (mut works, mut first_failure) = (Vec::new(), None);
    for device in devices()? {
        match Context::open(&device).and_then(|device| device.try_out()) {
            Ok(gids) => {
                let addresses: Vec<_> = gids.iter().map(Gid::to_string).collect();
                works.push(format!("{device} ({})", addresses.join(", ")));
            }
            Err(error) => _ = first_failure.get_or_insert(error),
        }
    }
    match first_failure {
        _ if !works.is_empty() => Ok(works.join(", ")),
        Some(error) => Err(error),
        None => Err(Error::NoDevice),
    }
}

fn fix(error: &Error) -> &'static str {
    match error {
        Error::NoLibrary(_) => "install libibverbs1 and ibverbs-providers (or rdma-core)",
        Error::NoDevice => {
            "load the driver of an RDMA network card, or for a trial `rdma link add rxe0 type rxe netdev DEVICE`"
        }
        Error::NoPermission(_) => "let this user read and write /dev/infiniband/uverbs*",
        Error::Memlock { .. } => "raise it (ulimit -l, LimitMEMLOCK=)",
        Error::PortDown(_) => "bring its link up (rdma link, ip link)",
        Error::NoAddress(_) => "give its network device an IP address; only RoCE v2 is supported",
        Error::Verb { source, .. } if source.kind() == io::ErrorKind::OutOfMemory => {
            "free memory, or end what else uses the device"
        }
        Error::UnknownDevice(_) | Error::Verb { .. } => {
            "see the kernel's log; another release of rdma-core may help"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_in_one_line_with_something_to_do() {
        let all = [
            Error::NoLibrary("libibverbs.so.1: cannot open shared object file: No such file or directory"),
            Error::NoDevice,
            Error::NoPermission("rxe0".to_owned()),
            Error::Memlock { limit: 65536, wanted: 1 << 20 },
            Error::PortDown("rxe0".to_owned()),
            Error::NoAddress("rxe0".to_owned()),
            Error::Verb { verb: "ibv_create_qp", source: io::ErrorKind::OutOfMemory.into() },
        ];
        let texts: Vec<_> = all
            .iter()
            .map(|error| Finding::optional("RDMA", Err(error.to_string()), fix(error)).to_string())
            .collect();
        for text in &texts {
            assert!(text.starts_with("absent   RDMA: "), "{text}");
            assert_eq!(text.lines().count(), 2, "{text}");
        }
        assert!(
            texts[3].contains("RLIMIT_MEMLOCK is 65536 bytes, too small to register 1048576 bytes"),
            "{}",
            texts[3]
        );
    }
}
