//! Devices, open devices, their addresses, and what happens to them.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

use ibverbs_sys as ffi;
use ibverbs_sys::{ibv_context, ibv_port_state};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::Error;

/// The names of this machine's devices.
///
/// # Errors
/// The library is missing. Having no device is an empty list.
pub fn devices() -> Result<Vec<String>, Error> {
    Ok(match list()? {
        Some(list) => list.iter().filter_map(|device| name(&device)).collect(),
        None => Vec::new(),
    })
}

/// An open device. Clones are the same one.
#[derive(Clone)]
pub struct Context {
    open: Arc<Open>,
}

/// A device's address on its first port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gid {
    /// Its place in the device's table.
    pub index: u8,
    /// The address; one of IPv4 is mapped.
    pub address: Ipv6Addr,
}

/// What happened to a device or to something made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The port has its link again.
    PortActive,
    /// The port lost its link.
    PortDown,
    /// The device is gone.
    DeviceFatal,
    /// The queue pair of this number failed, and takes no more requests.
    PairFailed(u32),
    /// All that the queue pair of this number had begun to send is acknowledged.
    Drained(u32),
    /// Something else, by its number in `verbs.h`.
    Other(u32),
}

impl Context {
    /// Opens a device. Within a tokio runtime.
    ///
    /// # Errors
    /// The library or the device is missing, or may not be opened.
    pub fn open(device: &str) -> Result<Self, Error> {
        let open = Open::new(device)?;
        Ok(Context { open: Arc::new(open) })
    }

    /// The device's name.
    pub fn device(&self) -> &str {
        &self.open.name
    }

    /// The device's addresses for RoCE v2, as they are now.
    ///
    /// # Errors
    /// The port is down: its table means nothing then. Or the device is gone.
    pub fn gids(&self) -> Result<Vec<Gid>, Error> {
        // The crate reads the table once, when it opens a device, and leaks that where the port is down.
        if !self.port_is_active()? {
            return Err(Error::PortDown(self.device().to_owned()));
        }
        let gone = || Error::UnknownDevice(self.device().to_owned());
        let list = list()?.ok_or_else(gone)?;
        let device =
            list.iter().find(|device| name(device).as_deref() == Some(self.device())).ok_or_else(gone)?;
        let reader = device.open().map_err(|source| Error::Verb { verb: "ibv_open_device", source })?;
        Ok(reader
            .gid_table()
            .iter()
            .filter(|entry| entry.gid_type == ffi::IBV_GID_TYPE_ROCE_V2 && entry.port_num == u32::from(PORT))
            .filter_map(|entry| {
                Some(Gid { index: entry.gid_index.try_into().ok()?, address: address(entry.gid) })
            })
            .collect())
    }

    /// The address for RoCE v2 that belongs to an address of this host.
    ///
    /// # Errors
    /// The device has none such, or its addresses cannot be read.
    pub fn gid_of(&self, host: IpAddr) -> Result<Gid, Error> {
        let host = match host {
            IpAddr::V4(host) => host.to_ipv6_mapped(),
            IpAddr::V6(host) => host,
        };
        let mut gids = self.gids()?.into_iter();
        gids.find(|gid| gid.address == host).ok_or_else(|| Error::NoAddress(self.device().to_owned()))
    }

    /// Most bytes of a packet on the first port as it is now, as `verbs.h` writes it: 1 for 256 to 5 for 4096.
    ///
    /// # Errors
    /// The device is gone.
    pub fn mtu(&self) -> Result<u32, Error> {
        Ok(self.port()?.active_mtu)
    }

    /// Waits for the next thing that happens to the device.
    ///
    /// # Errors
    /// The device's file cannot be read any more.
    pub async fn event(&self) -> Result<Event, Error> {
        let read = self.open.events.async_io(Interest::READABLE, |_| self.open.next_event());
        read.await.map_err(|source| Error::Verb { verb: "ibv_get_async_event", source })
    }

    /// The library's handle, valid as long as this value.
    pub(crate) fn handle(&self) -> NonNull<ibv_context> {
        self.open.handle
    }

    /// What the first port says of itself.
    pub(crate) fn port(&self) -> Result<ffi::ibv_port_attr, Error> {
        let mut port = ffi::ibv_port_attr::default();
        // SAFETY: the handle is open, and the attributes are there to be written. Older libraries write fewer of them.
        let number = unsafe { ffi::ibv_query_port(self.handle().as_ptr(), PORT, &mut port) };
        Error::check("ibv_query_port", number)?;
        Ok(port)
    }

    fn port_is_active(&self) -> Result<bool, Error> {
        Ok(matches!(self.port()?.state, ibv_port_state::IBV_PORT_ACTIVE | ibv_port_state::IBV_PORT_ARMED))
    }
}

/// An address of the IP family shows as such.
impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.to_canonical().fmt(f)
    }
}

/// The port that is used of each device.
pub(crate) const PORT: u8 = 1;

/// The library's handle, its descriptor for events, and the name.
struct Open {
    handle: NonNull<ibv_context>,
    events: AsyncFd<OwnedFd>,
    name: String,
}

// SAFETY: libibverbs may be called from all threads with the same handle.
unsafe impl Send for Open {}
// SAFETY: as above.
unsafe impl Sync for Open {}

impl Open {
    fn new(device: &str) -> Result<Self, Error> {
        let handle = open(device)?;
        // SAFETY: the handle is open.
        match watch(unsafe { handle.as_ref() }.async_fd) {
            Ok(events) => Ok(Open { handle, events, name: device.to_owned() }),
            Err(source) => {
                // SAFETY: the handle was opened above and is used no more.
                unsafe { ffi::ibv_close_device(handle.as_ptr()) };
                Err(Error::Verb { verb: "async_fd", source })
            }
        }
    }

    /// Takes the next event and says that it was taken: what it is about cannot be destroyed before.
    fn next_event(&self) -> io::Result<Event> {
        let mut event = MaybeUninit::uninit();
        // SAFETY: the handle is open, and the event is there to be written.
        if unsafe { ffi::ibv_get_async_event(self.handle.as_ptr(), event.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the function wrote it.
        let mut event = unsafe { event.assume_init() };
        // SAFETY: the callers below know the event to be about a queue pair, which lives until the event is acknowledged.
        let pair = || unsafe { (*event.element.qp).qp_num };
        let happened = match event.event_type {
            ffi::IBV_EVENT_PORT_ACTIVE => Event::PortActive,
            ffi::IBV_EVENT_PORT_ERR => Event::PortDown,
            ffi::IBV_EVENT_DEVICE_FATAL => Event::DeviceFatal,
            ffi::IBV_EVENT_SQ_DRAINED => Event::Drained(pair()),
            ffi::IBV_EVENT_QP_FATAL | ffi::IBV_EVENT_QP_REQ_ERR | ffi::IBV_EVENT_QP_ACCESS_ERR => {
                Event::PairFailed(pair())
            }
            other => Event::Other(other),
        };
        // SAFETY: the event was taken and is acknowledged once.
        unsafe { ffi::ibv_ack_async_event(&mut event) };
        Ok(happened)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // SAFETY: everything made of the handle held this value, so it is gone.
        unsafe { ffi::ibv_close_device(self.handle.as_ptr()) };
    }
}

/// Waits for a descriptor of the library, which from now on returns at once when nothing is there. It is watched through a
/// copy, so that either may be closed first.
pub(crate) fn watch(descriptor: RawFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor belongs to an open handle of the caller.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    rustix::fs::fcntl_setfl(descriptor, flags | rustix::fs::OFlags::NONBLOCK)?;
    let copy = descriptor.try_clone_to_owned()?;
    // SAFETY: the copy belongs to what is made here, and is closed with it.
    Ok(unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }?)
}

/// The devices that there are, `None` where the kernel knows nothing of RDMA.
fn list() -> Result<Option<ibverbs::DeviceList>, Error> {
    ffi::library().map_err(Error::NoLibrary)?;
    match ibverbs::devices() {
        Ok(list) => Ok(Some(list)),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(None),
        Err(source) => Err(Error::Verb { verb: "ibv_get_device_list", source }),
    }
}

fn name(device: &ibverbs::Device<'_>) -> Option<String> {
    Some(device.name()?.to_string_lossy().into_owned())
}

fn address(gid: ibverbs::Gid) -> Ipv6Addr {
    let bits = u128::from(gid.subnet_prefix()) << 64 | u128::from(gid.interface_id());
    Ipv6Addr::from_bits(bits)
}

/// The crate keeps its handle to itself, and the cause of a failure too: the device is looked for once more.
fn open(device: &str) -> Result<NonNull<ibv_context>, Error> {
    ffi::library().map_err(Error::NoLibrary)?;
    let mut number = 0;
    // SAFETY: the number is there to be written.
    let list = unsafe { ffi::ibv_get_device_list(&mut number) };
    if list.is_null() {
        return Err(Error::UnknownDevice(device.to_owned()));
    }
    let opened = (0..usize::try_from(number).unwrap_or(0))
        // SAFETY: the list has that many devices, valid until it is freed.
        .map(|at| unsafe { *list.add(at) })
        .find(|&found| {
            // SAFETY: the device is valid; its name ends in NUL and lives as long.
            let name = unsafe { ffi::ibv_get_device_name(found) };
            // SAFETY: as above.
            !name.is_null() && unsafe { std::ffi::CStr::from_ptr(name) }.to_bytes() == device.as_bytes()
        })
        .map(|found| {
            // SAFETY: the device is valid. What is opened outlives the list.
            let handle = NonNull::new(unsafe { ffi::ibv_open_device(found) });
            handle.ok_or_else(|| Error::last("ibv_open_device"))
        });
    // SAFETY: the list came from the library and is used no more.
    unsafe { ffi::ibv_free_device_list(list) };
    match opened {
        Some(Err(_)) if is_forbidden(device) => Err(Error::NoPermission(device.to_owned())),
        Some(opened) => opened,
        None => Err(Error::UnknownDevice(device.to_owned())),
    }
}

/// Whether the file of a device may not be opened: the library tries other ways after that one, and tells of the last.
fn is_forbidden(device: &str) -> bool {
    let Ok(entries) = std::fs::read_dir("/sys/class/infiniband_verbs") else { return false };
    let file = entries.flatten().find(|entry| {
        let name = std::fs::read_to_string(entry.path().join("ibdev"));
        name.is_ok_and(|name| name.trim_end() == device)
    });
    file.is_some_and(|file| {
        let file = Path::new("/dev/infiniband").join(file.file_name());
        let opened = File::options().read(true).write(true).open(file);
        opened.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    })
}
