//! Watches the resource files: the kernel tells of changes, a slow look finds what it did not tell.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lighter_config::load::Resources;
use notify::event::CreateKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::stamp::{Stamp, folders};
use super::{Why, reload};
use crate::worker::Shared;

/// Reloads whenever a file changed or somebody asks, until it is dropped. `seen` is what the files looked like before
/// they were loaded for the first time.
pub(crate) async fn watch(shared: Arc<Shared>, mut seen: Stamp) {
    let paths = &shared.config.resources;
    let told = Arc::new(Told::default());
    let mut watcher = Watching::new(told.clone());
    let mut asked = false;
    loop {
        // Folders come and go with links.
        watcher.cover(paths);
        told.expect(paths);
        if !asked && Stamp::of(paths) != seen {
            asked = settle(&told, paths, &shared).await;
        }
        told.forget();
        // Other files of the same folders may change as they like.
        let now = Stamp::of(paths);
        if now != seen || asked {
            // Looked at before it is read: what changes meanwhile is seen the next time.
            seen = now;
            reload(&shared, if asked { Why::Asked } else { Why::Changed });
        }
        asked = tokio::select! {
            () = told.something.notified() => false,
            () = sleep(SLOW_LOOK) => false,
            () = shared.reload_asked() => true,
        };
    }
}

/// Waits until nothing changes any more, but not for ever. Returns whether somebody asked for a reload meanwhile.
async fn settle(told: &Told, paths: &[PathBuf], shared: &Shared) -> bool {
    let end = Instant::now() + LONGEST_SETTLING;
    let mut before = Stamp::of(paths);
    while Instant::now() < end {
        let pause = if told.is_finished() { QUIET } else { LONG_QUIET };
        tokio::select! {
            () = told.something.notified() => continue,
            () = shared.reload_asked() => return true,
            () = sleep(pause) => {}
        }
        // The kernel may tell of nothing: then two looks have to agree.
        let now = Stamp::of(paths);
        if now == before {
            break;
        }
        before = now;
    }
    false
}

/// What the kernel told of files that are read.
#[derive(Default)]
struct Told {
    something: Notify,
    state: Mutex<Changes>,
}

#[derive(Default)]
struct Changes {
    /// Names of files that are read whatever they are called.
    named: HashSet<OsString>,
    /// Files that were written to and not closed since.
    open: HashSet<PathBuf>,
    /// Whether some file was closed after writing, or took another's place: changes that the kernel told of are whole.
    whole: bool,
}

impl Told {
    fn state(&self) -> MutexGuard<'_, Changes> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, paths: &[PathBuf]) {
        let real = paths.iter().filter_map(|path| path.canonicalize().ok());
        let named = paths.iter().cloned().chain(real).filter(|path| !path.is_dir());
        self.state().named = named.filter_map(|path| path.file_name().map(OsStr::to_owned)).collect();
    }

    fn take(&self, event: &Event) {
        use notify::event::{AccessKind, AccessMode, ModifyKind};
        let mut state = self.state();
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                if !event.paths.iter().any(|path| state.is_ours(path)) {
                    return;
                }
                state.settle(&event.paths);
            }
            // Reading a file is an event too, and loading reads.
            EventKind::Access(_) => return,
            EventKind::Create(CreateKind::File) | EventKind::Modify(ModifyKind::Data(_)) => {
                let ours: Vec<_> = event.paths.iter().filter(|path| state.is_ours(path)).cloned().collect();
                if ours.is_empty() {
                    return;
                }
                state.open.extend(ours);
            }
            // Files and links that are moved or taken away are so at once.
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => state.settle(&event.paths),
            _ => {}
        }
        drop(state);
        self.something.notify_one();
    }

    /// Whether all that changed was closed by whoever wrote it.
    fn is_finished(&self) -> bool {
        let state = self.state();
        state.whole && state.open.is_empty()
    }

    /// What comes from now on belongs to another change.
    fn forget(&self) {
        let mut state = self.state();
        state.open.clear();
        state.whole = false;
    }
}

impl Changes {
    fn settle(&mut self, paths: &[PathBuf]) {
        self.open.retain(|path| !paths.contains(path));
        self.whole = true;
    }

    fn is_ours(&self, path: &Path) -> bool {
        path.file_name().is_some_and(|name| Resources::is_read(name) || self.named.contains(name))
    }
}

/// The kernel's watch over folders. Without one (no inotify instance left) the slow look has to do.
struct Watching {
    watcher: Option<RecommendedWatcher>,
    folders: Vec<PathBuf>,
}

impl Watching {
    fn new(told: Arc<Told>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| match event {
            Ok(event) => told.take(&event),
            // Events were lost: look.
            Err(_) => told.something.notify_one(),
        });
        let watcher = watcher
            .inspect_err(
                |error| tracing::warn!(%error, "cannot watch files: looking at them every {SLOW_LOOK:?}"),
            )
            .ok();
        Watching { watcher, folders: Vec::new() }
    }

    fn cover(&mut self, paths: &[PathBuf]) {
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

/// Files that belong together are written one after the other with pauses shorter than this.
const QUIET: Duration = Duration::from_millis(50);

/// How long a file rests that nobody closed before it is taken for whole.
const LONG_QUIET: Duration = Duration::from_secs(1);

/// Files that never stop changing are read as they are after so long.
const LONGEST_SETTLING: Duration = Duration::from_secs(30);

/// How often files are looked at that the kernel says nothing about (network file systems, some overlays).
const SLOW_LOOK: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use lighter_config::sidecar::SidecarConfig;
    use notify::event::{AccessKind, AccessMode, DataChange, ModifyKind, RemoveKind, RenameMode};

    use super::*;
    use crate::dial::Here;

    const WRITTEN: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const CLOSED: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const RENAMED: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));

    fn told(events: &[(EventKind, &str)]) -> Told {
        let told = Told::default();
        for (kind, path) in events {
            told.take(&Event::new(*kind).add_path(path.into()));
        }
        told
    }

    #[test]
    fn a_file_is_whole_when_it_was_closed_or_put_in_place() {
        assert!(!told(&[]).is_finished());
        assert!(!told(&[(WRITTEN, "/m/a.yaml")]).is_finished());
        assert!(told(&[(WRITTEN, "/m/a.yaml"), (CLOSED, "/m/a.yaml")]).is_finished());
        assert!(
            !told(&[(WRITTEN, "/m/a.yaml"), (WRITTEN, "/m/b.yaml"), (CLOSED, "/m/a.yaml")]).is_finished()
        );
        assert!(told(&[(WRITTEN, "/m/new.yaml"), (RENAMED, "/m/new.yaml")]).is_finished());
        assert!(told(&[(RENAMED, "/m/..data")]).is_finished());
        assert!(told(&[(EventKind::Remove(RemoveKind::File), "/m/a.yaml")]).is_finished());
    }

    #[tokio::test]
    async fn files_that_are_not_read_say_nothing() {
        let quiet =
            told(&[(WRITTEN, "/m/access.log"), (CLOSED, "/m/access.log"), (WRITTEN, "/m/.a.yaml.swp")]);
        assert!(!quiet.is_finished());
        let something = tokio::time::timeout(Duration::ZERO, quiet.something.notified()).await;
        assert!(something.is_err());
    }

    /// How long it takes to settle, after events of a file that does not change meanwhile.
    async fn settling(events: &[(EventKind, &str)]) -> Duration {
        let here = || Arc::new(Here::default());
        let shared = Shared::new(SidecarConfig::default(), here(), here());
        let told = told(events);
        let start = Instant::now();
        assert!(!settle(&told, &["/nonexistent/a.yaml".into()], &shared).await);
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_open_is_waited_for_longer() {
        let open = settling(&[(WRITTEN, "/m/a.yaml")]).await;
        let closed = settling(&[(WRITTEN, "/m/a.yaml"), (CLOSED, "/m/a.yaml")]).await;
        // The clock stands still but for the waits themselves, which it counts in whole milliseconds.
        assert!(open >= LONG_QUIET && closed >= QUIET && closed < LONG_QUIET, "{open:?} {closed:?}");
    }
}
