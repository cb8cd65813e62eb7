//! What annotations say about how an action runs here, beyond OpenWhisk.

use teemate_control::function::Reuse;

use super::parameters::Parameters;

/// Annotation: what of an instance the next call finds.
pub const REUSE: &str = "teemate-reuse";
/// Annotation: `host:port` pairs that the action may connect to.
pub const EGRESS: &str = "teemate-egress";

/// How an action runs here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the next call finds.
    pub reuse: Reuse,
    /// Where it may connect to.
    pub egress: Vec<String>,
}

impl Options {
    /// Reads the annotations of an action.
    ///
    /// # Errors
    /// A sentence about the one that cannot be read.
    pub fn of(annotations: &Parameters) -> Result<Self, String> {
        let reuse = match annotations.get(REUSE).map(|value| value.as_str()) {
            None | Some(Some("fresh")) => Reuse::Fresh,
            Some(Some("rewind")) => Reuse::Rewind,
            Some(Some("keep")) => Reuse::Keep,
            Some(_) => return Err(format!("the annotation '{REUSE}' must be 'fresh', 'rewind' or 'keep'")),
        };
        let egress = match annotations.get(EGRESS) {
            None => Vec::new(),
            Some(value) => {
                let list = value.as_array().filter(|list| list.len() <= 64);
                let list = list.and_then(|list| list.iter().map(|it| it.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
                let list = list.filter(|list| list.iter().all(|it| is_address(it)));
                list.ok_or_else(|| format!("the annotation '{EGRESS}' must be a list of at most 64 'host:port'"))?
            }
        };
        Ok(Options { reuse, egress })
    }

    /// Whether instances of an action stay as calls leave them.
    pub fn keeps_state(annotations: &Parameters) -> bool {
        annotations.get(REUSE).is_some_and(|value| value != "fresh")
    }
}

fn is_address(text: &str) -> bool {
    text.len() <= 260
        && text.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn annotations_are_read() {
        let annotations = Parameters::default().with(REUSE, "rewind").with(EGRESS, json!(["localhost:80", "[::1]:443"]));
        let options = Options::of(&annotations).unwrap();
        assert_eq!(options, Options { reuse: Reuse::Rewind, egress: vec!["localhost:80".into(), "[::1]:443".into()] });
        assert_eq!(Options::of(&Parameters::default()).unwrap(), Options::default());
        for (key, bad) in [
            (REUSE, json!("warm")),
            (REUSE, json!(1)),
            (EGRESS, json!("a:1")),
            (EGRESS, json!([1])),
            (EGRESS, json!(["a"])),
            (EGRESS, json!(["a:0"])),
            (EGRESS, json!(vec!["a:1"; 65])),
        ] {
            assert!(Options::of(&Parameters::default().with(key, bad.clone())).is_err(), "{bad}");
        }
        assert!(Options::keeps_state(&annotations) && !Options::keeps_state(&Parameters::default().with(REUSE, "fresh")));
    }
}
