//! Lists of keys and values: parameters and annotations.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most keys of one list that a request brings. OpenWhisk bounds their bytes only; looking them up one by one needs this bound too.
const MAX_KEYS: usize = 1024;

/// One key and its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Parameter {
    key: String,
    value: Value,
    /// Given to the function as an environment variable, not as a parameter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    init: bool,
}

/// Keys and values, each key once, in the order in which they were set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parameters(Vec<Parameter>);

impl Parameters {
    /// Reads an array of `{"key": .., "value": ..}`. Of two with one key the later counts.
    ///
    /// # Errors
    /// OpenWhisk's sentence for anything else.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let malformed = || "parameters malformed!".to_owned();
        let mut parameters = Parameters::default();
        let list = value.as_array().ok_or_else(malformed)?;
        if list.len() > MAX_KEYS {
            return Err(format!("{} parameters are more than the {MAX_KEYS} that one list may have", list.len()));
        }
        for each in list {
            let key = each.get("key").and_then(Value::as_str).ok_or_else(malformed)?;
            let value = each.get("value").ok_or_else(malformed)?;
            let init = match each.get("init") {
                None | Some(Value::Null) => false,
                Some(init) => init.as_bool().ok_or_else(malformed)?,
            };
            parameters.place(Parameter { key: key.to_owned(), value: value.clone(), init });
        }
        Ok(parameters)
    }

    // Linear, as lists are short: `MAX_KEYS` sees to it.
    fn place(&mut self, parameter: Parameter) {
        match self.0.iter_mut().find(|it| it.key == parameter.key) {
            Some(it) => *it = parameter,
            None => self.0.push(parameter),
        }
    }

    /// Sets one.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.place(Parameter { key: key.to_owned(), value: value.into(), init: false });
    }

    /// Sets one, and gives the list back.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// Removes one.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|it| it.key != key);
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|it| it.key == key).map(|it| &it.value)
    }

    /// Whether the value of a key is the boolean `true`.
    pub fn is_true(&self, key: &str) -> bool {
        self.get(key) == Some(&Value::Bool(true))
    }

    /// These and those; of one key, those.
    #[must_use]
    pub fn merged(&self, those: &Parameters) -> Parameters {
        let mut all = self.clone();
        for parameter in &those.0 {
            all.place(parameter.clone());
        }
        all
    }

    /// Whether a key has a value other than null.
    pub fn defines(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !value.is_null())
    }

    /// The parameters of a call: these, without those for the environment, and over them what the caller gives.
    pub fn arguments(&self, payload: Map<String, Value>) -> Map<String, Value> {
        let mut all: Map<_, _> = self.0.iter().filter(|it| !it.init).map(|it| (it.key.clone(), it.value.clone())).collect();
        all.extend(payload);
        all
    }

    /// Those for the environment, as text.
    pub fn environment(&self) -> impl Iterator<Item = (String, String)> {
        self.0.iter().filter(|it| it.init).map(|it| {
            let text = match &it.value {
                Value::String(text) => text.clone(),
                Value::Null => String::new(),
                other => other.to_string(),
            };
            (it.key.clone(), text)
        })
    }

    /// Bytes, as OpenWhisk counts them.
    pub fn size(&self) -> usize {
        self.0.iter().map(|it| it.key.len() + json_length(&it.value)).sum()
    }
}

/// Bytes of a value as JSON, without writing it.
pub fn json_length(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    // Writing a value to something that takes everything does not fail.
    let _ = serde_json::to_writer(&mut count, value);
    count.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn later_values_win_and_keep_their_place() {
        let list = json!([{ "key": "a", "value": 1 }, { "key": "b", "value": null }, { "key": "a", "value": 2, "init": true }]);
        let parameters = Parameters::from_json(&list).unwrap();
        assert_eq!(
            serde_json::to_value(&parameters).unwrap(),
            json!([{ "key": "a", "value": 2, "init": true }, { "key": "b", "value": null }])
        );
        assert!(parameters.defines("a") && !parameters.defines("b") && !parameters.defines("c"));
        let merged = parameters.merged(&Parameters::default().with("b", 5));
        assert_eq!(merged.get("b"), Some(&json!(5)));
        // What is for the environment is no argument.
        let arguments = merged.arguments(Map::from_iter([("c".to_owned(), json!("x"))]));
        assert_eq!(Value::Object(arguments), json!({ "b": 5, "c": "x" }));
        assert_eq!(merged.environment().collect::<Vec<_>>(), [("a".to_owned(), "2".to_owned())]);
    }

    #[test]
    fn what_is_no_list_of_parameters_is_refused() {
        for bad in [
            json!({}),
            json!([1]),
            json!([{ "key": "a" }]),
            json!([{ "value": 1 }]),
            json!([{ "key": 1, "value": 1 }]),
            json!([{ "key": "a", "value": 1, "init": 3 }]),
        ] {
            assert_eq!(Parameters::from_json(&bad).unwrap_err(), "parameters malformed!", "{bad}");
        }
        let many = Value::from_iter((0..=MAX_KEYS).map(|n| json!({ "key": n.to_string(), "value": 1 })));
        assert!(Parameters::from_json(&many).is_err());
    }

    #[test]
    fn the_size_is_that_of_keys_and_values() {
        let parameters = Parameters::default().with("key", json!({ "a": [1, "ä"] }));
        assert_eq!(parameters.size(), 3 + r#"{"a":[1,"ä"]}"#.len());
    }
}
