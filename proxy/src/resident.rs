//! Gives back what only the start needed, and what nobody needs any more.
//!
//! To read a command line, files and policies takes far more of the program than to carry traffic by them, and each page
//! of it that was run stays resident. Once a sidecar is up, the system is told that none of these pages is needed. What
//! is used after all comes back from the page cache, by itself and at the cost of a minor fault.

use std::ffi::c_void;
use std::ops::Range;
use std::{fs, io};

/// Forgets every page of the program and its libraries that can be had again from its file.
pub(crate) fn forget_start() {
    // Where it cannot be read nothing is lost but memory.
    let Ok(smaps) = fs::read_to_string("/proc/self/smaps") else { return };
    for range in as_in_files(&smaps) {
        // SAFETY: the range is mapped from a file, cannot be written, and no page of it differs from the file: each is
        // read from there again, with the same contents, when it is next used.
        let told = unsafe { libc::madvise(range.start as *mut c_void, range.len(), libc::MADV_DONTNEED) };
        if told != 0 {
            tracing::debug!(error = %io::Error::last_os_error(), "pages of the start stay");
        }
    }
}

/// Gives back what the allocator holds of memory that nobody uses any more.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread, and touches nothing that is in use (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The mappings in `smaps` (proc_pid_smaps(5)) whose every page is as it is in a file, and has to stay so. What was
/// relocated at the start is not among them: it cannot be written any more, but its pages are this process's own.
fn as_in_files(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in smaps.lines() {
        if let Some(mapping) = Mapping::parse(line) {
            candidate = mapping.of_file.then_some(mapping.range);
        } else if line.split_ascii_whitespace().eq(["Anonymous:", "0", "kB"]) {
            found.extend(candidate.take());
        }
    }
    found
}

/// The first line of a mapping.
struct Mapping {
    range: Range<usize>,
    /// Private, mapped from a file, and not to be written.
    of_file: bool,
}

impl Mapping {
    /// `55d0c0a00000-55d0c0dc2000 r--p 00000000 fe:01 1234    /usr/bin/lighter`; `None` for a line within a mapping.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let range = address(start)?..address(end)?;
        let (access, inode) = (words.next()?, words.nth(2)?);
        Some(Mapping { range, of_file: matches!(access, "r--p" | "r-xp") && inode != "0" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r--p 00000000 fe:01 77                         /usr/bin/lighter
Size:                  8 kB
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
3000-9000 r-xp 00002000 fe:01 77                         /usr/bin/lighter
Anonymous:             0 kB
9000-b000 r--p 00008000 fe:01 77                         /usr/bin/lighter
Anonymous:             8 kB
b000-c000 rw-p 0000a000 fe:01 77                         /usr/bin/lighter
Anonymous:             0 kB
c000-d000 rw-p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
d000-e000 r--p 00000000 00:00 0                          [vvar]
Anonymous:             0 kB
e000-f000 r--s 00000000 00:05 78                         /dev/shm/ring
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_as_in_its_file_is_forgotten() {
        assert_eq!(as_in_files(SMAPS), [0x1000..0x3000, 0x3000..0x9000]);
    }

    #[test]
    fn a_program_goes_on_without_its_pages() {
        let text = fs::read_to_string("/proc/self/smaps").unwrap();
        let own = as_in_files as *const () as usize;
        assert!(as_in_files(&text).iter().any(|range| range.contains(&own)), "the program itself is found");
        forget_start();
        assert_eq!(as_in_files(SMAPS).len(), 2);
    }
}
