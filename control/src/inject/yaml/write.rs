//! From a value to text that YAML 1.1 and 1.2 read as the same.

use std::fmt::Write;

use super::{Node, Scalar, Style};

/// Writes a document, with a newline at its end.
pub fn write(node: &Node) -> String {
    let mut text = String::new();
    match node {
        Node::List(items) if !items.is_empty() => list(&mut text, items, 0, false),
        Node::Map(map) if !node.is_empty() => fields(&mut text, map.iter(), 0, false),
        _ => {
            inline(&mut text, node, 0);
            text.push('\n');
        }
    }
    text
}

/// The fields of a mapping, a line each or more. `begun`: the first line has its indentation already.
fn fields<'n>(
    text: &mut String,
    fields: impl Iterator<Item = &'n (Scalar, Node)>,
    indent: usize,
    begun: bool,
) {
    for (at, (name, value)) in fields.enumerate() {
        if at > 0 || !begun {
            spaces(text, indent);
        }
        scalar(text, name, None);
        text.push(':');
        match value {
            Node::Map(map) if !value.is_empty() => {
                text.push('\n');
                self::fields(text, map.iter(), indent + STEP, false);
            }
            Node::List(items) if !items.is_empty() => {
                text.push('\n');
                list(text, items, indent, false);
            }
            _ => {
                text.push(' ');
                inline(text, value, indent + STEP);
                text.push('\n');
            }
        }
    }
}

/// The items of a list.
fn list(text: &mut String, items: &[Node], indent: usize, begun: bool) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 || !begun {
            spaces(text, indent);
        }
        text.push_str("- ");
        match item {
            Node::Map(map) if !item.is_empty() => fields(text, map.iter(), indent + STEP, true),
            Node::List(inner) if !inner.is_empty() => list(text, inner, indent + STEP, true),
            _ => {
                inline(text, item, indent + STEP);
                text.push('\n');
            }
        }
    }
}

/// What stands on the line that was begun. A block of text is indented by `indent`.
fn inline(text: &mut String, node: &Node, indent: usize) {
    match node {
        Node::Scalar(value) => scalar(text, value, Some(indent)),
        Node::List(_) => text.push_str("[]"),
        Node::Map(_) => text.push_str("{}"),
    }
}

/// A scalar. `block`: it may take lines of its own, indented by so much.
fn scalar(text: &mut String, scalar: &Scalar, block: Option<usize>) {
    let said = &*scalar.text;
    match (scalar.style, block) {
        (Style::Plain, _) if said.is_empty() => text.push_str("null"),
        (Style::Plain, _) => text.push_str(said),
        (Style::Text | Style::Block, Some(indent)) if is_block(said) => literal(text, said, indent),
        (Style::Text, _) if is_word(said) => text.push_str(said),
        (Style::Single, _) if said.chars().all(is_shown) => {
            text.push('\'');
            text.push_str(&said.replace('\'', "''"));
            text.push('\'');
        }
        _ => quoted(text, said),
    }
}

/// Lines of their own.
fn literal(text: &mut String, said: &str, indent: usize) {
    let body = said.trim_end_matches('\n');
    text.push_str(match said.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    // A block at the margin, which a document that is text only would have, is read by nobody alike.
    for line in body.split('\n') {
        text.push('\n');
        if !line.is_empty() {
            spaces(text, indent.max(STEP));
            text.push_str(line);
        }
    }
    // The last line's end is written by whoever wrote its beginning.
    for _ in 1..said.len() - body.len() {
        text.push('\n');
    }
}

/// In double quotes, which can say everything.
fn quoted(text: &mut String, said: &str) {
    text.push('"');
    for char in said.chars() {
        match char {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            '\r' => text.push_str("\\r"),
            char if is_shown(char) => text.push(char),
            char => {
                // Infallible: a String takes every write.
                let _ = match char as u32 {
                    code @ ..=0xff => write!(text, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(text, "\\u{code:04x}"),
                    code => write!(text, "\\U{code:08x}"),
                };
            }
        }
    }
    text.push('"');
}

fn spaces(text: &mut String, count: usize) {
    text.extend(std::iter::repeat_n(' ', count));
}

/// Whether it is read as just this string without quotes, by every reader.
pub(super) fn is_word(said: &str) -> bool {
    let mut chars = said.chars().peekable();
    let first = chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '/');
    let is_inner = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    while let Some(char) = chars.next() {
        let followed = chars.peek().is_some_and(|next| is_inner(*next));
        // `a: b` would be a field, and `a ` lose its space.
        let is_between = matches!(char, ':' | ' ' | '=' | ',') && followed;
        if !(is_inner(char) || is_between) {
            return false;
        }
    }
    first && !OTHERWISE.iter().any(|word| word.eq_ignore_ascii_case(said))
}

/// Whether it can stand in lines of its own and lose nothing.
fn is_block(said: &str) -> bool {
    let fits = |line: &str| line.chars().all(is_shown) && !line.ends_with(' ');
    // Spaces or empty lines at the beginning would be taken for indentation.
    let first = said.chars().next().is_some_and(|first| first != ' ' && first != '\n');
    first && said.contains('\n') && said.split('\n').all(fits)
}

/// Whether every reader takes it as it is: what is printable, and no line break of YAML 1.1.
fn is_shown(char: char) -> bool {
    match char {
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => false,
        _ => (' '..='~').contains(&char) || char >= '\u{a0}',
    }
}

const STEP: usize = 2;
/// Words that some reader takes for something else than text.
const OTHERWISE: [&str; 11] = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"];
