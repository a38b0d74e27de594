//! Amounts in a document: sizes, durations and counts, with their limits in the type.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use super::decode::{Decode, Reader, quoted};
use super::problem::Problem;
use super::tree::{NodeId, Value};

/// Units of sizes, in bytes.
const SIZES: &[(&str, u64)] =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// Units of durations, in nanoseconds.
const SPANS: &[(&str, u64)] = &[
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// An amount in the largest unit that it is a whole number of.
fn written(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    let fits = |(_, size): &&(&str, u64)| amount.is_multiple_of(*size);
    match units.iter().find(fits) {
        Some((unit, size)) if amount != 0 => format!("{}{unit}", amount / size),
        _ => format!("0{zero}"),
    }
}

/// A size in words: `64MiB`.
pub(crate) fn size(bytes: u64) -> String {
    written(bytes, SIZES, "B")
}

/// A size as it is written in a document: `"64MiB"`.
fn size_json(bytes: u64) -> String {
    format!("\"{}\"", size(bytes))
}

/// A duration as it is written in a document: `"500ms"`.
fn span_json(ns: u64) -> String {
    format!("\"{}\"", span(ns))
}

/// A duration in words: `500ms`.
pub(crate) fn span(ns: u64) -> String {
    written(ns, SPANS, "s")
}

/// `<digits><unit>`, exactly.
fn exact(text: &str, units: &[(&str, u64)]) -> Option<Result<u64, TooBig>> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, size) = units.iter().find(|(u, _)| *u == unit)?;
    if number.is_empty() {
        return None;
    }
    Some(number.parse().ok().and_then(|n: u64| n.checked_mul(*size)).ok_or(TooBig))
}

/// More than 64 bits hold.
struct TooBig;

/// What someone who wrote `text` may have meant, by units that one might write.
fn meant(
    text: &str,
    units: &[(&str, u64)],
    guess: fn(&str) -> Option<&'static str>,
) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_' || c == ','));
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = guess(unit.trim())?;
    let (_, size) = units.iter().find(|(u, _)| *u == unit)?;
    let number: f64 = number.replace(['_', ','], "").parse().ok()?;
    let amount = number * *size as f64;
    // CAST: in range by the check; this is a suggestion in a message, not a value that is used.
    (1.0..1e18).contains(&amount).then(|| amount.round() as u64)
}

fn guess_size(unit: &str) -> Option<&'static str> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => "B",
        "k" | "kb" | "kib" => "KiB",
        "m" | "mb" | "mib" => "MiB",
        "g" | "gb" | "gib" => "GiB",
        "t" | "tb" | "tib" => "TiB",
        _ => return None,
    })
}

fn guess_span(unit: &str) -> Option<&'static str> {
    Some(match unit.to_lowercase().as_str() {
        "ns" | "nsec" | "nanos" => "ns",
        "us" | "µs" | "μs" | "usec" | "micros" => "us",
        "ms" | "msec" | "millis" => "ms",
        "s" | "sec" | "secs" | "second" | "seconds" => "s",
        "m" | "min" | "mins" | "minute" | "minutes" => "min",
        "h" | "hr" | "hour" | "hours" => "h",
        _ => return None,
    })
}

/// Notes it when an amount is outside its limits.
fn within(
    reader: &mut Reader<'_>,
    at: NodeId,
    amount: u64,
    (min, max): (u64, u64),
    words: fn(u64) -> String,
) -> Option<u64> {
    let found = words(amount);
    let (least, most) = (words(min), words(max));
    if amount < min {
        reader.error(at, Problem::TooSmall { found, least, most });
        None
    } else if amount > max {
        reader.error(at, Problem::TooLarge { found, least, most });
        None
    } else {
        Some(amount)
    }
}

/// A number of bytes, `MIN` to `MAX`: a string with a unit, or a plain integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Decode for Size<MIN, MAX> {
    const EXPECTED: &'static str = "a size";
    const EXAMPLE: &'static str = "\"64MiB\"";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let too_big = |reader: &mut Reader<'_>, found: String| {
            reader.error(
                at,
                Problem::TooLarge { found, least: size_json(MIN), most: size_json(MAX) },
            );
            None
        };
        let bytes = match &reader.tree.node(at).value {
            Value::String(text) => match exact(text, SIZES) {
                Some(Ok(bytes)) => bytes,
                Some(Err(TooBig)) => {
                    let found = quoted(text);
                    return too_big(reader, found);
                }
                None => {
                    let write = match meant(text, SIZES, guess_size) {
                        Some(bytes) => size_json(bytes),
                        None if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() => {
                            "it with a unit (B, KiB, MiB, GiB, TiB), or without the quotes".into()
                        }
                        None => "a number and a unit, such as \"64MiB\"".into(),
                    };
                    let decimal = text.trim().to_ascii_lowercase();
                    let decimal = decimal.ends_with("kb")
                        || decimal.ends_with("mb")
                        || decimal.ends_with("gb")
                        || decimal.ends_with("tb");
                    let write = if decimal {
                        format!("{write} (powers of 1024), or the number of bytes")
                    } else {
                        write
                    };
                    let found = quoted(text);
                    reader.error(at, Problem::Unreadable { found, what: "size", write });
                    return None;
                }
            },
            Value::Number(n) if n.bytes().all(|b| b.is_ascii_digit()) => match n.parse() {
                Ok(bytes) => bytes,
                Err(_) => {
                    let found = reader.found(at);
                    return too_big(reader, found);
                }
            },
            _ => {
                reader.wrong_type::<Self>(at);
                return None;
            }
        };
        within(reader, at, bytes, (MIN, MAX), size_json).map(Size)
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Size<MIN, MAX> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Size{MIN}To{MAX}").into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "oneOf": [
                { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)$" },
                { "type": "integer", "minimum": MIN, "maximum": MAX },
            ],
            "x-range": format!("{} to {}", size(MIN), size(MAX)),
        })
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Size<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&size(self.0))
    }
}

/// A duration in nanoseconds, `MIN` to `MAX`: a string with a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Decode for Span<MIN, MAX> {
    const EXPECTED: &'static str = "a duration";
    const EXAMPLE: &'static str = "\"2s\"";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let text = match &reader.tree.node(at).value {
            Value::String(text) => text,
            Value::Number(n) => {
                let write = "it in quotes with a unit (ns, us, ms, s, min, h)".into();
                let found = format!("the number {}", super::decode::shortened(n));
                reader.error(at, Problem::Unreadable { found, what: "duration", write });
                return None;
            }
            _ => {
                reader.wrong_type::<Self>(at);
                return None;
            }
        };
        match exact(text, SPANS) {
            Some(Ok(ns)) => within(reader, at, ns, (MIN, MAX), span_json).map(Span),
            Some(Err(TooBig)) => {
                let found = quoted(text);
                reader.error(
                    at,
                    Problem::TooLarge { found, least: span_json(MIN), most: span_json(MAX) },
                );
                None
            }
            None => {
                let write = match meant(text, SPANS, guess_span) {
                    Some(ns) => span_json(ns),
                    None => "a number and a unit, such as \"2s\" or \"500ms\"".into(),
                };
                let found = quoted(text);
                reader.error(at, Problem::Unreadable { found, what: "duration", write });
                None
            }
        }
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Span<MIN, MAX> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Span{MIN}To{MAX}").into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(ns|us|ms|s|min|h)$",
            "x-range": format!("{} to {}", span(MIN), span(MAX)),
        })
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Span<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&span(self.0))
    }
}

/// A whole number, `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Count<MIN, MAX> {
    /// As 32 bits, for counts whose limit is one.
    pub(crate) const fn get32(self) -> u32 {
        const { assert!(MAX <= u32::MAX as u64, "the count may not fit") };
        self.0 as u32 // CAST: at most MAX.
    }
}

impl<const MIN: u64, const MAX: u64> Decode for Count<MIN, MAX> {
    const EXPECTED: &'static str = "a whole number";
    const EXAMPLE: &'static str = "8";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let Value::Number(n) = &reader.tree.node(at).value else {
            reader.wrong_type::<Self>(at);
            return None;
        };
        let (least, most) = (MIN.to_string(), MAX.to_string());
        if !n.bytes().all(|b| b.is_ascii_digit()) {
            let found = super::decode::shortened(n);
            let write = format!("digits alone, {least} to {most}");
            reader.error(at, Problem::Unreadable { found, what: "whole number", write });
            return None;
        }
        match n.parse() {
            Ok(count) => within(reader, at, count, (MIN, MAX), |n| n.to_string()).map(Count),
            Err(_) => {
                let found = super::decode::shortened(n);
                reader.error(at, Problem::TooLarge { found, least, most });
                None
            }
        }
    }
}

impl<const MIN: u64, const MAX: u64> JsonSchema for Count<MIN, MAX> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Count{MIN}To{MAX}").into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl<const MIN: u64, const MAX: u64> Serialize for Count<MIN, MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

#[cfg(test)]
mod tests;
