//! What is written is read as the same, and nothing of what kubectl would see is lost.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Node {
    let mut documents = read(text).unwrap_or_else(|fault| panic!("{fault:?} in\n{text}"));
    assert_eq!(documents.len(), 1, "{text}");
    documents.remove(0).node
}

#[test]
fn scalars_stay_what_they_were() {
    for text in [
        "a: yes\nb: 0644\nc: 1e3\nd: 'yes'\ne: \"0123\"\nf: ~\ng:\nh: 1.10\ni: 2026-11-26\nj: '1:30'\n",
        "data:\n  run.sh: |\n    #!/bin/sh\n    exec \"$@\"\n  empty: ''\n  kept: |+\n    a\n\n  cut: |-\n    a\n    b\n",
        "- - a\n  - b: 1\n    c: []\n- {}\n- - 'it''s'\n",
    ] {
        let node = one(text);
        assert_eq!(one(&write(&node)), node, "{}", write(&node));
    }
    assert_eq!(
        write(&one("a: yes\nb: 0644\nc: 'yes'\nd: [x,   y]\n")),
        "a: yes\nb: 0644\nc: 'yes'\nd:\n- x\n- y\n"
    );
}

#[test]
fn strings_of_ours_cannot_be_taken_for_anything_else() {
    for text in [
        "yes",
        "No",
        "on",
        "null",
        "~",
        "1e3",
        "0123",
        "0x1f",
        "1:30",
        "",
        " a",
        "a ",
        "- a",
        "a: b",
        "a #b",
        "#",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "{a",
        "[a",
        "|",
        ">",
        "?",
        "---",
        "...",
        "=",
        "<<",
        "2026-11-26",
        ".inf",
        "y",
        "a:",
        "é",
        "\u{85}",
        "\u{2028}",
        "\u{feff}",
        "\u{1f600}",
        "a\tb",
        "\u{0}\u{7f}\u{9f}",
        "\\\"'",
    ] {
        let node = Node::map([(text, Node::from(text)), ("list", Node::List(vec![text.into()]))]);
        assert_eq!(one(&write(&node)), node, "{}", write(&node));
    }
    for text in ["nginx:1.27", "10Mi", "/ready", "app.kubernetes.io/name", "two words"] {
        let quoted = text.starts_with(char::is_numeric);
        assert_eq!(write(&text.into()).starts_with('"'), quoted, "{text}");
    }
}

#[test]
fn aliases_and_merges_become_what_they_stand_for() {
    let node = one(
        "base: &base {a: 1, b: 2}\nuses: *base\nmerged: {<<: *base, b: 3}\nlist: {<<: [{a: 7}, *base]}\n",
    );
    let expected = json!({
        "base": {"a": 1, "b": 2}, "uses": {"a": 1, "b": 2}, "merged": {"a": 1, "b": 3}, "list": {"a": 7, "b": 2},
    });
    assert_eq!(node.json(), expected);
    assert_eq!(one(&write(&node)).json(), expected);
    let bomb = (0..30).fold("a0: &a0 x\n".to_owned(), |text, at| {
        format!("{text}a{}: &a{} [*a{at}, *a{at}, *a{at}]\n", at + 1, at + 1)
    });
    assert!(read(&bomb).unwrap_err().message.contains("aliases stand for more than"));
}

#[test]
fn what_kubectl_takes_plain_text_for() {
    let read = |text: &str| one(&format!("a: {text}\n")).get("a").unwrap().json();
    for (text, value) in [
        ("yes", json!(true)),
        ("Off", json!(false)),
        ("~", json!(null)),
        ("0644", json!(420)),
        ("0o644", json!(420)),
        ("0x1F", json!(31)),
        ("-12", json!(-12)),
        ("1_000", json!(1000)),
        ("1e3", json!(1000.0)),
        ("1.50", json!(1.5)),
        ("08", json!(8.0)),
        ("10Mi", json!("10Mi")),
        ("!!str 12", json!("12")),
        ("18446744073709551615", json!(u64::MAX)),
    ] {
        assert_eq!(read(text), value, "{text}");
    }
}

#[test]
fn documents_keep_their_place_in_the_text() {
    let text = "# one\na: 1\n--- # two\nb: 2\n# end\n---\n---\nc: 3\n...\n";
    let documents = read(text).unwrap();
    let parts: Vec<&str> = documents.iter().map(|document| &text[document.range.clone()]).collect();
    assert_eq!(parts, ["# one\na: 1\n", "--- # two\nb: 2\n# end\n", "---\n", "---\nc: 3\n...\n"]);
    assert!(documents[2].node.is_null());
    assert_eq!(documents.iter().map(|document| document.line).collect::<Vec<_>>(), [2, 3, 6, 7]);
}

#[test]
fn faults_have_their_place() {
    for (text, line, message) in [
        ("a: 1\na: 2\n", 2, "the field `a` is there twice"),
        ("a: !odd 1\n", 1, "the tag `!odd` means nothing here"),
        ("[a]: 1\n", 1, "a field whose name is no text"),
        ("a: {<<: 1}\n", 1, "`<<` takes mappings only"),
    ] {
        let fault = read(text).unwrap_err();
        assert!(fault.message.contains(message), "{text}: {fault:?}");
        assert_eq!(fault.line, line, "{text}: {fault:?}");
    }
    for text in ["a: 1\nb: [\n", "a: *b\n", "a:\n\t- b\n"] {
        assert!(read(text).is_err_and(|fault| fault.line > 0), "{text}");
    }
    assert!(read(&"[".repeat(5000)).is_err());
}

#[test]
fn json_is_read_in_its_order() {
    let text = r#"{"b": 1, "a": ["😀", 1.5, true, null, "yes"], "c": {}}"#;
    let node = one(text);
    assert_eq!(
        serde_json::to_value(node.json()).unwrap(),
        serde_json::from_str::<serde_json::Value>(text).unwrap()
    );
    assert_eq!(write(&node), "b: 1\na:\n- \"\u{1f600}\"\n- 1.5\n- true\n- null\n- \"yes\"\nc: {}\n");
}

/// Documents of every shape.
pub fn documents() -> impl Strategy<Value = Node> {
    let text = prop_oneof![
        "[ -~]{0,12}",
        "[a-z \n:#'\"-]{0,20}",
        "\\PC{0,6}",
        any::<String>(),
        "(yes|no|null|0123|1e3|~|<<|---|\n)",
    ];
    let string =
        (text, prop_oneof![Just(Style::Text), Just(Style::Single), Just(Style::Double), Just(Style::Block)])
            .prop_map(|(text, style)| Node::Scalar(Scalar { text, style }));
    let plain = "(yes|no|null|true|[0-9]{1,6}|0[0-7]{3}|[a-z][a-z0-9./-]{0,9}|1\\.50)"
        .prop_map(|text| Node::Scalar(Scalar::plain(text)));
    let names = prop_oneof![
        "[a-z]{1,3}",
        "[ -~]{0,6}",
        "(a/b|~|yes|1)",
        any::<String>().prop_map(|text| text.chars().take(8).collect())
    ];
    prop_oneof![3 => string, 1 => plain].prop_recursive(4, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Node::List),
            prop::collection::vec((names.clone(), inner), 0..5).prop_map(|fields| {
                let mut map = Map::default();
                for (name, value) in fields {
                    // The second of a name has no place.
                    let _ = map.take(Scalar::text(name), value);
                }
                Node::Map(map)
            }),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_the_same(node in documents()) {
        let text = write(&node);
        let documents = read(&text);
        prop_assert!(documents.is_ok(), "{:?}\n{}", documents, text);
        let documents = documents.unwrap();
        prop_assert_eq!(documents.len(), 1, "{}", text);
        prop_assert_eq!(&documents[0].node, &node, "{}", text);
        // As a field of something larger, too.
        let larger = Node::map([("a", Node::List(vec![node.clone(), Node::map([("b", node)])]))]);
        prop_assert_eq!(&one(&write(&larger)), &larger);
    }
}
