use proptest::prelude::*;

use super::*;

/// The tree as the value it describes; repeated keys as serde_json has them, the last one.
fn value(tree: &Tree<'_>, id: NodeId) -> serde_json::Value {
    match &tree.node(id).value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => serde_json::from_str(n).unwrap_or(serde_json::Value::Null),
        Value::String(s) => s.as_str().into(),
        Value::Array(items) => items.iter().map(|&item| value(tree, item)).collect(),
        Value::Object(members) => {
            members.iter().map(|m| (m.key.clone(), value(tree, m.node))).collect()
        }
    }
}

/// Agrees with serde_json on what is JSON and what it means.
fn agree(text: &str) -> Result<(), TestCaseError> {
    match (Tree::parse(text), serde_json::from_str::<serde_json::Value>(text)) {
        (Ok(tree), Ok(theirs)) => prop_assert_eq!(value(&tree, 0), theirs),
        // serde_json refuses numbers beyond a double; here they are only text until they are read.
        (Ok(_), Err(theirs)) => prop_assert!(theirs.to_string().contains("number out of range")),
        (Err(ours), Ok(_)) => prop_assert!(
            matches!(ours.syntax, Syntax::TooDeep | Syntax::TooLong { .. }),
            "{:?} {:?}",
            text,
            ours
        ),
        (Err(ours), Err(_)) => prop_assert!(text.is_char_boundary(ours.offset)),
    }
    Ok(())
}

#[test]
fn nodes_know_where_they_stand() {
    let tree =
        Tree::parse("{\n  \"a\": [1, {\"b c\": \"x\"}]\n}").unwrap_or_else(|e| panic!("{e:?}"));
    let Value::Object(members) = &tree.node(0).value else { panic!() };
    let list = members[0].node;
    assert_eq!((members[0].key_start, tree.node(list).start), (4, 9));
    let Value::Array(items) = &tree.node(list).value else { panic!() };
    let Value::Object(inner) = &tree.node(items[1]).value else { panic!() };
    assert_eq!(tree.path(inner[0].node), "$.a[1][\"b c\"]");
    assert_eq!(tree.path(items[0]), "$.a[0]");
    assert_eq!(tree.path(0), "$");
}

#[test]
fn corners_of_the_grammar() {
    for text in [
        "0",
        "-0",
        "-0.0e-0",
        "1E+5",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "0x10",
        "1_000",
        "NaN",
        "\"\\u00e9\\ud83d\\ude00\"",
        "\"\\ud83d\"",
        "\"\\ude00\"",
        "\"\\ud83dx\"",
        "\"\\u+123\"",
        "\"\\u12",
        "\"\\",
        "\"\\q\"",
        "\"\u{1}\"",
        "\"\u{7f}\"",
        "\"a\nb\"",
        "\"",
        "",
        " ",
        "\u{a0}1",
        "[]",
        "[,]",
        "[1,]",
        "[1 2]",
        "{}",
        "{,}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{a:1}",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1}}",
        "[1]x",
        "tru",
        "truex",
        "nullé",
        "//",
        "[1/**/]",
        "{1:2}",
        "\u{feff}1",
        "{\"a\":1,\"a\":2}",
        "\u{b}1",
        "[\"\u{2028}\"]",
        "{",
        "[",
        "{\"a",
        "{\"a\":",
    ] {
        agree(text).unwrap_or_else(|e| panic!("{text:?}: {e}"));
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |n| "[".repeat(n) + &"]".repeat(n);
    assert!(Tree::parse(&nested(MAX_DEPTH)).is_ok());
    let broken = Tree::parse(&nested(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!(broken.syntax, Syntax::TooDeep);
    assert_eq!(Tree::parse(&"[".repeat(1 << 20)).unwrap_err().syntax, Syntax::TooDeep);
    let long = " ".repeat(MAX_TEXT + 1);
    assert_eq!(Tree::parse(&long).unwrap_err().syntax, Syntax::TooLong { bytes: MAX_TEXT + 1 });
}

proptest! {
    #[test]
    fn any_text(text in any::<String>()) {
        agree(&text)?;
    }

    #[test]
    fn text_that_looks_like_json(text in "[\\[\\]{},:\"\\\\ 0-9eE+.ubn/tlrfasv\n'-]{0,40}") {
        agree(&text)?;
    }

    #[test]
    fn json_with_a_mistake(
        at in any::<prop::sample::Index>(),
        with in prop::option::of("[\\[\\]{},:\" 0a\\\\]"),
        remove in 0..3_usize,
    ) {
        let text = include_str!("../../../examples/hostile.json");
        let at = at.index(text.len());
        let end = (at + remove).min(text.len());
        agree(&format!("{}{}{}", &text[..at], with.unwrap_or_default(), &text[end..]))?;
    }
}
