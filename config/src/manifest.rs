//! Resources as they were written: what a store keeps, and what is pushed to it.
//!
//! A [`Manifest`] knows its kind and its name, and still has all of its text's fields. What the fields mean is found out
//! when it becomes one of the [`Resources`](crate::load::Resources).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::document::Document;
use crate::error::{ConfigError, ConfigErrors};
use crate::load::{Resources, identify};

/// What tells one resource from all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The kind, such as `HTTPRoute`.
    pub kind: Arc<str>,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within kind and namespace.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its three parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Key { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    /// `kind namespace/name`, as errors name resources.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// One resource as it was written, of a known kind.
#[derive(Clone, Debug)]
pub struct Manifest {
    key: Key,
    pub(crate) document: Document,
}

impl Manifest {
    /// The documents of one text. `file` is what errors call it; `namespace` is where a document belongs that names no
    /// namespace. Only syntax, kinds and names are checked.
    pub fn parse(file: &str, text: &str, namespace: &str) -> Result<Vec<Manifest>, ConfigErrors> {
        let (documents, mut errors) = Document::parse(file, text);
        let mut manifests = Vec::with_capacity(documents.len());
        for document in documents {
            match Self::identify(document, namespace) {
                Ok(manifest) => manifests.push(manifest),
                Err(found) => errors.extend(found),
            }
        }
        ConfigErrors::or(errors, manifests)
    }

    /// A document that was checked before, and has no text. `origin` is what errors call the place where it is kept.
    pub fn of_value(origin: &Arc<str>, value: Value) -> Result<Manifest, ConfigErrors> {
        Self::identify(Document::of_value(origin, value), crate::name::DEFAULT_NAMESPACE)
            .map_err(|errors| ConfigErrors { errors })
    }

    /// Which resource it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// All that it says, with its namespace filled in.
    pub fn value(&self) -> &Value {
        &self.document.value
    }

    /// The same with its value put differently; its places stay.
    pub fn restated(mut self, value: Value) -> Manifest {
        self.document.value = value;
        self
    }

    /// An error of one of its fields, given by the steps to it: `["metadata", "name"]`.
    pub fn error(&self, field: &[&str], message: impl Into<String>, hint: Option<String>) -> ConfigError {
        let at = field.iter().fold(self.document.root(), |at, step| at.field(step));
        ConfigError { hint, ..at.error(message) }
    }

    fn identify(mut document: Document, namespace: &str) -> Result<Manifest, Vec<ConfigError>> {
        let kind = identify(&mut document)?;
        let Some(name) = document.value["metadata"]["name"].as_str().map(Arc::from) else {
            return Err(nameless(document));
        };
        let named = document.value["metadata"]["namespace"].as_str();
        let namespace: Arc<str> = named.unwrap_or(namespace).into();
        if let Some(field) = document.value["metadata"].get("namespace").filter(|field| !field.is_null())
            && !field.is_string()
        {
            return Err(nameless(document));
        }
        document.value["metadata"]["namespace"] = Value::from(&*namespace);
        let key = Key { kind: kind.into(), namespace, name };
        document.resource = Some(key.to_string());
        Ok(Manifest { key, document })
    }
}

/// A document in YAML, which [`Manifest::parse`] reads as the same again.
pub fn yaml(document: &Value) -> Result<String, String> {
    serde_saphyr::to_string(document).map_err(|error| error.to_string())
}

/// What is wrong with a document whose name or namespace cannot be told; the typed reader says it best.
fn nameless(document: Document) -> Vec<ConfigError> {
    let metadata = document.root().field("metadata").error("a resource needs `metadata` with a `name`");
    match Resources::default().take_one(document) {
        Err(errors) => errors,
        Ok(()) => vec![metadata],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshot;

    const TWO: &str = "\
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: a}
spec: {ports: [{port: 80}]}
---
apiVersion: mesh.lighter.dev/v1
kind: Service
metadata: {name: b, namespace: other}
spec:
  ports:
  - port: 0
";

    #[test]
    fn a_document_without_a_namespace_belongs_where_it_is_pushed() {
        let manifests = Manifest::parse("f", TWO, "shop").unwrap();
        let keys: Vec<String> = manifests.iter().map(|manifest| manifest.key().to_string()).collect();
        assert_eq!(keys, ["Service shop/a", "Service other/b"]);
        assert_eq!(manifests[0].value()["metadata"]["namespace"], "shop");
    }

    #[test]
    fn an_error_of_a_pushed_document_has_its_place_and_one_of_a_stored_document_its_name() {
        let manifests = Manifest::parse("f", TWO, "shop").unwrap();
        let values: Vec<Value> = manifests.iter().map(|manifest| manifest.value().clone()).collect();
        let errors = Snapshot::build(&Resources::of(manifests).unwrap()).unwrap_err().errors;
        assert_eq!((errors.len(), errors[0].line, errors[0].column), (1, 11, 11), "{errors:?}");

        let origin = "the store".into();
        let stored: Vec<Manifest> =
            values.into_iter().map(|value| Manifest::of_value(&origin, value).unwrap()).collect();
        let errors = Snapshot::build(&Resources::of(stored).unwrap()).unwrap_err().errors;
        assert_eq!((errors.len(), errors[0].line), (1, 0));
        let text = errors[0].to_string();
        assert!(
            text.starts_with("the store: spec.ports[0].port: 0 is not a port\n  in Service other/b"),
            "{text}"
        );
    }

    #[test]
    fn what_is_written_as_yaml_is_read_as_the_same() {
        let odd = serde_json::json!({
            "apiVersion": "mesh.lighter.dev/v1", "kind": "Service",
            "metadata": {"name": "a", "namespace": "n", "annotations": {
                "a": "true", "b": "1e3", "c": "", "d": "- x", "e": "two\nlines\n", "f": ": #", "g": "null", "h": " x ",
                "i": "0x10", "j": "2026-11-26T12:00:00Z", "k": "~", "l": "\u{7f}\t\"\\", "m": "é", "on": "off",
                "n": "x".repeat(300), "o": "word ".repeat(60), "p": "a\n\n  b\n \n", "q": "---", "r": "*a", "s": "!b",
            }},
            "spec": {"ports": [{"port": 80}], "endpoints": [], "none": null, "empty": {}, "f": 1.5},
        });
        let text = yaml(&odd).unwrap();
        let manifests = Manifest::parse("f", &text, "default").unwrap();
        assert_eq!(manifests[0].value(), &odd, "{text}");
    }

    #[test]
    fn a_document_without_a_name_is_refused_in_its_place() {
        for (text, message) in [
            ("kind: Service\nmetadata: {}\n", "missing field `name`"),
            (
                "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {nmae: a}\nspec: {}\n",
                "unknown field `nmae`",
            ),
            (
                "apiVersion: mesh.lighter.dev/v1\nkind: Service\nmetadata: {name: a, namespace: 3}\nspec: {}\n",
                "invalid type",
            ),
            ("apiVersion: v1\nkind: Servcie\n", "unknown kind `Servcie`"),
            ("- a\n", "a resource is a mapping"),
        ] {
            let errors = Manifest::parse("f", text, "default").unwrap_err().errors;
            assert!(errors.iter().any(|error| error.message.contains(message)), "{text}: {errors:?}");
            assert!(errors.iter().all(|error| error.line > 0), "{errors:?}");
        }
    }
}
