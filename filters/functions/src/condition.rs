//! `where`: which rows are asked for.
//!
//! ```text
//! condition  = both { "or" both }
//! both       = one { "and" one }
//! one        = "not" one | "(" condition ")" | column "is" [ "not" ] "null" | column operator literal
//! operator   = "=" | "==" | "!=" | "<>" | "<" | "<=" | ">" | ">="
//! literal    = number | "true" | "false" | 'text' | word
//! column     = word | "`" text "`"
//! ```
//!
//! As in SQL, what is compared with nothing, or with something of another kind, is neither true nor false, and a row
//! is taken only where the whole is true.

use std::cmp::Ordering;

use crate::range::Range;
use crate::status::Fault;
use crate::value::{Number, Value};

/// Longest text, in bytes.
const MOST_BYTES: usize = 4096;
/// Deepest nesting.
const MOST_DEPTH: usize = 32;

/// A condition on the columns `C`: names as it is written, places in a row as it is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Condition<C> {
    /// All of these hold.
    All(Vec<Condition<C>>),
    /// One of these holds.
    Any(Vec<Condition<C>>),
    /// This does not hold.
    Not(Box<Condition<C>>),
    /// The column has no value.
    Null(C),
    /// The column's value stands so to this one.
    Compare(C, Operator, Literal),
}

/// How two values stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
}

/// A value that stands in a condition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    Number(Number),
    Text(String),
    Truth(bool),
}

/// What a condition can be over many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chance {
    holds: bool,
    fails: bool,
}

impl Condition<String> {
    /// Reads a condition.
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > MOST_BYTES {
            return Err(Fault::argument(format!("`where` is longer than {MOST_BYTES} bytes")));
        }
        let mut parser = Parser { tokens: tokens(text)?, at: 0 };
        let condition = parser.any(0)?;
        match parser.next() {
            None => Ok(condition),
            Some(more) => Err(expected("`and`, `or` or the end", Some(&more))),
        }
    }

    /// The names of its columns, each as often as it stands there.
    pub(crate) fn columns(&self) -> Vec<&str> {
        match self {
            Condition::All(parts) | Condition::Any(parts) => parts.iter().flat_map(Self::columns).collect(),
            Condition::Not(part) => part.columns(),
            Condition::Null(column) | Condition::Compare(column, ..) => vec![column],
        }
    }
}

impl<C> Condition<C> {
    /// The same on other columns: those that `of` gives for these.
    pub(crate) fn map<D, E>(&self, of: &mut impl FnMut(&C) -> Result<D, E>) -> Result<Condition<D>, E> {
        Ok(match self {
            Condition::All(parts) => Condition::All(map_all(parts, of)?),
            Condition::Any(parts) => Condition::Any(map_all(parts, of)?),
            Condition::Not(part) => Condition::Not(Box::new(part.map(of)?)),
            Condition::Null(column) => Condition::Null(of(column)?),
            Condition::Compare(column, operator, literal) => {
                Condition::Compare(of(column)?, *operator, literal.clone())
            }
        })
    }
}

fn map_all<C, D, E>(
    parts: &[Condition<C>],
    of: &mut impl FnMut(&C) -> Result<D, E>,
) -> Result<Vec<Condition<D>>, E> {
    parts.iter().map(|part| part.map(of)).collect()
}

impl Condition<usize> {
    /// Whether a row is asked for.
    pub(crate) fn takes(&self, row: &[Value<'_>]) -> bool {
        self.of(row) == Some(true)
    }

    /// What it is of a row. None: neither true nor false.
    fn of(&self, row: &[Value<'_>]) -> Option<bool> {
        let value = |column: &usize| row.get(*column).copied().unwrap_or(Value::Null);
        match self {
            Condition::All(parts) => parts
                .iter()
                .try_fold(true, |so_far, part| match part.of(row) {
                    // False whatever else there is.
                    Some(false) => Err(Some(false)),
                    one => Ok(so_far && one.is_some()),
                })
                .map_or_else(|ended| ended, |known| known.then_some(true)),
            Condition::Any(parts) => parts
                .iter()
                .try_fold(true, |so_far, part| match part.of(row) {
                    Some(true) => Err(Some(true)),
                    one => Ok(so_far && one.is_some()),
                })
                .map_or_else(|ended| ended, |known| known.then_some(false)),
            Condition::Not(part) => part.of(row).map(|holds| !holds),
            Condition::Null(column) => Some(value(column).is_null()),
            Condition::Compare(column, operator, literal) => {
                literal.stands_to(value(column)).map(|order| operator.is(order))
            }
        }
    }

    /// Whether any row can be asked for among those whose columns have these ranges.
    pub(crate) fn may_take(&self, range: &impl Fn(usize) -> Range) -> bool {
        self.chance(range).holds
    }

    fn chance(&self, range: &impl Fn(usize) -> Range) -> Chance {
        match self {
            Condition::All(parts) => {
                let chances = parts.iter().map(|part| part.chance(range));
                chances.fold(Chance { holds: true, fails: false }, |all, one| Chance {
                    holds: all.holds && one.holds,
                    fails: all.fails || one.fails,
                })
            }
            Condition::Any(parts) => {
                let chances = parts.iter().map(|part| part.chance(range));
                chances.fold(Chance { holds: false, fails: true }, |any, one| Chance {
                    holds: any.holds || one.holds,
                    fails: any.fails && one.fails,
                })
            }
            Condition::Not(part) => {
                let Chance { holds, fails } = part.chance(range);
                Chance { holds: fails, fails: holds }
            }
            Condition::Null(column) => {
                let range = range(*column);
                Chance { holds: range.has_null, fails: range.has_value }
            }
            Condition::Compare(column, operator, literal) => operator.chance(&range(*column), literal),
        }
    }
}

impl Operator {
    fn is(self, order: Ordering) -> bool {
        match self {
            Operator::Equal => order.is_eq(),
            Operator::Unequal => order.is_ne(),
            Operator::Less => order.is_lt(),
            Operator::AtMost => order.is_le(),
            Operator::More => order.is_gt(),
            Operator::AtLeast => order.is_ge(),
        }
    }

    /// What a comparison can be within a range. What is not known can be anything.
    fn chance(self, range: &Range, literal: &Literal) -> Chance {
        if !range.has_value {
            return Chance { holds: false, fails: false };
        }
        let least = range.least.as_ref().and_then(|value| literal.stands_to(value.borrow()));
        let most = range.most.as_ref().and_then(|value| literal.stands_to(value.borrow()));
        let may_be_less = least.is_none_or(Ordering::is_lt);
        let may_be_more = most.is_none_or(Ordering::is_gt);
        let may_be_equal = least.is_none_or(Ordering::is_le) && most.is_none_or(Ordering::is_ge);
        let may_be = |order: Ordering| match order {
            Ordering::Less => may_be_less,
            Ordering::Equal => may_be_equal,
            Ordering::Greater => may_be_more,
        };
        let orders = [Ordering::Less, Ordering::Equal, Ordering::Greater];
        Chance {
            holds: orders.into_iter().any(|order| self.is(order) && may_be(order)),
            fails: orders.into_iter().any(|order| !self.is(order) && may_be(order)),
        }
    }
}

impl Literal {
    /// How `value` stands to this. None: they cannot be compared.
    fn stands_to(&self, value: Value<'_>) -> Option<Ordering> {
        match self {
            Literal::Number(number) => value.number()?.compare(*number),
            Literal::Text(text) => Some(value.text()?.cmp(text)),
            Literal::Truth(truth) => Some(value.truth()?.cmp(truth)),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    /// A word that has no quotes: a column, a number, text, or one of the words of a condition.
    Word(String),
    /// A column's name in backquotes.
    Column(String),
    /// A text in quotes.
    Text(String),
    Operator(Operator),
    Open,
    Close,
}

fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '+' | ':' | '/' | '@');
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '\'' | '`' => {
                let (inside, length) = quoted(rest, first)?;
                (if first == '`' { Token::Column(inside) } else { Token::Text(inside) }, length)
            }
            '=' | '!' | '<' | '>' => {
                let known = [
                    ("==", Operator::Equal),
                    ("!=", Operator::Unequal),
                    ("<>", Operator::Unequal),
                    ("<=", Operator::AtMost),
                    (">=", Operator::AtLeast),
                    ("=", Operator::Equal),
                    ("<", Operator::Less),
                    (">", Operator::More),
                ];
                let found = known.into_iter().find(|(sign, _)| rest.starts_with(sign));
                let (sign, operator) =
                    found.ok_or_else(|| Fault::argument("`where`: `!` is not an operator"))?;
                (Token::Operator(operator), sign.len())
            }
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                (Token::Word(rest[..length].to_owned()), length)
            }
            c => return Err(Fault::argument(format!("`where`: {c:?} is not expected; put text in '…'"))),
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

/// What stands in quotes at the start of `text`, and where it ends. A quote inside is written twice.
fn quoted(text: &str, quote: char) -> Result<(String, usize), Fault> {
    let mut inside = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            inside.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inside.push(quote);
        } else {
            return Ok((inside, at + 1));
        }
    }
    Err(Fault::argument(format!("`where`: a {quote} is not closed")))
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    /// Takes the next token if it is this word.
    fn word(&mut self, word: &str) -> bool {
        let is =
            matches!(self.tokens.get(self.at), Some(Token::Word(next)) if next.eq_ignore_ascii_case(word));
        self.at += usize::from(is);
        is
    }

    fn any(&mut self, depth: usize) -> Result<Condition<String>, Fault> {
        let mut parts = vec![self.all(depth)?];
        while self.word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(one_or(parts, Condition::Any))
    }

    fn all(&mut self, depth: usize) -> Result<Condition<String>, Fault> {
        let mut parts = vec![self.one(depth)?];
        while self.word("and") {
            parts.push(self.one(depth)?);
        }
        Ok(one_or(parts, Condition::All))
    }

    fn one(&mut self, depth: usize) -> Result<Condition<String>, Fault> {
        if depth > MOST_DEPTH {
            return Err(Fault::argument(format!("`where` is nested deeper than {MOST_DEPTH}")));
        }
        if self.word("not") {
            return Ok(Condition::Not(Box::new(self.one(depth + 1)?)));
        }
        let column = match self.next() {
            Some(Token::Open) => {
                let inside = self.any(depth + 1)?;
                return match self.next() {
                    Some(Token::Close) => Ok(inside),
                    other => Err(expected("`)`", other.as_ref())),
                };
            }
            Some(Token::Word(name) | Token::Column(name)) => name,
            other => return Err(expected("a column", other.as_ref())),
        };
        if self.word("is") {
            let negated = self.word("not");
            return match (self.word("null"), negated) {
                (true, false) => Ok(Condition::Null(column)),
                (true, true) => Ok(Condition::Not(Box::new(Condition::Null(column)))),
                (false, _) => Err(expected("`null`", self.next().as_ref())),
            };
        }
        let operator = match self.next() {
            Some(Token::Operator(operator)) => operator,
            other => return Err(expected("an operator such as `<`", other.as_ref())),
        };
        let literal = match self.next() {
            Some(Token::Text(text)) => Literal::Text(text),
            Some(Token::Word(word)) => match (Number::parse(&word), &*word) {
                (Some(number), _) => Literal::Number(number),
                (None, "true") => Literal::Truth(true),
                (None, "false") => Literal::Truth(false),
                (None, _) => Literal::Text(word),
            },
            other => return Err(expected("a value", other.as_ref())),
        };
        Ok(Condition::Compare(column, operator, literal))
    }
}

fn one_or(
    mut parts: Vec<Condition<String>>,
    several: fn(Vec<Condition<String>>) -> Condition<String>,
) -> Condition<String> {
    match (parts.pop(), parts.is_empty()) {
        (Some(one), true) => one,
        (last, _) => {
            parts.extend(last);
            several(parts)
        }
    }
}

fn expected(what: &str, found: Option<&Token>) -> Fault {
    let found = match found {
        None => "the end".to_owned(),
        Some(Token::Word(word) | Token::Column(word) | Token::Text(word)) => {
            format!("`{}`", word.escape_debug())
        }
        Some(Token::Operator(_)) => "an operator".to_owned(),
        Some(Token::Open) => "`(`".to_owned(),
        Some(Token::Close) => "`)`".to_owned(),
    };
    Fault::argument(format!("`where`: expected {what}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::Bound;

    fn on(text: &str, row: &[(&str, Value<'_>)]) -> Option<bool> {
        let mut place = |name: &String| row.iter().position(|(column, _)| column == name).ok_or(());
        let condition = Condition::parse(text).unwrap().map(&mut place).unwrap();
        let values: Vec<Value<'_>> = row.iter().map(|(_, value)| *value).collect();
        condition.of(&values)
    }

    #[test]
    fn conditions_are_read_as_in_sql() {
        let row =
            [("a", Value::Int(5)), ("b", Value::Text("x y")), ("c d", Value::Null), ("e", Value::Cell("7"))];
        for (text, is) in [
            ("a<10", Some(true)),
            ("a >= 5 and a <= 5.0", Some(true)),
            ("a=5 or a=6 and a=7", Some(true)),
            ("(a=5 or a=6) and a=7", Some(false)),
            ("not a=5", Some(false)),
            ("b = 'x y'", Some(true)),
            ("b <> x", Some(true)),
            ("b > 3", None),
            ("e > 3", Some(true)),
            ("e = '7'", Some(true)),
            ("`c d` is null", Some(true)),
            ("`c d` is NOT null", Some(false)),
            ("`c d` = 1", None),
            ("not `c d` = 1", None),
            ("`c d` = 1 and a = 6", Some(false)),
            ("`c d` = 1 or a = 5", Some(true)),
            ("`c d` = 1 or a = 6", None),
            ("a = true", None),
        ] {
            assert_eq!(on(text, &row), is, "{text}");
        }
    }

    #[test]
    fn a_faulty_condition_says_what_was_expected() {
        for (text, part) in [
            ("", "expected a column, found the end"),
            ("a", "expected an operator"),
            ("a <", "expected a value, found the end"),
            ("a < 1 b", "expected `and`, `or` or the end, found `b`"),
            ("(a < 1", "expected `)`"),
            ("a = 'x", "is not closed"),
            ("a ! 1", "not an operator"),
            ("a = 1; drop", "is not expected"),
            ("a is 3", "expected `null`"),
        ] {
            let fault = Condition::parse(text).unwrap_err();
            assert!(fault.message.contains(part), "{text}: {fault}");
        }
        let deep = format!("{}a=1{}", "(".repeat(40), ")".repeat(40));
        assert!(Condition::parse(&deep).unwrap_err().message.contains("nested"));
        assert!(Condition::parse(&"not ".repeat(1000)).unwrap_err().message.contains("nested"));
    }

    #[test]
    fn what_a_range_rules_out_is_not_looked_for() {
        let range = |_: usize| Range {
            least: Some(Bound::Int(10)),
            most: Some(Bound::Int(20)),
            has_null: false,
            has_value: true,
        };
        for (text, may) in [
            ("a<10", false),
            ("a<=10", true),
            ("a=21", false),
            ("a>20", false),
            ("not a<=20", false),
            ("not a<20", true),
            ("a=15 and a>30", false),
            ("a>30 or a=15", true),
            ("a is null", false),
            ("a!=15", true),
            // Of another kind: nothing is known, so it is looked for.
            ("a='x'", true),
        ] {
            let condition = Condition::parse(text).unwrap().map(&mut |_| Ok::<_, ()>(0)).unwrap();
            assert_eq!(condition.may_take(&range), may, "{text}");
        }
        let nulls = |_: usize| Range { least: None, most: None, has_null: true, has_value: false };
        let condition = |text| Condition::parse(text).unwrap().map(&mut |_| Ok::<_, ()>(0)).unwrap();
        assert!(!condition("a=1").may_take(&nulls) && condition("a is null").may_take(&nulls));
    }
}
