use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, UNIX_EPOCH};

use lighter_config::error::ConfigError;
use lighter_config::name::ServiceName;

use super::*;

/// A store in a folder of its own, and the time it is there.
struct World {
    folder: tempfile::TempDir,
    store: Store,
    now: u64,
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store.redb"), Resources::default()).unwrap();
        World { folder, store, now: 1_000 }
    }

    /// After a restart. What came of changes is what comes of everything at once.
    fn reopened(self) -> World {
        let World { folder, store, now } = self;
        let before = store.snapshot();
        drop(store);
        let store = Store::open(&folder.path().join("store.redb"), Resources::default()).unwrap();
        let after = store.snapshot();
        assert_eq!((&after.version, &after.services), (&before.version, &before.services));
        assert_eq!(after.warnings, before.warnings);
        World { folder, store, now }
    }

    fn push(&mut self, text: &str, set: Option<&str>, prune: bool) -> Result<Changes, StoreError> {
        self.now += 1;
        let now = UNIX_EPOCH + Duration::from_secs(self.now);
        let manifests = Manifest::parse("mesh.yaml", text, "default")?;
        let push = Push { manifests, set: set.map(str::to_string), prune };
        self.store.apply(push, Author { name: "ann", now }, false)
    }

    fn names(&self) -> Vec<String> {
        self.store.view().resources.keys().map(|key| key.to_string()).collect()
    }
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports:\n  - port: {port}\n---\n"
    )
}

fn route(name: &str, parent: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: \
         [{{kind: Service, name: {parent}}}]\n  rules:\n  - backendRefs: [{{name: {parent}, port: 80}}]\n---\n"
    )
}

fn effects(changes: &Changes) -> Vec<(String, &'static str)> {
    changes.changes.iter().map(|change| (change.key.to_string(), change.effect.word())).collect()
}

fn a_key() -> Key {
    Key::new("Service", "default", "a")
}

#[test]
fn what_was_pushed_is_there_after_a_restart() {
    let mut world = World::new();
    let done = world.push(&(service("a", 80) + &route("r", "a")), None, false).unwrap();
    assert_eq!((done.before, done.after), (0, 1));
    let before = world.store.view();
    let world = world.reopened();
    let after = world.store.view();
    assert_eq!((after.generation, &after.resources), (1, &before.resources));
    assert_eq!(after.snapshot.version, before.snapshot.version);
    assert_eq!(after.resources[&a_key()].written_by, "ann");
    let mode = std::fs::metadata(world.folder.path().join("store.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn pushing_the_same_again_changes_nothing() {
    let mut world = World::new();
    world.push(&service("a", 80), None, false).unwrap();
    let watch = world.store.watch();
    let done = world.push(&service("a", 80), None, false).unwrap();
    assert_eq!(effects(&done), [("Service default/a".to_string(), "unchanged")]);
    assert_eq!((done.before, done.after), (1, 1));
    assert!(!watch.has_changed().unwrap());
    let done = world.push(&service("a", 81), None, false).unwrap();
    assert_eq!(effects(&done), [("Service default/a".to_string(), "configured")]);
    assert!(watch.has_changed().unwrap());
    // It is as old as it was: what is older is preferred among routes.
    let document = world.store.view().resources[&a_key()].document.clone();
    assert_eq!(document["metadata"]["creationTimestamp"], "1970-01-01T00:16:41Z");
}

#[test]
fn a_bad_push_leaves_everything_as_it_was() {
    let mut world = World::new();
    world.push(&service("a", 80), None, false).unwrap();
    let before = world.store.view();
    let error = world.push(&(service("b", 80) + &service("c", 0)), None, false).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("mesh.yaml:13:11: spec.ports[0].port: 0 is not a port"), "{text}");
    assert_eq!(world.names(), ["Service default/a"]);
    assert_eq!(world.store.view().generation, before.generation);
    assert_eq!(world.reopened().names(), ["Service default/a"]);
}

#[test]
fn a_push_is_judged_together_with_what_is_stored() {
    let mut world = World::new();
    world.push(&service("a", 80), None, false).unwrap();
    world.push(&route("r", "a"), None, false).unwrap();
    let error = world.store.delete(&[a_key()], false, false).unwrap_err().to_string();
    assert!(
        error.starts_with("the store: spec.parentRefs[0]") && error.contains("HTTPRoute default/r"),
        "{error}"
    );
    let twice = world.push(&(service("b", 80) + &service("b", 81)), None, false).unwrap_err().to_string();
    assert!(twice.contains("there is a Service default/b already"), "{twice}");

    // And with what files say.
    let files = Resources::parse("f.yaml", &service("filed", 80)).unwrap();
    world.store.set_files(files).unwrap();
    world.push(&route("s", "filed"), None, false).unwrap();
    let error = world.push(&service("filed", 81), None, false).unwrap_err().to_string();
    assert!(error.starts_with("mesh.yaml:3:18") && error.contains("the first is at f.yaml:3"), "{error}");
    let error = world.store.set_files(Resources::default()).unwrap_err().to_string();
    assert!(error.contains("HTTPRoute default/s"), "{error}");
    assert!(world.store.snapshot().services.contains_key(&ServiceName::new("default", "filed")));
}

#[test]
fn a_warning_has_its_place_in_what_is_pushed_and_its_name_in_what_is_kept() {
    let mut world = World::new();
    let to_nobody = route("r", "a").replace("backendRefs: [{name: a", "backendRefs: [{name: gone");
    let done = world.push(&(service("a", 80) + &to_nobody), None, false).unwrap();
    let said = |warnings: &[ConfigError]| {
        warnings.iter().map(|warning| (warning.file.to_string(), warning.line)).collect::<Vec<_>>()
    };
    assert_eq!(said(&done.warnings), [("mesh.yaml".to_string(), 14)]);
    assert_eq!(said(&world.store.snapshot().warnings), [("the store".to_string(), 0)]);
    let mut world = world.reopened();
    let done = world.push(&service("gone", 80), None, false).unwrap();
    assert_eq!(done.warnings, [], "it has come");
    world.reopened();
}

#[test]
fn a_dry_run_says_what_would_happen() {
    let mut world = World::new();
    let manifests = Manifest::parse("f", &service("a", 80), "default").unwrap();
    let push = Push { manifests, ..Push::default() };
    let done = world.store.apply(push, Author { name: "ann", now: UNIX_EPOCH }, true).unwrap();
    assert_eq!(effects(&done), [("Service default/a".to_string(), "created")]);
    assert!(world.names().is_empty());
    world.push(&service("a", 80), None, false).unwrap();
    world.store.delete(&[a_key()], false, true).unwrap();
    assert_eq!(world.names(), ["Service default/a"]);
}

#[test]
fn pruning_removes_what_the_same_set_had_and_nothing_else() {
    let mut world = World::new();
    world.push(&(service("a", 80) + &service("b", 80)), Some("shop"), false).unwrap();
    world.push(&service("c", 80), Some("other"), false).unwrap();
    world.push(&service("d", 80), None, false).unwrap();
    let done = world.push(&service("a", 80), Some("shop"), true).unwrap();
    let expected = [("Service default/a", "unchanged"), ("Service default/b", "pruned")];
    assert_eq!(effects(&done), expected.map(|(key, word)| (key.to_string(), word)));
    assert_eq!(world.names(), ["Service default/a", "Service default/c", "Service default/d"]);

    // What another set pushes is that set's from then on, though it says the same.
    world.push(&service("a", 80), Some("other"), false).unwrap();
    let mut world = world.reopened();
    world.push(&service("e", 80), Some("shop"), true).unwrap();
    assert_eq!(world.names().len(), 4);
}

#[test]
fn a_change_made_from_an_older_generation_is_refused() {
    let mut world = World::new();
    world.push(&service("a", 80), None, false).unwrap();
    let made_from = |generation: u32, port: u16| {
        service("a", port).replace("{name: a}", &format!("{{name: a, resourceVersion: \"{generation}\"}}"))
    };
    world.push(&made_from(1, 81), None, false).unwrap();
    let error = world.push(&made_from(1, 82), None, false).unwrap_err();
    assert!(matches!(error, StoreError::Conflict(_)));
    let text = error.to_string();
    assert!(
        text.starts_with("mesh.yaml:3:38: metadata.resourceVersion: made from generation 1, and `ann`"),
        "{text}"
    );
    assert_eq!(world.store.view().generation, 2);
    assert!(world.push(&made_from(2, 82), None, false).is_ok());
}

#[test]
fn a_file_has_one_process() {
    let world = World::new();
    let path = world.folder.path().join("store.redb");
    let Err(error) = Store::open(&path, Resources::default()) else { panic!("opened twice") };
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    drop(Store::open(&path, Resources::default()).unwrap());
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let table = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(table).unwrap().insert("schema", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let Err(error) = Store::open(&path, Resources::default()) else { panic!("opened") };
    assert!(error.to_string().contains("has schema 99"), "{error}");
}

#[test]
fn a_backup_brings_back_what_there_was() {
    let mut world = World::new();
    world.push(&(service("a", 80) + &service("b", 80)), Some("shop"), false).unwrap();
    let bytes = serde_json::to_vec(&world.store.backup()).unwrap();
    world.push(&(service("b", 90) + &service("c", 80)), None, false).unwrap();
    world.store.delete(&[a_key()], false, false).unwrap();

    let done = world.store.restore(Backup::read(&bytes).unwrap(), false).unwrap();
    let expected = [
        ("Service default/a", "created"),
        ("Service default/b", "configured"),
        ("Service default/c", "deleted"),
    ];
    assert_eq!(effects(&done), expected.map(|(key, word)| (key.to_string(), word)));
    assert_eq!((done.before, done.after), (3, 4));
    let world = world.reopened();
    let view = world.store.view();
    assert_eq!(view.resources[&a_key()].set.as_deref(), Some("shop"));

    // Into an empty store, too, behind the generation that it had.
    let empty = World::new();
    assert_eq!(empty.store.restore(Backup::read(&bytes).unwrap(), false).unwrap().after, 2);

    let with = |schema: u64, generation: u64| {
        format!(r#"{{"lighterStore": {schema}, "generation": {generation}, "resources": []}}"#)
    };
    assert!(Backup::read(with(1, 1).as_bytes()).is_ok());
    for bad in ["{}", "lighter", &with(9, 1), &with(1, u64::MAX), &with(1, u64::MAX - 1)] {
        assert!(matches!(Backup::read(bad.as_bytes()), Err(StoreError::Backup(_))), "{bad}");
    }
    let swapped = String::from_utf8(bytes).unwrap().replacen(
        "\"name\":\"a\",\"document\"",
        "\"name\":\"z\",\"document\"",
        1,
    );
    let error = empty.store.restore(Backup::read(swapped.as_bytes()).unwrap(), false).unwrap_err();
    assert!(error.to_string().contains("stands under the name Service default/z"), "{error}");
}

#[test]
fn facts_outlive_the_process_and_are_told_apart_by_kind() {
    let world = World::new();
    let fact = |name: &str, bytes: Option<&[u8]>| (name.to_string(), bytes.map(<[u8]>::to_vec));
    world.store.set_facts("lease", &[fact("x", Some(b"1")), fact("y", Some(b"2"))]).unwrap();
    world.store.set_facts("leases", &[fact("x", Some(b"3"))]).unwrap();
    world.store.set_facts("lease", &[fact("x", None), fact("z", Some(b"4"))]).unwrap();
    let world = world.reopened();
    let expected = [("y".to_string(), b"2".to_vec()), ("z".to_string(), b"4".to_vec())];
    assert_eq!(world.store.facts("lease").unwrap(), expected);
}
