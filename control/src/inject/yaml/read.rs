//! From text to documents.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{Map, Node, Scalar, Style};

/// One document of a text.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it says.
    pub node: Node,
    /// Where it stands in the text, from its `---` (if it has one) to that of the next.
    pub range: Range<usize>,
    /// Its first line, from 1.
    pub line: u32,
}

/// Why a text is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Line, from 1; 0 if none can be told.
    pub line: u32,
    /// Column, from 1; 0 if none can be told.
    pub column: u32,
    /// What is wrong.
    pub message: String,
}

/// Reads every document of `text`, those that say nothing too. Aliases become what they stand for.
pub fn read(text: &str) -> Result<Vec<Document>, Fault> {
    if text.trim_start().starts_with('{')
        && let Ok(node) = serde_json::from_str(text)
    {
        // JSON is YAML, but for how it escapes what is beyond 16 bits.
        return Ok(vec![Document { node, range: 0..text.len(), line: 1 }]);
    }
    let options = granit_parser::options! {
        emit_comments: false,
        block_nesting_limit: MAX_DEPTH,
        flow_nesting_limit: MAX_DEPTH,
    };
    let mut reader = Reader::default();
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| Fault::syntax(&error))?;
        reader.take(event, span).map_err(|message| Fault::at(span, message))?;
    }
    let mut documents = reader.documents;
    let starts: Vec<usize> = documents.iter().skip(1).map(|document| document.range.start).collect();
    for (document, end) in documents.iter_mut().zip(starts.into_iter().chain([text.len()])) {
        document.range.end = end;
    }
    if let Some(first) = documents.first_mut() {
        // With the comments before it.
        first.range.start = 0;
    }
    Ok(documents)
}

impl Fault {
    fn syntax(error: &ScanError) -> Self {
        let marker = error.marker();
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Fault { line: narrow(marker.line()), column: narrow(marker.col() + 1), message: error.info() }
    }

    fn at(span: Span, message: String) -> Self {
        let narrow = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Fault { line: narrow(span.start.line()), column: narrow(span.start.col() + 1), message }
    }
}

/// Puts documents together from events.
#[derive(Default)]
struct Reader {
    documents: Vec<Document>,
    start: (usize, u32),
    root: Option<Node>,
    /// Collections that are not closed yet, from the outermost, with their anchors.
    open: Vec<(Open, usize)>,
    /// What anchors of this document stand for, and how many values are in each.
    anchors: HashMap<usize, (Node, usize)>,
    /// Values that aliases of this document stood for.
    aliased: usize,
}

/// A collection whose end was not met yet.
enum Open {
    List(Vec<Node>),
    /// With the name of the field whose value is next, and what `<<` brings.
    Map(Map, Option<Scalar>, Vec<Node>),
}

impl Reader {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), String> {
        match event {
            Event::DocumentStart(..) => {
                let line = u32::try_from(span.start.line()).unwrap_or(u32::MAX);
                self.start = (span.start.byte_offset().unwrap_or_default(), line);
                self.root = None;
                self.anchors.clear();
                self.aliased = 0;
                Ok(())
            }
            Event::DocumentEnd => {
                let node = self.root.take().unwrap_or_else(|| Node::Scalar(Scalar::plain("")));
                let (start, line) = self.start;
                self.documents.push(Document { node, range: start..start, line });
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = scalar(text.into_owned(), style, tag.as_deref())?;
                self.put(Node::Scalar(scalar), anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "seq")?;
                self.open.push((Open::List(Vec::new()), anchor));
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                collection_tag(tag.as_deref(), "map")?;
                self.open.push((Open::Map(Map::default(), None, Vec::new()), anchor));
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some((open, anchor)) = self.open.pop() else { return Ok(()) };
                let node = match open {
                    Open::List(items) => Node::List(items),
                    Open::Map(map, _, merged) => Node::Map(merge(map, merged)?),
                };
                self.put(node, anchor)
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor) else {
                    return Err("an alias within what it stands for".into());
                };
                self.aliased += size;
                if self.aliased > MAX_ALIASED {
                    return Err(format!("aliases stand for more than {MAX_ALIASED} values"));
                }
                let node = node.clone();
                self.put(node, 0)
            }
            _ => Ok(()),
        }
    }

    /// A whole value, in the collection that is open.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), String> {
        if anchor > 0 {
            let size = size(&node);
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some((Open::List(items), _)) => items.push(node),
            Some((Open::Map(_, name @ None, _), _)) => {
                let Node::Scalar(scalar) = node else { return Err("a field whose name is no text".into()) };
                if scalar.text.len() > MAX_NAME {
                    return Err(format!("a field's name of more than {MAX_NAME} bytes"));
                }
                *name = Some(scalar);
            }
            Some((Open::Map(map, name, merged), _)) => {
                let Some(name) = name.take() else { return Ok(()) };
                if name == Scalar::plain("<<") {
                    merged.push(node);
                } else {
                    map.take(name, node)?;
                }
            }
        }
        Ok(())
    }
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Result<Scalar, String> {
    let style = match style {
        // Several lines are text to everybody.
        ScalarStyle::Plain if text.contains('\n') => Style::Text,
        ScalarStyle::Plain => Style::Plain,
        ScalarStyle::SingleQuoted => Style::Single,
        ScalarStyle::DoubleQuoted => Style::Double,
        ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
    };
    let style = match tag {
        None => style,
        Some(tag) if tag.core_suffix() == Some("str") => match style {
            Style::Plain => Style::Text,
            other => other,
        },
        Some(tag) if matches!(tag.core_suffix(), Some("bool" | "int" | "float" | "null")) => Style::Plain,
        Some(tag) => return Err(unknown_tag(tag)),
    };
    Ok(Scalar { text, style })
}

fn collection_tag(tag: Option<&Tag>, usual: &str) -> Result<(), String> {
    match tag {
        Some(tag) if tag.core_suffix() != Some(usual) => Err(unknown_tag(tag)),
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &Tag) -> String {
    format!("the tag `{}` means nothing here", tag.original())
}

/// `map` with what `<<` brings: what stands in the mapping itself goes first, and what comes earlier before what comes
/// later.
fn merge(mut map: Map, merged: Vec<Node>) -> Result<Map, String> {
    for node in merged {
        let sources = match node {
            Node::List(items) => items,
            one => vec![one],
        };
        for source in sources {
            let Node::Map(fields) = source else { return Err("`<<` takes mappings only".into()) };
            for (name, value) in fields.0 {
                if map.get(&name.text).is_none() {
                    map.take(name, value)?;
                }
            }
        }
    }
    Ok(map)
}

/// How many values there are in it.
fn size(node: &Node) -> usize {
    match node {
        Node::Scalar(_) => 1,
        Node::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Node::Map(map) => 1 + map.iter().map(|(_, value)| size(value)).sum::<usize>(),
    }
}

/// Deepest nesting of lists and mappings; a custom resource's schema may go far.
const MAX_DEPTH: usize = 100;
/// Most values that aliases stand for, in one document.
const MAX_ALIASED: usize = 50_000;
/// A longer name could not stand before its colon (YAML 1.2 §7.4.2).
const MAX_NAME: usize = 1000;
