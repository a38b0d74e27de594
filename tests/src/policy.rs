//! Policies for tests: an example with something changed.

use anyhow::Context;
use serde_json::Value;
use tempfile::NamedTempFile;

use crate::workspace;

/// An example policy, to change and write out.
#[derive(Debug)]
pub struct Document(pub Value);

impl Document {
    /// One of `policy/examples`.
    pub fn example(name: &str) -> anyhow::Result<Document> {
        let path = workspace::root().join("policy/examples").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        let mut value: Value = serde_json::from_str(&text)?;
        // The reference is relative to the example's own place.
        if let Some(fields) = value.as_object_mut() {
            fields.remove("$schema");
        }
        Ok(Document(value))
    }

    /// Keeps only these tenants.
    #[must_use]
    pub fn only(mut self, names: &[&str]) -> Document {
        if let Some(tenants) = self.0["tenants"].as_array_mut() {
            tenants.retain(|t| t["name"].as_str().is_some_and(|n| names.contains(&n)));
        }
        self
    }

    /// Sets a value, by JSON pointer.
    pub fn set(mut self, pointer: &str, value: Value) -> anyhow::Result<Document> {
        let (parent, field) = pointer.rsplit_once('/').context("a JSON pointer")?;
        let parent = self.0.pointer_mut(parent).with_context(|| format!("nothing at {parent}"))?;
        parent[field] = value;
        Ok(self)
    }

    /// Removes a value, by JSON pointer.
    pub fn remove(mut self, pointer: &str) -> anyhow::Result<Document> {
        let (parent, field) = pointer.rsplit_once('/').context("a JSON pointer")?;
        let parent = self.0.pointer_mut(parent).and_then(Value::as_object_mut);
        let parent = parent.with_context(|| format!("no object above {pointer}"))?;
        parent.remove(field).with_context(|| format!("nothing at {pointer}"))?;
        Ok(self)
    }

    /// Writes it to a file that goes away with the value.
    pub fn write(&self) -> anyhow::Result<NamedTempFile> {
        let file = tempfile::Builder::new().suffix(".json").tempfile()?;
        serde_json::to_writer_pretty(&file, &self.0)?;
        Ok(file)
    }
}
