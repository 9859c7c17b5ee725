//! Whether mesh links can use RDMA on this machine, found out by trying.

use std::io;

use lighter_verbs::{
    Access, CompletionQueue, Context, Domain, Error, Gid, QueuePair, Region, Requests, devices,
};

use super::machine::Finding;

/// What was found: the devices that work with their addresses, or why none does.
pub(super) fn finding() -> Finding {
    match usable() {
        Ok(devices) => Finding::optional("RDMA", Ok(devices), ""),
        Err(error) => Finding::optional("RDMA", Err(error.to_string()), fix(&error)),
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
        match try_out(&device) {
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

/// Makes all that a link needs of one device, and gives it back.
fn try_out(device: &str) -> Result<Vec<Gid>, Error> {
    let context = Context::open(device)?;
    let gids = context.gids()?;
    if gids.is_empty() {
        return Err(Error::NoAddress(device.to_owned()));
    }
    let domain = Domain::new(&context)?;
    let _region = Region::new(&domain, REGION, Access::RemoteWrite)?;
    let completions = CompletionQueue::new(&context, 2 * REQUESTS)?;
    QueuePair::new(&domain, &completions, Requests { send: REQUESTS, receive: REQUESTS })?;
    Ok(gids)
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

/// As much as the rings of a few links.
const REGION: usize = 1 << 20;

const REQUESTS: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_in_one_line_with_something_to_do() {
        let all = [
            Error::NoLibrary("libibverbs.so.1: cannot open shared object file: No such file or directory"),
            Error::NoDevice,
            Error::NoPermission("rxe0".to_owned()),
            Error::Memlock { limit: 65536, wanted: REGION },
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
