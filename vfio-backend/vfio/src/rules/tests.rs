//! Rule sets against a naive model that looks at every byte.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const BAR: u64 = 4 * PAGE;

fn set(rules: &[Value]) -> Result<Rules, RulesError> {
    let document = json!({ "name": "test", "tested": false, "functions": ["1234:11e8"],
        "bars": [{ "bar": 0, "bytes": BAR }, { "bar": 2, "bytes": "0x1000" }], "rules": rules });
    Rules::parse(&document.to_string())
}

#[test]
fn what_no_rule_speaks_of_is_denied() {
    let rules = set(&[]).unwrap();
    assert_eq!((rules.read(0, 0, 4), rules.write(2, 8, 8)), (DENIED, DENIED));
    assert!(rules.mapped(0).is_empty());
    assert!(rules.is_for(0x1234, 0x11e8) && !rules.is_for(0x1234, 0x11e9));
}

#[test]
fn each_way_of_a_register_is_its_own() {
    let rules = set(&[
        json!({ "bar": 0, "at": 0, "bytes": 4, "width": [4], "read": "constant",
                "value": "0x010000ed", "write": "drop" }),
        json!({ "bar": 0, "at": 4, "bytes": 4, "read": "passthrough", "write": "passthrough",
                "mask": "0x80", "audit": true, "rate": 10 }),
        json!({ "bar": 0, "at": 8, "bytes": 8, "read": "shadow", "write": "shadow" }),
        json!({ "bar": 0, "at": 16, "bytes": 8, "read": "trap", "write": "trap" }),
    ])
    .unwrap();
    assert_eq!(rules.read(0, 0, 4).action, Action::Value(0x0100_00ed));
    assert_eq!(rules.write(0, 0, 4).action, Action::Drop);
    assert_eq!(rules.read(0, 0, 2).action, Action::Deny);
    let masked = rules.write(0, 4, 4);
    assert_eq!((masked.action, masked.audit), (Action::Forward { mask: 0x80 }, true));
    assert_eq!(rules.rate(masked.rule.unwrap()), Some(10));
    assert_eq!(rules.write(0, 5, 1).action, Action::Forward { mask: 0 });
    assert_eq!(rules.write(0, 8, 8).action, Action::Shadow);
    assert_eq!(rules.read(0, 16, 8).action, Action::Trap);
    // Across two rules, misaligned, of no width, beyond the BAR.
    for (at, bytes) in [(4, 8), (6, 4), (4, 3), (4, 0), (BAR - 4, 8), (u64::MAX, 8)] {
        assert_eq!(rules.read(0, at, bytes).action, Action::Deny, "{at} {bytes}");
    }
}

#[test]
fn mistakes_name_the_rule_and_the_way_out() {
    let plain = json!({ "bar": 0, "at": 0, "bytes": 16, "read": "passthrough" });
    let with = |field: &str, value: Value| {
        let mut rule = plain.clone();
        rule[field] = value;
        rule
    };
    let error = |rules: &[Value]| set(rules).unwrap_err();
    assert!(matches!(error(&[with("bar", json!(1))]), RulesError::NoBar { rule: 0, bar: 1 }));
    assert!(matches!(error(&[with("bytes", json!(0))]), RulesError::Range { .. }));
    assert!(matches!(error(&[with("at", json!(BAR - 15))]), RulesError::Range { .. }));
    assert!(matches!(error(&[with("at", json!(u64::MAX))]), RulesError::Range { .. }));
    assert!(matches!(error(&[with("width", json!([]))]), RulesError::Field { .. }));
    assert!(matches!(error(&[with("width", json!([3]))]), RulesError::Field { .. }));
    assert!(matches!(error(&[with("value", json!(1))]), RulesError::Field { .. }));
    assert!(matches!(error(&[with("read", json!("constant"))]), RulesError::Field { .. }));
    assert!(matches!(error(&[with("mask", json!(1))]), RulesError::Field { .. }));
    assert!(matches!(error(&[with("rate", json!(0))]), RulesError::Field { .. }));
    assert!(matches!(error(&[with("raed", json!("deny"))]), RulesError::Json(_)));
    let overlap = error(&[plain.clone(), with("at", json!("0xf"))]);
    assert_eq!(overlap, RulesError::Overlap { rule: 1, other: 0, bar: 0, at: 15 });
    let around = error(&[with("at", json!(4)), with("at", json!(0))]);
    assert_eq!(around, RulesError::Overlap { rule: 1, other: 0, bar: 0, at: 4 });
    assert!(overlap.to_string().contains("rules[1] overlaps rules[0] at 0xf"));
}

#[test]
fn the_shipped_sets_load_and_map_nothing_that_matters() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../policy/devices");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let rules = Rules::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        seen += 1;
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if name.starts_with("nvidia-") {
            assert!(rules.mapped(0).is_empty(), "{name}");
            // The doorbell, the window on memory, the GSP, and the mirror of configuration space.
            for at in [0x81_0090, 0xbb_0090, 0x70_0000, 0x11_0000, 0x1800, 0x8_8000, 0x9_2000] {
                assert_eq!(rules.write(0, at, 4).action, Action::Deny, "{name} {at:#x}");
                assert_eq!(rules.read(0, at, 4).action, Action::Deny, "{name} {at:#x}");
            }
            assert_eq!(rules.read(0, 0, 4).action, Action::Forward { mask: u64::MAX });
            assert_eq!(rules.write(0, 0, 4).action, Action::Deny);
        }
    }
    assert!(seen >= 4);
}

fn rule() -> impl Strategy<Value = Value> {
    let read = prop::sample::select(vec!["passthrough", "deny", "trap"]);
    let write = prop::sample::select(vec!["passthrough", "drop", "deny", "trap"]);
    // Long and page-aligned ones too, or nothing would ever be mapped.
    let place = prop_oneof![
        (0..BAR / 8, 1..64_u64).prop_map(|(at, n)| (at * 8, n * 8)),
        (0..4_u64, 1..4_u64).prop_map(|(at, n)| (at * PAGE, n * PAGE)),
        (0..8_u64).prop_map(|at| (at * PAGE / 2, PAGE / 2)),
    ];
    (place, read, write, any::<bool>(), prop::option::of(Just(json!([4])))).prop_map(
        |((at, bytes), read, write, audit, width)| {
            let mut rule = json!({ "bar": 0, "at": at, "bytes": bytes.min(BAR - at), "read": read,
                                   "write": write, "audit": audit });
            if let Some(width) = width {
                rule["width"] = width;
            }
            rule
        },
    )
}

/// Index of the rule of each byte; `Err`: two rules have one byte.
fn model(rules: &[Value]) -> Result<Vec<Option<usize>>, ()> {
    let mut bytes = vec![None; BAR as usize];
    for (index, rule) in rules.iter().enumerate() {
        let (at, n) = (rule["at"].as_u64().unwrap(), rule["bytes"].as_u64().unwrap());
        for byte in &mut bytes[at as usize..(at + n) as usize] {
            if byte.replace(index).is_some() {
                return Err(());
            }
        }
    }
    Ok(bytes)
}

fn is_plain(rule: &Value) -> bool {
    rule["read"] == "passthrough"
        && rule["write"] == "passthrough"
        && rule["audit"] == false
        && rule.get("width").is_none()
}

proptest! {
    #[test]
    fn a_set_does_to_each_byte_what_its_rule_says(
        rules in prop::collection::vec(rule(), 0..6),
        accesses in prop::collection::vec((0..BAR + 64, 0..10_u8), 64),
    ) {
        let (checked, model) = (set(&rules), model(&rules));
        prop_assert_eq!(checked.is_ok(), model.is_ok(), "overlaps");
        let (Ok(checked), Ok(model)) = (checked, model) else { return Ok(()) };
        let mapped = checked.mapped(0);
        for page in 0..BAR / PAGE {
            let own = &model[(page * PAGE) as usize..((page + 1) * PAGE) as usize];
            let plain = own.iter().all(|rule| rule.is_some_and(|index| is_plain(&rules[index])));
            let start = page * PAGE;
            let is_mapped = mapped.iter().any(|run| run.start <= start && start + PAGE <= run.end);
            prop_assert_eq!(plain, is_mapped, "page {}", page);
        }
        for (at, bytes) in accesses {
            let (read, write) = (checked.read(0, at, bytes), checked.write(0, at, bytes));
            let covered = model.get(at as usize..(at + u64::from(bytes)) as usize);
            let one = covered.filter(|c| !c.is_empty() && c.iter().all(|r| *r == c[0]));
            let rule = one.and_then(|c| c[0]).map(|index| &rules[index]);
            let wide = rule.and_then(|r| r.get("width")).is_none_or(|_| bytes == 4);
            let whole = matches!(bytes, 1 | 2 | 4 | 8) && at % u64::from(bytes.max(1)) == 0;
            let expected = |way: &str| match rule.filter(|_| wide && whole).map(|r| r[way].clone()) {
                None => Action::Deny,
                Some(word) if word == "passthrough" => Action::Forward { mask: u64::MAX },
                Some(word) if word == "trap" => Action::Trap,
                Some(word) if word == "drop" => Action::Drop,
                Some(_) => Action::Deny,
            };
            prop_assert_eq!(read.action, expected("read"), "read {:#x} {}", at, bytes);
            prop_assert_eq!(write.action, expected("write"), "write {:#x} {}", at, bytes);
            prop_assert!(read.action != Action::Deny || read.audit);
        }
    }

    #[test]
    fn any_text_is_a_set_or_an_error(text in ".{0,200}") {
        let _ = Rules::parse(&text);
    }
}
