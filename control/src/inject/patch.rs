//! JSON patches (RFC 6902): what makes one document another.

use serde::Serialize;
use serde_json::Value;

use super::yaml::Node;

/// One step of a patch.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Step {
    /// Sets a field, or pushes the items from here on back by one.
    Add {
        /// Where, as a JSON pointer (RFC 6901).
        path: String,
        /// What.
        value: Value,
    },
    /// Puts something else in its place.
    Replace {
        /// Where.
        path: String,
        /// What.
        value: Value,
    },
    /// Takes it out.
    Remove {
        /// Where.
        path: String,
    },
}

/// The steps that make `after` of `before`, to be taken in their order.
pub fn between(before: &Node, after: &Node) -> Vec<Step> {
    let mut steps = Vec::new();
    compare(before, after, "", &mut steps);
    steps
}

fn compare(before: &Node, after: &Node, path: &str, steps: &mut Vec<Step>) {
    match (before, after) {
        _ if before == after => {}
        (Node::Map(old), Node::Map(new)) => {
            for (name, _) in old.iter().filter(|(name, _)| new.get(&name.text).is_none()) {
                steps.push(Step::Remove { path: field(path, &name.text) });
            }
            for (name, value) in new.iter() {
                let path = field(path, &name.text);
                match old.get(&name.text) {
                    Some(old) => compare(old, value, &path, steps),
                    None => steps.push(Step::Add { path, value: value.json() }),
                }
            }
        }
        (Node::List(old), Node::List(new)) => lists(old, new, path, steps),
        _ => steps.push(Step::Replace { path: path.to_owned(), value: after.json() }),
    }
}

/// What both begin and end with stays where it is.
fn lists(old: &[Node], new: &[Node], path: &str, steps: &mut Vec<Step>) {
    let begin = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[begin..], &new[begin..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    let (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);
    let both = old.len().min(new.len());
    for (at, (old, new)) in old.iter().zip(new).enumerate() {
        compare(old, new, &item(path, begin + at), steps);
    }
    for at in (both..old.len()).rev() {
        steps.push(Step::Remove { path: item(path, begin + at) });
    }
    for (at, value) in new.iter().enumerate().skip(both) {
        steps.push(Step::Add { path: item(path, begin + at), value: value.json() });
    }
}

fn field(path: &str, name: &str) -> String {
    format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn item(path: &str, at: usize) -> String {
    format!("{path}/{at}")
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::inject::yaml::tests::documents;

    /// Takes the steps, as whoever is sent a patch does.
    pub fn take(document: &mut Value, steps: &[Step]) {
        for step in steps {
            let (path, value) = match step {
                Step::Add { path, value } | Step::Replace { path, value } => (path, Some(value)),
                Step::Remove { path } => (path, None),
            };
            let Some((parent, last)) = path.rsplit_once('/') else {
                *document = value.unwrap().clone();
                continue;
            };
            let last = last.replace("~1", "/").replace("~0", "~");
            match (document.pointer_mut(parent).unwrap(), step) {
                (Value::Array(items), Step::Add { .. }) => {
                    items.insert(last.parse().unwrap(), value.unwrap().clone());
                }
                (Value::Array(items), Step::Replace { .. }) => {
                    items[last.parse::<usize>().unwrap()] = value.unwrap().clone();
                }
                (Value::Array(items), Step::Remove { .. }) => drop(items.remove(last.parse().unwrap())),
                (Value::Object(fields), Step::Remove { .. }) => assert!(fields.remove(&last).is_some()),
                (Value::Object(fields), _) => drop(fields.insert(last, value.unwrap().clone())),
                (other, step) => panic!("{step:?} in {other}"),
            }
        }
    }

    #[test]
    fn names_with_slashes_and_tildes_are_pointed_at() {
        let before: Node = serde_json::from_value(json!({"a/b": {"~": 1}})).unwrap();
        let after: Node = serde_json::from_value(json!({"a/b": {"~": 2}})).unwrap();
        let steps = json!([{"op": "replace", "path": "/a~1b/~0", "value": 2}]);
        assert_eq!(serde_json::to_value(between(&before, &after)).unwrap(), steps);
    }

    proptest! {
        #[test]
        fn the_steps_lead_from_one_document_to_the_other((before, after) in (documents(), documents())) {
            let mut document = before.json();
            take(&mut document, &between(&before, &after));
            prop_assert_eq!(document, after.json());
        }
    }
}
