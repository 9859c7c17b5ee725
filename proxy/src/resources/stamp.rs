//! Whether files changed, told without reading them.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use lighter_config::load::Resources;

/// What the files at some paths looked like at one moment, whatever links led to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    files: BTreeMap<PathBuf, Option<Look>>,
}

/// Device, inode, length, and the times of the last change of contents and of the inode, to the nanosecond.
type Look = (u64, u64, u64, (i64, i64), (i64, i64));

impl Stamp {
    /// Looks at what would be read, and at nothing else that the folders hold.
    pub(crate) fn of(paths: &[PathBuf]) -> Self {
        let look = |file: PathBuf| {
            let look = look(&file);
            (file, look)
        };
        Stamp { files: Resources::files(paths).into_iter().map(look).collect() }
    }
}

fn look(path: &Path) -> Option<Look> {
    // Follows links: a ConfigMap's files change by a link that is turned to another folder.
    let data: Metadata = fs::metadata(path).ok()?;
    let (modified, changed) = ((data.mtime(), data.mtime_nsec()), (data.ctime(), data.ctime_nsec()));
    Some((data.dev(), data.ino(), data.len(), modified, changed))
}

/// The folders in which a change of these paths shows: their own if they are folders, those around them, and those
/// around what they link to.
pub(super) fn folders(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for path in paths {
        let real = path.canonicalize().ok();
        for path in [Some(path), real.as_ref()].into_iter().flatten() {
            if path.is_dir() {
                folders.push(path.clone());
            }
            // `a.yaml` has the empty path around it, which is here.
            if let Some(around) = path.parent() {
                folders.push(if around.as_os_str().is_empty() { ".".into() } else { around.into() });
            }
        }
    }
    folders.sort();
    folders.dedup();
    folders
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_way_to_change_a_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let file = at("a.yaml");
        let paths = [file.clone()];
        let mut seen = vec![Stamp::of(&paths)];
        let mut changed = |how: &str| {
            let now = Stamp::of(&paths);
            assert!(!seen.contains(&now), "{how} was not seen");
            assert_eq!(now, Stamp::of(&paths));
            seen.push(now);
        };
        fs::write(&file, "one").unwrap();
        changed("making");
        fs::write(&file, "longer").unwrap();
        changed("writing");
        fs::write(at("new"), "longer").unwrap();
        fs::rename(at("new"), &file).unwrap();
        changed("replacing");
        // As a ConfigMap: the file links into a folder, and the folder's link is turned.
        for version in ["v1", "v2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.yaml"), "longer").unwrap();
        }
        symlink("v1", at("..data")).unwrap();
        symlink("..data/a.yaml", at("link")).unwrap();
        fs::rename(at("link"), &file).unwrap();
        changed("linking");
        symlink("v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        changed("turning a link");
        fs::remove_file(&file).unwrap();
        assert_eq!(Stamp::of(&paths), seen[0]);
    }

    #[test]
    fn a_new_file_in_a_folder_shows() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().to_path_buf()];
        let before = Stamp::of(&paths);
        for foreign in ["access.log", ".b.yaml.swp", ".hidden.yaml"] {
            fs::write(folder.path().join(foreign), "not ours").unwrap();
        }
        assert_eq!(Stamp::of(&paths), before, "what is not read does not show");
        fs::write(folder.path().join("b.yaml"), "").unwrap();
        assert_ne!(Stamp::of(&paths), before);
        fs::remove_file(folder.path().join("b.yaml")).unwrap();
        assert_eq!(Stamp::of(&paths), before);
    }

    #[test]
    fn changes_are_looked_for_around_a_file_and_around_what_it_links_to() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let real = two.path().join("real.yaml");
        fs::write(&real, "").unwrap();
        let link = one.path().join("link.yaml");
        symlink(&real, &link).unwrap();
        let mut expected = vec![one.path().to_path_buf(), two.path().to_path_buf().canonicalize().unwrap()];
        expected.sort();
        assert_eq!(folders(&[link]), expected);
        assert_eq!(folders(&["a.yaml".into()]), [PathBuf::from(".")]);
    }
}
