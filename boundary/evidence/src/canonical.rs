//! One text for one value: JSON with sorted keys and no spaces (RFC 8785, for values without fractions).

use serde::Serialize;
use serde_json::Value;

/// The canonical text. `None` for what has none here: a number that is not an integer, or one beyond 2^53, where readers differ.
pub(crate) fn json(value: &impl Serialize) -> Option<String> {
    let mut text = String::new();
    write(&serde_json::to_value(value).ok()?, &mut text)?;
    Some(text)
}

/// Largest integer that every JSON reader keeps.
const LARGEST: u64 = 1 << 53;

fn write(value: &Value, text: &mut String) -> Option<()> {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => text.push_str(&serde_json::to_string(value).ok()?),
        Value::Number(number) => text.push_str(&number.as_u64().filter(|number| *number <= LARGEST)?.to_string()),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text)?;
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut names: Vec<_> = members.keys().collect();
            names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
            text.push('{');
            for (index, name) in names.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&serde_json::to_string(name).ok()?);
                text.push(':');
                write(&members[name], text)?;
            }
            text.push('}');
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_as_utf_16_and_text_is_escaped_as_rfc_8785_has_it() {
        let value =
            json!({"\u{20ac}": 1, "\r": "\u{8}\u{c}\n\u{1f}\"\\/\u{7f}", "\u{1f600}": [], "a": {"c": null, "b": true}, "\u{fb33}": 2});
        let expected =
            "{\"\\r\":\"\\b\\f\\n\\u001f\\\"\\\\/\u{7f}\",\"a\":{\"b\":true,\"c\":null},\"\u{20ac}\":1,\"\u{1f600}\":[],\"\u{fb33}\":2}";
        assert_eq!(json(&value).unwrap(), expected);
    }

    #[test]
    fn numbers_that_readers_disagree_on_have_no_text() {
        assert_eq!(json(&json!(1.5)), None);
        assert_eq!(json(&json!(-1)), None);
        assert_eq!(json(&json!(LARGEST + 1)), None);
        assert_eq!(json(&json!(LARGEST)).unwrap(), "9007199254740992");
    }
}
