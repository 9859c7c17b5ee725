//! The resource files: read at the start, watched, and read again. A fault anywhere, and what was in force stays.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use lighter_config::error::ConfigErrors;
use lighter_config::load::Resources;

use crate::state::State;

/// What the files looked like at one moment: device, inode, length, and the times of the last change of contents and of
/// the inode, whatever links led to them.
#[derive(Debug, PartialEq, Eq)]
pub struct Look(BTreeMap<PathBuf, Option<[u64; 7]>>);

impl Look {
    /// Looks at what would be read, and reads nothing.
    pub fn at(paths: &[PathBuf]) -> Self {
        let look = |file: PathBuf| {
            let data = fs::metadata(&file).ok();
            let times = |data: &fs::Metadata| {
                [data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()].map(i64::cast_unsigned)
            };
            let look = data.map(|data| {
                let [a, b, c, d] = times(&data);
                [data.dev(), data.ino(), data.len(), a, b, c, d]
            });
            (file, look)
        };
        Look(Resources::files(paths).into_iter().map(look).collect())
    }
}

/// What is known of the files that were read last.
#[derive(Debug)]
pub struct Seen {
    /// What they looked like just before.
    look: Look,
    /// Whether there was anything in them.
    some: bool,
}

/// Reads the files for the first time.
pub fn read(paths: &[PathBuf]) -> Result<(Resources, Seen), ConfigErrors> {
    let look = Look::at(paths);
    let resources = Resources::read(paths)?;
    let some = !resources.is_empty();
    Ok((resources, Seen { look, some }))
}

/// Reads the files again whenever they changed and have come to rest, until the control plane stops.
///
/// The files are looked at, not subscribed to: that finds every change on every file system, and there are few.
pub async fn watch(state: Arc<State>, mut seen: Seen) {
    let paths = &state.config.resources;
    if paths.is_empty() {
        return;
    }
    let mut stopping = state.stopping();
    let mut before = None;
    loop {
        tokio::select! {
            () = stopping.asked() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
        let now = Look::at(paths);
        if now == seen.look {
            before = None;
        } else if before.as_ref() == Some(&now) {
            // Two looks agree. What changes while they are read is seen the next time.
            seen.some |= take(&state, seen.some).await;
            seen.look = now;
            before = None;
        } else {
            before = Some(now);
        }
    }
}

/// Reads the files and hands them to the store. Returns whether there is anything in them; `had_some` is whether there
/// was before.
async fn take(state: &Arc<State>, had_some: bool) -> bool {
    let taken = tokio::task::spawn_blocking({
        let state = state.clone();
        move || -> Result<bool, ConfigErrors> {
            let resources = Resources::read(&state.config.resources)?;
            let some = !resources.is_empty();
            if some || !had_some {
                state.store.set_files(resources)?;
            }
            Ok(some)
        }
    });
    match taken.await {
        Ok(Ok(true)) => {
            tracing::info!("resource files changed");
            return true;
        }
        Ok(Ok(false)) if had_some => {
            // A file that was emptied to be written again, or a folder that is gone for a moment.
            tracing::error!(
                "there are no resources in the files any more: what was in force stays; if this is meant, start again"
            );
        }
        Ok(Ok(false)) => return false,
        Ok(Err(errors)) => {
            for error in &errors.errors {
                tracing::error!("{error}");
            }
            tracing::error!(
                faults = errors.errors.len(),
                "resource files are faulty: what was in force stays"
            );
        }
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
    state.metrics.rejected_files.fetch_add(1, Relaxed);
    false
}

/// How often files are looked at.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_what_is_read_shows_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_path_buf()];
        let empty = Look::at(&paths);
        fs::write(folder.path().join("notes.txt"), "not read").unwrap();
        assert_eq!(Look::at(&paths), empty);
        fs::write(folder.path().join("a.yaml"), "one").unwrap();
        let one = Look::at(&paths);
        assert_ne!(one, empty);
        // Replaced by a file of the same length.
        fs::write(folder.path().join("new"), "two").unwrap();
        fs::rename(folder.path().join("new"), folder.path().join("a.yaml")).unwrap();
        assert_ne!(Look::at(&paths), one);
    }
}
