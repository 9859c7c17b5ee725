//! Changes of the store: planned on a copy, judged whole, written whole.

use std::collections::HashSet;
use std::sync::{Arc, MutexGuard};
use std::time::SystemTime;

use lighter_config::build::{Mesh, Origin};
use lighter_config::error::{ConfigError, ConfigErrors};
use lighter_config::load::Resources;
use lighter_config::manifest::{Key, Manifest};
use lighter_config::shared::SharedMap;
use serde_json::Value;

use super::disk::Batch;
use super::{ORIGIN, Store, StoreError, Stored, View, time};

/// What Kubernetes writes beside what a user writes. It says nothing to Lighter, and is not kept.
const FOREIGN: [&str; 6] =
    ["uid", "resourceVersion", "generation", "managedFields", "ownerReferences", "finalizers"];
/// The annotation in which kubectl keeps the whole document once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Who changes something, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// Who.
    pub name: &'a str,
    /// When.
    pub now: SystemTime,
}

/// Resources that are to be as they are written here.
#[derive(Debug, Default)]
pub struct Push {
    /// The resources.
    pub manifests: Vec<Manifest>,
    /// The set to which they belong from now on; none: each keeps the set that it has.
    pub set: Option<String>,
    /// Remove every resource of the set that is not in this push.
    pub prune: bool,
}

/// What was done, or would be.
#[derive(Debug)]
pub struct Changes {
    /// The store's generation before.
    pub before: u64,
    /// The store's generation after: the same if nothing changed.
    pub after: u64,
    /// One for each resource that was named, in the order of the push; then those that were pruned.
    pub changes: Vec<Change>,
    /// What is allowed, but probably not meant, of everything there is then.
    pub warnings: Vec<ConfigError>,
}

/// What became of one resource.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// What was done.
    pub effect: Effect,
    /// How it was.
    pub before: Option<Arc<Stored>>,
    /// How it is.
    pub after: Option<Arc<Stored>>,
}

/// What was done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It is new.
    Created,
    /// It was there and says something else now.
    Configured,
    /// It was there and said the same.
    Unchanged,
    /// It was removed.
    Deleted,
    /// It was removed because its set no longer has it.
    Pruned,
}

impl Effect {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Effect::Created => "created",
            Effect::Configured => "configured",
            Effect::Unchanged => "unchanged",
            Effect::Deleted => "deleted",
            Effect::Pruned => "pruned",
        }
    }
}

impl Store {
    /// Takes a push, whole or not at all; with `dry_run`, only says what it would do.
    ///
    /// A document with a `metadata.resourceVersion` is taken only if the resource has that generation still.
    pub fn apply(&self, push: Push, author: Author<'_>, dry_run: bool) -> Result<Changes, StoreError> {
        let mesh = self.lock();
        let view = self.view();
        conflicts(&push.manifests, &view)?;
        let mut plan = Plan::new(&view);
        for manifest in push.manifests {
            plan.push(manifest, push.set.as_deref(), author);
        }
        if let Some(set) = push.set.as_deref().filter(|_| push.prune) {
            plan.prune(set);
        }
        self.carry_out(plan, mesh, dry_run)
    }

    /// Removes resources, all or none; with `dry_run`, only says what it would do. Unless `ignore_missing`, each must
    /// be there.
    pub fn delete(&self, keys: &[Key], ignore_missing: bool, dry_run: bool) -> Result<Changes, StoreError> {
        let mesh = self.lock();
        let view = self.view();
        let missing: Vec<Key> =
            keys.iter().filter(|key| !view.resources.contains_key(key)).cloned().collect();
        if !missing.is_empty() && !ignore_missing {
            return Err(StoreError::NotFound(missing));
        }
        let mut plan = Plan::new(&view);
        for key in keys {
            plan.remove(key, Effect::Deleted);
        }
        self.carry_out(plan, mesh, dry_run)
    }

    /// Judges what there would be, writes it, and shows it.
    pub(super) fn carry_out(
        &self,
        plan: Plan<'_>,
        mut mesh: MutexGuard<'_, Mesh>,
        dry_run: bool,
    ) -> Result<Changes, StoreError> {
        let mut next = mesh.clone();
        for change in plan.changes.iter().filter(|change| change.before.is_some()) {
            next.remove(&change.key);
        }
        let pushed: Vec<Key> = plan.pushed.iter().map(|manifest| manifest.key().clone()).collect();
        next.put(&Resources::of(plan.pushed)?, Origin::Push);
        let snapshot = next.judge()?;
        let done = Changes {
            before: plan.view.generation,
            after: if plan.changed { plan.generation } else { plan.view.generation },
            changes: plan.changes,
            warnings: snapshot.warnings.clone(),
        };
        if plan.changed && !dry_run {
            self.disk.commit(&batch(&done))?;
            // From here on its place is the store, and its text is nobody's.
            let snapshot = next.keep(&pushed, &Arc::from(ORIGIN));
            *mesh = next;
            self.publish(View { generation: done.after, resources: plan.next, snapshot });
        }
        Ok(done)
    }
}

/// A change in the making.
pub(super) struct Plan<'v> {
    view: &'v View,
    generation: u64,
    next: SharedMap<Key, Arc<Stored>>,
    named: HashSet<Key>,
    /// What was pushed, with its places, for errors.
    pushed: Vec<Manifest>,
    changes: Vec<Change>,
    changed: bool,
}

impl<'v> Plan<'v> {
    pub(super) fn new(view: &'v View) -> Self {
        Plan {
            view,
            generation: view.generation + 1,
            next: view.resources.clone(),
            named: HashSet::new(),
            pushed: Vec::new(),
            changes: Vec::new(),
            changed: false,
        }
    }

    /// One resource as it is to be. One that is named twice is found when everything is judged.
    fn push(&mut self, manifest: Manifest, set: Option<&str>, author: Author<'_>) {
        let key = manifest.key().clone();
        let before = self.view.resources.get(&key);
        let now = time::seconds(author.now);
        let document = kept(manifest.value(), before.map(|before| &before.document), now);
        let set = set.map(str::to_string).or_else(|| before.and_then(|before| before.set.clone()));
        self.pushed.push(manifest.restated(document.clone()));
        let (generation, written_by) = (self.generation, author.name.to_string());
        self.put(Stored { key, document, generation, set, written_by, at: now });
    }

    pub(super) fn put(&mut self, stored: Stored) {
        let key = stored.key.clone();
        let before = self.view.resources.get(&key).cloned();
        let (effect, after) = match &before {
            None => (Effect::Created, Arc::new(stored)),
            Some(before) if before.document != stored.document => (Effect::Configured, Arc::new(stored)),
            // The same words under another set: nobody who runs by them would notice.
            Some(before) if before.set != stored.set => {
                self.changed = true;
                (Effect::Unchanged, Arc::new(Stored { set: stored.set, ..(**before).clone() }))
            }
            Some(before) => (Effect::Unchanged, before.clone()),
        };
        self.changed |= effect != Effect::Unchanged;
        self.next.insert(key.clone(), after.clone());
        self.named.insert(key.clone());
        self.changes.push(Change { key, effect, before, after: Some(after) });
    }

    pub(super) fn remove(&mut self, key: &Key, effect: Effect) {
        if let Some(before) = self.next.remove(key) {
            self.changed = true;
            self.changes.push(Change { key: key.clone(), effect, before: Some(before), after: None });
        }
    }

    /// Removes what belongs to `set` and was not named.
    fn prune(&mut self, set: &str) {
        let of_set = |(key, stored): &(&Key, &Arc<Stored>)| {
            stored.set.as_deref() == Some(set) && !self.named.contains(*key)
        };
        let keys: Vec<Key> = self.next.iter().filter(of_set).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.remove(key, Effect::Pruned));
    }

    /// Removes everything that was not named.
    pub(super) fn remove_rest(&mut self) {
        let rest: Vec<Key> = self.next.keys().filter(|key| !self.named.contains(*key)).cloned().collect();
        rest.iter().for_each(|key| self.remove(key, Effect::Deleted));
    }

    /// Has the manifests of stored resources judged as if they were pushed.
    pub(super) fn judge(&mut self, manifests: Vec<Manifest>) {
        self.pushed.extend(manifests);
    }

    /// The generation that this change makes.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Makes the generation come after one of another store.
    pub(super) fn after(&mut self, generation: u64) {
        self.generation = self.generation.max(generation.saturating_add(1));
    }
}

/// What of the changes the disk has to know.
fn batch(done: &Changes) -> Batch<'_> {
    let (mut put, mut remove) = (Vec::new(), Vec::new());
    for change in &done.changes {
        match &change.after {
            Some(after) if change.before.as_ref().is_none_or(|before| before != after) => put.push(&**after),
            Some(_) => {}
            None => remove.push(&change.key),
        }
    }
    Batch { generation: done.after, put, remove }
}

/// The document as it is kept: without what is only Kubernetes', and with the time at which it was first made.
fn kept(pushed: &Value, before: Option<&Value>, now: u64) -> Value {
    let mut document = pushed.clone();
    let Some(fields) = document.as_object_mut() else { return document };
    fields.remove("status");
    let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) else { return document };
    for field in FOREIGN {
        metadata.remove(field);
    }
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    if metadata.get("creationTimestamp").is_none_or(Value::is_null) {
        let made = before.map(|before| before["metadata"]["creationTimestamp"].clone());
        metadata.insert("creationTimestamp".into(), made.unwrap_or_else(|| time::rfc3339(now).into()));
    }
    document
}

/// Whether each document that says which generation it was made from was made from the one that there is.
fn conflicts(manifests: &[Manifest], view: &View) -> Result<(), StoreError> {
    let conflict = |manifest: &Manifest| {
        let expected = match &manifest.value()["metadata"]["resourceVersion"] {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let message = match view.resources.get(manifest.key()) {
            Some(stored) if stored.generation.to_string() == expected => return None,
            Some(stored) => {
                let (generation, by) = (stored.generation, &stored.written_by);
                format!(
                    "made from generation {expected}, and `{by}` has written generation {generation} since"
                )
            }
            None => format!("made from generation {expected}, and there is no such resource"),
        };
        let hint = "get it again and repeat the change, or leave the field out to overwrite what there is";
        Some(manifest.error(&["metadata", "resourceVersion"], message, Some(hint.into())))
    };
    let errors: Vec<ConfigError> = manifests.iter().filter_map(conflict).collect();
    if errors.is_empty() { Ok(()) } else { Err(StoreError::Conflict(ConfigErrors { errors })) }
}
