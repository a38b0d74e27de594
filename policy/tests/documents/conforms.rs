//! A validator for exactly the JSON Schema keywords that our schema uses. It panics at any other, so
//! it cannot pass over a constraint that it does not know.

use serde_json::Value;

/// Whether `value` conforms to `schema`, a part of the document `root`.
pub(crate) fn conforms(root: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{why}: {value}"));
    let keywords = schema.as_object().unwrap_or_else(|| panic!("{schema}"));
    for (keyword, rule) in keywords {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "x-range" | "$defs" => {}
            "$ref" => {
                let pointer = rule.as_str().and_then(|r| r.strip_prefix('#')).unwrap();
                conforms(root, root.pointer(pointer).unwrap(), value)?;
            }
            "oneOf" => {
                let choices = rule.as_array().unwrap();
                let fits = choices.iter().filter(|c| conforms(root, c, value).is_ok()).count();
                if fits != 1 {
                    return refuse(&format!("{fits} of {} choices fit", choices.len()));
                }
            }
            "const" if value == rule => {}
            "const" => return refuse(&format!("is not {rule}")),
            "type" => {
                let fits = match rule.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    other => panic!("type {other}"),
                };
                if !fits {
                    return refuse(&format!("is no {rule}"));
                }
            }
            "properties" => {
                for (name, member) in value.as_object().into_iter().flatten() {
                    match rule.get(name) {
                        Some(rule) => conforms(root, rule, member)?,
                        None => assert_eq!(schema["additionalProperties"], Value::Bool(false)),
                    }
                }
            }
            "additionalProperties" => {
                let known = schema.get("properties").and_then(Value::as_object);
                for (name, _) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| !known.contains_key(name)) {
                        return refuse(&format!("has a field {name}"));
                    }
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        return refuse(&format!("has no {name}"));
                    }
                }
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    conforms(root, rule, item)?;
                }
            }
            "minItems" => {
                if value.as_array().is_some_and(|a| (a.len() as u64) < rule.as_u64().unwrap()) {
                    return refuse("has too few items");
                }
            }
            "uniqueItems" => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                if items.iter().enumerate().any(|(i, item)| items[..i].contains(item)) {
                    return refuse("repeats an item");
                }
            }
            "minimum" if value.as_u64().is_some_and(|n| n < rule.as_u64().unwrap()) => {
                return refuse("is too small");
            }
            "maximum" if value.as_u64().is_some_and(|n| n > rule.as_u64().unwrap()) => {
                return refuse("is too large");
            }
            "minimum" | "maximum" => {
                if value.as_i64().is_some_and(|n| n < 0) {
                    return refuse("is negative");
                }
            }
            "minLength" | "maxLength" => {
                let length = value.as_str().map(|text| text.chars().count() as u64);
                let bound = rule.as_u64().unwrap();
                let short = keyword == "minLength" && length.is_some_and(|n| n < bound);
                if short || keyword == "maxLength" && length.is_some_and(|n| n > bound) {
                    return refuse("has the wrong length");
                }
            }
            "pattern" => {
                let pattern = regex_lite::Regex::new(rule.as_str().unwrap()).unwrap();
                if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                    return refuse(&format!("does not match {rule}"));
                }
            }
            other => panic!("the schema uses a keyword this test does not know: {other}"),
        }
    }
    Ok(())
}
