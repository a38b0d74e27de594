//! docs/policy.md: its tables are made from the schema, and this test keeps them current.
//!
//! `TURNSTILE_UPDATE=1 cargo test -p turnstile-policy` rewrites them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use turnstile_policy::Policy;

const MARK: &str = "<!-- fields: made by the tests of turnstile-policy, do not edit below -->\n";

fn record<'a>(schema: &'a Value, reference: &str) -> (&'a str, &'a Value) {
    let name = reference.strip_prefix("#/$defs/").unwrap_or_else(|| panic!("{reference}"));
    let (name, record) = schema["$defs"].as_object().unwrap().get_key_value(name).unwrap();
    (name, record)
}

/// Records that a value of this schema can be, by reference.
fn references(schema: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    if let Some(reference) = schema["$ref"].as_str() {
        found.push(reference);
    }
    for choice in schema["oneOf"].as_array().into_iter().flatten() {
        found.extend(references(choice));
    }
    if schema["items"].is_object() {
        found.extend(references(&schema["items"]));
    }
    found
}

/// What a value of this schema looks like, in words.
fn kind(schema: &Value) -> String {
    if let Some(word) = schema.get("const") {
        return format!("`{word}`");
    }
    if schema["type"] == "array" {
        return format!("list of: {}", kind(&schema["items"]));
    }
    if schema["$ref"].is_string() {
        return "object, below".into();
    }
    let range = schema["x-range"].as_str().map(|range| format!(", {range}")).unwrap_or_default();
    if let Some(choices) = schema["oneOf"].as_array() {
        if choices.iter().any(|choice| choice["type"] == "integer") {
            return format!("size{range}");
        }
        let choices: Vec<String> = choices.iter().map(kind).collect();
        return choices.join(" \\| ");
    }
    match schema["type"].as_str() {
        Some("boolean") => "true or false".into(),
        Some("integer") => format!("{} to {}", schema["minimum"], schema["maximum"]),
        Some("string") if !range.is_empty() => format!("duration{range}"),
        Some("string") => "string".into(),
        other => panic!("{other:?} {schema}"),
    }
}

fn table(out: &mut String, title: &str, record: &Value, schema: &Value) {
    let description = record["description"].as_str().unwrap_or_default();
    writeln!(out, "\n### {title}\n\n{description}\n").unwrap();
    writeln!(out, "| field | value | default | meaning |\n|---|---|---|---|").unwrap();
    let nothing = Map::new();
    let fields = record["properties"].as_object().unwrap_or(&nothing);
    let required: Vec<&str> =
        record["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in fields {
        let default = match field.get("default") {
            Some(default) => format!("`{default}`"),
            None if required.contains(&name.as_str()) => "required".into(),
            None => String::new(),
        };
        let meaning = field["description"].as_str().unwrap_or_default();
        writeln!(out, "| `{name}` | {} | {default} | {meaning} |", kind(field)).unwrap();
    }
    if title == "defaults" {
        return; // Its fields are the tenant's, and described there.
    }
    // The words of a choice, each with its meaning.
    let mut words = String::new();
    for (name, field) in fields.iter().filter(|(name, _)| *name != "kind") {
        let choices = field["oneOf"].as_array().or_else(|| field["items"]["oneOf"].as_array());
        for word in choices.into_iter().flatten().filter(|choice| choice.get("const").is_some()) {
            let meaning = word["description"].as_str().unwrap_or_default();
            writeln!(words, "- `{name}` `{}`: {meaning}", word["const"]).unwrap();
        }
    }
    if !words.is_empty() {
        write!(out, "\n{words}").unwrap();
    }
    let base = match title {
        "The document" => String::new(),
        title => format!("{}.", title.split(',').next().unwrap_or(title)),
    };
    for (name, field) in fields {
        let list = if field["type"] == "array" { "[]" } else { "" };
        for reference in references(field) {
            let (_, inner) = self::record(schema, reference);
            let kinds = match inner.get("properties") {
                Some(_) => vec![inner],
                None => references(inner).iter().map(|r| self::record(schema, r).1).collect(),
            };
            for inner in kinds {
                let kind = inner["properties"]["kind"]["oneOf"][0]["const"].as_str();
                let kind = kind.map(|kind| format!(", kind {kind}")).unwrap_or_default();
                table(out, &format!("{base}{name}{list}{kind}"), inner, schema);
            }
        }
    }
}

/// Every field of every record is in the reference, in backticks, with a description.
fn mentions_every_field(text: &str, schema: &Value) {
    let mut records = vec![("the document", schema)];
    records.extend(schema["$defs"].as_object().unwrap().iter().map(|(k, v)| (k.as_str(), v)));
    let mut seen = 0;
    for (record, schema) in records {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let meaning = field["description"].as_str().unwrap_or_default();
            assert!(!meaning.is_empty(), "{record}.{name} has no description");
            let row = text.lines().any(|line| {
                line.starts_with(&format!("| `{name}` |"))
                    && line.ends_with(&format!("{meaning} |"))
            });
            assert!(row, "{record}.{name} is missing in docs/policy.md");
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen} fields");
}

#[test]
fn the_reference_is_current() {
    let schema: Value = serde_json::from_str(&Policy::schema()).unwrap();
    let mut fields = String::new();
    table(&mut fields, "The document", &schema, &schema);
    mentions_every_field(&fields, &schema);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    let committed = fs::read_to_string(&file).unwrap();
    let (prose, _) = committed.split_once(MARK).expect("docs/policy.md has lost its mark");
    let current = format!("{prose}{MARK}{fields}");
    if std::env::var_os("TURNSTILE_UPDATE").is_some() {
        fs::write(&file, &current).unwrap();
    } else {
        assert_eq!(
            current, committed,
            "docs/policy.md is out of date: run the tests with TURNSTILE_UPDATE=1"
        );
    }
}
