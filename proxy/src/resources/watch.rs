//! Watches the resource files: the kernel tells of changes, a slow look finds what it did not tell.

use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::reload;
use super::stamp::{Stamp, folders};
use crate::worker::Shared;

/// Reloads whenever a file changed or somebody asks, until it is dropped. `seen` is what the files looked like before
/// they were loaded for the first time.
pub(crate) async fn watch(shared: Arc<Shared>, mut seen: Stamp) {
    let paths = &shared.config.resources;
    let told = Arc::new(Notify::new());
    let mut watcher = Watching::new(told.clone());
    let mut asked = false;
    loop {
        // Folders come and go with links.
        watcher.cover(paths);
        // Other files of the same folders may change as they like.
        let now = Stamp::of(paths);
        if now != seen || asked {
            // Looked at before it is read: what changes meanwhile is seen the next time.
            seen = now;
            reload(&shared);
        }
        asked = tokio::select! {
            () = told.notified() => { settle(&told).await; false }
            () = sleep(SLOW_LOOK) => false,
            () = shared.reload_asked() => true,
        };
    }
}

/// Waits until nothing was told for a moment, but not for ever: a file is often written in several steps.
async fn settle(told: &Notify) {
    let end = Instant::now() + LONGEST_SETTLING;
    while Instant::now() < end && timeout(QUIET, told.notified()).await.is_ok() {}
}

/// The kernel's watch over folders. Without one (no inotify instance left) the slow look has to do.
struct Watching {
    watcher: Option<RecommendedWatcher>,
    folders: Vec<std::path::PathBuf>,
}

impl Watching {
    fn new(told: Arc<Notify>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is an event too, and loading reads.
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                told.notify_one();
            }
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(%error, "cannot watch files: looking at them every {SLOW_LOOK:?}"),
            )
            .ok();
        Watching { watcher, folders: Vec::new() }
    }

    fn cover(&mut self, paths: &[std::path::PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted = folders(paths);
        for gone in self.folders.iter().filter(|folder| !wanted.contains(folder)) {
            // Fails where the folder itself is gone, and its watch with it.
            let _ = watcher.unwatch(gone);
        }
        self.folders.retain(|folder| wanted.contains(folder));
        for folder in wanted {
            // A folder that was replaced has the same name and no watch: asking again is cheap and repairs that.
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) if self.folders.contains(&folder) => {}
                Ok(()) => self.folders.push(folder),
                Err(error) => tracing::debug!(folder = %folder.display(), %error, "cannot watch a folder"),
            }
        }
    }
}

/// A write in several steps has pauses shorter than this.
const QUIET: Duration = Duration::from_millis(50);

/// A file that never stops changing is read as it is after so long.
const LONGEST_SETTLING: Duration = Duration::from_secs(1);

/// How often files are looked at that the kernel says nothing about (network file systems, some overlays).
const SLOW_LOOK: Duration = Duration::from_secs(10);
