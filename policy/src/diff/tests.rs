use super::*;
use crate::Policy;
use crate::tests::policy;

/// The example with pieces of text replaced.
fn with(pieces: &[(&str, &str)]) -> Policy {
    let mut text = include_str!("../../examples/two-tenants.json").to_string();
    for (from, to) in pieces {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    Policy::parse(&text).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_same_policy_does_not_differ() {
    let same = diff(&policy(), &policy());
    assert!(same.is_empty() && !same.needs_restart());
    assert_eq!(same.to_string(), "nothing changes\n");
}

#[test]
fn changes_say_whether_they_tighten() {
    let after = with(&[
        ("\"max_blocks\": 65535", "\"max_blocks\": 100"),
        ("\"timeout\": \"2s\"", "\"timeout\": \"3s\""),
        ("\"max_bytes\": \"256MiB\"", "\"max_bytes\": \"1MiB\""),
        ("[\"read\", \"write\"]", "[\"read\"]"),
        ("\"guard\": \"fence\"", "\"guard\": \"none\""),
        ("\"fill\": true,", ""),
        ("\"fence\": { \"max_count\": 16, \"max_wait\": \"2s\" },", ""),
        ("\"weight\": 3", "\"weight\": 4"),
        (
            "\"rate\": { \"commands_per_second\": 100000, \"burst\": 1024 }",
            "\"rate\": \"unlimited\"",
        ),
        ("\"vcpus\": 1", "\"vcpus\": 2"),
        ("\"audit\": \"denied\"", "\"audit\": \"all\""),
        ("\"memory\": \"1GiB\"", "\"memory\": \"2GiB\""),
    ]);
    let changed = diff(&policy(), &after);
    assert!(changed.needs_restart());
    assert_eq!(
        changed.to_string(),
        "\
device.memory: 1GiB -> 2GiB (loosens) (after a restart)
tenant trainer:
  attach.vcpus: 1 -> 2 (after a restart)
  grants.buffer.max_bytes: 256MiB -> 1MiB (tightens)
  grants.dma.access: read, write -> read (tightens)
  grants.program.guard: fence -> none (loosens)
  grants.launch.max_blocks: 65535 -> 100 (tightens)
  grants.launch.timeout: 2s -> 3s (loosens)
  grants.fill: true -> false (tightens)
  grants.fence: true -> false (tightens)
  grants.fence.max_count: 16 -> -
  grants.fence.max_wait: 2s -> -
  schedule.weight: 3 -> 4 (loosens)
  audit: denied -> all
tenant copier:
  rate.commands_per_second: 100000 -> unlimited (loosens)
  rate.burst: 1024 -> unlimited (loosens)
  audit: denied -> all
"
    );
    let back = diff(&after, &policy());
    let effects = |diff: &Diff| -> Vec<Effect> {
        diff.tenants.iter().flat_map(|t| &t.changes).map(|c| c.effect).collect()
    };
    assert_eq!(effects(&back).len(), effects(&changed).len());
    let count = |diff: &Diff, effect| effects(diff).iter().filter(|e| **e == effect).count();
    assert_eq!(count(&back, Effect::Loosens), count(&changed, Effect::Tightens));
    assert_eq!(count(&back, Effect::Tightens), count(&changed, Effect::Loosens));
}

#[test]
fn tenants_come_and_go() {
    let renamed = with(&[("\"name\": \"copier\"", "\"name\": \"mover\"")]);
    let changed = diff(&policy(), &renamed);
    assert_eq!(changed.to_string(), "tenant mover: new\ntenant copier: gone, will be revoked\n");
    assert!(!changed.needs_restart() && !changed.is_empty());
}

#[test]
fn a_list_can_change_both_ways() {
    let one = with(&[("[\"read\", \"write\"]", "[\"read\"]")]);
    let other = with(&[("[\"read\", \"write\"]", "[\"write\"]")]);
    assert_eq!(diff(&one, &other).tenants[0].changes[0].effect, Effect::Mixed);
}
