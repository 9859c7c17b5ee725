//! YAML documents that remember where each of their fields stands.
//!
//! A document is parsed once, into a plain value and a table of places. Typed resources are read from the value, and
//! whatever is found wrong later, by type or by meaning, is looked up in the table by its field path.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::Segment;
use serde_saphyr::{Location, Spanned};

use crate::error::ConfigError;
use crate::wording::{About, Wording};

/// Largest file, in bytes.
pub(crate) const MAX_FILE_BYTES: usize = 4 << 20;
/// Most documents in one file.
pub(crate) const MAX_DOCUMENTS: usize = 16 << 10;
/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 32;
/// Most values in one document.
const MAX_NODES: usize = 250_000;
/// Most values that aliases stand for, in one document.
const MAX_ALIASED: usize = 50_000;

/// Most errors of type that are looked for in one document.
const MAX_TYPE_ERRORS: usize = 16;

/// One document of a file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// What it says.
    pub(crate) value: Value,
    /// `kind namespace/name` once known, for errors.
    pub(crate) resource: Option<String>,
    file: Arc<str>,
    places: HashMap<String, Place>,
}

/// A field of a document, by path.
#[derive(Clone, Debug)]
pub(crate) struct At<'d> {
    document: &'d Document,
    path: String,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    key: Option<Location>,
    value: Location,
    scalar: bool,
}

impl Document {
    /// The documents of `text`, as far as its syntax is sound; empty documents are left out.
    pub(crate) fn parse(file: &str, text: &str) -> (Vec<Document>, Vec<ConfigError>) {
        let (mut documents, mut errors) = (Vec::new(), Vec::new());
        if text.len() > MAX_FILE_BYTES {
            let message = format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
            return (
                documents,
                vec![ConfigError::of_file(file, message).hint("split it into several files")],
            );
        }
        let file: Arc<str> = file.into();
        let mut bytes = text.as_bytes();
        for tree in serde_saphyr::read_with_options::<_, Spanned<Tree>>(&mut bytes, options()) {
            if documents.len() == MAX_DOCUMENTS {
                let message = format!("more than {MAX_DOCUMENTS} documents");
                errors.push(ConfigError::of_file(&file, message).hint("split the file into several"));
                break;
            }
            match tree {
                Ok(tree) => {
                    let mut places = HashMap::new();
                    let value = flatten(tree, None, String::new(), &mut places);
                    documents.push(Document { value, resource: None, file: file.clone(), places });
                }
                Err(error) => errors.push(syntax_error(&file, &error)),
            }
        }
        (documents, errors)
    }

    /// A document that has no text, and so no places.
    pub(crate) fn of_value(file: &Arc<str>, value: Value) -> Document {
        Document { value, resource: None, file: file.clone(), places: HashMap::new() }
    }

    /// Has it be one that has no text, and so no places.
    pub(crate) fn forget(&mut self, origin: &Arc<str>) {
        (self.file, self.places) = (origin.clone(), HashMap::new());
    }

    /// The file as it was named.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// The whole document.
    pub(crate) fn root(&self) -> At<'_> {
        At { document: self, path: String::new() }
    }

    /// Reads a typed value.
    ///
    /// A typed reader stops at the first fault. So that one look tells all of them, the faulty field is taken out and
    /// the rest is read again, as far as that is possible.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<ConfigError>> {
        let (mut rest, mut errors, mut robbed) = (Cow::Borrowed(&self.value), Vec::new(), HashSet::new());
        while errors.len() < MAX_TYPE_ERRORS {
            let error = match serde_path_to_error::deserialize::<_, T>(rest.as_ref()) {
                Ok(value) if errors.is_empty() => return Ok(value),
                Ok(_) => break,
                Err(error) => error,
            };
            let path = match error.path().to_string() {
                root if root == "." => String::new(),
                path => path,
            };
            let said = error.inner().to_string();
            // Perhaps it is missing only because it was misspelt, or wrong, and taken out.
            if said.starts_with("missing field ") && robbed.contains(&path) {
                break;
            }
            robbed.insert(parent(&path).to_string());
            errors.push(self.type_error(path, &said));
            if !take_out(rest.to_mut(), error.path()) {
                break;
            }
        }
        Err(errors)
    }

    /// What serde says of the field at `path`, in other words and with its place.
    fn type_error(&self, path: String, said: &str) -> ConfigError {
        let wording = Wording::of(said);
        // The path of a word that is not among those known ends with that word.
        let path = match wording.about {
            About::Word(word) => {
                path.strip_suffix(word).and_then(|path| path.strip_suffix('.')).unwrap_or(&path)
            }
            _ => &path,
        };
        let mut error = At { document: self, path: path.to_string() }.error(wording.message);
        error.hint = wording.hint;
        if let (About::Key, Some(key)) = (wording.about, self.places.get(path).and_then(|place| place.key)) {
            (error.line, error.column) = line_and_column(key);
        }
        error
    }
}

impl<'d> At<'d> {
    /// A field of this mapping.
    pub(crate) fn field(&self, name: &str) -> At<'d> {
        At { document: self.document, path: join(&self.path, name) }
    }

    /// An item of this list.
    pub(crate) fn index(&self, index: usize) -> At<'d> {
        At { document: self.document, path: format!("{}[{index}]", self.path) }
    }

    /// An error here.
    pub(crate) fn error(&self, message: impl Into<String>) -> ConfigError {
        let (line, column) = line_and_column(self.location());
        ConfigError {
            file: self.document.file.clone(),
            line,
            column,
            resource: self.document.resource.clone(),
            path: self.path.clone(),
            message: message.into(),
            hint: None,
        }
    }

    /// `file:line`, for errors that name a second place; of a document without text, what it is called.
    pub(crate) fn place(&self) -> String {
        match line_and_column(self.location()).0 {
            0 => self.document.file.to_string(),
            line => format!("{}:{line}", self.document.file),
        }
    }

    /// Where a scalar stands, or the key of a list or mapping. Of what is absent: where its parent stands.
    fn location(&self) -> Location {
        let mut path = self.path.as_str();
        loop {
            if let Some(place) = self.document.places.get(path) {
                return place.key.filter(|_| !place.scalar).unwrap_or(place.value);
            }
            if path.is_empty() {
                return Location::UNKNOWN;
            }
            path = parent(path);
        }
    }
}

/// The path of a field.
fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_string() } else { format!("{path}.{field}") }
}

/// The path of the list or mapping that `path` is in.
fn parent(path: &str) -> &str {
    path.rfind(['.', '[']).map_or("", |end| &path[..end])
}

/// Takes the field at `path` out of `value`. Items of lists stay, since others would change their places.
fn take_out(value: &mut Value, path: &serde_path_to_error::Path) -> bool {
    let steps: Vec<&Segment> = path.iter().filter(|step| !matches!(step, Segment::Enum { .. })).collect();
    let Some((Segment::Map { key: last }, parents)) = steps.split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, step| match step {
        Segment::Seq { index } => value.get_mut(index),
        Segment::Map { key } => value.get_mut(key),
        _ => None,
    });
    parent.and_then(Value::as_object_mut).is_some_and(|fields| fields.remove(last).is_some())
}

/// Limits on what a file can make the parser do.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_FILE_BYTES),
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED,
            max_replay_stack_depth: MAX_DEPTH,
        },
        emit_comments: false,
        reject_unsupported_tags: true,
        strict_booleans: true,
        with_snippet: false,
    }
}

fn syntax_error(file: &str, error: &serde_saphyr::Error) -> ConfigError {
    let said = error.without_snippet().to_string();
    // The place is a field of its own, and the parser's options are not the user's business.
    let end =
        [" at line ", ", set DuplicateKeyPolicy", " by the configured policy"].map(|part| said.find(part));
    let message = &said[..end.into_iter().flatten().min().unwrap_or(said.len())];
    let mut found = ConfigError::of_file(file, message.trim_end_matches([',', ':', ' ']));
    if let Some(location) = error.location() {
        (found.line, found.column) = line_and_column(location);
    }
    found
}

fn line_and_column(location: Location) -> (u32, u32) {
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    (narrow(location.line()), narrow(location.column()))
}

/// A document with the place of everything in it.
enum Tree {
    Scalar(Value),
    Items(Vec<Spanned<Tree>>),
    Fields(Vec<(Spanned<String>, Spanned<Tree>)>),
}

fn flatten(
    tree: Spanned<Tree>,
    key: Option<Location>,
    path: String,
    places: &mut HashMap<String, Place>,
) -> Value {
    let scalar = matches!(tree.value, Tree::Scalar(_));
    let value = match tree.value {
        Tree::Scalar(value) => value,
        Tree::Items(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| flatten(item, None, format!("{path}[{index}]"), places))
            .collect(),
        Tree::Fields(fields) => fields
            .into_iter()
            .map(|(name, value)| {
                let value = flatten(value, Some(name.referenced), join(&path, &name.value), places);
                (name.value, value)
            })
            .collect(),
    };
    places.insert(path, Place { key, value: tree.referenced, scalar });
    value
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E: de::Error>(self) -> Result<Tree, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::Items(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Fields(fields))
    }
}
