//! Keeps the generated half of docs/abi.md current: `TURNSTILE_BLESS=1 cargo test -p turnstile-abi`
//! rewrites it.

use std::fmt::Write;

use turnstile_abi::op::{TABLE, Use};
use turnstile_abi::{Kind, Status};

const BEGIN: &str = "<!-- generated from the operation table; do not edit below -->\n";

fn generated() -> String {
    let mut out = String::from(BEGIN);
    out.push_str("\n## Operations\n");
    for op in TABLE {
        let _ = write!(
            out,
            "\n### {} ({:#04x}, {:?} queue, grant: {:?}, cost {})\n\n{}\n\n",
            op.name,
            op.opcode as u16,
            op.class,
            op.grant,
            op.cost,
            op.doc.trim()
        );
        if !op.operands.is_empty() {
            out.push_str("| word | operand | must be | meaning |\n|---|---|---|---|\n");
            let mut word = 0;
            for operand in op.operands {
                let words = match operand.words {
                    1 => word.to_string(),
                    n => format!("{word}–{}", word + n - 1),
                };
                word += operand.words;
                let needs = match operand.usage {
                    Use::Scalar => String::from("a number"),
                    Use::Cap(need) => {
                        let kinds = Kind::ALL.iter().filter(|k| need.kinds.contains(k.set()));
                        let kinds: Vec<_> = kinds.map(|k| k.name()).collect();
                        let rights: Vec<_> =
                            need.rights.iter_names().map(|(name, _)| name).collect();
                        format!("{} with {}", kinds.join(" or "), rights.join(", "))
                    }
                };
                let _ = writeln!(
                    out,
                    "| {words} | `{}` | {needs} | {} |",
                    operand.name,
                    operand.doc.trim()
                );
            }
            out.push('\n');
        }
        let _ = writeln!(out, "Returns {}.", op.returns);
    }
    out.push_str("\n## Status codes\n\n| code | name | blame |\n|---|---|---|\n");
    for status in Status::ALL {
        let _ =
            writeln!(out, "| {} | `{}` | {:?} |", *status as u32, status.name(), status.blame());
    }
    out
}

#[test]
fn the_generated_half_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/abi.md");
    let text = std::fs::read_to_string(path).expect("docs/abi.md");
    let at = text.find(BEGIN).expect("the marker line");
    let wanted = format!("{}{}", &text[..at], generated());
    if std::env::var_os("TURNSTILE_BLESS").is_some() {
        std::fs::write(path, &wanted).expect("writing docs/abi.md");
    } else {
        assert!(text == wanted, "stale: TURNSTILE_BLESS=1 cargo test -p turnstile-abi");
    }
}
