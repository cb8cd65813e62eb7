//! What a specification may say. Checked before anything else is done with it.

use teemate_control::function::{Failure, FailureKind, FunctionSpec, Kind, Limits};

/// Largest code: OpenWhisk's 48 MB.
pub const MAX_CODE: usize = 48 << 20;
/// Largest parameters: some room over OpenWhisk's 1 MB.
pub const MAX_PARAMS: usize = 8 << 20;
/// Largest log and result that one may ask for.
const MAX_OUTPUT: u64 = 64 << 20;

/// Checks every bound of a specification.
///
/// # Errors
/// The first that is passed, by name and value.
pub fn check(spec: &FunctionSpec) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(FailureKind::Invalid, message));
    let name_fits = spec.name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.@-".contains(&b));
    if spec.name.is_empty() || spec.name.len() > 256 || !name_fits {
        return refuse(format!("the name {:?} does not do: it takes 1 to 256 characters of A-Z a-z 0-9 _ . @ -", shorten(&spec.name)));
    }
    let Limits { timeout_ms, memory, fuel, log, result, cpu_milli, idle_ms } = spec.limits;
    let bounds = [
        ("timeout_ms", timeout_ms, 1, 600_000),
        ("memory", memory, 65_536, 4 << 30),
        ("fuel", fuel.unwrap_or(1), 1, u64::MAX),
        ("log", log, 0, MAX_OUTPUT),
        ("result", result, 2, MAX_OUTPUT),
        ("cpu_milli", cpu_milli.into(), 0, 1_024_000),
        ("idle_ms", idle_ms, 1, 3_600_000),
    ];
    for (limit, value, least, most) in bounds {
        if value < least || value > most {
            return refuse(format!("limits.{limit} of '{}' is {value}; it may be {least} to {most}", spec.name));
        }
    }
    if spec.kind == Kind::JavaScript {
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_$".contains(&b));
        if spec.main.len() > 256 || !(spec.main.is_empty() || spec.main.split('.').all(plain)) {
            return refuse(format!("the entry point {:?} is no name of a JavaScript function", shorten(&spec.main)));
        }
    }
    if spec.egress.len() > 64 || spec.files.len() > 256 {
        return refuse(format!("'{}' lists more than 64 addresses or 256 files", spec.name));
    }
    for address in &spec.egress {
        let fits = address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0) && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
        });
        if address.len() > 260 || !fits {
            return refuse(format!("egress {:?} is not host:port", shorten(address)));
        }
    }
    for file in &spec.files {
        let dots = file.path.split('/').any(|part| part == "." || part == "..");
        if !file.path.starts_with('/') || file.path.ends_with('/') || file.path.len() > 4096 || file.path.contains('\0') || dots {
            return refuse(format!("the file {:?} must be an absolute path without . and ..", shorten(&file.path)));
        }
        if file.length > 1 << 30 {
            return refuse(format!("the file {} is longer than 1 GiB", file.path));
        }
    }
    check_env(&spec.env, &spec.name)
}

/// Checks environment variables. `whose` is for the message.
///
/// # Errors
/// The bound that they pass.
pub fn check_env(env: &[(String, String)], whose: &str) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(FailureKind::Invalid, message));
    if env.len() > 256 {
        return refuse(format!("'{}' lists more than 256 environment variables", shorten(whose)));
    }
    for (name, value) in env {
        let fits = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        if !fits || name.len() + value.len() > 65_536 {
            return refuse(format!("the environment variable {:?} must have a name without '=', and at most 64 KiB", shorten(name)));
        }
    }
    Ok(())
}

/// The environment of a call: its own variables before those of its function.
pub fn environment<'a>(function: &'a [(String, String)], call: &'a [(String, String)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let own = move |name: &str| call.iter().any(|(own, _)| own == name);
    function.iter().filter(move |(name, _)| !own(name)).chain(call).map(|(name, value)| (name.as_str(), value.as_str()))
}

/// The parameters of a call: a JSON object, within bounds.
///
/// # Errors
/// What is wrong with them.
pub fn check_params(params: &[u8]) -> Result<(), Failure> {
    if params.len() > MAX_PARAMS {
        return Err(Failure::new(
            FailureKind::Invalid,
            format!("parameters of {} bytes are more than the limit of {MAX_PARAMS}", params.len()),
        ));
    }
    object(params).map_err(|why| Failure::new(FailureKind::Invalid, format!("the parameters are no JSON object: {why}")))
}

/// Whether these bytes are one JSON object.
pub fn object(bytes: &[u8]) -> Result<(), String> {
    #[derive(serde::Deserialize)]
    #[serde(transparent)]
    struct Object(#[allow(dead_code)] std::collections::HashMap<String, serde::de::IgnoredAny>);
    serde_json::from_slice::<Object>(bytes).map(drop).map_err(|e| e.to_string())
}

/// The beginning of a text, for error messages.
pub fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(77).chain("...".chars()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> FunctionSpec {
        FunctionSpec {
            name: "f".into(),
            kind: Kind::JavaScript,
            main: "main".into(),
            limits: Limits::default(),
            egress: vec!["localhost:80".into()],
            files: vec![],
            env: vec![],
            reuse: Default::default(),
        }
    }

    #[test]
    fn bounds_are_named() {
        check(&spec()).unwrap();
        type Change = fn(&mut FunctionSpec);
        let cases: &[(&str, Change)] = &[
            ("the name", |s| s.name = "a b".into()),
            ("the name", |s| s.name = "x".repeat(257)),
            ("the name", |s| s.name = String::new()),
            ("timeout_ms", |s| s.limits.timeout_ms = 0),
            ("timeout_ms", |s| s.limits.timeout_ms = 600_001),
            ("memory", |s| s.limits.memory = 65_535),
            ("memory", |s| s.limits.memory = u64::MAX),
            ("fuel", |s| s.limits.fuel = Some(0)),
            ("entry point", |s| s.main = "a b".into()),
            ("entry point", |s| s.main = "a..b".into()),
            ("egress", |s| s.egress = vec!["localhost".into()]),
            ("egress", |s| s.egress = vec!["a:99999".into()]),
            ("absolute", |s| {
                s.files = vec![teemate_control::function::VerifiedFile { path: "/a/../b".into(), sha256: [0; 32], length: 1 }]
            }),
            ("environment", |s| s.env = vec![("A=B".into(), String::new())]),
        ];
        for (word, change) in cases {
            let mut changed = spec();
            change(&mut changed);
            let failure = check(&changed).unwrap_err();
            assert!(failure.message.contains(word), "{word}: {failure}");
        }
    }

    #[test]
    fn a_calls_variables_come_before_its_functions() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let (function, call) = ([pair("a", "1"), pair("b", "2")], [pair("b", "3"), pair("c", "4")]);
        assert_eq!(environment(&function, &call).collect::<Vec<_>>(), [("a", "1"), ("b", "3"), ("c", "4")]);
        assert!(check_env(&[pair("a=", "")], "x").is_err());
        assert!(check_env(&vec![pair("a", ""); 257], "x").is_err());
    }

    #[test]
    fn parameters_are_an_object() {
        for good in ["{}", r#" {"a":[1,{"b":null}]} "#] {
            check_params(good.as_bytes()).unwrap();
        }
        for bad in ["", "[]", "1", "{", "{}{}", "\"a\"", "{\"a\":}"] {
            assert!(check_params(bad.as_bytes()).is_err(), "{bad}");
        }
        // Nested as deep as it likes: nothing here recurses.
        let deep = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
        check_params(deep.as_bytes()).unwrap();
    }
}
