//! From the tree to typed records, collecting every mistake on the way.
//!
//! A record is declared once with `record!`: its fields, their types, defaults and documentation.
//! The declaration gives both the decoder and the JSON Schema, so the two cannot disagree.

use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Map;

use super::problem::{PolicyError, Problem};
use super::tree::{NodeId, Tree, Value, step_into};

/// A value and the node it came from. A default came from the object it was left out of.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) at: NodeId,
}

impl<T> Deref for At<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// The tree with the mistakes found in it so far.
pub(crate) struct Reader<'t> {
    text: &'t str,
    pub(crate) tree: Tree<'t>,
    errors: Vec<PolicyError>,
    /// Fields that a misspelt one was taken for: they are not missing on top of that.
    misspelt: Vec<(NodeId, &'static str)>,
    /// Byte offset of each line.
    lines: Vec<usize>,
}

impl<'t> Reader<'t> {
    /// Parses the text. Broken JSON is the one mistake that hides all others.
    pub(crate) fn new(text: &'t str) -> Result<Reader<'t>, PolicyError> {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1));
        let lines: Vec<usize> = lines.collect();
        match Tree::parse(text) {
            Ok(tree) => Ok(Reader { text, tree, errors: Vec::new(), misspelt: Vec::new(), lines }),
            Err(broken) => {
                let (line, column) = position(text, &lines, broken.offset);
                let problem = broken.syntax.into();
                Err(PolicyError { line, column, path: broken.path, problem })
            }
        }
    }

    /// Line of a node, from 1.
    pub(crate) fn line(&self, at: NodeId) -> usize {
        position(self.text, &self.lines, self.tree.node(at).start).0
    }

    /// Notes a mistake at a node.
    pub(crate) fn error(&mut self, at: NodeId, problem: impl Into<Problem>) {
        self.error_at(self.tree.node(at).start, self.tree.path(at), problem);
    }

    fn error_at(&mut self, offset: usize, path: String, problem: impl Into<Problem>) {
        let (line, column) = position(self.text, &self.lines, offset);
        self.errors.push(PolicyError { line, column, path, problem: problem.into() });
    }

    pub(crate) fn into_errors(self) -> Vec<PolicyError> {
        self.errors
    }

    /// What stands at a node, for a message.
    pub(crate) fn found(&self, at: NodeId) -> String {
        match &self.tree.node(at).value {
            Value::Null => "null".into(),
            Value::Bool(b) => b.to_string(),
            Value::Number(n) => format!("the number {}", shortened(n)),
            Value::String(s) => quoted(s),
            Value::Array(_) => "a list".into(),
            Value::Object(_) => "an object".into(),
        }
    }

    pub(crate) fn wrong_type<T: Decode>(&mut self, at: NodeId) {
        let found = self.found(at);
        self.error(at, Problem::WrongType { found, expected: T::EXPECTED, example: T::EXAMPLE });
    }

    /// The member `key` of the object at a node. Of a repeated one, the first.
    pub(crate) fn member(&self, object: NodeId, key: &str) -> Option<NodeId> {
        match &self.tree.node(object).value {
            Value::Object(members) => members.iter().find(|m| m.key == key).map(|m| m.node),
            _ => None,
        }
    }

    /// Notes that a required field is missing.
    pub(crate) fn missing(&mut self, object: NodeId, field: &'static str, example: &'static str) {
        if !self.misspelt.contains(&(object, field)) {
            self.error(object, Problem::MissingField { field, example });
        }
    }

    /// Checks that a node is an object with none but these fields, each once.
    pub(crate) fn fields<T: Decode>(&mut self, at: NodeId, known: &[&'static str]) -> Option<()> {
        let Value::Object(members) = &self.tree.node(at).value else {
            self.wrong_type::<T>(at);
            return None;
        };
        let mut mistakes = Vec::new();
        for (i, member) in members.iter().enumerate() {
            let field = member.key.clone();
            let problem = if !known.contains(&member.key.as_str()) {
                self.misspelt.extend(nearest(&field, known).map(|meant| (at, meant)));
                Problem::UnknownField { write: choice(&field, known), field: shortened(&field) }
            } else if members[..i].iter().any(|m| m.key == member.key) {
                Problem::RepeatedField { field }
            } else {
                continue;
            };
            mistakes.push((member.key_start, step_into(&member.key), problem));
        }
        let clean = mistakes.is_empty();
        for (offset, step, problem) in mistakes {
            let path = self.tree.path(at) + &step;
            self.error_at(offset, path, problem);
        }
        clean.then_some(())
    }
}

/// Line and column of a byte offset, both from 1; the column in characters.
fn position(text: &str, lines: &[usize], offset: usize) -> (usize, usize) {
    let line = lines.partition_point(|&start| start <= offset);
    let start = lines[line - 1];
    (line, 1 + text[start..offset].chars().count())
}

/// Something a document can say.
pub(crate) trait Decode: JsonSchema + Sized {
    /// What belongs here, for messages: `a size`.
    const EXPECTED: &'static str;
    /// How to write it: JSON text.
    const EXAMPLE: &'static str;
    /// Reads it. `None`: a mistake was noted.
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Self>;
}

impl Decode for bool {
    const EXPECTED: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<bool> {
        match reader.tree.node(at).value {
            Value::Bool(b) => Some(b),
            _ => {
                reader.wrong_type::<bool>(at);
                None
            }
        }
    }
}

/// A list of at most `MAX` items. Items that cannot be read are left out; the mistake is noted.
impl<T: Decode> Decode for Vec<At<T>> {
    const EXPECTED: &'static str = "a list";
    const EXAMPLE: &'static str = "[…]";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let items = match &reader.tree.node(at).value {
            Value::Array(items) => items.clone(),
            _ => {
                let found = reader.found(at);
                let problem = Problem::WrongType {
                    found,
                    expected: Self::EXPECTED,
                    example: "the same in square brackets",
                };
                reader.error(at, problem);
                return None;
            }
        };
        let item = |&at| T::decode(reader, at).map(|value| At { value, at });
        Some(items.iter().filter_map(item).collect())
    }
}

/// Choices out of a few: a list that is not empty and repeats nothing.
#[derive(Clone, Debug)]
pub(crate) struct Set<T>(pub(crate) Vec<At<T>>);

impl<T: PartialEq> Set<T> {
    pub(crate) fn find(&self, item: &T) -> Option<&At<T>> {
        self.0.iter().find(|other| other.value == *item)
    }
    pub(crate) fn has(&self, item: &T) -> bool {
        self.find(item).is_some()
    }
}

impl<T: Decode + PartialEq> Decode for Set<T> {
    const EXPECTED: &'static str = "a list";
    const EXAMPLE: &'static str = "a list, one or more of the choices in square brackets";
    fn decode(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let items = Vec::<At<T>>::decode(reader, at)?;
        if matches!(&reader.tree.node(at).value, Value::Array(items) if items.is_empty()) {
            reader.error(at, Problem::EmptyList { example: T::EXAMPLE });
            return None;
        }
        for (i, item) in items.iter().enumerate() {
            if items[..i].iter().any(|other| other.value == item.value) {
                let found = reader.found(item.at);
                reader.error(item.at, Problem::RepeatedItem { item: found });
            }
        }
        Some(Set(items))
    }
}

impl<T: JsonSchema> JsonSchema for Set<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("SetOf{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "array",
            "items": generator.subschema_for::<T>(),
            "minItems": 1,
            "uniqueItems": true,
        })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The known word nearest to a wrong one, or all of them.
pub(crate) fn choice(wrong: &str, known: &[&'static str]) -> String {
    match nearest(wrong, known) {
        Some(near) => format!("\"{near}\""),
        None => match known {
            [one] => format!("\"{one}\""),
            _ => {
                let words: Vec<_> = known.iter().map(|k| format!("\"{k}\"")).collect();
                format!("one of {}", words.join(", "))
            }
        },
    }
}

/// The known word that a wrong one was probably meant to be.
fn nearest(wrong: &str, known: &[&'static str]) -> Option<&'static str> {
    let near = known.iter().map(|word| (distance(wrong, word), *word)).min();
    near.filter(|(d, word)| *d <= 2 && *d < word.len()).map(|(_, word)| word)
}

/// Edit distance with transpositions, cut short for long words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let swap = usize::from(a[i - 1] != b[j - 1]);
            let mut d = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + swap);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                d = d.min(rows[i - 2][j - 2] + 1);
            }
            row.push(d);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

pub(crate) fn shortened(s: &str) -> String {
    match s.char_indices().nth(64) {
        Some((end, _)) => format!("{}…", &s[..end]),
        None => s.to_string(),
    }
}

pub(crate) fn quoted(s: &str) -> String {
    format!("{:?}", shortened(s))
}

/// A JSON Schema object under construction.
pub(crate) struct RecordSchema {
    doc: String,
    properties: Map<String, serde_json::Value>,
    required: Vec<serde_json::Value>,
}

impl RecordSchema {
    pub(crate) fn new(doc: &str) -> RecordSchema {
        RecordSchema { doc: prose(doc), properties: Map::new(), required: Vec::new() }
    }

    pub(crate) fn field(
        &mut self,
        name: &str,
        doc: &str,
        schema: Schema,
        required: bool,
        default: Option<serde_json::Value>,
    ) {
        let mut schema = schema;
        schema.insert("description".into(), prose(doc).into());
        if let Some(default) = default {
            schema.insert("default".into(), default);
        }
        self.properties.insert(name.into(), schema.into());
        if required {
            self.required.push(name.into());
        }
    }

    pub(crate) fn finish(self) -> Schema {
        let mut schema = schemars::json_schema!({
            "type": "object",
            "description": self.doc,
            "properties": self.properties,
            "additionalProperties": false,
        });
        if !self.required.is_empty() {
            schema.insert("required".into(), self.required.into());
        }
        schema
    }
}

/// Doc comments as one line.
pub(crate) fn prose(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Declares a record: each field is `required`, `optional`, has a `default`, or is a `section`: a
/// record whose absence means the same as `{}`. A field whose name in
/// the document is no Rust name gives that in parentheses.
macro_rules! record {
    (
        $(#[doc = $doc:literal])*
        struct $name:ident ($expected:literal, $example:literal) {
            $( $(#[doc = $fdoc:literal])*
               $mode:ident $field:ident $(($wire:literal))? : $ty:ty $(= $default:expr)? ; )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug)]
        #[allow(dead_code)] // Some fields are only checked: versions, tags.
        pub(crate) struct $name {
            $( $(#[doc = $fdoc])* pub(crate) $field: record!(@type $mode $ty), )*
        }

        impl $name {
            const FIELDS: &'static [&'static str] = &[$(record!(@name $field $($wire)?),)*];
        }

        impl $crate::document::decode::Decode for $name {
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = $example;
            fn decode(
                reader: &mut $crate::document::decode::Reader<'_>,
                at: $crate::document::tree::NodeId,
            ) -> Option<$name> {
                let clean = reader.fields::<$name>(at, $name::FIELDS);
                if !matches!(reader.tree.node(at).value, $crate::document::tree::Value::Object(_)) {
                    return None;
                }
                // Every field is read before any failure returns, so that all mistakes are found.
                $( let $field = record!(@read $mode reader, at,
                    record!(@name $field $($wire)?), $ty $(, $default)?); )*
                clean?;
                Some($name { $($field: $field?,)* })
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut record =
                    $crate::document::decode::RecordSchema::new(concat!($($doc, "\n"),*));
                $( record.field(
                    record!(@name $field $($wire)?),
                    concat!($($fdoc, "\n"),*),
                    generator.subschema_for::<$ty>(),
                    record!(@required $mode),
                    record!(@default $mode $ty $(, $default)?),
                ); )*
                record.finish()
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident $wire:literal) => { $wire };
    (@type required $ty:ty) => { $crate::document::decode::At<$ty> };
    (@type default $ty:ty) => { $crate::document::decode::At<$ty> };
    (@type section $ty:ty) => { $crate::document::decode::At<$ty> };
    (@type optional $ty:ty) => { Option<$crate::document::decode::At<$ty>> };
    (@required required) => { true };
    (@required default) => { false };
    (@required section) => { false };
    (@required optional) => { false };
    (@default required $ty:ty) => { None };
    (@default optional $ty:ty) => { None };
    (@default section $ty:ty) => { None };
    (@default default $ty:ty, $default:expr) => {
        Some({
            let default: $ty = $default;
            serde_json::to_value(default).unwrap_or_default()
        })
    };
    (@read required $reader:ident, $at:ident, $name:expr, $ty:ty) => {
        match $reader.member($at, $name) {
            Some(at) => <$ty as $crate::document::decode::Decode>::decode($reader, at)
                .map(|value| $crate::document::decode::At { value, at }),
            None => {
                let example = <$ty as $crate::document::decode::Decode>::EXAMPLE;
                $reader.missing($at, $name, example);
                None
            }
        }
    };
    (@read optional $reader:ident, $at:ident, $name:expr, $ty:ty) => {
        match $reader.member($at, $name) {
            Some(at) => <$ty as $crate::document::decode::Decode>::decode($reader, at)
                .map(|value| Some($crate::document::decode::At { value, at })),
            None => Some(None),
        }
    };
    (@read section $reader:ident, $at:ident, $name:expr, $ty:ty) => {{
        let at = $reader.member($at, $name).unwrap_or_else(|| $reader.tree.empty());
        <$ty as $crate::document::decode::Decode>::decode($reader, at)
            .map(|value| $crate::document::decode::At { value, at })
    }};
    (@read default $reader:ident, $at:ident, $name:expr, $ty:ty, $default:expr) => {
        match $reader.member($at, $name) {
            Some(at) => <$ty as $crate::document::decode::Decode>::decode($reader, at)
                .map(|value| $crate::document::decode::At { value, at }),
            None => Some($crate::document::decode::At { value: $default, at: $at }),
        }
    };
}

/// Declares a choice of words.
macro_rules! words {
    (
        $(#[doc = $doc:literal])*
        enum $name:ident ($expected:literal, $example:literal) {
            $( $(#[doc = $vdoc:literal])* $variant:ident = $word:literal, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $( $(#[doc = $vdoc])* $variant, )* }

        impl $name {
            const WORDS: &'static [&'static str] = &[$($word,)*];
            /// The word in the document.
            pub(crate) const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }

        impl $crate::document::decode::Decode for $name {
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = $example;
            fn decode(
                reader: &mut $crate::document::decode::Reader<'_>,
                at: $crate::document::tree::NodeId,
            ) -> Option<$name> {
                let $crate::document::tree::Value::String(word) = &reader.tree.node(at).value else {
                    reader.wrong_type::<$name>(at);
                    return None;
                };
                match word.as_str() {
                    $($word => Some($name::$variant),)*
                    wrong => {
                        let problem = $crate::document::problem::Problem::Unreadable {
                            found: $crate::document::decode::quoted(wrong),
                            what: $expected.trim_start_matches("a ").trim_start_matches("an "),
                            write: $crate::document::decode::choice(wrong, $name::WORDS),
                        };
                        reader.error(at, problem);
                        None
                    }
                }
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "oneOf": [$({
                        "const": $word,
                        "description": $crate::document::decode::prose(concat!($($vdoc, "\n"),*)),
                    },)*]
                })
            }
        }
    };
}

pub(crate) use {record, words};
