//! Values as people write them on a command line: sizes, times, pairs, parameters.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// `128M`, `64KiB`, `4g`, `65536`: bytes. Units are powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err("a size is a whole number with K, M or G, as in 256M".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a size begins with a whole number, as in 256M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "it is too large".to_owned())
}

/// `500ms`, `10s`, `2m`, `1.5s`, `30` (seconds): milliseconds.
pub fn milliseconds(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor = match unit {
        "ms" => 1.0,
        "" | "s" => 1e3,
        "m" | "min" => 60e3,
        _ => return Err("a time is a number with ms, s or m, as in 1.5s".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "a time begins with a number, as in 1.5s".to_owned())?;
    if !number.is_finite() || !(0.0..=1e9).contains(&number) {
        return Err("it is out of range".to_owned());
    }
    Ok((number * factor).round() as u64)
}

/// `500m`, `0.5`, `2`: thousandths of a core.
pub fn cpu(text: &str) -> Result<u32, String> {
    let wrong = || "cores are a number, as in 0.5, or thousandths, as in 500m".to_owned();
    let milli = match text.strip_suffix('m') {
        Some(milli) => milli.parse::<u32>().map_err(|_| wrong())?,
        None => {
            let cores: f64 = text.parse().map_err(|_| wrong())?;
            if !(0.0..=4096.0).contains(&cores) {
                return Err(wrong());
            }
            (cores * 1000.0).round() as u32
        }
    };
    Ok(milli)
}

/// `NAME=VALUE`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".to_owned()),
    }
}

/// `HERE=THERE`: a file on this machine and where the function sees it.
pub fn file(text: &str) -> Result<(PathBuf, String), String> {
    pair(text).map(|(here, there)| (PathBuf::from(here), there)).map_err(|_| "write it as LOCAL_FILE=/PATH/IN/CONTAINER".to_owned())
}

/// A parameter's value: JSON when it is JSON, else a string.
pub fn parameter(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The parameters of a call: an object, and single ones that go before its own.
pub fn parameters(object: Option<&str>, single: &[(String, String)]) -> Result<Value, String> {
    let mut all = match object.map(serde_json::from_str::<Value>).transpose() {
        Ok(None) => Map::new(),
        Ok(Some(Value::Object(all))) => all,
        Ok(Some(other)) => return Err(format!("parameters are a JSON object, as {{\"name\": 1}}; this is {}", kind(&other))),
        Err(error) => return Err(format!("the parameters are not JSON: {error}")),
    };
    all.extend(single.iter().map(|(name, value)| (name.clone(), parameter(value))));
    Ok(Value::Object(all))
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn sizes() {
        assert_eq!(size("65536"), Ok(65536));
        assert_eq!(size("256M"), Ok(256 << 20));
        assert_eq!(size("4GiB"), Ok(4 << 30));
        for bad in ["", "M", "-1", "1.5M", "1T", "99999999999999999999", "18446744073709551615G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(milliseconds("30"), Ok(30_000));
        assert_eq!(milliseconds("1.5s"), Ok(1_500));
        assert_eq!(milliseconds("250ms"), Ok(250));
        assert_eq!(milliseconds("2m"), Ok(120_000));
        for bad in ["", "s", "1h", "-1s", "nan", "inf"] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cores() {
        assert_eq!(cpu("500m"), Ok(500));
        assert_eq!(cpu("0.25"), Ok(250));
        assert!(cpu("-1").is_err() && cpu("nan").is_err() && cpu("m").is_err());
    }

    #[test]
    fn parameters_are_json_where_they_can_be() {
        let single = [("n".to_owned(), "10".to_owned()), ("who".to_owned(), "Ada".to_owned())];
        assert_eq!(parameters(Some(r#"{"n":1,"x":null}"#), &single), Ok(json!({"n": 10, "who": "Ada", "x": null})));
        assert_eq!(parameters(None, &[]), Ok(json!({})));
        assert!(parameters(Some("[1]"), &[]).unwrap_err().contains("an array"));
        assert!(parameters(Some("{"), &[]).unwrap_err().contains("not JSON"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (size(&text), milliseconds(&text), cpu(&text), pair(&text), parameters(Some(&text), &[]));
        }
    }
}
