//! Whole documents: the examples are valid, bad ones say exactly what is wrong, the committed schema
//! is current, and nothing at all makes the parser panic.
//!
//! `TURNSTILE_UPDATE=1 cargo test -p turnstile-policy` rewrites the expected texts; look at the
//! difference before you commit it.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
#[path = "documents/conforms.rs"]
mod conforms;

use conforms::conforms;
use turnstile_policy::{Attach, BackendKind, Guard, Guest, Isolation, Policy};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn documents(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(here(folder))
        .unwrap_or_else(|e| panic!("{folder}: {e}"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} is empty");
    files
}

/// Compares with a committed text, or rewrites it when asked to.
fn check(file: &Path, text: &str) {
    if std::env::var_os("TURNSTILE_UPDATE").is_some() {
        fs::write(file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
    let committed = fs::read_to_string(file).unwrap_or_default();
    assert_eq!(
        text,
        committed,
        "{} is out of date: run the tests with TURNSTILE_UPDATE=1 and look at the difference",
        file.display()
    );
}

fn schema() -> Value {
    serde_json::from_str(&Policy::schema()).unwrap()
}

#[test]
fn the_committed_schema_is_current() {
    check(&here("schema.json"), &Policy::schema());
}

#[test]
fn every_valid_document_parses_and_matches_the_schema() {
    let schema = schema();
    let mut files = documents("examples");
    files.push(here("tests/documents/everything.json"));
    for file in files {
        let text = read(&file);
        let policy = Policy::parse(&text)
            .unwrap_or_else(|e| panic!("{}", e.in_file(&file.display().to_string())));
        let value: Value = serde_json::from_str(&text).unwrap();
        let refusal = conforms(&schema, &schema, &value);
        assert_eq!(refusal, Ok(()), "{}", file.display());
        let named = value["$schema"]
            .as_str()
            .unwrap_or_else(|| panic!("{} names no $schema", file.display()));
        let named = file.parent().unwrap().join(named);
        assert_eq!(
            fs::canonicalize(named).unwrap(),
            fs::canonicalize(here("schema.json")).unwrap()
        );
        assert_eq!(policy.tenants.len(), value["tenants"].as_array().unwrap().len());
    }
}

#[test]
fn the_examples_are_what_the_readme_says() {
    let parse = |name: &str| Policy::parse(&read(&here("examples").join(name))).unwrap();
    let guests = |policy: &Policy| -> Vec<(String, String)> {
        let guest = |attach: &Attach| match attach {
            Attach::MicroVm(vm) => match &vm.guest {
                Guest::Payload(name) => name.to_string(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        policy.tenants.iter().map(|t| (t.name.to_string(), guest(&t.attach))).collect()
    };
    let pair = |name: &str, guest: &str| (name.to_string(), guest.to_string());
    let two = parse("two-tenants.json");
    assert_eq!(guests(&two), [pair("trainer", "vecadd"), pair("copier", "copy")]);
    assert_eq!(two.device.backend.kind(), BackendKind::Emulated);
    let hostile = parse("hostile.json");
    assert_eq!(
        guests(&hostile),
        [pair("trainer", "vecadd"), pair("copier", "copy"), pair("hostile", "hostile")]
    );
    let grants = &hostile.tenant("hostile").unwrap().grants;
    assert_eq!(grants.program.as_ref().unwrap().guard, Guard::Fence);
    assert!(grants.launch.unwrap().timeout_ns <= 100_000_000);
    assert!(guests(&parse("stress.json")).iter().all(|(_, guest)| guest == "stress"));
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let policy = Policy::parse(&read(&here("tests/documents/everything.json"))).unwrap();
    check(&here("tests/documents/everything.txt"), &format!("{policy:#?}\n"));
    assert_eq!(policy.tenant("library").unwrap().isolation, Isolation::Exclusive);
    let explained: Vec<String> = policy
        .tenants
        .iter()
        .map(|t| turnstile_policy::explain(&policy, &t.name).unwrap().to_string())
        .collect();
    check(&here("tests/documents/everything.explained.txt"), &explained.join("\n"));
}

/// The exact text of every message, with line, column and path.
#[test]
fn bad_documents_say_what_is_wrong() {
    let files = documents("tests/documents/bad");
    assert!(files.len() >= 25);
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().to_string();
        let errors = Policy::parse(&read(&file)).expect_err(&name);
        assert!(!errors.errors().is_empty(), "{name}");
        check(&file.with_extension("txt"), &errors.in_file(&name));
    }
}

#[test]
fn at_most_fifty_errors_are_reported() {
    let errors = Policy::parse(&read(&here("tests/documents/bad/many.json"))).unwrap_err();
    assert_eq!(errors.errors().len(), 50);
    assert!(errors.to_string().ends_with("and 10 more"), "{errors}");
}

#[test]
fn the_schema_refuses_what_has_the_wrong_shape() {
    let schema = schema();
    for (name, refused) in [
        ("not-an-object", true),
        ("everything-missing", true),
        ("version", true),
        ("unknown-field", true),
        ("wrong-types", true),
        ("null-grant", true),
        ("sizes", true),
        ("ranges", true),
        ("durations", true),
        ("words", true),
        ("names", true),
        ("empty-list", true),
        ("repeated-item", true),
        ("no-kind", true),
        ("socket", true),
        ("hashes", true),
        ("rates", true),
        // Rules that span several values are the parser's alone.
        ("two-tenants", false),
        ("depth", false),
    ] {
        let text = read(&here("tests/documents/bad").join(name).with_extension("json"));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(conforms(&schema, &schema, &value).is_err(), refused, "{name}");
    }
}

/// The seeds of the random documents.
fn seeds() -> Vec<String> {
    let mut files = documents("examples");
    files.push(here("tests/documents/everything.json"));
    files.extend(documents("tests/documents/bad"));
    files.iter().map(|file| read(file)).collect()
}

/// Every path to a value inside a document.
fn pointers(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                pointers(value, format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), out);
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                pointers(value, format!("{at}/{i}"), out);
            }
        }
        _ => {}
    }
    out.push(at);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Policy::parse(&text);
    }

    #[test]
    fn no_mutated_document_makes_it_panic(
        seed in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(
            (any::<prop::sample::Index>(), 0..12_usize, "[\\[\\]{},:\"0-9a-zA-Zé\\\\.-]{0,4}"),
            1..4,
        ),
    ) {
        let seeds = seeds();
        let mut text: Vec<char> = seed.get(&seeds).chars().collect();
        for (at, remove, insert) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = Policy::parse(&text) {
            for error in errors.errors() {
                let line = text.split('\n').nth(error.line - 1);
                let width = line.map(|line| line.chars().count());
                prop_assert!(width.is_some_and(|w| error.column <= w + 1), "{error}");
            }
        }
    }

    /// What the parser accepts, the schema accepts: editors never complain about a valid policy.
    #[test]
    fn the_schema_accepts_what_the_parser_accepts(
        seed in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        with in prop::sample::select(vec![
            "null", "true", "0", "1", "64", "\"1MiB\"", "\"2s\"", "\"x\"", "[]", "[\"ptx\"]", "{}",
            "\"unlimited\"", "\"never\"", "\"10ms\"", "\"exclusive\"", "\"all\"", "4096", "1048576",
        ]),
        remove in any::<bool>(),
    ) {
        let seeds: Vec<Value> =
            seeds().iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let mut value = seed.get(&seeds).clone();
        let mut all = Vec::new();
        pointers(&value, String::new(), &mut all);
        let pointer = at.get(&all).clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap_or(("", ""));
        match value.pointer_mut(parent) {
            Some(Value::Object(members)) if remove => {
                members.remove(key);
            }
            _ => {
                if let Some(place) = value.pointer_mut(&pointer) {
                    *place = serde_json::from_str(with).unwrap();
                }
            }
        }
        let text = value.to_string();
        let parsed = Policy::parse(&text);
        let schema = schema();
        let valid = conforms(&schema, &schema, &value);
        prop_assert!(parsed.is_err() || valid.is_ok(), "{valid:?} of {text}");
    }
}
