//! The policy document: JSON text to typed records with positions, and the schema of both.

pub(crate) mod allow;
pub(crate) mod attach;
pub(crate) mod decode;
pub(crate) mod problem;
pub(crate) mod quantity;
pub(crate) mod records;
pub(crate) mod text;
pub(crate) mod tree;

pub use problem::{PolicyError, PolicyErrors, Problem, Syntax};

/// The JSON Schema (draft 2020-12) of a policy document, as text.
pub(crate) fn schema() -> String {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let mut schema = generator.root_schema_for::<records::Document>();
    schema.insert("title".into(), "Turnstile policy".into());
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
