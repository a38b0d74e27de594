//! Rules for the registers of a function that is given to a guest: what each access becomes.
//!
//! Pure: no device, no guest. A rule set is read from JSON, checked as a whole, and then answers two
//! questions: which pages may be mapped into the guest because nothing in them needs a look, and what an
//! access to any other byte becomes. What no rule speaks of is denied.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;

/// Unit of mapping.
pub const PAGE: u64 = 4096;
/// Rules of one set.
const MOST_RULES: usize = 4096;
/// Bytes that shadow rules may cover together.
const MOST_SHADOW: u64 = 1 << 20;

/// Why a rule set is not accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// It is no JSON of this form.
    #[error("{0}; see policy/devices for examples")]
    Json(String),
    /// A rule speaks of a BAR that the set does not list.
    #[error("rules[{rule}]: there is no BAR {bar} in \"bars\"; add it with its size")]
    NoBar {
        /// The rule.
        rule: usize,
        /// The BAR.
        bar: u8,
    },
    /// A BAR is listed twice, has no size, or there is no BAR of that number.
    #[error(
        "bars: BAR {0} must be 0 to 5, be there once, and have a size that is a power of two from 16"
    )]
    Bar(u8),
    /// A rule is empty or reaches beyond its BAR.
    #[error(
        "rules[{rule}]: {start:#x} to {end:#x} is empty or lies outside BAR {bar} of {bytes:#x} bytes"
    )]
    Range {
        /// The rule.
        rule: usize,
        /// First byte.
        start: u64,
        /// First byte behind it.
        end: u64,
        /// The BAR.
        bar: u8,
        /// Its size.
        bytes: u64,
    },
    /// Two rules speak of the same byte.
    #[error("rules[{rule}] overlaps rules[{other}] at {at:#x} of BAR {bar}; one byte has one rule")]
    Overlap {
        /// The later rule.
        rule: usize,
        /// The earlier one.
        other: usize,
        /// The BAR.
        bar: u8,
        /// The first byte of both.
        at: u64,
    },
    /// A field contradicts another.
    #[error("rules[{rule}]: {what}")]
    Field {
        /// The rule.
        rule: usize,
        /// What is wrong and what to write.
        what: &'static str,
    },
    /// Too much.
    #[error("{what}: at most {most}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The bound.
        most: u64,
    },
}

/// A number, or hexadecimal in a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Plain(u64),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Plain(n) => Ok(Number(n)),
            Either::Text(text) => {
                let digits = text.strip_prefix("0x").map(|d| d.replace('_', ""));
                let number = digits.and_then(|d| u64::from_str_radix(&d, 16).ok());
                let wrong = || {
                    serde::de::Error::custom(format!("{text:?} is no number such as \"0x1000\""))
                };
                number.map(Number).ok_or_else(wrong)
            }
        }
    }
}

/// What a read becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Read {
    /// The device's register.
    Passthrough,
    /// `value`, whatever the device says.
    Constant,
    /// What the guest last wrote.
    Shadow,
    /// All-ones, and it counts as a denial.
    #[default]
    Deny,
    /// A handler of the front end's.
    Trap,
}

/// What a write becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// The device's register; with a mask, these bits of it.
    Passthrough,
    /// Nothing: the register is only for reading, and drivers are known to write it.
    Drop,
    /// Kept for later reads; the device never sees it.
    Shadow,
    /// Nothing, and it counts as a denial.
    #[default]
    Deny,
    /// A handler of the front end's.
    Trap,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// For people.
    #[allow(dead_code)]
    name: String,
    /// Whether anybody ran it on the hardware.
    #[allow(dead_code)]
    tested: bool,
    /// Vendor and device ids it is for, `1234:11e8`; a missing device id means all of the vendor's.
    #[serde(default)]
    functions: Vec<String>,
    bars: Vec<Bar>,
    rules: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bar {
    bar: u8,
    bytes: Number,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    bar: u8,
    /// First byte.
    at: Number,
    bytes: Number,
    /// Widths of access in bytes; all where it is left out.
    width: Option<Vec<u8>>,
    #[serde(default)]
    read: Read,
    #[serde(default)]
    write: Write,
    /// What a constant reads as, repeated.
    value: Option<Number>,
    /// Bits of a word that a write may change.
    mask: Option<Number>,
    #[serde(default)]
    audit: bool,
    /// Accesses a second.
    rate: Option<u32>,
    /// For people.
    #[allow(dead_code)]
    why: Option<String>,
}

/// One rule, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    range: Range<u64>,
    /// Bit n: accesses of 2^n bytes.
    widths: u8,
    read: Read,
    write: Write,
    value: u64,
    mask: Option<u64>,
    audit: bool,
    rate: Option<u32>,
}

impl Rule {
    /// Whether the guest may have the range without anybody looking.
    fn is_plain(&self) -> bool {
        self.widths == 0b1111
            && self.read == Read::Passthrough
            && self.write == Write::Passthrough
            && self.mask.is_none()
            && !self.audit
            && self.rate.is_none()
    }
}

/// What an access becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to the device. For writes: only the bits of the mask, the others keep their value.
    Forward {
        /// Bits that a write changes; all-ones: all.
        mask: u64,
    },
    /// A read answers this.
    Value(u64),
    /// The front end's copy of the register.
    Shadow,
    /// A write is swallowed.
    Drop,
    /// Refused: reads are all-ones, writes swallowed; a denial.
    Deny,
    /// A handler of the front end's.
    Trap,
}

/// An access, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it becomes.
    pub action: Action,
    /// Whether it goes to the audit log; denials do anyway.
    pub audit: bool,
    /// The rule, for its rate; `None`: there is none.
    pub rule: Option<usize>,
}

const DENIED: Decision = Decision { action: Action::Deny, audit: true, rule: None };

/// A rule set, checked.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Size of each BAR.
    bars: BTreeMap<u8, u64>,
    rules: Vec<Rule>,
    /// By BAR and first byte: the rule.
    places: BTreeMap<(u8, u64), usize>,
    functions: Vec<String>,
}

impl Rules {
    /// Reads and checks a rule set.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Rules, RulesError> {
        let document: Document =
            serde_json::from_str(text).map_err(|e| RulesError::Json(e.to_string()))?;
        let mut bars = BTreeMap::new();
        for Bar { bar, bytes } in document.bars {
            let sound = bar < 6 && bytes.0.is_power_of_two() && bytes.0 >= 16;
            if !sound || bars.insert(bar, bytes.0).is_some() {
                return Err(RulesError::Bar(bar));
            }
        }
        if document.rules.len() > MOST_RULES {
            return Err(RulesError::TooMany { what: "rules", most: MOST_RULES as u64 });
        }
        let mut rules: Vec<Rule> = Vec::new();
        let mut places: BTreeMap<(u8, u64), usize> = BTreeMap::new();
        let mut shadow = 0_u64;
        for (index, entry) in document.rules.into_iter().enumerate() {
            let bar = entry.bar;
            let rule = check(index, entry, &bars)?;
            let nearest = |range: Range<u64>| {
                places.range((bar, range.start)..(bar, range.end)).next().map(|(_, &other)| other)
            };
            let before = places.range(..(bar, rule.range.start)).next_back();
            let before = before
                .filter(|((b, _), other)| *b == bar && rules[**other].range.end > rule.range.start);
            let other = before.map(|(_, &other)| other).or_else(|| nearest(rule.range.clone()));
            if let Some(other) = other {
                let at = rules[other].range.start.max(rule.range.start);
                return Err(RulesError::Overlap { rule: index, other, bar, at });
            }
            if rule.read == Read::Shadow || rule.write == Write::Shadow {
                shadow = shadow.saturating_add(rule.range.end - rule.range.start);
            }
            places.insert((bar, rule.range.start), index);
            rules.push(rule);
        }
        if shadow > MOST_SHADOW {
            return Err(RulesError::TooMany {
                what: "bytes under shadow rules",
                most: MOST_SHADOW,
            });
        }
        Ok(Rules { bars, rules, places, functions: document.functions })
    }

    /// Whether it is for a function with these ids.
    #[must_use]
    pub fn is_for(&self, vendor: u16, device: u16) -> bool {
        let full = format!("{vendor:04x}:{device:04x}");
        self.functions.iter().any(|f| *f == full || *f == full[..4])
    }

    /// Size of a BAR in bytes.
    #[must_use]
    pub fn bar_bytes(&self, bar: u8) -> Option<u64> {
        self.bars.get(&bar).copied()
    }

    /// Pages of a BAR that may be mapped: every byte of them lies under plain passthrough.
    #[must_use]
    pub fn mapped(&self, bar: u8) -> Vec<Range<u64>> {
        let mut mapped: Vec<Range<u64>> = Vec::new();
        let mut run: Option<Range<u64>> = None;
        let mut close = |run: Option<Range<u64>>| {
            let Some(run) = run else { return };
            let (start, end) = (run.start.next_multiple_of(PAGE), run.end / PAGE * PAGE);
            if start < end {
                mapped.push(start..end);
            }
        };
        for (_, &index) in self.places.range((bar, 0)..=(bar, u64::MAX)) {
            let rule = &self.rules[index];
            match (&mut run, rule.is_plain()) {
                (Some(run), true) if run.end == rule.range.start => run.end = rule.range.end,
                (_, true) => {
                    close(run.take());
                    run = Some(rule.range.clone());
                }
                (_, false) => close(run.take()),
            }
        }
        close(run);
        mapped
    }

    fn rule(&self, bar: u8, at: u64, bytes: u8) -> Option<(usize, &Rule)> {
        let (&(b, _), &index) = self.places.range(..=(bar, at)).next_back()?;
        let rule = &self.rules[index];
        let whole = b == bar && at.checked_add(bytes.into())? <= rule.range.end;
        let width = bytes.is_power_of_two() && bytes <= 8 && rule.widths & bytes != 0;
        (whole && width && at.is_multiple_of(bytes.into())).then_some((index, rule))
    }

    /// What a read of `bytes` at `at` becomes. An access that is not aligned, not wholly under one rule,
    /// or of a width that the rule does not name, is denied.
    #[must_use]
    pub fn read(&self, bar: u8, at: u64, bytes: u8) -> Decision {
        let Some((index, rule)) = self.rule(bar, at, bytes) else { return DENIED };
        let action = match rule.read {
            Read::Passthrough => Action::Forward { mask: u64::MAX },
            Read::Constant => Action::Value(narrow(rotated(rule, at), bytes)),
            Read::Shadow => Action::Shadow,
            Read::Deny => Action::Deny,
            Read::Trap => Action::Trap,
        };
        decided(rule, index, action)
    }

    /// What a write of `bytes` at `at` becomes.
    #[must_use]
    pub fn write(&self, bar: u8, at: u64, bytes: u8) -> Decision {
        let Some((index, rule)) = self.rule(bar, at, bytes) else { return DENIED };
        let action = match rule.write {
            Write::Passthrough => match rule.mask {
                None => Action::Forward { mask: u64::MAX },
                Some(_) => {
                    let mask = narrow(rule.mask.unwrap_or(0).rotate_right(phase(rule, at)), bytes);
                    Action::Forward { mask }
                }
            },
            Write::Drop => Action::Drop,
            Write::Shadow => Action::Shadow,
            Write::Deny => Action::Deny,
            Write::Trap => Action::Trap,
        };
        decided(rule, index, action)
    }

    /// The rate of a rule, accesses a second.
    #[must_use]
    pub fn rate(&self, rule: usize) -> Option<u32> {
        self.rules.get(rule)?.rate
    }
}

fn decided(rule: &Rule, index: usize, action: Action) -> Decision {
    Decision { action, audit: rule.audit || action == Action::Deny, rule: Some(index) }
}

/// How far into the 64-bit pattern of a rule an access lies, in bits.
fn phase(rule: &Rule, at: u64) -> u32 {
    // CAST: less than 64.
    ((at - rule.range.start) % 8 * 8) as u32
}

fn rotated(rule: &Rule, at: u64) -> u64 {
    rule.value.rotate_right(phase(rule, at))
}

const fn narrow(value: u64, bytes: u8) -> u64 {
    if bytes >= 8 { value } else { value & ((1 << (bytes as u32 * 8)) - 1) }
}

fn check(index: usize, entry: Entry, bars: &BTreeMap<u8, u64>) -> Result<Rule, RulesError> {
    let Entry { bar, at, bytes, width, read, write, value, mask, audit, rate, .. } = entry;
    let field = |what| RulesError::Field { rule: index, what };
    let size = *bars.get(&bar).ok_or(RulesError::NoBar { rule: index, bar })?;
    let end = at.0.saturating_add(bytes.0);
    if bytes.0 == 0 || end > size {
        return Err(RulesError::Range { rule: index, start: at.0, end, bar, bytes: size });
    }
    let mut widths = if width.is_some() { 0 } else { 0b1111 };
    for width in width.iter().flatten() {
        if !matches!(width, 1 | 2 | 4 | 8) {
            return Err(field("width lists 1, 2, 4 and 8"));
        }
        widths |= width;
    }
    if widths == 0 {
        return Err(field("width is empty; leave it out for all widths"));
    }
    if (read == Read::Constant) != value.is_some() {
        return Err(field("\"read\": \"constant\" and \"value\" go together"));
    }
    if mask.is_some() && write != Write::Passthrough {
        return Err(field("mask is for \"write\": \"passthrough\""));
    }
    if mask.is_some() && read != Read::Passthrough {
        return Err(field(
            "a masked write reads the register first; write \"read\": \"passthrough\"",
        ));
    }
    if (read == Read::Shadow) && !matches!(write, Write::Shadow) {
        return Err(field("\"read\": \"shadow\" needs \"write\": \"shadow\""));
    }
    if rate == Some(0) {
        return Err(field("rate 0 allows nothing; write \"deny\""));
    }
    let (value, mask) = (value.map_or(0, |v| v.0), mask.map(|m| m.0));
    Ok(Rule { range: at.0..end, widths, read, write, value, mask, audit, rate })
}

#[cfg(test)]
#[path = "rules/tests.rs"]
mod tests;
