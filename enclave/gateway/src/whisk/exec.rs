//! What an action executes.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use teemate_control::function::Kind;

use super::bundle::{self, Program};
use super::limits::MAX_CODE;
use super::names::Fqn;

/// Kinds that are JavaScript. The versions are Node's, and what an action may count on is what this engine has: see docs/openwhisk.md.
const NODEJS: [&str; 8] = ["nodejs:20", "nodejs:22", "nodejs:18", "nodejs:16", "nodejs:14", "nodejs:12", "nodejs:10", "nodejs:8"];
/// Kinds that are WebAssembly.
const WASM: [&str; 1] = ["wasm:wasip1"];

/// As Java reads base64, which OpenWhisk's clients are used to.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true).with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What an action executes, as it is kept: the code itself is kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exec {
    /// Code of its own.
    Code {
        /// Kind, resolved: never `:default`.
        kind: String,
        /// Whether the code is base64.
        binary: bool,
        /// Entry point.
        main: Option<String>,
        /// SHA-256 of the code as its owner gave it: of the source, or of what the base64 stands for.
        sha256: [u8; 32],
    },
    /// Other actions, one after the other.
    Sequence {
        /// Which.
        components: Vec<Fqn>,
    },
}

/// What a request says that an action shall execute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecPut {
    /// As it is kept.
    pub exec: Exec,
    /// The code as it stands in the request.
    pub code: Option<String>,
}

impl ExecPut {
    /// Reads `exec` of a body.
    ///
    /// # Errors
    /// What is wrong, in OpenWhisk's words where it has any.
    pub fn from_json(value: Value, own: &str) -> Result<Self, String> {
        let Value::Object(mut fields) = value else { return Err("Object expected".to_owned()) };
        let kind = match fields.get("kind") {
            Some(Value::String(kind)) => kind.trim().to_ascii_lowercase(),
            _ => return Err("'kind' must be a string defined in 'exec'".to_owned()),
        };
        if kind == "sequence" {
            return sequence(&fields, own);
        }
        let kind = resolve(&kind)?;
        let main = match fields.get("main") {
            None | Some(Value::Null) => None,
            Some(Value::String(main)) if main.len() <= 256 => Some(main.clone()).filter(|main| !main.is_empty()),
            Some(_) => return Err(format!("if defined, 'main' be a string in 'exec' for '{kind}' actions")),
        };
        let Some(Value::String(code)) = fields.remove("code") else {
            return Err(format!("'code' must be a string or attachment object defined in 'exec' for '{kind}' actions"));
        };
        let binary = is_base64(&code);
        let sha256 = if binary { Sha256::digest(decode(&code)?) } else { Sha256::digest(&code) }.into();
        Ok(ExecPut { exec: Exec::Code { kind: kind.to_owned(), binary, main, sha256 }, code: Some(code) })
    }

    /// Bytes, as OpenWhisk counts them.
    pub fn size(&self) -> usize {
        match &self.exec {
            Exec::Code { main, .. } => self.code.as_ref().map_or(0, String::len) + main.as_ref().map_or(0, String::len),
            Exec::Sequence { components } => components.iter().map(|it| it.full().len()).sum(),
        }
    }
}

fn sequence(fields: &Map<String, Value>, own: &str) -> Result<ExecPut, String> {
    let components = match fields.get("components") {
        Some(Value::Array(components)) => components,
        Some(_) => return Err("'components' must be an array".to_owned()),
        None => return Err("'components' must be defined for sequence kind".to_owned()),
    };
    let components = components.iter().map(|it| Fqn::from_json(it, own)).collect::<Result<_, _>>()?;
    Ok(ExecPut { exec: Exec::Sequence { components }, code: None })
}

fn resolve(kind: &str) -> Result<&'static str, String> {
    let known = NODEJS.into_iter().chain(WASM).find(|known| *known == kind);
    let found = match kind {
        "nodejs" | "nodejs:default" => Some(NODEJS[0]),
        "wasm" | "wasm:default" | "wasm:wasi" => Some(WASM[0]),
        _ => known,
    };
    found.ok_or_else(|| {
        let valid: Vec<String> = NODEJS.into_iter().chain(WASM).chain(["sequence"]).map(|it| format!("'{it}'")).collect();
        let kind: String = kind.chars().take(80).collect();
        format!("The specified runtime '{kind}' is not supported by this platform. Valid values are: {}.", valid.join(", "))
    })
}

/// The kinds, as `GET /` shows them.
pub fn runtimes() -> Value {
    let list = |kinds: &[&str]| -> Value {
        let one = |(index, kind): (usize, &&str)| json!({ "kind": kind, "default": index == 0, "deprecated": false, "attached": true, "requireMain": false });
        kinds.iter().enumerate().map(one).collect()
    };
    json!({ "nodejs": list(&NODEJS), "wasm": list(&WASM) })
}

/// Whether a code is base64: OpenWhisk decides by looking, not by being told.
fn is_base64(code: &str) -> bool {
    let code = code.trim().as_bytes();
    let letters = code.iter().rev().skip_while(|byte| **byte == b'=');
    let padding = code.len() - letters.clone().count();
    !code.is_empty()
        && code.len().is_multiple_of(4)
        && padding <= 2
        && letters.clone().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
}

fn decode(code: &str) -> Result<Vec<u8>, String> {
    BASE64.decode(code.trim()).map_err(|error| format!("'code' is not base64: {error}"))
}

impl Exec {
    /// Kind.
    pub fn kind(&self) -> &str {
        match self {
            Exec::Code { kind, .. } => kind,
            Exec::Sequence { .. } => "sequence",
        }
    }

    /// Whether its code is base64.
    pub fn is_binary(&self) -> bool {
        matches!(self, Exec::Code { binary: true, .. })
    }

    /// The engine that runs it.
    pub fn engine(&self) -> Kind {
        if WASM.contains(&self.kind()) { Kind::Wasm } else { Kind::JavaScript }
    }

    /// As a client sees it.
    pub fn to_json(&self, code: Option<&str>) -> Value {
        match self {
            Exec::Code { kind, binary, main, .. } => {
                let mut exec = json!({ "kind": kind, "binary": binary });
                if let Some(main) = main {
                    exec["main"] = main.as_str().into();
                }
                if let Some(code) = code {
                    exec["code"] = code.into();
                }
                exec
            }
            Exec::Sequence { components } => {
                json!({ "kind": "sequence", "components": components.iter().map(|it| format!("/{}", it.full())).collect::<Vec<_>>() })
            }
        }
    }

    /// What the engine shall run.
    ///
    /// # Errors
    /// What is wrong with the code.
    pub fn program(&self, code: &str) -> Result<Program, String> {
        let Exec::Code { binary, main, .. } = self else { return Err("a sequence has no code of its own".to_owned()) };
        if code.len() > MAX_CODE {
            return Err(format!("the code has {} bytes; the limit is {MAX_CODE}", code.len()));
        }
        let main = main.as_deref();
        match self.engine() {
            Kind::JavaScript if !binary => Ok(Program::Script(bundle::script(code, main))),
            Kind::JavaScript => {
                let bytes = decode(code)?;
                if bundle::is_archive(&bytes) {
                    return bundle::script_of_archive(&bytes, main).map(Program::Script);
                }
                let text = String::from_utf8(bytes).map_err(|_| "the code is neither JavaScript nor a zip archive".to_owned())?;
                Ok(Program::Script(bundle::script(&text, main)))
            }
            Kind::Wasm if !binary => Err("the code of a WebAssembly action is the base64 of a module or of a zip archive".to_owned()),
            Kind::Wasm => {
                let bytes = decode(code)?;
                if bundle::is_archive(&bytes) { bundle::module_of_archive(&bytes).map(Program::Module) } else { Ok(Program::Module(bytes)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn read(value: Value) -> Result<ExecPut, String> {
        ExecPut::from_json(value, "ada")
    }

    #[test]
    fn kinds_are_resolved() {
        for (given, kept) in
            [("nodejs:default", "nodejs:20"), ("nodejs", "nodejs:20"), (" NodeJS:18 ", "nodejs:18"), ("wasm:wasi", "wasm:wasip1")]
        {
            assert_eq!(read(json!({ "kind": given, "code": "x" })).unwrap().exec.kind(), kept);
        }
        let refused = read(json!({ "kind": "python:3", "code": "x" })).unwrap_err();
        assert!(
            refused.starts_with("The specified runtime 'python:3' is not supported by this platform. Valid values are: 'nodejs:20'"),
            "{refused}"
        );
        for bad in [
            json!([]),
            json!({}),
            json!({ "kind": 1 }),
            json!({ "kind": "nodejs:20" }),
            json!({ "kind": "nodejs:20", "code": {} }),
            json!({ "kind": "nodejs:20", "code": "x", "main": [] }),
            json!({ "kind": "sequence" }),
            json!({ "kind": "sequence", "components": ["a"] }),
        ] {
            assert!(read(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn base64_is_found_by_looking() {
        for (code, binary) in [
            ("", false),
            ("abcd", true),
            ("abc", false),
            ("ab==", true),
            ("a===", false),
            (" abcd\n", true),
            ("function main() {}", false),
            ("ab=d", false),
            ("====", false),
        ] {
            assert_eq!(is_base64(code), binary, "{code:?}");
        }
    }

    #[test]
    fn the_digest_is_of_what_the_owner_gave() {
        let digest = |code: &str| match read(json!({ "kind": "nodejs", "code": code })).unwrap().exec {
            Exec::Code { sha256, .. } => sha256,
            Exec::Sequence { .. } => unreachable!(),
        };
        assert_eq!(digest("let a;"), <[u8; 32]>::from(Sha256::digest("let a;")));
        assert_eq!(digest("AAEC"), <[u8; 32]>::from(Sha256::digest([0, 1, 2])));
    }

    #[test]
    fn programs() {
        let module = read(json!({ "kind": "wasm", "code": STANDARD.encode(b"\0asm") })).unwrap();
        assert_eq!(module.exec.program(module.code.as_deref().unwrap()), Ok(Program::Module(b"\0asm".to_vec())));
        let text = read(json!({ "kind": "wasm", "code": "(module)" })).unwrap();
        assert!(text.exec.program("(module)").is_err());
        let zip = STANDARD.encode(bundle::tests::archive(&[("index.js", b"exports.main = () => 1")]));
        let script = read(json!({ "kind": "nodejs", "code": zip })).unwrap();
        assert!(script.exec.is_binary());
        assert!(matches!(script.exec.program(&zip), Ok(Program::Script(source)) if source.contains("exports.main = () => 1")));
    }

    #[test]
    fn sequences_name_their_own_namespace() {
        let put = read(json!({ "kind": "sequence", "components": ["/_/a", "/bob/tools/b"] })).unwrap();
        assert_eq!(put.exec.to_json(None), json!({ "kind": "sequence", "components": ["/ada/a", "/bob/tools/b"] }));
    }
}
