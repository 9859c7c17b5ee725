//! YAML as it was written: the order of fields stays, and so does how each scalar was said.
//!
//! What a plain scalar means depends on who reads it: to kubectl, which follows YAML 1.1, `yes` is true and `0644` is 420.
//! So plain scalars are kept as their text and written as plain as they were. Only comments, anchors and the layout of
//! collections get lost.

use std::slice;

mod json;
mod read;
mod write;

#[cfg(test)]
pub mod tests;

pub use read::{Document, read};
pub use write::write;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Text, or something that a reader takes for a number, a truth value or nothing.
    Scalar(Scalar),
    /// Values in order.
    List(Vec<Node>),
    /// Fields in order.
    Map(Map),
}

/// A scalar.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// What it says.
    pub text: String,
    /// How it says so.
    pub style: Style,
}

/// How a scalar is said. All but `Plain` are strings to every reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Without quotes: a reader decides what it is.
    Plain,
    /// A string, written in the way that suits it best.
    Text,
    /// In single quotes.
    Single,
    /// In double quotes.
    Double,
    /// In lines of its own.
    Block,
}

/// Fields in the order in which they were written. Each is there once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map(Vec<(Scalar, Node)>);

impl PartialEq for Scalar {
    /// Two scalars are the same if every reader takes them for the same: quotes are a matter of taste.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.is_string() == other.is_string()
    }
}

impl Eq for Scalar {}

impl Scalar {
    /// A string.
    pub fn text(text: impl Into<String>) -> Self {
        Scalar { text: text.into(), style: Style::Text }
    }

    /// Whether every reader takes it for a string.
    fn is_string(&self) -> bool {
        self.style != Style::Plain || write::is_word(&self.text)
    }

    /// What a reader is to make something of.
    pub fn plain(text: impl Into<String>) -> Self {
        Scalar { text: text.into(), style: Style::Plain }
    }
}

impl Node {
    /// Fields in this order.
    pub fn map<K: Into<String>>(fields: impl IntoIterator<Item = (K, Node)>) -> Self {
        Node::Map(Map(fields.into_iter().map(|(name, value)| (Scalar::text(name), value)).collect()))
    }

    /// The field of this name, if this has fields, and this is one.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.fields()?.get(name)
    }

    /// The value at the end of these fields.
    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, name| node.get(name))
    }

    /// The field of this name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.fields_mut()?.get_mut(name)
    }

    /// The value at the end of these fields, to be changed.
    pub fn at_mut(&mut self, path: &[&str]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, name| node.get_mut(name))
    }

    /// What a scalar says, whatever it is taken for.
    pub fn text(&self) -> Option<&str> {
        match self {
            Node::Scalar(scalar) => Some(&scalar.text),
            Node::List(_) | Node::Map(_) => None,
        }
    }

    /// The text of the field at the end of `path`.
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path)?.text()
    }

    /// Whether kubectl takes it for true.
    pub fn is_true(&self) -> bool {
        let Node::Scalar(scalar) = self else { return false };
        json::value(scalar) == serde_json::Value::Bool(true)
    }

    /// Whether it says nothing.
    pub fn is_null(&self) -> bool {
        let Node::Scalar(scalar) = self else { return false };
        json::value(scalar).is_null()
    }

    /// The whole number that kubectl takes it for.
    pub fn number(&self) -> Option<i64> {
        let Node::Scalar(scalar) = self else { return None };
        json::value(scalar).as_i64()
    }

    /// The fields of a mapping.
    pub fn fields(&self) -> Option<&Map> {
        match self {
            Node::Map(map) => Some(map),
            Node::Scalar(_) | Node::List(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn fields_mut(&mut self) -> Option<&mut Map> {
        match self {
            Node::Map(map) => Some(map),
            Node::Scalar(_) | Node::List(_) => None,
        }
    }

    /// The items of a list; of anything else, none.
    pub fn items(&self) -> &[Node] {
        match self {
            Node::List(items) => items,
            Node::Scalar(_) | Node::Map(_) => &[],
        }
    }

    /// The items of a list, to be changed.
    pub fn items_mut(&mut self) -> Option<&mut Vec<Node>> {
        match self {
            Node::List(items) => Some(items),
            Node::Scalar(_) | Node::Map(_) => None,
        }
    }

    /// Whether it is a collection with nothing in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Node::Scalar(_) => false,
            Node::List(items) => items.is_empty(),
            Node::Map(map) => map.0.is_empty(),
        }
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Node::Scalar(Scalar::text(text))
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Node::Scalar(Scalar::text(text))
    }
}

impl From<bool> for Node {
    fn from(value: bool) -> Self {
        Node::Scalar(Scalar::plain(value.to_string()))
    }
}

impl From<u64> for Node {
    fn from(value: u64) -> Self {
        Node::Scalar(Scalar::plain(value.to_string()))
    }
}

impl From<u16> for Node {
    fn from(value: u16) -> Self {
        u64::from(value).into()
    }
}

impl Map {
    /// The field of this name.
    pub fn get(&self, name: &str) -> Option<&Node> {
        self.0.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Node> {
        self.0.iter_mut().find(|(key, _)| key.text == name).map(|(_, value)| value)
    }

    /// Every field.
    pub fn iter(&self) -> slice::Iter<'_, (Scalar, Node)> {
        self.0.iter()
    }

    /// Sets a field in its place, or as the last one.
    pub fn set(&mut self, name: &str, value: impl Into<Node>) {
        let value = value.into();
        match self.get_mut(name) {
            Some(place) => *place = value,
            None => self.0.push((Scalar::text(name), value)),
        }
    }

    /// Takes a field out.
    pub fn remove(&mut self, name: &str) -> Option<Node> {
        let at = self.0.iter().position(|(key, _)| key.text == name)?;
        Some(self.0.remove(at).1)
    }

    /// A field that is a collection like `usual`. One that is not there, or says nothing, becomes `usual`; `made` tells.
    pub fn collection(&mut self, name: &str, usual: Node) -> (&mut Node, bool) {
        let made = self.get(name).is_none_or(Node::is_null);
        if made {
            self.set(name, usual);
        }
        // It is there by now.
        let at = self.0.iter().position(|(key, _)| key.text == name).unwrap_or(self.0.len() - 1);
        (&mut self.0[at].1, made)
    }

    /// Takes a field that was read.
    fn take(&mut self, name: Scalar, value: Node) -> Result<(), String> {
        if self.get(&name.text).is_some() {
            return Err(format!("the field `{}` is there twice", name.text.escape_debug()));
        }
        if self.0.len() == MAX_FIELDS {
            return Err(format!("a mapping of more than {MAX_FIELDS} fields"));
        }
        self.0.push((name, value));
        Ok(())
    }
}

/// Most fields of one mapping: each is compared with all the others.
const MAX_FIELDS: usize = 4096;
