//! What the `ibverbs` crate calls `ffi`: types and functions of libibverbs.
//!
//! The published crate of this name builds all of rdma-core and links to it, so that a program does not even start
//! where the library is missing. This one has the declarations that are needed, written down, and looks the library up
//! when the first function is called. Where it is missing every function fails with `ENOSYS`, and [`library`] says why.
//!
//! Names and layouts are those of `infiniband/verbs.h`, which has kept them since version 1.1 of its interface. Functions
//! that the header defines itself (posting and polling) go through the pointers in [`ibv_context_ops`].

#![allow(non_camel_case_types, missing_docs)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

mod types;

pub use types::*;

/// Whether the library is there, or what the dynamic linker says.
pub fn library() -> Result<(), &'static str> {
    loaded().map(|_| ())
}

/// Declares each function once: its place in the table, its look-up, and the wrapper with the value that says it failed.
macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, or $failed:expr;)*) => {
        struct Library {
            $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*
        }

        impl Library {
            /// Looks every function up in an open library.
            fn of(handle: *mut c_void) -> Result<Self, String> {
                Ok(Library {
                    $($name: {
                        let symbol = symbol(handle, concat!(stringify!($name), "\0"))?;
                        // SAFETY: the symbol is the function of this name, whose C declaration has these types.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($type),*) $(-> $result)?>(symbol)
                        }
                    },)*
                })
            }
        }

        $(
            /// The function of this name in libibverbs.
            ///
            /// # Safety
            /// What its manual page asks of the arguments.
            pub unsafe fn $name($($argument: $type),*) $(-> $result)? {
                match loaded() {
                    // SAFETY: the caller keeps what the function asks for.
                    Ok(library) => unsafe { (library.$name)($($argument),*) },
                    Err(_) => {
                        // SAFETY: errno is this thread's own.
                        unsafe { *libc::__errno_location() = libc::ENOSYS };
                        $failed
                    }
                }
            }
        )*
    };
}

functions! {
    fn ibv_get_device_list(number: *mut c_int) -> *mut *mut ibv_device, or null_mut();
    fn ibv_free_device_list(list: *mut *mut ibv_device), or ();
    fn ibv_get_device_name(device: *mut ibv_device) -> *const c_char, or std::ptr::null();
    fn ibv_get_device_guid(device: *mut ibv_device) -> __be64, or 0;
    fn ibv_get_device_index(device: *mut ibv_device) -> c_int, or -1;
    fn ibv_open_device(device: *mut ibv_device) -> *mut ibv_context, or null_mut();
    fn ibv_close_device(context: *mut ibv_context) -> c_int, or libc::ENOSYS;
    fn ibv_get_async_event(context: *mut ibv_context, event: *mut ibv_async_event) -> c_int, or -1;
    fn ibv_ack_async_event(event: *mut ibv_async_event), or ();
    fn ibv_query_port(context: *mut ibv_context, port: u8, attributes: *mut ibv_port_attr) -> c_int, or libc::ENOSYS;
    fn _ibv_query_gid_table(
        context: *mut ibv_context, entries: *mut ibv_gid_entry, most: usize, flags: u32, entry_size: usize
    ) -> isize, or -(libc::ENOSYS as isize);
    fn ibv_alloc_pd(context: *mut ibv_context) -> *mut ibv_pd, or null_mut();
    fn ibv_dealloc_pd(domain: *mut ibv_pd) -> c_int, or libc::ENOSYS;
    fn ibv_reg_mr(domain: *mut ibv_pd, address: *mut c_void, length: usize, access: c_int) -> *mut ibv_mr, or null_mut();
    fn ibv_dereg_mr(region: *mut ibv_mr) -> c_int, or libc::ENOSYS;
    fn ibv_create_comp_channel(context: *mut ibv_context) -> *mut ibv_comp_channel, or null_mut();
    fn ibv_destroy_comp_channel(channel: *mut ibv_comp_channel) -> c_int, or libc::ENOSYS;
    fn ibv_create_cq(
        context: *mut ibv_context, entries: c_int, user: *mut c_void, channel: *mut ibv_comp_channel, vector: c_int
    ) -> *mut ibv_cq, or null_mut();
    fn ibv_destroy_cq(queue: *mut ibv_cq) -> c_int, or libc::ENOSYS;
    fn ibv_get_cq_event(
        channel: *mut ibv_comp_channel, queue: *mut *mut ibv_cq, user: *mut *mut c_void
    ) -> c_int, or -1;
    fn ibv_ack_cq_events(queue: *mut ibv_cq, number: c_uint), or ();
    fn ibv_create_qp(domain: *mut ibv_pd, attributes: *mut ibv_qp_init_attr) -> *mut ibv_qp, or null_mut();
    fn ibv_modify_qp(pair: *mut ibv_qp, attributes: *mut ibv_qp_attr, mask: c_int) -> c_int, or libc::ENOSYS;
    fn ibv_destroy_qp(pair: *mut ibv_qp) -> c_int, or libc::ENOSYS;
}

/// The library, looked for once in the life of the process.
fn loaded() -> Result<&'static Library, &'static str> {
    static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
    LIBRARY.get_or_init(open).as_ref().map_err(String::as_str)
}

fn open() -> Result<Library, String> {
    // SAFETY: the name ends in NUL; the library's initializers only set up its own state. It is never closed, so the
    // functions taken from it stay.
    let handle = unsafe { libc::dlopen(NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if handle.is_null() { Err(linker_says()) } else { Library::of(handle) }
}

/// The default version of a function: what a program linked today would get. `name` ends in NUL.
fn symbol(handle: *mut c_void, name: &str) -> Result<*mut c_void, String> {
    // SAFETY: the handle is open, and the name ends in NUL.
    let symbol = unsafe { libc::dlsym(handle, name.as_ptr().cast()) };
    if symbol.is_null() { Err(linker_says()) } else { Ok(symbol) }
}

fn linker_says() -> String {
    // SAFETY: the text belongs to this thread, and is copied before its next call of the linker.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "unknown".to_owned()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

const NAME: &CStr = c"libibverbs.so.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_finds_the_library_or_fails_with_enosys() {
        let mut number = 0;
        // SAFETY: the number is there to be written.
        let list = unsafe { ibv_get_device_list(&mut number) };
        let error = std::io::Error::last_os_error().raw_os_error();
        match library() {
            Ok(()) if list.is_null() => assert_eq!(error, Some(libc::ENOSYS), "no RDMA in the kernel"),
            // SAFETY: the list came from the library.
            Ok(()) => unsafe { ibv_free_device_list(list) },
            Err(reason) => {
                assert!(list.is_null());
                assert_eq!(error, Some(libc::ENOSYS));
                assert!(reason.contains("libibverbs.so.1"), "{reason}");
            }
        }
    }
}
