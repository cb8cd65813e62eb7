//! What annotations say about how an action runs here, beyond OpenWhisk.

use serde_json::Value;
use teemate_control::function::Reuse;

use super::parameters::Parameters;

/// Annotation: what of an instance the next call finds.
pub const REUSE: &str = "teemate-reuse";
/// Annotation: `host:port` pairs that the action may connect to.
pub const EGRESS: &str = "teemate-egress";
/// Annotation: for how many milliseconds a container waits for the next call, where containers are used again.
pub const IDLE: &str = "teemate-idle";
/// Annotation: wasmtime's fuel for a call.
pub const FUEL: &str = "teemate-fuel";
/// Annotation: thousandths of a core.
pub const CPU: &str = "teemate-cpu";
/// Annotation: bytes of result, where that shall be fewer than the owner's limit.
pub const RESULT: &str = "teemate-result";
/// Annotation: environment variables, an object of strings.
pub const ENV: &str = "teemate-env";

/// Longest that a container waits for a further call.
const IDLE_MOST: u64 = 3_600_000;
/// Most environment variables, and bytes of all together.
const ENV_MOST: (usize, usize) = (256, 64 << 10);

/// How an action runs here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the next call finds.
    pub reuse: Reuse,
    /// Where it may connect to.
    pub egress: Vec<String>,
    /// Milliseconds for which a container waits.
    pub idle_ms: Option<u64>,
    /// Fuel of a call.
    pub fuel: Option<u64>,
    /// Thousandths of a core.
    pub cpu_milli: Option<u32>,
    /// Bytes of result.
    pub result: Option<u64>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
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
        Ok(Options {
            reuse,
            egress,
            idle_ms: number(annotations, IDLE, IDLE_MOST)?,
            fuel: number(annotations, FUEL, u64::MAX)?,
            cpu_milli: number(annotations, CPU, 1_000_000)?.and_then(|milli| u32::try_from(milli).ok()),
            result: number(annotations, RESULT, u64::MAX)?,
            env: environment(annotations)?,
        })
    }

    /// Whether instances of an action stay as calls leave them.
    pub fn keeps_state(annotations: &Parameters) -> bool {
        annotations.get(REUSE).is_some_and(|value| value != "fresh")
    }
}

/// A whole number from 1 to `most`.
fn number(annotations: &Parameters, name: &str, most: u64) -> Result<Option<u64>, String> {
    let Some(value) = annotations.get(name) else { return Ok(None) };
    let fits = value.as_u64().filter(|number| (1..=most).contains(number));
    fits.map(Some).ok_or_else(|| format!("the annotation '{name}' must be a whole number from 1 to {most}"))
}

fn environment(annotations: &Parameters) -> Result<Vec<(String, String)>, String> {
    let Some(value) = annotations.get(ENV) else { return Ok(Vec::new()) };
    let (most, bytes) = ENV_MOST;
    let pair = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let list: Option<Vec<_>> = value.as_object().and_then(|map| map.iter().map(pair).collect());
    let list = list.filter(|list| {
        let size: usize = list.iter().map(|(name, value)| name.len() + value.len()).sum();
        list.len() <= most && size <= bytes && list.iter().all(|(name, value)| is_variable(name) && !value.contains('\0'))
    });
    list.ok_or_else(|| format!("the annotation '{ENV}' must be an object of at most {most} strings and {bytes} bytes"))
}

/// Whether an owner may name a variable of the environment so. Those of OpenWhisk tell of the call.
pub fn is_variable(name: &str) -> bool {
    (1..=256).contains(&name.len()) && !name.contains(['=', '\0']) && !name.starts_with("__OW_")
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
        assert_eq!(
            options,
            Options { reuse: Reuse::Rewind, egress: vec!["localhost:80".into(), "[::1]:443".into()], ..Options::default() }
        );
        let limits = Parameters::default().with(IDLE, 5000).with(FUEL, 9).with(CPU, 500).with(RESULT, 70).with(ENV, json!({ "A": "B" }));
        let read = Options::of(&limits).unwrap();
        assert_eq!((read.idle_ms, read.fuel, read.cpu_milli, read.result), (Some(5000), Some(9), Some(500), Some(70)));
        assert_eq!(read.env, [("A".to_owned(), "B".to_owned())]);
        assert_eq!(Options::of(&Parameters::default()).unwrap(), Options::default());
        for (key, bad) in [
            (REUSE, json!("warm")),
            (REUSE, json!(1)),
            (EGRESS, json!("a:1")),
            (EGRESS, json!([1])),
            (EGRESS, json!(["a"])),
            (EGRESS, json!(["a:0"])),
            (EGRESS, json!(vec!["a:1"; 65])),
            (IDLE, json!(0)),
            (IDLE, json!(3_600_001)),
            (FUEL, json!("much")),
            (CPU, json!(-1)),
            (ENV, json!(["A=B"])),
            (ENV, json!({ "A": 1 })),
            (ENV, json!({ "A=B": "" })),
            (ENV, json!({ "__OW_NAMESPACE": "bob" })),
        ] {
            assert!(Options::of(&Parameters::default().with(key, bad.clone())).is_err(), "{bad}");
        }
        assert!(Options::keeps_state(&annotations) && !Options::keeps_state(&Parameters::default().with(REUSE, "fresh")));
    }
}
